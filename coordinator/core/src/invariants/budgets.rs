//! Rules about budgets: nothing is reserved that nobody may spend.

use super::{Violation, rule};
use crate::ids::AttemptKey;
use crate::state::{Phase, State};

pub(super) fn reservations(state: &State) -> Result<(), Violation> {
    let wrong = state.budgets.inconsistency();
    rule("budgets", wrong.is_none(), || wrong.clone().unwrap_or_default())?;
    for (key, hold) in &state.budgets.holds {
        let lease = |task: crate::ids::TaskKey| {
            let agent = state.task(task)?.agent?;
            state.agents.get(agent).leases.get(&task).map(|lease| lease.attempt)
        };
        let live = lease(key.task) == Some(key.attempt);
        let open = hold.ended.is_some();
        rule("budgets", live != open, || format!("{key} reserves {hold:?}, live: {live}"))?;
        rule("budgets", !open || may_be_open(state, *key), || format!("{key} reserves for no bill"))?;
    }
    let settled = state.budgets.touched.is_empty() || state.phase == Phase::Loading;
    rule("budgets", settled, || "a budget is still to be looked at")?;
    let due = state.budgets.ends.first().map(|(at, _)| *at);
    let late = due.is_some_and(|due| state.budgets.armed.is_none_or(|at| at > due));
    rule("budgets", !late || state.phase == Phase::Loading, || "an open bill is never given up")
}

/// An attempt that its task has no room to remember may still have spent.
fn may_be_open(state: &State, key: AttemptKey) -> bool {
    state.task(key.task).is_some_and(|task| {
        let ended = task.attempts().iter().find(|ended| ended.number == key.attempt);
        key.attempt <= task.attempt && ended.is_none_or(|ended| ended.awaits_bill)
    })
}
