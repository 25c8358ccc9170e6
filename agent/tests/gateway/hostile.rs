//! A child that speaks HTTP as no CLI does: two readings of one request, other addresses, other methods, heads without end.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::scene::{KEY, STREAM, Scene, question, rest, start, stop, whole};
use super::support::PATIENCE;

/// Says `text` and returns all that comes back until the gateway hangs up or is silent.
async fn say(scene: &Scene, text: &str) -> String {
    let mut stream = TcpStream::connect(&scene.door).await.unwrap();
    // It may hang up before everything is said.
    let _ = stream.write_all(text.as_bytes()).await;
    let (mut heard, mut piece) = (Vec::new(), [0; 4_096]);
    loop {
        let silence = if heard.is_empty() { PATIENCE } else { Duration::from_millis(300) };
        match tokio::time::timeout(silence, stream.read(&mut piece)).await {
            Ok(Ok(read)) if read > 0 => heard.extend_from_slice(&piece[..read]),
            _ => return String::from_utf8_lossy(&heard).into_owned(),
        }
    }
}

async fn scene() -> (Scene, JoinSet<()>) {
    let scene = Scene::new().await;
    let (agent, _) = scene.agent().await;
    let mut agents = JoinSet::new();
    agents.spawn(agent.wave_through());
    (scene, agents)
}

#[tokio::test]
async fn a_request_with_two_lengths_has_one_reading_or_none() {
    let (scene, _agents) = scene().await;
    let body = question(true, "x");
    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: g\r\nx-api-key: {}\r\n", scene.token);
    let second = "POST /v1/files HTTP/1.1\r\nhost: g\r\n\r\n";
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for (lengths, sent) in [
        ("content-length: 4\r\ncontent-length: 900\r\n".to_owned(), body.clone()),
        (format!("content-length: {}, 4\r\n", body.len()), body.clone()),
        ("transfer-encoding: chunked, identity\r\n".to_owned(), chunked.clone()),
        ("content-length: +5\r\n".to_owned(), body.clone()),
    ] {
        let heard = say(&scene, &format!("{head}{lengths}\r\n{sent}{second}")).await;
        assert!(heard.starts_with("HTTP/1.1 400"), "{lengths}: {heard}");
    }
    assert!(scene.api.seen().is_empty());
    // With both, the chunks hold, and what goes on says its length once.
    scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    let both = format!("{head}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{chunked}{second}");
    let heard = say(&scene, &both).await;
    let seen = scene.api.seen();
    assert!(seen.len() == usize::from(heard.starts_with("HTTP/1.1 200")), "{heard}");
    for seen in seen {
        assert_eq!(seen.line, "POST /v1/messages");
        assert_eq!(seen.body, body);
        let lengths: Vec<_> = seen.headers.get_all("content-length").iter().collect();
        assert_eq!(lengths, [&body.len().to_string()]);
        assert!(!seen.headers.contains_key("transfer-encoding"));
    }
}

#[tokio::test]
async fn other_addresses_and_methods_lead_nowhere_and_no_answer_says_the_key() {
    let (scene, _agents) = scene().await;
    let word = format!("host: g\r\nx-api-key: {}\r\n\r\n", scene.token);
    for line in [
        "CONNECT 127.0.0.1:22",
        "TRACE /v1/messages",
        "TRACE /",
        "OPTIONS *",
        "PUT /v1/messages",
        "HEAD /v1/files",
        "HEAD /v1/organizations/me",
        "GET /v1/organizations/api_keys",
        "GET /v1/models/../files",
        "GET /v1/models/%2e%2e/files",
        "DELETE /v1/models/a",
        "POST /v1/complete",
        "POST http://127.0.0.1:22/v1/files",
        "GET /v1/messages",
    ] {
        let heard = say(&scene, &format!("{line} HTTP/1.1\r\n{word}")).await;
        assert!(heard.starts_with("HTTP/1.1 404") && !heard.contains(KEY), "{line}: {heard}");
    }
    assert!(scene.api.seen().is_empty());
    // Whatever host a request names, it goes to the API, and so does its key.
    scene.api.will(whole(200, &[("x-echo", KEY), ("location", "http://127.0.0.1:1/")], "{}"));
    let mut cli = scene.cli().await;
    let mut request = cli.request("POST http://elsewhere.example/v1/messages/count_tokens", "{}");
    for (name, value) in
        [("connection", "x-api-key"), ("authorization", "Bearer x"), ("proxy-authorization", "x")]
    {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = cli.send(request).await;
    assert_eq!((answer.status(), answer.headers().get("x-echo")), (StatusCode::OK, None));
    let seen = scene.api.seen().remove(0);
    assert_eq!(seen.line, "POST /v1/messages/count_tokens");
    assert_eq!(seen.headers.get("host").unwrap(), scene.api.url.trim_start_matches("http://"));
    assert_eq!(seen.headers.get_all("x-api-key").iter().collect::<Vec<_>>(), [KEY]);
    assert!(!seen.headers.contains_key("authorization") && !seen.headers.contains_key("proxy-authorization"));
    // A way elsewhere is passed on, and not followed.
    scene.api.will(whole(307, &[("location", "/v1/files")], "{}"));
    let answer = scene.cli().await.ask(true, "x").await;
    assert_eq!((answer.status().as_u16(), scene.api.seen().len()), (307, 2));
    scene.api.will(whole(500, &[("x-echo", KEY)], "{}"));
    let answer = scene.cli().await.ask(true, "x").await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("x-echo")), (500, None));
}

#[tokio::test]
async fn what_cannot_be_read_is_not_passed_on_and_heads_have_an_end() {
    let (scene, _agents) = scene().await;
    let mut cli = scene.cli().await;
    for encoding in ["gzip", "br", "identity"] {
        let mut request = cli.request("POST /v1/messages", question(true, "x"));
        request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
        let answer = cli.send(request).await;
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        rest(answer).await.unwrap();
    }
    let head = format!("GET /v1/models HTTP/1.1\r\nx-api-key: {}\r\n", scene.token);
    let long = format!("{head}x-long: {}\r\n\r\n", "x".repeat(200 * 1024));
    let many = format!("{head}{}\r\n", "x: y\r\n".repeat(120));
    for text in [long, many] {
        let heard = say(&scene, &text).await;
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 431"), "{heard}");
    }
    assert!(scene.api.seen().is_empty());
}
