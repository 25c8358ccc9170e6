//! Credentials of the real CLI: a subscription's token whose window is used up, and one that is not accepted.

use super::{AGENT, Real, attempts, of, private_file};
use orch_proto::v1::Outcome;
use orch_standin::api::KeyRule;
use orch_tests::client::{Client, run};
use orch_tests::matrix::real::SUBSCRIPTION;
use orch_tests::wait::until_async;
use std::time::Duration;

const TOKEN: &str = "stand-in-subscription-token";

/// A fleet whose agent has the token of a subscription in its only pool.
async fn subscribed(test: &str) -> Option<Real> {
    let mut real = Real::without_agents(test).await?;
    let file = real.fleet.dir().join("subscription.token");
    private_file(&file, TOKEN);
    let pool = format!("team=token:{}", file.display());
    real.agent_without_key(AGENT, &["--slots", "2", "--pool", &pool]);
    real.api.set_key("team", TOKEN, KeyRule::Serve);
    Some(real)
}

/// Seconds since 1970 of a time of the wire.
fn seconds(time: Option<prost_types::Timestamp>) -> i64 {
    time.expect("a time").seconds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_is_used_up_is_told_with_its_reset_and_waited_for() {
    let test = "a_window_that_is_used_up_is_told_with_its_reset_and_waited_for";
    let Some(real) = subscribed(test).await else { return };
    let played = real.play(SUBSCRIPTION).await;
    let exhausted = of(&played, "the window of a subscription is used up (429)");
    assert_eq!(exhausted.requests.len(), 1);
    for one in &played {
        assert!(
            one.requests.iter().all(|request| request.key.as_deref() == Some("team")),
            "{:?}",
            one.requests
        );
    }

    // It waits for the reset, not for less.
    let waiting = &exhausted.task;
    let wait = seconds(waiting.retry_at) - seconds(waiting.created_at);
    assert!((3_590..=4_000).contains(&wait), "it waits {wait} s for a window that resets after 3,600 s");
    assert!(waiting.detail.contains("used up until"), "{}", waiting.detail);
}

/// Waits for the first request with a key's name.
async fn first_request(real: &Real, count: usize) {
    let asked = || std::future::ready((real.api.requests().len() >= count).then_some(()));
    until_async("a request", asked).await;
}

async fn times_of_attempts(client: &mut Client, task_ref: &str) -> Vec<i64> {
    let request = orch_proto::v1::GetTaskRequest { r#ref: task_ref.into() };
    let task = client.runs.get_task(request).await.expect("the task").into_inner().task.expect("the task");
    task.attempts.iter().map(|attempt| seconds(attempt.started_at)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_after_the_reset_of_its_window_goes_on() {
    let Some(real) = subscribed("an_attempt_after_the_reset_of_its_window_goes_on").await else { return };
    let resets_in = Duration::from_secs(6);
    real.api.set_key("team", TOKEN, KeyRule::Window { claim: "five_hour".into(), resets_in });
    let mut client = real.fleet.client().await;
    let row = SUBSCRIPTION[0].on(AGENT);
    let submitted = client.submit(run(vec![row.task("t")])).await;
    first_request(&real, 1).await;
    real.api.set_key("team", TOKEN, KeyRule::Serve);
    client.finished(&submitted.r#ref).await;
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    let told = attempts(&mut client, &task).await;
    assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, 2), "{told}");
    let started = times_of_attempts(&mut client, &task.r#ref).await;
    // The reset is told in whole seconds, and the first attempt took some time to ask.
    assert!(started[1] - started[0] >= 5, "{started:?}");
    real.nothing_left();
}
