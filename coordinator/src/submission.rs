//! A submitted run, checked: the only way from a wire `RunSpec` to anything that is queued.
//! Knows every limit and rule of a spec; refuses to know the queue, the store and the network.

mod context;
mod rules;

pub use self::context::CheckedContext;

use crate::submission::rules::{check_name, check_requirement};
use orch_core::event::FailurePolicy;
use orch_proto::codes::ErrorCode;
use orch_proto::store::v1::StoredPublish;
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

/// A run that may be queued.
#[derive(Debug, Clone)]
pub struct CheckedRun {
    /// Name; `adhoc` when the client gave none.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Tasks in the client's order.
    pub tasks: Vec<CheckedTask>,
    /// Context files of every worker of the run.
    pub context: Option<CheckedContext>,
    /// What to do when a task does not succeed.
    pub policy: FailurePolicy,
    /// Most tasks at once; 0 means no limit.
    pub max_parallel: u32,
    /// Set when `tasks` are a planner and a synthesis, and the plan's are yet to come.
    pub planning: Option<CheckedPlanning>,
    /// Name of the workflow it was made from, or empty.
    pub workflow: String,
}

/// How a request is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPlanning {
    /// A person must approve the plan.
    pub approve: bool,
    /// The plan is all that is wanted.
    pub plan_only: bool,
    /// Most tasks of a plan.
    pub max_tasks: u32,
    /// Workers that a plan may name; empty means all but the planner.
    pub workers: Vec<String>,
    /// Workspace of the run, or empty.
    pub workspace: String,
}

/// A task that may be queued.
#[derive(Debug, Clone)]
pub struct CheckedTask {
    /// Name within the run.
    pub id: String,
    /// Indexes of its dependencies, sorted, without repetition.
    pub dependencies: Vec<u32>,
    /// Larger first.
    pub priority: i32,
    /// Limit of one attempt in milliseconds.
    pub timeout_ms: u64,
    /// Attempts after the first.
    pub retries: u32,
    /// Capabilities as `key=value`; the worker's and the runner's included.
    pub requires: BTreeSet<String>,
    /// What to do when its agent is lost.
    pub on_loss: v1::OnLoss,
    /// The only agent that may run it.
    pub agent: Option<String>,
    /// What executes it.
    pub runner: CheckedRunner,
    /// What its dependencies must have done.
    pub after: v1::After,
    /// What it is for.
    pub role: v1::TaskRole,
    /// Index of the task that a review or publication belongs to; one of its dependencies.
    pub of: Option<u32>,
    /// Gates that its agent checks: everything but the review, which is a task of its own.
    pub gates: Option<v1::Gates>,
    /// Times it may be sent back.
    pub repairs: u32,
    /// A review task judges it.
    pub reviewed: bool,
    /// Workspace it sees, or empty; `requires` has it too.
    pub workspace: String,
    /// What must hold of the results of its dependencies.
    pub conditions: Vec<v1::Condition>,
    /// An earlier recorded result of the same work may be used.
    pub cache: bool,
    /// What it is expected to cost, in millionths of a US dollar.
    pub expected_cost_micro_usd: Option<u64>,
}

/// What executes a task.
#[derive(Debug, Clone)]
pub enum CheckedRunner {
    /// The Claude CLI as a named worker.
    Worker(Box<CheckedWorkerTask>),
    /// A program.
    Command(v1::CommandTask),
    /// Nothing.
    Noop,
    /// Copying files of another task into a workspace.
    Publish(StoredPublish),
}

/// A task for a worker.
#[derive(Debug, Clone)]
pub struct CheckedWorkerTask {
    /// The worker, pinned.
    pub worker: Arc<PinnedWorker>,
    /// Context first, then description.
    pub prompt: String,
    /// Model in force.
    pub model: String,
    /// JSON Schema, or empty.
    pub output_schema: String,
    /// Ceiling in millionths of a US dollar.
    pub budget_micro_usd: Option<u64>,
    /// Turn limit; 0 means none.
    pub max_turns: u32,
    /// The answer keeps to the result contract; `output_schema` is its schema then.
    pub contract: bool,
    /// The conversation it continues.
    pub continues: Option<Continued>,
}

/// A conversation of another task that is to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continued {
    /// The task that has it.
    pub task: v1::TaskId,
    /// Its CLI session.
    pub session_id: String,
}

/// A worker as it was when a run named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedWorker {
    /// Name.
    pub name: String,
    /// The encoded `WorkerDefinition`.
    pub definition: Arc<[u8]>,
    /// SHA-256 of `definition`.
    pub digest: [u8; 32],
    /// Model when a task names none.
    pub model: String,
    /// Turn limit; 0 means none.
    pub max_turns: u32,
    /// Ceiling when a task names none.
    pub budget_micro_usd: Option<u64>,
    /// Limit of one attempt when a task names none.
    pub timeout_ms: Option<u64>,
    /// Capabilities as `key=value`.
    pub requires: BTreeSet<String>,
    /// What to do on loss when a task says nothing.
    pub on_loss: v1::OnLoss,
}

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
    fn new(code: ErrorCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, field: field.into(), message: message.into() }
    }
}

impl CheckedRun {
    /// Checks a spec. Cycles are left to the core, which alone knows the graph.
    ///
    /// # Errors
    /// The first rule that the spec breaks.
    pub fn check(spec: v1::RunSpec, workers: &dyn Workers) -> Result<Self, SpecError> {
        let name = if spec.name.is_empty() { "adhoc".to_owned() } else { spec.name };
        check_name("name", &name, rules::NameStyle::Run)?;
        check_labels(&spec.labels)?;
        if spec.tasks.is_empty() || spec.tasks.len() > MAX_TASKS {
            let message = format!("{} tasks; a run has 1 to {MAX_TASKS}", spec.tasks.len());
            return Err(SpecError::new(ErrorCode::TooManyTasks, "tasks", message));
        }
        let mut tasks = spec.tasks;
        if tasks.len() == 1 && tasks[0].task_id.is_empty() {
            "task".clone_into(&mut tasks[0].task_id);
        }
        let indexes = index_ids(&tasks)?;
        let edges: usize = tasks.iter().map(|task| task.dependencies.len()).sum();
        if edges > MAX_EDGES {
            let message = format!("{edges} dependencies in all; a run has at most {MAX_EDGES}");
            return Err(SpecError::new(ErrorCode::TooLarge, "tasks", message));
        }
        let tasks = tasks
            .into_iter()
            .enumerate()
            .map(|(at, task)| check_task(&format!("tasks[{at}]"), task, &indexes, workers))
            .collect::<Result<Vec<_>, _>>()?;
        let context = CheckedContext::check(spec.context_files)?;
        Ok(Self {
            name,
            labels: spec.labels,
            tasks,
            context,
            policy: FailurePolicy::default(),
            max_parallel: 0,
            planning: None,
            workflow: String::new(),
        })
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

fn index_ids(tasks: &[v1::TaskSpec]) -> Result<BTreeMap<String, u32>, SpecError> {
    let mut indexes = BTreeMap::new();
    for (at, task) in tasks.iter().enumerate() {
        let field = format!("tasks[{at}].task_id");
        check_name(&field, &task.task_id, rules::NameStyle::Task)?;
        let index = u32::try_from(at).unwrap_or(u32::MAX);
        if let Some(first) = indexes.insert(task.task_id.clone(), index) {
            let message = format!("`{}` is also the id of tasks[{first}]", task.task_id);
            return Err(SpecError::new(ErrorCode::DuplicateTaskId, field, message));
        }
    }
    Ok(indexes)
}

fn check_task(
    field: &str,
    task: v1::TaskSpec,
    indexes: &BTreeMap<String, u32>,
    workers: &dyn Workers,
) -> Result<CheckedTask, SpecError> {
    let dependencies = check_dependencies(field, &task, indexes)?;
    let priority = task.priority.unwrap_or(DEFAULT_PRIORITY);
    if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) {
        let message = format!("{priority}; between -{MAX_PRIORITY} and {MAX_PRIORITY}");
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.priority"), message));
    }
    let retries = task.retries.unwrap_or(DEFAULT_RETRIES);
    if retries > MAX_RETRIES {
        let message = format!("{retries}; at most {MAX_RETRIES}");
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.retries"), message));
    }
    let mut requires = check_requires(field, &task.requires)?;
    let agent = check_agent(field, task.agent)?;
    let asked_on_loss = v1::OnLoss::try_from(task.on_loss).map_err(|_| {
        SpecError::new(
            ErrorCode::InvalidField,
            format!("{field}.on_loss"),
            format!("unknown value {}", task.on_loss),
        )
    })?;
    let runner = check_runner(field, task.runner, workers)?;
    let (timeout_default, on_loss_default) = match &runner {
        CheckedRunner::Worker(worker) => {
            requires.extend(worker.worker.requires.iter().cloned());
            (worker.worker.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS), worker.worker.on_loss)
        }
        CheckedRunner::Command(command) => {
            requires.insert(format!("program={}", command.program));
            (DEFAULT_TIMEOUT_MS, v1::OnLoss::Unspecified)
        }
        CheckedRunner::Noop | CheckedRunner::Publish(_) => (DEFAULT_TIMEOUT_MS, v1::OnLoss::Unspecified),
    };
    requires.insert(format!("runner={}", runner.word()));
    Ok(CheckedTask {
        id: task.task_id,
        dependencies,
        priority,
        timeout_ms: check_timeout(field, task.timeout, timeout_default)?,
        retries,
        requires,
        on_loss: [asked_on_loss, on_loss_default, v1::OnLoss::Fast]
            .into_iter()
            .find(|choice| *choice != v1::OnLoss::Unspecified)
            .unwrap_or(v1::OnLoss::Fast),
        agent,
        runner,
        after: v1::After::Success,
        role: v1::TaskRole::Work,
        of: None,
        gates: None,
        repairs: 0,
        reviewed: false,
        workspace: String::new(),
        conditions: Vec::new(),
        cache: false,
        expected_cost_micro_usd: None,
    })
}

fn check_dependencies(
    field: &str,
    task: &v1::TaskSpec,
    indexes: &BTreeMap<String, u32>,
) -> Result<Vec<u32>, SpecError> {
    if task.dependencies.len() > MAX_DEPENDENCIES {
        let message = format!("{} dependencies; at most {MAX_DEPENDENCIES}", task.dependencies.len());
        return Err(SpecError::new(ErrorCode::TooLarge, format!("{field}.dependencies"), message));
    }
    let mut found = BTreeSet::new();
    for (at, name) in task.dependencies.iter().enumerate() {
        let Some(index) = indexes.get(name) else {
            let hint = rules::nearest(name, indexes.keys())
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let message = format!(
                "task `{}` depends on `{}`, which is not in the run{hint}",
                task.task_id,
                rules::shown(name)
            );
            return Err(SpecError::new(
                ErrorCode::UnknownDependency,
                format!("{field}.dependencies[{at}]"),
                message,
            ));
        };
        found.insert(*index);
    }
    Ok(found.into_iter().collect())
}

fn check_requires(field: &str, requires: &BTreeMap<String, String>) -> Result<BTreeSet<String>, SpecError> {
    if requires.len() > MAX_REQUIREMENTS {
        let message = format!("{} requirements; at most {MAX_REQUIREMENTS}", requires.len());
        return Err(SpecError::new(ErrorCode::TooLarge, format!("{field}.requires"), message));
    }
    requires.iter().map(|(key, value)| check_requirement(&format!("{field}.requires"), key, value)).collect()
}

fn check_agent(field: &str, agent: String) -> Result<Option<String>, SpecError> {
    if agent.is_empty() {
        return Ok(None);
    }
    check_name(&format!("{field}.agent"), &agent, rules::NameStyle::Run)?;
    Ok(Some(agent))
}

fn check_timeout(field: &str, asked: Option<prost_types::Duration>, default: u64) -> Result<u64, SpecError> {
    let Some(asked) = asked else { return Ok(default) };
    let millis = u64::try_from(asked.seconds)
        .ok()
        .and_then(|seconds| seconds.checked_mul(1_000))
        .and_then(|millis| millis.checked_add(u64::try_from(asked.nanos / 1_000_000).ok()?))
        .filter(|millis| (1..=MAX_TIMEOUT_MS).contains(millis));
    millis.ok_or_else(|| {
        SpecError::new(ErrorCode::InvalidField, format!("{field}.timeout"), "between 1 ms and 7 days")
    })
}

fn check_runner(
    field: &str,
    runner: Option<v1::task_spec::Runner>,
    workers: &dyn Workers,
) -> Result<CheckedRunner, SpecError> {
    use v1::task_spec::Runner;
    match runner {
        Some(Runner::Worker(task)) => check_worker_task(&format!("{field}.worker"), task, workers),
        Some(Runner::Command(command)) => check_command(&format!("{field}.command"), command),
        Some(Runner::Noop(v1::NoopTask {})) => Ok(CheckedRunner::Noop),
        None => {
            Err(SpecError::new(ErrorCode::RunnerMissing, field, "names neither worker, command nor noop"))
        }
    }
}

fn check_worker_task(
    field: &str,
    task: v1::WorkerTask,
    workers: &dyn Workers,
) -> Result<CheckedRunner, SpecError> {
    let Some(worker) = workers.worker(&task.worker) else {
        let hint = workers
            .nearest(&task.worker)
            .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        let message = format!("no worker is named `{}`{hint}", rules::shown(&task.worker));
        return Err(SpecError::new(ErrorCode::UnknownWorker, format!("{field}.worker"), message));
    };
    if task.description.trim().is_empty() {
        let message = "the description is empty: say what is to be done";
        return Err(SpecError::new(ErrorCode::EmptyPrompt, format!("{field}.description"), message));
    }
    let prompt = join_prompt(&task.context, task.description);
    if prompt.len() > MAX_PROMPT_BYTES {
        let message = format!("{} bytes with its context; at most {MAX_PROMPT_BYTES}", prompt.len());
        return Err(SpecError::new(ErrorCode::TooLarge, format!("{field}.description"), message));
    }
    if prompt.contains('\0') {
        let message = "holds a NUL byte";
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.description"), message));
    }
    if !task.model.is_empty() {
        check_name(&format!("{field}.model"), &task.model, rules::NameStyle::Model)?;
    }
    rules::check_schema(&format!("{field}.output_schema"), &task.output_schema)?;
    let max_turns = task.max_turns.unwrap_or(worker.max_turns);
    if max_turns > MAX_TURNS || task.max_turns == Some(0) {
        let message = format!("between 1 and {MAX_TURNS}");
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.max_turns"), message));
    }
    if task.budget_micro_usd == Some(0) {
        let message = "a budget of nothing would never start";
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.budget_micro_usd"), message));
    }
    Ok(CheckedRunner::Worker(Box::new(CheckedWorkerTask {
        model: if task.model.is_empty() { worker.model.clone() } else { task.model },
        budget_micro_usd: task.budget_micro_usd.or(worker.budget_micro_usd),
        worker,
        prompt,
        output_schema: task.output_schema,
        max_turns,
        contract: false,
        continues: None,
    })))
}

/// The stable part first: context is often shared between tasks, the description never.
fn join_prompt(context: &str, description: String) -> String {
    if context.trim().is_empty() {
        return description;
    }
    format!("<context>\n{}\n</context>\n\n{description}", context.trim_end())
}

fn check_command(field: &str, command: v1::CommandTask) -> Result<CheckedRunner, SpecError> {
    let program = &command.program;
    let length = (1..=MAX_PROGRAM_BYTES).contains(&program.len());
    if !length || program.starts_with('-') || program.chars().any(char::is_control) {
        let message = format!("`{}` is not the name of a program", rules::shown(program));
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.program"), message));
    }
    let bytes = command.program.len() + command.args.iter().map(|arg| arg.len() + 1).sum::<usize>();
    if bytes > MAX_COMMAND_BYTES {
        let message = format!("{bytes} bytes; at most {MAX_COMMAND_BYTES}");
        return Err(SpecError::new(ErrorCode::TooLarge, format!("{field}.args"), message));
    }
    if command.args.iter().any(|arg| arg.contains('\0')) {
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.args"), "holds a NUL byte"));
    }
    Ok(CheckedRunner::Command(command))
}

impl CheckedRunner {
    /// `claude`, `command`, `noop` or `publish`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Worker(_) => "claude",
            Self::Command(_) => "command",
            Self::Noop => "noop",
            Self::Publish(_) => "publish",
        }
    }

    /// What people see in the worker column.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Worker(task) => &task.worker.name,
            Self::Command(_) | Self::Noop | Self::Publish(_) => self.word(),
        }
    }
}

#[cfg(test)]
#[path = "submission/tests.rs"]
mod tests;
