//! Processes that stand still, and hosts that have no time for them. Rows 22 and 25 of the list; what the clock shows is a
//! matter of the core and tested there.

use crate::siege::Siege;
use orch_proto::v1::{OnLoss, Outcome, RunState, TaskState};
use orch_tests::client::{run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn sleeps(milliseconds: u32) -> String {
    format!("[[sleep {{\"ms\":{milliseconds}}}]] [[text {{\"text\":\"done\"}}]]")
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    // It may have ended meanwhile, as it may.
    let _ = kill_process(pid, signal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_process_may_stand_still_for_a_while_and_the_attempt_goes_on() {
    // Five seconds without a heartbeat lose an attempt here.
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "1s");
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![worker("t", "anga", &sleeps(4_000))])).await;
    client.task_in(&format!("{}/t", submitted.r#ref), TaskState::Running).await;
    let dir = fleet.agent_dir("box-1");
    let children = until("the child to run", || Some(at_home_in(&dir)).filter(|found| !found.is_empty()));
    let supervisors = supervisors_in(&dir);
    assert!(!supervisors.is_empty());
    let (orchd, agent) = (fleet.coordinator().id(), fleet.agent_process("box-1").id());
    for stopped in [vec![orchd], vec![agent], supervisors, children, vec![orchd, agent]] {
        stopped.iter().for_each(|pid| signal(*pid, Signal::STOP));
        // The length of the stop is what is tested.
        tokio::time::sleep(Duration::from_millis(700)).await;
        stopped.iter().for_each(|pid| signal(*pid, Signal::CONT));
    }
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!((task.attempt, task.outcome()), (1, Outcome::Ok), "{task:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stood_still_for_too_long_finds_its_attempt_with_another() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    fleet.agent("box-1", &["--slots", "1"]);
    let mut client = fleet.client().await;
    let mut task = worker("t", "anga", &sleeps(1_500));
    task.on_loss = OnLoss::Fast.into();
    let submitted = client.submit(run(vec![task])).await;
    client.task_in(&format!("{}/t", submitted.r#ref), TaskState::Running).await;
    let attack = async {
        let stopped = fleet.agent_process("box-1").id();
        signal(stopped, Signal::STOP);
        fleet.agent("box-2", &["--slots", "1"]);
        assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
        signal(stopped, Signal::CONT);
        let dir = fleet.agent_dir("box-1");
        until("the first attempt to be gone", || at_home_in(&dir).is_empty().then_some(()));
        fleet.wait_connected("box-1");
    };
    siege.borne("an agent that stood still for too long", attack).await;
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!((task.attempt, task.agent.as_str(), task.outcome()), (2, "box-2", Outcome::Ok), "{task:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_core_busy_nobody_is_taken_for_lost() {
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "1s");
    fleet.agent("box-1", &["--slots", "4"]);
    let mut client = fleet.client().await;
    let tasks = (0..4).map(|at| worker(&format!("t{at}"), "anga", &sleeps(2_500))).collect();
    let submitted = client.submit(run(tasks)).await;
    client.task_in(&format!("{}/t3", submitted.r#ref), TaskState::Running).await;
    let over = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let busy: Vec<_> = (0..cores * 3)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let finished = client.finished(&submitted.r#ref).await;
    over.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().expect("a thread that only turned"));
    assert_eq!(finished.state(), RunState::Succeeded);
    for task in client.tasks(&submitted.r#ref).await {
        assert_eq!((task.attempt, task.outcome()), (1, Outcome::Ok), "{task:?}");
    }
}
