//! What the API says about limits, and what is said in its place.

use std::time::Duration;

use orch_agent::gateway::ledger;
use orch_agent::gateway::wire::{Command, Event, SignalKind};

use super::scene::{STREAM, Scene, rest, start, stop, whole};

#[tokio::test]
async fn a_short_throttle_is_waited_out_unseen_and_asked_for_anew() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    scene.api.will(whole(429, &[("retry-after", "1")], "{}"));
    scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    let mut cli = scene.cli().await;
    let decide = async {
        agent.let_go().await;
        let signal = agent.hear().await;
        assert!(
            matches!(&signal, Event::Signal { kind: SignalKind::Throttled, model, retry_after_ms: Some(1_000), .. }
            if model == "claude-sonnet-5"),
            "{signal:?}"
        );
        let ended = agent.hear().await;
        assert!(matches!(ended, Event::Ended { request: 1, status: 429, estimated: false, .. }), "{ended:?}");
        assert_eq!(agent.let_go().await.request, 2);
    };
    let (answer, ()) = tokio::join!(cli.ask(true, "x"), decide);
    assert_eq!(answer.status(), 200);
    rest(answer).await.unwrap();
    assert_eq!(scene.api.seen().len(), 2);
}

#[tokio::test]
async fn an_exhausted_window_an_overload_and_a_refusal_reach_the_cli_as_they_are() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    let rejected = [
        ("anthropic-ratelimit-unified-status", "rejected"),
        ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
        ("retry-after", "30"),
    ];
    for (status, headers, kind, window, may_retry) in [
        (429, &rejected[..], SignalKind::Exhausted, "five_hour", false),
        (429, &[("retry-after", "90")][..], SignalKind::Exhausted, "", false),
        (529, &[][..], SignalKind::Failing, "", true),
        (401, &[][..], SignalKind::Refused, "", true),
    ] {
        scene.api.will(whole(status, headers, "{\"type\":\"error\"}"));
        let (answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
        assert_eq!(
            (answer.status().as_u16(), answer.headers().contains_key("x-should-retry")),
            (status, !may_retry)
        );
        for (name, value) in headers {
            assert_eq!(answer.headers().get(*name).unwrap(), value);
        }
        assert_eq!(rest(answer).await.unwrap(), "{\"type\":\"error\"}");
        let signal = agent.hear().await;
        assert!(
            matches!(&signal, Event::Signal { kind: k, window: w, .. } if *k == kind && w == window),
            "{signal:?}"
        );
        assert!(
            matches!(agent.hear().await, Event::Ended { status: s, estimated: false, .. } if s == status)
        );
    }
    let totals = ledger::totals(&scene.place.spec.attempt_dir).unwrap();
    assert_eq!((totals[0].requests, totals[0].tokens), (4, Default::default()), "errors cost nothing");
}

#[tokio::test]
async fn what_the_agent_refuses_is_answered_in_place_of_the_api() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    let refuse = async {
        let request = agent.asked().await.request;
        let (kind, message) = ("rate_limit_error".to_owned(), "the window is used up".to_owned());
        agent.say(Command::Refuse { request, status: 429, kind, message, retry_after_s: Some(7_200) }).await;
    };
    let (answer, ()) = tokio::join!(cli.ask(true, "x"), refuse);
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers().get("retry-after").unwrap(), "7200");
    assert_eq!(answer.headers().get("x-should-retry").unwrap(), "false");
    let body: serde_json::Value = serde_json::from_str(&rest(answer).await.unwrap()).unwrap();
    assert_eq!(body["error"]["type"], "rate_limit_error");
    assert_eq!(body["error"]["message"], "the window is used up");
    assert_eq!(
        (scene.api.seen().len(), ledger::totals(&scene.place.spec.attempt_dir).unwrap().len()),
        (0, 0)
    );
}

#[tokio::test]
async fn a_hold_that_runs_out_is_answered_so_that_the_cli_asks_again() {
    let scene = Scene::with(|place| place.spec.gateway.as_mut().unwrap().longest_hold_ms = 200).await;
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    let answer = cli.ask(true, "x").await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers().get("retry-after").unwrap().as_bytes()),
        (429, &b"1"[..])
    );
    assert!(!answer.headers().contains_key("x-should-retry"));
    assert_eq!(agent.asked().await.request, 1);
    assert_eq!(agent.hear().await, Event::Withdrawn { request: 1 });
    // A throttle that outlasts the hold is passed on as it is.
    scene.api.will(whole(429, &[("retry-after", "5")], "{}"));
    rest(answer).await.unwrap();
    let (answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    assert_eq!(answer.headers().get("retry-after").unwrap(), "5");
}

#[tokio::test]
async fn an_api_that_is_not_there_is_told_and_answered_for() {
    let scene =
        Scene::with(|place| place.spec.gateway.as_mut().unwrap().upstream = "http://127.0.0.1:1".to_owned())
            .await;
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    let (answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    assert_eq!(answer.status(), 502);
    assert!(rest(answer).await.unwrap().contains("the API cannot be reached"));
    assert!(matches!(agent.hear().await, Event::Ended { status: 0, estimated: false, .. }));
    assert!(matches!(agent.hear().await, Event::Signal { kind: SignalKind::Failing, .. }));
}

#[tokio::test]
async fn a_new_credential_is_used_from_then_on() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    agent.say(Command::Credential { key: "sk-ant-renewed".to_owned() }).await;
    scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    let (answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    rest(answer).await.unwrap();
    assert_eq!(scene.api.seen()[0].headers.get("x-api-key").unwrap(), "sk-ant-renewed");
}

#[tokio::test]
async fn many_requests_wait_at_once_and_go_in_any_order() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut cli = scene.cli().await;
        asking.spawn(async move { rest(cli.ask(true, "x").await).await.unwrap() });
    }
    let mut asked = Vec::new();
    for _ in 0..20 {
        asked.push(agent.asked().await.request);
        scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    }
    for request in asked.into_iter().rev() {
        agent.say(Command::Go { request }).await;
    }
    tokio::time::timeout(Duration::from_secs(30), asking.join_all()).await.expect("all are answered");
    let totals = ledger::totals(&scene.place.spec.attempt_dir).unwrap();
    assert_eq!((totals[0].requests, totals[0].tokens.input, totals[0].estimated_requests), (20, 20, 0));
}

/// Fails as long as a test lasts.
fn failing(scene: &Scene) {
    for _ in 0..8 {
        scene.api.will(whole(529, &[], "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}"));
    }
}

fn may_ask_again(answer: &http::Response<hyper::body::Incoming>) -> bool {
    answer.headers().get("x-should-retry").is_none_or(|word| word != "false")
}

#[tokio::test]
async fn an_api_that_fails_for_long_is_not_asked_again_and_one_that_answers_meanwhile_is() {
    let scene = Scene::with(|place| {
        place.spec.gateway.as_mut().unwrap().longest_failure_ms = 400;
    })
    .await;
    let (agent, _) = scene.agent().await;
    let mut agents = tokio::task::JoinSet::new();
    agents.spawn(agent.wave_through());
    scene.api.will(whole(500, &[], "{}"));
    assert!(may_ask_again(&scene.cli().await.ask(true, "x").await));
    tokio::time::sleep(Duration::from_millis(450)).await;
    scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    rest(scene.cli().await.ask(true, "x").await).await.unwrap();
    failing(&scene);
    assert!(may_ask_again(&scene.cli().await.ask(true, "x").await), "it had answered");
    tokio::time::sleep(Duration::from_millis(450)).await;
    let last = scene.cli().await.ask(true, "x").await;
    assert_eq!(last.status(), 529);
    assert!(!may_ask_again(&last));
    let said = rest(last).await.unwrap();
    assert!(!said.contains("overloaded_error"), "the CLI would ask again: {said:?}");
}

#[tokio::test]
async fn refusals_for_an_api_that_fails_end_as_well_and_so_does_a_credential_that_is_not_taken() {
    let scene = Scene::with(|place| {
        place.spec.gateway.as_mut().unwrap().longest_failure_ms = 1_500;
    })
    .await;
    let (mut agent, _) = scene.agent().await;
    for may_ask in [true, false] {
        let refuse = async {
            let request = agent.asked().await.request;
            let (kind, message) = ("api_error".to_owned(), "the API fails".to_owned());
            let status = orch_agent::gateway::wire::ASK_AGAIN;
            agent.say(Command::Refuse { request, status, kind, message, retry_after_s: None }).await;
        };
        let mut cli = scene.cli().await;
        let (answer, ()) = tokio::join!(cli.ask(true, "x"), refuse);
        assert_eq!((answer.status().as_u16(), may_ask_again(&answer)), (504, may_ask));
        tokio::time::sleep(Duration::from_millis(1_550)).await;
    }
    scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    let mut cli = scene.cli().await;
    let (answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    rest(answer).await.unwrap();
    let mut agents = tokio::task::JoinSet::new();
    agents.spawn(agent.wave_through());
    for may_ask in [true, false] {
        scene.api.will(whole(401, &[], "{}"));
        assert_eq!(may_ask_again(&scene.cli().await.ask(true, "x").await), may_ask);
        tokio::time::sleep(Duration::from_millis(1_550)).await;
    }
}
