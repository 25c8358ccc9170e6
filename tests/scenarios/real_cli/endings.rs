//! Rows that need nothing but a prompt: each group is played on a fleet of its own.

use super::{Real, of, transcript};
use orch_tests::matrix::real::{ANSWERS, FAILURES, LIMITS, STRUCTURED, WITHOUT_API, WITHOUT_LOGIN};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_tools_and_sub_agents_end_well_and_are_billed_to_the_token() {
    let Some(real) = Real::start("answers_tools_and_sub_agents_end_well_and_are_billed_to_the_token").await
    else {
        return;
    };
    let played = real.play(ANSWERS).await;
    for (scenario, answer) in [
        ("an answer", "a plain answer"),
        ("a tool is used", "used a tool"),
        ("a sub-agent does a part", "outer"),
        ("a command in the background is refused", "stayed in front"),
    ] {
        assert_eq!(of(&played, scenario).answer(), answer, "{scenario}");
    }
    for one in &played {
        let usage = one.task.usage.as_ref().expect("usage");
        assert!(!usage.estimated, "{}: the bill is the CLI's own", one.row.scenario);
        assert!(!one.requests.is_empty(), "{}: the session id is not the CLI's", one.row.scenario);
    }
    let nested = of(&played, "a sub-agent does a part");
    assert_eq!(nested.requests.iter().filter(|request| request.agent_id.is_some()).count(), 1);
    let usage = nested.task.usage.clone().expect("usage");
    let bills: Vec<_> = usage.models.iter().map(|row| (row.model.as_str(), row.cost_micro_usd)).collect();
    assert_eq!(bills, [("claude-haiku-4-5-20251001", 200), ("claude-sonnet-5", 1_200)]);

    let client = real.fleet.client().await;
    let task = &of(&played, "a tool is denied, and the work goes on").task;
    assert_eq!(task.denied_tools, ["Bash(git push origin main)"]);
    let denied = transcript(&client, &task.r#ref, 1).await;
    let result = denied.lines().rfind(|line| line.contains("\"type\":\"result\"")).expect("a result");
    assert!(result.contains("\"permission_denials\":[{\"tool_name\":\"Bash\""), "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn structured_answers_fit_their_schema_or_fail() {
    let Some(real) = Real::start("structured_answers_fit_their_schema_or_fail").await else { return };
    let played = real.play(STRUCTURED).await;
    for one in &played {
        let good = one.row.outcome == orch_proto::v1::Outcome::Ok;
        let expected = if good { r#"{"n":3}"# } else { "" };
        assert_eq!(one.task.structured, expected, "{}", one.row.scenario);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_end_the_real_cli_with_their_own_name() {
    let Some(real) = Real::start("limits_end_the_real_cli_with_their_own_name").await else { return };
    let played = real.play(LIMITS).await;
    let turns = of(&played, "the turn limit is reached");
    assert!((3..=4).contains(&turns.requests.len()), "{} requests", turns.requests.len());
    assert_eq!(of(&played, "the budget is spent").requests.len(), 3);
    // The CLI says that the budget is spent and lets its sub-agent go on; orch ends it.
    let nested = of(&played, "the budget is spent by a sub-agent").requests.len();
    assert!((3..=8).contains(&nested), "a sub-agent made {nested} requests on a budget for 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_api_are_typed_and_retried_by_their_kind() {
    let test = "failures_of_the_api_are_typed_and_retried_by_their_kind";
    let Some((mut real, _prompts)) = Real::alone_with_its_model(test, &["--no-gateway"]).await else {
        return;
    };
    real.agent_without_key(WITHOUT_LOGIN, &["--slots", "1"]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nowhere = format!("http://{}", closed.local_addr().expect("its address"));
    drop(closed);
    real.agent_at(WITHOUT_API, &nowhere, &["--slots", "1", "--no-gateway"]);
    let played = real.play(FAILURES).await;
    for (scenario, requests) in [
        ("the request is malformed (400)", 1),
        ("the key is not accepted (401)", 3),
        ("the key may not do that (403)", 1),
        ("there is no such model (404)", 2),
        ("too many requests, again and again (429)", 3),
        ("too many requests, for an hour (429)", 1),
        ("the API is overloaded (529)", 3),
        ("the API is overloaded until the next attempt (529)", 4),
        ("nobody is logged in", 0),
    ] {
        assert_eq!(of(&played, scenario).requests.len(), requests, "{scenario}");
    }
}

/// Behind a gateway the CLI is told when to give up; that it asked the same number of times is not asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_behind_a_gateway_end_within_its_patience() {
    let test = "failures_behind_a_gateway_end_within_its_patience";
    let patience = ["--api-patience", "1s"];
    let Some((real, _prompts)) = Real::alone_with_its_model(test, &patience).await else { return };
    let row = |scenario: &str| *FAILURES.iter().find(|row| row.scenario == scenario).expect("a row");
    let failing = [
        "the request is malformed (400)",
        "there is no such model (404)",
        "too many requests, for a second (429)",
        "the API is overloaded (529)",
    ];
    real.play(&failing.map(row)).await;
    // A key that is not accepted stops its pool, so this is the last.
    real.play(&[row("the key is not accepted (401)")]).await;
}
