//! Agents come, go, drain and come back: sessions, inventories and the verdict on every attempt in them.

use crate::agents::{Agent, Link, serves};
use crate::effect::{Action, CloseReason, Effects, Verdict, Write, may_run};
use crate::event::{AgentHello, HeldState, InventoryItem};
use crate::ids::{AgentKey, AttemptKey, SessionId, TaskKey};
use crate::machine::attempts::{holds, lose, taken_over};
use crate::machine::budgets;
use crate::machine::leases::{heard, watch_leases, watch_silence};
use crate::machine::limits;
use crate::machine::revoke::given_back;
use crate::query::AgentStateView;
use crate::schedule;
use crate::state::State;
use crate::time::Tick;
use crate::timers::Timer;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn joined(state: &mut State, effects: &mut Effects, hello: AgentHello) {
    let session = hello.session;
    if let Some(other) = state.agents.on_session(session) {
        close(state, effects, other, session, CloseReason::ProtocolViolation);
        return;
    }
    let known = state.agents.find(hello.tenant, &hello.name);
    if known.is_none() && state.agents.len() >= state.config.max_agents {
        effects.actions.push(Action::Close { session, reason: CloseReason::Capacity });
        return;
    }
    let key = known.unwrap_or_else(|| state.agents.add(Agent::new(hello.tenant, Arc::clone(&hello.name))));
    if !displace(state, effects, key, &hello) {
        effects.actions.push(Action::Close { session, reason: CloseReason::ClonedIdentity });
        return;
    }
    let same_process = state.agents.get(key).incarnation == hello.incarnation;
    introduce(state, effects, key, &hello, known.is_none());
    state.agents.connect(session, key);
    state.agents.get_mut(key).stopping.clear();
    heard(state, effects, key);
    let absent = resume(state, effects, key, session, &hello.inventory);
    // First, so that what is lost here waits for the agent that keeps its conversation.
    note_conversations(state, key, &hello.conversations);
    settle_absent(state, effects, key, (session, same_process), &absent);
    watch_silence(state, key);
    watch_leases(state, key);
    refresh(state, key);
    show(state, effects, key);
    limits::joined(state, effects, key, session, &hello.pools);
    budgets::rejoined(state, effects, key);
    budgets::found(state);
}

/// Ends the older stream of the same identity. False when the newcomer must go too: the identity is used twice.
fn displace(state: &mut State, effects: &mut Effects, key: AgentKey, hello: &AgentHello) -> bool {
    let now = state.now.tick;
    let window = state.config.clone_window;
    let agent = state.agents.get_mut(key);
    if agent.clones.refuses(now) {
        return false;
    }
    let Some(older) = agent.session() else { return true };
    let cloned = agent.clones.displaced(agent.incarnation, hello.incarnation, now, window);
    let reason = if cloned { CloseReason::ClonedIdentity } else { CloseReason::Superseded };
    close(state, effects, key, older, reason);
    !cloned
}

/// Ends a stream from our side.
fn close(state: &mut State, effects: &mut Effects, key: AgentKey, session: SessionId, reason: CloseReason) {
    effects.actions.push(Action::Close { session, reason });
    state.agents.disconnect(session);
    limits::lost(state, key, session);
    gone(state, effects, key);
}

/// Takes over what the agent says of itself.
fn introduce(state: &mut State, effects: &mut Effects, key: AgentKey, hello: &AgentHello, new: bool) {
    let agent = state.agents.get_mut(key);
    let mut capabilities = hello.capabilities.clone();
    capabilities.sort_unstable();
    capabilities.dedup();
    let offers_other = new || agent.own != capabilities;
    let restarted = agent.incarnation != hello.incarnation;
    let changed = offers_other || restarted || agent.slots != hello.slots;
    agent.slots = hello.slots;
    agent.incarnation = hello.incarnation;
    agent.keeps_allowances = hello.keeps_allowances;
    agent.draining = false;
    agent.load_millis = 0;
    if restarted {
        agent.avoid.clear();
        state.timers.rearm(&mut agent.armed.avoid, Timer::Avoid(key), None);
    }
    if offers_other {
        agent.capabilities = agent.orders.effective(&capabilities);
        agent.own = capabilities;
        state.schedule.place(key, &mut state.agents);
    }
    if changed {
        effects.writes.push(Write::Agent(key));
    }
}

/// Judges every attempt of the inventory. Returns the leases that are not in it.
fn resume(
    state: &mut State,
    effects: &mut Effects,
    key: AgentKey,
    session: SessionId,
    inventory: &[InventoryItem],
) -> Vec<TaskKey> {
    let verdicts = inventory
        .iter()
        .map(|item| {
            let verdict = match (holds(state, key, item.attempt), item.state) {
                (true, HeldState::Accepted | HeldState::Running) => Verdict::Keep,
                (true, HeldState::Finished) => Verdict::SendReport,
                (false, _) => Verdict::Cancel,
            };
            (item.attempt, verdict)
        })
        .collect();
    effects.actions.push(Action::Welcome { session, verdicts });
    let mut absent: BTreeSet<TaskKey> = state.agents.get(key).leases.keys().copied().collect();
    for item in inventory {
        if holds(state, key, item.attempt) {
            absent.remove(&item.attempt.task);
            taken_over(state, effects, key, item.attempt.task);
        } else if may_run(item.state) {
            state.agents.get_mut(key).stopping.insert(item.attempt);
        }
    }
    absent.into_iter().collect()
}

/// What the agent was granted and does not have: asked back, then the same process gave it back unheard; never accepted,
/// then it is sent again; else it is lost.
fn settle_absent(
    state: &mut State,
    effects: &mut Effects,
    key: AgentKey,
    (session, same_process): (SessionId, bool),
    absent: &[TaskKey],
) {
    let accept_by = state.now.tick + state.config.accept_within;
    for task in absent {
        let agent = state.agents.get_mut(key);
        let Some(lease) = agent.leases.get_mut(task) else { continue };
        // Another process may have begun it and died of it.
        if lease.revoked && (same_process || !lease.accepted) {
            given_back(state, effects, key, *task);
        } else if lease.accepted {
            let detail: Arc<str> = format!("{} came back without it", agent.name).into();
            lose(state, effects, key, *task, &detail, true);
        } else {
            lease.renew(state.now.tick);
            lease.accept_by = accept_by;
            let attempt = AttemptKey { task: *task, attempt: lease.attempt };
            effects.actions.push(Action::Grant { session, attempt });
        }
    }
}

/// Remembers whose conversations the agent keeps, as far as somebody may come back to them.
fn note_conversations(state: &mut State, key: AgentKey, kept: &[TaskKey]) {
    for task in std::mem::take(&mut state.agents.get_mut(key).conversations) {
        state.schedule.conversations.remove(&task);
    }
    let tenant = state.agents.get(key).tenant;
    for task in kept {
        let Some(run) = state.run(task.run) else { continue };
        let Some(held) = state.task(*task) else { continue };
        let latest_elsewhere = state.schedule.conversations.contains_key(task) && held.agent != Some(key);
        if !serves(tenant, run.tenant) || held.state.is_terminal() || latest_elsewhere {
            continue;
        }
        if let Some(other) = state.schedule.conversations.insert(*task, key) {
            state.agents.get_mut(other).conversations.remove(task);
        }
        state.agents.get_mut(key).conversations.insert(*task);
    }
}

pub(super) fn draining(state: &mut State, effects: &mut Effects, session: SessionId) {
    let Some(key) = state.agents.on_session(session) else { return };
    heard(state, effects, key);
    state.agents.get_mut(key).draining = true;
    refresh(state, key);
    show(state, effects, key);
}

pub(super) fn session_ended(state: &mut State, effects: &mut Effects, session: SessionId) {
    if let Some(key) = state.agents.disconnect(session) {
        limits::lost(state, key, session);
        gone(state, effects, key);
    }
}

/// An agent lost its stream. What it was told to stop no longer counts: its next inventory says what it holds.
fn gone(state: &mut State, effects: &mut Effects, key: AgentKey) {
    let agent = state.agents.get_mut(key);
    agent.stopping.clear();
    watch_silence(state, key);
    watch_leases(state, key);
    refresh(state, key);
    show(state, effects, key);
}

/// Brings everything that depends on what an agent holds and whether it takes work up to date.
pub(super) fn refresh(state: &mut State, key: AgentKey) {
    state.schedule.refresh(key, &mut state.agents);
    let agent = state.agents.get(key);
    if agent.rank.is_none() && !agent.warm.is_empty() {
        let waiting: Vec<TaskKey> = agent.warm.iter().collect();
        for task in waiting {
            cool(state, task);
        }
        watch_warm(state, key);
    }
}

/// A task that waits for one agent may go anywhere now.
pub(super) fn cool(state: &mut State, task: TaskKey) {
    schedule::unqueue(state, task);
    schedule::enqueue_cold(state, task);
}

/// The longest wait for a warm agent is over.
pub(super) fn warm_due(state: &mut State, key: AgentKey) {
    let begun = Tick(state.now.tick.0.saturating_sub(state.config.affinity_wait.0));
    let agent = state.agents.get_mut(key);
    agent.armed.warm = None;
    for task in agent.warm.since_up_to(begun) {
        cool(state, task);
    }
    watch_warm(state, key);
}

pub(super) fn watch_warm(state: &mut State, key: AgentKey) {
    let agent = state.agents.get_mut(key);
    let due = agent.warm.oldest().map(|since| since + state.config.affinity_wait);
    state.timers.rearm(&mut agent.armed.warm, Timer::Warm(key), due);
}

/// An agent may be tried again for classes it rejected.
pub(super) fn avoid_due(state: &mut State, key: AgentKey) {
    let now = state.now.tick;
    let agent = state.agents.get_mut(key);
    agent.armed.avoid = None;
    agent.avoid.retain(|_, until| *until > now);
    let next = agent.avoid.values().min().copied();
    state.timers.rearm(&mut agent.armed.avoid, Timer::Avoid(key), next);
    state.schedule.roomy.insert(key);
}

/// Tells watchers when the state of an agent is another than they were told.
pub(super) fn show(state: &mut State, effects: &mut Effects, key: AgentKey) {
    let agent = state.agents.get_mut(key);
    if agent.state() != agent.shown {
        announce(state, effects, key);
    }
}

/// Tells watchers the state of an agent, also when it is the one they know: something else about it changed.
pub(super) fn announce(state: &mut State, effects: &mut Effects, key: AgentKey) {
    let agent = state.agents.get_mut(key);
    let now: AgentStateView = agent.state();
    agent.shown = now;
    let change = crate::effect::Change::Agent { agent: Arc::clone(&agent.name), state: now };
    let tenant = agent.tenant;
    debug_assert!(now != AgentStateView::Ready || matches!(agent.link, Link::Heard(_)));
    state.tell(effects, tenant, change);
}
