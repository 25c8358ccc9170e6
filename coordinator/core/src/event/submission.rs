//! What is submitted: a run, its shape, its tasks, and what is said of a plan.
//! Carries payloads; refuses to read them.

use crate::budgets::BudgetLimit;
use crate::effect::Payload;
use crate::ids::{TaskIndex, TenantId, Token};
use crate::limits::Meter;
use crate::outcome::Outcome;
use crate::time::Span;
use std::sync::Arc;

/// A run, checked and ready to be queued. Payloads stay with the engine.
#[derive(Debug, Clone)]
pub struct Submit {
    /// Whom to answer.
    pub token: Token,
    /// Whose.
    pub tenant: TenantId,
    /// Name of the run.
    pub name: Arc<str>,
    /// Identity that submitted it, `role/tenant/name`.
    pub submitted_by: Arc<str>,
    /// Idempotency key, or empty.
    pub request_id: Arc<str>,
    /// SHA-256 of the spec, to tell a repetition from a conflict.
    pub spec_digest: [u8; 32],
    /// Labels, for lists.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// The tasks.
    pub tasks: Vec<NewTask>,
    /// Only check and report.
    pub validate_only: bool,
    /// How its tasks go together.
    pub shape: Shape,
}

/// How the tasks of a run go together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    /// What to do when a task does not succeed.
    pub policy: FailurePolicy,
    /// Most of its tasks held by agents at once; 0 means no limit.
    pub max_parallel: u32,
    /// Set when its first task is a planner.
    pub planning: Option<Planning>,
    /// Name of the workflow it was made from, if any; for people.
    pub workflow: Option<Arc<str>>,
    /// Ceiling over the run and everything below it.
    pub budget: Option<BudgetLimit>,
    /// Its money as it was submitted, once somebody changed it.
    pub first_budget_micro_usd: Option<u64>,
    /// What the driver keeps of how it is planned, encoded; carried, never read here. Empty when there is nothing.
    pub settings: Payload,
}

/// What to do when a task does not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FailurePolicy {
    /// Cancel what has not ended, and fail the run.
    FailFast,
    /// Finish what does not depend on the failure, then fail the run.
    #[default]
    Continue,
    /// The same, but the run succeeds unless nothing did.
    BestEffort,
}

/// How a request is planned. The run's tasks are then the planner, index 0, and the synthesis, index 1, until those of
/// the plan join it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Planning {
    /// A person must approve the plan.
    pub approve: bool,
    /// The plan is all that is wanted.
    pub plan_only: bool,
    /// The plan's tasks are part of the run.
    pub expanded: bool,
}

/// What a task is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// What the run is about.
    #[default]
    Work,
    /// Turns the request into a plan. An `ok` report makes it `verifying` until the driver looked at the plan.
    Plan,
    /// Makes one answer of all results.
    Synthesis,
    /// Judges the task in [`Flow::of`]: becomes ready whenever that one is `verifying`.
    Review,
    /// Copies files of the task in [`Flow::of`] into its workspace.
    Publish,
}

/// What the dependencies of a task must have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum After {
    /// Each succeeded.
    #[default]
    Success,
    /// Each ended, in whatever way.
    End,
}

/// Tasks that join a run. Indexes go on after those it has.
#[derive(Debug, Clone)]
pub struct Expansion {
    /// The tasks.
    pub tasks: Vec<NewTask>,
    /// New dependencies of tasks that the run has, in place of those before; such a task must be blocked.
    pub rewired: Vec<(TaskIndex, Vec<TaskIndex>)>,
}

/// What the driver says to a [`crate::query::Question`].
#[derive(Debug, Clone)]
pub enum Consultation {
    /// The conditions hold: queue it.
    Run,
    /// They do not: skip it.
    Skip {
        /// In plain English.
        detail: Arc<str>,
    },
    /// The result holds: the task succeeded.
    Accept {
        /// In place of the recorded payload: the same with who judged it. `None` leaves that as it is.
        payload: Option<Payload>,
    },
    /// The plan holds, and a person must approve it.
    Hold,
    /// The plan holds: its tasks join the run.
    Expand(Box<Expansion>),
    /// The result does not hold: try again with what is wrong. Where no repair is left this is a refusal with `gate_failed`.
    SendBack {
        /// In place of the recorded payload: the same with what the next attempt is told.
        payload: Payload,
        /// In plain English.
        detail: Arc<str>,
    },
    /// The result does not hold, for good.
    Refuse {
        /// How the task ends.
        outcome: Outcome,
        /// In plain English.
        detail: Arc<str>,
        /// As in `Accept`.
        payload: Option<Payload>,
    },
}

/// A person's answer to a plan.
#[derive(Debug, Clone)]
pub enum PlanDecision {
    /// Run it.
    Approve(Box<Expansion>),
    /// Cancel the run.
    Reject,
}

/// A task to be queued. Ids are unique and dependencies exist; cycles are for the core to refuse.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Name within the run.
    pub id: Arc<str>,
    /// Worker name, or `command` or `noop`; for people.
    pub worker: Arc<str>,
    /// Indexes of its dependencies, sorted, without repetition.
    pub dependencies: Vec<TaskIndex>,
    /// Larger first.
    pub priority: i32,
    /// Limit of one attempt; the coordinator only watches that it is not passed by far.
    pub timeout: Span,
    /// Attempts after the first.
    pub retries: u32,
    /// Capabilities, each `key=value`, sorted, without repetition; the runner's included.
    pub requires: Vec<Arc<str>>,
    /// The only agent that may run it.
    pub pinned: Option<Arc<str>>,
    /// What to do when its agent is lost.
    pub on_loss: OnLoss,
    /// How many of its kind an agent may hold beyond its slots; 0 for everything that costs.
    pub prefetch: u32,
    /// Its part in the run.
    pub flow: Flow,
    /// Whose limits it uses; `None` for everything that asks no API.
    pub meter: Option<Meter>,
    /// What its author expects it to cost, in millionths of a US dollar.
    pub expected_micro_usd: Option<u64>,
}

/// A task's part in its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flow {
    /// What it is for.
    pub role: Role,
    /// What its dependencies must have done.
    pub after: After,
    /// It has conditions: once its dependencies have done that, the driver is asked whether it runs.
    pub conditional: bool,
    /// A review task judges it: an `ok` report makes it `verifying`.
    pub reviewed: bool,
    /// Times it may be sent back with what is wrong, by its gates, its review or the plan's rules.
    pub repairs: u32,
    /// The task that a review or publication belongs to; one of its dependencies.
    pub of: Option<TaskIndex>,
}

/// What to do about an attempt whose agent is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnLoss {
    /// Requeue soon.
    #[default]
    Fast,
    /// Requeue when the old child is certainly dead.
    Wait,
}
