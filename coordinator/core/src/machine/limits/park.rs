//! Conversations that a used-up window interrupted: parked without a slot until it is reset, then woken where they are
//! kept, not all in one millisecond.
//! Knows one task at a time; the pool itself is [`crate::limits`]'s.

use crate::effect::{Effects, Write};
use crate::ids::{AgentKey, AttemptKey, TaskKey};
use crate::limits::{LimitHit, LimitSignal, PoolId, SignalKind};
use crate::machine::limits::{metered, signal_pool, spread};
use crate::machine::moves::{self, Told};
use crate::machine::reports::keep_feedback;
use crate::machine::retry::scatter;
use crate::state::{State, TaskState};
use crate::time::{Span, Tick};
use crate::timers::Timer;
use std::sync::Arc;

/// A window whose end nobody told.
const UNTOLD: Span = Span::minutes(1);

/// Parks a task whose attempt ended because a window is used up.
pub(in crate::machine) fn park(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    agent: AgentKey,
    hit: LimitHit,
    retry_after: Option<Span>,
    told: Told,
) {
    let cap = state.config.retry_after_cap;
    let asked = retry_after.map(|after| state.now.tick + after.min(cap));
    let until = close(state, key, agent, &hit, retry_after);
    let wake = asked.max(until).unwrap_or(state.now.tick + UNTOLD);
    let at = scattered(state, key, wake);
    let pool = Arc::clone(&hit.pool);
    if let Some(task) = state.task_mut(key) {
        task.retry = at;
        task.history_mut().parked = Some(hit);
    }
    state.timers.set(at, Timer::Retry(key));
    let told = keep_feedback(state, key, told);
    moves::change(state, effects, key, TaskState::Parked, Told { retry_at: Some(at), ..told });
    state.limits.park(key, pool);
}

/// Sees to it that the pool is closed, where its agent has not said so itself. Returns until when it is.
fn close(
    state: &mut State,
    key: TaskKey,
    agent: AgentKey,
    hit: &LimitHit,
    retry_after: Option<Span>,
) -> Option<Tick> {
    let tenant = state.agents.get(agent).tenant;
    let pool = state.limits.find(tenant, &hit.pool)?;
    let class = meter_class(state, key, agent).map_or_else(Arc::default, |(_, class)| class);
    let known = state.limits.get(pool).and_then(|pool| pool.exhausted_until(&class));
    if known.is_some() {
        return known;
    }
    // A window of one class of models says so in its name; any other is everybody's.
    let one = !class.is_empty() && hit.window.contains(&*class);
    let signal = LimitSignal {
        pool: Arc::clone(&hit.pool),
        model_class: if one { class } else { Arc::default() },
        kind: SignalKind::Exhausted,
        retry_after,
        window: Arc::clone(&hit.window),
        detail: Arc::default(),
    };
    signal_pool(state, pool, &signal)?;
    state.limits.get(pool)?.exhausted_until(&signal.model_class)
}

fn meter_class(state: &State, key: TaskKey, agent: AgentKey) -> Option<(PoolId, Arc<str>)> {
    let attempt = AttemptKey { task: key, attempt: state.task(key)?.attempt };
    let (pool, meter) = metered(state, agent, attempt)?;
    Some((pool, meter.meter.model_class))
}

fn scattered(state: &State, key: TaskKey, wake: Tick) -> Tick {
    let attempt = state.task(key).map_or(0, |task| task.attempt.0);
    let spread = spread(state).0;
    wake.max(state.now.tick) + Span(1 + scatter(key, attempt) % spread)
}

/// The wake time of a parked task has come: it goes on, unless its window is used up again or still.
pub(in crate::machine) fn wake(state: &mut State, effects: &mut Effects, key: TaskKey) {
    let Some(agent) = state.task(key).and_then(|task| task.agent) else { return };
    let closed = meter_class(state, key, agent).and_then(|(pool, class)| {
        let until = state.limits.get(pool)?.exhausted_until(&class);
        until.filter(|until| *until > state.now.tick)
    });
    match closed {
        Some(until) => {
            let at = scattered(state, key, until);
            if let Some(task) = state.task_mut(key) {
                task.retry = at;
            }
            state.timers.set(at, Timer::Retry(key));
            effects.writes.push(Write::Task { task: key, payload: None });
        }
        None => moves::make_ready(state, effects, key, Told::default()),
    }
}
