//! Silence of the API, which the CLI itself would bear for minutes: orch ends it as a hang that names what was waited for.

use super::{AGENT, Real, of};
use orch_tests::matrix::real::SILENCES;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_api_is_a_hang_that_says_what_was_waited_for() {
    let test = "a_silent_api_is_a_hang_that_says_what_was_waited_for";
    let Some(mut real) = Real::with_coordinator(test, &["--silence-limit", "6s"]).await else { return };
    real.agent(AGENT, &["--slots", "2"]);
    let played = real.play(SILENCES).await;
    assert_eq!(of(&played, "the API never begins to answer").requests.len(), 1);
}
