//! Requests in plain language.

use super::*;

fn request(text: &str) -> v1::PlannedRequest {
    v1::PlannedRequest { text: text.into(), ..Default::default() }
}

fn spec(request: v1::PlannedRequest) -> v1::RunSpec {
    v1::RunSpec { request: Some(request), workspace: "dance".into(), ..Default::default() }
}

/// A request needs workers that a plan could name.
fn check_planned(spec: v1::RunSpec) -> Result<CheckedRun, SpecError> {
    let known = ["anga", "critic"].map(|name| (name.to_owned(), crate::planning::Known::default()));
    let catalogue = Catalogue::new(BTreeMap::from(known), Vec::new());
    let conversations = BTreeMap::new();
    let given =
        Given { workers: &Fixed, catalogue: &catalogue, submitted: SUBMITTED, conversations: &conversations };
    CheckedRun::check(spec, &given)
}

#[track_caller]
fn planned_refused(spec: v1::RunSpec, code: ErrorCode, field: &str) {
    let error = check_planned(spec).expect_err("the request must be refused");
    assert_eq!((error.code, error.field.as_str()), (code, field), "{error}");
}

#[test]
fn a_request_becomes_a_planner_and_a_synthesis_that_waits_for_it() {
    let asked =
        v1::PlannedRequest { approve: true, workers: vec!["anga".into()], ..request("Evaluate all.") };
    let run = check_planned(spec(asked)).unwrap();
    assert_eq!(
        run.planning,
        Some(CheckedPlanning {
            approve: true,
            plan_only: false,
            max_tasks: DEFAULT_PLANNED_TASKS,
            workers: vec!["anga".into()],
            workspace: "dance".into(),
        })
    );
    let [plan, synthesis] = run.tasks.as_slice() else { panic!("{:?}", run.tasks) };
    assert_eq!((plan.id.as_str(), plan.role, plan.repairs), (PLAN, v1::TaskRole::Plan, 1));
    assert_eq!((synthesis.id.as_str(), synthesis.role), (SYNTHESIS, v1::TaskRole::Synthesis));
    assert_eq!((synthesis.after, &*synthesis.dependencies), (v1::After::End, &[0][..]));
    for task in &run.tasks {
        let worker = worker_of(task);
        assert_eq!((worker.worker.name.as_str(), task.workspace.as_str()), (ORCHESTRATOR, "dance"));
        assert!(worker.prompt.contains("Evaluate all.") && !worker.output_schema.is_empty());
    }
}

#[test]
fn the_limits_of_a_request_are_kept() {
    planned_refused(spec(request(" \n")), ErrorCode::EmptyPrompt, "request.text");
    planned_refused(spec(request("a\0b")), ErrorCode::InvalidField, "request.text");
    let context = v1::PlannedRequest { context: "a\0".into(), ..request("x") };
    planned_refused(spec(context), ErrorCode::InvalidField, "request.context");
    let long = v1::PlannedRequest { context: "x".repeat(MAX_PROMPT_BYTES), ..request("x") };
    planned_refused(spec(long), ErrorCode::TooLarge, "request.text");
    let just = request(&"x".repeat(MAX_PROMPT_BYTES));
    planned_refused(spec(just), ErrorCode::TooLarge, "request.text");
    let many = v1::PlannedRequest { max_tasks: 1_001, ..request("x") };
    planned_refused(spec(many), ErrorCode::InvalidField, "request.max_tasks");
    let both = v1::PlannedRequest { approve: true, plan_only: true, ..request("x") };
    planned_refused(spec(both), ErrorCode::InvalidField, "request.approve");
    let tasks = v1::RunSpec { tasks: vec![noop("a")], ..spec(request("x")) };
    planned_refused(tasks, ErrorCode::InvalidField, "tasks");
}

#[test]
fn a_plan_may_name_known_workers_and_never_its_planner() {
    let naming = |names: &[&str]| {
        let workers = names.iter().map(|&name| name.into()).collect();
        spec(v1::PlannedRequest { workers, ..request("x") })
    };
    planned_refused(naming(&["anga", "nobody"]), ErrorCode::UnknownWorker, "request.workers[1]");
    planned_refused(naming(&[ORCHESTRATOR]), ErrorCode::InvalidField, "request.workers[0]");
    planned_refused(naming(&vec!["anga"; 100]), ErrorCode::TooLarge, "request.workers");
    let run = check_planned(naming(&["critic", "anga", "critic"])).unwrap();
    assert_eq!(run.planning.unwrap().workers, ["anga", "critic"]);
}
