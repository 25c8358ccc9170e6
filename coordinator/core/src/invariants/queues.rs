//! Rules about queues, classes and groups, and that nothing waits in vain.

use super::runs::tasks;
use super::{Violation, rule};
use crate::agents::{Agent, serves};
use crate::ids::{AgentKey, ClassId};
use crate::machine::budgets::is_held;
use crate::schedule::{Class, Entry, Rank, has_room};
use crate::state::{Phase, State, TaskState};
use crate::task::Place;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn queues(state: &State) -> Result<(), Violation> {
    let mut queued = 0;
    for (key, task) in tasks(state) {
        let entry = Entry { task: key, priority: task.priority, level: task.level, since: task.since };
        let stands = match task.place {
            Place::Nowhere => task.state != TaskState::Queued,
            Place::Class => state
                .schedule
                .classes
                .get(task.class)
                .is_some_and(|class| class.queue.contains(entry, &state.config)),
            Place::Warm(agent) => state.agents.get(agent).warm.contains(entry, &state.config),
        };
        rule("queues", stands, || format!("{key} is {} and stands in {:?}", task.state, task.place))?;
        let waits = task.place != Place::Nowhere;
        rule("queues", waits == (task.state == TaskState::Queued), || {
            format!("{key} is {} and stands in {:?}", task.state, task.place)
        })?;
        queued += usize::from(waits);
    }
    let classes = state.schedule.classes.iter().map(|(_, class)| &class.queue);
    let warm = state.agents.iter().map(|(_, agent)| &agent.warm);
    let mut standing = 0;
    for queue in classes.chain(warm) {
        standing += queue.len();
        let wrong = queue.inconsistency(&state.schedule.passes);
        rule("queues", wrong.is_none(), || wrong.clone().unwrap_or_default())?;
    }
    rule("queues", standing == queued, || format!("{standing} entries for {queued} tasks"))
}

pub(super) fn classes(state: &State) -> Result<(), Violation> {
    let mut members: BTreeMap<ClassId, u32> = BTreeMap::new();
    for (_, task) in tasks(state) {
        *members.entry(task.class).or_default() += 1;
    }
    let classes = &state.schedule.classes;
    rule("classes", members.len() == classes.len(), || {
        format!("{} classes, {} in use", classes.len(), members.len())
    })?;
    for (id, class) in classes.iter() {
        rule("classes", members.get(&id) == Some(&class.tasks), || {
            format!("class {id}: {:?} tasks, kept {}", members.get(&id), class.tasks)
        })?;
        rule("classes", class.listed != class.queue.is_empty(), || format!("class {id} is listed wrongly"))?;
    }
    for (key, agent) in state.agents.iter() {
        placed(state, key, agent)?;
    }
    let mut kinds = BTreeSet::new();
    for (id, group) in state.schedule.groups.iter() {
        let first = kinds.insert((group.tenant, &group.fits, &group.routes));
        rule("classes", first, || format!("{id:?} is a second group of its kind"))?;
        rule("classes", !group.members.is_empty(), || format!("{id:?} has no members"))?;
        let stray = group.ranked.iter().find(|rank| !group.members.contains(&rank.agent));
        rule("classes", stray.is_none(), || format!("{id:?} ranks {stray:?}"))?;
        let waiting: BTreeSet<ClassId> = group
            .fits
            .iter()
            .copied()
            .filter(|fit| classes.get(*fit).is_some_and(|class| !class.queue.is_empty()))
            .collect();
        rule("classes", waiting == group.waiting, || format!("{id:?}: {waiting:?}, {:?}", group.waiting))?;
    }
    Ok(())
}

/// An agent is in the group and has the rank it should have.
fn placed(state: &State, key: AgentKey, agent: &Agent) -> Result<(), Violation> {
    let fits = |class: &Class| {
        class.key.pinned.is_none()
            && serves(agent.tenant, class.key.tenant)
            && agent.offers(&class.key.requires)
    };
    let classes = &state.schedule.classes;
    let wanted: BTreeSet<ClassId> =
        classes.iter().filter(|(_, class)| fits(class)).map(|(id, _)| id).collect();
    let group = state.schedule.groups.get(agent.group);
    let right = group.is_some_and(|group| {
        group.members.contains(&key)
            && group.fits == wanted
            && group.tenant == agent.tenant
            && group.routes == agent.routes
    });
    rule("classes", right, || format!("agent {key} fits {wanted:?}, {group:?}"))?;
    let linked = wanted
        .iter()
        .all(|class| classes.get(*class).is_some_and(|class| class.groups.contains(&agent.group)));
    rule("classes", linked, || format!("a class does not know the group of agent {key}"))?;
    let rank = Rank::of(key, agent);
    rule("classes", rank == agent.rank, || format!("agent {key}: {rank:?}, kept {:?}", agent.rank))?;
    let ranked =
        group.is_some_and(|group| agent.rank.as_ref().is_none_or(|rank| group.ranked.contains(rank)));
    rule("classes", ranked, || format!("agent {key} has no place in its group"))
}

pub(super) fn work_conserving(state: &State) -> Result<(), Violation> {
    if state.phase != Phase::Serving {
        return Ok(());
    }
    let schedule = &state.schedule;
    let marks = schedule.fresh.is_empty() && schedule.roomy.is_empty() && schedule.relist.is_empty();
    rule("work_conserving", marks, || "something is still to be looked at")?;
    for (id, class) in schedule.classes.iter().filter(|(_, class)| !class.queue.is_empty()) {
        if class.queue.iter().all(|task| is_held(state, task)) {
            continue;
        }
        let idle = schedule.best(id, class, &state.agents, &state.limits, &[]);
        rule("work_conserving", idle.is_none(), || format!("class {id} waits, agent {idle:?} has room"))?;
    }
    for (key, agent) in state.agents.iter() {
        for task in agent.warm.iter() {
            let class = state.task(task).map(|task| task.class).unwrap_or_default();
            let room = schedule.classes.get(class).is_some_and(|held| {
                let meter = held.key.meter.as_ref();
                has_room(agent, class, held) && state.limits.hold(&agent.routes, meter, true).is_none()
            });
            let room = room && !is_held(state, task);
            rule("work_conserving", !room, || format!("{task} waits for agent {key}, which has room"))?;
        }
    }
    Ok(())
}
