//! What ready tasks wait for, counted: how many another slot would start, and how many it would not help.
//! Changes nothing. Costs a look at each set of requirements that has tasks waiting, and one at each run of it.

use super::fitting::impossible_reason;
use super::limits::is_held_back;
use crate::agents::{EVERYBODY, serves};
use crate::ids::TenantId;
use crate::machine::budgets::is_held;
use crate::query::{AgentStateView, DemandView};
use crate::state::State;

/// Ready tasks of everybody, each counted once under the first of what holds it; slots of the agents that `tenant` sees.
pub(super) fn demand(state: &State, tenant: TenantId) -> DemandView {
    let mut demand = DemandView::default();
    for (_, class) in state.schedule.classes.iter().filter(|(_, class)| !class.queue.is_empty()) {
        let waiting = class.queue.len() as u64;
        if impossible_reason(state, &class.key).is_some() {
            demand.impossible += waiting;
        } else if is_held_back(state, class) {
            demand.limits += waiting;
        } else {
            let held = class.queue.count_of_runs(|task| is_held(state, task));
            demand.budgets += held;
            if class.key.pinned.is_some() {
                demand.pinned += waiting - held;
            } else {
                demand.pending_slots += waiting - held;
            }
        }
    }
    demand.pinned += state.agents.iter().map(|(_, agent)| agent.warm.len() as u64).sum::<u64>();
    let seen = state.agents.iter().filter(|(_, agent)| serves(agent.tenant, tenant) || tenant == EVERYBODY);
    for (_, agent) in seen.filter(|(_, agent)| agent.state() == AgentStateView::Ready) {
        demand.slots += agent.slots;
        demand.free_slots += agent.slots.saturating_sub(agent.used());
    }
    demand
}
