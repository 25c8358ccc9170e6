//! A task: its states, which of them may follow which, and the skeleton that is kept of it in memory.
//! Knows nothing of queues, agents and graphs; payloads stay with the driver.
//!
//! | From | To | When |
//! |---|---|---|
//! | blocked | queued | every dependency did what it had to, conditions hold, and the run has room |
//! | blocked | cancelled | somebody cancelled the run or the task |
//! | blocked | skipped | a dependency, or what it waits for, did not succeed; its conditions do not hold; there is nothing to do |
//! | queued | leased | granted to an agent |
//! | queued | failed | the budget of the run is used up |
//! | queued | cancelled | somebody cancelled the run or the task |
//! | leased | running | the agent accepted |
//! | leased | queued | the agent rejected, did not accept in time, or was lost |
//! | leased, running | succeeded | a report said `ok` |
//! | leased, running | verifying | a report of a plan, or of what a review judges, said `ok` |
//! | leased, running | queued | a report said that gates failed, and repairs are left |
//! | verifying | succeeded | the result holds |
//! | verifying | queued | the result does not hold, and repairs are left |
//! | verifying | failed | the result does not hold, or could not be judged |
//! | verifying | cancelled | somebody cancelled the run or the task |
//! | leased, running | waiting_retry | a report gave a retryable outcome and retries are left |
//! | leased, running | parked | a report said that a window of a credential's limits is used up |
//! | parked | queued | the window is reset, or somebody did not want to wait |
//! | parked | cancelled | somebody cancelled the run or the task |
//! | leased, running | failed | a report gave another outcome, or the task is poison |
//! | leased, running | cancelled | somebody cancelled the run or the task |
//! | running | queued | the agent was lost |
//! | waiting_retry | queued | the delay is over, or somebody did not want to wait |
//! | waiting_retry, parked | failed | the budget of the run is used up |
//! | waiting_retry | cancelled | somebody cancelled the run or the task |
//! | failed, cancelled, skipped | queued, blocked | somebody asked for another try |
//! | succeeded | queued, blocked | somebody had the run go back to it, or to what it waits for; a review: its task is judged again |
//!
//! [`TaskState::may_become`] is this table;
//! `docs/states.md` is compared with it by a test.

use crate::config::Config;
use crate::event::{After, Flow, OnLoss, Role};
use crate::graph::Graph;
use crate::ids::{AgentKey, AttemptNo, ClassId, TaskIndex};
use crate::limits::LimitHit;
use crate::names::NameId;
use crate::outcome::Outcome;
use crate::state::record::EndedAttempt;
use crate::time::{Now, Span, Tick, Wall};
use crate::usage::Usage;
use std::fmt;
use std::sync::Arc;

/// Life of a task, as stored. Terminal states are absorbing, but for a person who asks for another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TaskState {
    /// Waits for its dependencies.
    Blocked,
    /// Ready; waits for an agent.
    Queued,
    /// Granted to an agent, which has not yet accepted.
    Leased,
    /// Accepted and running on an agent.
    Running,
    /// The work ended; its result is being judged, by a review or by what a plan must keep to.
    Verifying,
    /// An attempt ended in a retryable outcome; the next starts after a delay.
    WaitingRetry,
    /// The conversation was interrupted by a limit and has a wake time.
    Parked,
    /// Done.
    Succeeded,
    /// No further attempt will be made.
    Failed,
    /// Cancelled before or while it ran.
    Cancelled,
    /// Never run, because a dependency did not succeed.
    Skipped,
}

impl TaskState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Blocked,
        Self::Queued,
        Self::Leased,
        Self::Running,
        Self::Verifying,
        Self::WaitingRetry,
        Self::Parked,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Skipped,
    ];

    /// Whether nothing but a person's retry leaves it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped => true,
            Self::Blocked
            | Self::Queued
            | Self::Leased
            | Self::Running
            | Self::Verifying
            | Self::WaitingRetry
            | Self::Parked => false,
        }
    }

    /// Whether `next` may follow. A state never follows itself.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Blocked => matches!(next, Self::Queued | Self::Cancelled | Self::Skipped),
            Self::Queued => matches!(next, Self::Leased | Self::Failed | Self::Cancelled),
            Self::Leased => matches!(
                next,
                Self::Running
                    | Self::Queued
                    | Self::Verifying
                    | Self::WaitingRetry
                    | Self::Parked
                    | Self::Succeeded
                    | Self::Failed
                    | Self::Cancelled
            ),
            Self::Running => matches!(
                next,
                Self::Queued
                    | Self::Verifying
                    | Self::WaitingRetry
                    | Self::Parked
                    | Self::Succeeded
                    | Self::Failed
                    | Self::Cancelled
            ),
            Self::Verifying => {
                matches!(next, Self::Queued | Self::Succeeded | Self::Failed | Self::Cancelled)
            }
            Self::WaitingRetry | Self::Parked => {
                matches!(next, Self::Queued | Self::Failed | Self::Cancelled)
            }
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped => {
                matches!(next, Self::Queued | Self::Blocked)
            }
        }
    }

    /// Whether it takes one of the places that a run has at once: from when it is queued until it ended. A task that is
    /// judged keeps its place, and its review uses it.
    pub(crate) const fn takes_place(self) -> bool {
        match self {
            Self::Queued
            | Self::Leased
            | Self::Running
            | Self::Verifying
            | Self::WaitingRetry
            | Self::Parked => true,
            Self::Blocked | Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped => false,
        }
    }

    /// Whether it is queued again when a time has come.
    pub(crate) const fn waits_for_time(self) -> bool {
        matches!(self, Self::WaitingRetry | Self::Parked)
    }

    /// Whether an agent holds it.
    #[must_use]
    pub const fn is_held(self) -> bool {
        match self {
            Self::Leased | Self::Running => true,
            Self::Blocked
            | Self::Queued
            | Self::Verifying
            | Self::WaitingRetry
            | Self::Parked
            | Self::Succeeded
            | Self::Failed
            | Self::Cancelled
            | Self::Skipped => false,
        }
    }

    /// The word of the state.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Verifying => "verifying",
            Self::WaitingRetry => "waiting_retry",
            Self::Parked => "parked",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How many tasks are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TaskCounts([u32; TaskState::ALL.len()]);

impl TaskCounts {
    /// The number of tasks in `state`.
    #[must_use]
    pub const fn get(&self, state: TaskState) -> u32 {
        self.0[state as usize]
    }

    /// States that have tasks, in order.
    pub fn iter(&self) -> impl Iterator<Item = (TaskState, u32)> + '_ {
        TaskState::ALL.iter().map(|state| (*state, self.get(*state))).filter(|(_, count)| *count > 0)
    }
}

impl TaskCounts {
    pub(crate) fn enter(&mut self, state: TaskState) {
        self.0[state as usize] += 1;
    }

    pub(crate) fn leave(&mut self, state: TaskState) {
        debug_assert!(self.0[state as usize] > 0, "nothing is {state}");
        self.0[state as usize] = self.0[state as usize].saturating_sub(1);
    }

    /// Tasks that are not terminal.
    pub(crate) fn active(&self) -> u32 {
        self.iter().filter(|(state, _)| !state.is_terminal()).map(|(_, count)| count).sum()
    }
}

/// What is kept of a task in memory: 300 bytes at most with its name and queue entries, see the test below.
#[derive(Debug, Hash)]
pub(crate) struct Task {
    /// Name within the run.
    pub(crate) id: Arc<str>,
    /// What happened so far; absent until the first attempt ended.
    pub(crate) history: Option<Box<History>>,
    pub(crate) timeout: Span,
    /// Since when it is in its state.
    pub(crate) since: Tick,
    /// The latest grant.
    pub(crate) granted: Now,
    /// When a waiting retry, or what is parked, becomes ready; meaningless in other states.
    pub(crate) retry: Tick,
    /// When it became terminal.
    pub(crate) finished: Option<Wall>,
    pub(crate) worker: NameId,
    pub(crate) class: ClassId,
    pub(crate) priority: i32,
    pub(crate) retries: u32,
    /// Dependencies that did not do yet what they have to ([`is_met`]).
    pub(crate) unmet: u32,
    /// Latest attempt; rises with every grant and never falls.
    pub(crate) attempt: AttemptNo,
    /// Agent of the latest attempt.
    pub(crate) agent: Option<AgentKey>,
    pub(crate) crashes: u32,
    pub(crate) failures: u32,
    /// Times it was sent back since it was submitted or somebody asked for another try.
    pub(crate) repairs: u32,
    /// Levels it was raised by waiting.
    pub(crate) level: u32,
    /// What its author expects it to cost, in ten thousandths of a dollar; 0 when nothing was said.
    pub(crate) expected: u32,
    /// Where it waits.
    pub(crate) place: Place,
    pub(crate) state: TaskState,
    pub(crate) on_loss: OnLoss,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) flow: Flow,
}

/// Whether a dependency did what a task of that flow waits for.
pub(crate) const fn is_met(flow: Flow, dependency: TaskIndex, state: TaskState) -> bool {
    match (flow.after, state) {
        (_, TaskState::Succeeded) => true,
        (After::Success, TaskState::Verifying) => judges(flow, dependency),
        (After::End, _) => state.is_terminal(),
        (After::Success, _) => false,
    }
}

/// Whether a task of that flow is the review of `task`.
pub(crate) const fn judges(flow: Flow, task: TaskIndex) -> bool {
    matches!((flow.role, flow.of), (Role::Review, Some(of)) if of.0 == task.0)
}

/// The queue a task waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// None: it is not queued.
    Nowhere,
    /// That of its class.
    Class,
    /// That of the agent that keeps its conversation.
    Warm(AgentKey),
}

/// What happened to a task so far.
#[derive(Debug, Default, Hash)]
pub(crate) struct History {
    /// Ended attempts, oldest first, the latest few.
    pub(crate) attempts: Vec<EndedAttempt>,
    /// Sum over all ended attempts.
    pub(crate) usage: Usage,
    /// Agents on which an attempt crashed, without repetition.
    pub(crate) crashed_on: Vec<Arc<str>>,
    /// Attempts up to this one leave nothing to go on with.
    pub(crate) afresh: AttemptNo,
    /// The limit it waits for while it is parked.
    pub(crate) parked: Option<LimitHit>,
    /// Why it is where it is, when no ended attempt says so.
    pub(crate) note: Option<Arc<str>>,
}

/// Millionths of a dollar in one unit of [`Task::expected`].
const EXPECTED_UNIT: u64 = 100;

static NOTHING_SPENT: Usage = Usage { models: Vec::new(), cost_micro_usd: 0, estimated: false };

impl Task {
    pub(crate) fn usage(&self) -> &Usage {
        self.history.as_ref().map_or(&NOTHING_SPENT, |history| &history.usage)
    }

    pub(crate) fn attempts(&self) -> &[EndedAttempt] {
        self.history.as_ref().map_or(&[], |history| &history.attempts)
    }

    /// What its author expects it to cost, rounded up to ten thousandths of a dollar; 0 when nothing was said.
    pub(crate) const fn expected_micro_usd(&self) -> u64 {
        self.expected as u64 * EXPECTED_UNIT
    }

    /// The same as it is kept.
    pub(crate) fn keep_expected(micro_usd: Option<u64>) -> u32 {
        micro_usd.map_or(0, |cost| u32::try_from(cost.div_ceil(EXPECTED_UNIT)).unwrap_or(u32::MAX))
    }

    pub(crate) fn crashed_on(&self) -> &[Arc<str>] {
        self.history.as_ref().map_or(&[], |history| &history.crashed_on)
    }

    /// The limit it waits for while it is parked.
    pub(crate) fn parked(&self) -> Option<&LimitHit> {
        self.history.as_ref()?.parked.as_ref()
    }

    pub(crate) fn history_mut(&mut self) -> &mut History {
        self.history.get_or_insert_default()
    }

    /// The ended attempt in whose conversation the next one may go on, where its agent keeps that. Not after one that
    /// came to a result that does not hold or was refused, where starting over is the point; nor when the latest ones all
    /// crashed, because then the conversation itself may be what kills them.
    pub(crate) fn interrupted(&self, config: &Config) -> Option<&EndedAttempt> {
        let history = self.history.as_ref()?;
        let rule = |ended: &EndedAttempt| config.outcomes.rule(ended.outcome);
        let mut crashes = 0;
        // An attempt that could not be started left the conversation as it was.
        let mut begun = history.attempts.iter().rev().filter(|ended| ended.outcome != Outcome::SPAWN_FAILED);
        let last = begun.clone().next()?;
        while crashes < config.poison_crashes && begun.next().is_some_and(|ended| rule(ended).counts_as_crash)
        {
            crashes += 1;
        }
        let goes_on = rule(last).goes_on && crashes < config.poison_crashes && last.number > history.afresh;
        (goes_on && last.number < self.attempt).then_some(last)
    }

    /// Gives an ended task its retries and repairs back. Attempt numbers, what was spent and the recorded result stay.
    pub(crate) fn start_over(&mut self) {
        self.outcome = None;
        self.finished = None;
        self.crashes = 0;
        self.failures = 0;
        self.repairs = 0;
        if let Some(history) = &mut self.history {
            history.crashed_on.clear();
            history.note = None;
        }
    }

    /// Counts what every task still waits for.
    pub(crate) fn count_unmet(graph: &Graph, tasks: &mut [Self]) {
        for index in (0u32..).map(TaskIndex).take(tasks.len()) {
            let flow = tasks[index.0 as usize].flow;
            let open = |at: &&TaskIndex| !is_met(flow, **at, tasks[at.0 as usize].state);
            let unmet = graph.dependencies(index).iter().filter(open).count();
            tasks[index.0 as usize].unmet = u32::try_from(unmet).unwrap_or(u32::MAX);
        }
    }

    /// Why it is where it is, when no ended attempt says so.
    pub(crate) fn note(&self) -> Option<&Arc<str>> {
        self.history.as_ref()?.note.as_ref()
    }

    /// The digest of the report recorded for `attempt`.
    pub(crate) fn recorded(&self, attempt: AttemptNo) -> Option<&[u8; 32]> {
        self.attempts().iter().rev().find(|ended| ended.number == attempt)?.digest.as_ref()
    }

    /// Why it is where it is: the note, or what the latest ended attempt said.
    pub(crate) fn detail(&self) -> Option<&Arc<str>> {
        let history = self.history.as_ref()?;
        history.note.as_ref().or_else(|| history.attempts.last().map(|ended| &ended.detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside the skeleton a queued task has its name (the head of an `Arc` and a short text), 4 bytes in the index of
    /// names, two ends of one dependency, and two queue entries of 28 bytes in trees that are two thirds full, which
    /// tasks that were submitted together share.
    #[test]
    fn a_queued_task_fits_into_300_bytes() {
        let name = 16 + 16;
        let graph = 4 + 2 * 4 + 2 * 4;
        let queue_entries = 2 * 28 * 3 / 2;
        let skeleton = size_of::<Task>();
        assert!(skeleton + name + graph + queue_entries <= 300, "the skeleton has {skeleton} bytes");
    }

    #[test]
    fn terminal_states_are_left_only_by_another_try() {
        for from in TaskState::ALL.into_iter().filter(|state| state.is_terminal()) {
            for to in TaskState::ALL {
                let another_try = matches!(to, TaskState::Queued | TaskState::Blocked);
                assert_eq!(from.may_become(to), another_try, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn no_state_follows_itself() {
        assert!(TaskState::ALL.into_iter().all(|state| !state.may_become(state)));
    }

    #[test]
    fn only_queued_tasks_are_granted() {
        for from in TaskState::ALL {
            assert_eq!(from.may_become(TaskState::Leased), from == TaskState::Queued, "{from}");
        }
    }
}
