//! Heartbeats renew, silence ends: what the passing of time does to agents and to what they hold.
//! Renewals are in memory only. The deadlines themselves are in [`crate::agents::Lease`].

use crate::agents::{Link, Overdue};
use crate::effect::{Action, Effects, StopReason};
use crate::event::{Heard, HeldAttempt};
use crate::ids::{AgentKey, AttemptKey, SessionId, TaskKey};
use crate::machine::agents::{refresh, show};
use crate::machine::attempts::{give_back, holds, lose, stop, taken_over};
use crate::machine::budgets;
use crate::state::State;
use crate::time::{Span, Tick};
use crate::timers::Timer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An agent is alive and says what it holds.
pub(super) fn heartbeat(
    state: &mut State,
    effects: &mut Effects,
    session: SessionId,
    seq: u64,
    held: &[HeldAttempt],
    load_millis: u32,
) {
    let Some(agent) = state.agents.on_session(session) else { return };
    heard(state, effects, agent);
    state.agents.get_mut(agent).load_millis = load_millis;
    let mut unknown = Vec::new();
    for item in held {
        if holds(state, agent, item.attempt) {
            taken_over(state, effects, agent, item.attempt.task);
            budgets::note_cost(state, effects, agent, item.attempt, item.cost_micro_usd);
        } else if !is_recorded(state, item.attempt) {
            unknown.push(item.attempt);
        }
    }
    let beating = state.agents.get_mut(agent);
    if !beating.stopping.is_empty() {
        let listed: BTreeSet<AttemptKey> = held.iter().map(|item| item.attempt).collect();
        beating.stopping.retain(|attempt| listed.contains(attempt));
    }
    let idle = held.is_empty() && beating.used() == 0;
    refresh(state, agent);
    effects.actions.push(Action::HeartbeatAck { session, seq, unknown, idle });
}

/// Agents were heard some moments ago, and answered then. What came from them since counts.
pub(super) fn heard_before(state: &mut State, effects: &mut Effects, heard: &[Heard]) {
    for Heard { session, at, load_millis } in heard {
        let Some(key) = state.agents.on_session(*session) else { continue };
        let agent = state.agents.get_mut(key);
        if agent.heard > *at {
            continue;
        }
        let other_load = std::mem::replace(&mut agent.load_millis, *load_millis) != *load_millis;
        heard_at(state, effects, key, *at);
        if other_load {
            refresh(state, key);
        }
    }
}

/// Whether the report of an attempt is recorded: its agent lists it until it knows.
fn is_recorded(state: &State, attempt: AttemptKey) -> bool {
    state.task(attempt.task).is_some_and(|task| task.recorded(attempt.attempt).is_some())
}

/// Something came from a connected agent.
pub(super) fn heard(state: &mut State, effects: &mut Effects, key: AgentKey) {
    heard_at(state, effects, key, state.now.tick);
}

fn heard_at(state: &mut State, effects: &mut Effects, key: AgentKey, at: Tick) {
    let now = state.now;
    let agent = state.agents.get_mut(key);
    agent.heard = at.min(now.tick);
    agent.last_seen = now.wall - (now.tick - at);
    if let Link::Silent(session) = agent.link {
        agent.link = Link::Heard(session);
        watch_silence(state, key);
        refresh(state, key);
        show(state, effects, key);
    }
}

/// Sees to it that silence is noticed. The timer is not moved by what is heard; it looks again when it goes off.
pub(super) fn watch_silence(state: &mut State, key: AgentKey) {
    let agent = state.agents.get_mut(key);
    let due = matches!(agent.link, Link::Heard(_)).then(|| agent.heard + state.config.silence);
    state.timers.rearm(&mut agent.armed.silence, Timer::Silence(key), due);
}

/// The timer of [`watch_silence`] went off.
pub(super) fn silence_due(state: &mut State, effects: &mut Effects, key: AgentKey) {
    let agent = state.agents.get_mut(key);
    agent.armed.silence = None;
    if let Link::Heard(session) = agent.link
        && agent.heard + state.config.silence <= state.now.tick
    {
        agent.link = Link::Silent(session);
        refresh(state, key);
        show(state, effects, key);
    }
    watch_silence(state, key);
}

/// Sees to it that the end of a lease is noticed. Renewals do not move the timer; it looks again when it goes off.
pub(super) fn watch_leases(state: &mut State, key: AgentKey) {
    let agent = state.agents.get_mut(key);
    let armed = agent.armed.leases;
    let connected = agent.session().is_some();
    let deadlines =
        agent.leases.values().map(|lease| lease.deadline(connected, agent.heard, &state.config).0);
    let first = deadlines.min();
    if let (Some(armed), Some(first)) = (armed, first)
        && armed <= first
    {
        return;
    }
    state.timers.rearm(&mut agent.armed.leases, Timer::Leases(key), first);
}

/// The same for one lease that is new or whose deadline moved: what the others wait for is watched already.
pub(super) fn watch_lease(state: &mut State, key: AgentKey, task: TaskKey) {
    let agent = state.agents.get_mut(key);
    let connected = agent.session().is_some();
    let Some(lease) = agent.leases.get(&task) else { return };
    let due = lease.deadline(connected, agent.heard, &state.config).0;
    if agent.armed.leases.is_none_or(|armed| due < armed) {
        state.timers.rearm(&mut agent.armed.leases, Timer::Leases(key), Some(due));
    }
}

/// The timer of [`watch_leases`] went off. At most `most` leases are ended; the timer goes off again for the rest.
/// Returns how many that were.
pub(super) fn leases_due(state: &mut State, effects: &mut Effects, key: AgentKey, most: usize) -> usize {
    let now = state.now.tick;
    let agent = state.agents.get_mut(key);
    agent.armed.leases = None;
    let connected = agent.session().is_some();
    let heard = agent.heard;
    let overdue: Vec<(TaskKey, Overdue)> = agent
        .leases
        .iter()
        .map(|(task, lease)| (*task, lease.deadline(connected, heard, &state.config)))
        .filter(|(_, (due, _))| *due <= now)
        .map(|(task, (_, why))| (task, why))
        .take(most)
        .collect();
    let ended = overdue.len();
    for (task, why) in overdue {
        end_lease(state, effects, key, task, why);
    }
    watch_leases(state, key);
    show(state, effects, key);
    ended
}

fn end_lease(state: &mut State, effects: &mut Effects, key: AgentKey, task: TaskKey, why: Overdue) {
    let agent = state.agents.get(key);
    let Some(lease) = agent.leases.get(&task) else { return };
    let attempt = AttemptKey { task, attempt: lease.attempt };
    let name = &agent.name;
    let detail: Arc<str> = match why {
        Overdue::NotAccepted => format!("{name} did not take it over in time"),
        Overdue::NotHeard => format!("{name} was not heard of for {}", seconds(state.now.tick - lease.heard)),
        Overdue::PastLimit => format!("{name} let it run far past its time limit"),
    }
    .into();
    match why {
        Overdue::NotAccepted => give_back(state, effects, key, task, detail),
        Overdue::NotHeard | Overdue::PastLimit => lose(state, effects, key, task, &detail, true),
    }
    stop(state, effects, key, attempt, StopReason::Fenced);
}

/// A length of time in plain English.
pub(crate) fn seconds(span: Span) -> String {
    let seconds = span.0.div_ceil(1_000);
    if seconds < 120 {
        return format!("{seconds} s");
    }
    let minutes = seconds.div_ceil(60);
    if minutes < 120 { format!("{minutes} min") } else { format!("{} h", minutes.div_ceil(60)) }
}

/// When the work of an agent that is not heard will first be requeued.
pub(crate) fn requeue_at(state: &State, key: AgentKey) -> Option<Tick> {
    let agent = state.agents.get(key);
    if matches!(agent.link, Link::Heard(_)) {
        return None;
    }
    let connected = agent.session().is_some();
    agent.leases.values().map(|lease| lease.deadline(connected, agent.heard, &state.config).0).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_rounded_up_to_what_people_say() {
        let said = [0, 1, 22_000, 119_001, 120_000, 7_140_000, 7_200_000].map(|ms| seconds(Span(ms)));
        assert_eq!(said, ["0 s", "1 s", "22 s", "2 min", "2 min", "119 min", "2 h"]);
    }
}
