//! One task of a run file.

use orch_proto::codes::ErrorCode;
use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{CommandTask, NoopTask, OnLoss, TaskSpec, WorkerTask};

use super::super::diagnostic::Diagnostic;
use super::super::json::{Spanned, Value};
use super::object::Object;
use super::{DraftTask, TASK_NAME, checks, is_task_name};
use crate::args::parse;
use crate::compose::MAX_DESCRIPTION;
use crate::suggest::did_you_mean;

/// Every field of a task.
pub(crate) const FIELDS: &[&str] = &[
    "task_id",
    "worker",
    "runner",
    "description",
    "context",
    "model",
    "output_schema",
    "budget_usd",
    "max_turns",
    "program",
    "args",
    "dependencies",
    "priority",
    "timeout",
    "retries",
    "requires",
    "on_loss",
    "agent",
    "after",
    "when",
    "gates",
    "publish",
    "workspace",
    "cache",
    "contract",
    "after_ref",
    "expected_cost_usd",
];
/// Those that only a worker can honour. A description may stand anywhere: it tells people what a task is for.
const WORKER_FIELDS: &[&str] = &["context", "model", "output_schema", "max_turns", "contract", "after_ref"];
/// Those that only a command can honour.
const COMMAND_FIELDS: &[&str] = &["program", "args"];
const RUNNERS: &[&str] = &["noop", "command"];

/// Longest output schema, from the wire's documentation.
const MAX_SCHEMA: usize = 96 << 10;

/// Reads a task; `None` if it is not even an object. `alone` says that the run has no other.
pub(super) fn read(
    text: &str,
    item: &Spanned,
    alone: bool,
    problems: &mut Vec<Diagnostic>,
) -> Option<DraftTask> {
    let Value::Object(members) = &item.value else {
        let message = format!("a task is an object, not {}", item.value.kind());
        problems.push(Diagnostic::new(ErrorCode::InvalidField, item.span.clone(), message));
        return None;
    };
    let mut object = Object::new(text, "a task", item, members, FIELDS, problems);
    let task_id = task_id(&mut object, alone);
    let dependencies = object.text_list("dependencies");
    let spec = TaskSpec {
        task_id,
        runner: runner(&mut object),
        dependencies: dependencies.iter().map(|(id, _)| (*id).to_owned()).collect(),
        priority: object.number_or_text("priority", "high, medium, low or a whole number", parse::priority),
        timeout: object
            .number_or_text("timeout", "seconds, or a duration such as \"10m\"", parse::duration)
            .and_then(|timeout| timeout.try_into().ok()),
        retries: object.whole("retries", 0),
        requires: object.texts("requires"),
        on_loss: object
            .number_or_text("on_loss", "\"fast\" or \"wait\"", parse::on_loss)
            .unwrap_or(OnLoss::Unspecified)
            .into(),
        agent: object.text("agent").map(|(agent, _)| agent.to_owned()).unwrap_or_default(),
        after: checks::after(&mut object).into(),
        gates: checks::gates(&mut object),
        publish: checks::publications(&mut object),
        workspace: super::workspace(&mut object),
        conditions: checks::conditions(&mut object, &dependencies),
        cache: object.flag("cache"),
        expected_cost_micro_usd: object.number_or_text(
            "expected_cost_usd",
            "a sum in dollars such as 0.50",
            parse::budget,
        ),
    };
    let id_span = object.place("task_id");
    Some(DraftTask {
        spec,
        id_span,
        dependency_spans: dependencies.into_iter().map(|(_, span)| span).collect(),
    })
}

fn task_id(object: &mut Object<'_, '_>, alone: bool) -> String {
    let Some((id, _)) = object.text("task_id") else {
        if !alone && !object.has("task_id") {
            object.missing(ErrorCode::InvalidName, "a task of several has no \"task_id\"");
        }
        return String::new();
    };
    if !is_task_name(id) {
        object.wrong(
            ErrorCode::InvalidName,
            "task_id",
            &format!("the task id {id:?} is not allowed"),
            TASK_NAME,
        );
    }
    id.to_owned()
}

/// What executes the task: a worker, or one of the other runners.
fn runner(object: &mut Object<'_, '_>) -> Option<Runner> {
    let worker = object.text("worker").map(|(worker, _)| worker);
    let runner = object.text("runner").map(|(runner, _)| runner);
    match (worker, runner) {
        (Some(_), Some(_)) => {
            let message = "a task has either a \"worker\" or a \"runner\"";
            object.wrong(ErrorCode::InvalidField, "runner", message, "take one of them away");
            None
        }
        (Some(worker), None) => {
            refuse(object, COMMAND_FIELDS, "a worker");
            Some(Runner::Worker(worker_task(object, worker)))
        }
        (None, Some("noop")) => {
            refuse(object, COMMAND_FIELDS, "the runner noop");
            refuse_worker_fields(object, "noop");
            Some(Runner::Noop(NoopTask {}))
        }
        (None, Some("command")) => {
            refuse_worker_fields(object, "command");
            command_task(object).map(Runner::Command)
        }
        (None, Some(other)) => {
            let note = did_you_mean(other, RUNNERS.iter().copied());
            let message = format!("there is no runner {other:?}; there are noop and command");
            object.wrong(ErrorCode::InvalidField, "runner", &message, &note);
            None
        }
        (None, None) => {
            // A value of the wrong type was reported already.
            if !object.has("worker") && !object.has("runner") {
                object.missing(
                    ErrorCode::RunnerMissing,
                    "the task names neither a \"worker\" nor a \"runner\"",
                );
            }
            None
        }
    }
}

fn worker_task(object: &mut Object<'_, '_>, worker: &str) -> WorkerTask {
    let description = object.text("description").map(|(text, _)| text.to_owned());
    match &description {
        Some(text) if text.trim().is_empty() => {
            object.wrong(
                ErrorCode::EmptyPrompt,
                "description",
                "the description is empty",
                "say what is to be done",
            );
        }
        Some(text) if text.len() > MAX_DESCRIPTION => {
            let message = format!("the description has {} bytes; at most 8 MiB are allowed", text.len());
            object.wrong(ErrorCode::TooLarge, "description", &message, "");
        }
        None if !object.has("description") => {
            object.missing(ErrorCode::EmptyPrompt, &format!("the task for {worker} has no \"description\""));
        }
        Some(_) | None => {}
    }
    let output_schema = object.json_object("output_schema").unwrap_or_default();
    if output_schema.len() > MAX_SCHEMA {
        object.wrong(ErrorCode::InvalidSchema, "output_schema", "the schema is longer than 96 KiB", "");
    }
    WorkerTask {
        worker: worker.to_owned(),
        description: description.unwrap_or_default(),
        context: object.text_or_json("context").unwrap_or_default(),
        model: object.text("model").map(|(model, _)| model.to_owned()).unwrap_or_default(),
        output_schema,
        budget_micro_usd: object.number_or_text("budget_usd", "a sum in dollars such as 0.50", parse::budget),
        max_turns: object.whole("max_turns", 1),
        contract: contract(object),
        after_ref: object.text("after_ref").map(|(reference, _)| reference.to_owned()).unwrap_or_default(),
    }
}

fn contract(object: &mut Object<'_, '_>) -> bool {
    let contract = object.flag("contract");
    if contract && object.has("output_schema") {
        let message = "an answer keeps either to the \"contract\" or to its \"output_schema\"";
        object.wrong(ErrorCode::InvalidField, "contract", message, "take one of them away");
    }
    contract
}

fn command_task(object: &mut Object<'_, '_>) -> Option<CommandTask> {
    let args = object.text_list("args").into_iter().map(|(arg, _)| arg.to_owned()).collect();
    match object.text("program") {
        Some((program, _)) if !program.is_empty() => Some(CommandTask { program: program.to_owned(), args }),
        Some(_) => {
            object.wrong(ErrorCode::InvalidField, "program", "the program is empty", "");
            None
        }
        None => {
            if !object.has("program") {
                object.missing(ErrorCode::RunnerMissing, "the runner command needs a \"program\"");
            }
            None
        }
    }
}

fn refuse_worker_fields(object: &mut Object<'_, '_>, runner: &str) {
    refuse(object, WORKER_FIELDS, &format!("the runner {runner}"));
    if object.has("budget_usd") {
        let message = format!("the runner {runner} cannot enforce a budget");
        object.wrong(
            ErrorCode::BudgetNotEnforceable,
            "budget_usd",
            &message,
            "take it away, or name a worker",
        );
    }
}

fn refuse(object: &mut Object<'_, '_>, fields: &[&str], with: &str) {
    for field in fields {
        if object.has(field) {
            let message = format!("{field:?} means nothing to {with}");
            object.wrong(ErrorCode::InvalidField, field, &message, "take it away");
        }
    }
}
