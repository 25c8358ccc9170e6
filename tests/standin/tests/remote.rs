//! The scripted CLI that really asks: against the API stand-in with its limits, cache and ledger.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic like the test itself")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orch_standin::api::{ApiHandle, ApiStandin, CacheRules, Ending, Entry, Latency, Limit, Rates, Setup};
use serde_json::Value;

const SESSION: &str = "11111111-2222-4333-8444-555555555555";
/// Long enough to be kept by the cache: 2,000 tokens.
const SYSTEM: usize = 8_000;

/// The API, and a directory for sessions.
struct Stage {
    runtime: tokio::runtime::Runtime,
    api: ApiHandle,
    dir: tempfile::TempDir,
}

impl Stage {
    fn set(setup: Setup) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let api = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            ApiStandin::start(listener).unwrap()
        });
        api.set_key("north", "key-north", orch_standin::api::KeyRule::Serve);
        api.set_up(setup);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("system.md"), "x".repeat(SYSTEM)).unwrap();
        Self { runtime, api, dir }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_standin-claude"));
        command.args(["-p", "--output-format", "stream-json", "--verbose", "--model", "opus"]);
        command.args(["--system-prompt-file", "system.md"]).args(more);
        command.current_dir(self.dir.path()).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("ORCH_STANDIN_DELAY_MS", "0");
        command.env("CLAUDE_CONFIG_DIR", self.dir.path().join("config"));
        command.env("ANTHROPIC_BASE_URL", self.api.url()).env("ANTHROPIC_API_KEY", "key-north");
        command.env("CLAUDE_CODE_ATTRIBUTION_HEADER", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command
    }

    /// Runs one prompt to its end; gives the events.
    fn run(&self, more: &[&str], prompt: &str) -> Vec<Value> {
        finish(&mut self.command(more), prompt)
    }

    fn entries(&self) -> Vec<Entry> {
        self.api.entries()
    }

    fn stop(self) {
        self.runtime.block_on(self.api.shutdown());
    }
}

fn finish(command: &mut Command, prompt: &str) -> Vec<Value> {
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(prompt.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn result(events: &[Value]) -> &Value {
    events.iter().rfind(|event| event["type"] == "result").unwrap()
}

/// Everything billed of some entries: input, output, read, written.
fn billed(entries: &[Entry]) -> [u64; 4] {
    entries.iter().fold([0; 4], |[input, output, read, written], entry| {
        let usage = entry.usage;
        [input + usage.input, output + usage.output, read + usage.cache_read, written + usage.cache_write]
    })
}

/// The same as the CLI's result says.
fn said(result: &Value) -> [u64; 4] {
    let model = &result["modelUsage"]["claude-opus-4-8"];
    ["inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens"]
        .map(|name| model[name].as_u64().unwrap())
}

fn cached() -> Setup {
    Setup { cache: Some(CacheRules::default()), ..Setup::default() }
}

#[test]
fn every_request_of_a_run_and_its_sub_agents_is_in_the_ledger_and_in_the_result() {
    let stage = Stage::set(cached());
    let prompt = r#"go [[api {"calls":3,"input":500,"output":100,"grow":50,"subagents":1,"subagent":{"calls":2,"output":30}}]]"#;
    let events = stage.run(&["--session-id", SESSION], prompt);
    let entries = stage.entries();
    assert_eq!(entries.len(), 1 + 2 + 3, "{entries:?}");
    assert!(entries.iter().all(|entry| entry.ending == Ending::Completed && entry.session_id == SESSION));
    assert_eq!(entries.iter().filter(|entry| !entry.agent_id.is_empty()).count(), 2);
    assert_eq!(said(result(&events)), billed(&entries), "{events:#?}");
    assert_eq!(billed(&entries)[1], 4 * 100 + 2 * 30);
    // The first request writes the system prompt and its own words, each later one reads what was there before.
    assert!(entries[0].usage.cache_write > 2_500, "{:?}", entries[0].usage);
    let last = entries.last().unwrap().usage;
    assert!(last.cache_read > 2_500 && last.cache_write < 400, "{last:?}");
    stage.stop();
}

#[test]
fn another_run_of_the_same_worker_reads_the_system_prompt_unless_the_billing_line_is_in_the_way() {
    let stage = Stage::set(cached());
    stage.run(&[], r#"one [[api {"output":5}]]"#);
    stage.run(&[], r#"two [[api {"output":5}]]"#);
    let mut marked = stage.command(&[]);
    finish(marked.env("CLAUDE_CODE_ATTRIBUTION_HEADER", "1"), r#"three [[api {"output":5}]]"#);
    let read: Vec<bool> = stage.entries().iter().map(|entry| entry.usage.cache_read > 2_000).collect();
    assert_eq!(read, [false, true, false]);
    stage.stop();
}

#[test]
fn a_refusal_is_waited_out_as_long_as_it_says() {
    let rates = Rates { requests: Some(60), ..Rates::default() };
    let limit = Limit { burst: Duration::from_secs(1), ..Limit::of("north", rates) };
    let stage = Stage::set(Setup { limits: vec![limit], ..Setup::default() });
    let began = Instant::now();
    let events = stage.run(&[], r#"[[api {"calls":2}]]"#);
    assert_eq!(result(&events)["is_error"], false);
    let retry = events.iter().find(|event| event["subtype"] == "api_retry").unwrap();
    assert_eq!((&retry["error_status"], &retry["error"]), (&429.into(), &"rate_limit".into()));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let statuses: Vec<u16> = stage.entries().iter().map(|entry| entry.status).collect();
    assert_eq!(statuses, [200, 429, 200]);
    let mut impatient = stage.command(&[]);
    let events = finish(impatient.env("CLAUDE_CODE_MAX_RETRIES", "0"), r#"[[api {"calls":3}]]"#);
    assert_eq!(result(&events)["api_error_status"], 429);
    stage.stop();
}

#[test]
fn a_window_refuses_from_a_request_on_and_the_conversation_goes_on_after_it() {
    let stage = Stage::set(cached());
    stage.api.exhaust("north", "five_hour", 1, Duration::from_millis(1_500));
    let mut command = stage.command(&["--session-id", SESSION]);
    let prompt = r#"work [[api {"calls":3,"output":10}]]"#;
    let events = finish(command.env("CLAUDE_CODE_MAX_RETRIES", "0"), prompt);
    assert_eq!(result(&events)["api_error_status"], 429);
    let deadline = Instant::now() + Duration::from_secs(20);
    while stage.api.now() < stage.entries()[1].came + Duration::from_millis(1_500) {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let note = "You were interrupted while you worked on this task (limit). Go on.";
    let events = stage.run(&["--resume", SESSION], note);
    assert_eq!(result(&events)["is_error"], false, "{events:#?}");
    let entries = stage.entries();
    let endings: Vec<Ending> = entries.iter().map(|entry| entry.ending).collect();
    assert_eq!(endings, [Ending::Completed, Ending::Failed, Ending::Completed, Ending::Completed]);
    assert!(entries.iter().all(|entry| entry.session_id == SESSION));
    // What was said before is read from the cache: the history was sent, once.
    assert!(entries[2].usage.cache_read >= 2_000, "{:?}", entries[2].usage);
    stage.stop();
}

#[test]
fn who_hangs_up_pays_for_what_was_generated_by_then() {
    let latency = Latency { first_byte: Duration::ZERO, tokens_per_second: Some(1_000) };
    let stage = Stage::set(Setup { latency, ..cached() });
    let mut child = stage.command(&[]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"[[api {"output":10000}]]"#).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while stage.entries().first().is_none_or(|entry| entry.begun.is_none()) {
        assert!(Instant::now() < deadline, "no answer begun");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while stage.entries()[0].ending == Ending::Open {
        assert!(Instant::now() < deadline, "nobody noticed");
        std::thread::yield_now();
    }
    let entry = stage.entries().remove(0);
    assert_eq!(entry.ending, Ending::HungUp);
    assert!(
        entry.usage.output >= 1 && entry.usage.output < 10_000 && entry.usage.cache_write > 2_000,
        "{entry:?}"
    );
    stage.stop();
}

#[test]
fn a_loop_without_end_is_ended_by_its_budget_and_few_hundred_requests_take_few_seconds() {
    let stage = Stage::set(cached());
    let prompt = r#"[[api {"subagents":1,"subagent":{"forever":true,"output":20}}]]"#;
    let began = Instant::now();
    let events = stage.run(&["--max-budget-usd", "0.25"], prompt);
    assert_eq!(result(&events)["subtype"], "error_max_budget_usd");
    let entries = stage.entries();
    assert!(entries.len() > 20, "{}", entries.len());
    let rate = entries.len() as f64 / began.elapsed().as_secs_f64();
    let measured = format!("standin: {} requests of one CLI, {rate:.0} a second\n", entries.len());
    let _ = std::io::stderr().write_all(measured.as_bytes());
    assert_eq!(said(result(&events)), billed(&entries));
    stage.stop();
}

#[test]
fn the_ledger_is_told_over_http_without_credentials() {
    let stage = Stage::set(cached());
    stage.run(&["--session-id", SESSION], r#"[[api {"output":7}]]"#);
    let text = get(&stage.api.url(), "/_standin/ledger");
    assert!(
        text.contains(SESSION) && text.contains("\"key\":\"north\"") && !text.contains("key-north"),
        "{text}"
    );
    stage.stop();
}

fn get(url: &str, path: &str) -> String {
    use std::io::Read as _;
    let at = url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(at).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_scripted_cli_asks_nobody_unless_it_is_told_to() {
    let stage = Stage::set(cached());
    let events = stage.run(&[], r#"[[text {"text":"alone"}]]"#);
    assert_eq!(result(&events)["result"], "alone");
    assert!(stage.entries().is_empty());
    assert!(Path::new(&stage.dir.path().join("config")).exists());
    stage.stop();
}
