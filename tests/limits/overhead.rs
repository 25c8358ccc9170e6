//! What the gateway costs: time to the first byte beside a direct request, and memory while a long answer passes. The figures
//! of debug builds are printed, not judged; `cargo test --release` gives those of docs/performance.md.

use crate::stage::figures;
use orch_agent::gateway::spec::{GatewaySecrets, GatewaySpec};
use orch_agent::gateway::thread::{Bound, Place};
use orch_agent::gateway::wire::{Command, Event, WIRE_VERSION};
use orch_standin::api::ApiStandin;
use orch_tests::budget::{budget, percentile};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TOKEN: &str = "sk-ant-orch-overhead";
const KEY: &str = "sk-ant-overhead-key";
const ID: &str = "overhead";
/// Bytes of one piece of a long answer.
const PIECE: usize = 64 << 10;
/// What may be held of a long answer, whatever its length.
const MOST_GROWTH: u64 = 24 << 20;

/// A gateway to `upstream` and somebody who lets every request go.
struct Through {
    gateway: Option<orch_agent::gateway::thread::Gateway>,
    address: SocketAddr,
    agent: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Through {
    fn start(upstream: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let env = BTreeMap::new();
        let place = Place { runtime_dir: dir.path(), id: ID, attempt_dir: dir.path(), env: &env };
        let secrets = GatewaySecrets { token: TOKEN.to_owned(), key: KEY.to_owned() };
        let bound = Bound::new(&GatewaySpec::to(upstream), &secrets, place).expect("bound");
        let url = bound.variables(&env)["ANTHROPIC_BASE_URL"].clone();
        let address = url.strip_prefix("http://").expect("plain").parse().expect("an address");
        let gateway = bound.start().expect("a thread");
        let socket = UnixStream::connect(socket(dir.path())).expect("the gateway listens");
        let agent = std::thread::spawn(move || let_go(&socket));
        Self { gateway: Some(gateway), address, agent: Some(agent), dir }
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        // With the gateway its socket ends, and with that the agent.
        drop(self.gateway.take());
        let _ = std::fs::remove_file(socket(self.dir.path()));
        drop(self.agent.take());
    }
}

fn socket(dir: &Path) -> std::path::PathBuf {
    orch_agent::gateway::talk::socket_path(dir, ID)
}

/// The agent's side: every request may go.
fn let_go(socket: &UnixStream) {
    let mut out = socket;
    let mut say = |command: &Command| {
        let line = serde_json::to_string(command).expect("json") + "\n";
        out.write_all(line.as_bytes()).is_ok()
    };
    say(&Command::Hello { version: WIRE_VERSION });
    for line in BufReader::new(socket).lines() {
        let Ok(line) = line else { return };
        if let Ok(Event::Ask(ask)) = serde_json::from_str(&line)
            && !say(&Command::Go { request: ask.request })
        {
            return;
        }
    }
}

/// A connection that is kept, as the CLI keeps its own.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        Self(BufReader::new(stream))
    }

    /// Sends a request and waits for the first byte of its answer; the rest is read afterwards.
    fn first_byte(&mut self, key: &str, body: &str) -> Duration {
        let began = Instant::now();
        self.send(key, body);
        let buffered = self.0.fill_buf().expect("an answer");
        assert!(!buffered.is_empty(), "the connection was closed");
        let took = began.elapsed();
        self.skip(|_| {});
        took
    }

    fn send(&mut self, key: &str, body: &str) {
        let head = format!(
            "POST /v1/messages?beta=true HTTP/1.1\r\nhost: api\r\nx-api-key: {key}\r\nanthropic-version: 2023-06-01\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(head.as_bytes()).expect("sent");
    }

    /// Reads an answer in chunks to its end; gives its bytes.
    fn skip(&mut self, mut seen: impl FnMut(u64)) -> u64 {
        let mut line = String::new();
        let mut next = |reader: &mut BufReader<TcpStream>| {
            line.clear();
            reader.read_line(&mut line).expect("a line");
            line.trim_end().to_owned()
        };
        assert!(next(&mut self.0).contains(" 200 "), "refused");
        while !next(&mut self.0).is_empty() {}
        let mut all = 0;
        let mut piece = vec![0; PIECE];
        loop {
            let size = u64::from_str_radix(&next(&mut self.0), 16).expect("a chunk");
            let mut left = usize::try_from(size).expect("small");
            while left > 0 {
                let part = left.min(PIECE);
                self.0.read_exact(&mut piece[..part]).expect("a chunk");
                left -= part;
            }
            next(&mut self.0);
            all += size;
            seen(all);
            if size == 0 {
                return all;
            }
        }
    }
}

fn times(address: SocketAddr, key: &str, count: u64) -> Vec<Duration> {
    let body = serde_json::json!({"model": "claude-opus-4-8", "max_tokens": 1_000, "stream": true,
        "system": "x".repeat(20_000), "messages": [{"role": "user", "content": "[[text]]"}]})
    .to_string();
    let mut connection = Connection::open(address);
    (0..count).map(|_| connection.first_byte(key, &body)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_byte_comes_hardly_later_through_the_gateway() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let api = ApiStandin::start(listener).expect("the stand-in API");
    let (url, direct) = (api.url(), api.addr());
    let count = budget("ORCH_LIMITS_OVERHEAD", 200);
    let measured = tokio::task::spawn_blocking(move || {
        let through = Through::start(&url);
        let mut both = (Vec::new(), Vec::new());
        // In turns, so that whatever else the machine does hits both.
        for _ in 0..4 {
            both.0.extend(times(direct, KEY, count / 4));
            both.1.extend(times(through.address, TOKEN, count / 4));
        }
        both
    });
    let (direct, through) = measured.await.expect("measured");
    let at = |percent: usize| (percentile(&direct, percent), percentile(&through, percent));
    let added = |(without, with): (Duration, Duration)| with.saturating_sub(without);
    figures(
        "gateway overhead",
        &format!(
            "{count} requests of 20 KB, {} build: to the first byte p50 {:?} direct, {:?} through ({:?} more), p99 {:?} and {:?}",
            if cfg!(debug_assertions) { "debug" } else { "release" },
            at(50).0,
            at(50).1,
            added(at(50)),
            at(99).0,
            at(99).1
        ),
    );
    assert!(added(at(50)) < Duration::from_millis(50), "the gateway holds requests up: {:?}", at(50));
}

/// An API whose one answer is as long as it is told, and never held whole anywhere.
fn long_answer(bytes: u64) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            line.clear();
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).expect("the request");
        let mut out = reader.into_inner();
        let mut say = |text: &str| out.write_all(text.as_bytes()).expect("taken");
        say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut chunk = |data: &str| say(&format!("{:x}\r\n{data}\r\n", data.len()));
        chunk(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
        );
        let text = "y".repeat(PIECE);
        let delta = format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
        );
        for _ in 0..bytes.div_ceil(PIECE as u64) {
            chunk(&delta);
        }
        chunk(
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":7}}\n\n",
        );
        chunk("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
        say("0\r\n\r\n");
    });
    (url, server)
}

/// Memory of this process now, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("memory");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}

#[test]
fn a_long_answer_passes_without_being_held() {
    let bytes = budget("ORCH_LIMITS_STREAM_MB", 200) << 20;
    let (url, server) = long_answer(bytes);
    let through = Through::start(&url);
    let mut connection = Connection::open(through.address);
    let began = Instant::now();
    connection.send(TOKEN, r#"{"model":"claude-opus-4-8","max_tokens":9,"stream":true,"messages":[]}"#);
    let (mut first, mut most) = (None, 0);
    let passed = connection.skip(|all| {
        // The first tenth is for what every answer needs.
        if all > bytes / 10 {
            let now = memory();
            most = most.max(now);
            first.get_or_insert(now);
        }
    });
    let grown = most.saturating_sub(first.unwrap_or_default());
    server.join().expect("the answer was taken");
    figures(
        "gateway memory",
        &format!(
            "{} MB of one answer in {:.1?}: grown by {} KiB after its first tenth",
            passed >> 20,
            began.elapsed(),
            grown >> 10
        ),
    );
    assert!(passed >= bytes);
    // Other rows run in this process at the same time; what an answer held would be as long as it is.
    assert!(grown < MOST_GROWTH.max(bytes / 4), "grown by {grown} bytes");
}
