//! A spool that forgets with its process; for tests and for agents that keep nothing.

use super::{Entry, Inventory, Spool, SpoolError, SyncJob};

/// Remembers in memory.
#[derive(Debug, Default)]
pub struct MemorySpool {
    inventory: Inventory,
    dirty: bool,
    syncing: bool,
}

impl Spool for MemorySpool {
    fn append(&mut self, entry: Entry) {
        self.inventory.apply(entry);
        self.dirty = true;
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn begin_sync(&mut self) -> Result<Option<SyncJob>, SpoolError> {
        if self.syncing || !std::mem::take(&mut self.dirty) {
            return Ok(None);
        }
        self.syncing = true;
        Ok(Some(SyncJob(None)))
    }

    fn end_sync(&mut self) {
        self.syncing = false;
    }

    fn inventory(&self) -> &Inventory {
        &self.inventory
    }
}
