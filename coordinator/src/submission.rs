//! A submitted run, checked: the only way from a wire `RunSpec` to anything that is queued.
//! Knows every limit and rule of a spec; refuses to know the queue, the store and the network.
//!
//! Some fields of a task make a task of their own: a review `TASK.review`, a publication `TASK.publish`, and a request
//! the tasks `plan` and `synthesis`. They come after those that were submitted, so that nobody's index moves.

mod budget;
mod checked;
mod conditions;
mod context;
mod derived;
mod gates;
mod paths;
mod planned;
pub mod publish;
mod rules;
mod runner;
mod task;

pub use self::budget::{check_budget_limit, check_scope_name};
pub use self::checked::{
    CheckedPlanning, CheckedRun, CheckedRunner, CheckedTask, CheckedWorkerTask, Continued, PinnedWorker,
};
pub use self::conditions::{OUTCOME, STATE};
pub use self::context::CheckedContext;
pub use self::planned::{DEFAULT_PLANNED_TASKS, MAX_PLANNED_TASKS, ORCHESTRATOR, PLAN, SYNTHESIS};
pub use self::task::{Frame, check_tasks};

use crate::planning::Catalogue;
use crate::submission::rules::{check_name, check_requirement};
use orch_core::event::FailurePolicy;
use orch_core::time::Wall;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most tasks of one run.
pub const MAX_TASKS: usize = 100_000;
/// Longest prompt, context included, in bytes.
pub const MAX_PROMPT_BYTES: usize = 8 << 20;
/// Longest output schema in bytes: it travels on the child's command line.
pub const MAX_SCHEMA_BYTES: usize = 96 << 10;
/// Longest command line, program included, in bytes.
pub const MAX_COMMAND_BYTES: usize = 96 << 10;
/// Time limit of an attempt when neither task nor worker says one.
pub const DEFAULT_TIMEOUT_MS: u64 = 3_600_000;
/// Longest time limit of an attempt: 7 days.
pub const MAX_TIMEOUT_MS: u64 = 7 * 86_400_000;
/// Attempts after the first when a task says nothing.
pub const DEFAULT_RETRIES: u32 = 2;
/// Most attempts after the first.
pub const MAX_RETRIES: u32 = 100;
/// Priority when a task says nothing.
pub const DEFAULT_PRIORITY: i32 = 50;
/// Largest magnitude of a priority.
pub const MAX_PRIORITY: i32 = 1_000_000;
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 128;
/// All labels of a run together: they rest in its record.
const MAX_LABELS_BYTES: usize = 2_048;
const MAX_REQUIREMENTS: usize = 16;
const MAX_DEPENDENCIES: usize = 10_000;
/// Dependencies of all tasks of a run together: they stay in memory as long as it does.
const MAX_EDGES: usize = 1_000_000;
const MAX_PROGRAM_BYTES: usize = 255;
const MAX_TURNS: u32 = 100_000;

/// Where workers come from.
pub trait Workers {
    /// The worker of this name.
    fn worker(&self, name: &str) -> Option<Arc<PinnedWorker>>;
    /// The existing name nearest to `name`.
    fn nearest(&self, name: &str) -> Option<String>;
}

/// Checks a capability, `key=value`, as tasks may require it.
///
/// # Errors
/// What is wrong with it.
pub fn check_capability(field: &str, text: &str) -> Result<(), SpecError> {
    match text.split_once('=') {
        Some((key, value)) => check_requirement(field, key, value).map(drop),
        None => {
            let message = format!("`{}` is not key=value", rules::shown(text));
            Err(SpecError::new(ErrorCode::InvalidField, field, message))
        }
    }
}

/// Why a spec was refused, with the field at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct SpecError {
    /// Row of the code table.
    pub code: ErrorCode,
    /// Path in the spec, for example `tasks[3].worker.description`.
    pub field: String,
    /// What is wrong, in plain English.
    pub message: String,
}

impl SpecError {
    pub(crate) fn new(code: ErrorCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, field: field.into(), message: message.into() }
    }
}

/// What a spec is checked against, beside its own rules.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The workers in force.
    pub workers: &'a dyn Workers,
    /// What agents offer now: for whoever plans.
    pub catalogue: &'a Catalogue,
    /// When the run is, or was, submitted: `{date}` of publications.
    pub submitted: Wall,
    /// The conversations that its tasks continue, by the reference that they give. One that is missing is a mistake of
    /// the caller's: it is refused.
    pub conversations: &'a BTreeMap<String, Conversation>,
}

impl std::fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("submitted", &self.submitted).finish_non_exhaustive()
    }
}

/// A conversation that ended and can go on, with all that it was begun with.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// Whose it is, and with what.
    pub continued: Continued,
    /// The worker as that task pinned it: model, limits and requirements are those in force there.
    pub worker: Arc<PinnedWorker>,
    /// The agent that keeps it.
    pub agent: String,
    /// The workspace it saw, or empty.
    pub workspace: String,
}

impl CheckedRun {
    /// Checks a spec. A workflow must have been compiled before. Cycles are left to the core, which alone knows the
    /// graph.
    ///
    /// # Errors
    /// The first rule that the spec breaks.
    pub fn check(mut spec: v1::RunSpec, given: &Given<'_>) -> Result<Self, SpecError> {
        if spec.name.is_empty() {
            "adhoc".clone_into(&mut spec.name);
        }
        check_name("name", &spec.name, rules::NameStyle::Run)?;
        check_labels(&spec.labels)?;
        let policy = check_policy(spec.on_failure)?;
        let budget = spec.budget.as_ref().map(|limit| check_budget_limit("budget", limit)).transpose()?;
        rules::check_workspace("workspace", &spec.workspace)?;
        if spec.workflow.is_some() {
            let message = "a workflow calls no other in this way: `use` names it in a task";
            return Err(SpecError::new(ErrorCode::InvalidField, "workflow", message));
        }
        let (tasks, planning) = match spec.request.take() {
            Some(request) => {
                let (tasks, planning) = planned::check(&request, &spec, given)?;
                (tasks, Some(planning))
            }
            None => (submitted_tasks(&mut spec, given)?, None),
        };
        let context = CheckedContext::check(spec.context_files)?;
        Ok(Self {
            name: spec.name,
            labels: spec.labels,
            tasks,
            context,
            policy,
            max_parallel: spec.max_parallel,
            budget,
            planning,
            workflow: String::new(),
        })
    }
}

fn submitted_tasks(spec: &mut v1::RunSpec, given: &Given<'_>) -> Result<Vec<CheckedTask>, SpecError> {
    let mut tasks = std::mem::take(&mut spec.tasks);
    if tasks.is_empty() || tasks.len() > MAX_TASKS {
        let message = format!("{} tasks; a run has 1 to {MAX_TASKS}", tasks.len());
        return Err(SpecError::new(ErrorCode::TooManyTasks, "tasks", message));
    }
    if tasks.len() == 1 && tasks[0].task_id.is_empty() {
        "task".clone_into(&mut tasks[0].task_id);
    }
    let frame =
        Frame { first: 0, taken: &BTreeSet::new(), workspace: &spec.workspace, no_cache: spec.no_cache };
    check_tasks(tasks, &frame, given)
}

fn check_policy(asked: i32) -> Result<FailurePolicy, SpecError> {
    match v1::FailurePolicy::try_from(asked) {
        Ok(v1::FailurePolicy::FailFast) => Ok(FailurePolicy::FailFast),
        Ok(v1::FailurePolicy::Unspecified | v1::FailurePolicy::Continue) => Ok(FailurePolicy::Continue),
        Ok(v1::FailurePolicy::BestEffort) => Ok(FailurePolicy::BestEffort),
        Err(_) => {
            let message = format!("unknown value {asked}; fail_fast, continue or best_effort");
            Err(SpecError::new(ErrorCode::InvalidField, "on_failure", message))
        }
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), SpecError> {
    if labels.len() > MAX_LABELS {
        let message = format!("{} labels; at most {MAX_LABELS}", labels.len());
        return Err(SpecError::new(ErrorCode::TooLarge, "labels", message));
    }
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    if bytes > MAX_LABELS_BYTES {
        let message = format!("{bytes} bytes in all; at most {MAX_LABELS_BYTES}");
        return Err(SpecError::new(ErrorCode::TooLarge, "labels", message));
    }
    for (key, value) in labels {
        check_name(&format!("labels.{}", rules::shown(key)), key, rules::NameStyle::Label)?;
        if value.len() > MAX_LABEL_BYTES || value.chars().any(char::is_control) {
            let message = format!("at most {MAX_LABEL_BYTES} bytes without control characters");
            return Err(SpecError::new(ErrorCode::InvalidField, format!("labels.{key}"), message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
