//! A spool in memory, for tests and simulation. What would outlive its process lies on a [`MemoryDisk`]: what was
//! flushed survives the process, what was synced survives a power loss, and nothing else survives either.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Entry, Inventory, Spool, SpoolError, SyncJob};

/// What outlives a [`MemorySpool`]. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    flushed: Inventory,
    synced: Inventory,
}

impl MemoryDisk {
    /// Loses what was not synced. Says whether there was anything.
    pub fn lose_power(&self) -> bool {
        let mut kept = self.kept();
        let lost = kept.flushed != kept.synced;
        kept.flushed = kept.synced.clone();
        lost
    }

    /// Whether there is anything that a power loss would take.
    #[must_use]
    pub fn is_unsynced(&self) -> bool {
        let kept = self.kept();
        kept.flushed != kept.synced
    }

    /// What a spool that is opened now begins with.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        self.kept().flushed.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Remembers in memory.
#[derive(Debug, Default)]
pub struct MemorySpool {
    disk: MemoryDisk,
    inventory: Inventory,
    /// Appended and not flushed; flushed and not synced.
    unflushed: bool,
    dirty: bool,
    /// What the sync in flight will have made durable.
    syncing: Option<Inventory>,
}

impl MemorySpool {
    /// A spool that goes on with what lies on `disk`.
    #[must_use]
    pub fn open(disk: MemoryDisk) -> Self {
        let inventory = disk.inventory();
        Self { disk, inventory, ..Self::default() }
    }
}

impl Spool for MemorySpool {
    fn append(&mut self, entry: Entry) {
        self.inventory.apply(entry);
        self.unflushed = true;
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        if std::mem::take(&mut self.unflushed) {
            self.disk.kept().flushed = self.inventory.clone();
            self.dirty = true;
        }
        Ok(())
    }

    fn begin_sync(&mut self) -> Result<Option<SyncJob>, SpoolError> {
        if self.syncing.is_some() || !std::mem::take(&mut self.dirty) {
            return Ok(None);
        }
        self.syncing = Some(self.disk.inventory());
        Ok(Some(SyncJob(None)))
    }

    fn end_sync(&mut self) {
        if let Some(synced) = self.syncing.take() {
            self.disk.kept().synced = synced;
        }
    }

    fn inventory(&self) -> &Inventory {
        &self.inventory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::AttemptKey;

    #[test]
    fn a_flush_outlives_the_process_and_a_sync_the_power() {
        let disk = MemoryDisk::default();
        let accept =
            |task| Entry::Accepted { key: AttemptKey { run: 1, task, attempt: 1 }, payload: Vec::new() };
        let mut spool = MemorySpool::open(disk.clone());
        spool.append(accept(0));
        assert_eq!(disk.inventory().held().len(), 0, "nothing is kept before it is flushed");
        spool.flush().unwrap();
        spool.begin_sync().unwrap().unwrap().run().unwrap();
        spool.append(accept(1));
        spool.flush().unwrap();
        assert!(spool.begin_sync().unwrap().is_none(), "one sync at a time");
        spool.end_sync();
        assert_eq!(MemorySpool::open(disk.clone()).inventory().held().len(), 2);
        assert!(disk.lose_power() && !disk.is_unsynced());
        assert_eq!(MemorySpool::open(disk).inventory().held().len(), 1);
    }
}
