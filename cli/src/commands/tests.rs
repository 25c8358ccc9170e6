//! The commands against a coordinator of few words: what stdout and stderr carry, and how they exit.

use clap::Parser;
use tokio::task::JoinSet;
use tonic::Status;

use super::run;
use crate::args::{Cli, Connection};
use crate::config::Defaults;
use crate::exit;
use crate::output::testing::{self, Seen};
use crate::output::times::Times;
use crate::session::Session;
use crate::settings::Settings;
use fake::Fake;

mod fake;
mod fleet;
mod golden;
mod storage;

/// What the clock of every command says.
const NOW: &str = "2026-11-20T21:30:00Z";

/// What a command did.
struct Ran {
    code: u8,
    stdout: String,
    stderr: String,
}

struct Stage {
    fake: Fake,
    width: Option<usize>,
    look: testing::Look,
}

impl Stage {
    fn new() -> Self {
        Self { fake: Fake::default(), width: None, look: testing::Look::default() }
    }

    /// Runs a command line; words with spaces are quoted by `'`.
    async fn run(&self, line: &str) -> Ran {
        let cli = Cli::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{error}"));
        let mut tasks = JoinSet::new();
        let client = self.fake.serve(&mut tasks).await;
        let look = testing::Look { width: self.width, ..self.look };
        let settings = match Settings::of(&cli.global, cli.command.goes_on(), &Defaults::default(), &|_| None)
        {
            Ok(settings) => settings,
            Err(failure) => {
                return Ran { code: failure.exit_code(), stdout: String::new(), stderr: failure.text(false) };
            }
        };
        let (mut out, stdout, stderr): (_, Seen, Seen) = testing::with(&settings, look);
        out.times = Times::fixed(settings.time, NOW.parse().unwrap());
        let session = Session::new(out.clone(), Connection::default()).with_client(client);
        let code = match run(&session, cli.command, None).await {
            Ok(code) => code,
            Err(failure) => {
                out.failure(&failure);
                failure.exit_code()
            }
        };
        tasks.shutdown().await;
        Ran { code, stdout: stdout.text(), stderr: stderr.text() }
    }
}

fn words(line: &str) -> Vec<String> {
    let mut words = vec!["orchctl".to_owned()];
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[tokio::test]
async fn submit_prints_the_reference_alone_and_advice_elsewhere() {
    let ran = Stage::new().run("submit --worker anga 'Review it'").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "adhoc/1\n"));
    assert_eq!(ran.stderr, "  follow it: orchctl watch adhoc/1\n");
}

#[tokio::test]
async fn a_lost_answer_does_not_queue_twice() {
    let stage = Stage::new();
    stage.fake.held().failures.push_back(Status::unavailable("restarting"));
    let ran = stage.run("submit --worker anga hello -o name").await;
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (exit::DONE, "adhoc/1\n", ""));
    let held = stage.fake.held();
    assert_eq!(held.calls, ["submit", "submit"]);
    assert_eq!(held.request_ids[0].len(), 36, "an own key makes the repetition safe");
}

#[tokio::test]
async fn the_same_key_gives_the_same_run() {
    let stage = Stage::new();
    stage.run("submit --runner noop --key k").await;
    let again = stage.run("submit --runner noop --key k").await;
    assert_eq!((again.code, again.stdout.as_str()), (exit::DONE, "adhoc/1\n"));
    assert!(again.stderr.contains("already submitted with this key"), "{}", again.stderr);
    let json = stage.run("submit --runner noop --key k -o json").await;
    assert!(json.stdout.contains(r#""existing":true"#), "{}", json.stdout);
}

#[tokio::test]
async fn keys_that_are_not_allowed_are_refused_before_anything_is_sent() {
    let stage = Stage::new();
    for key in ["'é'", "''"] {
        assert_eq!(stage.run(&format!("submit --runner noop --key {key}")).await.code, exit::USAGE);
    }
    assert!(stage.fake.held().calls.is_empty());
}

#[tokio::test]
async fn run_prints_the_answer_alone_on_stdout() {
    let ran = Stage::new().run("run --worker anga hello").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "answer 0\n"));
    insta::assert_snapshot!(ran.stderr, @r"
    submitted adhoc/1
    --:--:-- task          succeeded  box-1
    --:--:-- adhoc/1       succeeded  1/1
    ✔ adhoc/1/task  anga  succeeded  $0.08  0 tokens  box-1
    ");
}

#[tokio::test]
async fn run_exits_by_the_outcome_and_says_what_to_do() {
    let ran = Stage::new().run("run --worker anga fail --progress none").await;
    assert_eq!(ran.code, exit::FAILED);
    insta::assert_snapshot!(ran.stderr, @r"
    submitted adhoc/1
    ✗ adhoc/1/task  anga  failed  $0.08  0 tokens  box-1
    timeout: the attempt passed its time limit
    help:  raise --task-timeout, or split the task
    ");
}

#[tokio::test]
async fn run_as_json_is_one_value_with_every_result() {
    let ran = Stage::new().run("run --worker anga hello -o json --progress none").await;
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((json["ref"].as_str(), json["state"].as_str()), (Some("adhoc/1"), Some("succeeded")));
    let result = &json["results"][0];
    assert_eq!((result["outcome"].as_str(), result["answer"].as_str()), (Some("ok"), Some("answer 0")));
    assert_eq!((result["cost_usd"].as_f64(), result["status"].as_str()), (Some(0.08), Some("succeeded")));
    assert_eq!(ran.stderr, "submitted adhoc/1\n");
}

#[tokio::test]
async fn a_cut_watch_goes_on_where_it_was() {
    let stage = Stage::new();
    stage.fake.held().cuts = 2;
    let ran = stage.run("run --worker anga hello").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "answer 0\n"));
    assert!(ran.stderr.contains("lost the coordinator"), "{}", ran.stderr);
    assert_eq!(stage.fake.held().watched_from, [0, 100, 100]);
}

#[tokio::test]
async fn a_run_that_nothing_can_ever_run_is_reported_at_once() {
    let stage = Stage::new();
    for line in ["run --runner noop --require gpu=yes", "submit --wait --runner noop --require gpu=yes"] {
        let ran = stage.run(line).await;
        assert_eq!(ran.code, exit::IMPOSSIBLE, "{}", ran.stderr);
        assert!(ran.stderr.contains("gpu=yes"), "{}", ran.stderr);
    }
    assert_eq!(stage.run("wait adhoc/1").await.code, exit::IMPOSSIBLE);
    // It stays queued: nothing was cancelled.
    assert!(!stage.fake.held().calls.contains(&"cancel"));
}

#[tokio::test]
async fn a_dry_run_stores_nothing_and_says_what_could_not_be_placed() {
    let stage = Stage::new();
    let good = stage.run("submit --runner noop --dry-run").await;
    assert_eq!(good.code, exit::DONE);
    let bad = stage.run("run --runner noop --require gpu=yes --dry-run").await;
    assert_eq!(bad.code, exit::IMPOSSIBLE);
    insta::assert_snapshot!(bad.stdout + &bad.stderr, @r"
    TASK  NEEDS  BY    REQUIRES  RUNS ON
    task  -      noop  gpu=yes   none: needs gpu=yes, which no known agent offers
    error[E0405]: 1 of 1 task can run nowhere
    cause: task: needs gpu=yes, which no known agent offers
    help:  start an agent with the capability that the message names
    ");
    assert!(stage.fake.held().runs.is_empty());
}

#[tokio::test]
async fn a_large_run_goes_in_parts() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.json");
    std::fs::write(&file, format!(r#"[{{"worker":"anga","description":"{}"}}]"#, "x".repeat(2 << 20)))
        .unwrap();
    let ran = stage.run(&format!("submit -f {}", file.display())).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "adhoc/1\n"), "{}", ran.stderr);
    assert_eq!(stage.fake.held().calls, ["begin", "append", "append", "append", "append", "append", "seal"]);
}

#[tokio::test]
async fn a_file_with_errors_is_never_sent() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.json");
    std::fs::write(&file, r#"[{"worker":"anga","descripton":"x"}]"#).unwrap();
    let ran = stage.run(&format!("submit -f {}", file.display())).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::USAGE, ""));
    assert!(ran.stderr.contains("did you mean \"description\"?"), "{}", ran.stderr);
    assert!(stage.fake.held().calls.is_empty());
}

#[tokio::test]
async fn context_and_schema_reach_the_specification() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let (context, schema) = (dir.path().join("notes.txt"), dir.path().join("schema.json"));
    std::fs::write(&context, "from a file").unwrap();
    std::fs::write(&schema, "{ \"type\": \"object\" }").unwrap();
    let line = format!(
        "submit --worker anga hi --context {} --output-schema {}",
        context.display(),
        schema.display()
    );
    assert_eq!(stage.run(&line).await.code, exit::DONE);
    stage.run("submit --worker anga hi --context 'just text'").await;
    let held = stage.fake.held();
    let work = |at: usize| match held.specs[at].tasks[0].runner.clone() {
        Some(orch_proto::v1::task_spec::Runner::Worker(work)) => work,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (work(0).context.as_str(), work(0).output_schema.as_str()),
        ("from a file", r#"{"type":"object"}"#)
    );
    assert_eq!(work(1).context, "just text");
}

#[tokio::test]
async fn watch_tells_a_run_in_plain_or_json_lines() {
    let stage = Stage::new();
    stage.run("submit --worker anga hello").await;
    let plain = stage.run("watch @last").await;
    assert_eq!(plain.code, exit::DONE);
    insta::assert_snapshot!(plain.stdout, @r"
    --:--:-- task          succeeded  box-1
    --:--:-- adhoc/1       succeeded  1/1
    ");
    let json = stage.run("watch adhoc/1 -o jsonl").await;
    insta::assert_snapshot!(json.stdout, @r#"
    {"time":null,"type":"task.succeeded","ref":"adhoc/1/task","snapshot":true,"agent":"box-1","attempt":1,"outcome":"ok","cost_usd":0.08}
    {"time":null,"type":"run.succeeded","ref":"adhoc/1","snapshot":true,"outcome":"ok","task_count":1}
    "#);
}

#[tokio::test]
async fn wait_has_a_code_for_one_and_for_several() {
    let stage = Stage::new();
    stage.run("submit --worker anga hello").await;
    stage.run("submit --worker anga fail").await;
    let good = stage.run("wait adhoc/1").await;
    assert_eq!((good.code, good.stdout.as_str()), (exit::DONE, "adhoc/1 succeeded\n"));
    assert_eq!(stage.run("wait adhoc/2/task").await.code, exit::FAILED);
    assert_eq!(stage.run("wait adhoc/2 --for terminal").await.code, exit::DONE);
    assert_eq!(stage.run("wait adhoc/1 adhoc/2").await.code, exit::SOME_FAILED);
    assert_eq!(stage.run("wait adhoc/9").await.code, exit::NOT_FOUND);
    assert_eq!(stage.run("wait adhoc/1/nothing").await.code, exit::NOT_FOUND);
}

#[tokio::test]
async fn lists_are_paged_through_and_cut_with_a_hint() {
    let stage = Stage::new();
    for _ in 0..5 {
        stage.run("submit --runner noop").await;
    }
    let all = stage.run("ls -o name").await;
    assert_eq!(all.stdout, "adhoc/5\nadhoc/4\nadhoc/3\nadhoc/2\nadhoc/1\n");
    let some = stage.run("ls --limit 3 -o name").await;
    assert_eq!(some.stdout.lines().count(), 3);
    assert!(some.stderr.contains("--limit 0"), "{}", some.stderr);
    let tasks = stage.run("ls @last").await;
    insta::assert_snapshot!(tasks.stdout, @r"
    TASK  STATE     BY    TIME  COST  TRY  AGENT  WHY
    task  ○ queued  noop     -     -    -  -      -
    ");
    assert_eq!(stage.run("ls --state blocked").await.code, exit::USAGE);
}

#[tokio::test]
async fn the_fleet_fits_one_screen_at_every_width() {
    for (width, name) in [(60, "60"), (80, "80"), (120, "120")] {
        let stage = Stage { width: Some(width), ..Stage::new() };
        stage.run("submit --runner noop --name release-notes -l team=dance").await;
        let status = stage.run("status").await.stdout;
        let agents = stage.run("agents").await.stdout;
        insta::assert_snapshot!(format!("fleet_{name}"), format!("{status}\n{agents}"));
    }
}

#[tokio::test]
async fn cancel_explain_and_unknown_references() {
    let stage = Stage::new();
    stage.run("submit --runner noop --require gpu=yes").await;
    let explained = stage.run("explain adhoc/1").await;
    assert_eq!(explained.code, exit::IMPOSSIBLE);
    insta::assert_snapshot!(explained.stdout + &explained.stderr, @r"
    adhoc/1: queued; needs gpu=yes, which no known agent offers
      ✗ capability     gpu=yes is offered by nobody
    help: orch-agent --capability gpu=yes
    ");
    let cancelled = stage.run("cancel @last adhoc/7 --reason enough").await;
    assert_eq!(
        (cancelled.code, cancelled.stdout.as_str()),
        (exit::SOME_FAILED, "adhoc/1: 1 task cancelled; adhoc/1 is cancelled\n")
    );
    assert!(cancelled.stderr.contains("there is no run adhoc/7"), "{}", cancelled.stderr);
    assert_eq!(stage.run("cancel nonsense").await.code, exit::USAGE);
    assert_eq!(stage.run("retry adhoc/7").await.code, exit::NOT_FOUND);
}

#[tokio::test]
async fn logs_are_rendered_and_survive_a_cut() {
    let stage = Stage::new();
    stage.run("submit --worker anga hello").await;
    let line = r#"{"type":"assistant","message":{"content":[{"type":"text","text":"Salut"}]}}"#;
    stage.fake.held().transcript = format!("{line}\nplain\u{1b}[2J\n").into_bytes();
    stage.fake.held().cuts = 1;
    let ran = stage.run("logs -f adhoc/1/task").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "task▸ assistant Salut\ntask▸ plain␛[2J\n"));
    let tail = stage.run("logs adhoc/1 --tail 1").await;
    assert_eq!(tail.stdout, "task▸ plain␛[2J\n");
    let raw = stage.run("logs adhoc/1/task --raw").await;
    assert_eq!(raw.stdout.into_bytes(), stage.fake.held().transcript);
}

#[tokio::test]
async fn a_result_that_is_not_there_yet_is_a_conflict() {
    let stage = Stage::new();
    stage.run("submit --worker anga hello").await;
    assert_eq!(stage.run("result adhoc/1/task").await.code, exit::CONFLICT);
    stage.run("wait adhoc/1").await;
    let ran = stage.run("result adhoc/1/task").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "answer 0\n"));
    assert_eq!(stage.run("result @last").await.stdout, "answer 0\n");
}
