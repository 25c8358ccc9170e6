//! Exchanges that a gateway recorded are given again byte for byte, so that a report of a bug can be played.

use orch_agent::gateway::spec::{GatewaySecrets, GatewaySpec};
use orch_agent::gateway::talk::socket_path;
use orch_agent::gateway::thread::{Bound, Place};
use orch_agent::gateway::wire::{Command, Event};
use orch_standin::api::{ApiStandin, Replay};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_blocking};

/// One exchange as the CLI sees it: the status line, and the body as it was cut into chunks.
fn ask(address: &str, key: &str, prompt: &str, stream: bool) -> (String, String) {
    let mut connection = TcpStream::connect(address).expect("a connection");
    let body = json!({"model": "claude-sonnet-5", "max_tokens": 100, "stream": stream,
        "messages": [{"role": "user", "content": prompt}]})
    .to_string();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all((head + &body).as_bytes()).expect("it is sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// Lets everything go that a gateway asks.
fn wave_through(socket: UnixStream) {
    let mut writer = socket.try_clone().expect("the socket");
    for line in BufReader::new(socket).lines().map_while(Result::ok) {
        if let Ok(Event::Ask(ask)) = serde_json::from_str(&line) {
            let go = json!(Command::Go { request: ask.request });
            if writeln!(writer, "{go}").is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_recorded_is_given_again_byte_for_byte() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = ApiStandin::start(TcpListener::bind("127.0.0.1:0").await.expect("a port")).expect("the API");
    let spec = GatewaySpec { record_dir: Some(dir.path().join("recorded")), ..GatewaySpec::to(api.url()) };
    let secrets = GatewaySecrets { token: "word".to_owned(), key: "sk-stand-in-not-a-key".to_owned() };
    let env = BTreeMap::new();
    let place = Place { runtime_dir: dir.path(), id: "a1", attempt_dir: dir.path(), env: &env };
    let bound = Bound::new(&spec, &secrets, place).expect("a gateway");
    let door = bound.variables(&env)["ANTHROPIC_BASE_URL"].trim_start_matches("http://").to_owned();
    let mut gateway = bound.start().expect("its thread");
    let socket = UnixStream::connect(socket_path(dir.path(), "a1")).expect("its socket");
    let mut tasks = JoinSet::new();
    tasks.spawn_blocking(move || wave_through(socket));

    let prompts = [
        ("[[text {\"text\":\"first\"}]]", true),
        ("[[slow {\"chunks\":[\"sec\",\"ond\"],\"delay_ms\":5}]]", true),
        ("[[text {\"text\":\"whole\"}]]", false),
        ("[[error {\"status\":400,\"message\":\"refused\"}]]", true),
    ];
    let play = |address: String| async move {
        let play = move || prompts.map(|(prompt, stream)| ask(&address, "word", prompt, stream));
        spawn_blocking(play).await.expect("it is asked")
    };
    let heard = play(door).await;
    gateway.end();
    assert!(heard[2].1.contains("whole") && heard[3].0.contains("400"), "{heard:?}");

    let replay = Replay::read(&dir.path().join("recorded")).expect("exchanges");
    assert_eq!(replay.len(), prompts.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let mut server = JoinSet::new();
    server.spawn(replay.serve(listener));
    let again = play(address.clone()).await;
    assert_eq!(again, heard);
    let more = spawn_blocking(move || ask(&address, "", "x", true)).await.expect("it is asked");
    assert!(more.0.contains("404"), "each is given once: {more:?}");
}
