//! The fields of a run and of a task: their names, types and limits. Everything wrong is collected, nothing stops at
//! the first error. Knows one value at a time; how tasks depend on each other is [`super::graph`]'s.

use std::collections::BTreeMap;
use std::ops::Range;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{ContextFile, TaskSpec};

use super::MAX_TASKS;
use super::diagnostic::Diagnostic;
use super::json::{Key, Spanned, Value};

mod object;
mod task;

use object::Object;
#[cfg(test)]
pub(crate) use task::FIELDS as TASK_FIELDS;

/// Every field of a run.
pub(crate) const RUN_FIELDS: &[&str] = &["name", "labels", "context_files", "tasks"];

/// A run as far as it could be read.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Paths as they were written, without their texts.
    pub(super) context_files: Vec<ContextFile>,
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
    let mut draft =
        Draft { name: String::new(), labels: BTreeMap::new(), context_files: Vec::new(), tasks: Vec::new() };
    match &document.value {
        Value::List(items) => draft.tasks = tasks(text, &document.span, items, problems),
        Value::Object(members) => {
            let mut object = Object::new(text, "a run", document, members, RUN_FIELDS, problems);
            draft.name = object.text("name").map(|(name, _)| name.to_owned()).unwrap_or_default();
            if !draft.name.is_empty() && !is_run_name(&draft.name) {
                object.wrong(
                    ErrorCode::InvalidName,
                    "name",
                    &format!("the name {:?} is not allowed", draft.name),
                    RUN_NAME,
                );
            }
            draft.labels = object.texts("labels");
            let path =
                |(path, _): (&str, Range<usize>)| ContextFile { name: path.to_owned(), text: String::new() };
            draft.context_files = object.text_list("context_files").into_iter().map(path).collect();
            match object.list("tasks") {
                Some((items, span)) => draft.tasks = tasks(text, &span, items, problems),
                None if object.has("tasks") => {}
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
