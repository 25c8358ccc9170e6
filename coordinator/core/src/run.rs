//! A run: its states and what is kept of it in memory.
//! Knows its tasks and their graph; nothing of agents and queues.
//!
//! | From | To | When |
//! |---|---|---|
//! | planning | waiting_approval | the plan holds, and a person must approve it |
//! | planning, waiting_approval | running | the plan's tasks joined it |
//! | planning | succeeded | the plan was all that was wanted |
//! | planning | failed | there is no plan that holds |
//! | waiting_approval | cancelled | the plan was rejected |
//! | running | synthesizing | only its synthesis has not ended, and is under way |
//! | synthesizing | running | somebody had the run go on with another task |
//! | running, synthesizing | succeeded | every task succeeded or was skipped; with `best_effort`: something of the work succeeded |
//! | running, synthesizing | failed | every task is terminal and one failed |
//! | any that is not terminal | cancelled | somebody cancelled it, or every task is terminal, none failed and one was cancelled |
//! | failed, cancelled | planning, waiting_approval, running | somebody asked for another try |
//! | succeeded | planning, running | somebody had it go back to one of its tasks |

use crate::budgets::Purse;
use crate::event::{Role, Shape};
use crate::graph::Graph;
use crate::ids::{TaskIndex, TenantId};
use crate::names::NameId;
use crate::outcome::Outcome;
use crate::task::{Task, TaskCounts, TaskState, judges};
use crate::time::Now;
use crate::usage::Usage;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Life of a run. Terminal states are absorbing, but for a person who asks for another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RunState {
    /// A planner task is turning the request into a graph.
    Planning,
    /// The plan waits for a person.
    WaitingApproval,
    /// Tasks are queued or running.
    Running,
    /// All tasks ended; the answer is being written.
    Synthesizing,
    /// Every task that counts succeeded.
    Succeeded,
    /// At least one task that counts did not succeed.
    Failed,
    /// Somebody asked for the end.
    Cancelled,
}

impl RunState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Planning,
        Self::WaitingApproval,
        Self::Running,
        Self::Synthesizing,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether nothing but a person's retry leaves it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Planning | Self::WaitingApproval | Self::Running | Self::Synthesizing => false,
        }
    }

    /// Whether `next` may follow. A state never follows itself.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Planning => !matches!(next, Self::Planning | Self::Synthesizing),
            Self::WaitingApproval => matches!(next, Self::Running | Self::Cancelled),
            Self::Running => !matches!(next, Self::Running | Self::Planning | Self::WaitingApproval),
            Self::Synthesizing => {
                matches!(next, Self::Running | Self::Succeeded | Self::Failed | Self::Cancelled)
            }
            Self::Succeeded => matches!(next, Self::Planning | Self::Running),
            Self::Failed | Self::Cancelled => {
                matches!(next, Self::Planning | Self::WaitingApproval | Self::Running)
            }
        }
    }

    /// The word of the state.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::WaitingApproval => "waiting_approval",
            Self::Running => "running",
            Self::Synthesizing => "synthesizing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A live run.
#[derive(Debug, Hash)]
pub(crate) struct Run {
    pub(crate) tenant: TenantId,
    pub(crate) name: NameId,
    pub(crate) number: u64,
    /// `name/number`.
    pub(crate) run_ref: Arc<str>,
    pub(crate) submitted_by: NameId,
    pub(crate) created: Now,
    pub(crate) finished: Option<Now>,
    pub(crate) state: RunState,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) labels: Box<[(Arc<str>, Arc<str>)]>,
    pub(crate) request_id: Arc<str>,
    pub(crate) spec_digest: [u8; 32],
    pub(crate) counts: TaskCounts,
    /// Sum over all ended attempts.
    pub(crate) usage: Usage,
    pub(crate) tasks: Box<[Task]>,
    pub(crate) graph: Graph,
    /// Indexes in the order of task names.
    pub(crate) by_name: Box<[TaskIndex]>,
    /// How its tasks go together.
    pub(crate) shape: Shape,
    /// Why it is in its state where its tasks do not say it, or empty.
    pub(crate) detail: Arc<str>,
    /// Tasks that take a place ([`TaskState::takes_place`]), reviews aside: they use that of what they judge.
    pub(crate) places: u32,
    /// Blocked tasks that wait for nothing but a place.
    pub(crate) waiting: BTreeSet<TaskIndex>,
    /// What it keeps of its budget.
    pub(crate) purse: Purse,
    /// Its synthesis.
    pub(crate) synthesis: Option<TaskIndex>,
}

/// Longest detail of a run, in bytes: it must fit its record.
pub(crate) const MAX_RUN_DETAIL_BYTES: usize = 400;

impl Run {
    pub(crate) fn task_count(&self) -> u32 {
        u32::try_from(self.tasks.len()).unwrap_or(u32::MAX)
    }

    /// Every index, in order.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = TaskIndex> + use<> {
        (0..self.task_count()).map(TaskIndex)
    }

    /// The task of that name.
    pub(crate) fn find(&self, id: &str) -> Option<TaskIndex> {
        let at = self.by_name.binary_search_by(|index| (*self.tasks[index.0 as usize].id).cmp(id)).ok()?;
        Some(self.by_name[at])
    }

    pub(crate) fn task(&self, index: TaskIndex) -> &Task {
        &self.tasks[index.0 as usize]
    }

    /// Whether a blocked task waits for nothing but an answer or a place. A synthesis also waits for the plan's tasks.
    pub(crate) fn is_ready(&self, index: TaskIndex) -> bool {
        let task = self.task(index);
        task.unmet == 0 && (task.flow.role != Role::Synthesis || !self.is_unplanned())
    }

    /// Whether the tasks of its plan are yet to come.
    pub(crate) fn is_unplanned(&self) -> bool {
        self.shape.planning.is_some_and(|planning| !planning.expanded)
    }

    /// Whether its planner is done and its plan was not carried out, nor will be without a person.
    pub(crate) fn is_shelved(&self) -> bool {
        self.is_unplanned() && self.tasks.first().is_some_and(|task| task.state == TaskState::Succeeded)
    }

    /// Whether that a task became ready must be recorded, because it does not follow from other records.
    pub(crate) fn records_readiness(&self, task: &Task) -> bool {
        self.shape.max_parallel > 0 || self.shape.planning.is_some() || task.flow.conditional
    }

    /// Whether another task may take a place.
    pub(crate) fn has_place(&self) -> bool {
        self.shape.max_parallel == 0 || self.places < self.shape.max_parallel
    }

    /// The review of a task.
    pub(crate) fn review_of(&self, index: TaskIndex) -> Option<TaskIndex> {
        let mut dependents = self.graph.dependents(index).iter().copied();
        dependents.find(|dependent| judges(self.task(*dependent).flow, index))
    }

    /// Whether anything of the work succeeded.
    pub(crate) fn has_success(&self) -> bool {
        let success = |task: &Task| task.flow.role == Role::Work && task.state == TaskState::Succeeded;
        self.tasks.iter().any(success)
    }

    /// Whether its synthesis is all that has not ended, and is under way.
    pub(crate) fn is_synthesizing(&self) -> bool {
        let under_way = |index: TaskIndex| self.task(index).state.takes_place();
        self.counts.active() == 1 && self.synthesis.is_some_and(under_way)
    }

    /// The first synthesis of these tasks.
    pub(crate) fn find_synthesis(tasks: &[Task]) -> Option<TaskIndex> {
        let mut indexes = (0u32..).map(TaskIndex).zip(tasks);
        indexes.find(|(_, task)| task.flow.role == Role::Synthesis).map(|(index, _)| index)
    }

    /// Tasks of these that take places.
    pub(crate) fn count_places(tasks: &[Task]) -> u32 {
        let takes = |task: &&Task| task.state.takes_place() && task.flow.role != Role::Review;
        u32::try_from(tasks.iter().filter(takes).count()).unwrap_or(u32::MAX)
    }

    /// The index [`Run::find`] searches.
    pub(crate) fn index_names(tasks: &[Task]) -> Box<[TaskIndex]> {
        let mut order: Vec<TaskIndex> = (0u32..).map(TaskIndex).take(tasks.len()).collect();
        order.sort_by(|a, b| tasks[a.0 as usize].id.cmp(&tasks[b.0 as usize].id));
        order.into()
    }
}

/// The name of a run as people write it.
pub(crate) fn run_ref(name: &str, number: u64) -> Arc<str> {
    format!("{name}/{number}").into()
}
