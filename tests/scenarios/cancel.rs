//! A cancel ends everything that a task started, whatever it does to stay.

use orch_proto::v1::{CancelRunRequest, Outcome, RunState, TaskState};
use orch_tests::client::{after, command, noop, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::process::at_home_in;
use orch_tests::wait::{until, until_async};

async fn cancelled_leaves_nothing(description: &str) {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let submitted =
        client.submit(run(vec![worker("t", "anga", description), after(noop("next"), &["t"])])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    client.task_in(&task_ref, TaskState::Running).await;
    let homes = fleet.agent_dir("box-1");
    until("the child to run", || (!at_home_in(&homes).is_empty()).then_some(()));
    let request = CancelRunRequest { r#ref: submitted.r#ref.clone(), ..Default::default() };
    let answer = client.runs.cancel_run(request.clone()).await.expect("cancelled").into_inner();
    assert_eq!(answer.run.expect("run").state(), RunState::Cancelled);
    until("every process of the task to be gone", || at_home_in(&homes).is_empty().then_some(()));
    let again = client.runs.cancel_run(request).await.expect("repeating it is harmless").into_inner();
    assert_eq!(again.cancelled, 0);
    let tasks = client.tasks(&submitted.r#ref).await;
    assert_eq!((tasks[0].state(), tasks[0].outcome()), (TaskState::Cancelled, Outcome::Cancelled));
    assert!(matches!(tasks[1].state(), TaskState::Cancelled | TaskState::Skipped), "{:?}", tasks[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_a_child_that_waits() {
    cancelled_leaves_nothing("[[sleep {\"ms\":600000}]] [[text {\"text\":\"awake\"}]]").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_childs_own_commands_too() {
    cancelled_leaves_nothing("[[tool {\"name\":\"Bash\",\"input\":{\"command\":\"sleep 600\"}}]]").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_program_is_gone_with_its_children() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--allow-command", "setsid"]);
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![command("t", "setsid", &["--wait", "sleep", "600"])])).await;
    let homes = fleet.agent_dir("box-1");
    until("the child to run", || (!at_home_in(&homes).is_empty()).then_some(()));
    let request = CancelRunRequest { r#ref: submitted.r#ref, ..Default::default() };
    client.runs.cancel_run(request).await.expect("cancelled");
    until("every process of the task to be gone", || at_home_in(&homes).is_empty().then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cancelled_attempt_cost_is_known_exactly_also_after_a_kill() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let text = r#"[[tool {"name":"Bash","input":{"command":"touch ../out/asked; sleep 600"}}]]"#;
    let submitted = client.submit(run(vec![worker("t", "anga", text), noop("next")])).await;
    let run_ref = submitted.r#ref.clone();
    let spent = |run: &orch_proto::v1::Run| run.usage.clone().unwrap_or_default();
    client.task_in(&format!("{run_ref}/t"), TaskState::Running).await;
    let out = fleet.agent_dir("box-1").join("tasks").join(format!("{}-0/out", submitted.run_id));
    until("the tool to run", || out.join("asked").exists().then_some(()));
    let request = CancelRunRequest { r#ref: run_ref.clone(), ..Default::default() };
    client.runs.cancel_run(request).await.expect("cancelled");
    // A heartbeat says how much; only the report of the end says of which model.
    let billed = until_async("the bill of the cancelled attempt", || {
        let mut client = client.clone();
        let run_ref = run_ref.clone();
        async move {
            let task = client.tasks(&run_ref).await.remove(0);
            task.usage.clone().filter(|usage| !usage.models.is_empty()).map(|_| task)
        }
    })
    .await;
    assert_eq!((billed.state(), billed.outcome()), (TaskState::Cancelled, Outcome::Cancelled));
    let usage = billed.usage.clone().expect("usage");
    assert!(usage.cost_micro_usd >= 600, "{usage:?}");
    let attempt = billed.attempts[0].usage.clone().expect("usage");
    assert_eq!(attempt.cost_micro_usd, usage.cost_micro_usd);
    assert_eq!(spent(&client.run(&run_ref).await).cost_micro_usd, usage.cost_micro_usd);
    fleet.kill_coordinator();
    fleet.start_coordinator();
    let mut client = fleet.client().await;
    assert_eq!(client.tasks(&run_ref).await.remove(0).usage, Some(usage.clone()));
    assert_eq!(spent(&client.run(&run_ref).await).cost_micro_usd, usage.cost_micro_usd);
}
