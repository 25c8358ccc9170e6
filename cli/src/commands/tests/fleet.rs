//! The commands that show and steer the fleet, and those that go on until somebody leaves.

use std::time::Duration;

use orch_proto::codes::{CODE_KEY, ERROR_DOMAIN, ErrorCode};
use orch_proto::v1::watch_event::Change;
use orch_proto::v1::{
    Agent, AgentChanged, AgentState, Pool, PoolHealth, PoolKind, PromptProblem, RunChanged, RunState,
    TaskChanged, TaskState, WatchEvent,
};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;

/// Longest wait for a command that goes on to say what is expected.
const PATIENCE: Duration = Duration::from_secs(20);

impl Stage {
    /// Runs a command that goes on, until its stdout is as wanted; then it is left.
    async fn run_until(&self, line: &str, wanted: impl Fn(&str) -> bool) -> Ran {
        let cli = Cli::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{error}"));
        let mut tasks = JoinSet::new();
        let client = self.fake.serve(&mut tasks).await;
        let settings =
            Settings::of(&cli.global, cli.command.goes_on(), &Defaults::default(), &|_| None).unwrap();
        let (mut out, stdout, stderr) = testing::with(&settings, self.look);
        out.times = Times::fixed(settings.time, NOW.parse().unwrap());
        let session = Session::new(out.clone(), Connection::default()).with_client(client);
        let seen = async {
            while !wanted(&stdout.text()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let code = tokio::select! {
            code = run(&session, cli.command, None) => code.unwrap_or_else(|failure| failure.exit_code()),
            () = seen => exit::INTERRUPTED,
            () = tokio::time::sleep(PATIENCE) => panic!("still {:?}, {:?}", stdout.text(), stderr.text()),
        };
        tasks.shutdown().await;
        Ran { code, stdout: stdout.text(), stderr: stderr.text() }
    }

    fn with_agents(agents: &[(&str, AgentState)]) -> Self {
        let stage = Self::new();
        let agent = |(name, state): &(&str, AgentState)| Agent {
            name: (*name).into(),
            state: (*state).into(),
            slots: 2,
            runners: vec!["claude".into()],
            ..Agent::default()
        };
        stage.fake.held().agents.0 = agents.iter().map(agent).collect();
        stage
    }
}

fn event(seq: u64, run: &str, change: Change) -> WatchEvent {
    let time = Some(prost_types::Timestamp { seconds: 1_795_210_000, nanos: 0 });
    WatchEvent { seq, time, run_ref: run.into(), change: Some(change) }
}

pub(super) fn story() -> Vec<WatchEvent> {
    let task = TaskChanged {
        task_id: "plan".into(),
        state: TaskState::Running.into(),
        attempt: 1,
        agent: "box-1".into(),
        ..TaskChanged::default()
    };
    let run = RunChanged { state: RunState::Succeeded.into(), task_count: 1, usage: None };
    vec![
        event(41, "adhoc/7", Change::Task(task)),
        event(
            42,
            "",
            Change::Agent(AgentChanged { agent: "box-\u{1b}[2J7".into(), state: "unreachable".into() }),
        ),
        event(44, "adhoc/7", Change::Run(run)),
    ]
}

#[tokio::test]
async fn an_agent_fits_one_screen_with_everything_there_is() {
    let stage = Stage::new();
    {
        let mut held = stage.fake.held();
        let agent = &mut held.agents.0[0];
        agent.host_name = "box-1.example\u{1b}[31m".into();
        agent.labels = vec!["gpu=yes".into()];
        agent.hidden = vec!["big".into()];
        agent.runners = vec!["claude".into(), "noop".into()];
        agent.isolation = vec!["mount-namespace".into(), "no-new-privs".into()];
        agent.last_seen = Some(prost_types::Timestamp { seconds: 1_795_210_199, nanos: 0 });
        agent.pools = vec![Pool {
            name: "team".into(),
            kind: PoolKind::Login.into(),
            health: PoolHealth::SignedOut.into(),
            detail: "nobody is signed in".into(),
            exclusive: true,
            ..Pool::default()
        }];
    }
    let ran = stage.run("agents show box-1").await;
    assert_eq!(ran.code, exit::DONE);
    insta::assert_snapshot!(ran.stdout + &ran.stderr, @r#"
    box-1  ready  2/4 slots  seen 1s ago
      host       box-1.example␛[31m
      versions   orch-agent 0.1.0, CLI 2.1.197
      runs       release-notes/128/api-notes
                 nightly/7/audit
      offers     gpu=yes*  workspace=dance   (* added by an operator)
      hidden     big
      runners    claude noop
      isolation  mount-namespace no-new-privs
      pools
        POOL  KIND   STATE       IN USE  API     WORKERS     DETAIL
        team  login  signed out     0/1  direct  all others  nobody is signed in
    ! no sandbox: bwrap not found
    help: on the agent's host: orch-agent login --pool team
    "#);
    let json = stage.run("agents show box-1 -o json").await.stdout;
    assert!(json.contains(r#""health":"signed_out""#) && json.contains(r#""hidden":["big"]"#), "{json}");
}

#[tokio::test]
async fn a_misspelt_agent_or_worker_gets_a_suggestion() {
    let stage = Stage::new();
    for line in ["agents show bxo-1", "agents drain bxo-1", "agents label bxo-1 gpu=yes"] {
        let ran = stage.run(line).await;
        assert_eq!(ran.code, exit::NOT_FOUND, "{line}");
        assert!(ran.stderr.contains("did you mean \"box-1\"?"), "{}", ran.stderr);
    }
    let ran = stage.run("workers show mari").await;
    assert!(ran.stderr.contains("did you mean \"marie\"?"), "{}", ran.stderr);
    let ran = stage.run("workers show zzz").await;
    assert!(ran.stderr.contains("there is: anga, fabien, marie"), "{}", ran.stderr);
}

#[tokio::test]
async fn draining_says_what_goes_on_and_several_names_stand_for_themselves() {
    let stage = Stage::new();
    let ran = stage.run("agents drain box-1 --reason 'new kernel'").await;
    assert_eq!(ran.code, exit::DONE);
    insta::assert_snapshot!(ran.stdout + &ran.stderr, @r#"
    box-1 takes no new work and still runs 2 tasks: new kernel
      2 tasks on box-1 go on; --wait waits for the end, orchctl cancel REF stops one
    "#);
    let ran = stage.run("agents resume box-1 box-9").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::SOME_FAILED, "box-1 takes work\n"));
    assert!(ran.stderr.contains("there is no agent \"box-9\""), "{}", ran.stderr);
}

#[tokio::test]
async fn draining_waits_until_nothing_runs() {
    let stage = Stage::new();
    let fake = stage.fake.clone();
    let mut elsewhere = JoinSet::new();
    elsewhere.spawn(async move {
        // Once it is being asked about, what it runs ends.
        while !fake.held().calls.contains(&"agent") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fake.held().agents.0[0].running.clear();
    });
    let ran = stage.run("agents drain box-1 --wait").await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    assert!(ran.stdout.contains("takes no new work and runs nothing"), "{}", ran.stdout);
}

#[tokio::test]
async fn waiting_for_a_drain_keeps_its_reason() {
    let stage = Stage::new();
    stage.run("agents drain box-1 --reason 'new kernel'").await;
    stage.fake.held().agents.0[0].running.clear();
    let ran = stage.run("agents drain box-1 --wait").await;
    assert_eq!(ran.stdout, "box-1 takes no new work and runs nothing: new kernel\n");
    let ran = stage.run("agents drain box-1 --reason 'new disk'").await;
    assert_eq!(ran.stdout, "box-1 takes no new work and runs nothing: new disk\n");
}

#[tokio::test]
async fn labels_are_added_taken_away_and_restored() {
    let stage = Stage::new();
    let ran = stage.run("agents label box-1 disk=big workspace-").await;
    assert_eq!(ran.stdout, "box-1 offers gpu=yes disk=big; hidden: workspace\n");
    let ran = stage.run("agents label box-1 --restore").await;
    assert_eq!(ran.stdout, "box-1 offers gpu=yes workspace=yes\n");
    assert!(Cli::try_parse_from(words("agents label box-1")).is_err(), "a label that changes nothing");
}

#[tokio::test]
async fn a_weak_certificate_is_told_which_one_would_do() {
    for line in ["agents drain box-1", "agents resume box-1", "agents label box-1 a=b", "workers reload"] {
        let stage = Stage::new();
        let code = ErrorCode::RoleNotAllowed;
        let metadata = std::collections::HashMap::from([(CODE_KEY.to_owned(), code.code().to_owned())]);
        let details = ErrorDetails::with_error_info(code.reason(), ERROR_DOMAIN, metadata);
        let message = "it is for role admin; this certificate is of role client";
        stage.fake.held().failures.push_back(Status::with_error_details(code.status(), message, details));
        let ran = stage.run(line).await;
        assert_eq!(ran.code, exit::NOT_ALLOWED, "{line}");
        assert!(ran.stderr.contains("error[E0203]") && ran.stderr.contains("admin.pem"), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn a_test_asks_first_and_never_where_nobody_can_answer() {
    let stage = Stage::with_agents(&[("box-1", AgentState::Ready)]);
    let ran = stage.run("agents test --no-input").await;
    assert_eq!(ran.code, exit::USAGE);
    assert!(ran.stderr.contains("real money") && ran.stderr.contains("--yes"), "{}", ran.stderr);
    assert!(stage.fake.held().runs.is_empty());
}

#[tokio::test]
async fn a_test_shows_agent_by_worker_and_exits_by_what_failed() {
    let stage = Stage::with_agents(&[
        ("box-1", AgentState::Ready),
        ("box-2", AgentState::Offline),
        ("box-bad", AgentState::Ready),
    ]);
    let ran = stage.run("agents test --yes --progress none --worker anga").await;
    assert_eq!(ran.code, exit::SOME_FAILED, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @r#"
    AGENT    WORKER  RESULT     TIME   COST  SAYS
    box-1    anga    ✔ ok          -  $0.08  answer 0
    box-bad  anga    ✗ timeout     -  $0.08  -
    "#);
    let tasks = stage.fake.held().specs[0].tasks.clone();
    let agents: Vec<_> = tasks.iter().map(|task| task.agent.as_str()).collect();
    assert_eq!(agents, ["box-1", "box-bad"]);
    let json = stage.run("agents test box-1 --yes --progress none -o json").await;
    assert_eq!(json.code, exit::DONE, "{}", json.stderr);
    assert_eq!(json.stdout.matches(r#""ok":true"#).count(), 3, "{}", json.stdout);
    let away = stage.run("agents test box-1 box-2 --yes --progress none").await;
    assert_eq!(away.code, exit::SOME_FAILED);
    assert!(away.stderr.contains("box-2 takes no work"), "{}", away.stderr);
}

#[tokio::test]
async fn events_tell_the_past_and_end() {
    let stage = Stage::new();
    stage.fake.held().events = story();
    let ran = stage.run("events --since 42 --time iso").await;
    assert_eq!(ran.code, exit::DONE);
    assert!(!ran.stdout.contains("plan") && ran.stdout.contains("unreachable"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'), "{:?}", ran.stdout);
    let all = stage.run("events -o jsonl").await;
    let seqs: Vec<_> = all
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [41, 42, 44]);
    assert_eq!(stage.run("events --since 45").await.stdout, "");
}

#[tokio::test]
async fn followed_events_survive_a_cut_without_a_gap() {
    let stage = Stage::new();
    stage.fake.held().events = story();
    stage.fake.held().cuts = 2;
    let ran = stage.run_until("events -f -o jsonl --since 41", |text| text.lines().count() >= 3).await;
    let lines: Vec<_> = ran.stdout.lines().map(|line| &line[..9]).collect();
    assert_eq!(lines, [r#"{"seq":41"#, r#"{"seq":42"#, r#"{"seq":44"#]);
    assert_eq!(stage.fake.held().watched_from, [41, 42, 43]);
}

#[tokio::test]
async fn events_that_are_gone_are_told_as_gone() {
    let stage = Stage::new();
    stage.fake.held().events = story();
    stage.fake.held().expired = 42;
    let ran = stage.run("events --since 1").await;
    assert!(ran.stdout.contains("kept no longer"), "{}", ran.stdout);
    assert!(ran.stdout.contains("unreachable") && !ran.stdout.contains("plan"), "{}", ran.stdout);
}

#[tokio::test]
async fn everything_is_watched_from_now_on() {
    let stage = Stage::new();
    stage.fake.held().events = story();
    let fake = stage.fake.clone();
    let ran = stage.run_until("watch", move |_| !fake.held().watched_from.is_empty()).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::INTERRUPTED, ""));
    assert_eq!(stage.fake.held().watched_from, [45]);
}

#[tokio::test]
async fn a_watched_list_is_printed_again_when_it_has_changed() {
    let stage = Stage::with_agents(&[("box-1", AgentState::Ready)]);
    let fake = stage.fake.clone();
    let mut elsewhere = JoinSet::new();
    elsewhere.spawn(async move {
        while fake.held().calls.iter().filter(|call| **call == "agents").count() < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut held = fake.held();
        held.agents.0[0].state = AgentState::Draining.into();
        held.events.push(event(1, "", Change::Agent(AgentChanged::default())));
    });
    let ran = stage.run_until("agents -w", |text| text.contains("draining")).await;
    let (first, second) = ran.stdout.split_once("\n\n").unwrap();
    assert!(first.contains("ready") && second.starts_with("NAME"), "{}", ran.stdout);
}

#[tokio::test]
async fn a_watched_list_of_json_lines_tells_only_what_changed() {
    let stage = Stage::with_agents(&[("box-1", AgentState::Ready), ("box-2", AgentState::Ready)]);
    let fake = stage.fake.clone();
    let mut elsewhere = JoinSet::new();
    elsewhere.spawn(async move {
        while fake.held().calls.iter().filter(|call| **call == "agents").count() < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut held = fake.held();
        held.agents.0[1].state = AgentState::Draining.into();
        held.events.push(event(1, "", Change::Agent(AgentChanged::default())));
    });
    let ran = stage.run_until("agents -w -o jsonl", |text| text.contains("draining")).await;
    let names: Vec<_> = ran.stdout.lines().map(|line| &line[..15]).collect();
    assert_eq!(names, [r#"{"name":"box-1""#, r#"{"name":"box-2""#, r#"{"name":"box-2""#]);
}

#[tokio::test]
async fn a_run_of_several_tasks_is_followed_task_by_task() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.json");
    let tasks = r#"[{"task_id":"a","worker":"anga","description":"x"},{"task_id":"b","worker":"anga","description":"y"}]"#;
    std::fs::write(&file, tasks).unwrap();
    stage.run(&format!("submit -f {}", file.display())).await;
    stage.fake.held().transcript = b"hello\n".to_vec();
    let ran = stage.run("logs -f adhoc/1").await;
    let mut lines: Vec<_> = ran.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!((ran.code, lines), (exit::DONE, vec!["a▸ hello", "b▸ hello"]));
    let raw = stage.run("logs -f --raw adhoc/1").await;
    assert_eq!(raw.stdout, "hello\nhello\n");
}

#[tokio::test]
async fn workers_are_listed_and_shown_with_their_prompt() {
    let stage = Stage::new();
    {
        let mut held = stage.fake.held();
        let (worker, definition) = &mut held.workers.0[0];
        worker.description = "Reviews code".into();
        worker.model = "sonnet".into();
        worker.source = "built in".into();
        worker.subagents = vec!["test-runner".into()];
        definition.tools = vec!["Read".into(), "Bash".into()];
        definition.mcp_config_json = r#"{"mcpServers":{"wiki":{"command":"secret-ish"}}}"#.into();
    }
    insta::assert_snapshot!(stage.run("workers").await.stdout, @r#"
    NAME    MODEL   SUB-AGENTS   REQUIRES  SOURCE    FOR
    anga    sonnet  test-runner  -         built in  Reviews code
    fabien  -       -            -         -         -
    marie   -       -            -         -         -
    "#);
    insta::assert_snapshot!(stage.run("workers show anga").await.stdout, @r#"
    anga  Reviews code
      model       sonnet
      source      built in
      tools       Read Bash
      sub-agents  test-runner
      servers     wiki
      prompt      1 line, 14 bytes
        You are anga.
    "#);
    assert_eq!(stage.run("workers show anga --prompt").await.stdout, "You are anga.\n");
    let json = stage.run("workers show anga -o json").await.stdout;
    assert!(json.contains(r#""system_prompt":"You are anga.\n""#), "{json}");
}

#[tokio::test]
async fn mistakes_in_prompts_are_shown_where_they_are() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("workers")).unwrap();
    std::fs::write(dir.path().join("workers/nadia.md"), "---\nname: nadia\nmodle: sonnet\n---\nYou.\n")
        .unwrap();
    let line = format!("workers validate {}", dir.path().display());
    let good = stage.run(&line).await;
    assert_eq!(good.code, exit::DONE, "{}", good.stderr);
    assert_eq!(stage.fake.held().validated[0].path, "workers/nadia.md");
    stage.fake.held().problems = vec![
        PromptProblem {
            path: "workers/nadia.md".into(),
            line: 3,
            column: 1,
            message: "unknown key `modle`".into(),
            help: "did you mean `model`?".into(),
            ..Default::default()
        },
        PromptProblem {
            path: "workers/nadia.md".into(),
            message: "something \u{1b}[31mred".into(),
            ..Default::default()
        },
    ];
    let bad = stage.run(&line).await;
    assert_eq!(bad.code, exit::FAILED);
    insta::assert_snapshot!(bad.stdout.replace(&dir.path().display().to_string(), "DIR"), @r#"
    error: unknown key `modle`
      --> DIR/workers/nadia.md:3:1
      |
    3 | modle: sonnet
      | ^ did you mean `model`?
    error: something ␛[31mred
     --> workers/nadia.md
    2 mistakes; nothing was installed
    "#);
    let json = stage.run(&format!("{line} -o json")).await;
    assert_eq!(json.code, exit::FAILED);
    assert!(json.stdout.contains(r#""line":3,"column":1"#), "{}", json.stdout);
    let reload = stage.run("workers reload").await;
    assert_eq!(reload.code, exit::FAILED);
    assert!(reload.stdout.contains("the workers stay as they are"), "{}", reload.stdout);
}

#[tokio::test]
async fn a_reload_says_what_has_changed() {
    let stage = Stage::new();
    let ran = stage.run("workers reload").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "changed: anga\n"));
    assert_eq!(stage.run("workers reload -o name").await.stdout, "anga\n");
}

#[tokio::test]
async fn context_files_reach_the_specification() {
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("house.md"), "Be brief.").unwrap();
    std::fs::write(dir.path().join("more.md"), "And exact.").unwrap();
    let run = r#"{"context_files":["house.md"],"tasks":[{"worker":"anga","description":"x"}]}"#;
    std::fs::write(dir.path().join("run.json"), run).unwrap();
    let (file, more) = (dir.path().join("run.json"), dir.path().join("more.md"));
    let line = format!("submit -f {} --context-file {}", file.display(), more.display());
    let ran = stage.run(&line).await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    let held = stage.fake.held();
    let files: Vec<_> = held.specs[0].context_files.iter().map(|file| file.text.as_str()).collect();
    assert_eq!(files, ["Be brief.", "And exact."]);
    assert_eq!(held.specs[0].context_files[0].name, "house.md");
}

#[tokio::test]
async fn a_retry_from_a_task_names_it_and_says_what_is_queued_again() {
    let stage = Stage::new();
    stage.run("submit --worker anga hello").await;
    stage.fake.held().failures.push_back(Status::unavailable("restarting"));
    let ran = stage.run("retry adhoc/1 --from task -o name").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "adhoc/1\n"));
    let held = stage.fake.held();
    assert_eq!(held.retried.len(), 1);
    assert_eq!((held.retried[0].from.as_str(), held.retried[0].request_id.len()), ("task", 36));
    assert!(Cli::try_parse_from(words("retry adhoc/1 --failed --from x")).is_err());
}
