//! What waits for time, in one ordered set.
//! Knows no clock and no meaning; [`crate::machine`] does what is due.

use crate::ids::{AgentKey, TaskKey};
use crate::time::Tick;
use std::collections::BTreeSet;

/// What to look at. Agents have one timer of each kind, tasks only one while they wait for a retry: leases, accept
/// deadlines and waits for a warm agent are looked up at their agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timer {
    /// Was the agent heard?
    Silence(AgentKey),
    /// Is a lease of the agent over?
    Leases(AgentKey),
    /// Has a task waited long enough for this agent?
    Warm(AgentKey),
    /// May the agent be tried again for a class it rejected?
    Avoid(AgentKey),
    /// The task may be tried again, or goes on after a limit.
    Retry(TaskKey),
    /// Something about rate limits is due.
    Limits,
    /// Does a budget begin anew, or is an open bill given up?
    Budgets,
}

/// All timers.
#[derive(Debug, Default, Hash)]
pub(crate) struct Timers {
    due: BTreeSet<(Tick, Timer)>,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Tick, timer: Timer) {
        self.due.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, at: Tick, timer: Timer) {
        self.due.remove(&(at, timer));
    }

    /// Moves a timer that is remembered in `slot`.
    pub(crate) fn rearm(&mut self, slot: &mut Option<Tick>, timer: Timer, want: Option<Tick>) {
        if *slot == want {
            return;
        }
        if let Some(at) = *slot {
            self.clear(at, timer);
        }
        if let Some(at) = want {
            self.set(at, timer);
        }
        *slot = want;
    }

    pub(crate) fn first(&self) -> Option<Tick> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the first timer that is due.
    pub(crate) fn pop_due(&mut self, now: Tick) -> Option<Timer> {
        let (at, timer) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        Some(timer)
    }

    pub(crate) fn contains(&self, at: Tick, timer: Timer) -> bool {
        self.due.contains(&(at, timer))
    }

    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}
