//! Starting on what is whole, and refusing what is not by name.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use std::collections::BTreeMap;

use orch_core::time::Wall;
use orch_proto::store::v1 as record;
use prost::Message as _;

use super::*;
use crate::clock::ManualClock;
use crate::engine::tests::support::{Bench, BlobDir, GatedStore, noops, open};
use crate::store::{Batch, Entity, Key, MemoryStore, Op, Tenant};

const T: Tenant = Tenant::DEFAULT;

/// A store with a run of 45 tasks and a lone one, as a crash leaves it.
async fn left_behind() -> (MemoryStore, Arc<BlobDir>) {
    let bench = Bench::start().await;
    bench.submit(noops(45), "").await;
    bench.submit(noops(1), "").await;
    (bench.store.inner.crash(0), Arc::clone(&bench.blobs))
}

fn start(store: MemoryStore, blobs: &BlobDir) -> Result<Recovered, RecoverError> {
    open(&GatedStore::on(store), blobs, &ManualClock::new(Wall(0)))
}

fn change(store: &MemoryStore, op: Op) {
    let batch = Batch { expect_epoch: store.meta().epoch, ops: vec![op] };
    store.commit(batch).unwrap();
}

fn refused(store: MemoryStore, blobs: &BlobDir) -> String {
    start(store, blobs).map(|_| ()).unwrap_err().to_string()
}

#[tokio::test]
async fn a_start_counts_what_it_found_and_begins_an_epoch() {
    let (store, blobs) = left_behind().await;
    let before = store.meta().epoch;
    let recovered = start(store, &blobs).unwrap();
    assert_eq!(recovered.handle.epoch().0, before + 1);
    let LoadedCounts { live_runs, live_tasks, finished_runs, agents, event_pages } = recovered.counts;
    assert_eq!((live_runs, live_tasks, finished_runs, agents), (2, 46, 0, 0));
    assert!(event_pages >= 1);
}

#[tokio::test]
async fn records_of_no_run_are_refused() {
    let (store, blobs) = left_behind().await;
    change(&store, Op::Put { key: Key::task(T, 77, 0), value: Vec::new() });
    assert!(refused(store, &blobs).starts_with("a task of run 77 is stored, but not the run"));
    let (store, blobs) = left_behind().await;
    change(&store, Op::Put { key: Key::spec_page(T, 77, 0), value: Vec::new() });
    assert!(refused(store, &blobs).starts_with("a spec page of run 77 is stored, but not the run"));
}

#[tokio::test]
async fn a_run_whose_records_are_incomplete_is_refused() {
    let check = async |op: Op, expected: &str| {
        let (store, blobs) = left_behind().await;
        change(&store, op);
        let text = refused(store, &blobs);
        assert!(text.starts_with(expected), "{text}");
    };
    check(Op::Delete { key: Key::spec_page(T, 1, 1) }, "run 1 has 30 task specs, its record says 45").await;
    check(Op::Delete { key: Key::spec_page(T, 1, 0) }, "run 1 has 0 spec pages, its record says 2").await;
    let beyond = record::TaskRecord { state: 2, ..Default::default() }.encode_to_vec();
    check(
        Op::Put { key: Key::task(T, 1, 45), value: beyond },
        "run 1 has 46 task records, its record says 45",
    )
    .await;
    check(Op::Put { key: Key::run(T, 2), value: vec![0xFF] }, "the record of run 2 cannot be decoded").await;
}

#[tokio::test]
async fn unknown_values_are_refused_and_said() {
    let (store, blobs) = left_behind().await;
    let stored = store.get(&Key::run(T, 2)).unwrap().unwrap();
    let stored = record::RunRecord { state: 99, ..record::RunRecord::decode(stored.as_slice()).unwrap() };
    change(&store, Op::Put { key: Key::run(T, 2), value: stored.encode_to_vec() });
    let error = start(store, &blobs).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "run 2 cannot be restored");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "the run's state is 99, which this version does not know");
}

#[tokio::test]
async fn what_is_left_of_a_half_deleted_run_does_not_stop_a_start() {
    let (store, blobs) = left_behind().await;
    let stored = store.get(&Key::run(T, 1)).unwrap().unwrap();
    let mut stored = record::RunRecord::decode(stored.as_slice()).unwrap();
    (stored.state, stored.finished_ms, stored.finished_tick) = (5, 1, 1);
    change(&store, Op::Put { key: Key::run(T, 1), value: stored.encode_to_vec() });
    change(&store, Op::Delete { key: Key::spec_page(T, 1, 0) });
    let recovered = start(store, &blobs).unwrap();
    assert_eq!((recovered.counts.finished_runs, recovered.counts.live_runs), (1, 1));
}

#[tokio::test]
async fn a_lone_task_under_its_own_key_counts_only_where_the_run_has_none_inside() {
    for inside in [true, false] {
        let (store, blobs) = left_behind().await;
        let stored = store.get(&Key::run(T, 2)).unwrap().unwrap();
        let mut stored = record::RunRecord::decode(stored.as_slice()).unwrap();
        let mut task = stored.task.clone().unwrap();
        task.failures = 7;
        if !inside {
            stored.task = None;
        }
        change(&store, Op::Put { key: Key::run(T, 2), value: stored.encode_to_vec() });
        change(&store, Op::Put { key: Key::task(T, 2, 0), value: task.encode_to_vec() });
        let recovered = start(store, &blobs).unwrap();
        let key =
            orch_core::ids::TaskKey { run: orch_core::ids::RunId(2), index: orch_core::ids::TaskIndex(0) };
        let view = recovered.engine.batcher.state().task_record(key).unwrap();
        assert_eq!(view.failures, if inside { 0 } else { 7 });
    }
}

#[tokio::test]
async fn everything_written_is_read_by_the_same_version() {
    let (store, _blobs) = left_behind().await;
    let mut kinds = BTreeMap::new();
    let count = &mut |key: Key, _: &[u8]| {
        let kind = match key.entity().unwrap() {
            Entity::Run { .. } => "run",
            Entity::SpecPage { .. } => "page",
            Entity::Task { .. } => "task",
            Entity::EventPage { .. } => "events",
            other => panic!("{other:?}"),
        };
        *kinds.entry(kind).or_insert(0) += 1;
    };
    store.load_with(count).unwrap();
    assert_eq!((kinds.get("run"), kinds.get("page"), kinds.get("task")), (Some(&2), Some(&2), None));
}
