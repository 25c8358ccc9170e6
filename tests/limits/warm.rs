//! Many tasks of one worker at once: one of them writes the prompt cache, the others read it. Beside it what happens when as
//! many CLIs simply start at the same time.

use crate::stage::{Stage, figures};
use orch_proto::v1::RunState;
use orch_standin::api::{CacheRules, Entry, Latency, Setup};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const POOL: &str = "north";
const TASKS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(180);
const DIRECTIVE: &str = r#"[[api {"calls":2,"input":50,"output":100,"grow":50}]]"#;

fn setup() -> Setup {
    let latency = Latency { first_byte: Duration::from_millis(400), tokens_per_second: Some(2_000) };
    Setup { cache: Some(CacheRules::default()), latency, ..Setup::default() }
}

/// Part of the input that was read from the cache.
fn hit(entries: &[Entry]) -> f64 {
    let sum = |of: fn(&Entry) -> u64| entries.iter().map(of).sum::<u64>() as f64;
    let read = sum(|entry| entry.usage.cache_read);
    read / (read + sum(|entry| entry.usage.input + entry.usage.cache_write)).max(1.0)
}

/// Requests that wrote the whole beginning.
fn writers(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| entry.usage.cache_read == 0 && entry.usage.cache_write > 0).count()
}

fn line(entries: &[Entry], took: Duration) -> String {
    let (requests, hit, writers) = (entries.len(), hit(entries) * 100.0, writers(entries));
    format!(
        "{requests} requests: {hit:.1} % of input from the cache, {writers} wrote the beginning, took {took:.1?}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_tasks_of_a_worker_one_writes_the_cache_and_the_others_read_it() {
    let mut stage = Stage::set("", setup(), &[POOL]).await;
    let began = Instant::now();
    let dir = stage.files().to_owned();
    let url = stage.api.url();
    tokio::task::spawn_blocking(move || all_at_once(&dir, &url)).await.expect("they ended");
    let naive = stage.api.entries();
    let line_naive = line(&naive, began.elapsed());
    figures("naive start", &format!("{TASKS} CLIs with one prompt: {line_naive}"));

    for agent in ["box-1", "box-2", "box-3", "box-4"] {
        stage.agent(agent, POOL, &["--slots", "5"]);
    }
    let began = Instant::now();
    let submitted = stage.submit(&vec![DIRECTIVE.to_owned(); TASKS]).await;
    let run = stage.ended(&submitted.r#ref, PATIENCE).await;
    assert_eq!(run.state(), RunState::Succeeded, "{:?}", run.counts);
    let warm = stage.api.entries().split_off(naive.len());
    let line = line(&warm, began.elapsed());
    figures("warm fan-out", &format!("{TASKS} tasks of one worker: {line}"));
    assert!(hit(&warm) > 0.8, "{line}");
    assert_eq!(writers(&warm), 1, "{line}");
    assert!(hit(&warm) > hit(&naive), "{line} is no better than {line_naive}");
}

/// As many CLIs as there are tasks, with a system prompt of their own kind, without anybody who lets one go first.
fn all_at_once(dir: &std::path::Path, url: &str) {
    let system = dir.join("naive.md");
    std::fs::write(&system, "Write plainly, and check what you write.\n".repeat(400)).expect("a prompt");
    let start = |number: usize| {
        let config = dir.join(format!("naive-{number}"));
        std::fs::create_dir_all(&config).expect("a directory");
        let mut command = Command::new(orch_tests::binaries!().claude);
        command.args([
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--model",
            "opus",
            "--system-prompt-file",
        ]);
        command.arg(&system).current_dir(&config).env_clear().env("ORCH_STANDIN_DELAY_MS", "0");
        command.env("CLAUDE_CONFIG_DIR", &config).env("ANTHROPIC_BASE_URL", url);
        command.env("ANTHROPIC_API_KEY", "sk-ant-naive").env("CLAUDE_CODE_ATTRIBUTION_HEADER", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the scripted CLI");
        let said = child.stdin.take().expect("stdin").write_all(DIRECTIVE.as_bytes());
        said.expect("the prompt is read");
        child
    };
    let children: Vec<_> = (0..TASKS).map(start).collect();
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
}
