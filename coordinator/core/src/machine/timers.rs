//! What is due when time passes, and when that is next.

use crate::effect::Effects;
use crate::machine::{agents, budgets, leases, retention, retry};
use crate::state::{Phase, State};
use crate::time::Tick;
use crate::timers::Timer;

/// Leases that end in one event at most: the end of a whole fleet must not hold up what else is to be done.
const LOST_AT_ONCE: usize = 1_000;

/// When [`crate::event::Event::TimePassed`] is due next; `None` when nothing waits for time.
#[must_use]
pub fn next_deadline(state: &State) -> Option<Tick> {
    if state.phase == Phase::Loading {
        return None;
    }
    let timers = state.timers.first();
    timers.into_iter().chain(retention::deadline(state)).min()
}

/// Does everything that is due.
pub(super) fn passed(state: &mut State, effects: &mut Effects) {
    if state.phase == Phase::Loading {
        return;
    }
    let mut lost = 0;
    while let Some(timer) = state.timers.pop_due(state.now.tick) {
        match timer {
            Timer::Silence(agent) => leases::silence_due(state, effects, agent),
            Timer::Leases(agent) => {
                lost += leases::leases_due(state, effects, agent, LOST_AT_ONCE.saturating_sub(lost));
                // The rest is due at once, after what is waiting.
                if lost >= LOST_AT_ONCE {
                    return;
                }
            }
            Timer::Warm(agent) => agents::warm_due(state, agent),
            Timer::Avoid(agent) => agents::avoid_due(state, agent),
            Timer::Retry(task) => retry::due(state, effects, task),
            Timer::Limits => state.limits.pass(state.now.tick),
            Timer::Budgets => budgets::due(state, effects),
        }
    }
    retention::due(state, effects);
}
