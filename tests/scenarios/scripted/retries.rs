//! What attempts after the first cost, and when they start.

use orch_proto::v1::{self, Outcome, TaskState};
use orch_tests::client::{run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wait::until_async;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// F13: every process of a conversation counts its money from zero, whatever it resumes. The bill of a task is the sum of
/// its attempts, and that of the run the sum of its tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_conversation_is_billed_once() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let text =
        r#"[[grow {"factor":2}]][[tool {"name":"Bash","input":{"command":"true"}}]][[error {"status":500}]]"#;
    let mut task = worker("t", "anga", text);
    task.retries = Some(2);
    let submitted = client.submit(run(vec![task])).await;
    let finished = client.finished(&submitted.r#ref).await;
    let request = v1::GetTaskRequest { r#ref: format!("{}/t", submitted.r#ref) };
    let task = client.runs.get_task(request).await.expect("a task").into_inner().task.expect("a task");
    assert_eq!((task.outcome(), task.attempt), (Outcome::ApiError, 3), "{task:?}");
    let costs: Vec<u64> = task
        .attempts
        .iter()
        .map(|attempt| attempt.usage.as_ref().map_or(0, |usage| usage.cost_micro_usd))
        .collect();
    assert_eq!(costs, [600, 1_200, 2_400], "each attempt resumes the conversation, whose answers grow");
    assert_eq!(task.usage.as_ref().map(|usage| usage.cost_micro_usd), Some(4_200));
    assert_eq!(finished.usage.map(|usage| usage.cost_micro_usd), Some(4_200));
}

/// A usage window is waited for: the task shows when, and nothing starts before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_usage_window_is_used_up_waits_for_its_reset() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    super::keyed(&mut fleet, "box-1");
    let mut client = fleet.client().await;
    let mut task = worker("t", "anga", r#"[[rate_limit {"resets_in":4}]]"#);
    task.retries = Some(0);
    let submitted = client.submit(run(vec![task])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    let waiting = client.task_in(&task_ref, TaskState::Parked).await;
    let retry_at = waiting.retry_at.as_ref().map(|time| time.seconds).expect("when it is tried again");
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
        .expect("a time");
    assert!((now..now + 10).contains(&retry_at), "at {retry_at}, now it is {now}");
    assert!(waiting.detail.contains("window of this subscription is used up until"), "{waiting:?}");
    // It is used up again then: that is no failure either, and uses no retry.
    let again = until_async("the second attempt to end", || {
        let (mut client, task_ref) = (client.clone(), task_ref.clone());
        async move {
            let task = client.task_in(&task_ref, TaskState::Parked).await;
            (task.attempts.len() >= 2).then_some(task)
        }
    });
    let task = again.await;
    assert_eq!(task.attempts[1].outcome(), Outcome::RateLimited, "{task:?}");
    let request = v1::CancelRunRequest { r#ref: submitted.r#ref.clone(), ..Default::default() };
    client.runs.cancel_run(request).await.expect("cancelled");
    let seconds = |time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref().expect("a time");
        time.seconds as f64 + f64::from(time.nanos) / 1e9
    };
    let pause = seconds(&task.attempts[1].started_at) - seconds(&task.attempts[0].finished_at);
    // The reset is told in whole seconds, so up to one of the four may be over when it is read.
    assert!(pause > 2.9, "the second attempt started after {pause} s");
}
