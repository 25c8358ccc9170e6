//! What an agent must still know after its own death: attempts it took over, and reports the coordinator has
//! not answered. One journal; an entry that is handed to the kernel survives the agent, a synced one survives
//! a power loss.
//!
//! An attempt taken over is not synced: a power loss kills the child as well. A report is sent at once while
//! one sync for all runs beside it, and kept until it was recorded or fenced.
//!
//! ```text
//! (none) ── Accepted ──▶ accepted ── Started ──▶ running ── Finished ──▶ finished ── Settled ──▶ (none)
//!                           └───────────────────── Finished ────────────────▲
//! ```
//!
//! Knows keys and bytes; what the bytes mean is the session's affair.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::runner::AttemptKey;

pub mod file;
pub mod memory;
pub mod record;

/// Something to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An attempt was taken over; `payload` is whatever its owner needs to speak of it later.
    Accepted {
        /// Which.
        key: AttemptKey,
        /// The owner's.
        payload: Vec<u8>,
    },
    /// Its child was started.
    Started {
        /// Which.
        key: AttemptKey,
    },
    /// It was given a runner and nothing of it was started, because the agent is leaving in order.
    PutBack {
        /// Which.
        key: AttemptKey,
    },
    /// It ended.
    Finished {
        /// Which.
        key: AttemptKey,
        /// The report, as it is sent.
        report: Vec<u8>,
    },
    /// Its report was recorded or fenced, or it was refused: nothing more is owed.
    Settled {
        /// Which.
        key: AttemptKey,
    },
    /// The coordinator that was spoken to last.
    Coordinator {
        /// Highest epoch seen.
        epoch: u64,
        /// The cluster.
        cluster: Vec<u8>,
    },
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Taken over; no child was started.
    Accepted,
    /// The child runs, or ran when the agent died.
    Running,
    /// Ended; the report waits to be answered.
    Finished,
}

/// An attempt that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// How far it is.
    pub phase: Phase,
    /// What was given when it was taken over.
    pub payload: Vec<u8>,
    /// The report, once it ended.
    pub report: Option<Vec<u8>>,
}

/// Everything that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    held: BTreeMap<AttemptKey, Held>,
    epoch: u64,
    cluster: Vec<u8>,
}

impl Inventory {
    /// The attempts, in ascending order.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<AttemptKey, Held> {
        &self.held
    }

    /// Highest epoch seen of the cluster.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The cluster that was spoken to last; empty before the first.
    #[must_use]
    pub fn cluster(&self) -> &[u8] {
        &self.cluster
    }

    /// Takes an entry in. Total: an entry that fits nothing changes nothing, an attempt that ended does not
    /// run again, and a report once given stays.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Accepted { key, payload } => {
                self.held.entry(key).or_insert(Held { phase: Phase::Accepted, payload, report: None });
            }
            Entry::Started { key } => {
                if let Some(held) = self.held.get_mut(&key) {
                    held.phase = held.phase.max(Phase::Running);
                }
            }
            Entry::PutBack { key } => {
                if let Some(held) = self.held.get_mut(&key).filter(|held| held.phase == Phase::Running) {
                    held.phase = Phase::Accepted;
                }
            }
            Entry::Finished { key, report } => {
                let held = self.held.entry(key).or_insert(Held {
                    phase: Phase::Finished,
                    payload: Vec::new(),
                    report: None,
                });
                held.phase = Phase::Finished;
                held.report.get_or_insert(report);
            }
            Entry::Settled { key } => drop(self.held.remove(&key)),
            Entry::Coordinator { epoch, cluster } => {
                self.epoch = if cluster == self.cluster { self.epoch.max(epoch) } else { epoch };
                self.cluster = cluster;
            }
        }
    }

    /// Entries that lead to this inventory from an empty one.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::Coordinator { epoch: self.epoch, cluster: self.cluster.clone() }];
        for (&key, held) in &self.held {
            entries.push(Entry::Accepted { key, payload: held.payload.clone() });
            if held.phase == Phase::Running {
                entries.push(Entry::Started { key });
            }
            if let Some(report) = &held.report {
                entries.push(Entry::Finished { key, report: report.clone() });
            }
        }
        entries
    }
}

/// Remembers entries. Not shared: one task owns it.
pub trait Spool: Send + fmt::Debug {
    /// Takes an entry in. It is remembered by this process only until [`Self::flush`].
    fn append(&mut self, entry: Entry);

    /// Hands everything appended to the kernel: it survives this process from now on.
    ///
    /// # Errors
    /// See [`SpoolError`]. The spool must not be used further: what it says and what it holds may differ.
    fn flush(&mut self) -> Result<(), SpoolError>;

    /// The sync that is due: `None` while one is in flight or when nothing was flushed since the last.
    ///
    /// # Errors
    /// See [`SpoolError`].
    fn begin_sync(&mut self) -> Result<Option<SyncJob>, SpoolError>;

    /// The sync ended: another may begin. A sync that failed must not be tried again, because the kernel may
    /// have dropped what it could not write.
    fn end_sync(&mut self);

    /// Everything remembered.
    fn inventory(&self) -> &Inventory;
}

/// One sync, to be run where blocking is allowed.
#[derive(Debug)]
pub struct SyncJob(Option<File>);

impl SyncJob {
    /// Waits until the disk has everything flushed before the job was given.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn run(self) -> io::Result<()> {
        crate::failpoint::failpoint!("spool::before_sync");
        let synced = self.0.map_or(Ok(()), |file| file.sync_data());
        crate::failpoint::failpoint!("spool::after_sync");
        synced
    }
}

/// Why the journal cannot be used.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// It cannot be read or written.
    #[error("cannot {what} the spool {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Something in it was changed after it was written.
    #[error(
        "the spool {} is damaged at byte {at}, which is no torn end: put it back from a copy of the disk, or move it \
         away and start again, which loses the reports in it that the coordinator has not recorded; their tasks are then \
         run again",
        path.display()
    )]
    Damaged {
        /// File.
        path: PathBuf,
        /// Where the damage begins.
        at: u64,
    },
    /// A newer agent wrote it.
    #[error("the spool {} has version {version}, this agent knows {}", path.display(), record::VERSION)]
    Version {
        /// File.
        path: PathBuf,
        /// Version found.
        version: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: AttemptKey = AttemptKey { run: 1, task: 2, attempt: 3 };

    fn after(entries: &[Entry]) -> Inventory {
        let mut inventory = Inventory::default();
        entries.iter().cloned().for_each(|entry| inventory.apply(entry));
        inventory
    }

    fn accepted() -> Entry {
        Entry::Accepted { key: KEY, payload: b"spec".to_vec() }
    }

    fn finished(report: &[u8]) -> Entry {
        Entry::Finished { key: KEY, report: report.to_vec() }
    }

    #[test]
    fn an_attempt_goes_through_its_phases_and_leaves() {
        let started = Entry::Started { key: KEY };
        assert_eq!(after(&[accepted()]).held()[&KEY].phase, Phase::Accepted);
        assert_eq!(after(&[accepted(), started.clone()]).held()[&KEY].phase, Phase::Running);
        let put_back = after(&[accepted(), started.clone(), Entry::PutBack { key: KEY }]);
        assert_eq!(put_back.held()[&KEY].phase, Phase::Accepted);
        let ended = after(&[accepted(), started, finished(b"r")]);
        assert_eq!(
            ended.held()[&KEY],
            Held { phase: Phase::Finished, payload: b"spec".to_vec(), report: Some(b"r".to_vec()) }
        );
        assert!(after(&[accepted(), finished(b"r"), Entry::Settled { key: KEY }]).held().is_empty());
    }

    #[test]
    fn repeated_and_late_entries_change_nothing() {
        let started = Entry::Started { key: KEY };
        let ended =
            after(&[accepted(), finished(b"first"), finished(b"second"), started.clone(), accepted()]);
        assert_eq!(ended.held()[&KEY].phase, Phase::Finished);
        assert_eq!(ended.held()[&KEY].report.as_deref(), Some(&b"first"[..]));
        assert!(after(&[started, Entry::Settled { key: KEY }]).held().is_empty());
    }

    #[test]
    fn the_epoch_never_falls_within_a_cluster() {
        let seen = |epoch, cluster: &[u8]| Entry::Coordinator { epoch, cluster: cluster.to_vec() };
        assert_eq!(after(&[seen(5, b"a"), seen(3, b"a")]).epoch(), 5);
        assert_eq!(after(&[seen(5, b"a"), seen(3, b"b")]).epoch(), 3);
    }

    #[test]
    fn an_inventory_is_rebuilt_from_its_entries() {
        let other = AttemptKey { run: 9, ..KEY };
        let inventory = after(&[
            Entry::Coordinator { epoch: 5, cluster: b"c".to_vec() },
            accepted(),
            Entry::Accepted { key: other, payload: Vec::new() },
            Entry::Started { key: other },
            finished(b"r"),
        ]);
        assert_eq!(after(&inventory.entries()), inventory);
    }
}
