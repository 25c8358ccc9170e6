//! What was found in the storage engine's source, as short tests of the store that is built on it: none of it may come
//! back. The store's own tests hold those that need its inside: a torn index snapshot that bricks without the guard, and
//! the number of keys in a batch.

use orch_coordinator::store::{Batch, ClusterId, EpochStep, Key, Op, SledStore, Store as _, Tenant};
use orch_tests::budget::figures;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

const THREADS: usize = 16;
const COMMITS: usize = 20;
/// Far beyond what it takes; a hang is for ever.
const LIMIT: Duration = Duration::from_secs(60);

/// Flushes that meet hang the storage engine for ever: the store lets one through at a time.
#[test]
fn many_threads_that_commit_and_read_at_once_all_come_back() {
    let temp = tempfile::tempdir().expect("a directory");
    let store = Arc::new(SledStore::open(temp.path(), ClusterId([6; 16])).expect("the store opens"));
    let expect_epoch = store.begin_epoch(EpochStep::Start, 0).expect("an epoch").epoch;
    let (done, finished) = sync_channel(THREADS);
    let started = Instant::now();
    for thread in 0..THREADS {
        let (store, done) = (Arc::clone(&store), done.clone());
        std::thread::spawn(move || {
            for commit in 0..COMMITS {
                let key = Key::run(Tenant::DEFAULT, (thread * COMMITS + commit) as u64);
                let ops = vec![Op::Put { key: key.clone(), value: vec![7; 100] }];
                store.commit(Batch { expect_epoch, ops }).expect("a commit");
                assert!(store.get(&key).expect("a read").is_some(), "what was committed is read");
            }
            done.send(()).expect("somebody waits");
        });
    }
    for _ in 0..THREADS {
        let left = LIMIT.saturating_sub(started.elapsed());
        finished.recv_timeout(left).expect("every thread comes back");
    }
    let records = store.load().expect("the store is whole").records.len();
    assert_eq!(records, THREADS * COMMITS);
    figures(
        "many_threads_that_commit",
        &format!("{records} commits of {THREADS} threads, {} ms", started.elapsed().as_millis()),
    );
}
