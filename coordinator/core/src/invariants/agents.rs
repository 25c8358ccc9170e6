//! Rules about agents, leases and timers.

use super::runs::tasks;
use super::{Violation, rule};
use crate::agents::{Link, key_of};
use crate::ids::TaskKey;
use crate::state::{Phase, State, TaskState};
use crate::timers::Timer;
use std::sync::Arc;

pub(super) fn leases(state: &State) -> Result<(), Violation> {
    let mut held = 0;
    for (key, task) in tasks(state).filter(|(_, task)| task.state.is_held()) {
        held += 1;
        let lease = task.agent.and_then(|agent| state.agents.get(agent).leases.get(&key));
        let fits = lease.is_some_and(|lease| {
            lease.attempt == task.attempt && lease.accepted == (task.state == TaskState::Running)
        });
        rule("leases", fits, || format!("{key} is {} at {}, {lease:?}", task.state, task.attempt))?;
    }
    let leases: usize = state.agents.iter().map(|(_, agent)| agent.leases.len()).sum();
    rule("leases", leases == held, || format!("{leases} leases for {held} tasks"))?;
    for (key, agent) in state.agents.iter() {
        let current = agent.stopping.iter().find(|attempt| {
            agent.leases.get(&attempt.task).is_some_and(|lease| lease.attempt == attempt.attempt)
        });
        rule("leases", current.is_none(), || format!("agent {key} holds and stops {current:?}"))?;
        let known = |task: &TaskKey| {
            state.schedule.conversations.get(task) == Some(&key)
                && state.task(*task).is_some_and(|task| !task.state.is_terminal())
        };
        rule("leases", agent.conversations.iter().all(known), || format!("conversations of agent {key}"))?;
    }
    let kept: usize = state.agents.iter().map(|(_, agent)| agent.conversations.len()).sum();
    rule("leases", kept == state.schedule.conversations.len(), || "a conversation without an agent")
}

pub(super) fn orders(state: &State) -> Result<(), Violation> {
    for (key, agent) in state.agents.iter() {
        let orders = &agent.orders;
        let sorted = |words: &[Arc<str>]| words.is_sorted_by(|a, b| a < b);
        let all = [&agent.own, &agent.capabilities, &orders.labels, &orders.hidden];
        rule("orders", all.iter().all(|words| sorted(words)), || {
            format!("words of agent {key} are unsorted")
        })?;
        let both = orders.labels.iter().find(|label| orders.hidden.iter().any(|key| **key == *key_of(label)));
        rule("orders", both.is_none(), || format!("agent {key} hides and adds {both:?}"))?;
        let wanted = orders.effective(&agent.own);
        rule("orders", agent.capabilities == wanted, || {
            format!("agent {key} counts as offering {:?}, not {wanted:?}", agent.capabilities)
        })?;
        let drained = orders.drain.is_some() || agent.quarantine.is_some();
        rule("orders", !(drained && (agent.takes_work() || agent.rank.is_some())), || {
            format!("agent {key} is drained or in quarantine and takes work")
        })?;
    }
    Ok(())
}

pub(super) fn sessions(state: &State) -> Result<(), Violation> {
    let mut connected = 0;
    for (key, agent) in state.agents.iter() {
        if let Some(session) = agent.session() {
            connected += 1;
            let named = state.agents.on_session(session);
            rule("sessions", named == Some(key), || format!("session {session} is {named:?}, not {key}"))?;
        } else {
            rule("sessions", agent.stopping.is_empty(), || {
                format!("agent {key} is away and stops something")
            })?;
        }
        rule("sessions", agent.shown == agent.state(), || {
            format!("agent {key} is {:?}, shown {:?}", agent.state(), agent.shown)
        })?;
        rule("sessions", state.agents.find(agent.tenant, &agent.name) == Some(key), || {
            format!("agent {key} is not found by its name")
        })?;
    }
    let known = state.agents.session_count();
    rule("sessions", connected == known, || format!("{connected} agents on {known} streams"))
}

pub(super) fn timers(state: &State) -> Result<(), Violation> {
    let mut expected = 0;
    for (key, task) in tasks(state).filter(|(_, task)| task.state.waits_for_time()) {
        expected += 1;
        let set = state.timers.contains(task.retry, Timer::Retry(key));
        rule("timers", set, || format!("{key} is never tried again"))?;
    }
    for (key, agent) in state.agents.iter() {
        let armed = [
            (agent.armed.silence, Timer::Silence(key)),
            (agent.armed.leases, Timer::Leases(key)),
            (agent.armed.warm, Timer::Warm(key)),
            (agent.armed.avoid, Timer::Avoid(key)),
        ];
        for (at, timer) in armed {
            let Some(at) = at else { continue };
            expected += 1;
            rule("timers", state.timers.contains(at, timer), || format!("{timer:?} is not set"))?;
        }
        let heard = matches!(agent.link, Link::Heard(_));
        rule("timers", heard == agent.armed.silence.is_some(), || format!("silence of agent {key}"))?;
        let connected = agent.session().is_some();
        let due =
            agent.leases.values().map(|lease| lease.deadline(connected, agent.heard, &state.config).0).min();
        let late = due.is_some_and(|due| agent.armed.leases.is_none_or(|at| at > due));
        rule("timers", !late || state.phase == Phase::Loading, || {
            format!("leases of agent {key} due {due:?}")
        })?;
        let due = agent.warm.oldest().map(|since| since + state.config.affinity_wait);
        let late = due.is_some_and(|due| agent.armed.warm.is_none_or(|at| at > due));
        rule("timers", !late, || format!("tasks that wait for agent {key}"))?;
        let due = agent.avoid.values().min().copied();
        let late = due.is_some_and(|due| agent.armed.avoid.is_none_or(|at| at > due));
        rule("timers", !late, || format!("classes that agent {key} is spared"))?;
    }
    if let Some(at) = state.limits.armed {
        expected += 1;
        rule("timers", state.timers.contains(at, Timer::Limits), || "the timer of limits is not set")?;
    }
    if let Some(at) = state.budgets.armed {
        expected += 1;
        rule("timers", state.timers.contains(at, Timer::Budgets), || "the timer of budgets is not set")?;
    }
    let set = state.timers.len();
    rule("timers", set == expected, || format!("{set} timers, {expected} of them known"))
}
