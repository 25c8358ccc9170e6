//! A child, or another attempt's, that wants more of a gateway than is good for others.

use http::StatusCode;
use orch_agent::gateway::wire::Event;
use tokio::net::TcpStream;

use super::scene::{self, STREAM, Scene, rest, start, stop, whole};

/// More than a gateway has room for.
const SILENT: usize = 400;

/// More models than an attempt may name.
const MODELS: usize = 70;

#[tokio::test]
async fn strangers_who_connect_and_say_nothing_do_not_keep_the_cli_out() {
    let scene = Scene::new().await;
    let (mut agent, _) = scene.agent().await;
    let mut known = scene.cli().await;
    let head = known.request("HEAD /", "");
    assert_eq!(known.send(head).await.status(), StatusCode::OK);
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(&scene.door).await.unwrap());
    }
    for mut cli in [known, scene.cli().await] {
        scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
        let (answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
        assert!(rest(answer).await.unwrap().ends_with(&stop(1)));
        while !matches!(agent.hear().await, Event::Ended { .. }) {}
    }
    drop(silent);
}

#[tokio::test]
async fn made_up_models_are_bounded_in_length_and_number() {
    let scene = Scene::new().await;
    let (agent, _) = scene.agent().await;
    let mut agents = tokio::task::JoinSet::new();
    agents.spawn(agent.wave_through());
    let mut cli = scene.cli().await;
    let question = |model: &str| scene::question(true, "x").replace("claude-sonnet-5", model);
    let request = cli.request("POST /v1/messages", question(&"m".repeat(129)));
    assert_eq!(cli.send(request).await.status(), StatusCode::BAD_REQUEST);
    let mut passed = 0;
    for at in 0..MODELS {
        scene.api.will(whole(404, &[], "{}"));
        let request = cli.request("POST /v1/messages", question(&format!("m{at}")));
        let answer = cli.send(request).await;
        passed += usize::from(answer.status() == StatusCode::NOT_FOUND);
        rest(answer).await.unwrap();
    }
    assert_eq!((passed, scene.api.seen().len()), (64, 64));
    let request = cli.request("POST /v1/messages", question("m0"));
    assert_eq!(cli.send(request).await.status(), StatusCode::NOT_FOUND, "one of before");
}
