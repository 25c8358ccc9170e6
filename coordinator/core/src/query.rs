//! Questions about live state and their answers, as plain data. An answer is a copy: it leaves the core.
//! Knows what is in the state; payloads (prompts, answers) are the driver's to read from the store.

use crate::budgets::BudgetView;
use crate::event::{Role, Shape, Target};
use crate::ids::{RunId, TaskIndex, TenantId};
use crate::limits::PoolView;
use crate::outcome::Outcome;
use crate::state::{RunState, TaskState};
use crate::time::{Span, Tick, Wall};
use crate::usage::Usage;
use std::sync::Arc;

mod refusal;

pub use self::refusal::Refusal;

/// A question.
#[derive(Debug, Clone)]
pub enum Query {
    /// One run.
    Run(Target),
    /// Runs of the tenant in state, newest first, below a run id.
    Runs {
        /// Only below this id; `None` starts at the newest.
        below: Option<RunId>,
        /// At most this many.
        limit: usize,
        /// Only these states; empty means all.
        states: Vec<RunState>,
        /// Only this name.
        name: Option<Arc<str>>,
    },
    /// Tasks of a run from an index on.
    Tasks {
        /// The run.
        target: Target,
        /// First index.
        from: TaskIndex,
        /// At most this many.
        limit: usize,
        /// Only these states; empty means all.
        states: Vec<TaskState>,
    },
    /// One task.
    Task(Target),
    /// Why a task is where it is.
    Explain(Target),
    /// Agents by name, after a name.
    Agents {
        /// Only after this name.
        after: Option<Arc<str>>,
        /// At most this many.
        limit: usize,
    },
    /// One agent, by name.
    Agent(Arc<str>),
    /// Tasks that ended as poison: newest run first, from a place on.
    Dead {
        /// The first run, and the first task of it.
        from: (RunId, TaskIndex),
        /// Runs are looked at until so many tasks are found.
        limit: usize,
    },
    /// The coordinator in figures.
    Status,
    /// What only payloads tell, oldest run first.
    Questions {
        /// At most this many.
        limit: usize,
    },
    /// Pools and their limits; one of them, or all.
    Limits(Option<Arc<str>>),
    /// Standing budgets, and where `true` those of runs that are not ended.
    Budgets(bool),
    /// Whether a plan was answered under this request id already.
    Decision {
        /// The id.
        request_id: Arc<str>,
        /// Digest of the request.
        digest: [u8; 32],
    },
}

/// Something that only payloads tell. Asked again after every start until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// About which task.
    pub task: crate::ids::TaskKey,
    /// Its latest attempt; 0 before the first.
    pub attempt: crate::ids::AttemptNo,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub kind: QuestionKind,
    /// Times it may still be sent back.
    pub repairs_left: u32,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuestionKind {
    /// Whether its conditions hold. Answers: `Run`, `Skip`.
    Conditions,
    /// Whether its result is a plan that can be run. Answers: `Expand`, `Hold`, `Accept` (only planned), `SendBack`, `Refuse`.
    Plan,
    /// What the review says of it. Answers: `Accept`, `SendBack`, `Refuse`.
    Review {
        /// The review task, which succeeded.
        by: TaskIndex,
    },
}

/// An answer, to a question or to a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A submit went in, or was known.
    Submitted {
        /// The run; `None` when only validated. One that is known and no longer live has only its id, ref, state,
        /// submitter and number of tasks: the rest is in the store.
        run: Option<RunView>,
        /// Whether the request id was known.
        existing: bool,
        /// Tasks that no known agent could run, at most 100.
        impossible: Vec<Impossible>,
    },
    /// Tasks were cancelled.
    Cancelled {
        /// The run afterwards.
        run: RunView,
        /// How many.
        count: u32,
    },
    /// Tasks were queued again.
    Retried {
        /// The run afterwards. When `existing` and it is no longer live, only as much as in [`Answer::Submitted`].
        run: RunView,
        /// How many; when `existing`, by the first request.
        count: u32,
        /// Whether the request id was known: nothing was queued now.
        existing: bool,
    },
    /// One run.
    Run(RunView),
    /// A page of runs.
    Runs(Vec<RunView>),
    /// A page of tasks, and the run.
    Tasks {
        /// The run.
        run: RunView,
        /// The tasks.
        tasks: Vec<TaskView>,
    },
    /// One task, and its run.
    Task {
        /// The run.
        run: RunView,
        /// The task.
        task: TaskView,
    },
    /// Why a task is where it is.
    Explained {
        /// The run.
        run: RunView,
        /// The task.
        task: TaskView,
        /// One sentence.
        summary: String,
        /// Everything that was looked at.
        reasons: Vec<Reason>,
        /// No known agent can ever run it as things stand.
        impossible: bool,
    },
    /// A page of agents.
    Agents(Vec<AgentView>),
    /// One agent, asked for or changed.
    Agent(AgentView),
    /// Runs that have tasks which ended as poison, newest first.
    Dead(Vec<DeadView>),
    /// The agent is known no more.
    Forgotten,
    /// The coordinator in figures.
    Status(StatusView),
    /// What only payloads tell.
    Questions(Vec<Question>),
    /// A plan was answered, now or under the same request id before.
    Decided {
        /// The run afterwards. When it is no longer live, only as much as in [`Answer::Submitted`].
        run: RunView,
    },
    /// Pools and their limits.
    Limits(Vec<PoolView>),
    /// Budgets.
    Budgets(Vec<BudgetView>),
    /// A standing budget is in force.
    BudgetSet {
        /// The budget.
        view: BudgetView,
        /// Whether it replaced one.
        replaced: bool,
    },
    /// A standing budget is no longer in force.
    BudgetRemoved,
    /// No plan was answered under that request id.
    Undecided,
    /// Refused.
    Refused(Refusal),
}

/// A task that no known agent could run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impossible {
    /// Its name within the run.
    pub task_id: Arc<str>,
    /// In plain English: the requirement that nobody offers.
    pub reason: String,
}

/// A run, seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunView {
    /// Its id.
    pub id: RunId,
    /// Whose.
    pub tenant: TenantId,
    /// `name/number`.
    pub run_ref: Arc<str>,
    /// State.
    pub state: RunState,
    /// Submitted.
    pub created: Wall,
    /// Ended.
    pub finished: Option<Wall>,
    /// Number of tasks by state, only those above 0.
    pub counts: Vec<(TaskState, u32)>,
    /// Number of tasks.
    pub task_count: u32,
    /// Spent so far.
    pub usage: Usage,
    /// Labels.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Who submitted it.
    pub submitted_by: Arc<str>,
    /// Outcome that decided it, when it did not succeed.
    pub outcome: Option<Outcome>,
    /// Tasks that no known agent could run, at most 10.
    pub impossible: Vec<Impossible>,
    /// How its tasks go together.
    pub shape: Shape,
    /// Why it is in its state where its tasks do not say it, or empty.
    pub detail: Arc<str>,
    /// Its budget, while it is live.
    pub budget: Option<BudgetView>,
}

/// A task, seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    /// Its index.
    pub index: TaskIndex,
    /// Its name within the run.
    pub id: Arc<str>,
    /// State.
    pub state: TaskState,
    /// Worker name, `command` or `noop`.
    pub worker: Arc<str>,
    /// Names of its dependencies.
    pub dependencies: Vec<Arc<str>>,
    /// Latest attempt; 0 before the first.
    pub attempt: u32,
    /// Agent of it, or empty.
    pub agent: Arc<str>,
    /// Outcome, once terminal.
    pub outcome: Option<Outcome>,
    /// In plain English, or empty.
    pub detail: Arc<str>,
    /// Latest grant.
    pub granted: Option<Wall>,
    /// Ended.
    pub finished: Option<Wall>,
    /// Length of the latest attempt, as far as known.
    pub execution_time: Option<Span>,
    /// Spent so far.
    pub cost_micro_usd: u64,
    /// When a waiting retry, or what is parked, becomes ready: from now.
    pub retry_in: Option<Span>,
    /// Priority.
    pub priority: i32,
    /// How long it has been in its state.
    pub since: Span,
    /// What it is for.
    pub role: Role,
    /// Name of the task that a review or publication belongs to.
    pub of: Option<Arc<str>>,
    /// Times it was sent back.
    pub repairs: u32,
}

/// A run that has tasks which ended as poison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadView {
    /// Its id.
    pub run: RunId,
    /// How many it has.
    pub count: u32,
    /// The run and those of the tasks that were asked for, while it is live; of any other the store tells.
    pub live: Option<(RunView, Vec<TaskView>)>,
}

/// One line of an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Stable word.
    pub kind: &'static str,
    /// Does not hold the task back.
    pub satisfied: bool,
    /// In plain English.
    pub text: String,
    /// A command line that would remove it, when there is one.
    pub help: Option<String>,
    /// How long it will go on, from now, where that is known.
    pub left: Option<Span>,
}

/// State of an agent, seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AgentStateView {
    /// Connected and taking work.
    Ready,
    /// Connected and taking no new work.
    Draining,
    /// Silent; its work is not yet requeued.
    Unreachable,
    /// Away and without work.
    Offline,
    /// Connected and given no new work, because too much crashed there.
    Quarantined,
}

/// An agent, seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its name.
    pub name: Arc<str>,
    /// State.
    pub state: AgentStateView,
    /// Slots.
    pub slots: u32,
    /// Slots in use: leases, never a counter.
    pub slots_used: u32,
    /// Capabilities, as tasks are matched with them.
    pub capabilities: Vec<Arc<str>>,
    /// Those of them that an operator added, sorted.
    pub labels: Vec<Arc<str>>,
    /// Keys of its own that an operator hides, sorted.
    pub hidden: Vec<Arc<str>>,
    /// Why an operator drains it.
    pub drain: Option<Arc<str>>,
    /// Why it is in quarantine.
    pub quarantine: Option<Arc<str>>,
    /// Refs of the tasks it runs, at most 20.
    pub running: Vec<String>,
    /// Last heard.
    pub last_seen: Wall,
    /// When its work will be requeued, if it stays silent.
    pub requeue_in: Option<Span>,
}

/// The coordinator, seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusView {
    /// Ready and waiting.
    pub queued: u64,
    /// Waiting for dependencies.
    pub blocked: u64,
    /// Leased or running.
    pub running: u64,
    /// Waiting for a retry.
    pub waiting_retry: u64,
    /// Parked until a limit is reset.
    pub parked: u64,
    /// How long the oldest ready task has waited.
    pub oldest_wait: Option<Span>,
    /// Runs that are not terminal.
    pub active_runs: u64,
    /// Slots of connected agents.
    pub slots: u32,
    /// Slots in use.
    pub slots_used: u32,
    /// Agents: ready, draining, unreachable, offline, in quarantine.
    pub agents: [u32; 5],
    /// Identities that two processes use at once, and that are refused for now.
    pub cloned: Vec<Arc<str>>,
    /// Tasks that ended as poison and were not tried again since.
    pub dead: u64,
    /// Shutting down.
    pub draining: bool,
    /// Newest event.
    pub event_seq: u64,
    /// Tasks that no known agent could run.
    pub impossible: u64,
    /// Tick of the answer.
    pub tick: Tick,
    /// The newest run of all; 0 before the first.
    pub last_run: RunId,
    /// What attempts that run now have spent, as far as their agents said; in millionths of a US dollar.
    pub running_micro_usd: u64,
    /// What ready tasks wait for.
    pub demand: DemandView,
}

/// What ready tasks wait for, each counted once. Their sum is the number of those that are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DemandView {
    /// Another slot that fits would start them.
    pub pending_slots: u64,
    /// Every pool they could use is used up, fails or is asked for more than it gives.
    pub limits: u64,
    /// A standing budget over them is used up.
    pub budgets: u64,
    /// They belong on one agent: by name, or because it keeps their conversation.
    pub pinned: u64,
    /// No known agent offers what they need.
    pub impossible: u64,
    /// Slots of agents that take work.
    pub slots: u32,
    /// Those of them that are free.
    pub free_slots: u32,
}
