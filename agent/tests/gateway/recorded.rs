//! Exchanges that are recorded: everything of them but secrets.

use super::scene::{KEY, STREAM, Scene, live, piece, rest, start, stop, text, whole};

fn lines(scene: &Scene, number: u32) -> Vec<serde_json::Value> {
    let file = scene.place.dir.path().join(format!("recorded/{number:06}.jsonl"));
    let text = std::fs::read_to_string(file).unwrap();
    assert!(!text.contains(KEY) && !text.contains(&scene.token), "no secret is recorded");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_exchange_is_recorded_without_its_secrets() {
    let scene = Scene::with(|place| {
        place.spec.gateway.as_mut().unwrap().record_dir = Some(place.dir.path().join("recorded"));
    })
    .await;
    let (agent, _) = scene.agent().await;
    let mut agents = tokio::task::JoinSet::new();
    agents.spawn(agent.wave_through());
    let mut cli = scene.cli().await;
    let said = start(1, 0) + &text(&format!("the key is {KEY}")) + &stop(2);
    scene.api.will(whole(200, &[STREAM, ("request-id", "r1")], said.clone()));
    let line = format!("POST /v1/messages?beta=true&with={}", scene.token);
    let mut request = cli.request(&line, super::scene::question(true, &format!("what is {KEY}")));
    request.headers_mut().insert("x-word", scene.token.parse().unwrap());
    let heard = rest(cli.send(request).await).await.unwrap();
    assert_eq!(heard, said, "what passes is not changed");
    let exchange = lines(&scene, 1);
    let hidden = "*".repeat(KEY.len());
    assert_eq!((&exchange[0]["record"], &exchange[0]["version"]), (&"request".into(), &1.into()));
    let word = "*".repeat(scene.token.len());
    assert_eq!(exchange[0]["path"], format!("/v1/messages?beta=true&with={word}"));
    let asked: serde_json::Value = serde_json::from_str(exchange[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(asked["messages"][0]["content"], format!("what is {hidden}"));
    assert_eq!((&exchange[1]["record"], &exchange[1]["status"]), (&"answer".into(), &200.into()));
    let data: String = exchange.iter().filter_map(|line| line["text"].as_str()).collect();
    assert_eq!(data, said.replace(KEY, &hidden));
    assert_eq!(exchange.last().unwrap()["how"], "whole");

    let (pieces, reply) = live(200, &[STREAM]);
    scene.api.will(reply);
    let mut answer = cli.ask(true, "x").await;
    pieces.send(Ok(start(1, 0).into())).await.unwrap();
    piece(&mut answer).await.unwrap().unwrap();
    pieces.send(Err(std::io::Error::other("cut"))).await.unwrap();
    assert!(rest(answer).await.is_err());
    assert_eq!(lines(&scene, 2).last().unwrap()["how"], "cut");
}
