//! `kill -9` at random moments: every acknowledged commit is there afterwards, whole, and the store opens.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail as the test does")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use orch_coordinator::store::{
    Batch, ClusterId, Entity, EpochStep, Key, Kind, Op, Prefix, SledStore, Store, Tenant,
};

const DIR: &str = "ORCH_TEST_STORE_KILL_DIR";
const CLUSTER: ClusterId = ClusterId([3; 16]);
const T: Tenant = Tenant::DEFAULT;
const RUNS: u64 = 50;
/// More than one batch of the storage engine holds.
const LARGE: u32 = 700;

fn is_large(commit: u64) -> bool {
    commit.is_multiple_of(9)
}

/// What commit number `commit` writes: an event, an update, and sometimes a large set of tasks.
fn ops(commit: u64) -> Vec<Op> {
    let value = commit.to_be_bytes().to_vec();
    let mut ops = vec![
        Op::Put { key: Key::event_page(commit), value: value.clone() },
        Op::Put { key: Key::run(T, commit % RUNS), value: value.clone() },
    ];
    if is_large(commit) {
        let tasks = (0..LARGE).map(|task| Op::Put { key: Key::task(T, 1, task), value: value.clone() });
        ops.extend(tasks);
    }
    ops
}

fn last_event(store: &SledStore) -> u64 {
    let events = Prefix::kind(Tenant::CLUSTER, Kind::EventPage);
    let (mut last, mut count) = (None, 0);
    loop {
        let page = store.scan(&events, last.as_ref(), 1000).unwrap();
        let Some((key, _)) = page.last() else { return count };
        count += page.len() as u64;
        assert_eq!(*key, Key::event_page(count), "no event may be missing");
        last = Some(key.clone());
    }
}

/// Not a test of its own: the process that is killed. Does nothing unless told where.
#[test]
fn child_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = SledStore::open(Path::new(&dir), CLUSTER).unwrap();
    let expect_epoch = store.begin_epoch(EpochStep::Start, 0).unwrap().epoch;
    for commit in last_event(&store) + 1.. {
        store.commit(Batch { expect_epoch, ops: ops(commit) }).unwrap();
        // The harness captures print!, so that only what is written here reaches the parent.
        writeln!(std::io::stdout(), "\nack {commit}").unwrap();
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_commits_until_it_is_killed", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the child after so many acknowledgements, or after a while without looking. Returns the last acknowledgement.
fn run_and_kill(dir: &Path, round: u64) -> u64 {
    let mut child = spawn(dir);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = 0;
    let mut note = |line: String| match line.strip_prefix("ack ") {
        Some(number) => {
            acknowledged = number.parse().unwrap();
            true
        }
        None => false,
    };
    if round.is_multiple_of(2) {
        let mut wanted = round * 7 % 31 + 1;
        while wanted > 0 {
            let line = lines.next().expect("the child goes on until it is killed").unwrap();
            wanted -= u64::from(note(line));
        }
    } else {
        // The delay is the fault: it ends somewhere between exec and the first commits.
        std::thread::sleep(Duration::from_millis(round * 5));
    }
    child.kill().unwrap();
    for line in lines {
        note(line.unwrap());
    }
    child.wait().unwrap();
    acknowledged
}

fn check(dir: &Path, acknowledged: u64) -> u64 {
    let store = SledStore::open(dir, CLUSTER).unwrap();
    let last = last_event(&store);
    assert!(last >= acknowledged, "commit {acknowledged} was acknowledged, the store ends at {last}");
    let number = |value: &[u8]| u64::from_be_bytes(value.try_into().unwrap());
    let mut tasks = 0;
    store
        .load_with(&mut |key, value| {
            if let Ok(Entity::Run { run, .. }) = key.entity() {
                let newest = (0..=last).rev().find(|commit| commit % RUNS == run);
                assert_eq!(Some(number(value)), newest, "run {run} at commit {last}");
            } else if let Ok(Entity::Task { task, .. }) = key.entity() {
                let newest = (1..=last).rev().find(|commit| is_large(*commit));
                assert_eq!(Some(number(value)), newest, "task {task} at commit {last}");
                tasks += 1;
            }
        })
        .unwrap();
    assert_eq!(tasks, if last >= 9 { LARGE } else { 0 }, "half a large commit");
    store.meta().epoch
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let temp = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut epoch) = (0, 0);
    for round in 0..12 {
        acknowledged = run_and_kill(temp.path(), round).max(acknowledged);
        let now = check(temp.path(), acknowledged);
        assert!(now == epoch || now == epoch + 1, "a start raises the epoch once: {epoch} to {now}");
        epoch = now;
    }
    assert!(acknowledged >= 40, "only {acknowledged} commits were acknowledged in all");
    assert!(epoch >= 6);
}
