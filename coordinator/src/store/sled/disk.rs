//! The one way bytes reach the disk: a batch, sled's flush, our sync. Nothing is reported written before the sync.

use std::fmt;
use std::fs::File;
use std::io;

use super::MAX_BATCH_KEYS;
use crate::store::changes::{self, Change};
use crate::store::error::Fault;
use crate::store::key::Key;
use crate::store::meta::Meta;
use crate::store::read::RawRange;
use crate::store::{CommitStats, KeyError, Record};

/// How the store waits for the disk. A seam: tests count, fail and photograph the disk here.
pub trait Syncer: fmt::Debug + Send + Sync + 'static {
    /// Called before a batch of `keys` keys is written. An error is taken for the disk's.
    ///
    /// # Errors
    /// In tests only.
    fn before_write(&self, keys: usize) -> io::Result<()> {
        let _ = keys;
        Ok(())
    }

    /// Returns when everything written to `db` so far survives a loss of power.
    ///
    /// # Errors
    /// The disk's. It is never tried again.
    fn sync(&self, db: &File) -> io::Result<()>;
}

/// `fdatasync`, which also covers the file's length.
#[derive(Debug, Clone, Copy, Default)]
pub struct DataSync;

impl Syncer for DataSync {
    fn sync(&self, db: &File) -> io::Result<()> {
        if crate::failpoint::failpoint!("store::skip_sync", skip) {
            return Ok(());
        }
        crate::failpoint::failpoint!("store::sync", io)?;
        db.sync_data()
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

    /// Writes changes, at most [`MAX_BATCH_KEYS`], as one. Durable when it returns `Ok`.
    pub(super) fn write(&self, changes: &[Change]) -> Result<CommitStats, Fault> {
        debug_assert!(changes.len() <= MAX_BATCH_KEYS, "{} keys in one batch", changes.len());
        self.syncer.before_write(changes.len()).map_err(Fault::io("write a batch"))?;
        crate::failpoint::failpoint!("store::write", io).map_err(Fault::io("write a batch"))?;
        let mut batch = ::sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.as_bytes(), value.as_slice()),
                None => batch.remove(key.as_bytes()),
            }
        }
        self.tree.apply_batch(batch).map_err(engine("write a batch"))?;
        self.sync()?;
        Ok(changes::cost(changes))
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        crate::failpoint::failpoint!("commit::before_flush");
        self.tree.flush().map_err(engine("flush its log"))?;
        crate::failpoint::failpoint!("commit::before_sync");
        self.syncer.sync(&self.db_file).map_err(Fault::io("sync the log to disk"))
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
