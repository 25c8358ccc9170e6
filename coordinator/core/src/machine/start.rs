//! The start of a coordinator under a new epoch, and the beginning of its end.

use crate::effect::Effects;
use crate::ids::{AgentKey, ClassId, Epoch};
use crate::machine::agents::show;
use crate::machine::budgets;
use crate::machine::consult::wake;
use crate::machine::leases::watch_leases;
use crate::state::{Phase, State};
use crate::time::Span;

/// Grants from now on. A coordinator that was itself away requeues nobody yet: every lease gets a fresh grace.
pub(super) fn started(state: &mut State, effects: &mut Effects, epoch: Epoch) {
    state.epoch = state.epoch.max(epoch);
    state.phase = Phase::Serving;
    let now = state.now.tick;
    let floor = now + state.config.start_grace;
    let keys: Vec<AgentKey> = state.agents.keys().collect();
    for key in keys {
        let agent = state.agents.get_mut(key);
        agent.heard = agent.heard.max(now);
        for lease in agent.leases.values_mut() {
            lease.heard = now;
            lease.floor = floor;
        }
        watch_leases(state, key);
        show(state, effects, key);
        state.schedule.roomy.insert(key);
    }
    budgets::started(state);
    if !state.questions.is_empty() {
        wake(effects);
    }
    let classes: Vec<ClassId> = state.schedule.classes.iter().map(|(id, _)| id).collect();
    state.schedule.fresh.extend(classes);
}

/// Nobody was listened to for `away`: every deadline of what agents hold is that much later, and a grace later still, in
/// which those who took the coordinator for dead come back. What is waiting to be read ends it for what it lists.
pub(super) fn stalled(state: &mut State, away: Span) {
    let now = state.now.tick;
    let keys: Vec<AgentKey> = state.agents.keys().collect();
    for key in keys {
        let agent = state.agents.get_mut(key);
        let connected = agent.session().is_some();
        agent.heard = now.min(agent.heard + away);
        let heard = agent.heard;
        for lease in agent.leases.values_mut() {
            lease.outlast(away, now, connected, heard, &state.config);
        }
        watch_leases(state, key);
    }
}

/// Grants nothing more and takes no submits. What runs goes on.
pub(super) fn drain(state: &mut State) {
    state.phase = Phase::Draining;
}
