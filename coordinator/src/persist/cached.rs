//! The index of recorded results that the same work may use again: what a result adds to it, and what is dropped from it.
//! Knows digests of work and the tasks behind them; refuses to know whether a result is used, and what the work is.
//!
//! The index is written by the committer alone and holds no blob: an entry whose run is deleted says nothing any more. Such
//! entries are dropped when their record is met, and every write looks at a few neighbours too. Keys are digests, so that
//! neighbours are any records: at most some fifth of the index is ever dead.

use orch_core::state::{TaskRecordView, TaskState};
use orch_proto::store::v1 as record;
use orch_proto::v1;
use prost::Message as _;

use super::Draft;
use super::draft::DraftError;
use crate::store::{Key, Kind, Op, Prefix, Store, Tenant};

/// Most results under one digest: as many as an assignment offers.
pub(crate) const MAX_ENTRIES: usize = 8;
/// Records behind the written one that are looked at.
const NEIGHBOURS: usize = 4;

/// What the result in `payload` adds to the index; nothing unless it counts and says where it may be found again.
pub(crate) fn note(view: &TaskRecordView<'_>, payload: Option<&[u8]>) -> Option<Draft> {
    if !matches!(view.state, TaskState::Succeeded | TaskState::Verifying) {
        return None;
    }
    let result = record::ResultRecord::decode(payload?).ok()?;
    let digest = <[u8; 32]>::try_from(result.cache_key.as_slice()).ok()?;
    let entry = record::CacheEntry {
        task: Some(v1::TaskId { run_id: view.key.run.0, task_index: view.key.index.0 }),
        attempt: view.attempt.0,
        tree: result.tree,
        recorded_ms: view.attempts.last().map_or(0, |last| last.finished.0),
    };
    Some(Draft::Cached { key: Key::cache(Tenant::new(view.tenant.0), &digest), entry })
}

/// Puts `entry` first under `key`, in place of one that saw the same workspace.
pub(super) fn fill(
    store: &dyn Store,
    key: Key,
    entry: record::CacheEntry,
    ops: &mut Vec<Op>,
) -> Result<(), DraftError> {
    let tenant = key.tenant();
    let before = super::draft::read::<record::CacheRecord>(store, &key)?.unwrap_or_default();
    let mut entries = vec![entry];
    for known in before.entries {
        if entries.len() < MAX_ENTRIES
            && entries.iter().all(|newer| newer.tree != known.tree)
            && is_kept(store, tenant, &known)?
        {
            entries.push(known);
        }
    }
    drop_dead(store, &key, ops)?;
    ops.push(Op::Put { key, value: record::CacheRecord { entries }.encode_to_vec() });
    Ok(())
}

/// Deletes records behind `key` that say nothing any more.
fn drop_dead(store: &dyn Store, key: &Key, ops: &mut Vec<Op>) -> Result<(), DraftError> {
    let unread = |source| DraftError::Read { key: key.clone(), source };
    let all = Prefix::kind(key.tenant(), Kind::Cache);
    for (neighbour, payload) in store.scan(&all, Some(key), NEIGHBOURS).map_err(unread)? {
        let decoded = record::CacheRecord::decode(payload.as_slice());
        let known = decoded.map_err(|source| DraftError::Malformed { key: neighbour.clone(), source })?;
        let mut dead = true;
        for entry in &known.entries {
            dead = dead && !is_kept(store, key.tenant(), entry)?;
        }
        // Should the same batch write it, too, one result is forgotten that could have been used.
        if dead {
            ops.push(Op::Delete { key: neighbour });
        }
    }
    Ok(())
}

fn is_kept(store: &dyn Store, tenant: Tenant, entry: &record::CacheEntry) -> Result<bool, DraftError> {
    let Some(task) = entry.task else { return Ok(false) };
    let key = Key::run(tenant, task.run_id);
    let found = store.get(&key).map_err(|source| DraftError::Read { key, source })?;
    Ok(found.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, MemoryStore};

    const T: Tenant = Tenant::DEFAULT;

    fn entry(run: u64, tree: u8) -> record::CacheEntry {
        let task = Some(v1::TaskId { run_id: run, task_index: 0 });
        record::CacheEntry { task, attempt: 1, tree: vec![tree; 32], recorded_ms: 5 }
    }

    fn write(store: &MemoryStore, digest: u8, entry: record::CacheEntry) -> Vec<u64> {
        let mut ops = Vec::new();
        Draft::Cached { key: Key::cache(T, &[digest; 32]), entry }.fill(store, &mut ops).unwrap();
        store.commit(Batch { expect_epoch: 0, ops }).unwrap();
        stored(store, digest).unwrap()
    }

    fn stored(store: &MemoryStore, digest: u8) -> Option<Vec<u64>> {
        let payload = store.get(&Key::cache(T, &[digest; 32])).unwrap()?;
        let known = record::CacheRecord::decode(payload.as_slice()).unwrap();
        Some(known.entries.iter().map(|entry| entry.task.unwrap().run_id).collect())
    }

    fn with_runs(runs: std::ops::Range<u64>) -> MemoryStore {
        let store = MemoryStore::new();
        let ops = runs.map(|run| Op::Put { key: Key::run(T, run), value: Vec::new() }).collect();
        store.commit(Batch { expect_epoch: 0, ops }).unwrap();
        store
    }

    fn delete_run(store: &MemoryStore, run: u64) {
        let ops = vec![Op::Delete { key: Key::run(T, run) }];
        store.commit(Batch { expect_epoch: 0, ops }).unwrap();
    }

    #[test]
    fn the_newest_result_for_each_state_of_the_workspace_comes_first_and_eight_are_kept() {
        let store = with_runs(1..20);
        assert_eq!(write(&store, 1, entry(1, 7)), [1]);
        assert_eq!(write(&store, 1, entry(2, 8)), [2, 1]);
        assert_eq!(write(&store, 1, entry(3, 7)), [3, 2], "the same workspace: the newer one is enough");
        for run in 4..15 {
            write(&store, 1, entry(run, 20 + u8::try_from(run).unwrap()));
        }
        assert_eq!(stored(&store, 1).unwrap(), (7..15).rev().collect::<Vec<_>>());
        let largest = store.get(&Key::cache(T, &[1; 32])).unwrap().unwrap();
        assert!(largest.len() < 1_024, "{}", largest.len());
    }

    #[test]
    fn entries_of_deleted_runs_go_when_they_are_met_and_neighbours_with_them() {
        let store = with_runs(1..10);
        write(&store, 1, entry(1, 1));
        write(&store, 2, entry(2, 1));
        write(&store, 3, entry(2, 1));
        write(&store, 3, entry(3, 2));
        delete_run(&store, 1);
        delete_run(&store, 2);
        assert_eq!(write(&store, 1, entry(4, 2)), [4]);
        assert_eq!((stored(&store, 2), stored(&store, 3)), (None, Some(vec![3, 2])));
    }
}
