//! Everything that can happen to the coordinator, as data. Past tense: whoever sends one of these has seen it.
//! Knows no wire format; the engine's conversion is the only place that names both.

use crate::budgets::{Budget, BudgetChange, Spending};
use crate::effect::Payload;
use crate::ids::{AttemptKey, AttemptNo, Epoch, SessionId, TaskKey, TenantId, Token};
use crate::limits::{AgentPool, LimitHit, LimitReport, LimitSignal, PoolSettings};
use crate::outcome::Outcome;
use crate::query::Query;
use crate::time::{Span, Tick};
use crate::usage::Usage;
use std::sync::Arc;

mod submission;

pub use self::submission::{
    After, Consultation, Expansion, FailurePolicy, Flow, NewTask, OnLoss, PlanDecision, Planning, Role,
    Shape, Submit,
};

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
    /// Agents that hold nothing were heard, and answered already: nothing but the moment and the load was news.
    AgentsHeard(Vec<Heard>),
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
    /// The budget of one run is changed, or made.
    RunBudgetSet {
        /// Whom to answer.
        token: Token,
        /// The run.
        target: Target,
        /// What becomes of its ceiling; `None` ends it.
        change: Option<BudgetChange>,
    },
    /// Time passed: do what is due.
    TimePassed,
    /// The coordinator is shutting down: grant nothing more.
    DrainStarted,
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
    /// Whether it keeps to what an attempt is told it may spend. Agents of older protocols are told nothing of it.
    pub keeps_allowances: bool,
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

/// When the agent of a session was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// On which stream.
    pub session: SessionId,
    /// When.
    pub at: Tick,
    /// One-minute load average in thousandths.
    pub load_millis: u32,
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
