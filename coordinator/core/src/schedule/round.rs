//! One round of granting: of everything that got tasks or room, the best task that some agent has room for, again and
//! again. Changes only the order of queues; who calls carries the grants out.

use crate::agents::EVERYBODY;
use crate::ids::{AgentKey, ClassId, TaskKey};
use crate::machine::budgets::{gate_of, is_held};
use crate::schedule::{Entry, Head, Schedule, enqueue_cold, has_room, unqueue, warm_agent};
use crate::state::State;
use crate::task::Task;
use std::collections::BTreeSet;

/// A queue whose first task may be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Class(ClassId),
    Warm(AgentKey),
}

/// A task and the agent it goes to.
pub(crate) struct Choice {
    pub(crate) task: TaskKey,
    pub(crate) agent: AgentKey,
}

/// One round of granting: what is to be looked at, best first.
pub(crate) struct Round {
    sources: BTreeSet<(Head, Source)>,
    /// Classes with new tasks: any agent may have room for them.
    fresh: BTreeSet<ClassId>,
    /// Agents with new room.
    roomy: BTreeSet<AgentKey>,
    /// The most that any of the classes looked at may be held ahead.
    prefetch: u32,
}

impl Round {
    /// Takes over what was marked since the last round.
    pub(crate) fn begin(state: &mut State) -> Self {
        let fresh = std::mem::take(&mut state.schedule.fresh);
        let roomy = std::mem::take(&mut state.schedule.roomy);
        let mut round = Self { sources: BTreeSet::new(), fresh, roomy, prefetch: 0 };
        let mut wanted: BTreeSet<Source> = round.fresh.iter().map(|class| Source::Class(*class)).collect();
        for key in &round.roomy {
            wanted.extend(sources_of(state, *key));
        }
        for source in wanted {
            round.add(state, source);
        }
        round
    }

    /// The next grant, or `None` when nothing that waits has an agent with room.
    pub(crate) fn next(&mut self, state: &mut State) -> Option<Choice> {
        loop {
            if self.fresh.is_empty() {
                let prefetch = self.prefetch;
                let room = |key: &AgentKey| {
                    state.agents.get(*key).rank.as_ref().is_some_and(|rank| rank.has_room(prefetch))
                };
                self.roomy.retain(room);
                if self.roomy.is_empty() {
                    return None;
                }
            }
            let (head, source) = self.sources.pop_first()?;
            let current = head_of(state, source);
            if current != Some(head) {
                self.put_back(source, current);
                continue;
            }
            match agent_for(state, source, head.task) {
                Some(agent) => {
                    self.sources.insert((head, source));
                    return Some(Choice { task: head.task, agent });
                }
                None if self.cool(state, source, head.task) => self.add(state, source),
                None => self.put_back(source, None),
            }
        }
    }

    fn add(&mut self, state: &mut State, source: Source) {
        if let Source::Class(id) = source {
            let prefetch = state.schedule.classes.get(id).map_or(0, |class| class.key.prefetch);
            self.prefetch = self.prefetch.max(prefetch);
        }
        let head = head_of(state, source);
        self.put_back(source, head);
    }

    /// Lets a task go anywhere that waits for an agent whose pool is closed. Says whether it did: who waits behind it may
    /// use another pool.
    fn cool(&mut self, state: &mut State, source: Source, task: TaskKey) -> bool {
        let Source::Warm(agent) = source else { return false };
        let Some(class) = state.task(task).map(|task| task.class) else { return false };
        if !is_closed(state, agent, class) {
            return false;
        }
        unqueue(state, task);
        enqueue_cold(state, task);
        state.schedule.fresh.remove(&class);
        self.fresh.insert(class);
        self.add(state, Source::Class(class));
        true
    }

    fn put_back(&mut self, source: Source, head: Option<Head>) {
        match (head, source) {
            (Some(head), _) => {
                self.sources.insert((head, source));
            }
            (None, Source::Class(class)) => {
                self.fresh.remove(&class);
            }
            (None, Source::Warm(_)) => {}
        }
    }
}

/// The queues an agent with room can be served from.
fn sources_of(state: &State, key: AgentKey) -> Vec<Source> {
    let agent = state.agents.get(key);
    if agent.rank.is_none() {
        return Vec::new();
    }
    let classes = &state.schedule.classes;
    let mut sources: Vec<Source> = Vec::new();
    if let Some(group) = state.schedule.groups.get(agent.group) {
        let open = group.waiting.iter().filter(|class| !is_closed(state, key, **class));
        sources.extend(open.map(|class| Source::Class(*class)));
    }
    if agent.tenant == EVERYBODY {
        sources.extend(classes.pinned_by_anybody(&agent.name).map(Source::Class));
    } else {
        sources.extend(classes.pinned_to(agent.tenant, &agent.name).map(Source::Class));
    }
    if !agent.warm.is_empty() {
        sources.push(Source::Warm(key));
    }
    sources
}

/// The first of a queue, after everybody in it rose who was due to.
fn head_of(state: &mut State, source: Source) -> Option<Head> {
    raise(state, source);
    let (band, run_pass, since, task) = loop {
        let State { schedule, agents, .. } = &mut *state;
        let Schedule { classes, passes, .. } = schedule;
        let queue = match source {
            Source::Class(id) => &mut classes.get_mut(id)?.queue,
            Source::Warm(key) => &mut agents.get_mut(key).warm,
        };
        let first = queue.first(passes)?;
        let task = first.3;
        // A budget that is used up passes over runs, and nobody waits for an agent because of it.
        if !is_held(state, task) {
            break first;
        }
        state.budgets.unkept |= gate_of(state, task).is_none();
        match source {
            Source::Class(id) => state.schedule.classes.get_mut(id)?.queue.hold_first(),
            Source::Warm(_) => {
                unqueue(state, task);
                enqueue_cold(state, task);
            }
        }
    };
    let State { schedule, runs, .. } = state;
    let passes = &schedule.passes;
    let tenant_pass = passes.of_tenant(runs.get(&task.run)?.tenant);
    Some(Head { band, tenant_pass, run_pass, since, task })
}

fn raise(state: &mut State, source: Source) {
    let State { schedule, agents, runs, config, now, .. } = state;
    let Schedule { classes, passes, .. } = schedule;
    let queue = match source {
        Source::Class(id) => match classes.get_mut(id) {
            Some(class) => &mut class.queue,
            None => return,
        },
        Source::Warm(key) => &mut agents.get_mut(key).warm,
    };
    for (key, level) in queue.due_to_rise(now.tick, config) {
        let Some(task) = runs.get_mut(&key.run).and_then(|run| run.tasks.get_mut(key.index.0 as usize))
        else {
            continue;
        };
        let entry = Entry { task: key, priority: task.priority, level: task.level, since: task.since };
        if queue.remove(entry, config) {
            task.level = level;
            queue.push(Entry { level, ..entry }, passes, config);
        }
    }
}

fn agent_for(state: &State, source: Source, task: TaskKey) -> Option<AgentKey> {
    // Who keeps the conversation goes on with it unless its pool is closed: it is no new work.
    let goes_on = |key: &AgentKey, id: ClassId| {
        let class = state.schedule.classes.get(id);
        class.is_some_and(|class| has_room(state.agents.get(*key), id, class)) && !is_closed(state, *key, id)
    };
    match source {
        Source::Warm(key) => goes_on(&key, state.task(task)?.class).then_some(key),
        Source::Class(id) => {
            let class = state.schedule.classes.get(id)?;
            let warm = warm_agent(state, task).filter(|key| goes_on(key, id));
            warm.or_else(|| {
                let shunned = state.task(task).map_or(&[][..], Task::crashed_on);
                state.schedule.best(id, class, &state.agents, &state.limits, shunned)
            })
        }
    }
}

/// Whether the pool that an agent would use for a class lets nobody begin anything.
fn is_closed(state: &State, agent: AgentKey, class: ClassId) -> bool {
    let meter = state.schedule.classes.get(class).and_then(|class| class.key.meter.as_ref());
    state.limits.hold(&state.agents.get(agent).routes, meter, true).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::event::{AgentHello, Event, NewTask, OnLoss, Submit};
    use crate::ids::{Epoch, SessionId, TenantId, Token};
    use crate::machine::apply;
    use crate::outcome::OutcomeRules;
    use crate::time::{Now, Span};

    fn hello(name: &str, capability: &str) -> Event {
        Event::AgentJoined(Box::new(AgentHello {
            session: SessionId(u64::from(name.as_bytes()[0])),
            tenant: TenantId(1),
            name: name.into(),
            incarnation: [1; 16],
            keeps_allowances: true,
            slots: 1,
            capabilities: vec![capability.into()],
            inventory: Vec::new(),
            conversations: Vec::new(),
            pools: Vec::new(),
        }))
    }

    fn submit(requires: &str, count: usize) -> Event {
        let task = |index: usize| NewTask {
            id: format!("t{index}").into(),
            worker: "noop".into(),
            dependencies: Vec::new(),
            priority: 50,
            timeout: Span::hours(1),
            retries: 0,
            requires: vec![requires.into()],
            pinned: None,
            on_loss: OnLoss::Fast,
            prefetch: 0,
            flow: crate::event::Flow::default(),
            meter: None,
            expected_micro_usd: None,
        };
        Event::Submitted(Box::new(Submit {
            token: Token(1),
            tenant: TenantId(1),
            name: "adhoc".into(),
            submitted_by: "client/default/me".into(),
            request_id: "".into(),
            spec_digest: [0; 32],
            labels: Vec::new(),
            tasks: (0..count).map(task).collect(),
            validate_only: false,
            shape: crate::event::Shape::default(),
        }))
    }

    /// What a round looks at after an agent with `gpu=yes` got room, while so many tasks of three classes wait.
    fn looked_at(waiting: usize) -> usize {
        let mut state = State::new(Config::new(OutcomeRules::default()));
        let events = [
            Event::Started { epoch: Epoch(1) },
            hello("a", "gpu=yes"),
            hello("b", "disk=big"),
            submit("gpu=yes", waiting),
            submit("disk=big", waiting),
            submit("tpu=yes", waiting),
        ];
        for event in events {
            apply(&mut state, Now::default(), event);
        }
        state.schedule.roomy.insert(AgentKey(0));
        Round::begin(&mut state).sources.len()
    }

    #[test]
    fn a_free_slot_looks_only_at_classes_that_wait_and_fit_however_much_waits() {
        assert_eq!(looked_at(1), 0, "the only task was granted");
        assert_eq!(looked_at(2), 1);
        assert_eq!(looked_at(2_000), 1);
    }
}
