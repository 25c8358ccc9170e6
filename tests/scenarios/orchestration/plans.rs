//! Plans that cannot be run, plans that wait for a person, and plans that are all that is wanted.

use super::{ended, request, structured, work};
use orch_proto::v1::{self, Outcome, PlanDecision, RunState, TaskState};
use orch_tests::client::Client;
use orch_tests::fleet::Fleet;
use orch_tests::wait::until_async;
use serde_json::{Value, json};

fn task(id: &str, dependencies: &[&str]) -> Value {
    json!({"id": id, "worker": "anga", "description": format!("do {id}"), "dependencies": dependencies})
}

fn plan(tasks: &[Value]) -> Value {
    json!({"summary": "as foreseen", "tasks": tasks})
}

/// A request whose planner answers `plan`.
fn planned(plan: &Value) -> v1::RunSpec {
    request(&format!("Do it [[plan {plan}]]"))
}

async fn proposed(client: &mut Client, run_ref: &str) -> v1::GetPlanResponse {
    let request = v1::GetPlanRequest { r#ref: run_ref.to_owned() };
    client.runs.get_plan(request).await.expect("a plan").into_inner()
}

async fn decide(
    client: &mut Client,
    run_ref: &str,
    decision: PlanDecision,
    plan: &str,
) -> Result<v1::DecidePlanResponse, tonic::Status> {
    let request = v1::DecidePlanRequest {
        r#ref: run_ref.to_owned(),
        decision: decision.into(),
        plan: plan.to_owned(),
        reason: "as tested".to_owned(),
        ..v1::DecidePlanRequest::default()
    };
    client.runs.decide_plan(request).await.map(tonic::Response::into_inner)
}

async fn waiting(client: &Client, run_ref: &str) {
    until_async("the plan to wait for a person", || {
        let mut client = client.clone();
        let request = v1::GetRunRequest { r#ref: run_ref.to_owned() };
        async move {
            let run = client.runs.get_run(request).await.ok()?.into_inner().run?;
            (run.state() == RunState::WaitingApproval).then_some(())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_cannot_be_run_is_sent_back_once_with_the_errors_and_a_better_one_is_run() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    // The planner's second answer, after the errors, is the stand-in's own plan of one task.
    let run = client.submit(planned(&plan(&[task("a", &["b"]), task("b", &["a"])]))).await;
    let (_, tasks) = ended(&mut client, &run.r#ref, RunState::Succeeded).await;
    assert_eq!((tasks["plan"].repairs, tasks["plan"].attempt), (1, 2));
    assert_eq!(work(&tasks), ["answer"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_repair_mends_fails_plainly_and_shows_plan_and_errors() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    // Every attempt starts in a home of its own, so that the planner answers the same again.
    fleet.agent("box-1", &["--slots", "4"]);
    let mut client = fleet.client().await;
    let many: Vec<Value> = (0..200).map(|at| task(&format!("t{at}"), &[])).collect();
    let unknown = json!({"id": "x", "worker": "mari", "description": "evaluate", "dependencies": []});
    let rows: [(Value, &str); 5] = [
        (plan(&[task("a", &["b"]), task("b", &["a"])]), "a"),
        (plan(&many), "200"),
        (plan(&[unknown]), "marie"),
        (plan(&[task("same", &[]), task("same", &[])]), "same"),
        (plan(&[task("a", &["nobody"])]), "nobody"),
    ];
    for (bad, named) in rows {
        // `then` makes the stand-in answer the same after the errors were told.
        let mut spec = planned(&bad);
        let asked = spec.request.as_mut().expect("a request");
        asked.max_tasks = 50;
        asked.text = format!("{} [[then {}]]", asked.text, json!({"prompt": format!("[[plan {bad}]]")}));
        let run = client.submit(spec).await;
        let (run, tasks) = ended(&mut client, &run.r#ref, RunState::Failed).await;
        assert_eq!(run.outcome(), Outcome::SchemaInvalid, "{named}");
        assert_eq!(tasks["plan"].state(), TaskState::Failed);
        assert_eq!(tasks["synthesis"].state(), TaskState::Skipped);
        let shown = proposed(&mut client, &run.r#ref).await;
        assert!(!shown.plan.is_empty() && shown.tasks.is_empty(), "{named}");
        assert!(
            shown.problems.iter().any(|problem| problem.contains(named)),
            "{named}: {:?}",
            shown.problems
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_before_a_person_says_so_and_an_edited_plan_takes_the_place_of_the_proposed() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let mut spec = planned(&plan(&[task("a", &[]), task("b", &["a"])]));
    spec.request.as_mut().expect("a request").approve = true;
    let run = client.submit(spec).await.r#ref;
    waiting(&client, &run).await;

    // Waiting is durable.
    drop(client);
    fleet.kill_coordinator();
    fleet.start_coordinator();
    let mut client = fleet.client().await;
    let shown = proposed(&mut client, &run).await;
    let ids: Vec<&str> = shown.tasks.iter().map(|task| task.task_id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert!(shown.problems.is_empty());
    assert_eq!(client.tasks(&run).await.len(), 2, "only planner and synthesis");

    let bad = plan(&[task("a", &["a"])]).to_string();
    let refused = decide(&mut client, &run, PlanDecision::Approve, &bad).await.expect("an answer");
    assert!(!refused.problems.is_empty());
    waiting(&client, &run).await;

    let edited = plan(&[task("c", &[])]).to_string();
    let taken = decide(&mut client, &run, PlanDecision::Approve, &edited).await.expect("an answer");
    assert!(taken.problems.is_empty(), "{:?}", taken.problems);
    let (_, tasks) = ended(&mut client, &run, RunState::Succeeded).await;
    assert_eq!(work(&tasks), ["c"]);
    let late = decide(&mut client, &run, PlanDecision::Approve, "").await.expect_err("it is over");
    assert_eq!(late.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_plan_ends_the_run_and_a_plan_alone_is_its_whole_result() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let mut spec = planned(&plan(&[task("a", &[])]));
    spec.request.as_mut().expect("a request").approve = true;
    let run = client.submit(spec).await.r#ref;
    waiting(&client, &run).await;
    decide(&mut client, &run, PlanDecision::Reject, "").await.expect("an answer");
    let (run, tasks) = ended(&mut client, &run, RunState::Cancelled).await;
    assert!(run.detail.contains("as tested"), "{}", run.detail);
    assert!(work(&tasks).is_empty());

    let mut spec = planned(&plan(&[task("a", &[])]));
    spec.request.as_mut().expect("a request").plan_only = true;
    let run = client.submit(spec).await.r#ref;
    let (_, tasks) = ended(&mut client, &run, RunState::Succeeded).await;
    assert!(work(&tasks).is_empty());
    assert_eq!(structured(&tasks["plan"])["tasks"][0]["id"], "a");
    assert_eq!(tasks["synthesis"].state(), TaskState::Skipped);
}
