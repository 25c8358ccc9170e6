//! Why a request was refused, in words for people.
//! Knows what only the state tells; payload sizes and names were checked before.

use crate::time::Span;

/// Why a request was refused. Payload sizes and names were checked before; this is what only the state knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The run is not in the state. It may be in the store.
    #[error("there is no such run here")]
    RunNotLive,
    /// The run has no such task.
    #[error("run {run_ref} has no task `{task}`")]
    NoSuchTask {
        /// The run.
        run_ref: String,
        /// The name asked for.
        task: String,
        /// The nearest names, best first.
        nearest: Vec<String>,
    },
    /// No agent of that name ever joined.
    #[error("there is no agent `{agent}`")]
    NoSuchAgent {
        /// The name asked for.
        agent: String,
        /// The nearest names, best first.
        nearest: Vec<String>,
    },
    /// What operators added to and hide of one agent is too much.
    #[error("labels and hidden keys of agent {agent} would have {bytes} bytes together; at most {limit}")]
    TooManyLabels {
        /// The agent.
        agent: String,
        /// How many bytes it would be.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The target is a run of several tasks and a task was needed.
    #[error("run {run_ref} has {tasks} tasks: name one of them")]
    TaskNeeded {
        /// The run.
        run_ref: String,
        /// How many it has.
        tasks: u32,
    },
    /// The request id was used with another spec.
    #[error("request id `{request_id}` was used for run {run_ref} with another content")]
    RequestIdConflict {
        /// The id.
        request_id: String,
        /// The run it made.
        run_ref: String,
    },
    /// Tasks wait for each other.
    #[error("tasks wait for each other: {}", .path.join(" -> "))]
    Cycle {
        /// The circle, first id repeated at the end.
        path: Vec<String>,
    },
    /// Too many distinct requirement sets.
    #[error("{limit} different sets of requirements are queued already")]
    TooManyClasses {
        /// The limit.
        limit: usize,
    },
    /// The queue is full.
    #[error("{limit} tasks are queued already")]
    QueueFull {
        /// The limit.
        limit: usize,
        /// How long it may take until there is room.
        retry_in: Span,
    },
    /// The tenant has its share of the queue.
    #[error("{limit} tasks are queued already, which is all that one tenant may have")]
    TenantFull {
        /// The limit.
        limit: usize,
        /// How long it may take until there is room.
        retry_in: Span,
    },
    /// The coordinator is shutting down.
    #[error("the coordinator is shutting down")]
    Draining,
    /// There is no budget of that name.
    #[error("there is no budget `{name}`")]
    NoSuchBudget {
        /// The name asked for.
        name: String,
    },
    /// A budget has no room for another run.
    #[error("{detail}")]
    OverBudget {
        /// Which, and how far it is used.
        detail: String,
        /// When it begins anew, from now.
        retry_in: Option<Span>,
    },
    /// There are as many budgets as there may be.
    #[error("there are {limit} budgets already")]
    TooManyBudgets {
        /// The limit.
        limit: usize,
    },
    /// The run does not wait for a person's word on its plan.
    #[error("run {run_ref} is {state}: it does not wait for a plan to be approved")]
    NotWaiting {
        /// The run.
        run_ref: String,
        /// In what state it is.
        state: String,
    },
    /// Tasks that cannot join a run: whoever compiled the plan made a mistake, or it is too large.
    #[error("the plan cannot be carried out: {detail}")]
    BadPlan {
        /// What is wrong.
        detail: String,
    },
    /// Nothing to do in this state.
    #[error("{what} is {state}: {hint}")]
    WrongState {
        /// Which.
        what: String,
        /// In what state.
        state: String,
        /// What could be done.
        hint: String,
    },
}
