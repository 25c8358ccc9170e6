//! What operators say of agents, known ones only: no new work, new work again, other capabilities, no longer known.
//! Holds at once and until somebody says otherwise; the agent is not told.

use crate::agents::Orders;
use crate::effect::{Effects, Write};
use crate::event::Labelling;
use crate::ids::{AgentKey, TaskKey, TenantId, Token};
use crate::machine::agents::{announce, cool, refresh, show, watch_warm};
use crate::machine::budgets;
use crate::machine::revoke::revoke;
use crate::machine::submit::reply;
use crate::machine::targets::agent_of;
use crate::machine::view::{agent_view, task_ref};
use crate::query::{Answer, Refusal};
use crate::state::State;
use crate::timers::Timer;
use std::sync::Arc;

pub(super) fn drain(
    state: &mut State,
    effects: &mut Effects,
    token: Token,
    tenant: TenantId,
    name: &Arc<str>,
    reason: &Arc<str>,
) {
    let change = |_: &State, key: &Orders| Ok(Orders { drain: Some(Arc::clone(reason)), ..key.clone() });
    give(state, effects, token, (tenant, name), change);
    if let Some(key) = state.agents.find(tenant, name) {
        revoke(state, effects, key);
    }
}

pub(super) fn resume(
    state: &mut State,
    effects: &mut Effects,
    token: Token,
    tenant: TenantId,
    name: &Arc<str>,
) {
    if let Some(key) = state.agents.find(tenant, name) {
        let agent = state.agents.get_mut(key);
        agent.endings.clear();
        if agent.quarantine.take().is_some() {
            refresh(state, key);
            effects.writes.push(Write::Agent(key));
            show(state, effects, key);
        }
    }
    let change = |_: &State, orders: &Orders| Ok(Orders { drain: None, ..orders.clone() });
    give(state, effects, token, (tenant, name), change);
}

pub(super) fn label(
    state: &mut State,
    effects: &mut Effects,
    token: Token,
    tenant: TenantId,
    name: &Arc<str>,
    labelling: &Labelling,
) {
    let change = |state: &State, orders: &Orders| {
        let own = state.agents.find(tenant, name).map(|key| state.agents.get(key).own.as_slice());
        let labelled = orders.labelled(own.unwrap_or_default(), labelling);
        let (bytes, limit) = (labelled.bytes(), state.config.max_label_bytes);
        // What is there already may stay, and less of it is always taken.
        if bytes > limit && bytes > orders.bytes() {
            return Err(Refusal::TooManyLabels { agent: name.to_string(), bytes, limit });
        }
        Ok(labelled)
    };
    give(state, effects, token, (tenant, name), change);
}

/// Forgets an agent that is away and holds nothing. Its name stays where attempts ran on it.
pub(super) fn forget(
    state: &mut State,
    effects: &mut Effects,
    token: Token,
    tenant: TenantId,
    name: &Arc<str>,
) {
    let answer = agent_of(state, tenant, name).and_then(|key| {
        needed(state, key)?;
        state.schedule.groups.leave(key, &mut state.agents, &mut state.schedule.classes);
        state.schedule.roomy.remove(&key);
        let agent = state.agents.get_mut(key);
        state.timers.rearm(&mut agent.armed.silence, Timer::Silence(key), None);
        state.timers.rearm(&mut agent.armed.leases, Timer::Leases(key), None);
        state.timers.rearm(&mut agent.armed.warm, Timer::Warm(key), None);
        state.timers.rearm(&mut agent.armed.avoid, Timer::Avoid(key), None);
        state.limits.routes(tenant, key, &[]);
        state.agents.forget(key);
        effects.writes.push(Write::ForgetAgent { tenant, name: Arc::clone(name) });
        Ok(Answer::Forgotten)
    });
    reply(effects, token, answer.unwrap_or_else(Answer::Refused));
}

/// Why an agent cannot be forgotten.
fn needed(state: &State, key: AgentKey) -> Result<(), Refusal> {
    let agent = state.agents.get(key);
    let refused = |held: &str, hint: String| {
        let what = format!("agent {}", agent.name);
        Err(Refusal::WrongState { what, state: held.to_owned(), hint })
    };
    if agent.session().is_some() {
        return refused("connected", "stop it first: it would be known again at once".to_owned());
    }
    if let Some(task) = agent.leases.keys().next() {
        let name = task_ref(state, *task).unwrap_or_default();
        let hint = format!(
            "it still holds {name}: wait until that is taken from it, or orchctl retry --force {name}"
        );
        return refused("unreachable", hint);
    }
    if let Some(task) = agent.conversations.first() {
        let name = task_ref(state, *task).unwrap_or_default();
        let hint =
            format!("it keeps the conversation of {name}, which has not ended: wait for that, or cancel it");
        return refused("offline", hint);
    }
    Ok(())
}

/// Changes the orders about an agent and answers with the agent as it is then.
fn give(
    state: &mut State,
    effects: &mut Effects,
    token: Token,
    (tenant, name): (TenantId, &Arc<str>),
    change: impl FnOnce(&State, &Orders) -> Result<Orders, Refusal>,
) {
    let changed = agent_of(state, tenant, name)
        .and_then(|key| Ok((key, change(state, &state.agents.get(key).orders)?)));
    let answer = match changed {
        Err(refusal) => Answer::Refused(refusal),
        Ok((key, orders)) => {
            put_in_force(state, effects, key, orders);
            Answer::Agent(agent_view(state, key))
        }
    };
    reply(effects, token, answer);
}

fn put_in_force(state: &mut State, effects: &mut Effects, key: AgentKey, orders: Orders) {
    let agent = state.agents.get_mut(key);
    if agent.orders == orders {
        return;
    }
    agent.orders = orders;
    let capabilities = agent.orders.effective(&agent.own);
    if agent.capabilities != capabilities {
        agent.capabilities = capabilities;
        state.schedule.place(key, &mut state.agents);
        budgets::found(state);
        part_with_unfit(state, key);
        // It may be fit for what waits without having got any room.
        state.schedule.roomy.insert(key);
    }
    refresh(state, key);
    effects.writes.push(Write::Agent(key));
    announce(state, effects, key);
}

/// Tasks that wait for the agent because it keeps their conversation, and that it may no longer run, may go anywhere.
fn part_with_unfit(state: &mut State, key: AgentKey) {
    let agent = state.agents.get(key);
    let unfit = |task: &TaskKey| {
        let class = state.task(*task).and_then(|task| state.schedule.classes.get(task.class));
        class.is_none_or(|class| !agent.offers(&class.key.requires))
    };
    let unfit: Vec<TaskKey> = agent.warm.iter().filter(unfit).collect();
    if unfit.is_empty() {
        return;
    }
    for task in unfit {
        cool(state, task);
    }
    watch_warm(state, key);
}
