//! The Messages API stand-in over plain TCP: both forms of an answer, multi-step scripts, failures, the record.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic like the test itself")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use orch_standin::api::{ApiHandle, ApiStandin, KeyRule};
use serde_json::{Value, json};

struct Server {
    runtime: tokio::runtime::Runtime,
    handle: ApiHandle,
}

impl Server {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            ApiStandin::start(listener).unwrap()
        });
        Self { runtime, handle }
    }

    fn ask(&self, body: &Value, more_headers: &str) -> Answer {
        post(self.handle.addr(), body, &format!("x-api-key: canary-key\r\n{more_headers}"))
    }

    fn stop(self) {
        self.runtime.block_on(self.handle.shutdown());
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// The data of all events of a stream.
    fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

/// Sends HTTP/1.0, so that a body ends where the connection does.
fn exchange(addr: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // A connection that is cut gives an error after what was sent.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn post(addr: SocketAddr, body: &Value, headers: &str) -> Answer {
    let body = body.to_string();
    let request = format!(
        "POST /v1/messages?beta=true HTTP/1.0\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    exchange(addr, &request)
}

fn prompt(text: &str) -> Value {
    json!({"model": "claude-sonnet-5", "max_tokens": 100, "messages": [{"role": "user", "content": text}]})
}

#[test]
fn an_answer_comes_whole_or_as_events_and_is_billed_alike() {
    let server = Server::start();
    assert_eq!(exchange(server.handle.addr(), "HEAD / HTTP/1.0\r\n\r\n").status, 200);
    let mut body =
        prompt(r#"hi [[text {"text":"hello there","usage":{"input":10,"output":5,"cache_read":7}}]]"#);
    let whole = server.ask(&body, "").json();
    assert_eq!(
        (&whole["content"][0]["text"], &whole["stop_reason"]),
        (&json!("hello there"), &json!("end_turn"))
    );
    body["stream"] = json!(true);
    let streamed = server.ask(&body, "");
    assert!(streamed.head.contains("text/event-stream") && streamed.head.contains("x-orch-standin"));
    let events = streamed.events();
    assert_eq!(
        (&events[0]["type"], &events.last().unwrap()["type"]),
        (&json!("message_start"), &json!("message_stop"))
    );
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, "hello there");
    let total = &server.handle.ledger().models["claude-sonnet-5"];
    assert_eq!(
        (total.requests, total.input_tokens, total.output_tokens, total.cache_read_tokens),
        (2, 20, 10, 14)
    );
    server.stop();
}

#[test]
fn a_script_advances_with_tool_results_and_knows_sub_agents() {
    let server = Server::start();
    let mut body = prompt(r#"go [[tool {"name":"Bash","input":{"command":"ls"}}]][[text {"text":"end"}]]"#);
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "system", "content": "agents and skills"}));
    let first = server.ask(&body, "").json();
    assert_eq!((&first["content"][0]["name"], &first["stop_reason"]), (&json!("Bash"), &json!("tool_use")));
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": first["content"]}));
    messages.push(
        json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a.txt"}]}),
    );
    let second = server.ask(&body, "x-claude-code-agent-id: a1\r\nx-claude-code-session-id: s1\r\n").json();
    assert_eq!(second["content"][0]["text"], "end");
    let requests = server.handle.requests();
    assert_eq!((requests[0].agent_id.as_deref(), requests[1].agent_id.as_deref()), (None, Some("a1")));
    assert_eq!((requests[1].number, requests[1].answer.as_str()), (2, "end_turn"));
    assert_eq!(server.handle.ledger().sub_agent_requests, 1);
    server.stop();
}

#[test]
fn failures_strike_as_often_as_told_and_then_pass() {
    let server = Server::start();
    let body = prompt(r#"[[error {"status":429,"times":1,"retry_after":3,"message":"slow down"}]][[text]]"#);
    let failed = server.ask(&body, "");
    assert_eq!((failed.status, &failed.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    assert!(failed.head.contains("retry-after: 3"), "{}", failed.head);
    assert_eq!(server.ask(&body, "").status, 200);
    assert_eq!(
        server.ask(&prompt("[[error {\"status\":529}]]"), "").json()["error"]["type"],
        "overloaded_error"
    );
    assert_eq!(server.ask(&prompt("[[refusal]]"), "").json()["stop_reason"], "refusal");
    assert_eq!(server.ask(&prompt("[[maxtok]]"), "").json()["stop_reason"], "max_tokens");
    assert_eq!(
        server.ask(&prompt("[[replay {\"stream\":\"text\"}]]"), "").status,
        400,
        "not for this stand-in"
    );
    assert_eq!(server.ask(&prompt("[[nosuch {}]]"), "").status, 400);
    assert_eq!(server.handle.ledger().failed, 4);
    server.stop();
}

#[test]
fn connections_are_reset_and_streams_cut_on_purpose() {
    let server = Server::start();
    let reset = server.ask(&prompt("[[reset]]"), "");
    assert_eq!((reset.status, reset.head.as_str()), (0, ""));
    let mut body = prompt("[[cut {\"times\":1}]][[text {\"text\":\"after\"}]]");
    body["stream"] = json!(true);
    let cut = server.ask(&body, "").events();
    assert!(cut.iter().any(|event| event["type"] == "content_block_delta"));
    assert!(cut.iter().all(|event| event["type"] != "message_stop"), "{cut:?}");
    body["stream"] = json!(false);
    assert_eq!(server.ask(&body, "").json()["content"][0]["text"], "after");
    server.stop();
}

#[test]
fn silence_lasts_until_the_server_stops() {
    let server = Server::start();
    let addr = server.handle.addr();
    let mut body = prompt("[[hangmid]]");
    body["stream"] = json!(true);
    let clients = [body, prompt("[[hang]]")]
        .map(|body| std::thread::spawn(move || post(addr, &body, "x-api-key: k\r\n")));
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while server.handle.requests().len() < 2 {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    server.stop();
    let [mid, headers] = clients.map(|client| client.join().unwrap());
    assert_eq!((mid.status, headers.status), (200, 0));
}

#[test]
fn a_request_needs_a_credential_and_none_is_kept() {
    let server = Server::start();
    assert_eq!(post(server.handle.addr(), &prompt("[[text]]"), "").status, 401);
    assert_eq!(server.ask(&prompt("[[text]]"), "authorization: Bearer canary-token\r\n").status, 200);
    let shown = exchange(server.handle.addr(), "GET /standin/requests HTTP/1.0\r\n\r\n").body;
    assert!(shown.contains("(present)") && !shown.contains("canary"), "{shown}");
    assert!(!format!("{:?}", server.handle.requests()).contains("canary"));
    server.stop();
}

#[test]
fn each_credential_gets_what_the_test_decides_and_is_known_by_its_name_only() {
    let server = Server::start();
    let ask = |header: &str| post(server.handle.addr(), &prompt("[[text]]"), header);
    server.handle.set_key("first", "canary-1", KeyRule::Serve);
    server.handle.set_key("second", "canary-2", KeyRule::Refuse(401));
    let resets_in = Duration::from_secs(600);
    server.handle.set_key("third", "canary-3", KeyRule::Window { claim: "seven_day".into(), resets_in });
    assert_eq!(ask("x-api-key: canary-1\r\n").status, 200);
    assert_eq!(ask("x-api-key: canary-2\r\n").json()["error"]["type"], "authentication_error");
    let window = ask("authorization: Bearer canary-3\r\n");
    assert_eq!(window.status, 429);
    for header in ["status: rejected", "representative-claim: seven_day", "reset: "] {
        assert!(window.head.contains(&format!("anthropic-ratelimit-unified-{header}")), "{}", window.head);
    }
    server.handle.set_key("second", "canary-2", KeyRule::Serve);
    assert_eq!(ask("x-api-key: canary-2\r\n").status, 200);
    assert_eq!(ask("x-api-key: unknown\r\n").status, 200);
    let keys: Vec<_> = server.handle.requests().into_iter().map(|request| request.key).collect();
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(keys, [named("first"), named("second"), named("third"), named("second"), None]);
    assert!(!format!("{:?}", server.handle).contains("canary"));
    server.stop();
}

#[test]
fn a_request_is_searched_for_a_text_and_not_kept() {
    let server = Server::start();
    server.ask(&prompt("the needle, too early [[text]]"), "");
    server.handle.look_for("the needle");
    server.ask(&prompt("here is the needle [[text]]"), "");
    server.ask(&prompt("here is none [[text]]"), "");
    let found: Vec<_> = server.handle.requests().into_iter().map(|request| request.found).collect();
    assert_eq!(found, [vec![], vec!["the needle".to_owned()], vec![]]);
    server.stop();
}

#[test]
fn without_a_script_it_rehearses_and_fills_a_schema() {
    let server = Server::start();
    let mut body = prompt("Plan the summer campaign");
    body["system"] = json!([{"type": "text", "text": "You are Fabien."}]);
    let said = server.ask(&body, "").json()["content"][0]["text"].as_str().unwrap().to_owned();
    assert!(said.contains("rehearsal") && said.contains("Campaign"), "{said}");
    let schema =
        json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 4}}, "required": ["n"]});
    body["tools"] = json!([{"name": "StructuredOutput", "input_schema": schema}]);
    assert_eq!(server.ask(&body, "").json()["content"][0]["input"], json!({"n": 4}));
    server.stop();
}

#[test]
fn only_loopback_is_served() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        assert!(ApiStandin::start(listener).is_err());
    });
}

#[test]
fn it_carries_more_requests_than_a_small_fleet_makes() {
    const CLIENTS: usize = 4;
    const EACH: usize = 60;
    let server = Server::start();
    let setup = orch_standin::api::Setup {
        cache: Some(orch_standin::api::CacheRules::default()),
        ..Default::default()
    };
    server.handle.set_up(setup);
    let mut body = prompt("[[text]]");
    body["system"] = json!("x".repeat(20_000));
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..EACH).for_each(|_| assert_eq!(server.ask(&body, "").status, 200)));
        }
    });
    let rate = (CLIENTS * EACH) as f64 / began.elapsed().as_secs_f64();
    std::io::stderr()
        .write_all(format!("standin: {rate:.0} requests of 20 KB a second\n").as_bytes())
        .unwrap();
    assert_eq!(server.handle.entries().len(), CLIENTS * EACH);
    assert!(rate > 100.0, "{rate} a second");
    server.stop();
}
