//! What the commands print that operate the fleet: credential pools, definitions of workers, mistakes in their files,
//! introductions, and the checks of `doctor`.

use orch_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::fleet::WorkerView;
use super::{Cost, outcome_word, some};
use crate::args::parse::word;
use crate::commands::dead::Dead;
use crate::output::figures::{rfc3339, seconds};

/// A credential pool of an agent. Holds no credential.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PoolView {
    name: String,
    /// `api_key`, `token`, `login` or `helper`.
    kind: String,
    /// `ready`, `signed_out`, `unusable`, or `unspecified` before the first check.
    health: String,
    detail: Option<String>,
    /// Workers it serves; empty: every worker that no other pool names.
    workers: Vec<String>,
    in_use: u32,
    /// One attempt at a time.
    exclusive: bool,
    /// Requests pass the agent's gateway; otherwise the CLI asks the API itself.
    gateway: bool,
}

impl From<&v1::Pool> for PoolView {
    fn from(pool: &v1::Pool) -> Self {
        Self {
            name: pool.name.clone(),
            kind: word(pool.kind().as_str_name(), "POOL_KIND_"),
            health: word(pool.health().as_str_name(), "POOL_HEALTH_"),
            detail: some(&pool.detail),
            workers: pool.workers.clone(),
            in_use: pool.in_use,
            exclusive: pool.exclusive,
            gateway: pool.gateway,
        }
    }
}

/// A worker with its definition in force.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DefinedWorkerView {
    #[serde(flatten)]
    worker: WorkerView,
    system_prompt: String,
    tools: Vec<String>,
    allowed_tools: Vec<String>,
    disallowed_tools: Vec<String>,
    permission_mode: Option<String>,
    /// Definitions of its sub-agents, as the CLI takes them.
    agents: Option<Value>,
    setting_sources: Vec<String>,
    settings: Option<Value>,
    mcp_config: Option<Value>,
    pool: Option<String>,
    /// Models for when its own is overloaded, in order, with commas between.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_model: Option<String>,
    /// Whether a denied tool fails a task.
    denial_fails: bool,
}

impl DefinedWorkerView {
    /// The worker and what agents are given.
    pub(crate) fn new(worker: &v1::Worker, definition: &v1::WorkerDefinition) -> Self {
        Self {
            worker: WorkerView::from(worker),
            system_prompt: definition.system_prompt.clone(),
            tools: definition.tools.clone(),
            allowed_tools: definition.allowed_tools.clone(),
            disallowed_tools: definition.disallowed_tools.clone(),
            permission_mode: some(&definition.permission_mode),
            agents: json(&definition.subagents_json),
            setting_sources: definition.setting_sources.clone(),
            settings: json(&definition.settings_json),
            mcp_config: json(&definition.mcp_config_json),
            pool: some(&definition.pool),
            fallback_model: some(&definition.fallback_model),
            denial_fails: definition.denial_fails,
        }
    }
}

/// JSON inside a text; a text that is none stays a text.
fn json(text: &str) -> Option<Value> {
    let text = some(text)?;
    Some(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A mistake in a file of prompts.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ProblemView {
    path: String,
    /// From 1; none when it is about the whole file.
    line: Option<u32>,
    /// From 1; none when it is about the whole line.
    column: Option<u32>,
    message: String,
    help: Option<String>,
}

impl From<&v1::PromptProblem> for ProblemView {
    fn from(problem: &v1::PromptProblem) -> Self {
        Self {
            path: problem.path.clone(),
            line: (problem.line > 0).then_some(problem.line),
            column: (problem.column > 0).then_some(problem.column),
            message: problem.message.clone(),
            help: some(&problem.help),
        }
    }
}

/// What checking a directory of prompts came to.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ValidatedView {
    problems: Vec<ProblemView>,
    /// Workers as they would be.
    workers: Vec<WorkerView>,
}

impl From<&v1::ValidateWorkersResponse> for ValidatedView {
    fn from(answer: &v1::ValidateWorkersResponse) -> Self {
        Self {
            problems: answer.problems.iter().map(ProblemView::from).collect(),
            workers: answer.workers.iter().map(WorkerView::from).collect(),
        }
    }
}

/// What reading the prompts again came to.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ReloadedView {
    problems: Vec<ProblemView>,
    changed: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
}

impl From<&v1::ReloadWorkersResponse> for ReloadedView {
    fn from(answer: &v1::ReloadWorkersResponse) -> Self {
        Self {
            problems: answer.problems.iter().map(ProblemView::from).collect(),
            changed: answer.changed.clone(),
            added: answer.added.clone(),
            removed: answer.removed.clone(),
        }
    }
}

/// How a worker introduced itself on an agent.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct IntroductionView {
    agent: String,
    worker: String,
    ok: bool,
    outcome: Option<&'static str>,
    execution_time: Option<f64>,
    #[serde(flatten)]
    cost: Cost,
    #[serde(rename = "ref")]
    reference: String,
    answer: String,
    detail: Option<String>,
}

impl IntroductionView {
    /// What became of the task that was pinned to `agent`.
    pub(crate) fn new(agent: &str, task: &v1::Task, answer: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            worker: task.worker.clone(),
            ok: task.state() == v1::TaskState::Succeeded,
            outcome: outcome_word(task.outcome()),
            execution_time: seconds(task.execution_time),
            cost: Cost::of(task.usage.as_ref()),
            reference: task.r#ref.clone(),
            answer: answer.to_owned(),
            detail: some(&task.detail),
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckState {
    /// As it should be.
    Ok,
    /// Works, and wants attention.
    Warning,
    /// Does not work.
    Failed,
    /// Could not be looked at, because another check failed.
    Skipped,
}

/// One check of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct CheckView {
    /// Stable word.
    pub(crate) name: &'static str,
    pub(crate) state: CheckState,
    /// What was found, in plain English.
    pub(crate) found: String,
    /// What to do, a line for each.
    pub(crate) fixes: Vec<String>,
}

/// All checks of `doctor`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DoctorView {
    pub(crate) healthy: bool,
    pub(crate) errors: usize,
    pub(crate) warnings: usize,
    pub(crate) checks: Vec<CheckView>,
}

/// A task that was given up because it took its agents down.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeadView {
    #[serde(rename = "ref")]
    reference: String,
    outcome: Option<&'static str>,
    /// Attempts that count as crashes; 0 where they were not looked into.
    crashes: usize,
    /// The agents they were on.
    agents: Vec<String>,
    /// What the last of them looked like.
    cause: Option<String>,
    finished_at: Option<String>,
    worker: Option<String>,
    runner: String,
    /// The command that tries it again.
    retry: String,
}

impl From<&Dead> for DeadView {
    fn from(dead: &Dead) -> Self {
        let task = &dead.task;
        Self {
            reference: task.r#ref.clone(),
            outcome: outcome_word(task.outcome()),
            crashes: dead.crashes(),
            agents: dead.agents().into_iter().map(str::to_owned).collect(),
            cause: some(dead.cause()),
            finished_at: rfc3339(task.finished_at),
            worker: some(&task.worker),
            runner: task.runner.clone(),
            retry: format!("orchctl retry --dead {}", task.r#ref),
        }
    }
}
