//! Trying again: what failed, or a task of an ended run with everything below it.

use super::{ana, held, release, script};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, RetryRunRequest, RunState, TaskState};
use orch_tests::client::{Client, after, answer, run};
use orch_tests::fleet::Fleet;
use orch_tests::wire::code;

const SAYS_ATTEMPT: &str = "echo attempt $ORCH_ATTEMPT";
const SLOTS: [&str; 4] = ["--slots", "4", "--allow-command", "/bin/sh"];

/// Name, number of attempts and answer of every task.
async fn told(client: &mut Client, run_ref: &str) -> Vec<(String, u32, String)> {
    let tasks = client.tasks(run_ref).await;
    tasks
        .into_iter()
        .map(|task| (task.task_id.clone(), task.attempt, answer(&task).trim().to_owned()))
        .collect()
}

fn rows(rows: &[(&str, u32, &str)]) -> Vec<(String, u32, String)> {
    rows.iter().map(|(name, tries, says)| ((*name).to_owned(), *tries, (*says).to_owned())).collect()
}

async fn again(client: &mut Client, request: &RetryRunRequest) -> v1::RetryRunResponse {
    client.runs.retry_run(request.clone()).await.expect("taken").into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_task_on_everything_runs_again_and_a_repeated_request_is_answered_as_the_first() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &SLOTS);
    let mut client = fleet.client().await;
    let tasks = vec![
        script("a", SAYS_ATTEMPT),
        after(script("b", SAYS_ATTEMPT), &["a"]),
        after(script("beside", SAYS_ATTEMPT), &["a"]),
        after(script("c", SAYS_ATTEMPT), &["b"]),
    ];
    let submitted = client.submit(run(tasks)).await;
    let ended = client.finished(&submitted.r#ref).await;
    assert_eq!(ended.state(), RunState::Succeeded);
    let once = rows(&[
        ("a", 1, "attempt 1"),
        ("b", 1, "attempt 1"),
        ("beside", 1, "attempt 1"),
        ("c", 1, "attempt 1"),
    ]);
    assert_eq!(told(&mut client, &submitted.r#ref).await, once);
    let unknown = ana(&fleet, &["retry", &submitted.r#ref, "--from", "nothing"]).await.ended(3);
    assert!(unknown.err.contains("nothing"), "{}", unknown.err);

    let request = RetryRunRequest {
        r#ref: submitted.r#ref.clone(),
        from: "b".into(),
        request_id: "again-1".into(),
        ..Default::default()
    };
    let first = again(&mut client, &request).await;
    assert_eq!((first.retried, first.run.as_ref().map(v1::Run::state)), (2, Some(RunState::Running)));
    assert_eq!(again(&mut client, &request).await.retried, 2);
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    let twice = rows(&[
        ("a", 1, "attempt 1"),
        ("b", 2, "attempt 2"),
        ("beside", 1, "attempt 1"),
        ("c", 2, "attempt 2"),
    ]);
    assert_eq!(told(&mut client, &submitted.r#ref).await, twice, "answers are replaced, the upstream stays");

    fleet.kill_coordinator();
    fleet.start_coordinator();
    let mut client = fleet.client().await;
    assert_eq!(again(&mut client, &request).await.retried, 2, "the answer of before the kill");
    let other = RetryRunRequest { from: "a".into(), ..request.clone() };
    let status = client.runs.retry_run(other).await.expect_err("the id is taken");
    assert_eq!(code(&status), Some(ErrorCode::RequestIdConflict), "{status:?}");
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    assert_eq!(told(&mut client, &submitted.r#ref).await, twice, "and nothing ran for it");

    fleet.wait_connected("box-1");
    let said = ana(&fleet, &["retry", &submitted.r#ref, "--from", "c"]).await.ended(0);
    assert!(said.out.contains("1 task queued again"), "{}", said.out);
    client.finished(&submitted.r#ref).await;
    let last = told(&mut client, &submitted.r#ref).await;
    assert_eq!((last[1].1, &last[3]), (2, &("c".to_owned(), 3, "attempt 3".to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_tasks_and_what_was_skipped_for_them_run_again_and_a_run_that_runs_goes_back_nowhere() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &SLOTS);
    let mut client = fleet.client().await;
    let mut fails = after(script("fails", "test $ORCH_ATTEMPT -ge 2 && echo mended"), &["first"]);
    fails.retries = Some(0);
    let tasks = vec![script("first", SAYS_ATTEMPT), fails, after(held("last"), &["fails"])];
    let submitted = client.submit(run(tasks)).await;
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Failed);
    assert_eq!(client.tasks(&submitted.r#ref).await[2].state(), TaskState::Skipped);

    let said = ana(&fleet, &["retry", &submitted.r#ref, "--failed"]).await.ended(0);
    assert!(said.out.contains("2 tasks queued again") && said.out.contains("is running"), "{}", said.out);
    client.task_in(&format!("{}/last", submitted.r#ref), TaskState::Running).await;
    let refused = ana(&fleet, &["retry", &submitted.r#ref, "--from", "first"]).await.ended(6);
    assert!(refused.err.contains("only a run that ended"), "{}", refused.err);
    release(&fleet, "box-1", &submitted, 2);
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    let wanted = rows(&[("first", 1, "attempt 1"), ("fails", 2, "mended"), ("last", 1, "released")]);
    assert_eq!(told(&mut client, &submitted.r#ref).await, wanted);
}
