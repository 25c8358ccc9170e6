//! Who gets what, next: the first waiting task that some agent has room for, and the best agent for it.
//!
//! What it costs does not depend on how much waits. An event marks the classes that got tasks and the agents that got
//! room ([`Schedule`]); only those, and the waiting classes that such an agent is fit for, are looked at.
//! The grant itself is [`crate::machine`]'s.

mod class;
mod fair;
mod group;
mod rank;
mod round;
mod standing;
mod stretches;

pub(crate) use class::{Class, ClassKey, Classes};
pub(crate) use fair::{Entry, Head, Passes, Queue};
pub(crate) use group::{Group, GroupId, Groups};
pub(crate) use rank::Rank;
pub(crate) use round::Round;
pub(crate) use standing::{enqueue, enqueue_cold, relist, unqueue};

use crate::agents::{Agent, Agents};
use crate::ids::{AgentKey, ClassId, TaskKey};
use crate::limits::Limits;
use crate::outcome::Outcome;
use crate::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that is needed to match tasks and agents.
#[derive(Debug, Default, Hash)]
pub(crate) struct Schedule {
    pub(crate) classes: Classes,
    pub(crate) groups: Groups,
    pub(crate) passes: Passes,
    /// The agent that keeps the conversation of a task, as it said when it joined.
    pub(crate) conversations: BTreeMap<TaskKey, AgentKey>,
    /// Classes that got tasks since tasks were granted last.
    pub(crate) fresh: BTreeSet<ClassId>,
    /// Agents that got room, or tasks that wait for them, since then.
    pub(crate) roomy: BTreeSet<AgentKey>,
    /// Classes that may have begun or ceased to wait.
    pub(crate) relist: BTreeSet<ClassId>,
}

impl Schedule {
    /// The class of `key`, made when there is none. With more than half of `most` classes, tasks no longer have one of
    /// their own only because their prompts begin otherwise.
    pub(crate) fn intern(&mut self, key: ClassKey, most: usize, agents: &mut Agents) -> ClassId {
        if let Some(id) = self.classes.find(&key) {
            return id;
        }
        let key = if self.classes.len() < most / 2 { key } else { key.without_prefix() };
        if let Some(id) = self.classes.find(&key) {
            return id;
        }
        let id = self.classes.add(key);
        self.groups.add_class(id, agents, &mut self.classes);
        id
    }

    /// A task of the class left the state.
    pub(crate) fn release(&mut self, id: ClassId, agents: &mut Agents) {
        let Some(class) = self.classes.get_mut(id) else { return };
        class.tasks = class.tasks.saturating_sub(1);
        if class.tasks > 0 {
            return;
        }
        if let Some(class) = self.classes.take(id) {
            // The id will be another class's.
            for agent in agents.iter_mut() {
                agent.avoid.remove(&id);
            }
            self.groups.remove_class(id, &class, agents, &mut self.classes);
            self.fresh.remove(&id);
            self.relist.remove(&id);
        }
    }

    /// Puts an agent where its capabilities belong.
    pub(crate) fn place(&mut self, key: AgentKey, agents: &mut Agents) {
        self.groups.leave(key, agents, &mut self.classes);
        self.groups.place(key, agents, &mut self.classes);
    }

    /// Brings the rank of an agent up to date.
    pub(crate) fn refresh(&mut self, key: AgentKey, agents: &mut Agents) {
        let agent = agents.get_mut(key);
        let rank = Rank::of(key, agent);
        if rank == agent.rank {
            return;
        }
        if let Some(group) = self.groups.get_mut(agent.group) {
            if let Some(old) = &agent.rank {
                group.ranked.remove(old);
            }
            group.ranked.extend(rank.clone());
        }
        if rank.as_ref().is_some_and(|rank| rank.gained(agent.rank.as_ref())) {
            self.roomy.insert(key);
        }
        agent.rank = rank;
    }

    /// The best agent that has room for a task of the class, warm agents aside. One of `shunned` only when there is no
    /// other.
    pub(crate) fn best(
        &self,
        id: ClassId,
        class: &Class,
        agents: &Agents,
        limits: &Limits,
        shunned: &[Arc<str>],
    ) -> Option<AgentKey> {
        let meter = class.key.meter.as_ref();
        if let Some(name) = &class.key.pinned {
            let key = agents.find_for(class.key.tenant, name)?;
            let agent = agents.get(key);
            return (has_room(agent, id, class) && limits.hold(&agent.routes, meter, false).is_none())
                .then_some(key);
        }
        let best_of = |shunned: &[Arc<str>]| {
            let groups = class.groups.iter().filter_map(|group| self.groups.get(*group));
            let groups = groups.filter(|group| limits.hold(&group.routes, meter, false).is_none());
            let first = |group: &Group| {
                let roomy = group.ranked.iter().take_while(|rank| rank.has_room(class.key.prefetch));
                let fit = |rank: &&Rank| {
                    let agent = agents.get(rank.agent);
                    !agent.avoid.contains_key(&id) && !shunned.contains(&agent.name)
                };
                roomy.clone().find(fit).cloned()
            };
            groups.filter_map(first).min().map(|rank| rank.agent)
        };
        best_of(shunned).or_else(|| if shunned.is_empty() { None } else { best_of(&[]) })
    }
}

/// Whether an agent has room for a task of the class. Whether its pool lets it begin is [`Limits::hold`]'s to say.
pub(crate) fn has_room(agent: &Agent, id: ClassId, class: &Class) -> bool {
    agent.rank.as_ref().is_some_and(|rank| rank.has_room(class.key.prefetch))
        && !agent.avoid.contains_key(&id)
        && agent.offers(&class.key.requires)
}

/// The agent that keeps the conversation of a task: the one of its latest attempt that ended, else one that says so; but
/// not one on which the task crashed.
pub(crate) fn warm_agent(state: &State, key: TaskKey) -> Option<AgentKey> {
    let task = state.task(key)?;
    if !state.schedule.classes.get(task.class)?.conversational {
        return None;
    }
    let tenant = state.run(key.run)?.tenant;
    // An attempt that could not be started left nothing.
    let mut begun = task.attempts().iter().rev().filter(|ended| ended.outcome != Outcome::SPAWN_FAILED);
    let last = begun.next();
    let latest = last.and_then(|ended| state.agents.find_for(tenant, &ended.agent));
    let said = state.schedule.conversations.get(&key).copied();
    // What was lost with its agent goes on there when that is back. Only the last crash before it is poison must be
    // somewhere else, so that it tells a bad task from a bad agent.
    let lost = last.is_some_and(|ended| ended.outcome == Outcome::LOST_AGENT);
    let patient = lost && task.crashes + 1 < state.config.poison_crashes;
    let good = |agent: &AgentKey| patient || !task.crashed_on().contains(&state.agents.get(*agent).name);
    latest.filter(good).or_else(|| said.filter(good))
}
