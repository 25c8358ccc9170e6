//! What was acknowledged is there after `kill -9`, and what finished was recorded once.

use orch_proto::v1::{Outcome, RunState};
use orch_tests::client::{noop, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::process::at_home_in;
use rustix::process::Signal;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_that_was_printed_survives_a_kill_20_of_20() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut refs = Vec::new();
    for round in 0..20 {
        let text = format!("round {round}: [[text {{\"text\":\"answer {round}\"}}]]");
        let mut command = fleet.orchctl(&["submit", "--worker", "anga", "-o", "name", &text]);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("joined")
            .expect("orchctl ran");
        fleet.kill_coordinator();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        refs.push(String::from_utf8(output.stdout).expect("text").trim().to_owned());
        fleet.start_coordinator();
    }
    fleet.agent("box-1", &["--slots", "4"]);
    let mut client = fleet.client().await;
    for run_ref in &refs {
        let finished = client.finished(run_ref).await;
        assert_eq!(finished.state(), RunState::Succeeded, "{run_ref}");
    }
    let mut distinct = refs.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 20, "{refs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_run_while_the_coordinator_is_killed_finish_and_are_recorded_once() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "4"]);
    let mut client = fleet.client().await;
    let sleepy =
        |at: usize| worker(&format!("t{at}"), "anga", "[[sleep {\"ms\":1500}]] [[text {\"text\":\"done\"}]]");
    let submitted = client.submit(run((0..4).map(sleepy).collect())).await;
    for at in 0..4 {
        client.task_in(&format!("{}/t{at}", submitted.r#ref), orch_proto::v1::TaskState::Running).await;
    }
    fleet.kill_coordinator();
    fleet.start_coordinator();
    let mut client = fleet.client().await;
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    for task in client.tasks(&submitted.r#ref).await {
        assert_eq!((task.attempt, task.outcome()), (1, Outcome::Ok), "{}", task.r#ref);
        assert_eq!(task.attempts.len().max(1), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_id_gives_the_same_run_also_after_a_restart() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    let first = client.submit_with_id(run(vec![noop("a")]), "key-1").await;
    fleet.kill_coordinator();
    fleet.start_coordinator();
    let mut client = fleet.client().await;
    let again = client.submit_with_id(run(vec![noop("a")]), "key-1").await;
    assert_eq!(first.r#ref, again.r#ref);
    let other = orch_proto::v1::SubmitRunRequest {
        spec: Some(run(vec![noop("b")])),
        request_id: "key-1".into(),
        validate_only: false,
    };
    let status = client.runs.submit_run(other).await.expect_err("another content under the same id");
    assert_eq!(status.code(), tonic::Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_loses_its_attempt_to_another_and_leaves_nothing_behind() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "1"]);
    let mut client = fleet.client().await;
    let text = "[[sleep {\"ms\":60000}]] [[text {\"text\":\"awake\"}]]";
    let submitted = client.submit(run(vec![worker("t", "anga", text)])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    client.task_in(&task_ref, orch_proto::v1::TaskState::Running).await;
    let homes = fleet.agent_dir("box-1");
    orch_tests::wait::until("the child to run", || (!at_home_in(&homes).is_empty()).then_some(()));
    fleet.agent_process("box-1").kill();
    fleet.agent("box-2", &["--slots", "1"]);
    let again = orch_tests::wait::until_async("a second attempt", || {
        let mut client = client.clone();
        let task_ref = task_ref.clone();
        async move {
            let request = orch_proto::v1::GetTaskRequest { r#ref: task_ref };
            let task = client.runs.get_task(request).await.ok()?.into_inner().task?;
            (task.attempt == 2).then_some(task)
        }
    })
    .await;
    assert_eq!(
        again.attempts.first().map(orch_proto::v1::Attempt::outcome),
        Some(Outcome::LostAgent),
        "{again:?}"
    );
    assert!(!at_home_in(&homes).is_empty(), "the cut-off child runs on");
    fleet.agent("box-1", &["--slots", "1"]);
    orch_tests::wait::until("the agent to end what is not its own any more", || {
        at_home_in(&homes).is_empty().then_some(())
    });
    let request = orch_proto::v1::CancelRunRequest { r#ref: submitted.r#ref.clone(), ..Default::default() };
    client.runs.cancel_run(request).await.expect("cancelled");
    let homes = fleet.agent_dir("box-2");
    orch_tests::wait::until("the children to be gone", || at_home_in(&homes).is_empty().then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_was_stopped_and_goes_on_takes_no_attempt_from_anybody() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "4"]);
    let mut client = fleet.client().await;
    let sleepy =
        |at: usize| worker(&format!("t{at}"), "anga", "[[sleep {\"ms\":5000}]] [[text {\"text\":\"done\"}]]");
    let submitted = client.submit(run((0..4).map(sleepy).collect())).await;
    for at in 0..4 {
        client.task_in(&format!("{}/t{at}", submitted.r#ref), orch_proto::v1::TaskState::Running).await;
    }
    fleet.coordinator().signal(Signal::STOP);
    // The length of the stop is what is tested: three times the five heartbeats after which a lost attempt is requeued.
    tokio::time::sleep(Duration::from_secs(3)).await;
    fleet.coordinator().signal(Signal::CONT);
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    for task in client.tasks(&submitted.r#ref).await {
        assert_eq!((task.attempt, task.outcome()), (1, Outcome::Ok), "{task:?}");
    }
}
