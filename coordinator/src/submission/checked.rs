//! What is left of a spec once it is checked: the data that preparation stores and the core decides by.
//! Knows shapes only; the rules that lead here are its siblings'.

use super::CheckedContext;
use orch_core::budgets::BudgetLimit;
use orch_core::event::FailurePolicy;
use orch_proto::store::v1::{PlanningRecord, StoredPublish};
use orch_proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// Ceiling over the run and everything below it.
    pub budget: Option<BudgetLimit>,
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

impl CheckedPlanning {
    /// As it was stored with the run.
    #[must_use]
    pub fn from_record(record: PlanningRecord) -> Self {
        let PlanningRecord { approve, plan_only, max_tasks, workers, workspace, expanded: _ } = record;
        Self { approve, plan_only, max_tasks, workers, workspace }
    }

    /// As it is stored with the run; whether the plan's tasks have joined it is the core's to say.
    #[must_use]
    pub fn into_record(self) -> PlanningRecord {
        let Self { approve, plan_only, max_tasks, workers, workspace } = self;
        PlanningRecord { approve, plan_only, max_tasks, workers, workspace, expanded: false }
    }
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
    /// Context files that it was begun with; those of the run that continues it are not for it.
    pub context: Option<CheckedContext>,
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
