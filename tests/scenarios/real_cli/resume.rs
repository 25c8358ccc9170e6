//! A conversation outlives the process it was held in: the next attempt brings its history, and nothing that came to lie in
//! its working directory meanwhile is obeyed.

use super::{AGENT, Real, private_file};
use orch_proto::v1::TaskState;
use orch_standin::api::Recorded;
use orch_tests::client::run;
use orch_tests::matrix::Row;
use orch_tests::matrix::real::RESUMED;
use orch_tests::process::at_home_in;
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
    let Some(real) = Real::start(test).await else { return };
    real.api.look_for(PRINTED);
    let played = real.play(&[row("the API breaks after a tool was used; the next attempt goes on")]).await;
    let [one] = &played[..] else { panic!("one row was played") };
    assert_eq!(one.answer(), "went on");
    // A tool, three refusals; then, in the next process, the same again and the answer.
    let answers: Vec<&str> = one.requests.iter().map(|request| request.answer.as_str()).collect();
    assert_eq!(answers, ["tool_use", "error", "error", "error", "tool_use", "end_turn"]);
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
    assert!(task.usage.as_ref().is_some_and(|usage| usage.estimated), "nobody has the killed process's bill");
    let requests = real.requests_of(&task);
    let answers: Vec<&str> = requests.iter().map(|request| request.answer.as_str()).collect();
    assert_eq!(answers, ["tool_use", "tool_use", "tool_use", "tool_use", "end_turn"]);
    knows_its_history(&requests, 2);
    assert!(requests.iter().all(|request| !request.found.contains(&"planted".to_owned())), "{requests:?}");
    for ran in ["hook-ran", "server-ran"] {
        assert!(!dir.join("out").join(ran).exists(), "{ran}");
    }
    real.nothing_left();
}
