//! Gates: what a task must show before it counts as done, and what happens when it does not.

use super::ended;
use orch_proto::v1::{self, Outcome, RunState, TaskRole, TaskState};
use orch_tests::client::{after, noop, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::process::at_home_in;
use orch_tests::wait::until;
use serde_json::json;

fn bash(line: &str) -> String {
    format!("[[tool {}]]", json!({"name": "Bash", "input": {"command": line}}))
}

fn then(next: &str) -> String {
    format!("[[then {}]]", json!({"prompt": next}))
}

fn gate(program: &str, args: &[&str]) -> v1::GateCommand {
    v1::GateCommand {
        program: program.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..Default::default()
    }
}

fn gated(id: &str, description: &str, gates: v1::Gates) -> v1::TaskSpec {
    v1::TaskSpec { gates: Some(gates), ..worker(id, "anga", description) }
}

const ALLOWED: &[&str] = &["--slots", "4", "--allow-command", "test", "--allow-command", "sh"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_red_gate_sends_the_worker_back_with_the_log_and_a_green_one_lets_it_pass() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", ALLOWED);
    let mut client = fleet.client().await;
    let description =
        bash("echo draft > a.txt") + &then(&(bash("echo final > b.txt") + "[[text {\"text\":\"mended\"}]]"));
    let gates = v1::Gates { commands: vec![gate("test", &["-f", "b.txt"])], ..Default::default() };
    let submitted =
        client.submit(run(vec![gated("build", &description, gates), after(noop("next"), &["build"])])).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    let build = &tasks["build"];
    assert_eq!((build.repairs, build.attempt), (1, 2));
    let request = v1::GetTaskRequest { r#ref: build.r#ref.clone() };
    let whole = client.runs.get_task(request).await.expect("a task").into_inner().task.expect("a task");
    let outcomes: Vec<Outcome> = whole.attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(outcomes, [Outcome::GateFailed, Outcome::Ok]);
    assert!(whole.gates.iter().all(|gate| gate.passed) && !whole.gates.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_red_fails_and_what_waits_for_it_is_not_run() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", ALLOWED);
    let mut client = fleet.client().await;
    let red =
        v1::Gates { commands: vec![gate("sh", &["-c", "echo broken here; exit 3"])], ..Default::default() };
    let idle = v1::Gates { min_tool_calls: 1, repairs: Some(0), ..Default::default() };
    let missing =
        v1::Gates { required_artifacts: vec!["*.md".into()], repairs: Some(0), ..Default::default() };
    let mut slow = gate("sh", &["-c", "sleep 600"]);
    slow.timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let hanging = v1::Gates { commands: vec![slow], repairs: Some(0), ..Default::default() };
    let submitted = client
        .submit(run(vec![
            gated("red", "[[text]]", red),
            gated("idle", "[[text]]", idle),
            gated("missing", "[[text]]", missing),
            gated("hanging", "[[text]]", hanging),
            after(noop("next"), &["red"]),
        ]))
        .await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Failed).await;
    for (id, repairs) in [("red", 1), ("idle", 0), ("missing", 0), ("hanging", 0)] {
        assert_eq!(tasks[id].outcome(), Outcome::GateFailed, "{id}: {}", tasks[id].detail);
        assert_eq!(tasks[id].repairs, repairs, "{id}");
    }
    assert_eq!(tasks["next"].state(), TaskState::Skipped);
    let request = v1::GetTaskRequest { r#ref: tasks["red"].r#ref.clone() };
    let whole = client.runs.get_task(request).await.expect("a task").into_inner().task.expect("a task");
    assert!(whole.gates.iter().any(|gate| gate.log.contains("broken here")), "{:?}", whole.gates);
    let tasks = fleet.agent_dir("box-1").join("tasks");
    until("nothing of a gate to be left", || at_home_in(&tasks).is_empty().then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_worker_judges_and_its_reasons_reach_the_one_who_mends() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", ALLOWED);
    fleet.agent("box-2", ALLOWED);
    let mut client = fleet.client().await;
    // The reviewer looks whether the answer says `mended`, which it does after the first verdict only.
    let fail = json!({"verdict": "fail", "reasons": ["the ending is missing"]});
    let review = v1::Review {
        worker: "fabien".into(),
        instructions: format!("[[structured {fail}]]"),
        ..Default::default()
    };
    let gates = v1::Gates { review: Some(review), ..Default::default() };
    let description = format!("[[text {{\"text\":\"a draft\"}}]]{}", then("[[echo]]"));
    let submitted = client.submit(run(vec![gated("write", &description, gates)])).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Failed).await;
    let (write, review) = (&tasks["write"], &tasks["write.review"]);
    assert_eq!((write.outcome(), write.repairs, write.attempt), (Outcome::GateFailed, 1, 2));
    assert_eq!((review.role(), review.of.as_str()), (TaskRole::Review, "write"));
    assert_eq!(review.attempt, 2, "it judged both");
    assert!(write.detail.contains("the ending is missing"), "{}", write.detail);

    let gates = v1::Gates {
        review: Some(v1::Review { worker: "fabien".into(), ..Default::default() }),
        ..Default::default()
    };
    let submitted =
        client.submit(run(vec![gated("write", "Write it", gates), after(noop("next"), &["write"])])).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    assert_eq!((tasks["write"].state(), tasks["write"].attempt), (TaskState::Succeeded, 1));
    assert_eq!(tasks["write.review"].attempt, 1);
}
