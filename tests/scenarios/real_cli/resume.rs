//! A conversation outlives the process it was held in: the next attempt brings its history, and nothing that came to lie in
//! its working directory meanwhile is obeyed.

use super::{AGENT, Real, attempts, private_file};
use crate::resumed::{WENT_ON, bash, kinds, orchctl, said, says, task};
use orch_proto::v1::{self, Outcome, TaskState};
use orch_standin::api::Recorded;
use orch_tests::client::{answer, run};
use orch_tests::matrix::Row;
use orch_tests::matrix::real::RESUMED;
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};

/// What the tool of every row prints, and no prompt holds.
const PRINTED: &str = "42-from-the-tool";

fn row(scenario: &str) -> Row {
    RESUMED.iter().find(|row| row.scenario == scenario).expect("the row is there").on(AGENT)
}

/// The first request of the second attempt must know what the first attempt's tool said.
fn knows_its_history(requests: &[Recorded], before: usize) {
    let next = &requests[before];
    assert!(next.found.iter().any(|text| text == PRINTED), "the history did not come along: {next:?}");
    assert!(next.messages > requests[0].messages, "{} messages", next.messages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_after_a_failure_of_the_api_resumes_the_conversation() {
    let test = "an_attempt_after_a_failure_of_the_api_resumes_the_conversation";
    let Some((real, _prompts)) = Real::alone_with_its_model(test, &["--no-gateway"]).await else { return };
    real.api.look_for(PRINTED);
    let played = real.play(&[row("the API breaks after a tool was used; the next attempt goes on")]).await;
    let [one] = &played[..] else { panic!("one row was played") };
    assert_eq!(one.answer(), "went on");
    // A tool, three refusals; then, in the next process, the answer alone.
    let answers: Vec<&str> = one.requests.iter().map(|request| request.answer.as_str()).collect();
    assert_eq!(answers, ["tool_use", "error", "error", "error", "end_turn"]);
    knows_its_history(&one.requests, 4);
}

/// The CLI itself among the processes of a task.
fn cli_of(dir: &Path) -> Option<Pid> {
    let is_cli = |pid: &&u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains("--session-id"))
            && std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("claude"))
    };
    let pids = at_home_in(dir);
    let pid = pids.iter().find(is_cli)?;
    i32::try_from(*pid).ok().and_then(Pid::from_raw)
}

/// Whether a file in `dir` or below holds `text`.
fn holds(dir: &Path, text: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => holds(&entry.path(), text),
        Ok(kind) if kind.is_file() => {
            std::fs::read_to_string(entry.path()).is_ok_and(|all| all.contains(text))
        }
        Ok(_) | Err(_) => false,
    })
}

/// Settings with a hook on everything, a memory file and a tool server, as a project or an earlier attempt may leave them.
fn plant(work: &Path) {
    std::fs::create_dir(work.join(".claude")).expect("a directory");
    let hook = r#"[{"hooks":[{"type":"command","command":"touch ../out/hook-ran"}]}]"#;
    let on_tools = hook.replacen('{', r#"{"matcher":"*","#, 1);
    let settings = format!(
        r#"{{"hooks":{{"SessionStart":{hook},"UserPromptSubmit":{hook},"Stop":{hook},"PreToolUse":{on_tools}}}}}"#
    );
    private_file(&work.join(".claude/settings.json"), &settings);
    private_file(&work.join(".claude/settings.local.json"), &settings);
    private_file(&work.join("CLAUDE.md"), "planted-memory\n");
    let server = r#"{"mcpServers":{"planted":{"command":"touch","args":["../out/server-ran"]}}}"#;
    private_file(&work.join(".mcp.json"), server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_after_a_kill_resumes_the_conversation_and_runs_nothing_that_was_planted() {
    let test = "an_attempt_after_a_kill_resumes_the_conversation_and_runs_nothing_that_was_planted";
    let Some(real) = Real::start(test).await else { return };
    for text in [PRINTED, "planted"] {
        real.api.look_for(text);
    }
    let row = row("the CLI is killed while a tool runs; the next attempt goes on");
    let mut client = real.fleet.client().await;
    let submitted = client.submit(run(vec![row.task("t")])).await;
    client.task_in(&format!("{}/t", submitted.r#ref), TaskState::Running).await;
    let dir: PathBuf = real.fleet.agent_dir(AGENT).join("tasks").join(format!("{}-0", submitted.run_id));
    let once = dir.join("work/once");
    until("the tool to run", || once.exists().then_some(()));
    // The CLI writes its session down a moment after it has said something.
    until("the session to be written", || holds(&dir.join("home"), PRINTED).then_some(()));
    plant(&dir.join("work"));
    let cli = until("the CLI to be found", || cli_of(&dir));
    kill_process(cli, Signal::KILL).expect("killed");
    client.finished(&submitted.r#ref).await;
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    row.check(&task).unwrap_or_else(|difference| panic!("{difference}"));
    let usage = task.usage.clone().expect("usage");
    assert!(!usage.estimated, "the gateway has the killed process's bill");
    let requests = real.requests_of(&task);
    // The CLI drops a call from its history whose result nobody knows: the model calls that tool again, and not the first.
    let answers: Vec<&str> = requests.iter().map(|request| request.answer.as_str()).collect();
    assert_eq!(answers, ["tool_use", "tool_use", "tool_use", "end_turn"]);
    assert_eq!(billed(&usage), counted(&requests));
    knows_its_history(&requests, 2);
    assert!(requests.iter().all(|request| !request.found.contains(&"planted".to_owned())), "{requests:?}");
    for ran in ["hook-ran", "server-ran"] {
        assert!(!dir.join("out").join(ran).exists(), "{ran}");
    }
    real.nothing_left();
}

impl Real {
    fn conversation(&self, run: &v1::Run) -> PathBuf {
        self.fleet.agent_dir(AGENT).join("tasks").join(format!("{}-0", run.run_id))
    }
}

/// Input and output tokens that the API counted.
fn counted(requests: &[Recorded]) -> (u64, u64) {
    requests.iter().fold((0, 0), |sum, request| (sum.0 + request.usage.input, sum.1 + request.usage.output))
}

/// Those that we say were used.
fn billed(usage: &v1::Usage) -> (u64, u64) {
    let models = usage.models.iter();
    models.fold((0, 0), |sum, model| (sum.0 + model.input_tokens, sum.1 + model.output_tokens))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_out_of_time_goes_on_with_a_note_and_every_token_is_billed_once() {
    let test = "what_ran_out_of_time_goes_on_with_a_note_and_every_token_is_billed_once";
    let Some(real) = Real::start(test).await else { return };
    real.api.look_for(PRINTED);
    let mut client = real.fleet.client().await;
    let tool = bash("echo $((6*7))-from-the-tool | tee -a begun");
    let mut spec = task("t", &format!("{tool}[[hang {{\"times\":1}}]]{}", says("went on")));
    spec.timeout = Some(prost_types::Duration { seconds: 8, nanos: 0 });
    let submitted = client.submit(run(vec![spec])).await;
    client.finished(&submitted.r#ref).await;
    let cut_off = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!((cut_off.outcome(), cut_off.attempt), (Outcome::Timeout, 1), "{}", cut_off.detail);
    orchctl(&real.fleet, &["retry", &submitted.r#ref]);
    client.finished(&submitted.r#ref).await;
    let done = client.tasks(&submitted.r#ref).await.remove(0);
    let told = attempts(&mut client, &done).await;
    assert_eq!((done.outcome(), done.attempt, answer(&done)), (Outcome::Ok, 2, "went on"), "{told}");
    assert_eq!(done.detail, WENT_ON);

    let dir = real.conversation(&submitted);
    assert_eq!(kinds(&said(&dir)), ["task", "note"]);
    let begun = std::fs::read_to_string(dir.join("work/begun")).expect("its file");
    assert_eq!(begun.lines().count(), 1, "what was done is not done again");
    let requests = real.requests_of(&done);
    knows_its_history(&requests, requests.len() - 1);
    let usage = done.usage.expect("usage");
    assert_eq!((billed(&usage), usage.cost_micro_usd), (counted(&requests), 1_200), "{told}");
    real.nothing_left();
}

/// When the CLI is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    /// As soon as there is a process.
    AtSight,
    /// The same, and of its session there is only a torn first line.
    Torn,
    /// While a tool runs.
    Midway,
    /// The same, and it is the supervisor that is killed.
    WithItsSupervisor,
    /// When the last answer was given.
    AtTheEnd,
}

/// The session file of a CLI, torn before the end of its first user line.
fn tear(dir: &Path, cli: Pid) {
    let line =
        std::fs::read_to_string(format!("/proc/{}/cmdline", cli.as_raw_nonzero())).expect("its command line");
    let mut words = line.split('\0').skip_while(|word| *word != "--session-id");
    let session = words.nth(1).expect("its session");
    let cwd: String = dir
        .join("work")
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let project = dir.join("home/.claude/projects").join(cwd);
    std::fs::create_dir_all(&project).expect("a directory");
    let text = "{\"type\":\"queue-operation\",\"operation\":\"enqueue\"}\n{\"parentUuid\":null,\"type\":\"us";
    std::fs::write(project.join(format!("{session}.jsonl")), text).expect("a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cli_that_is_killed_at_any_moment_leaves_a_task_that_completes() {
    let test = "a_cli_that_is_killed_at_any_moment_leaves_a_task_that_completes";
    let Some(real) = Real::start(test).await else { return };
    let mut client = real.fleet.client().await;
    for moment in [Killed::AtSight, Killed::Torn, Killed::Midway, Killed::WithItsSupervisor, Killed::AtTheEnd]
    {
        let once = if matches!(moment, Killed::Midway | Killed::WithItsSupervisor) {
            "test -e once || { touch once; sleep 600; }"
        } else {
            "true"
        };
        let spec = task("t", &format!("{}{}", bash(once), says("went on")));
        let submitted = client.submit(run(vec![spec])).await;
        let dir = real.conversation(&submitted);
        let answered = real.api.requests().len();
        match moment {
            Killed::AtSight | Killed::Torn => {}
            Killed::Midway | Killed::WithItsSupervisor => {
                until("the tool to run", || dir.join("work/once").exists().then_some(()))
            }
            Killed::AtTheEnd => until("the last answer", || {
                real.api.requests()[answered..]
                    .iter()
                    .any(|request| request.answer == "end_turn")
                    .then_some(())
            }),
        }
        // At the end it may be gone already.
        let cli = match moment {
            Killed::AtTheEnd => cli_of(&dir),
            Killed::WithItsSupervisor => {
                let supervisors = supervisors_in(&real.fleet.agent_dir(AGENT));
                assert_eq!(supervisors.len(), 1, "one attempt runs");
                i32::try_from(supervisors[0]).ok().and_then(Pid::from_raw)
            }
            Killed::AtSight | Killed::Torn | Killed::Midway => Some(until("the CLI", || cli_of(&dir))),
        };
        if let Some(cli) = cli {
            if moment == Killed::Torn {
                kill_process(cli, Signal::STOP).expect("stopped");
                tear(&dir, cli);
            }
            let _ = kill_process(cli, Signal::KILL);
        }
        client.finished(&submitted.r#ref).await;
        let done = client.tasks(&submitted.r#ref).await.remove(0);
        let told = attempts(&mut client, &done).await;
        assert_eq!((done.outcome(), answer(&done)), (Outcome::Ok, "went on"), "{moment:?}: {told}");
        let (kinds, attempt) = (kinds(&said(&dir)), done.attempt);
        match moment {
            Killed::Torn => assert_eq!((attempt, kinds), (2, vec!["task"]), "a fresh start"),
            Killed::Midway | Killed::WithItsSupervisor => {
                assert_eq!((attempt, kinds), (2, vec!["task", "note"]))
            }
            Killed::AtSight => assert_eq!(attempt, 2, "{told}"),
            Killed::AtTheEnd => assert!(attempt <= 2, "{told}"),
        }
    }
    real.nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_of_the_agent_in_the_middle_of_a_turn_leaves_the_cli_as_it_is() {
    let test = "an_upgrade_of_the_agent_in_the_middle_of_a_turn_leaves_the_cli_as_it_is";
    // It is not to be given up while the next one starts, however busy the host is.
    let Some(mut real) = Real::with_heartbeat(test, "5s", &[]).await else { return };
    let flags = ["--slots", "2", "--on-stop", "leave"];
    real.agent(AGENT, &flags);
    let mut client = real.fleet.client().await;
    let held = bash("touch begun; until [ -e go ]; do sleep 0.05; done");
    let submitted = client.submit(run(vec![task("t", &format!("{held}{}", says("the same")))])).await;
    let dir = real.conversation(&submitted);
    until("the tool to run", || dir.join("work/begun").exists().then_some(()));
    let cli = until("the CLI", || cli_of(&dir));
    let old = real.fleet.agent_process(AGENT);
    old.signal(Signal::TERM);
    assert!(old.wait().success(), "{}", old.log());
    assert_eq!(cli_of(&dir), Some(cli), "nobody stopped it");
    real.agent(AGENT, &flags);
    assert_eq!(cli_of(&dir), Some(cli));
    std::fs::write(dir.join("work/go"), "").expect("the task's working directory");
    client.finished(&submitted.r#ref).await;
    let done = client.tasks(&submitted.r#ref).await.remove(0);
    let told = attempts(&mut client, &done).await;
    assert_eq!((done.outcome(), done.attempt, answer(&done)), (Outcome::Ok, 1, "the same"), "{told}");
    assert_eq!(kinds(&said(&dir)), ["task"]);
    assert_eq!(counted(&real.requests_of(&done)), (200, 40));
    real.nothing_left();
}
