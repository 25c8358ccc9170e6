//! A task lands only where its requirement is met, and nobody waits in silence for what cannot be.

use orch_proto::v1::{self, TaskState};
use orch_tests::client::{noop, run};
use orch_tests::fleet::Fleet;

fn needing(mut task: v1::TaskSpec, key: &str, value: &str) -> v1::TaskSpec {
    task.requires.insert(key.into(), value.into());
    task
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_go_only_to_agents_that_offer_what_they_need() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("plain", &[]);
    fleet.agent("gpu", &["--capability", "gpu=yes", "--capability", "studio=dance"]);
    let mut client = fleet.client().await;
    let tasks = (0..20).map(|at| needing(noop(&format!("t{at}")), "gpu", "yes")).collect();
    let submitted = client.submit(run(tasks)).await;
    client.finished(&submitted.r#ref).await;
    for task in client.tasks(&submitted.r#ref).await {
        assert_eq!(task.agent, "gpu");
    }
    let mut pinned = noop("here");
    pinned.agent = "plain".into();
    let submitted = client.submit(run(vec![pinned])).await;
    client.finished(&submitted.r#ref).await;
    assert_eq!(client.tasks(&submitted.r#ref).await[0].agent, "plain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impossible_requirement_is_said_at_once_and_the_task_waits() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("plain", &[]);
    let mut client = fleet.client().await;
    let spec = run(vec![needing(noop("far"), "gpu", "yes")]);
    let request = v1::SubmitRunRequest { spec: Some(spec), ..Default::default() };
    let answer = client.runs.submit_run(request).await.expect("accepted").into_inner();
    assert_eq!(answer.impossible.len(), 1);
    assert!(answer.impossible[0].reason.contains("gpu=yes"), "{}", answer.impossible[0].reason);
    let run_ref = answer.run.expect("a run").r#ref;
    let request = v1::ExplainTaskRequest { r#ref: run_ref.clone() };
    let why = client.runs.explain_task(request).await.expect("explained").into_inner();
    assert!(why.impossible, "{why:?}");
    assert_eq!(why.task.expect("task").state(), TaskState::Queued);
    fleet.agent("gpu", &["--capability", "gpu=yes"]);
    client.finished(&run_ref).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orchctl_ends_with_10_when_nothing_can_ever_run_it() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("plain", &[]);
    let mut command = fleet.orchctl(&["run", "--runner", "noop", "--require", "gpu=yes"]);
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("orchctl ran");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{stderr}");
    assert!(stderr.contains("gpu=yes"), "{stderr}");
}
