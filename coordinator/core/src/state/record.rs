//! What the driver writes of the state and hands back at a start: plain data that mirrors the store's records.
//! Knows no encoding. Names instead of interned keys, because keys do not survive a restart.

use crate::budgets::{OpenBill, Spent};
use crate::event::{NewTask, OnLoss, Shape};
use crate::ids::{AttemptNo, Epoch, RunId, TaskKey, TenantId};
use crate::limits::LimitHit;
use crate::outcome::Outcome;
use crate::state::{RunState, TaskCounts, TaskState};
use crate::time::{Now, Span, Tick, Wall};
use crate::usage::Usage;
use std::sync::Arc;

/// A run as its record says.
#[derive(Debug, Clone)]
pub struct RestoredRun {
    /// Its id.
    pub id: RunId,
    /// Whose.
    pub tenant: TenantId,
    /// Name.
    pub name: Arc<str>,
    /// Number within the name.
    pub number: u64,
    /// Who submitted it.
    pub submitted_by: Arc<str>,
    /// Submitted.
    pub created: Now,
    /// State.
    pub state: RunState,
    /// Ended.
    pub finished: Option<Now>,
    /// Labels.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Idempotency key, or empty.
    pub request_id: Arc<str>,
    /// SHA-256 of the submitted spec.
    pub spec_digest: [u8; 32],
    /// Outcome that decided a run that did not succeed.
    pub outcome: Option<Outcome>,
    /// How its tasks go together.
    pub shape: Shape,
    /// Why it is in its state where its tasks do not say it, or empty.
    pub detail: Arc<str>,
    /// Number of tasks.
    pub task_count: u32,
    /// Tasks that ended as poison; only read where a terminal run leaves its tasks out.
    pub dead: u32,
    /// All tasks, in order. A terminal run may leave them out: it is then known for retention, request ids and
    /// [`crate::state::State::resolve`], but not live.
    pub tasks: Vec<RestoredTask>,
}

/// A task as its spec and its record say.
#[derive(Debug, Clone)]
pub struct RestoredTask {
    /// What was submitted.
    pub spec: NewTask,
    /// What became of it. `None`: no record was written yet, it is as submitted.
    pub progress: Option<TaskProgress>,
}

/// A task's changing part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskProgress {
    /// State.
    pub state: TaskState,
    /// Latest attempt.
    pub attempt: AttemptNo,
    /// Agent of the latest attempt.
    pub agent: Option<Arc<str>>,
    /// Its grant.
    pub granted: Option<Now>,
    /// Ended.
    pub finished: Option<Wall>,
    /// Outcome, once terminal.
    pub outcome: Option<Outcome>,
    /// Attempts that ended in a crash.
    pub crashes: u32,
    /// Attempts that count against the retry limit.
    pub failures: u32,
    /// When a waiting retry, or what is parked, becomes ready.
    pub retry: Option<Tick>,
    /// Ended attempts, oldest first.
    pub attempts: Vec<EndedAttempt>,
    /// Sum over all ended attempts.
    pub usage: Usage,
    /// Since when it is in its state.
    pub since: Tick,
    /// Agents on which an attempt crashed.
    pub crashed_on: Vec<Arc<str>>,
    /// Times it was sent back.
    pub repairs: u32,
    /// Attempts up to this one leave nothing to go on with: somebody had the run go back to the task.
    pub afresh: AttemptNo,
    /// Why it ended, when no ended attempt says so.
    pub note: Option<Arc<str>>,
    /// The limit it waits for while it is parked.
    pub parked: Option<LimitHit>,
    /// What the current attempt was promised that it may spend.
    pub allowed: Spent,
    /// The pool whose budgets that counts against, if any is known.
    pub pool: Option<Arc<str>>,
    /// What attempts that ended without a bill may have spent.
    pub open: Vec<OpenBill>,
}

/// An ended attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndedAttempt {
    /// Number.
    pub number: AttemptNo,
    /// Agent.
    pub agent: Arc<str>,
    /// Granted.
    pub started: Wall,
    /// Recorded.
    pub finished: Wall,
    /// Outcome.
    pub outcome: Outcome,
    /// In plain English.
    pub detail: Arc<str>,
    /// Millionths of a US dollar.
    pub cost_micro_usd: u64,
    /// Digest of the recorded report; `None` when the attempt ended without one.
    pub digest: Option<[u8; 32]>,
    /// It ended without a report: its cost is what its agent had said by then, until a late report brings the exact one.
    pub awaits_bill: bool,
    /// Length on the agent's clock, or as far as known. Lost at a restart.
    pub duration: Option<Span>,
}

/// An agent as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredAgent {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub name: Arc<str>,
    /// Slots.
    pub slots: u32,
    /// What it said it offers, sorted, `runner=…` included.
    pub capabilities: Vec<Arc<str>>,
    /// Last heard.
    pub last_seen: Wall,
    /// Capabilities that an operator added.
    pub labels: Vec<Arc<str>>,
    /// Keys of its own that an operator hides.
    pub hidden: Vec<Arc<str>>,
    /// Why an operator drains it.
    pub drain: Option<Arc<str>>,
    /// Why it is in quarantine.
    pub quarantine: Option<Arc<str>>,
}

/// A request that is not remembered with a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredRequest {
    /// Whose.
    pub tenant: TenantId,
    /// Its id.
    pub id: Arc<str>,
    /// The run it was about.
    pub run: RunId,
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// When it was made.
    pub at: Tick,
    /// Tasks that it queued again.
    pub retried: u32,
}

/// What a run's record says now.
#[derive(Debug)]
pub struct RunRecordView<'a> {
    /// Its id.
    pub id: RunId,
    /// Whose.
    pub tenant: TenantId,
    /// Name.
    pub name: &'a Arc<str>,
    /// Number within the name.
    pub number: u64,
    /// Who submitted it.
    pub submitted_by: &'a Arc<str>,
    /// Submitted.
    pub created: Now,
    /// State.
    pub state: RunState,
    /// Ended.
    pub finished: Option<Now>,
    /// Number of tasks. 1: the task's record lies inside the run's.
    pub task_count: u32,
    /// Labels.
    pub labels: &'a [(Arc<str>, Arc<str>)],
    /// Idempotency key, or empty.
    pub request_id: &'a Arc<str>,
    /// SHA-256 of the submitted spec.
    pub spec_digest: &'a [u8; 32],
    /// Outcome that decided a run that did not succeed.
    pub outcome: Option<Outcome>,
    /// Sum over all ended attempts.
    pub usage: &'a Usage,
    /// Number of tasks by state.
    pub counts: TaskCounts,
    /// How its tasks go together.
    pub shape: &'a Shape,
    /// Why it is in its state where its tasks do not say it, or empty; at most 400 bytes.
    pub detail: &'a Arc<str>,
    /// Tasks that ended as poison.
    pub dead: u32,
}

/// What a task's record says now.
#[derive(Debug)]
pub struct TaskRecordView<'a> {
    /// Which.
    pub key: TaskKey,
    /// Whose.
    pub tenant: TenantId,
    /// Number of tasks of its run. 1: the record lies inside the run's.
    pub task_count: u32,
    /// Name within the run.
    pub task_id: &'a Arc<str>,
    /// Its changing part. Cloning an ended attempt or a name is cheap; nothing else is copied.
    pub state: TaskState,
    /// Latest attempt.
    pub attempt: AttemptNo,
    /// Agent of the latest attempt.
    pub agent: Option<&'a Arc<str>>,
    /// Its grant.
    pub granted: Option<Now>,
    /// Ended.
    pub finished: Option<Wall>,
    /// Outcome, once terminal.
    pub outcome: Option<Outcome>,
    /// Attempts that ended in a crash.
    pub crashes: u32,
    /// Attempts that count against the retry limit.
    pub failures: u32,
    /// When a waiting retry, or what is parked, becomes ready.
    pub retry: Option<Tick>,
    /// Ended attempts, oldest first.
    pub attempts: &'a [EndedAttempt],
    /// Sum over all ended attempts.
    pub usage: &'a Usage,
    /// Since when it is in its state.
    pub since: Tick,
    /// Agents on which an attempt crashed.
    pub crashed_on: &'a [Arc<str>],
    /// Times it was sent back.
    pub repairs: u32,
    /// Attempts up to this one leave nothing to go on with: somebody had the run go back to the task.
    pub afresh: AttemptNo,
    /// Why it ended, when no ended attempt says so.
    pub note: Option<&'a Arc<str>>,
    /// The limit it waits for while it is parked.
    pub parked: Option<&'a LimitHit>,
    /// What the current attempt was promised that it may spend.
    pub allowed: Spent,
    /// The pool whose budgets that counts against, if any is known.
    pub pool: Option<&'a Arc<str>>,
    /// What attempts that ended without a bill may have spent.
    pub open: Vec<OpenBill>,
}

impl TaskRecordView<'_> {
    /// The same as owned data, as a restore takes it.
    #[must_use]
    pub fn to_progress(&self) -> TaskProgress {
        TaskProgress {
            state: self.state,
            attempt: self.attempt,
            agent: self.agent.cloned(),
            granted: self.granted,
            finished: self.finished,
            outcome: self.outcome,
            crashes: self.crashes,
            failures: self.failures,
            retry: self.retry,
            attempts: self.attempts.to_vec(),
            usage: self.usage.clone(),
            since: self.since,
            crashed_on: self.crashed_on.to_vec(),
            repairs: self.repairs,
            afresh: self.afresh,
            note: self.note.cloned(),
            parked: self.parked.cloned(),
            allowed: self.allowed,
            pool: self.pool.cloned(),
            open: self.open.clone(),
        }
    }
}

/// What an agent's record says now. What the core does not decide by (version, host) the driver keeps itself.
#[derive(Debug)]
pub struct AgentRecordView<'a> {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub name: &'a Arc<str>,
    /// Slots.
    pub slots: u32,
    /// What it said it offers, sorted, `runner=…` included.
    pub capabilities: &'a [Arc<str>],
    /// Last heard.
    pub last_seen: Wall,
    /// Capabilities that an operator added, sorted.
    pub labels: &'a [Arc<str>],
    /// Keys of its own that an operator hides, sorted.
    pub hidden: &'a [Arc<str>],
    /// Why an operator drains it.
    pub drain: Option<&'a Arc<str>>,
    /// Why it is in quarantine.
    pub quarantine: Option<&'a Arc<str>>,
}

/// What the driver needs of a grant, to read the spec and to write the assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantView {
    /// Whose.
    pub tenant: TenantId,
    /// Name and number of the run.
    pub run_ref: Arc<str>,
    /// Number of tasks of the run.
    pub task_count: u32,
    /// Name within the run.
    pub task_id: Arc<str>,
    /// Worker name, `command` or `noop`.
    pub worker: Arc<str>,
    /// Agent.
    pub agent: Arc<str>,
    /// Limit of the attempt.
    pub timeout: Span,
    /// What to do when the agent is lost.
    pub on_loss: OnLoss,
    /// Epoch of the coordinator.
    pub epoch: Epoch,
    /// An attempt before it was sent back, and the task did not end since: its record says with what.
    pub sent_back: bool,
    /// The attempt in whose conversation it may go on, if it was not sent back.
    pub interrupted: Option<EndedAttempt>,
    /// What it may spend from the start; `None` where no budget over more than the task applies.
    pub allowance: Option<crate::budgets::Allowance>,
    /// What becomes of its own budget, if that is as much as its run was submitted with.
    pub own_budget: Option<crate::budgets::OwnBudget>,
}

/// Why a state could not be restored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RestoreError {
    /// Two records of one run.
    #[error("run {0} was restored twice")]
    RunTwice(RunId),
    /// Two runs with one name and number.
    #[error("runs {first} and {second} have the same name and number")]
    NumberTwice {
        /// One.
        first: RunId,
        /// The other.
        second: RunId,
    },
    /// A run that is not terminal has fewer or more tasks than its record says.
    #[error("run {run} has {found} tasks, its record says {expected}")]
    TaskCount {
        /// The run.
        run: RunId,
        /// Tasks handed in.
        found: usize,
        /// Tasks of the record.
        expected: u32,
    },
    /// A dependency that does not exist, or a circle.
    #[error("the graph of run {0} is damaged")]
    Graph(RunId),
    /// A task's record contradicts itself.
    #[error("task {task} is {state} without {missing}")]
    Task {
        /// The task.
        task: TaskKey,
        /// Its state.
        state: TaskState,
        /// What such a task must have.
        missing: &'static str,
    },
    /// What was built from the records breaks a rule of the state.
    #[error("the restored state breaks a rule: {0}")]
    Invariant(String),
}
