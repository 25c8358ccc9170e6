//! sled and the file it writes: batches, its flush, our sync. Knows what a batch may hold; refuses to know commits.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use super::{MAX_BATCH_BYTES, MAX_BATCH_KEYS};
use crate::store::changes::{self, Change};
use crate::store::error::Fault;
use crate::store::key::Key;
use crate::store::meta::Meta;
use crate::store::read::RawRange;
use crate::store::{CommitStats, KeyError, Record};

/// How long a flush of sled's lasts before another is begun beside it; each pause is twice the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How the store waits for the disk. A seam: tests count, fail and photograph the disk here.
pub trait Syncer: fmt::Debug + Send + Sync + 'static {
    /// Called before an entry of the journal is written. An error is taken for the disk's.
    ///
    /// # Errors
    /// In tests only.
    fn before_entry(&self) -> io::Result<()> {
        Ok(())
    }

    /// Called before sled is given a batch of `keys` keys. An error is taken for the disk's.
    ///
    /// # Errors
    /// In tests only.
    fn before_batch(&self, keys: usize) -> io::Result<()> {
        let _ = keys;
        Ok(())
    }

    /// Returns when everything written to `file` so far survives a loss of power.
    ///
    /// # Errors
    /// The disk's. It is never tried again.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// `fdatasync`, which also covers the file's length.
#[derive(Debug, Clone, Copy, Default)]
pub struct DataSync;

impl Syncer for DataSync {
    fn sync(&self, file: &File) -> io::Result<()> {
        if crate::failpoint::failpoint!("store::skip_sync", skip) {
            return Ok(());
        }
        crate::failpoint::failpoint!("store::sync", io)?;
        file.sync_data()
    }
}

#[derive(Debug)]
pub(super) struct Disk {
    tree: ::sled::Tree,
    /// Kept open from the start: an error of write-back is reported once to each descriptor that was open then.
    db_file: File,
    syncer: Box<dyn Syncer>,
    /// Behind the tree, which it keeps alive.
    _db: ::sled::Db,
}

impl Disk {
    pub(super) fn new(db: ::sled::Db, db_file: File, syncer: Box<dyn Syncer>) -> Self {
        Self { tree: (*db).clone(), db_file, syncer, _db: db }
    }

    /// How this store waits for the disk.
    pub(super) fn syncer(&self) -> &dyn Syncer {
        &*self.syncer
    }

    /// Shows sled changes of any number, in the fewest batches. After a kill of the process sled has all of the first of
    /// them and nothing of the others.
    pub(super) fn apply(&self, changes: &[Change]) -> Result<(), Fault> {
        let mut batches = batches(changes).peekable();
        while let Some(batch) = batches.next() {
            self.apply_batch(batch)?;
            if batches.peek().is_some() {
                self.sync()?;
                crate::failpoint::failpoint!("settle::after_batch");
            }
        }
        Ok(())
    }

    /// Writes changes that one batch can hold. Durable when it returns `Ok`.
    pub(super) fn write(&self, changes: &[Change]) -> Result<CommitStats, Fault> {
        self.apply_batch(changes)?;
        self.sync()?;
        Ok(changes::cost(changes))
    }

    fn apply_batch(&self, changes: &[Change]) -> Result<(), Fault> {
        debug_assert!(changes.len() <= MAX_BATCH_KEYS, "{} keys in one batch", changes.len());
        self.syncer.before_batch(changes.len()).map_err(Fault::io("write a batch"))?;
        let mut batch = ::sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.as_bytes(), value.as_slice()),
                None => batch.remove(key.as_bytes()),
            }
        }
        self.tree.apply_batch(batch).map_err(engine("write a batch"))
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        crate::failpoint::failpoint!("settle::before_flush");
        self.flush().map_err(engine("flush its log"))?;
        crate::failpoint::failpoint!("settle::before_sync");
        self.syncer.sync(&self.db_file).map_err(Fault::io("sync the log to disk"))
    }

    /// Sled's flush, which alone can wait for ever: when one of its threads cannot write, that is noted where a flush looks
    /// before it waits, but those that wait already are not woken (0.34.7, `Log::exit_reservation`). The next flush finds
    /// the note and wakes them, so others are begun while one lasts.
    fn flush(&self) -> ::sled::Result<usize> {
        let (flushing, ended) = sync_channel::<()>(0);
        thread::scope(|scope| {
            // Without a thread for it the flush is as sled's is. Not on a thread of sled's, which has few.
            let again = move || {
                let mut pause = FIRST_PAUSE;
                while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    drop(flush_thread().spawn_scoped(scope, || drop(self.tree.flush())));
                    pause *= 2;
                }
            };
            drop(flush_thread().spawn_scoped(scope, again));
            let flushed = self.tree.flush();
            drop(flushing);
            flushed
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<::sled::IVec>, Fault> {
        self.tree.get(key.as_bytes()).map_err(engine("read a record"))
    }

    pub(super) fn meta(&self) -> Result<Option<Meta>, Fault> {
        self.get(&Key::meta())?.map(|framed| Meta::decode(&framed)).transpose()
    }

    /// Up to `limit` records of a range, copied out, so that no cursor of sled's stays open.
    pub(super) fn range(&self, range: &RawRange, limit: usize) -> Result<Vec<Record>, Fault> {
        let copied = self.tree.range(range.clone()).take(limit).map(|record| {
            let (key, value) = record.map_err(engine("read records"))?;
            Ok((Key::from_bytes(&key).map_err(|error: KeyError| Fault::Key(error))?, value.to_vec()))
        });
        copied.collect()
    }
}

fn flush_thread() -> thread::Builder {
    thread::Builder::new().name("orch-flush".to_owned())
}

/// Changes in the fewest batches, in order, that keep both bounds. One change always fits.
pub(super) fn batches(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    let mut rest = changes;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(key, value): &&Change| {
            bytes += key.as_bytes().len() + value.as_ref().map_or(0, Vec::len);
            bytes <= MAX_BATCH_BYTES
        };
        let count = rest.iter().take(MAX_BATCH_KEYS).take_while(fits).count();
        let (batch, after) = rest.split_at_checked(count.max(1))?;
        rest = after;
        Some(batch)
    })
}

/// Puts an error of sled's into our words; none of its types go further.
pub(super) fn engine(doing: &'static str) -> impl FnOnce(::sled::Error) -> Fault {
    move |error| match error {
        ::sled::Error::Io(source) => Fault::Io { doing, source },
        other @ (::sled::Error::CollectionNotFound(_)
        | ::sled::Error::Unsupported(_)
        | ::sled::Error::ReportableBug(_)
        | ::sled::Error::Corruption { .. }) => Fault::Engine { doing, detail: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tenant;

    #[test]
    fn a_batch_keeps_both_bounds_and_no_change_is_left_out() {
        let small = |run| (Key::run(Tenant::DEFAULT, run), Some(vec![0; 10]));
        let big = |run| (Key::run(Tenant::DEFAULT, run), Some(vec![0; 4109]));
        let changes: Vec<Change> = (0..600).map(small).chain((600..900).map(big)).collect();
        let found: Vec<&[Change]> = batches(&changes).collect();
        assert_eq!(found.concat(), changes);
        assert_eq!(found[0].len(), MAX_BATCH_KEYS);
        for batch in &found {
            let bytes: usize =
                batch.iter().map(|(key, value)| key.as_bytes().len() + value.as_ref().unwrap().len()).sum();
            assert!(
                batch.len() <= MAX_BATCH_KEYS && bytes <= MAX_BATCH_BYTES,
                "{} keys, {bytes} bytes",
                batch.len()
            );
        }
        assert!(found.len() <= 6, "{} batches", found.len());
        assert_eq!(batches(&[]).count(), 0);
    }
}
