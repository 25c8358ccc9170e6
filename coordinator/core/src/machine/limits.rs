//! What agents, the API and operators say of limits becomes credit, notices and a pool that is closed for a while.
//! Buckets are in [`crate::limits`]; who may be granted what is [`crate::schedule`]'s, what is parked [`park`]'s.

mod park;

pub(super) use park::{park, wake};

use crate::agents::serves;
use crate::effect::{Action, Effects};
use crate::ids::{AgentKey, AttemptKey, ClassId, SessionId, TenantId};
use crate::limits::{
    AgentPool, ClassMeter, Hold, LimitReport, LimitSignal, Meaning, PoolId, PoolNotice, PoolSettings,
    PoolState, PoolView, pool_of,
};
use crate::machine::attempts::holds;
use crate::machine::leases::heard;
use crate::schedule::Class;
use crate::state::State;
use crate::time::{Span, Tick};
use crate::timers::Timer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Agents named in a view of a pool.
const AGENTS_NAMED: usize = 100;

/// How long the first attempt of many with a common beginning is waited for: 20 s at the usual heartbeat.
fn patience(state: &State) -> Span {
    Span(state.config.heartbeat.0.saturating_mul(4))
}

/// Over how long conversations that were parked together wake: so that they do not all begin in one millisecond.
fn spread(state: &State) -> Span {
    Span((state.config.heartbeat.0 / 2).max(1))
}

/// The pool of that name, as the agent on that stream tells it.
fn told_pool(state: &State, session: SessionId, name: &Arc<str>) -> Option<(AgentKey, PoolId)> {
    let agent = state.agents.on_session(session)?;
    let held = state.agents.get(agent);
    let pool = state.limits.find(held.tenant, name)?;
    held.routes.iter().any(|route| route.pool == pool).then_some((agent, pool))
}

/// The meter of a task, and the pool it uses on an agent.
fn metered(state: &State, agent: AgentKey, attempt: AttemptKey) -> Option<(PoolId, ClassMeter)> {
    let class = state.task(attempt.task)?.class;
    let meter = state.schedule.classes.get(class)?.key.meter.clone()?;
    let pool = pool_of(&state.agents.get(agent).routes, &meter)?;
    Some((pool, meter))
}

pub(super) fn reported(state: &mut State, effects: &mut Effects, session: SessionId, report: &LimitReport) {
    let Some((agent, pool)) = told_pool(state, session, &report.meter.pool) else { return };
    heard(state, effects, agent);
    let now = state.now.tick;
    if let Some(pool) = state.limits.touch(pool) {
        pool.report(session, report, now);
    }
}

pub(super) fn signalled(state: &mut State, effects: &mut Effects, session: SessionId, signal: &LimitSignal) {
    let Some((agent, pool)) = told_pool(state, session, &signal.pool) else { return };
    heard(state, effects, agent);
    signal_pool(state, pool, signal);
}

fn signal_pool(state: &mut State, pool: PoolId, signal: &LimitSignal) -> Option<Meaning> {
    let (now, longest) = (state.now.tick, state.config.retry_after_cap);
    state.limits.touch(pool).map(|pool| pool.signal(signal, now, longest))
}

pub(super) fn pools_changed(
    state: &mut State,
    effects: &mut Effects,
    session: SessionId,
    pools: &[AgentPool],
) {
    let Some(agent) = state.agents.on_session(session) else { return };
    heard(state, effects, agent);
    introduce(state, effects, agent, (session, false), pools);
}

/// An agent joined: what it had under another stream counts as used, and it learns how its pools stand.
pub(super) fn joined(
    state: &mut State,
    effects: &mut Effects,
    agent: AgentKey,
    session: SessionId,
    pools: &[AgentPool],
) {
    state.limits.returned(agent, state.now.tick);
    introduce(state, effects, agent, (session, true), pools);
}

/// Takes over what an agent says of its pools, and says how those stand of which it did not know: all in a new session.
fn introduce(
    state: &mut State,
    effects: &mut Effects,
    key: AgentKey,
    (session, new): (SessionId, bool),
    pools: &[AgentPool],
) {
    let before: BTreeSet<PoolId> = state.agents.get(key).routes.iter().map(|route| route.pool).collect();
    let tenant = state.agents.get(key).tenant;
    let routes = state.limits.routes(tenant, key, pools);
    if routes != state.agents.get(key).routes {
        state.agents.get_mut(key).routes = Arc::clone(&routes);
        state.schedule.place(key, &mut state.agents);
        state.schedule.roomy.insert(key);
    }
    let pools: BTreeSet<PoolId> = routes.iter().map(|route| route.pool).collect();
    for id in pools.into_iter().filter(|id| new || !before.contains(id)) {
        let Some(pool) = state.limits.get(id) else { continue };
        let standing = pool.standing(state.now.tick);
        effects.actions.extend(standing.into_iter().map(|notice| said(session, notice)));
    }
}

fn said(session: SessionId, notice: PoolNotice) -> Action {
    Action::PoolNotice { session, notice: Box::new(notice) }
}

/// An agent lost its stream. Its gateways may still use what it held.
pub(super) fn lost(state: &mut State, agent: AgentKey, session: SessionId) {
    let until = state.now.tick + state.config.requeue_fast;
    state.limits.lost(session, agent, until);
}

pub(super) fn configured(state: &mut State, pools: Vec<(Arc<str>, PoolSettings)>) {
    state.limits.configure(pools);
}

pub(super) fn warmed(state: &mut State, effects: &mut Effects, session: SessionId, attempt: AttemptKey) {
    let Some(agent) = state.agents.on_session(session) else { return };
    heard(state, effects, agent);
    if !holds(state, agent, attempt) {
        return;
    }
    if let Some((pool, meter)) = metered(state, agent, attempt) {
        state.limits.warmed(pool, meter.meter.prefix, state.now.tick);
    }
}

/// An attempt was granted.
pub(super) fn started(state: &mut State, agent: AgentKey, attempt: AttemptKey) {
    let patience = patience(state);
    if let Some((pool, meter)) = metered(state, agent, attempt) {
        state.limits.started(pool, &meter, attempt, state.now.tick, patience);
    }
}

/// Draws the conclusions of an event: whoever waits gets credit, everybody learns how pools stand, and tasks that were held
/// back are looked at again.
pub(super) fn settle(state: &mut State, effects: &mut Effects) {
    let now = state.now.tick;
    let spread = spread(state);
    for id in state.limits.take_dirty() {
        let Some(name) = state.limits.get(id).map(|pool| Arc::clone(&pool.name)) else { continue };
        let resume = state.limits.is_waited_for(&name).then_some(Span(spread.0 * 2));
        let Some(pool) = state.limits.get_mut(id) else { continue };
        let before = pool.due;
        let looked = pool.look(now, resume);
        for (class, holder) in &looked.served {
            let connected = state.agents.on_session(holder.session).is_some();
            let told = pool.tell(class, holder).filter(|_| connected);
            effects.actions.extend(told.map(|(meter, granted)| {
                let (session, meter) = (holder.session, Box::new(meter));
                Action::LimitGrant { session, meter, granted }
            }));
        }
        let users: Vec<AgentKey> = pool.users.keys().copied().collect();
        let sessions: Vec<SessionId> =
            users.iter().filter_map(|agent| state.agents.get(*agent).session()).collect();
        for notice in looked.notices {
            effects.actions.extend(sessions.iter().map(|session| said(*session, notice.clone())));
        }
        if let Some((model_class, session)) = looked.probe {
            let (pool, state, window) = (name, PoolState::Failing, Arc::default());
            let notice = PoolNotice { pool, model_class, state, left: None, window, metered: true };
            effects.actions.push(said(session, notice));
        }
        state.limits.schedule(id, before);
        if looked.opened {
            reopen(state, &users);
        }
    }
}

/// A pool lets more begin than before: what may have waited for that is looked at again.
fn reopen(state: &mut State, users: &[AgentKey]) {
    let waits = |(_, class): &(ClassId, &Class)| class.key.meter.is_some() && !class.queue.is_empty();
    let classes: Vec<ClassId> = state.schedule.classes.iter().filter(waits).map(|(id, _)| id).collect();
    state.schedule.fresh.extend(classes);
    let warm = users.iter().filter(|agent| !state.agents.get(**agent).warm.is_empty());
    state.schedule.roomy.extend(warm);
}

/// Sees to it that what is due is noticed. Comes last.
pub(super) fn rearm(state: &mut State) {
    let due: Option<Tick> = state.limits.first_due();
    let mut armed = state.limits.armed;
    state.timers.rearm(&mut armed, Timer::Limits, due);
    state.limits.armed = armed;
}

/// Pools, for people.
pub(super) fn views(state: &State, tenant: TenantId, name: Option<&Arc<str>>) -> Vec<PoolView> {
    let mine = state.limits.iter().filter(|(_, pool)| {
        serves(pool.tenant, tenant) && name.is_none_or(|name| *name == pool.name) && !pool.is_idle()
    });
    mine.map(|(_, pool)| {
        let mut view = pool.view(state.now.tick);
        let users = pool.users.keys().take(AGENTS_NAMED);
        view.agents = users.map(|agent| Arc::clone(&state.agents.get(*agent).name)).collect();
        let parked = state.limits.parked().values().filter(|name| **name == pool.name).count();
        view.parked = u32::try_from(parked).unwrap_or(u32::MAX);
        view
    })
    .collect()
}

/// Whether every group of agents that fits a class and takes work has a pool that holds it back.
pub(super) fn is_held_back(state: &State, class: &Class) -> bool {
    let meter = class.key.meter.as_ref();
    let lasting = |hold: Hold| hold != Hold::Warming;
    let groups = class.groups.iter().filter_map(|group| state.schedule.groups.get(*group));
    let mut there = groups.filter(|group| !group.ranked.is_empty()).peekable();
    let any = there.peek().is_some();
    any && there.all(|group| state.limits.hold(&group.routes, meter, false).is_some_and(lasting))
}
