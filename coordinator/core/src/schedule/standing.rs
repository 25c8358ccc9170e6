//! Into queues and out of them: where a task that is ready stands.

use crate::ids::{AgentKey, TaskKey};
use crate::schedule::{Entry, Schedule, warm_agent};
use crate::state::State;
use crate::task::Place;
use crate::timers::Timer;

/// Puts a queued task into the queue it belongs to, and marks what must be looked at.
pub(crate) fn enqueue(state: &mut State, key: TaskKey) {
    let warm = warm_agent(state, key).filter(|agent| is_worth_waiting(state, key, *agent));
    insert(state, key, warm);
}

/// Puts a queued task into the queue of its class, whoever keeps its conversation.
pub(crate) fn enqueue_cold(state: &mut State, key: TaskKey) {
    insert(state, key, None);
}

fn insert(state: &mut State, key: TaskKey, warm: Option<AgentKey>) {
    let State { schedule, agents, runs, config, timers, .. } = state;
    let Some(run) = runs.get_mut(&key.run) else { return };
    let tenant = run.tenant;
    let Some(task) = run.tasks.get_mut(key.index.0 as usize) else { return };
    schedule.passes.enter(tenant, key.run);
    let entry = Entry { task: key, priority: task.priority, level: task.level, since: task.since };
    if let Some(agent) = warm {
        task.place = Place::Warm(agent);
        let held = agents.get_mut(agent);
        held.warm.push(entry, &schedule.passes, config);
        let due = held.warm.oldest().map(|since| since + config.affinity_wait);
        timers.rearm(&mut held.armed.warm, Timer::Warm(agent), due);
        schedule.roomy.insert(agent);
    } else if let Some(class) = schedule.classes.get_mut(task.class) {
        task.place = Place::Class;
        class.queue.push(entry, &schedule.passes, config);
        schedule.fresh.insert(task.class);
        schedule.relist.insert(task.class);
    }
}

/// Takes a task out of its queue.
pub(crate) fn unqueue(state: &mut State, key: TaskKey) {
    let State { schedule, agents, runs, config, .. } = state;
    let task = runs.get_mut(&key.run).and_then(|run| run.tasks.get_mut(key.index.0 as usize));
    let Some(task) = task else { return };
    let entry = Entry { task: key, priority: task.priority, level: task.level, since: task.since };
    match std::mem::replace(&mut task.place, Place::Nowhere) {
        Place::Nowhere => {}
        Place::Warm(agent) => {
            agents.get_mut(agent).warm.remove(entry, config);
        }
        Place::Class => {
            if let Some(class) = schedule.classes.get_mut(task.class) {
                class.queue.remove(entry, config);
                schedule.relist.insert(task.class);
            }
        }
    }
}

/// Whether a task should wait for a busy agent: only for one that is there, takes work, can run it, and only for
/// [`crate::config::Config::affinity_wait`].
fn is_worth_waiting(state: &State, key: TaskKey, agent: AgentKey) -> bool {
    let Some(task) = state.task(key) else { return false };
    let Some(class) = state.schedule.classes.get(task.class) else { return false };
    let agent = state.agents.get(agent);
    agent.takes_work()
        && !agent.avoid.contains_key(&task.class)
        && agent.offers(&class.key.requires)
        && state.now.tick < task.since + state.config.affinity_wait
}

/// Tells groups which classes began or ceased to wait.
pub(crate) fn relist(state: &mut State) {
    let Schedule { classes, groups, relist, .. } = &mut state.schedule;
    for id in std::mem::take(relist) {
        if let Some(class) = classes.get_mut(id) {
            groups.relist(id, class);
        }
    }
}
