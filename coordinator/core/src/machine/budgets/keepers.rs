//! Which agents may be given tasks under a budget that stops: only those that keep to what an attempt may spend. One of an
//! older release does not know of it, and a budget that nobody enforces is worth nothing.
//!
//! Where no agent that fits keeps budgets, the task is held like one whose budget is used up; where some do, the others are
//! spared its class for a while.

use super::bill::reservation;
use super::gate::reopen;
use super::rules::{gate, pool_of};
use crate::agents::{Agent, serves};
use crate::ids::{AgentKey, TaskKey, TenantId};
use crate::schedule::Class;
use crate::state::State;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whether attempts of a task with `pool` are told what they may spend.
fn is_limited(state: &State, key: TaskKey, pool: Arc<str>) -> bool {
    reservation(state, key, pool).is_some_and(|hold| hold.is_limited())
}

/// Whether an agent would run a task past a budget that stops.
pub(in crate::machine) fn would_ignore(state: &State, agent: AgentKey, key: TaskKey) -> bool {
    !state.agents.get(agent).keeps_allowances && is_limited(state, key, pool_of(state, agent, key))
}

/// Whether a budget keeps a task from being granted to anybody: it is used up, or nobody would keep it.
pub(crate) fn is_held(state: &State, key: TaskKey) -> bool {
    gate(state, key).is_some() || is_unkept(state, key)
}

/// Whether a budget stops a task and none of the agents that fit keeps budgets.
pub(crate) fn is_unkept(state: &State, key: TaskKey) -> bool {
    if !is_limited(state, key, Arc::clone(&state.empty)) {
        return false;
    }
    let class = state.task(key).and_then(|task| state.schedule.classes.get(task.class));
    let Some(class) = class else { return false };
    let mut fit = state.agents.iter().map(|(_, agent)| agent).filter(|agent| fits(agent, class)).peekable();
    fit.peek().is_some() && fit.all(|agent| !agent.keeps_allowances)
}

fn fits(agent: &Agent, class: &Class) -> bool {
    !agent.forgotten
        && serves(agent.tenant, class.key.tenant)
        && class.key.pinned.as_ref().is_none_or(|name| *name == agent.name)
        && agent.offers(&class.key.requires)
}

/// An agent is there that was not, or offers what it did not: it may keep what nobody kept.
pub(in crate::machine) fn found(state: &mut State) {
    if !std::mem::take(&mut state.budgets.unkept) {
        return;
    }
    let tenants: BTreeSet<TenantId> =
        state.schedule.classes.iter().map(|(_, class)| class.key.tenant).collect();
    for tenant in tenants {
        reopen(state, tenant);
    }
}
