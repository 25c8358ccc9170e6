//! A request in plain language: the tasks `plan` and `synthesis`, before anybody knows what lies between them.
//! Knows the request's limits; what the two are told is [`crate::planning`]'s.

use super::{
    CheckedPlanning, CheckedTask, Frame, Given, MAX_PROMPT_BYTES, SpecError, check_tasks, rules, runner,
};
use crate::planning;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::collections::BTreeSet;

/// The worker that plans and synthesises.
pub const ORCHESTRATOR: &str = "orchestrator";
/// Name of the task that plans; its index is 0.
pub const PLAN: &str = "plan";
/// Name of the task that makes one answer of all results; its index is 1.
pub const SYNTHESIS: &str = "synthesis";
/// Most tasks of a plan when a request says nothing.
pub const DEFAULT_PLANNED_TASKS: u32 = 20;
/// Most tasks of a plan.
pub const MAX_PLANNED_TASKS: u32 = 1_000;
/// Names of the workers that a request names, together: they rest in the run's record.
const MAX_WORKERS_BYTES: usize = 400;
/// Times a planner is sent back with what is wrong with its plan.
const PLAN_REPAIRS: u32 = 1;

/// Checks a request, and makes its first two tasks. `spec` is the run without the request.
pub(super) fn check(
    request: &v1::PlannedRequest,
    spec: &v1::RunSpec,
    given: &Given<'_>,
) -> Result<(Vec<CheckedTask>, CheckedPlanning), SpecError> {
    check_request(request, spec)?;
    let workers = check_workers(&request.workers, given)?;
    let planned = planning::compose(request, spec, given.workers, given.catalogue)?;
    let tasks = vec![
        task(PLAN, planned.plan.prompt, planned.plan.output_schema, &[], v1::After::Success),
        task(SYNTHESIS, planned.synthesis.prompt, planned.synthesis.output_schema, &[PLAN], v1::After::End),
    ];
    let frame =
        Frame { first: 0, taken: &BTreeSet::new(), workspace: &spec.workspace, no_cache: spec.no_cache };
    let mut tasks = check_tasks(tasks, &frame, given).map_err(of_request)?;
    for (task, role) in tasks.iter_mut().zip([v1::TaskRole::Plan, v1::TaskRole::Synthesis]) {
        task.role = role;
    }
    if let Some(plan) = tasks.first_mut() {
        plan.repairs = PLAN_REPAIRS;
    }
    let planning = CheckedPlanning {
        approve: request.approve,
        plan_only: request.plan_only,
        max_tasks: if request.max_tasks == 0 { DEFAULT_PLANNED_TASKS } else { request.max_tasks },
        workers,
        workspace: spec.workspace.clone(),
    };
    Ok((tasks, planning))
}

fn check_request(request: &v1::PlannedRequest, spec: &v1::RunSpec) -> Result<(), SpecError> {
    let refuse = |code, field: &str, message: String| Err(SpecError::new(code, field, message));
    if !spec.tasks.is_empty() {
        let message = "a run has a request to be planned, or tasks: not both";
        return refuse(ErrorCode::InvalidField, "tasks", message.to_owned());
    }
    if request.text.trim().is_empty() {
        let message = "the request is empty: say what is wanted";
        return refuse(ErrorCode::EmptyPrompt, "request.text", message.to_owned());
    }
    let bytes = request.text.len() + request.context.len();
    if bytes > MAX_PROMPT_BYTES {
        let message = format!("{bytes} bytes with its context; at most {MAX_PROMPT_BYTES}");
        return refuse(ErrorCode::TooLarge, "request.text", message);
    }
    for (field, text) in [("request.text", &request.text), ("request.context", &request.context)] {
        if text.contains('\0') {
            return refuse(ErrorCode::InvalidField, field, "holds a NUL byte".to_owned());
        }
    }
    if request.max_tasks > MAX_PLANNED_TASKS {
        let message = format!("{}; at most {MAX_PLANNED_TASKS}", request.max_tasks);
        return refuse(ErrorCode::InvalidField, "request.max_tasks", message);
    }
    if request.approve && request.plan_only {
        let message = "nothing runs of a plan that is all that is wanted: there is nothing to approve";
        return refuse(ErrorCode::InvalidField, "request.approve", message.to_owned());
    }
    Ok(())
}

fn check_workers(names: &[String], given: &Given<'_>) -> Result<Vec<String>, SpecError> {
    let bytes: usize = names.iter().map(|name| name.len() + 2).sum();
    if bytes > MAX_WORKERS_BYTES {
        let message = format!("{bytes} bytes of names together; at most {MAX_WORKERS_BYTES}");
        return Err(SpecError::new(ErrorCode::TooLarge, "request.workers", message));
    }
    let mut known = BTreeSet::new();
    for (at, name) in names.iter().enumerate() {
        let field = format!("request.workers[{at}]");
        if name == ORCHESTRATOR {
            let message = format!("`{ORCHESTRATOR}` plans: it gives no task to itself");
            return Err(SpecError::new(ErrorCode::InvalidField, field, message));
        }
        runner::known_worker(&field, name, given).map_err(|error| SpecError { field, ..error })?;
        known.insert(name.clone());
    }
    Ok(known.into_iter().collect())
}

fn task(
    id: &str,
    description: String,
    output_schema: String,
    dependencies: &[&str],
    after: v1::After,
) -> v1::TaskSpec {
    let worker = v1::WorkerTask {
        worker: ORCHESTRATOR.to_owned(),
        description,
        output_schema,
        ..v1::WorkerTask::default()
    };
    v1::TaskSpec {
        task_id: id.to_owned(),
        runner: Some(v1::task_spec::Runner::Worker(worker)),
        dependencies: dependencies.iter().map(|&id| id.to_owned()).collect(),
        after: after.into(),
        ..v1::TaskSpec::default()
    }
}

/// The two tasks are nothing that anybody wrote: what is wrong with them is wrong with the request.
fn of_request(error: SpecError) -> SpecError {
    if error.code == ErrorCode::UnknownWorker {
        let message = format!("needs the worker `{ORCHESTRATOR}`: {}", rules::shown(&error.message));
        return SpecError::new(error.code, "request", message);
    }
    SpecError { field: "request.text".to_owned(), ..error }
}
