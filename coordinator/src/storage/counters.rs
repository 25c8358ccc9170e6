//! Ids that a coordinator has given out, and those that are not to be given out again after a restore.
//! Knows which records hold ids; refuses to know what they are ids of.
//!
//! What was given out after a copy was made is not in the copy, and agents still hold it: runs, attempts, numbers that
//! people wrote down. A restore goes on so far above the highest id that it knows of that nothing is used twice.

use std::fs;
use std::io;
use std::path::Path;

use orch_proto::store::v1 as record;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::CopyError;
use crate::store::dir::sync_dir;
use crate::store::{Entity, Key, MAX_SCAN, Prefix, Store};

/// How far runs, numbers and events go on above what is known: far more than is done between two copies.
pub const JUMP: u64 = 1_000_000;
/// How far attempts of a task do: far more than a task is tried between two copies.
pub const ATTEMPT_JUMP: u32 = 1_000;

/// The highest ids of a store, given out or passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Of runs.
    pub run: u64,
    /// Of runs within their names.
    pub number: u64,
    /// Of events.
    pub event: u64,
    /// Of attempts.
    pub attempt: u32,
}

impl Counters {
    /// What the records of `store` say.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn of(store: &dyn Store) -> Result<Self, CopyError> {
        let mut found = Self::default();
        let mut after: Option<Key> = None;
        loop {
            let records = store.scan(&Prefix::everything(), after.as_ref(), MAX_SCAN)?;
            for (key, payload) in &records {
                found.see(key, payload)?;
            }
            let full = records.len() == MAX_SCAN;
            after = records.into_iter().next_back().map(|(key, _)| key);
            if !full {
                return Ok(found);
            }
        }
    }

    /// The higher of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            run: self.run.max(other.run),
            number: self.number.max(other.number),
            event: self.event.max(other.event),
            attempt: self.attempt.max(other.attempt),
        }
    }

    /// The record that keeps a coordinator above these, and above what was given out since.
    #[must_use]
    pub fn raised(self) -> record::CountersRecord {
        record::CountersRecord {
            last_run: self.run.saturating_add(JUMP),
            last_number: self.number.saturating_add(JUMP),
            last_event: self.event.saturating_add(JUMP),
            last_attempt: self.attempt.saturating_add(ATTEMPT_JUMP),
        }
    }

    fn see(&mut self, key: &Key, payload: &[u8]) -> Result<(), CopyError> {
        // A kind that this version does not know holds no id that it gives out.
        let Ok(entity) = key.entity() else { return Ok(()) };
        let seen = match entity {
            Entity::Run { run, .. } => {
                let stored = record::RunRecord::decode(payload)?;
                let attempt = stored.task.map_or(0, |task| task.attempt);
                Self { run, number: stored.number, attempt, event: 0 }
            }
            Entity::Task { run, .. } => {
                Self { run, attempt: record::TaskRecord::decode(payload)?.attempt, ..Self::default() }
            }
            Entity::Name { .. } => {
                let stored = record::NameRecord::decode(payload)?;
                Self { run: stored.last_run, number: stored.last_number, ..Self::default() }
            }
            Entity::EventPage { .. } => {
                let page = record::EventPage::decode(payload)?;
                Self { event: page.events.last().map_or(0, |event| event.seq), ..Self::default() }
            }
            Entity::Counters => {
                let stored = record::CountersRecord::decode(payload)?;
                Self {
                    run: stored.last_run,
                    number: stored.last_number,
                    event: stored.last_event,
                    attempt: stored.last_attempt,
                }
            }
            Entity::SpecPage { run, .. } => Self { run, ..Self::default() },
            Entity::Agent { .. }
            | Entity::Worker { .. }
            | Entity::Request { .. }
            | Entity::Budget { .. }
            | Entity::Cache { .. }
            | Entity::Audit { .. }
            | Entity::LedgerPage { .. }
            | Entity::StoreOwned => Self::default(),
        };
        *self = self.max(seen);
        Ok(())
    }
}

/// Name of the note below the data directory.
const NOTE: &str = "raised.json";

/// How far the restores of a data directory have gone, noted beside the store: a store that is damaged cannot say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Raised {
    /// Epoch.
    pub epoch: u64,
    run: u64,
    number: u64,
    event: u64,
    attempt: u32,
}

impl Raised {
    /// What a restored store begins with.
    #[must_use]
    pub fn new(epoch: u64, floors: &record::CountersRecord) -> Self {
        let &record::CountersRecord { last_run: run, last_number: number, last_event: event, last_attempt } =
            floors;
        Self { epoch, run, number, event, attempt: last_attempt }
    }

    /// What was noted; nothing where no restore ever was. One that cannot be read says nothing.
    #[must_use]
    pub fn noted(root: &Path) -> Self {
        let bytes = fs::read(root.join(NOTE)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Notes it, durably.
    ///
    /// # Errors
    /// The operating system's.
    pub fn note(&self, root: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(root)?;
        serde_json::to_writer(&mut file, self)?;
        file.as_file().sync_all()?;
        file.persist(root.join(NOTE)).map_err(|error| error.error)?;
        sync_dir(root)
    }

    /// The ids.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        Counters { run: self.run, number: self.number, event: self.event, attempt: self.attempt }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, EpochStep, MemoryStore, Op, Tenant};

    const T: Tenant = Tenant::DEFAULT;

    #[test]
    fn the_highest_id_of_any_record_counts_and_a_second_restore_goes_on_above_the_first() {
        let store = MemoryStore::new();
        store.begin_epoch(EpochStep::Start, 1).unwrap();
        let put = |key: Key, value: Vec<u8>| Op::Put { key, value };
        let task = |attempt| record::TaskRecord { attempt, ..Default::default() };
        let run = record::RunRecord { number: 12, task: Some(task(3)), ..Default::default() };
        let name = record::NameRecord { last_number: 40, last_run: 8 };
        let mut page = record::EventPage::default();
        page.events.push(orch_proto::v1::WatchEvent { seq: 70, ..Default::default() });
        let ops = vec![
            put(Key::run(T, 5), run.encode_to_vec()),
            put(Key::task(T, 6, 0), task(2).encode_to_vec()),
            put(Key::name(T, "gone").unwrap(), name.encode_to_vec()),
            put(Key::event_page(60), page.encode_to_vec()),
        ];
        store.commit(Batch { expect_epoch: 1, ops }).unwrap();
        let found = Counters::of(&store).unwrap();
        assert_eq!(found, Counters { run: 8, number: 40, event: 70, attempt: 3 });
        let raised = found.raised();
        assert_eq!((raised.last_run, raised.last_attempt), (1_000_008, 1_003));
        let ops = vec![put(Key::counters(), raised.encode_to_vec())];
        store.commit(Batch { expect_epoch: 1, ops }).unwrap();
        let again = Counters::of(&store).unwrap().raised();
        assert_eq!((again.last_number, again.last_event, again.last_attempt), (2_000_040, 2_000_070, 2_003));
    }
}
