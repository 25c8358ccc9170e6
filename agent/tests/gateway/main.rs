//! The gateway between CLI and API, in a real supervisor: what passes, what is asked, what is counted, and what nobody may
//! see.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on has failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod canary;
mod figures;
mod flood;
mod hostile;
mod limits;
mod recorded;
mod scene;
mod ways;

use std::time::Duration;

use orch_agent::gateway::ledger;
use orch_agent::gateway::wire::{Command, Event, Headers, Tokens, WIRE_VERSION};
use orch_agent::supervisor::stop::StopCause;
use scene::{KEY, STREAM, Scene, live, piece, rest, start, stop, text, whole};
use support::{see_through, until};

#[tokio::test]
async fn a_stream_is_asked_for_passed_on_piece_by_piece_and_counted() {
    let scene = Scene::new().await;
    let (mut agent, hello) = scene.agent().await;
    assert!(matches!(&hello, Event::Hello { version: WIRE_VERSION, id, totals, in_flight }
        if *id == scene.place.spec.id && totals.is_empty() && in_flight.is_empty()));
    let limits = [
        STREAM,
        ("anthropic-ratelimit-input-tokens-remaining", "77"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
    ];
    let (pieces, reply) = live(200, &limits);
    scene.api.will(reply);
    let mut cli = scene.cli().await;
    let (mut answer, ask) = tokio::join!(cli.ask(true, "hello"), agent.let_go());
    assert_eq!((ask.request, ask.model.as_str(), ask.output_bound), (1, "claude-sonnet-5", 64_000));
    assert!(ask.input_bound > 10 && !ask.sub_agent);
    pieces.send(Ok(start(10, 90).into())).await.unwrap();
    assert!(piece(&mut answer).await.unwrap().unwrap().contains("message_start"), "before the next is there");
    let begun = agent.hear().await;
    let known = Tokens { input: 10, output: 1, cache_read: 90, ..Tokens::default() };
    assert!(
        matches!(begun, Event::Begun { request: 1, tokens, headers }
        if tokens == known && headers.input_remaining == Some(77)),
        "{begun:?}"
    );
    pieces.send(Ok((text("hello back") + &stop(42)).into())).await.unwrap();
    drop(pieces);
    assert!(answer.headers().get("x-hop").is_none());
    assert!(rest(answer).await.unwrap().ends_with(&stop(42)));
    let tokens = Tokens { output: 42, ..known };
    let ended = agent.hear().await;
    assert!(
        matches!(ended, Event::Ended { request: 1, tokens: t, estimated: false, status: 200, headers }
            if t == tokens && headers == Headers::default()),
        "what headers said was told when it was new: {ended:?}"
    );
    let totals = ledger::totals(&scene.place.spec.attempt_dir).unwrap();
    assert_eq!((totals[0].tokens, totals[0].requests, totals[0].estimated_requests), (tokens, 1, 0));
    let seen = scene.api.seen().remove(0);
    assert_eq!(seen.line, "POST /v1/messages?beta=true");
    assert_eq!(seen.headers.get("x-api-key").unwrap(), KEY);
    assert_eq!(seen.headers.get("x-app").unwrap(), "cli");
    assert_eq!(seen.body, scene::question(true, "hello"));
    for gone in ["accept-encoding", "x-hop", "authorization", "connection"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    assert!(!format!("{:?}", seen.headers).contains(&scene.token));
    scene.stop();
    assert_eq!(see_through(scene.supervised).await.1.trouble, None);
    assert_eq!(
        std::fs::read_dir(&scene.place.spec.runtime_dir).unwrap().count(),
        0,
        "sockets and note are gone"
    );
}

#[tokio::test]
async fn a_whole_answer_is_counted_and_a_sub_agent_is_known() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let body = "{\"type\":\"message\",\"usage\":{\"input_tokens\":7,\"output_tokens\":3}}";
    scene.api.will(whole(200, &[("content-type", "application/json")], body));
    let mut cli = scene.cli().await;
    let mut request = cli.request("POST /v1/messages", scene::question(false, "x"));
    request.headers_mut().insert("x-claude-code-agent-id", "a7".parse().unwrap());
    let (answer, ask) = tokio::join!(cli.send(request), agent.let_go());
    assert!(ask.sub_agent);
    assert_eq!(rest(answer).await.unwrap(), body);
    let told = [agent.hear().await, agent.hear().await];
    assert!(matches!(told[0], Event::Begun { request: 1, .. }));
    assert!(matches!(
        told[1],
        Event::Ended { tokens: Tokens { input: 7, output: 3, .. }, estimated: false, .. }
    ));
    let totals = ledger::totals(&scene.place.spec.attempt_dir).unwrap();
    assert_eq!(totals[0].sub_agent_requests, 1);
}

#[tokio::test]
async fn whoever_does_not_know_the_word_and_whatever_costs_uncounted_is_turned_away() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let mut stranger = scene::Cli::new(&scene.door, "sk-ant-orch-0").await;
    for line in ["POST /v1/messages", "HEAD /", "GET /v1/models"] {
        let request = stranger.request(line, "{}");
        assert_eq!(stranger.send(request).await.status(), 401, "{line}");
    }
    let mut cli = scene.cli().await;
    for line in [
        "POST /v1/messages/batches",
        "POST /v1//messages",
        "POST /v1/messages/",
        "POST /v1/files",
        "GET /v1/files",
    ] {
        let request = cli.request(line, "{}");
        assert_eq!(cli.send(request).await.status(), 404, "{line}");
    }
    for body in ["{", "[]", "{}", "{\"model\":\"\"}"] {
        let request = cli.request("POST /v1/messages", body);
        assert_eq!(cli.send(request).await.status(), 400, "{body}");
    }
    assert_eq!(scene.api.seen().len(), 0);
    let request = cli.request("HEAD /", "");
    assert_eq!(cli.send(request).await.status(), 200);
    scene.api.will(whole(200, &[], "{\"input_tokens\":5}"));
    let request = cli.request("POST /v1/messages/count_tokens", "{}");
    assert_eq!(rest(cli.send(request).await).await.unwrap(), "{\"input_tokens\":5}");
    scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    let (answer, ask) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    assert_eq!((ask.request, answer.status().as_u16()), (1, 200), "nothing before was asked for");
}

#[tokio::test]
async fn a_request_that_is_given_up_is_withdrawn_or_entered_as_far_as_it_went() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    let request = cli.request("POST /v1/messages", scene::question(true, "x"));
    tokio::select! {
        _ = cli.send(request) => panic!("nobody let it go"),
        ask = agent.asked() => assert_eq!(ask.request, 1),
    }
    drop(cli);
    assert_eq!(agent.hear().await, Event::Withdrawn { request: 1 });

    let (pieces, reply) = live(200, &[STREAM]);
    scene.api.will(reply);
    let mut cli = scene.cli().await;
    let (mut answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    pieces.send(Ok((start(100, 0) + &text("four bytes and more")).into())).await.unwrap();
    piece(&mut answer).await.unwrap().unwrap();
    assert!(matches!(agent.hear().await, Event::Begun { request: 2, .. }));
    drop((answer, cli));
    let ended = agent.hear().await;
    let tokens = Tokens { input: 100, output: 5, ..Tokens::default() };
    assert!(
        matches!(ended, Event::Ended { request: 2, tokens: t, estimated: true, .. } if t == tokens),
        "{ended:?}"
    );
    tokio::time::timeout(support::PATIENCE, pieces.closed())
        .await
        .expect("the API's connection is given up, too");

    let (pieces, reply) = live(200, &[STREAM]);
    scene.api.will(reply);
    let mut cli = scene.cli().await;
    let (mut answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    pieces.send(Ok(start(50, 0).into())).await.unwrap();
    piece(&mut answer).await.unwrap().unwrap();
    pieces.send(Err(std::io::Error::other("cut"))).await.unwrap();
    assert!(rest(answer).await.is_err(), "the CLI sees the cut");
    assert!(matches!(agent.hear().await, Event::Begun { request: 3, .. }));
    assert!(matches!(
        agent.hear().await,
        Event::Ended { request: 3, estimated: true, tokens: Tokens { input: 50, .. }, .. }
    ));
    let totals = ledger::totals(&scene.place.spec.attempt_dir).unwrap();
    assert_eq!((totals[0].requests, totals[0].estimated_requests), (2, 2));
}

#[tokio::test]
async fn requests_wait_for_an_agent_and_are_asked_again_of_the_next_one() {
    let scene = Scene::new().await;
    scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    let mut cli = scene.cli().await;
    let ask = async {
        let (mut first, _) = scene.agent().await;
        assert_eq!(first.asked().await.request, 1);
        drop(first);
        let (mut second, hello) = scene.agent().await;
        assert!(matches!(hello, Event::Hello { in_flight, .. } if in_flight.is_empty()));
        assert_eq!(second.let_go().await.request, 1);
        second
    };
    let (answer, mut agent) = tokio::join!(cli.ask(true, "x"), ask);
    assert!(rest(answer).await.is_ok());
    while !matches!(agent.hear().await, Event::Ended { .. }) {}
    let (pieces, reply) = live(200, &[STREAM]);
    scene.api.will(reply);
    let (_answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    let (_, hello) = scene.agent().await;
    let Event::Hello { totals, in_flight, .. } = hello else { panic!("{hello:?}") };
    assert_eq!((totals[0].requests, in_flight[0].request), (1, 2));
    drop(pieces);
}

#[tokio::test]
async fn a_wait_for_admission_is_no_hang_and_a_silent_api_is_one() {
    let scene = Scene::with(|place| {
        place.spec.limits.silence_ms = Some(700);
        // Without a loop, whose CPU would be a sign of life.
        place.spec.args[1] = scene::CHILD.replace("while", "exec sleep 600; while");
    })
    .await;
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    let held = async {
        let ask = agent.asked().await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(!scene.place.spec.attempt_dir.join("exit.json").exists(), "it is held, not hung");
        agent.say(Command::Go { request: ask.request }).await;
        agent
    };
    let request = cli.request("POST /v1/messages", scene::question(true, "x"));
    let silent = async { assert!(cli.try_send(request).await.is_err(), "the API is silent to the end") };
    let (_agent, ()) = tokio::join!(held, silent);
    let (_, record) = see_through(scene.supervised).await;
    assert_eq!(record.stop.unwrap().cause, StopCause::Hang);
}

#[tokio::test]
async fn a_killed_supervisor_loses_nothing_but_what_was_in_flight() {
    let scene = Scene::new().await;
    let (agent, _) = scene.agent().await;
    let mut agents = tokio::task::JoinSet::new();
    agents.spawn(agent.wave_through());
    let mut cli = scene.cli().await;
    for _ in 0..3 {
        scene.api.will(whole(200, &[STREAM], start(10, 0) + &stop(2)));
        rest(cli.ask(true, "x").await).await.unwrap();
    }
    let (pieces, reply) = live(200, &[STREAM]);
    scene.api.will(reply);
    let _answer = cli.ask(true, "x").await;
    let pid = rustix::process::Pid::from_raw(scene.supervised.supervisor_pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("the child is gone with it", || scene.place.processes().is_empty()).await;
    let totals = ledger::totals(&scene.place.spec.attempt_dir).unwrap();
    assert_eq!((totals[0].requests, totals[0].tokens.input), (3, 30));
    drop(pieces);
}

#[tokio::test]
async fn what_is_in_flight_when_the_child_ends_is_entered_before_the_end_is_told() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let (pieces, reply) = live(200, &[STREAM]);
    scene.api.will(reply);
    let mut cli = scene.cli().await;
    let (mut answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    pieces.send(Ok(start(10, 0).into())).await.unwrap();
    piece(&mut answer).await.unwrap().unwrap();
    scene.stop();
    until("the end is recorded", || scene.place.spec.attempt_dir.join("exit.json").exists()).await;
    let totals = ledger::totals(&scene.place.spec.attempt_dir).unwrap();
    assert_eq!((totals[0].estimated_requests, totals[0].tokens.input), (1, 10));
    assert!(matches!(agent.hear().await, Event::Begun { .. }));
    assert!(matches!(agent.hear().await, Event::Ended { estimated: true, .. }));
}
