//! Sums over all live runs, and how fast tasks come to their end.
//! Knows no task; whoever changes one says so.

use crate::ids::TenantId;
use crate::task::TaskState;
use crate::time::{Span, Tick};
use std::collections::BTreeMap;

/// Sums over all live runs.
#[derive(Debug, Default, Hash)]
pub(crate) struct Totals {
    /// By state of tasks.
    pub(crate) tasks: [u64; TaskState::ALL.len()],
    /// Tasks that are not terminal, of tenants that have some.
    tenants: BTreeMap<TenantId, u64>,
    /// Runs that are not terminal.
    pub(crate) active_runs: u64,
    pace: Pace,
}

impl Totals {
    /// A task came into the state.
    pub(crate) fn enter(&mut self, tenant: TenantId, to: TaskState) {
        self.tasks[to as usize] += 1;
        if !to.is_terminal() {
            *self.tenants.entry(tenant).or_default() += 1;
        }
    }

    /// A task left the state.
    pub(crate) fn leave(&mut self, tenant: TenantId, from: TaskState) {
        self.tasks[from as usize] -= 1;
        if from.is_terminal() {
            return;
        }
        if let Some(active) = self.tenants.get_mut(&tenant) {
            *active = active.saturating_sub(1);
            if *active == 0 {
                self.tenants.remove(&tenant);
            }
        }
    }

    /// A task changed its state.
    pub(crate) fn change(&mut self, tenant: TenantId, from: TaskState, to: TaskState, now: Tick) {
        self.leave(tenant, from);
        self.enter(tenant, to);
        if to.is_terminal() {
            self.pace.note(now);
        }
    }

    pub(crate) fn active_tasks(&self) -> u64 {
        TaskState::ALL
            .iter()
            .filter(|state| !state.is_terminal())
            .map(|state| self.tasks[*state as usize])
            .sum()
    }

    /// Tasks of a tenant that are not terminal.
    pub(crate) fn active_of(&self, tenant: TenantId) -> u64 {
        self.tenants.get(&tenant).copied().unwrap_or(0)
    }

    /// Tenants that have tasks that are not terminal, and how many.
    pub(crate) fn tenants(&self) -> &BTreeMap<TenantId, u64> {
        &self.tenants
    }

    /// How long it takes until so many tasks more have ended, if it goes on as in the last minute: between a second and a
    /// minute, which is also the answer when nothing ends.
    pub(crate) fn time_for(&self, count: u64, now: Tick) -> Span {
        self.pace.time_for(count, now)
    }
}

const MINUTE: u64 = 60_000;

/// Tasks that ended, by the minute.
#[derive(Debug, Default, Hash)]
struct Pace {
    minute: u64,
    ended: u64,
    before: u64,
}

impl Pace {
    fn note(&mut self, now: Tick) {
        let minute = now.0 / MINUTE;
        if minute != self.minute {
            let next = minute == self.minute + 1;
            *self = Self { minute, ended: 0, before: if next { self.ended } else { 0 } };
        }
        self.ended += 1;
    }

    fn time_for(&self, count: u64, now: Tick) -> Span {
        let a_minute = match (now.0 / MINUTE).saturating_sub(self.minute) {
            0 => self.ended.max(self.before),
            1 => self.ended,
            _ => 0,
        };
        let needed = count.saturating_mul(MINUTE).checked_div(a_minute).unwrap_or(MINUTE);
        Span(needed.clamp(1_000, MINUTE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_refused_is_told_to_wait_as_long_as_it_takes_at_the_present_pace() {
        let mut totals = Totals::default();
        let one = TenantId(1);
        let at = |seconds: u64| Tick(600_000 + seconds * 1_000);
        for _ in 0..40 {
            totals.enter(one, TaskState::Queued);
        }
        assert_eq!(totals.time_for(1, at(0)), Span::seconds(60), "nothing ends");
        for second in 0..30 {
            totals.change(one, TaskState::Queued, TaskState::Cancelled, at(second));
        }
        assert_eq!(totals.time_for(5, at(30)), Span::seconds(10));
        assert_eq!(totals.time_for(5, at(60)), Span::seconds(10), "the minute before counts");
        assert_eq!(totals.time_for(0, at(60)), Span::seconds(1));
        assert_eq!(totals.time_for(1_000_000, at(60)), Span::seconds(60));
        assert_eq!(totals.time_for(5, at(120)), Span::seconds(60), "nothing ended in the last minute");
        assert_eq!((totals.active_of(one), totals.active_tasks()), (10, 10));
    }
}
