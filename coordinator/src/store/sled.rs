//! The store on sled 0.34.7: a data format that is old and known, used only in the ways that were found safe.
//!
//! A commit is durable once it stands in a journal of our own, and is read from memory until a thread behind has brought
//! it to sled, many commits at a time. No sled type leaves this module. The rules, each with a test:
//!
//! | Rule | Why | Where |
//! |---|---|---|
//! | a commit is written to the journal and synced before anybody is told, sled included | sled's flush takes several times as long; and a commit of any size is whole after a crash | `journal.rs` |
//! | the journal keeps a commit until sled has it flushed and synced | sled alone would be behind after a crash | `layers.rs` |
//! | one thread writes to sled | several were seen to hang it | `layers.rs` |
//! | our own `sync_data` on our own descriptor of `db` after every flush | sled's flush is `sync_file_range`: neither the file's length nor the drive's cache | `disk.rs` |
//! | `apply_batch` on one tree; no `transaction`, no `flush_async`, no timer | each of them deadlocks or hides errors | `disk.rs` |
//! | at most [`MAX_BATCH_KEYS`] keys and [`MAX_BATCH_BYTES`] a batch, more in several with a sync between | a large one takes far more memory than it has content, and spans segments that may be reused | `disk.rs` |
//! | values of at most 4 KiB | larger leaves go to files that sled never syncs | `changes.rs` |
//! | `snap.*.generating` removed before opening | a torn one is taken for the newest index and bricks the store | `guards.rs` |
//! | on `Corruption` the index snapshots are moved aside, and one more try | the log alone is enough to rebuild them | `guards.rs` |
//! | the number of the last commit is kept beside sled and compared when opening | sled takes a damaged message for the end of its log and goes on without the rest | `anchor.rs` |
//! | any error stops the store for good | sled remembers some errors and forgets others | `gate.rs` |
//!
//! sled does not look at a value's meaning and neither does this module; framing and checks are those of every backend.

#[cfg(any(test, feature = "test-util"))]
pub mod age;
mod ahead;
mod anchor;
mod disk;
mod gate;
mod guards;
mod journal;
mod layers;
mod moment;
mod recover;
mod settler;
mod version;

use std::io::{BufRead, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::anchor::Anchor;
pub use self::disk::{DataSync, Syncer};
use self::gate::Gate;
use self::journal::Journal;
use self::layers::Layers;
use self::moment::{Before, Moment};
use self::recover::{Accept, Files};
use self::settler::Settler;
use super::changes::{self, Change};
use super::dir::{self, DirLock, DiskSpace};
use super::error::{CommitError, ExportError, Fault, ImportError, LoadError, OpenError, ReadError};
use super::key::{Key, Prefix};
use super::meta::{ClusterId, Meta};
use super::read::{self, Records as _};
use super::tally::Tally;
use super::transfer::{self, TransferReport};
use super::{Batch, CommitStats, EpochStep, Health, LoadReport, Record, Recovery, Store};

/// Most keys in one sled batch, the store's own included. One of 2,048 was seen to take 1.8 GB.
pub const MAX_BATCH_KEYS: usize = 512;

/// Most bytes in one sled batch, keys and framed values: three quarters of a segment of its log. A batch that spans several
/// segments is whole after a crash only if none of them was reused meanwhile, so none does.
pub const MAX_BATCH_BYTES: usize = 384 << 10;

/// sled keeps up to ten times this in memory. The live set is small and cold records are read once.
const CACHE_BYTES: u64 = 16 << 20;

/// See the [module documentation](self).
#[derive(Debug)]
pub struct SledStore {
    dir: PathBuf,
    /// Dropped before anything that it uses.
    _settler: Settler,
    layers: Arc<Layers>,
    anchor: Anchor,
    gate: Arc<Gate>,
    recovered: Recovery,
    /// The current meta; locked by the one commit under way.
    writer: Mutex<Meta>,
    /// Locked after the writer.
    journal: Mutex<Journal>,
    /// Held by the one export under way.
    exporting: Mutex<()>,
    /// What that must not see; locked after the writer.
    before: Mutex<Option<Before>>,
    figures: Mutex<Figures>,
    _lock: DirLock,
}

#[derive(Debug, Default)]
struct Figures {
    tally: Tally,
    commits: u64,
    totals: CommitStats,
    last_commit: Option<CommitStats>,
}

impl SledStore {
    /// Opens the store in `dir`, or makes one there for a cluster named `new_cluster`, and mends what a crash left.
    ///
    /// # Errors
    /// [`OpenError`]; what to do about it is in its text.
    pub fn open(dir: &Path, new_cluster: ClusterId) -> Result<Self, OpenError> {
        Self::open_with(dir, new_cluster, Box::new(DataSync))
    }

    /// As [`SledStore::open`], with another way to wait for the disk.
    ///
    /// # Errors
    /// As [`SledStore::open`].
    pub fn open_with(dir: &Path, new_cluster: ClusterId, syncer: Box<dyn Syncer>) -> Result<Self, OpenError> {
        Self::open_as(dir, new_cluster, syncer, Accept::Current)
    }

    fn open_as(
        dir: &Path,
        new_cluster: ClusterId,
        syncer: Box<dyn Syncer>,
        accept: Accept,
    ) -> Result<Self, OpenError> {
        dir::create_private(dir).map_err(Fault::io("create the store's directory"))?;
        let lock = DirLock::take(dir)?;
        let mut recovered = Recovery::default();
        let disk = guards::open(dir, syncer, &mut recovered)?;
        let anchor = Anchor::open(dir)?;
        let mut journal = Journal::open(dir)?;
        let files = Files { dir, disk: &disk, anchor: &anchor };
        let meta = files.recover(&mut journal, (new_cluster, accept), &mut recovered)?;
        if accept == Accept::Current {
            version::note(dir).map_err(Fault::io("note the version beside the store"))?;
        }
        let (layers, gate) = (Arc::new(Layers::new(disk)), Arc::new(Gate::default()));
        let settler = Settler::start(Arc::clone(&layers), Arc::clone(&gate));
        Ok(Self {
            dir: dir.to_owned(),
            _settler: settler.map_err(Fault::io("start the store's thread"))?,
            layers,
            anchor,
            gate,
            recovered,
            writer: Mutex::new(meta),
            journal: Mutex::new(journal),
            exporting: Mutex::default(),
            before: Mutex::default(),
            figures: Mutex::new(Figures { tally: meta.tally, ..Figures::default() }),
            _lock: lock,
        })
    }

    /// Opens a store of an older schema, only to export it.
    ///
    /// # Errors
    /// As [`SledStore::open`]; [`OpenError::Damaged`] when there is nothing to export.
    pub fn open_older(dir: &Path) -> Result<Self, OpenError> {
        Self::open_as(dir, ClusterId([0; 16]), Box::new(DataSync), Accept::Older)
    }

    /// The writer's place; only one commit is ever under way.
    fn writer(&self) -> Result<MutexGuard<'_, Meta>, Fault> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.gate.refuse_if_stopped().map_err(|fault| self.gate.why(fault))?;
        Ok(writer)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn before(&self) -> MutexGuard<'_, Option<Before>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes checked changes durable. Anything but success stops the store.
    fn write(
        &self,
        current: &mut Meta,
        mut changes: Vec<Change>,
        mut meta: Meta,
    ) -> Result<CommitStats, Fault> {
        let under_way = self.gate.begin();
        changes::settle(&mut changes, &mut meta, &*self.layers)?;
        if let Some(before) = self.before().as_mut() {
            before.note(&changes, &self.layers)?;
        }
        let stats = changes::cost(&changes);
        let mut journal = self.journal();
        journal.append(meta.commits, &changes, self.layers.disk().syncer())?;
        crate::failpoint::failpoint!("journal::after_sync");
        self.layers.note(changes);
        let full = journal.is_full() || crate::failpoint::failpoint!("journal::full", skip);
        if full && self.layers.leave(journal.is_overfull()).map_err(|fault| self.gate.why(fault))? {
            journal.turn()?;
        }
        drop(journal);
        crate::failpoint::failpoint!("store::before_anchor");
        self.anchor.record(meta.commits)?;
        *current = meta;
        under_way.durable();
        let mut figures = self.figures();
        figures.tally = meta.tally;
        figures.commits += 1;
        figures.totals += stats;
        figures.last_commit = Some(stats);
        Ok(stats)
    }

    /// Brings everything to sled. Nobody may commit meanwhile.
    fn settle(&self) -> Result<(), Fault> {
        let mut journal = self.journal();
        if self.layers.leave(true)? {
            self.layers.wait_until_left()?;
            journal.turn()?;
        }
        Ok(())
    }

    fn fill(&self, current: &mut Meta, from: &mut dyn BufRead) -> Result<TransferReport, ImportError> {
        // The numbers of its commits do not go on from those of the journal, which is to be out of date by then.
        self.settle()?;
        let disk = self.layers.disk();
        let mut reader = transfer::Reader::open(from)?;
        let mut meta = reader.meta();
        let unfinished = Meta { importing: true, ..meta };
        disk.write(&[changes::of_meta(&unfinished)])?;
        loop {
            let changes = reader.next_changes(MAX_BATCH_KEYS)?;
            if changes.is_empty() {
                break;
            }
            disk.apply(&changes)?;
            disk.sync()?;
            crate::failpoint::failpoint!("import::after_step");
        }
        crate::failpoint::failpoint!("import::before_seal");
        meta.tally = reader.tally();
        meta.commits = current.commits + 1;
        disk.write(&[changes::of_meta(&meta)])?;
        self.anchor.record(meta.commits)?;
        *current = meta;
        self.figures().tally = meta.tally;
        Ok(reader.report())
    }
}

impl Store for SledStore {
    fn meta(&self) -> Meta {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_with(&self, visit: &mut dyn FnMut(Key, &[u8])) -> Result<LoadReport, LoadError> {
        let current = self.writer()?;
        Ok(read::load(&*self.layers, *current, self.recovered, visit)?)
    }

    fn begin_epoch(&self, step: EpochStep, tick: u64) -> Result<Meta, CommitError> {
        let mut current = self.writer()?;
        let meta = current.begun(step, tick);
        crate::failpoint::failpoint!("store::before_epoch");
        self.write(&mut current, Vec::new(), meta)?;
        crate::failpoint::failpoint!("store::after_epoch");
        Ok(meta)
    }

    fn commit(&self, batch: Batch) -> Result<CommitStats, CommitError> {
        let mut current = self.writer()?;
        let (changes, meta) = changes::check(batch, &current)?;
        if changes.is_empty() && meta == *current {
            return Ok(CommitStats::default());
        }
        Ok(self.write(&mut current, changes, meta)?)
    }

    fn mark_clean(&self, expect_epoch: u64, tick: u64) -> Result<(), CommitError> {
        let mut current = self.writer()?;
        let meta = changes::closed(&current, expect_epoch, tick)?;
        self.write(&mut current, Vec::new(), meta)?;
        // So that the next start has nothing to mend.
        self.settle().map_err(|fault| self.gate.why(fault))?;
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, ReadError> {
        self.gate.read(|| {
            let framed = self.layers.get(key)?;
            Ok(framed.map(|framed| read::payload(key, &framed).map(<[u8]>::to_vec)).transpose()?)
        })
    }

    fn scan(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<Record>, ReadError> {
        self.gate.read(|| read::scan(&*self.layers, prefix, after, limit))
    }

    fn export(&self, to: &mut dyn Write) -> Result<TransferReport, ExportError> {
        let (moment, meta) = Moment::new(self)?;
        transfer::export(&moment, &meta, to)
    }

    fn import(&self, from: &mut dyn BufRead) -> Result<TransferReport, ImportError> {
        let mut current = self.writer()?;
        let everything = (Bound::Unbounded, Bound::Unbounded);
        if self.layers.page(&everything, 2)?.len() > 1 {
            return Err(ImportError::NotEmpty);
        }
        let under_way = self.gate.begin();
        let report = self.fill(&mut current, from)?;
        under_way.durable();
        Ok(report)
    }

    fn health(&self) -> Result<Health, ReadError> {
        let space = DiskSpace::of(&self.dir).map_err(Fault::io("ask for free disk space"))?;
        let bytes_on_disk = dir::disk_usage(&self.dir).map_err(Fault::io("measure the store's files"))?;
        let figures = self.figures();
        Ok(Health {
            serving: self.gate.refuse_if_stopped().is_ok(),
            bytes_on_disk,
            live_records: figures.tally.records,
            live_bytes: figures.tally.bytes,
            free_disk_percent: space.free_percent(),
            disk_is_low: space.is_low(),
            free_disk_bytes: space.available,
            commits: figures.commits,
            totals: figures.totals,
            last_commit: figures.last_commit,
        })
    }
}

#[cfg(test)]
mod tests;
