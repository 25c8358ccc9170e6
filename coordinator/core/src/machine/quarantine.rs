//! An agent on which much crashes that crashes nowhere else is given no new work, until an operator resumes it.
//! What crashes on other agents too is the task's fault and counts against none of them; the last agent that takes work is
//! left alone, because there is nobody whom a quarantine could spare.

use crate::agents::EndedHow;
use crate::effect::{Effects, Write};
use crate::ids::{AgentKey, TaskKey};
use crate::machine::agents::{refresh, show};
use crate::machine::revoke::revoke;
use crate::machine::view::task_ref;
use crate::state::State;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Notes how an attempt on an agent ended, which is in the history of its task already, and what follows for the agent.
pub(super) fn note(state: &mut State, effects: &mut Effects, key: AgentKey, task: TaskKey, how: EndedHow) {
    let (now, keep, together) = (state.now.tick, state.config.quarantine_window, state.config.requeue_fast);
    state.agents.get_mut(key).endings.note(task, how, now, keep, together);
    if how == EndedHow::Well || state.agents.get(key).quarantine.is_some() {
        return;
    }
    let Some(reason) = guilty(state, key, task) else { return };
    if !others_take_work(state, key) {
        return;
    }
    state.agents.get_mut(key).quarantine = Some(reason);
    refresh(state, key);
    effects.writes.push(Write::Agent(key));
    revoke(state, effects, key);
    show(state, effects, key);
}

/// Why the agent seems to be the cause of what crashed there, in plain English; `None` when it does not.
fn guilty(state: &State, key: AgentKey, latest: TaskKey) -> Option<Arc<str>> {
    let agent = state.agents.get(key);
    let only_here = |task: &TaskKey| {
        state.task(*task).is_none_or(|task| task.crashed_on().iter().all(|name| *name == agent.name))
    };
    let crashes: Vec<TaskKey> = agent.endings.crashes().filter(only_here).collect();
    let tasks: BTreeSet<TaskKey> = crashes.iter().copied().collect();
    if crashes.len() < state.config.quarantine_crashes || tasks.len() < state.config.quarantine_tasks {
        return None;
    }
    let latest = task_ref(state, latest).map_or_else(String::new, |name| format!(", the latest {name}"));
    let (crashed, ended) = (crashes.len(), agent.endings.len());
    Some(format!("{crashed} of its last {ended} attempts crashed, of {} tasks{latest}", tasks.len()).into())
}

fn others_take_work(state: &State, key: AgentKey) -> bool {
    let tenant = state.agents.get(key).tenant;
    state.agents.iter().any(|(other, agent)| other != key && agent.tenant == tenant && agent.takes_work())
}
