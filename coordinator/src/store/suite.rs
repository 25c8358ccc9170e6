//! The promises of [`Store`], one function each, run on every backend.
//!
//! A backend takes part by implementing [`Backend`] and naming itself in `conformance!`. What only one backend
//! promises (files, locks, guards) is tested beside it.

#[cfg(test)]
pub(crate) mod model;

use std::error::Error;
use std::io::BufReader;

use super::memory::FailAt;
use super::{
    Batch, CommitError, EpochStep, Fault, ImportError, Key, Kind, MAX_SCAN, MAX_VALUE_BYTES, Op, Prefix,
    ReadError, Record, Snapshot, Store, Tenant,
};

/// How a check ends: by an assertion, or by an error that should not have been.
pub type Checked = Result<(), Box<dyn Error>>;

/// One store under test, which can be made to fail and to crash.
pub trait Backend {
    /// The store as it is now.
    fn store(&self) -> &dyn Store;

    /// Ends the process that has the store without notice, and starts another on what is left. The seed decides what
    /// becomes of a commit whose outcome is open, where the backend has a choice.
    fn crash(&mut self, seed: u64);

    /// Makes the next commit fail.
    fn fail_next(&self, at: FailAt);

    /// Another store, empty, of the same backend.
    fn another(&self) -> Box<dyn Backend>;
}

/// Defines one test per promise for the backend that `$make` returns, and a model test of so many random histories.
#[cfg(test)]
macro_rules! conformance {
    ($make:expr, histories: $histories:expr) => {
        $crate::store::suite::conformance!($make;
            a_new_store_is_empty_and_at_epoch_zero
            committed_records_outlive_a_crash
            records_come_in_key_order
            the_last_operation_on_a_key_counts
            a_deleted_record_is_gone
            every_start_raises_the_epoch
            a_commit_of_another_epoch_writes_nothing
            the_tick_never_falls
            a_value_over_the_cap_writes_nothing
            a_value_at_the_cap_is_kept
            the_stores_own_keys_are_refused
            a_scan_walks_its_prefix_in_pages
            a_large_commit_is_kept_whole
            a_failed_commit_is_all_or_nothing
            a_failed_large_commit_is_all_or_nothing
            a_store_that_failed_answers_nothing_more
            a_clean_shutdown_is_noted_once
            commits_are_counted
            an_export_comes_back_the_same
            a_damaged_export_is_refused
            an_import_needs_an_empty_store
            records_of_unknown_kinds_are_kept_and_counted
        );
        #[test]
        fn behaves_like_a_sorted_map_through_crashes() {
            $crate::store::suite::model::check($histories, &|| $make);
        }
    };
    ($make:expr; $($promise:ident)*) => {
        $(#[test]
        fn $promise() -> $crate::store::suite::Checked {
            $crate::store::suite::$promise(&mut $make)
        })*
    };
}
#[cfg(test)]
pub(crate) use conformance;

const T: Tenant = Tenant::DEFAULT;

fn put(run: u64, value: &[u8]) -> Op {
    Op::Put { key: Key::run(T, run), value: value.to_vec() }
}

fn delete(run: u64) -> Op {
    Op::Delete { key: Key::run(T, run) }
}

/// Commits under the current epoch.
fn commit(store: &dyn Store, ops: Vec<Op>) -> Result<super::CommitStats, CommitError> {
    store.commit(Batch { expect_epoch: store.meta().epoch, ops })
}

fn records(store: &dyn Store) -> Result<Vec<Record>, Box<dyn Error>> {
    Ok(store.load()?.records)
}

fn exported(store: &dyn Store) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    store.export(&mut bytes)?;
    Ok(bytes)
}

/// See the name.
pub fn a_new_store_is_empty_and_at_epoch_zero(backend: &mut dyn Backend) -> Checked {
    let Snapshot { report, records } = backend.store().load()?;
    assert!(records.is_empty());
    assert_eq!((report.meta.epoch, report.meta.tick, report.meta.clean), (0, 0, false));
    let cluster = report.meta.cluster;
    backend.crash(0);
    assert_eq!(backend.store().load()?.report.meta.cluster, cluster);
    Ok(())
}

/// See the name.
pub fn committed_records_outlive_a_crash(backend: &mut dyn Backend) -> Checked {
    backend.store().begin_epoch(EpochStep::Start, 5)?;
    commit(backend.store(), vec![put(1, b"one")])?;
    commit(backend.store(), vec![put(2, b"two"), put(1, b"changed")])?;
    for seed in 0..2 {
        backend.crash(seed);
        let loaded = backend.store().load()?;
        assert_eq!(
            loaded.records,
            [(Key::run(T, 1), b"changed".to_vec()), (Key::run(T, 2), b"two".to_vec())]
        );
        assert_eq!((loaded.report.meta.epoch, loaded.report.meta.tick), (1, 5));
        assert_eq!(backend.store().get(&Key::run(T, 2))?, Some(b"two".to_vec()));
    }
    Ok(())
}

/// See the name.
pub fn records_come_in_key_order(backend: &mut dyn Backend) -> Checked {
    let store = backend.store();
    let name = Key::name(T, "adhoc")?;
    let keys = [name.clone(), Key::task(T, 1, 7), Key::event_page(3), Key::run(T, 256), Key::run(T, 255)];
    let ops = keys.iter().map(|key| Op::Put { key: key.clone(), value: vec![1] });
    commit(store, ops.collect())?;
    let loaded: Vec<Key> = records(store)?.into_iter().map(|(key, _)| key).collect();
    assert_eq!(loaded, [Key::event_page(3), Key::run(T, 255), Key::run(T, 256), Key::task(T, 1, 7), name]);
    Ok(())
}

/// See the name.
pub fn the_last_operation_on_a_key_counts(backend: &mut dyn Backend) -> Checked {
    let store = backend.store();
    commit(store, vec![put(1, b"a"), delete(1), put(1, b"b"), put(2, b"a"), delete(2)])?;
    assert_eq!(records(store)?, [(Key::run(T, 1), b"b".to_vec())]);
    Ok(())
}

/// See the name.
pub fn a_deleted_record_is_gone(backend: &mut dyn Backend) -> Checked {
    commit(backend.store(), vec![put(1, b"a"), put(2, b"b")])?;
    commit(backend.store(), vec![delete(1), delete(9)])?;
    assert_eq!(backend.store().get(&Key::run(T, 1))?, None);
    backend.crash(0);
    assert_eq!(records(backend.store())?, [(Key::run(T, 2), b"b".to_vec())]);
    Ok(())
}

/// See the name.
pub fn every_start_raises_the_epoch(backend: &mut dyn Backend) -> Checked {
    for epoch in 1..4 {
        assert_eq!(backend.store().begin_epoch(EpochStep::Start, 0)?.epoch, epoch);
        backend.crash(epoch);
        assert_eq!(backend.store().meta().epoch, epoch);
    }
    assert_eq!(backend.store().begin_epoch(EpochStep::Restore, 0)?.epoch, 1_000_003);
    Ok(())
}

/// See the name.
pub fn a_commit_of_another_epoch_writes_nothing(backend: &mut dyn Backend) -> Checked {
    let store = backend.store();
    store.begin_epoch(EpochStep::Start, 0)?;
    for expect_epoch in [0, 2] {
        let refused = store.commit(Batch { expect_epoch, ops: vec![put(1, b"a")] });
        assert!(
            matches!(refused, Err(CommitError::Fenced { expected, actual: 1 }) if expected == expect_epoch)
        );
        assert!(matches!(store.mark_clean(expect_epoch, 0), Err(CommitError::Fenced { .. })));
    }
    assert!(records(store)?.is_empty());
    commit(store, vec![put(1, b"a")])?;
    Ok(())
}

/// See the name.
pub fn the_tick_never_falls(backend: &mut dyn Backend) -> Checked {
    backend.store().begin_epoch(EpochStep::Start, 100)?;
    commit(backend.store(), vec![Op::SetTick(250), put(1, b"a")])?;
    let unchanged = commit(backend.store(), vec![Op::SetTick(200)])?;
    assert_eq!(unchanged, super::CommitStats::default());
    assert_eq!(backend.store().meta().tick, 250);
    backend.crash(0);
    assert_eq!(backend.store().meta().tick, 250);
    assert_eq!(backend.store().begin_epoch(EpochStep::Start, 7)?.tick, 250);
    Ok(())
}

/// See the name.
pub fn a_value_over_the_cap_writes_nothing(backend: &mut dyn Backend) -> Checked {
    let store = backend.store();
    let refused = commit(store, vec![put(1, b"small"), put(2, &[0; MAX_VALUE_BYTES + 1])]);
    assert!(
        matches!(&refused, Err(CommitError::ValueTooLarge { key, bytes: 4097 }) if *key == Key::run(T, 2))
    );
    assert!(records(store)?.is_empty());
    commit(store, vec![put(1, b"small")])?;
    Ok(())
}

/// See the name.
pub fn a_value_at_the_cap_is_kept(backend: &mut dyn Backend) -> Checked {
    let value = vec![0xA5; MAX_VALUE_BYTES];
    commit(backend.store(), vec![put(1, &value), put(2, b"")])?;
    backend.crash(0);
    assert_eq!(backend.store().get(&Key::run(T, 1))?, Some(value));
    assert_eq!(backend.store().get(&Key::run(T, 2))?, Some(Vec::new()));
    Ok(())
}

/// See the name.
pub fn the_stores_own_keys_are_refused(backend: &mut dyn Backend) -> Checked {
    let store = backend.store();
    for key in [Key::meta(), Key::commit_marker()] {
        let put = Op::Put { key: key.clone(), value: Vec::new() };
        for op in [put, Op::Delete { key: key.clone() }] {
            let refused = commit(store, vec![op]);
            assert!(matches!(&refused, Err(CommitError::Reserved { key: named }) if *named == key));
        }
    }
    commit(store, vec![put(1, b"a")])?;
    Ok(())
}

/// See the name.
pub fn a_scan_walks_its_prefix_in_pages(backend: &mut dyn Backend) -> Checked {
    let store = backend.store();
    let tasks = |run, count| (0..count).map(move |task| Key::task(T, run, task));
    let keys = tasks(1, 3).chain(tasks(2, 25)).chain(tasks(3, 3)).chain([Key::run(T, 2), Key::event_page(1)]);
    commit(store, keys.map(|key| Op::Put { value: key.as_bytes().to_vec(), key }).collect())?;
    let prefix = Prefix::tasks(T, 2);
    let mut seen = Vec::new();
    loop {
        let page = store.scan(&prefix, seen.last(), 10)?;
        assert!(page.iter().all(|(key, value)| key.as_bytes() == value));
        let full = page.len() == 10;
        seen.extend(page.into_iter().map(|(key, _)| key));
        if !full {
            break;
        }
    }
    assert_eq!(seen, tasks(2, 25).collect::<Vec<_>>());
    assert!(store.scan(&prefix, Some(&Key::task(T, 9, 0)), 10)?.is_empty());
    assert_eq!(store.scan(&prefix, Some(&Key::run(T, 0)), 1)?.len(), 1, "a start before the prefix");
    assert_eq!(store.scan(&Prefix::everything(), None, MAX_SCAN)?.len(), 33, "none of the store's own");
    assert!(store.scan(&prefix, None, 0)?.is_empty());
    assert!(matches!(store.scan(&prefix, None, MAX_SCAN + 1), Err(ReadError::Limit { asked: 1001 })));
    Ok(())
}

/// 3,000 keys: new ones, changed ones, removed ones and a tick.
fn large_batch() -> Vec<Op> {
    let mut ops: Vec<Op> = (0..2_990).map(|run| put(run, format!("new {run}").as_bytes())).collect();
    ops.extend((10_000..10_009).map(delete));
    ops.push(Op::SetTick(77));
    ops
}

/// What [`large_batch`] is to change and remove.
fn before_large_batch() -> Vec<Op> {
    let mut ops: Vec<Op> = (0..50).map(|run| put(run * 7, b"old")).collect();
    ops.extend((10_000..10_010).map(|run| put(run, b"old")));
    ops
}

/// What is there after [`large_batch`].
fn after_large_batch() -> Vec<Record> {
    let mut records: Vec<_> =
        (0..2_990).map(|run| (Key::run(T, run), format!("new {run}").into_bytes())).collect();
    records.push((Key::run(T, 10_009), b"old".to_vec()));
    records
}

/// See the name.
pub fn a_large_commit_is_kept_whole(backend: &mut dyn Backend) -> Checked {
    commit(backend.store(), before_large_batch())?;
    commit(backend.store(), large_batch())?;
    assert!(records(backend.store())? == after_large_batch());
    backend.crash(0);
    assert!(records(backend.store())? == after_large_batch());
    assert_eq!(backend.store().meta().tick, 77);
    commit(backend.store(), vec![put(1, b"later")])?;
    backend.crash(0);
    assert_eq!(backend.store().get(&Key::run(T, 1))?, Some(b"later".to_vec()));
    Ok(())
}

fn fails_all_or_nothing(backend: &mut dyn Backend, ops: &[Op], after: &[Record]) -> Checked {
    commit(backend.store(), before_large_batch())?;
    let before = records(backend.store())?;
    for (at, seed) in [FailAt::BeforeWrite, FailAt::BeforeSync, FailAt::BeforeSync].into_iter().zip(0..) {
        backend.fail_next(at);
        let failed = commit(backend.store(), ops.to_vec());
        assert!(matches!(failed, Err(CommitError::Fault(_))), "{at:?}: {failed:?}");
        backend.crash(seed);
        let now = records(backend.store())?;
        assert!(now == before || (at == FailAt::BeforeSync && now == after), "{at:?}: half a commit");
        commit(backend.store(), before_large_batch())?;
        commit(backend.store(), (0..10_000).filter(|run| !before_contains(*run)).map(delete).collect())?;
        assert!(records(backend.store())? == before);
    }
    Ok(())
}

fn before_contains(run: u64) -> bool {
    run.is_multiple_of(7) && run < 350
}

/// See the name.
pub fn a_failed_commit_is_all_or_nothing(backend: &mut dyn Backend) -> Checked {
    let mut after: Vec<_> = before_large_batch().into_iter().collect();
    after.extend([put(0, b"changed"), put(1, b"added"), delete(10_000)]);
    let reference = backend.another();
    commit(reference.store(), after)?;
    let after = records(reference.store())?;
    fails_all_or_nothing(backend, &[put(0, b"changed"), put(1, b"added"), delete(10_000)], &after)
}

/// See the name.
pub fn a_failed_large_commit_is_all_or_nothing(backend: &mut dyn Backend) -> Checked {
    fails_all_or_nothing(backend, &large_batch(), &after_large_batch())
}

/// See the name.
pub fn a_store_that_failed_answers_nothing_more(backend: &mut dyn Backend) -> Checked {
    for at in [FailAt::BeforeWrite, FailAt::BeforeSync, FailAt::AfterSync] {
        backend.fail_next(at);
        assert!(matches!(commit(backend.store(), vec![put(1, b"a")]), Err(CommitError::Fault(_))), "{at:?}");
        let store = backend.store();
        assert!(matches!(commit(store, vec![put(2, b"b")]), Err(CommitError::Fault(Fault::Stopped))));
        assert!(matches!(store.begin_epoch(EpochStep::Start, 0), Err(CommitError::Fault(Fault::Stopped))));
        assert!(matches!(store.get(&Key::run(T, 1)), Err(ReadError::Fault(Fault::Stopped))));
        assert!(store.scan(&Prefix::everything(), None, 1).is_err());
        assert!(store.load().is_err());
        assert!(store.export(&mut Vec::new()).is_err());
        assert!(!store.health()?.serving);
        backend.crash(0);
        assert!(backend.store().health()?.serving, "{at:?}");
    }
    assert_eq!(backend.store().get(&Key::run(T, 1))?, Some(b"a".to_vec()), "synced, though nobody was told");
    Ok(())
}

/// See the name.
pub fn a_clean_shutdown_is_noted_once(backend: &mut dyn Backend) -> Checked {
    let epoch = backend.store().begin_epoch(EpochStep::Start, 1)?.epoch;
    backend.store().mark_clean(epoch, 9)?;
    assert!(matches!(commit(backend.store(), vec![put(1, b"a")]), Err(CommitError::Closed)));
    backend.crash(0);
    let meta = backend.store().load()?.report.meta;
    assert_eq!((meta.clean, meta.tick), (true, 9));
    assert!(!backend.store().begin_epoch(EpochStep::Start, 9)?.clean);
    backend.crash(0);
    assert!(!backend.store().meta().clean);
    Ok(())
}

/// See the name.
pub fn commits_are_counted(backend: &mut dyn Backend) -> Checked {
    let store = backend.store();
    let before = store.health()?;
    let stats = commit(store, vec![put(1, b"abc"), put(2, b"d"), delete(3)])?;
    assert_eq!((stats.keys, stats.own_keys, stats.syncs), (3, 1, 1));
    assert!(stats.bytes > 3 * 13, "keys and frames count: {} bytes", stats.bytes);
    assert_eq!(commit(store, Vec::new())?, super::CommitStats::default());
    let after = store.health()?;
    assert_eq!(after.commits, before.commits + 1);
    assert_eq!(after.totals.keys, before.totals.keys + 3);
    assert_eq!(after.last_commit, Some(stats));
    assert_eq!(after.live_records, 2);
    assert!(after.live_bytes > before.live_bytes && after.live_bytes < stats.bytes);
    commit(store, vec![delete(1), delete(2)])?;
    assert_eq!((store.health()?.live_records, store.health()?.live_bytes), (0, 0));
    Ok(())
}

/// See the name.
pub fn an_export_comes_back_the_same(backend: &mut dyn Backend) -> Checked {
    let store = backend.store();
    store.begin_epoch(EpochStep::Start, 1_234)?;
    commit(store, before_large_batch())?;
    commit(store, large_batch())?;
    let first = exported(store)?;
    let mut copy = backend.another();
    let imported = copy.store().import(&mut BufReader::new(first.as_slice()))?;
    assert_eq!(imported.records, 2_991);
    copy.crash(0);
    assert!(exported(copy.store())? == first);
    let (copied, meta) = (copy.store().meta(), store.meta());
    assert_eq!((copied.cluster, copied.epoch, copied.tick), (meta.cluster, meta.epoch, meta.tick));
    assert!(records(copy.store())? == records(store)?);
    assert_eq!(copy.store().begin_epoch(EpochStep::Restore, 0)?.epoch, 1_000_001);
    Ok(())
}

/// See the name.
pub fn a_damaged_export_is_refused(backend: &mut dyn Backend) -> Checked {
    commit(backend.store(), vec![put(1, b"one"), put(2, b"two")])?;
    let whole = exported(backend.store())?;
    let mut damaged = vec![whole.iter().rev().skip(1).rev().copied().collect::<Vec<u8>>(), Vec::new()];
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    damaged.extend((0..lines.len()).map(|left_out| {
        let kept = lines.iter().enumerate().filter(|(line, _)| *line != left_out);
        kept.flat_map(|(_, line)| line.iter().copied()).collect()
    }));
    damaged.push([whole.as_slice(), b"\n"].concat());
    damaged.push(vec![b'x'; 20_000]);
    damaged.extend((0..whole.len()).step_by(7).map(|at| {
        let mut flipped = whole.clone();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 0x10;
        }
        flipped
    }));
    for export in damaged {
        let refused = backend.another().store().import(&mut BufReader::new(export.as_slice()));
        let malformed = matches!(
            refused,
            Err(ImportError::Malformed { .. } | ImportError::Damaged | ImportError::Schema { .. })
        );
        assert!(malformed, "{refused:?} for {:?}", String::from_utf8_lossy(&export));
    }
    Ok(())
}

/// See the name.
pub fn an_import_needs_an_empty_store(backend: &mut dyn Backend) -> Checked {
    commit(backend.store(), vec![put(1, b"one")])?;
    let export = exported(backend.store())?;
    let refused = backend.store().import(&mut BufReader::new(export.as_slice()));
    assert!(matches!(refused, Err(ImportError::NotEmpty)));
    assert_eq!(records(backend.store())?.len(), 1);
    Ok(())
}

/// See the name.
pub fn records_of_unknown_kinds_are_kept_and_counted(backend: &mut dyn Backend) -> Checked {
    let unknown = [&T.get().to_be_bytes()[..], &[0xEE, 1, 2, 3]].concat();
    assert_eq!(Kind::from_byte(0xEE), None);
    let unknown = Key::from_bytes(&unknown)?;
    commit(backend.store(), vec![Op::Put { key: unknown.clone(), value: vec![9] }, put(1, b"one")])?;
    backend.crash(0);
    let loaded = backend.store().load()?;
    assert_eq!((loaded.report.records, loaded.report.unknown), (1, 1));
    assert_eq!(backend.store().scan(&Prefix::everything(), None, 10)?.len(), 1);
    assert_eq!(backend.store().get(&unknown)?, Some(vec![9]));
    let copy = backend.another();
    copy.store().import(&mut BufReader::new(exported(backend.store())?.as_slice()))?;
    assert_eq!(copy.store().get(&unknown)?, Some(vec![9]));
    Ok(())
}
