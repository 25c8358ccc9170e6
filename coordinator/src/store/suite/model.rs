//! The whole store against a sorted map: random commits, failures and crashes, and after each the same answers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Backend, T};
use crate::store::memory::FailAt;
use crate::store::{Batch, Key, Op, Prefix};

/// One thing that happens to a store.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Op>),
    FailedCommit(Vec<Op>, FailAt),
    Crash(u64),
    Scan { run: u64, after: u32, limit: usize },
}

/// Runs so many random histories on stores made by `make`.
pub(crate) fn check<B: Backend>(histories: u32, make: &dyn Fn() -> B) {
    let config = Config { cases: histories, failure_persistence: None, ..Config::default() };
    let history = prop::collection::vec(step(), 1..20);
    let checked = TestRunner::new(config).run(&history, |history| replay(&mut make(), &history));
    if let Err(failure) = checked {
        panic!("{failure}");
    }
}

fn replay(backend: &mut dyn Backend, history: &[Step]) -> Result<(), TestCaseError> {
    let mut oracle = BTreeMap::new();
    for step in history {
        match step {
            Step::Commit(ops) => {
                commit(backend, ops).map_err(|error| TestCaseError::fail(error.to_string()))?;
                apply(&mut oracle, ops);
            }
            Step::FailedCommit(ops, at) => {
                backend.fail_next(*at);
                let mut after = oracle.clone();
                apply(&mut after, ops);
                if !ops.is_empty() {
                    prop_assert!(commit(backend, ops).is_err());
                }
                backend.crash(0);
                let now = contents(backend);
                let allowed = match at {
                    FailAt::BeforeWrite => now == oracle,
                    FailAt::BeforeSync => now == oracle || now == after,
                    // A large commit has many syncs; the first may be one before the point of no return.
                    FailAt::AfterSync => now == after || (ops.len() > 512 && now == oracle),
                };
                prop_assert!(allowed, "{at:?} left half a commit of {} keys", ops.len());
                oracle = now;
            }
            Step::Crash(seed) => backend.crash(*seed),
            Step::Scan { run, after, limit } => {
                let after = Key::task(T, *run, *after);
                let found = backend.store().scan(&Prefix::tasks(T, *run), Some(&after), *limit).unwrap();
                let expected =
                    oracle.range(after.clone()..Key::task(T, *run + 1, 0)).filter(|(key, _)| **key != after);
                let expected: Vec<_> = expected.take(*limit).map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
    prop_assert!(contents(backend) == oracle);
    backend.crash(1);
    prop_assert!(contents(backend) == oracle);
    Ok(())
}

fn contents(backend: &dyn Backend) -> BTreeMap<Key, Vec<u8>> {
    backend.store().load().unwrap().records.into_iter().collect()
}

fn commit(backend: &dyn Backend, ops: &[Op]) -> Result<(), crate::store::CommitError> {
    let expect_epoch = backend.store().meta().epoch;
    backend.store().commit(Batch { expect_epoch, ops: ops.to_vec() }).map(drop)
}

fn apply(oracle: &mut BTreeMap<Key, Vec<u8>>, ops: &[Op]) {
    for op in ops {
        match op {
            Op::Put { key, value } => drop(oracle.insert(key.clone(), value.clone())),
            Op::Delete { key } => drop(oracle.remove(key)),
            Op::SetTick(_) => {}
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let fail_at = prop_oneof![Just(FailAt::BeforeWrite), Just(FailAt::BeforeSync), Just(FailAt::AfterSync)];
    prop_oneof![
        6 => ops().prop_map(Step::Commit),
        2 => (ops(), fail_at).prop_map(|(ops, at)| Step::FailedCommit(ops, at)),
        2 => any::<u64>().prop_map(Step::Crash),
        2 => (0..3u64, 0..700u32, 0..50usize).prop_map(|(run, after, limit)| Step::Scan { run, after, limit }),
    ]
}

/// Mostly a few keys that are written again and again; sometimes more than fit one batch of the engine.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        8 => prop::collection::vec(op(20, 200), 0..12),
        1 => prop::collection::vec(op(700, 20), 600..900),
        1 => prop::collection::vec(op(40, 4096), 1..30),
    ]
}

fn op(tasks: u32, longest: usize) -> impl Strategy<Value = Op> {
    let key = (0..3u64, 0..tasks).prop_map(|(run, task)| Key::task(T, run, task));
    prop_oneof![
        4 => (key.clone(), any::<u8>(), 0..=longest)
            .prop_map(|(key, byte, len)| Op::Put { key, value: vec![byte; len] }),
        1 => key.prop_map(|key| Op::Delete { key }),
    ]
}
