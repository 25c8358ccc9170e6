//! What is due when time passes, and when that is next.

use crate::effect::Effects;
use crate::machine::{agents, leases, retention, retry};
use crate::state::{Phase, State};
use crate::time::Tick;
use crate::timers::Timer;

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
    while let Some(timer) = state.timers.pop_due(state.now.tick) {
        match timer {
            Timer::Silence(agent) => leases::silence_due(state, effects, agent),
            Timer::Leases(agent) => leases::leases_due(state, effects, agent),
            Timer::Warm(agent) => agents::warm_due(state, agent),
            Timer::Avoid(agent) => agents::avoid_due(state, agent),
            Timer::Retry(task) => retry::due(state, effects, task),
        }
    }
    retention::due(state, effects);
}
