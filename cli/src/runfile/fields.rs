//! The fields of a run and of a task: their names, types and limits. Everything wrong is collected, nothing stops at
//! the first error. Knows one value at a time; how tasks depend on each other is [`super::graph`]'s.

use std::ops::Range;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{
    BudgetLimit, BudgetMode, ContextFile, FailurePolicy, PlannedRequest, RunSpec, TaskSpec,
};

use super::MAX_TASKS;
use super::diagnostic::Diagnostic;
use super::json::{Key, Spanned, Value};
use crate::args::amounts;
use crate::args::parse::{self, on_failure_word};

mod checks;
mod object;
mod task;

use object::Object;
#[cfg(test)]
pub(crate) use task::FIELDS as TASK_FIELDS;

/// Every field of a run.
pub(crate) const RUN_FIELDS: &[&str] = &[
    "name",
    "labels",
    "context_files",
    "tasks",
    "request",
    "on_failure",
    "max_parallel",
    "workspace",
    "no_cache",
    "budget_usd",
    "budget_tokens",
    "budget_mode",
];
/// Every field of a request.
const REQUEST_FIELDS: &[&str] = &["text", "context", "max_tasks", "approve", "plan_only", "workers"];
/// Most tasks that a plan may be allowed.
const MAX_PLANNED: u32 = 1000;

/// A run as far as it could be read.
#[derive(Default)]
pub(super) struct Draft {
    /// The run without its tasks; its context files are paths as they were written, without their texts.
    pub(super) spec: RunSpec,
    pub(super) tasks: Vec<DraftTask>,
}

/// A task with the places that graph errors point to.
pub(super) struct DraftTask {
    pub(super) spec: TaskSpec,
    /// Of the id, or of the whole task where it has none.
    pub(super) id_span: Range<usize>,
    /// Of each dependency, in the order of the specification.
    pub(super) dependency_spans: Vec<Range<usize>>,
}

/// Reads a document: a list of tasks, or an object around one.
pub(super) fn run(text: &str, document: &Spanned, problems: &mut Vec<Diagnostic>) -> Draft {
    let mut draft = Draft::default();
    match &document.value {
        Value::List(items) => draft.tasks = tasks(text, &document.span, items, problems),
        Value::Object(members) => {
            let mut object = Object::new(text, "a run", document, members, RUN_FIELDS, problems);
            draft.spec = whole(&mut object);
            match object.list("tasks") {
                Some(_) if object.has("request") => {
                    let message = "a run has either \"tasks\" or a \"request\" that is planned";
                    object.wrong(ErrorCode::InvalidField, "request", message, "take one of them away");
                }
                Some((items, span)) => draft.tasks = tasks(text, &span, items, problems),
                None if object.has("tasks") || object.has("request") => {}
                None => object.missing(ErrorCode::TooManyTasks, "the run has no \"tasks\""),
            }
        }
        Value::Null | Value::Bool | Value::Number | Value::Text(_) => {
            let message = format!(
                "a run is a list of tasks or an object with \"tasks\", not {}",
                document.value.kind()
            );
            problems.push(Diagnostic::new(ErrorCode::InvalidField, document.span.clone(), message));
        }
    }
    draft
}

/// What holds for a run as a whole.
fn whole(object: &mut Object<'_, '_>) -> RunSpec {
    let name = object.text("name").map(|(name, _)| name.to_owned()).unwrap_or_default();
    if !name.is_empty() && !is_run_name(&name) {
        let message = format!("the name {name:?} is not allowed");
        object.wrong(ErrorCode::InvalidName, "name", &message, RUN_NAME);
    }
    let path = |(path, _): (&str, Range<usize>)| ContextFile { name: path.to_owned(), text: String::new() };
    let policies = [FailurePolicy::FailFast, FailurePolicy::Continue, FailurePolicy::BestEffort]
        .map(|policy| (on_failure_word(policy), policy));
    RunSpec {
        name,
        labels: object.texts("labels"),
        context_files: object.text_list("context_files").into_iter().map(path).collect(),
        on_failure: object.one_of("on_failure", &policies).unwrap_or_default().into(),
        max_parallel: object.whole("max_parallel", 0).unwrap_or(0),
        request: request(object),
        workspace: workspace(object),
        no_cache: object.flag("no_cache"),
        budget: budget(object),
        ..RunSpec::default()
    }
}

/// The ceiling over the run.
fn budget(object: &mut Object<'_, '_>) -> Option<BudgetLimit> {
    let micro_usd = object.number_or_text("budget_usd", "a sum in dollars such as 0.50", parse::budget);
    let tokens = object.number_or_text("budget_tokens", "tokens such as 200000 or \"200k\"", amounts::tokens);
    let modes = [BudgetMode::Hard, BudgetMode::Soft, BudgetMode::Drain];
    let mode = object.one_of("budget_mode", &modes.map(|mode| (amounts::mode_word(mode), mode)));
    if mode.is_some() && !object.has("budget_usd") && !object.has("budget_tokens") {
        let message = "there is no budget that could be used up";
        object.wrong(ErrorCode::InvalidField, "budget_mode", message, "add budget_usd or budget_tokens");
    }
    (micro_usd.is_some() || tokens.is_some()).then(|| BudgetLimit {
        micro_usd,
        tokens,
        runs: None,
        mode: mode.unwrap_or(BudgetMode::Hard).into(),
    })
}

/// A request that is planned.
fn request(object: &mut Object<'_, '_>) -> Option<PlannedRequest> {
    let mut request = object.within("request", "a request", REQUEST_FIELDS)?;
    let text = request.needed(ErrorCode::EmptyPrompt, "text", "the request")?.to_owned();
    let planned = PlannedRequest {
        text,
        context: request.text_or_json("context").unwrap_or_default(),
        max_tasks: request.whole_up_to("max_tasks", 1, MAX_PLANNED).unwrap_or(0),
        approve: request.flag("approve"),
        plan_only: request.flag("plan_only"),
        workers: request.text_list("workers").into_iter().map(|(worker, _)| worker.to_owned()).collect(),
    };
    if planned.approve && planned.plan_only {
        let message = "nothing of it runs, so there is nothing to approve";
        request.wrong(ErrorCode::InvalidField, "approve", message, "take one of the two away");
    }
    Some(planned)
}

/// The name of a workspace.
fn workspace(object: &mut Object<'_, '_>) -> String {
    let name = object.text("workspace").map(|(name, _)| name.to_owned()).unwrap_or_default();
    if !name.is_empty() && !is_workspace_name(&name) {
        let message = format!("the workspace {name:?} is not allowed");
        let rule = "lower-case letters, digits, dash; a letter or digit first; at most 63";
        object.wrong(ErrorCode::InvalidName, "workspace", &message, rule);
    }
    name
}

/// The rule of `RunSpec.workspace`.
fn is_workspace_name(name: &str) -> bool {
    is_run_name(name) && !name.contains(['.', '_'])
}

fn tasks(
    text: &str,
    span: &Range<usize>,
    items: &[Spanned],
    problems: &mut Vec<Diagnostic>,
) -> Vec<DraftTask> {
    if items.is_empty() || items.len() > MAX_TASKS {
        let message = format!("a run has 1 to {MAX_TASKS} tasks, this one has {}", items.len());
        problems.push(Diagnostic::new(ErrorCode::TooManyTasks, span.start..span.start + 1, message));
        return Vec::new();
    }
    let alone = items.len() == 1;
    items.iter().filter_map(|item| task::read(text, item, alone, problems)).collect()
}

const RUN_NAME: &str =
    "lower-case letters, digits, dot, dash, underscore; a letter or digit first; at most 63";
const TASK_NAME: &str = "letters, digits, dot, dash, underscore; a letter or digit first; at most 63";

/// The rule of `RunSpec.name`.
fn is_run_name(name: &str) -> bool {
    is_task_name(name) && !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// The rule of `TaskSpec.task_id`.
fn is_task_name(name: &str) -> bool {
    let tail = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= 63
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(tail)
}

/// The member of a name, the last one if there are several.
fn member<'a>(members: &'a [(Key, Spanned)], name: &str) -> Option<&'a (Key, Spanned)> {
    members.iter().rev().find(|(key, _)| key.name == name)
}
