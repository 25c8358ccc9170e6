//! The real `claude` CLI, pinned, against the Messages API stand-in on loopback, through coordinator and agent.
//! Skipped with one clear line where the CLI is not installed under `target/claude-cli`; `.ci/run` installs it.

use orch_proto::v1::{CancelRunRequest, Outcome, RunState, TaskState};
use orch_standin::api::{ApiHandle, ApiStandin};
use orch_tests::client::{answer, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::process::at_home_in;
use orch_tests::wait::until;
use std::path::PathBuf;

/// Where `.ci/run` puts the pinned CLI.
fn real_cli() -> Option<PathBuf> {
    let named = std::env::var_os("ORCH_TEST_CLAUDE").map(PathBuf::from);
    let package = "claude-cli/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
    let found = named
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")).join(package));
    found.is_file().then_some(found)
}

struct Real {
    fleet: Fleet,
    api: ApiHandle,
}

/// A fleet of one agent that runs the real CLI against a stand-in of its API; `None` where there is no CLI.
async fn real(test: &str) -> Option<Real> {
    let Some(cli) = real_cli() else {
        orch_tests::skipped(test, "the real claude CLI is not installed under target/claude-cli");
        return None;
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let api = ApiStandin::start(listener).expect("the stand-in API");
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let key = fleet.dir().join("api.key");
    std::fs::write(&key, "sk-stand-in-not-a-key\n").expect("key file");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
    let base = format!("http://{}", api.addr());
    let (cli, key) = (cli.display().to_string(), key.display().to_string());
    fleet.agent(
        "box-1",
        &["--claude-bin", &cli, "--api-key-file", &key, "--api-base-url", &base, "--slots", "2"],
    );
    Some(Real { fleet, api })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_cli_answers_uses_a_tool_and_a_sub_agent() {
    let Some(real) = real("the_real_cli_answers_uses_a_tool_and_a_sub_agent").await else { return };
    let mut client = real.fleet.client().await;
    let tool = "[[tool {\"name\":\"Bash\",\"input\":{\"command\":\"echo made by a tool\",\"description\":\"x\"}}]][[text {\"text\":\"used a tool\"}]]";
    let submitted = client
        .submit(run(vec![
            worker("plain", "anga", "[[text {\"text\":\"a plain answer\"}]]"),
            worker("tool", "anga", tool),
        ]))
        .await;
    let finished = client.finished(&submitted.r#ref).await;
    let tasks = client.tasks(&submitted.r#ref).await;
    assert_eq!(finished.state(), RunState::Succeeded, "{tasks:#?}");
    assert_eq!(answer(&tasks[0]), "a plain answer");
    assert_eq!(answer(&tasks[1]), "used a tool");
    for task in &tasks {
        assert_eq!(task.outcome(), Outcome::Ok);
        assert!(
            task.usage.as_ref().is_some_and(|usage| usage.cost_micro_usd > 0 && !usage.estimated),
            "{task:#?}"
        );
    }

    let nested = "[[subagent {\"type\":\"test-runner\",\"prompt\":\"[[text {\\\"text\\\":\\\"inner\\\"}]]\"}]][[text {\"text\":\"outer\"}]]";
    let submitted = client.submit(run(vec![worker("nested", "anga", nested)])).await;
    client.finished(&submitted.r#ref).await;
    let tasks = client.tasks(&submitted.r#ref).await;
    assert_eq!((tasks[0].outcome(), answer(&tasks[0])), (Outcome::Ok, "outer"), "{tasks:#?}");
    assert!(
        real.api.requests().iter().any(|request| request.agent_id.is_some()),
        "no sub-agent was seen by the API"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_the_real_cli_leaves_no_process() {
    let Some(real) = real("cancelling_the_real_cli_leaves_no_process").await else { return };
    let mut client = real.fleet.client().await;
    let tool = "[[tool {\"name\":\"Bash\",\"input\":{\"command\":\"sleep 600\",\"description\":\"x\",\"timeout\":600000}}]]";
    let submitted = client.submit(run(vec![worker("t", "anga", tool)])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    client.task_in(&task_ref, TaskState::Running).await;
    let homes = real.fleet.agent_dir("box-1");
    let is_sleep = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with("sleep\0"))
    };
    until("the CLI's own command to run", || at_home_in(&homes).iter().any(is_sleep).then_some(()));
    let request = CancelRunRequest { r#ref: submitted.r#ref, ..Default::default() };
    client.runs.cancel_run(request).await.expect("cancelled");
    until("every process of the task to be gone", || at_home_in(&homes).is_empty().then_some(()));
}
