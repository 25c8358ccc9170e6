//! Everything the coordinator can want done, as data. Writes first; the rest only once they are durable.
//! Knows no store, no stream and no encoding.

use crate::budgets::{Allowance, Bill, BudgetMode};
use crate::event::HeldState;
use crate::ids::{AgentKey, AttemptKey, EventSeq, RunId, SessionId, TaskKey, TenantId, Token};
use crate::limits::{Amounts, MeterId, PoolNotice};
use crate::outcome::Outcome;
use crate::query::{Answer, RunView};
use crate::state::{RunState, TaskState};
use crate::time::{Now, Span, Tick};
use std::sync::Arc;

/// Bytes that the core carries from an event to a write without looking.
pub type Payload = Arc<[u8]>;

/// What follows from one event. The driver makes `writes` durable, with everything it gathered meanwhile,
/// and carries out `notices` and `actions`, in order, only then.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records to be written; the driver encodes them from the state when it closes the batch.
    pub writes: Vec<Write>,
    /// Events for watchers and the event log.
    pub notices: Vec<Notice>,
    /// Everything that leaves.
    pub actions: Vec<Action>,
    /// What the report of this event says was spent is in the sums now: it was recorded, or it is the late bill of a
    /// cancelled attempt.
    pub billed: bool,
    /// What attempts that ended have cost: for the ledger, in the same batch.
    pub bills: Vec<Bill>,
}

/// A record that changed. The driver reads its new content from the state; repeating one is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A run was added: its record and spec pages.
    NewRun(RunId),
    /// Tasks joined a run: all its spec pages anew, and its record.
    Expanded(RunId),
    /// A run changed.
    Run(RunId),
    /// A task changed; a payload is that of the report recorded now.
    Task {
        /// Which.
        task: TaskKey,
        /// Payload of the report.
        payload: Option<Payload>,
    },
    /// A run is no longer kept: delete everything of it.
    ForgetRun {
        /// Whose.
        tenant: TenantId,
        /// Which.
        run: RunId,
        /// Number of tasks it had.
        tasks: u32,
        /// When it was the newest of its name: the name and number to remember.
        newest_of: Option<(Arc<str>, u64)>,
    },
    /// An agent became known, changed what it offers, or an operator said something of it.
    Agent(AgentKey),
    /// An operator had an agent forgotten: its record goes.
    ForgetAgent {
        /// Whose.
        tenant: TenantId,
        /// Its name.
        name: Arc<str>,
    },
    /// A request that is not remembered with a run: what it was answered with.
    Request {
        /// Whose.
        tenant: TenantId,
        /// Its id.
        id: Arc<str>,
    },
    /// A standing budget was made, changed or spent of.
    Budget {
        /// Whose.
        tenant: TenantId,
        /// Its name.
        name: Arc<str>,
    },
    /// A standing budget ended: its record goes.
    ForgetBudget {
        /// Whose.
        tenant: TenantId,
        /// Its name.
        name: Arc<str>,
    },
    /// Such a request is old enough.
    ForgetRequest {
        /// Whose.
        tenant: TenantId,
        /// Its id.
        id: Arc<str>,
    },
}

/// Something watchers see. Numbered by the state, so that a log replays to the same numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its number.
    pub seq: EventSeq,
    /// Whose.
    pub tenant: TenantId,
    /// When.
    pub at: Now,
    /// What.
    pub change: Change,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A run was added or changed its state.
    Run {
        /// Which, as people call it.
        run: RunId,
        /// Name and number.
        run_ref: Arc<str>,
        /// New state.
        state: RunState,
        /// Number of tasks.
        task_count: u32,
        /// Spent so far.
        cost_micro_usd: u64,
    },
    /// A task changed its state.
    Task {
        /// Which.
        task: TaskKey,
        /// Name and number of its run.
        run_ref: Arc<str>,
        /// Name within the run.
        task_id: Arc<str>,
        /// New state.
        state: TaskState,
        /// Latest attempt.
        attempt: u32,
        /// Agent of it, or empty.
        agent: Arc<str>,
        /// Outcome of the attempt that ended, or of the task.
        outcome: Option<Outcome>,
        /// In plain English, or empty.
        detail: Arc<str>,
        /// Spent by the task so far.
        cost_micro_usd: u64,
        /// Length of the attempt that ended.
        execution_time: Option<Span>,
        /// When a waiting retry becomes ready.
        retry_at: Option<Tick>,
        /// How long it was ready, when it is now given to an agent.
        waited: Option<Span>,
    },
    /// An agent changed its state.
    Agent {
        /// Its name.
        agent: Arc<str>,
        /// `ready`, `draining`, `unreachable`, `offline` or `quarantined`.
        state: crate::query::AgentStateView,
    },
    /// A budget was passed or is near its end, or a task cost more than expected.
    Budget {
        /// Name of the standing budget; empty for that of a run or task.
        budget: Arc<str>,
        /// Name and number of the run it is about, or empty.
        run_ref: Arc<str>,
        /// In plain English.
        text: Arc<str>,
        /// What happens; `None` for a warning alone.
        mode: Option<BudgetMode>,
    },
}

/// Something that leaves the coordinator.
#[derive(Debug, Clone)]
pub enum Action {
    /// Answer a client.
    Reply {
        /// Whom.
        token: Token,
        /// With what.
        answer: Box<Answer>,
    },
    /// Open a session.
    Welcome {
        /// Which.
        session: SessionId,
        /// What to do with each attempt of the inventory.
        verdicts: Vec<(AttemptKey, Verdict)>,
    },
    /// Give an attempt to an agent.
    Grant {
        /// On which stream.
        session: SessionId,
        /// Which.
        attempt: AttemptKey,
    },
    /// Stop an attempt.
    Stop {
        /// On which stream.
        session: SessionId,
        /// Which.
        attempt: AttemptKey,
        /// Why.
        reason: StopReason,
    },
    /// Answer a heartbeat.
    HeartbeatAck {
        /// On which stream.
        session: SessionId,
        /// Sequence of the heartbeat.
        seq: u64,
        /// Attempts that are not the agent's.
        unknown: Vec<AttemptKey>,
        /// It holds nothing, and nothing that it was told to stop: a next one that lists nothing changes nothing.
        idle: bool,
    },
    /// Answer a report.
    ReportVerdict {
        /// On which stream.
        session: SessionId,
        /// Which.
        attempt: AttemptKey,
        /// How.
        result: ReportResult,
    },
    /// Give an agent more credit.
    LimitGrant {
        /// On which stream.
        session: SessionId,
        /// For which meter.
        meter: Box<MeterId>,
        /// Everything it was given in this session.
        granted: Amounts,
    },
    /// Tell an agent how a pool stands.
    PoolNotice {
        /// On which stream.
        session: SessionId,
        /// How.
        notice: Box<PoolNotice>,
    },
    /// Tell an agent what an attempt may spend.
    Allowance {
        /// On which stream.
        session: SessionId,
        /// Which.
        attempt: AttemptKey,
        /// What.
        allowance: Box<Allowance>,
    },
    /// There is something that only payloads tell: ask [`crate::query::Query::Questions`].
    Consult,
    /// End a session.
    Close {
        /// Which.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
}

/// What to do with a held attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Keep,
    /// Stop: it is no longer yours.
    Cancel,
    /// Send its report.
    SendReport,
}

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled it.
    Cancelled,
    /// Another attempt is current.
    Fenced,
    /// It is wanted back if its child was not started: the agent then rejects it, else goes on.
    Revoked,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportResult {
    /// Durable, now or before.
    Recorded,
    /// Not the current attempt.
    Fenced,
    /// Recorded before with another digest; the first stays.
    Conflict,
}

/// Why a session is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// A newer stream of the same identity took over.
    Superseded,
    /// Two incarnations of one identity displace each other.
    ClonedIdentity,
    /// The agent said something that the protocol does not allow.
    ProtocolViolation,
    /// Too many different sets of requirements or agents.
    Capacity,
}

/// Inventory states that mean the child may still run.
#[must_use]
pub const fn may_run(state: HeldState) -> bool {
    matches!(state, HeldState::Accepted | HeldState::Running)
}

/// What a submit, cancel or retry says of the run afterwards.
pub type RunAfter = RunView;
