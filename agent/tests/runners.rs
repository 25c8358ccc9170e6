//! The claude and command runners with real processes. The CLI here is a fake in sh that imitates single
//! habits; whole conversations are tried elsewhere with the scripted stand-in.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch_agent::credentials::settings::Source;
use orch_agent::runner::claude::{ClaudeRunner, ClaudeSettings};
use orch_agent::runner::command::{AllowedPrograms, CommandRunner};
use orch_agent::runner::environment::HostEnvironment;
use orch_agent::runner::limits::AgentLimits;
use orch_agent::runner::share::OutputShare;
use orch_agent::runner::supervised::{self, Action, Watcher};
use orch_agent::runner::{AttemptKey, ClaudeWork, Live, Outcome, Prompt, Runner, Work, link};
use orch_agent::sandbox::Sandbox;
use orch_agent::supervisor::client::{End, leftovers};
use orch_agent::supervisor::spec::Secrets;
use orch_agent::supervisor::stop::StopCause;
use support::agent::{
    Agent, DONE, INIT, claude_work, command, end, gone_on_with, joined, spec, start, without_supervisor,
};
use support::{PATIENCE, until};
use uuid::Uuid;

/// The attempt of these tests.
const KEY: AttemptKey = AttemptKey { run: 7, task: 0, attempt: 1 };

#[tokio::test]
async fn the_cli_gets_its_prompt_place_and_key_and_its_answer_is_reported() {
    let agent = Agent::new();
    let script = format!(
        "env | sort > env; printf '%s\\n' \"$@\" > args; pwd > pwd; read -r line; printf '%s' \"$line\" > line
         {INIT}; echo \"key $ANTHROPIC_API_KEY\" >&2; {DONE}; cat >/dev/null"
    );
    let report =
        end(&agent.claude(&script), spec(Work::Claude(Box::new(claude_work("/help @/etc/passwd"))))).await;
    assert_eq!((report.outcome, report.detail.as_str()), (Outcome::Ok, ""));
    assert_eq!(report.answer.as_deref(), Some("done"));
    assert_eq!(report.session_id.as_deref(), Some("s-1"));
    assert_eq!((report.usage.cost_micro_usd, report.usage.estimated), (250_000, false));
    assert_eq!(report.usage.models["m"].output_tokens, 4);
    assert_eq!(report.exit_code, Some(0));

    let read = |name: &str| fs::read_to_string(agent.work_dir().join(name)).unwrap();
    let line: serde_json::Value = serde_json::from_str(&read("line")).unwrap();
    let (work, out) = (agent.work_dir(), agent.work_dir().with_file_name("out"));
    let place = format!(
        "\n\nWorking directory: {}\nOutput directory: {}\nFiles to hand over go into the output directory.",
        work.display(),
        out.display()
    );
    assert_eq!(line["message"]["content"][0]["text"], format!("\n/help @/etc/passwd{place}"));
    assert!(out.is_dir() && read("args").contains(&format!("--add-dir\n{}\n", out.display())));
    assert_eq!(Path::new(read("pwd").trim()), fs::canonicalize(agent.work_dir()).unwrap());
    let env = read("env");
    for expected in [
        "ANTHROPIC_API_KEY=sk-canary-0123456789",
        "CLAUDE_CODE_DISABLE_ATTACHMENTS=1",
        "ORCH_ATTEMPT=1",
        "ORCH_RUN=adhoc/7",
        "ORCH_TASK=main",
    ] {
        assert!(env.lines().any(|line| line == expected), "{expected} in {env}");
    }
    assert!(!read("args").contains("canary"), "no secret on the command line");
    let stderr =
        fs::read_to_string(agent.dir.path().join("data/tasks/7-0/attempts/1/stderr.000000")).unwrap();
    assert_eq!(stderr, format!("key {}\n", "*".repeat(20)));
    let system = agent.dir.path().join("data/tasks/7-0/attempts/1/given/system-prompt.md");
    assert_eq!(fs::read_to_string(system).unwrap(), "You are Anga.");
}

#[tokio::test]
async fn a_second_attempt_resumes_the_session_of_the_first() {
    let agent = Agent::new();
    let session = Uuid::from_u128(7);
    let script = format!(
        "mkdir -p \"$CLAUDE_CONFIG_DIR/projects/p\"; echo '{{\"type\":\"user\"}}' >>\"$CLAUDE_CONFIG_DIR/projects/p/{session}.jsonl\"
         printf '%s ' \"$@\" >> args; read -r line; {INIT}; {DONE}; cat >/dev/null"
    );
    let runner = agent.claude(&script);
    let mut attempt = spec(Work::Claude(Box::new(claude_work("x"))));
    assert_eq!(end(&runner, attempt.clone()).await.outcome, Outcome::Ok);
    attempt.key.attempt = 2;
    assert_eq!(end(&runner, attempt).await.outcome, Outcome::Ok);
    let args = fs::read_to_string(agent.work_dir().join("args")).unwrap();
    let (first, second) = args.split_once("--strict-mcp-config").unwrap();
    assert!(first.contains(&format!("--session-id {session}")), "{first}");
    assert!(second.contains(&format!("--resume {session}")), "{second}");
}

#[tokio::test]
async fn a_missing_structured_answer_is_asked_for_once_in_the_same_process() {
    let agent = Agent::new();
    let structured = DONE.replace("\"num_turns\"", "\"structured_output\":{\"n\":3},\"num_turns\"");
    let script = format!(
        "read -r prompt; {INIT}; {DONE}; read -r repair; printf '%s' \"$repair\" > repair; {structured}; cat >/dev/null"
    );
    let mut work = claude_work("x");
    work.output_schema = Some("{\"type\":\"object\"}".to_owned());
    let report = end(&agent.claude(&script), spec(Work::Claude(Box::new(work.clone())))).await;
    assert_eq!((report.outcome, report.structured.as_deref()), (Outcome::Ok, Some("{\"n\":3}")));
    assert!(fs::read_to_string(agent.work_dir().join("repair")).unwrap().contains("StructuredOutput"));

    let stubborn = Agent::new();
    let script = format!("read -r prompt; {INIT}; {DONE}; read -r repair; {DONE}; cat >/dev/null");
    let report = end(&stubborn.claude(&script), spec(Work::Claude(Box::new(work)))).await;
    assert_eq!(report.outcome, Outcome::SchemaInvalid);
}

#[tokio::test]
async fn the_turn_limit_interrupts_the_cli() {
    let agent = Agent::new();
    let turn = r#"echo '{"type":"assistant","message":{"id":"ID","model":"claude-haiku-4-5","content":[{"type":"tool_use","name":"Bash","input":{}}],"usage":{"input_tokens":1000}}}'; echo '{"type":"user","message":{"content":[{"type":"tool_result"}]}}'"#;
    let script = format!(
        "read -r prompt; {INIT}; {}; {}; read -r interrupt; printf '%s' \"$interrupt\" > interrupt
         echo '{{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"is_error\":true,\"num_turns\":3,\"total_cost_usd\":0.002}}'; cat >/dev/null",
        turn.replace("ID", "a"),
        turn.replace("ID", "b")
    );
    let mut work = claude_work("x");
    work.max_turns = Some(2);
    let report = end(&agent.claude(&script), spec(Work::Claude(Box::new(work)))).await;
    assert_eq!((report.outcome, report.num_turns), (Outcome::MaxTurns, 2));
    assert_eq!((report.usage.cost_micro_usd, report.usage.estimated), (2_000, false));
    let interrupt = fs::read_to_string(agent.work_dir().join("interrupt")).unwrap();
    assert!(interrupt.contains("\"subtype\":\"interrupt\""));
}

#[tokio::test]
async fn a_cancelled_attempt_ends_and_what_it_cost_is_estimated() {
    let agent = Agent::new();
    let said = r#"echo '{"type":"assistant","message":{"id":"a","model":"claude-haiku-4-5","content":[{"type":"text","text":"thinking aloud"}],"usage":{"input_tokens":1000}}}'"#;
    let script = format!("trap 'exit 0' INT; read -r prompt; {INIT}; {said}; while :; do sleep 0.05; done");
    let (handle, attempt) = start(agent.claude(&script), spec(Work::Claude(Box::new(claude_work("x")))));
    until("it has said something", || handle.live.borrow().num_turns == 1).await;
    assert_eq!(handle.live.borrow().now, "writing");
    assert!(handle.live.borrow().supervisor_pid.is_some());
    handle.stop.send_replace(Some(StopCause::Cancelled));
    let report = joined(attempt).await;
    assert_eq!((report.outcome, report.detail.as_str()), (Outcome::Cancelled, "it was cancelled"));
    assert!(report.usage.estimated);
    assert_eq!(report.usage.cost_micro_usd, 1_000 + 4 * 5);
}

#[tokio::test]
async fn without_renewals_an_attempt_is_lost_and_with_them_it_is_not() {
    let agent = Agent::new();
    let script =
        format!("read -r prompt; {INIT}; while [ ! -e go ]; do sleep 0.05; done; {DONE}; cat >/dev/null");
    let mut attempt = spec(Work::Claude(Box::new(claude_work("x"))));
    attempt.limits.stop_after = Some(Duration::from_millis(1_500));
    let (handle, running) = start(agent.claude(&script), attempt);
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        handle.renewals.send_replace(Some(orch_agent::runner::Renewal {
            sent: orch_agent::boottime::BootMillis::now(),
            stop_after: Duration::from_millis(1_500),
        }));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fs::write(agent.work_dir().join("go"), "").unwrap();
    assert_eq!(joined(running).await.outcome, Outcome::Ok);

    let lonely = Agent::new();
    let mut attempt = spec(Work::Claude(Box::new(claude_work("x"))));
    attempt.limits.stop_after = Some(Duration::from_millis(300));
    let report = end(&lonely.claude("read -r prompt; exec sleep 620"), attempt).await;
    assert_eq!(report.outcome, Outcome::LostAgent);
}

#[tokio::test]
async fn what_cannot_start_is_a_typed_outcome() {
    let agent = Agent::new();
    let run = async |runner: &ClaudeRunner, change: &dyn Fn(&mut ClaudeWork)| {
        let mut work = claude_work("x");
        change(&mut work);
        let report = end(runner, spec(Work::Claude(Box::new(work)))).await;
        (report.outcome, report.detail)
    };
    let runner = agent.claude("echo 'error: unknown option' >&2; exit 1");
    assert_eq!(
        run(&runner, &|_| ()).await,
        (
            Outcome::SpawnFailed,
            "the CLI did not start its work: exit code 1: error: unknown option".to_owned()
        )
    );
    assert_eq!(run(&runner, &|work| work.budget_micro_usd = Some(0)).await.0, Outcome::Budget);
    assert_eq!(
        run(&runner, &|work| work.prompt = Prompt::Text(" ".to_owned())).await.1,
        "the prompt is empty"
    );
    fs::set_permissions(agent.dir.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run(&runner, &|_| ()).await.0, Outcome::Auth);
    let missing = ClaudeRunner::new(
        agent.launcher.clone(),
        Arc::clone(&agent.homes),
        ClaudeSettings { program: "no-such-cli".to_owned(), ..ClaudeSettings::default() },
    );
    assert_eq!(
        run(&missing, &|_| ()).await,
        (Outcome::SpawnFailed, "the CLI \"no-such-cli\" was not found".to_owned())
    );
}

#[tokio::test]
async fn what_a_worker_gives_lies_where_the_cli_can_read_it_and_the_prompt_is_followed_by_the_context() {
    let agent = Agent::new();
    let script = format!("printf '%s\\n' \"$@\" > args; read -r line; {INIT}; {DONE}; cat >/dev/null");
    let mut work = claude_work("x");
    work.worker.context_files = "# notes.md\nBe brief.\n".to_owned();
    work.worker.setting_sources = vec!["project".to_owned()];
    work.worker.settings_json = r#"{"env":{"COLOUR":"red"}}"#.to_owned();
    work.worker.mcp_config_json = r#"{"mcpServers":{"demo":{"command":"demo"}}}"#.to_owned();
    let report = end(&agent.claude(&script), spec(Work::Claude(Box::new(work.clone())))).await;
    assert_eq!(report.outcome, Outcome::Ok);
    assert_eq!(report.detail, "the tool server \"demo\" was not started", "the fake says nothing of it");
    let given = agent.dir.path().join("data/tasks/7-0/attempts/1/given");
    assert_eq!(fs::metadata(&given).unwrap().permissions().mode() & 0o777, 0o700);
    let read = |name: &str| fs::read_to_string(given.join(name)).unwrap();
    assert_eq!(read("system-prompt.md"), "You are Anga.\n\n# notes.md\nBe brief.\n");
    assert_eq!(read("settings.json"), r#"{"env":{"COLOUR":"red"}}"#);
    assert_eq!(read("mcp.json"), r#"{"mcpServers":{"demo":{"command":"demo"}}}"#);
    let args = fs::read_to_string(agent.work_dir().join("args")).unwrap();
    for expected in [
        "--setting-sources\nproject\n".to_owned(),
        format!("--settings\n{}/settings.json\n", given.display()),
        format!("--mcp-config\n{}/mcp.json\n", given.display()),
        "--strict-mcp-config\n".to_owned(),
    ] {
        assert!(args.contains(&expected), "{expected} in {args}");
    }
    work.worker.settings_json = r#"{"env":{"ANTHROPIC_BASE_URL":"http://elsewhere"}}"#.to_owned();
    let refused = end(&agent.claude(&script), spec(Work::Claude(Box::new(work)))).await;
    assert_eq!(refused.outcome, Outcome::SpawnFailed, "it would take the key elsewhere");
}

#[tokio::test]
async fn a_cli_that_ignores_a_sub_agent_is_stopped_before_it_works() {
    let agent = Agent::new();
    let init = INIT.replace("\"session_id\"", "\"agents\":[\"Explore\"],\"session_id\"");
    let script = format!("read -r line; {init}; read -r interrupt; echo stopped > stopped; exit 0");
    let mut work = claude_work("x");
    work.worker.subagents_json = r#"{"helper":{"description":"helps","prompt":"Help."}}"#.to_owned();
    let report = end(&agent.claude(&script), spec(Work::Claude(Box::new(work)))).await;
    assert_eq!(
        (report.outcome, report.detail.as_str()),
        (
            Outcome::SpawnFailed,
            "the CLI did not take over what it was given: the sub-agent \"helper\" is missing"
        )
    );
    assert!(agent.work_dir().join("stopped").exists());
}

#[tokio::test]
async fn a_pool_nobody_has_is_a_matter_of_credentials_and_nothing_is_started() {
    let agent = Agent::new();
    let mut work = claude_work("x");
    work.worker.pool = "gold".to_owned();
    let report = end(&agent.claude("touch started"), spec(Work::Claude(Box::new(work)))).await;
    assert_eq!(report.outcome, Outcome::Auth);
    assert!(report.detail.contains("\"gold\""), "{}", report.detail);
    assert!(!agent.work_dir().join("started").exists());
}

#[tokio::test]
async fn an_attempt_that_waits_for_a_credential_is_stopped_at_once() {
    let agent = Agent::new();
    drop(agent.claude("touch started"));
    let slow = Source::Helper {
        command: vec!["/bin/sleep".to_owned(), "628".to_owned()],
        ttl: Duration::from_secs(1),
    };
    let (program, key) = (agent.dir.path().join("claude"), agent.dir.path().join("key"));
    let settings = ClaudeSettings { pools: agent.pools(slow), ..agent.settings(&program, key) };
    let runner = ClaudeRunner::new(agent.launcher.clone(), Arc::clone(&agent.homes), settings);
    let (handle, running) = start(runner.clone(), spec(Work::Claude(Box::new(claude_work("x")))));
    until("it is prepared", || agent.work_dir().exists()).await;
    handle.stop.send_replace(Some(StopCause::Cancelled));
    let report = joined(running).await;
    assert_eq!(
        (report.outcome, report.detail.as_str()),
        (Outcome::Cancelled, "it was cancelled while it waited for a credential")
    );
    let mut lonely = spec(Work::Claude(Box::new(claude_work("x"))));
    lonely.limits.stop_after = Some(Duration::from_millis(100));
    assert_eq!(end(&runner, lonely).await.outcome, Outcome::LostAgent);
    assert!(!agent.work_dir().join("started").exists());
}

#[tokio::test]
async fn every_kind_of_hang_is_told_in_its_own_words() {
    let tool =
        r#"echo '{"type":"assistant","message":{"id":"a","content":[{"type":"tool_use","name":"Bash"}]}}'"#;
    let answer = r#"echo '{"type":"user","message":{"content":[{"type":"tool_result"}]}}'"#;
    let hang = "trap 'exit 0' INT; sleep 630 & wait";
    for (script, detail) in [
        (hang.to_owned(), "it said nothing from its start to the end of the start limit"),
        (
            format!("{INIT}; {hang}"),
            "it said nothing for longer than the silence limit, while it asked the model",
        ),
        (
            format!("{INIT}; {tool}; {hang}"),
            "it said nothing for longer than the silence limit, while the tool Bash ran",
        ),
        (
            format!("{INIT}; {tool}; {answer}; {hang}"),
            "it said nothing for longer than the silence limit, while it asked the model after the result of a tool",
        ),
        (format!("{INIT}; exec >&-; {hang}"), "it closed its output without a result and did not exit"),
    ] {
        let agent = Agent::new();
        let (mute, closes) = (script == hang, script.contains("exec >&-"));
        let limits = AgentLimits {
            start: Duration::from_millis(if mute { 500 } else { 20_000 }),
            linger: Duration::from_millis(200),
            ..AgentLimits::default()
        };
        let mut attempt = spec(Work::Claude(Box::new(claude_work("x"))));
        attempt.limits.silence = Some(Duration::from_millis(if mute || closes { 20_000 } else { 1_000 }));
        let report = end(&agent.limited(&format!("read -r line; {script}"), limits), attempt).await;
        assert_eq!((report.outcome, report.detail.as_str()), (Outcome::Hang, detail));
        let dir = agent.dir.path().join("data/tasks/7-0/attempts/1");
        let again = gone_on_with(&agent.claude(""), KEY, without_supervisor(dir)).await.unwrap();
        assert_eq!(again.detail, detail, "what lies on the disk says the same");
    }
}

#[tokio::test]
async fn a_result_stands_whatever_the_cli_does_afterwards() {
    let agent = Agent::new();
    let limits = AgentLimits { linger: Duration::from_millis(200), ..AgentLimits::default() };
    let script = format!("trap '' INT TERM; read -r line; {INIT}; {DONE}; while :; do sleep 0.1; done");
    let report = end(&agent.limited(&script, limits), spec(Work::Claude(Box::new(claude_work("x"))))).await;
    assert_eq!((report.outcome, report.answer.as_deref()), (Outcome::Ok, Some("done")));
    assert_eq!(report.detail, "it did not exit after its result and was ended");
    assert_eq!(report.signal, Some(9));
}

#[tokio::test]
async fn an_attempt_that_outgrows_its_memory_is_a_crash_with_figures() {
    let agent = Agent::new();
    let limits = AgentLimits { memory_bytes: Some(64 << 20), ..AgentLimits::default() };
    let script = format!(
        "read -r line; {INIT}; head -c 200000000 /dev/zero | tail -c 200000000 | {{ sleep 629; cat; }} >/dev/null"
    );
    let report = end(&agent.limited(&script, limits), spec(Work::Claude(Box::new(claude_work("x"))))).await;
    assert_eq!(report.outcome, Outcome::Crash);
    assert!(report.detail.starts_with("it used more memory than an attempt may ("), "{}", report.detail);
    assert!(report.detail.ends_with(" of 64.0 MiB)") && report.peak_memory_bytes > 64 << 20);
}

#[tokio::test]
async fn when_all_attempts_wrote_too_much_the_one_with_the_most_is_stopped() {
    let agent = Agent::new();
    let share = OutputShare::new(8 << 20);
    let allowed = AllowedPrograms::find(&["sh".to_owned()], "/bin").unwrap();
    let host = HostEnvironment::pick([]);
    let runner = CommandRunner::new(agent.launcher.clone(), Arc::clone(&agent.homes), allowed, host).bounded(
        Sandbox::default(),
        AgentLimits::default(),
        share,
    );
    let modest = "head -c 1000000 /dev/zero; while [ ! -e go ]; do sleep 0.05; done";
    let (handle, modest) = start(runner.clone(), command("sh", &["-c", modest]));
    until("it has written", || handle.live.borrow().transcript_bytes == 1_000_000).await;
    let mut flood = command("sh", &["-c", "cat /dev/zero"]);
    flood.key.task = 1;
    let flood = end(&runner, flood).await;
    assert_eq!(
        (flood.outcome, flood.detail.as_str()),
        (
            Outcome::LimitOutput,
            "the agent's attempts together wrote more than they may, and this one the most"
        )
    );
    fs::write(agent.work_dir().join("go"), "").unwrap();
    assert_eq!(joined(modest).await.outcome, Outcome::Ok);
}

#[tokio::test]
async fn a_resumed_process_counts_its_money_from_nothing() {
    let agent = Agent::new();
    let session = Uuid::from_u128(7);
    // What the CLI was seen to do: the figures of a resumed process begin at 0.
    let script = format!(
        "mkdir -p \"$CLAUDE_CONFIG_DIR/projects/p\"; echo '{{\"type\":\"user\"}}' >>\"$CLAUDE_CONFIG_DIR/projects/p/{session}.jsonl\"
         read -r line; {INIT}; {DONE}; cat >/dev/null"
    );
    let runner = agent.claude(&script);
    let mut attempt = spec(Work::Claude(Box::new(claude_work("x"))));
    for number in [1, 2] {
        attempt.key.attempt = number;
        let report = end(&runner, attempt.clone()).await;
        assert_eq!((report.outcome, report.usage.cost_micro_usd), (Outcome::Ok, 250_000), "{number}");
    }
}

#[tokio::test]
async fn lines_nobody_can_read_cost_nothing_but_themselves() {
    let agent = Agent::new();
    let big = "head -c 40000000 /dev/zero | tr '\\0' x; echo; printf '\\377\\376{\"type\":\\n'";
    let script = format!("read -r line; {INIT}; {big}; {DONE}; cat >/dev/null");
    let report = end(&agent.claude(&script), spec(Work::Claude(Box::new(claude_work("x"))))).await;
    assert_eq!((report.outcome, report.answer.as_deref()), (Outcome::Ok, Some("done")));
    assert!(report.transcript_bytes > 40_000_000);

    let half = Agent::new();
    let script = format!("read -r line; {INIT}; printf '{{\"type\":\"result\",\"is_err'; exit 0");
    let report = end(&half.claude(&script), spec(Work::Claude(Box::new(claude_work("x"))))).await;
    assert_eq!(
        (report.outcome, report.detail.as_str()),
        (Outcome::Crash, "the CLI ended without a result: exit code 0")
    );
}

#[tokio::test]
async fn a_listed_program_runs_without_a_shell_in_its_own_place() {
    let agent = Agent::new();
    let report = end(&agent.command(), command("echo", &["a  b", "$HOME", "; touch x"])).await;
    assert_eq!((report.outcome, report.answer.as_deref()), (Outcome::Ok, Some("a  b $HOME ; touch x")));
    assert_eq!(report.transcript_bytes, 21);
    let report = end(&agent.command(), command("sh", &["-c", "pwd; echo bad >&2; exit 3"])).await;
    assert_eq!(
        (report.outcome, report.detail.as_str()),
        (Outcome::GateFailed, "the program ended with exit code 3: bad")
    );
    assert_eq!(report.answer.map(PathBuf::from), Some(fs::canonicalize(agent.work_dir()).unwrap()));
}

#[tokio::test]
async fn a_program_that_is_not_listed_is_not_run() {
    let agent = Agent::new();
    let report = end(&agent.command(), command("/usr/bin/env", &[])).await;
    assert_eq!(report.outcome, Outcome::SpawnFailed);
    assert!(
        report.detail.starts_with("the agent does not allow the program \"/usr/bin/env\""),
        "{}",
        report.detail
    );
    assert!(!agent.work_dir().exists(), "nothing was made");
}

#[tokio::test]
async fn a_stopped_program_is_terminated() {
    let agent = Agent::new();
    let (handle, running) = start(agent.command(), command("sh", &["-c", "echo up; exec sleep 621"]));
    until("it is up", || handle.live.borrow().transcript_bytes == 3).await;
    handle.stop.send_replace(Some(StopCause::Cancelled));
    let report = joined(running).await;
    assert_eq!((report.outcome, report.signal), (Outcome::Cancelled, Some(15)));
}

#[tokio::test]
async fn what_an_attempt_left_on_the_disk_is_judged_like_its_end() {
    let agent = Agent::new();
    let dir = agent.dir.path().join("data/tasks/7-0/attempts/1");
    let script = format!("read -r line; {INIT}; {DONE}; cat >/dev/null");
    let claude = agent.claude(&script);
    let judged = async |runner: &dyn Runner| gone_on_with(runner, KEY, without_supervisor(dir.clone())).await;
    assert_eq!(judged(&claude).await, None, "nothing is there");
    let report = end(&claude, spec(Work::Claude(Box::new(claude_work("x"))))).await;
    assert_eq!(report.outcome, Outcome::Ok);
    assert_eq!(judged(&claude).await, Some(report.clone()));
    fs::write(dir.join("stdout.000000"), &fs::read(dir.join("stdout.000000")).unwrap()[1..]).unwrap();
    let short = judged(&claude).await.unwrap();
    assert_eq!(
        (short.outcome, short.detail.as_str()),
        (Outcome::Crash, "1 bytes of its output cannot be read"),
        "what is there may not be the last word"
    );
    let exit = fs::read(dir.join("exit.json")).unwrap();
    fs::write(dir.join("exit.json"), &exit[1..]).unwrap();
    let damaged = judged(&claude).await.unwrap();
    assert_eq!(damaged.outcome, Outcome::Crash);
    assert!(damaged.detail.starts_with("the exit record cannot be read"), "{}", damaged.detail);
    assert_eq!(judged(&agent.command()).await, None, "it is no program's");

    let program = agent.command();
    let report = end(&program, command("sh", &["-c", "echo out; echo bad >&2; exit 3"])).await;
    assert_eq!(report.outcome, Outcome::GateFailed);
    assert_eq!(judged(&program).await, Some(report));
}

#[tokio::test]
async fn a_child_whose_agent_died_is_ended_by_the_next_one_and_judged_as_lost_or_by_its_result() {
    for (last, outcome) in [("sleep 623", Outcome::LostAgent), (DONE, Outcome::Ok)] {
        let agent = Agent::new();
        let claude = agent.claude(&format!("read -r line; {INIT}; {last}; echo . >&2; exec sleep 624"));
        let (_handle, mut running) = start(claude.clone(), spec(Work::Claude(Box::new(claude_work("x")))));
        let dir = agent.dir.path().join("data/tasks/7-0/attempts/1");
        let said = if outcome == Outcome::Ok { "result" } else { "init" };
        let stdout = || fs::read_to_string(dir.join("stdout.000000")).unwrap_or_default();
        until("it has said what it says", || stdout().contains(said)).await;
        running.shutdown().await;
        let runtime = agent.launcher.runtime_dir();
        let notes = leftovers::find(runtime, agent.launcher.owner()).unwrap();
        let ended = leftovers::end_all(runtime, notes, PATIENCE);
        assert!(ended.iter().all(|left| left.attempt_dir == dir), "{ended:?}");
        let report = gone_on_with(&claude, KEY, without_supervisor(dir)).await.expect("it left a note");
        assert_eq!(report.outcome, outcome, "{report:?}");
    }
}

/// Breaks off at the first byte.
struct Clumsy;

impl Watcher for Clumsy {
    fn stdout(&mut self, _bytes: &[u8]) -> Vec<Action> {
        panic!("a mistake in whoever reads the output")
    }

    fn stopping(&mut self) {}

    fn describe(&self, _live: &mut Live) {}
}

#[tokio::test]
async fn a_mistake_in_reading_the_output_ends_the_child() {
    let place = support::Place::new("echo x; exec sleep 622");
    let (_handle, mut link) = link();
    let (secrets, mut clumsy) = (Secrets::default(), Clumsy);
    let seat = OutputShare::new(u64::MAX).take_seat();
    let run = supervised::run(&place.launcher, &place.spec, &secrets, seat, &mut link, &mut clumsy);
    let ended = tokio::time::timeout(PATIENCE, run).await.expect("it ends").unwrap();
    assert!(
        matches!(&ended.end, End::Lost { detail } if detail.contains("a mistake in the agent")),
        "{ended:?}"
    );
    assert!(place.processes().is_empty(), "nobody would watch it");
}
