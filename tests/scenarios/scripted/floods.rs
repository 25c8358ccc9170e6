//! Output without end: what it costs, and whom it does not slow down.

use super::{HEARTBEAT, nothing_left};
use orch_proto::v1::{OnLoss, Outcome, TaskState};
use orch_tests::client::{run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::gate::{self, Gate};
use orch_tests::process::{peak_memory, supervisors_in};
use orch_tests::wait::until;
use rustix::process::Signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// More memory than any process of ours may take for a line of 100 MiB; one that keeps the line would need more.
const BOUND: u64 = 96 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_100_mib_passes_through_bounded_memory() {
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), HEARTBEAT);
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let text = r#"[[big_line {"bytes":104857600}]][[text {"text":"after the line"}]]"#;
    let submitted = client.submit(run(vec![worker("t", "anga", text)])).await;
    let dir = fleet.agent_dir("box-1");
    let watched = {
        let dir = dir.clone();
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = std::sync::Arc::clone(&done);
        let watcher = std::thread::spawn(move || {
            let mut peak = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                peak = supervisors_in(&dir).into_iter().filter_map(peak_memory).fold(peak, u64::max);
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        (watcher, done)
    };
    client.finished(&submitted.r#ref).await;
    watched.1.store(true, std::sync::atomic::Ordering::Relaxed);
    let supervisor = watched.0.join().expect("the watcher");
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!(
        (task.outcome(), orch_tests::client::answer(&task)),
        (Outcome::Ok, "after the line"),
        "{task:?}"
    );
    let agent = peak_memory(fleet.agent_process("box-1").id()).expect("the agent runs");
    let coordinator = peak_memory(fleet.coordinator().id()).expect("the coordinator runs");
    for (what, peak) in [("supervisor", supervisor), ("agent", agent), ("coordinator", coordinator)] {
        assert!(peak > 0 && peak < BOUND, "the {what} needed {} MiB", peak >> 20);
    }
    nothing_left(&fleet, "box-1");
}

/// F38: a reader that stands still must not slow the child down. The child writes far more than pipes, sockets and
/// windows could hold while the coordinator is stopped, and still gets to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_stands_still_does_not_slow_a_child_that_floods() {
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "2s");
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let gate = Gate::closed();
    let tool = |command: &str| format!(r#"[[tool {{"name":"Bash","input":{{"command":"{command}"}}}}]]"#);
    let text = format!(
        r#"{}[[flood {{"events":30000,"bytes":1000}}]]{}[[text {{"text":"all said"}}]]"#,
        tool(&format!("{}; echo x > begun", gate.wait())),
        tool("echo x > ended")
    );
    let mut task = worker("t", "anga", &text);
    // However long the coordinator stands still: the attempt must not be given to another for it.
    task.on_loss = OnLoss::Wait.into();
    let submitted = client.submit(run(vec![task])).await;
    client.task_in(&format!("{}/t", submitted.r#ref), TaskState::Running).await;
    let waiting = gate.gather(1).await;
    fleet.coordinator().signal(Signal::STOP);
    let stopped = Instant::now();
    gate::open(waiting);
    let work = only_work(&fleet);
    // With the coordinator stopped: that the end comes at all is the proof.
    until("the child to have said everything", || work.join("ended").exists().then_some(()));
    let took = stopped.elapsed();
    while stopped.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fleet.coordinator().signal(Signal::CONT);
    client.finished(&submitted.r#ref).await;
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, 1), "after {took:?}: {task:?}");
    assert!(work.join("begun").exists());
}

/// The working directory of the only task of the only agent.
fn only_work(fleet: &Fleet) -> PathBuf {
    let tasks = fleet.agent_dir("box-1").join("tasks");
    let mut entries: Vec<_> = std::fs::read_dir(tasks).expect("tasks").flatten().collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0).path().join("work")
}
