//! Everything that can happen to the coordinator, as data. Past tense: whoever sends one of these has seen it.
//! Knows no wire format; the engine's conversion is the only place that names both.

use crate::budgets::{Budget, BudgetLimit, Spending};
use crate::effect::Payload;
use crate::ids::{AttemptKey, AttemptNo, Epoch, SessionId, TaskIndex, TaskKey, TenantId, Token};
use crate::limits::{AgentPool, LimitHit, LimitReport, LimitSignal, Meter, PoolSettings};
use crate::outcome::Outcome;
use crate::query::Query;
use crate::time::Span;
use crate::usage::Usage;
use std::sync::Arc;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The coordinator loaded its state and starts under a new epoch: every lease gets a fresh grace.
    Started {
        /// The new epoch, already durable.
        epoch: Epoch,
    },
    /// A client submitted a run.
    Submitted(Box<Submit>),
    /// A client asked for the end of a run or a task.
    CancelRequested {
        /// Whom to answer.
        token: Token,
        /// What to cancel.
        target: Target,
        /// Shown to people.
        reason: Arc<str>,
    },
    /// A client asked to try again.
    RetryRequested {
        /// Whom to answer.
        token: Token,
        /// What to try again: tasks that failed, were cancelled or skipped.
        target: Target,
        /// Also take back an attempt from an agent that is unreachable.
        force: bool,
        /// Of a run that ended: this task and everything below it, whatever became of it.
        from: Option<Arc<str>>,
        /// Only what ended as poison.
        dead: bool,
        /// Idempotency key, or empty.
        request_id: Arc<str>,
        /// SHA-256 of the request, to tell a repetition from a conflict.
        digest: [u8; 32],
    },
    /// An operator wants an agent to be given no new work.
    DrainRequested {
        /// Whom to answer.
        token: Token,
        /// Whose agent.
        tenant: TenantId,
        /// Its name.
        agent: Arc<str>,
        /// Shown to people; not empty.
        reason: Arc<str>,
    },
    /// An operator ends that, and a quarantine.
    ResumeRequested {
        /// Whom to answer.
        token: Token,
        /// Whose agent.
        tenant: TenantId,
        /// Its name.
        agent: Arc<str>,
    },
    /// An operator wants an agent that is gone to be known no more.
    ForgetRequested {
        /// Whom to answer.
        token: Token,
        /// Whose agent.
        tenant: TenantId,
        /// Its name.
        agent: Arc<str>,
    },
    /// An operator changes what an agent counts as offering.
    LabelRequested {
        /// Whom to answer.
        token: Token,
        /// Whose agent.
        tenant: TenantId,
        /// Its name.
        agent: Arc<str>,
        /// What.
        change: Labelling,
    },
    /// A client asked something about live state. Answered after everything applied before it is durable.
    Asked {
        /// Whom to answer.
        token: Token,
        /// On whose behalf.
        tenant: TenantId,
        /// The question.
        query: Query,
    },
    /// An agent opened a session with a valid Hello.
    AgentJoined(Box<AgentHello>),
    /// An agent is alive and holds these attempts.
    HeartbeatReceived {
        /// On which stream.
        session: SessionId,
        /// Its sequence number, echoed.
        seq: u64,
        /// Attempts it holds.
        held: Vec<HeldAttempt>,
        /// One-minute load average in thousandths.
        load_millis: u32,
    },
    /// An agent took an assignment over.
    AttemptAccepted {
        /// On which stream.
        session: SessionId,
        /// Which.
        attempt: AttemptKey,
    },
    /// An agent did not take an assignment over.
    AttemptRejected {
        /// On which stream.
        session: SessionId,
        /// Which.
        attempt: AttemptKey,
        /// Why.
        reason: Arc<str>,
    },
    /// An agent says an attempt ended.
    AttemptReported {
        /// On which stream.
        session: SessionId,
        /// Which, and how.
        report: Box<Report>,
    },
    /// An agent takes no new work.
    AgentDraining {
        /// On which stream.
        session: SessionId,
    },
    /// The stream of an agent ended.
    SessionEnded {
        /// Which.
        session: SessionId,
    },
    /// The driver looked at payloads. Without effect when the question is no longer asked.
    Consulted {
        /// Which task.
        task: TaskKey,
        /// Its attempt when it was asked.
        attempt: AttemptNo,
        /// What it says.
        answer: Consultation,
    },
    /// A person answered a plan.
    PlanDecided {
        /// Whom to answer.
        token: Token,
        /// Which run.
        target: Target,
        /// How.
        decision: PlanDecision,
        /// Shown to people; may be empty.
        reason: Arc<str>,
        /// Idempotency key; empty means none.
        request_id: Arc<str>,
        /// Digest of the request, to tell a repetition from another one with the same key.
        digest: [u8; 32],
    },
    /// A finished run that had left the state was read back from the store, because somebody wants to try it again.
    /// Its tasks must be complete. Harmless when it is live.
    RunRecalled(Box<crate::state::RestoredRun>),
    /// The coordinator did not get to run for a while (its process or its host was stopped), so that it heard nobody: that
    /// time counts against no agent. Comes before anything that is due is done.
    Stalled {
        /// For how long, up to now.
        away: Span,
    },
    /// An agent says what became of credit, and what it wants.
    LimitsReported {
        /// On which stream.
        session: SessionId,
        /// What.
        report: Box<LimitReport>,
    },
    /// The API said something that concerns everybody who uses a pool.
    LimitSignalled {
        /// On which stream.
        session: SessionId,
        /// What.
        signal: Box<LimitSignal>,
    },
    /// An agent says what an attempt spends.
    SpendingReported {
        /// On which stream.
        session: SessionId,
        /// What.
        spending: Spending,
    },
    /// The prompt cache knows the beginning of an attempt.
    AttemptWarmed {
        /// On which stream.
        session: SessionId,
        /// Which.
        attempt: AttemptKey,
    },
    /// What an agent said of its pools has changed.
    PoolsChanged {
        /// On which stream.
        session: SessionId,
        /// All of them.
        pools: Vec<AgentPool>,
    },
    /// An operator's limits of pools, at the start and whenever they were read again: in place of those before. The name
    /// `*` is every pool that has no row.
    LimitsConfigured {
        /// By name.
        pools: Vec<(Arc<str>, PoolSettings)>,
    },
    /// A standing budget is made or replaced.
    BudgetSet {
        /// Whom to answer.
        token: Token,
        /// Whose.
        tenant: TenantId,
        /// The budget.
        budget: Box<Budget>,
    },
    /// A standing budget ends.
    BudgetRemoved {
        /// Whom to answer.
        token: Token,
        /// Whose.
        tenant: TenantId,
        /// Its name.
        name: Arc<str>,
    },
    /// Time passed: do what is due.
    TimePassed,
    /// The coordinator is shutting down: grant nothing more.
    DrainStarted,
}

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

/// A run or a task that somebody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whose.
    pub tenant: TenantId,
    /// Run name and number, or the newest run of the caller.
    pub run: RunTarget,
    /// Task name within the run; `None` means the whole run.
    pub task: Option<Arc<str>>,
}

/// A run that somebody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunTarget {
    /// `name/number`.
    Ref {
        /// The name.
        name: Arc<str>,
        /// The number.
        number: u64,
    },
    /// `@last`: the newest run submitted by this identity.
    LastOf(Arc<str>),
}

/// What an operator changes of what an agent counts as offering. Words are checked; no key is both set and removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labelling {
    /// Capabilities to add, each `key=value`, in place of everything under the same keys.
    pub set: Vec<Arc<str>>,
    /// Keys under which it is to offer nothing.
    pub remove: Vec<Arc<str>>,
    /// First forget what operators ever set or removed.
    pub restore: bool,
}

/// An agent's Hello, checked.
#[derive(Debug, Clone)]
pub struct AgentHello {
    /// Its stream.
    pub session: SessionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub name: Arc<str>,
    /// Random per agent process.
    pub incarnation: [u8; 16],
    /// Slots.
    pub slots: u32,
    /// Capabilities, each `key=value`, sorted; `runner=…` included.
    pub capabilities: Vec<Arc<str>>,
    /// Attempts it holds.
    pub inventory: Vec<InventoryItem>,
    /// Tasks whose conversation it keeps.
    pub conversations: Vec<TaskKey>,
    /// Its credential pools.
    pub pools: Vec<AgentPool>,
}

/// An attempt an agent holds when it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InventoryItem {
    /// Which.
    pub attempt: AttemptKey,
    /// How far it is.
    pub state: HeldState,
}

/// How far a held attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    /// Taken over; not started.
    Accepted,
    /// Running.
    Running,
    /// Ended; its report is to come.
    Finished,
}

/// An attempt listed in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldAttempt {
    /// Which.
    pub attempt: AttemptKey,
    /// Turns so far.
    pub num_turns: u32,
    /// Spent so far in millionths of a US dollar.
    pub cost_micro_usd: u64,
}

/// How an attempt ended, as its agent says.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which.
    pub attempt: AttemptKey,
    /// How.
    pub outcome: Outcome,
    /// In plain English.
    pub detail: Arc<str>,
    /// Tokens and money of this attempt.
    pub usage: Usage,
    /// Digest of the whole report.
    pub digest: [u8; 32],
    /// From acceptance to the end on the agent's clock.
    pub duration: Span,
    /// Earliest time another attempt makes sense, from now.
    pub retry_after: Option<Span>,
    /// Credential pool it used, or empty.
    pub pool: Arc<str>,
    /// The limit it ran into.
    pub limit: Option<LimitHit>,
    /// Everything else: stored, never read here.
    pub payload: Payload,
}

impl AttemptKey {
    /// The key of `attempt` of `task`.
    #[must_use]
    pub const fn new(task: TaskKey, attempt: u32) -> Self {
        Self { task, attempt: AttemptNo(attempt) }
    }
}
