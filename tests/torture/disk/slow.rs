//! A disk that takes five seconds for each sync: everything is late and nothing is wrong.

use super::load::AGENT;
use super::mount::{Kind, LoopFs};
use super::shim::{Fault, Shim, borrowed};
use orch_proto::v1::{self, Outcome, RunState};
use orch_tests::budget::figures;
use orch_tests::client::{command, noop, run};
use orch_tests::fleet::Fleet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

const SYNC: Duration = Duration::from_secs(5);

fn status(probe: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(probe).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

/// Asks whether it lives until told to stop; counts the answers and those that were no.
fn watch_liveness(probe: String, stop: Arc<AtomicBool>, asked: Arc<AtomicU64>, dead: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        asked.fetch_add(1, Ordering::Relaxed);
        if status(&probe, "/livez") != Some(200) {
            dead.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_syncs_of_five_seconds_nothing_is_early_nobody_is_requeued_and_it_lives() {
    const ROW: &str = "with_syncs_of_five_seconds_nothing_is_early_nobody_is_requeued_and_it_lives";
    let shim = match Shim::build() {
        Ok(shim) => shim,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    // The deadlines of production: what is tested is that they bear such a disk.
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "5s");
    fleet.agent("box-1", &AGENT);
    let mut client = fleet.client().await;
    let long = client.submit(run(vec![command("t", "/bin/sh", &["-c", "sleep 12; echo done"])])).await;
    client.task_in(&format!("{}/t", long.r#ref), v1::TaskState::Running).await;

    // Opening syncs twice and begins an epoch: from the fourth sync of the store on it is slow.
    let fault = Fault { call: "sync", nth: 4, errno: 0, lasting: true, sleep_ms: 5_000 };
    let environment = shim.environment(&fleet.data_dir().join("store"), &fault);
    block_in_place(|| {
        fleet.kill_coordinator();
        assert!(fleet.launch_coordinator(&borrowed(&environment)).is_none(), "{}", fleet.coordinator_log());
    });
    let (stop, asked, dead) = (Arc::default(), Arc::default(), Arc::default());
    let watcher = {
        let (stop, asked, dead) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&dead));
        let probe = fleet.ports().probe.clone();
        std::thread::spawn(move || watch_liveness(probe, stop, asked, dead))
    };
    let mut client = fleet.client().await;
    let mut events =
        client.runs.watch_runs(v1::WatchRunsRequest::default()).await.expect("a watch").into_inner();
    let mut slowest = Duration::ZERO;
    for number in 0..2 {
        let asked_at = Instant::now();
        let before = shim.fired().len();
        let submitted = client.submit(run(vec![noop("t")])).await;
        let took = asked_at.elapsed();
        assert!(took >= SYNC - Duration::from_millis(50), "submit {number} was acknowledged after {took:?}");
        assert!(shim.fired().len() > before, "it waited for a sync");
        slowest = slowest.max(took);
        let seen = tokio::time::timeout(Duration::from_secs(30), async {
            while let Some(frame) = events.message().await.expect("the watch goes on") {
                if frame.events.iter().any(|event| event.run_ref == submitted.r#ref) {
                    return true;
                }
            }
            false
        });
        assert!(seen.await.expect("in time"), "the watcher sees the run");
    }
    let ended = client.finished(&long.r#ref).await;
    assert_eq!(ended.state(), RunState::Succeeded);
    let task = &client.tasks(&long.r#ref).await[0];
    assert_eq!((task.attempt, task.outcome()), (1, Outcome::Ok), "it was given to nobody else: {task:?}");
    stop.store(true, Ordering::Relaxed);
    watcher.join().expect("the watcher ends");
    assert_eq!(
        dead.load(Ordering::Relaxed),
        0,
        "of {} looks it was called dead",
        asked.load(Ordering::Relaxed)
    );
    figures(
        ROW,
        &format!(
            "{} syncs of 5 s, slowest submit {} ms, {} looks all alive, attempt 1",
            shim.fired().len(),
            slowest.as_millis(),
            asked.load(Ordering::Relaxed)
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_may_only_be_read_is_named_at_the_start_and_harms_nothing() {
    const ROW: &str = "a_disk_that_may_only_be_read_is_named_at_the_start_and_harms_nothing";
    let fs = match LoopFs::make(Kind::Ext4, 256, "noatime") {
        Ok(fs) => fs,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let mut fleet = Fleet::idle_in(&std::env::temp_dir(), orch_tests::binaries!(), "200ms", "info", &[]);
    fleet.keep_data_in(fs.path().join("data"));
    fleet.start_coordinator();
    let submitted = fleet.client().await.submit(run(vec![noop("t")])).await;
    block_in_place(|| {
        fleet.kill_coordinator();
        fs.read_only(true).expect("remounted");
        let status = fleet.launch_coordinator(&[]).expect("it does not serve from a disk it cannot write");
        assert_eq!(status.code(), Some(1));
        let log = fleet.coordinator_log();
        assert!(log.contains("Read-only file system"), "{log}");
        fs.read_only(false).expect("remounted");
        fleet.start_coordinator();
    });
    fleet.agent("box-1", &AGENT);
    assert_eq!(fleet.client().await.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    figures(ROW, "refused to start read-only, nothing lost");
    drop(fleet);
}
