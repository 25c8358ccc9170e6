//! A run: its states and what is kept of it in memory.
//! Knows its tasks and their graph; nothing of agents and queues.
//!
//! | From | To | When |
//! |---|---|---|
//! | running | succeeded | every task succeeded |
//! | running | failed | every task is terminal and one failed |
//! | running | cancelled | somebody cancelled it, or every task is terminal, none failed and one was cancelled |
//! | failed, cancelled | running | somebody asked for another try |
//! | succeeded | running | somebody had it go back to one of its tasks |
//!
//! `planning`, `waiting_approval` and `synthesizing` are not entered yet.

use crate::graph::Graph;
use crate::ids::{TaskIndex, TenantId};
use crate::names::NameId;
use crate::outcome::Outcome;
use crate::task::{Task, TaskCounts};
use crate::time::Now;
use crate::usage::Usage;
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
            Self::Running => matches!(next, Self::Succeeded | Self::Failed | Self::Cancelled),
            Self::Succeeded | Self::Failed | Self::Cancelled => matches!(next, Self::Running),
            Self::Planning | Self::WaitingApproval | Self::Synthesizing => false,
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
}

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
