//! What is known of each agent: what it offers, whether it is there, what it holds.
//! Slots in use are what it holds; there is no counter that could be wrong. Ranking and queues are in
//! [`crate::schedule`].

mod clones;
mod endings;
mod lease;
mod orders;

pub(crate) use clones::Clones;
pub(crate) use endings::{EndedHow, Endings};
pub(crate) use lease::{Lease, Overdue};
pub(crate) use orders::{Orders, key_of};

use crate::ids::{AgentKey, AttemptKey, ClassId, SessionId, TaskKey, TenantId};
use crate::limits::Route;
use crate::query::AgentStateView;
use crate::schedule::{GroupId, Queue, Rank};
use crate::time::{Tick, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The tenant of agents that belong to the whole cluster and serve everybody.
pub(crate) const EVERYBODY: TenantId = TenantId(0);

/// Whether an agent of `agent` runs tasks of `task`.
pub(crate) fn serves(agent: TenantId, task: TenantId) -> bool {
    agent == task || agent == EVERYBODY
}

/// Whether there is a stream to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Link {
    /// None.
    Away,
    /// A stream on which the agent was heard lately.
    Heard(SessionId),
    /// A stream on which nothing comes any more.
    Silent(SessionId),
}

/// An agent that joined at least once.
#[derive(Debug, Hash)]
pub(crate) struct Agent {
    pub(crate) tenant: TenantId,
    pub(crate) name: Arc<str>,
    pub(crate) slots: u32,
    /// What it says it offers, sorted.
    pub(crate) own: Vec<Arc<str>>,
    /// What it counts as offering: [`Orders::effective`] of the above, sorted.
    pub(crate) capabilities: Vec<Arc<str>>,
    /// What operators said of it.
    pub(crate) orders: Orders,
    pub(crate) link: Link,
    pub(crate) incarnation: [u8; 16],
    /// It said that it takes no new work; its next Hello ends that.
    pub(crate) draining: bool,
    /// Why it is in quarantine: too much crashed there. Until an operator resumes it.
    pub(crate) quarantine: Option<Arc<str>>,
    /// How its latest attempts ended.
    pub(crate) endings: Endings,
    /// Nothing but a name that tasks still tell: it is known again when it joins.
    pub(crate) forgotten: bool,
    /// When anything came from it last.
    pub(crate) heard: Tick,
    pub(crate) last_seen: Wall,
    pub(crate) load_millis: u32,
    /// What it holds.
    pub(crate) leases: BTreeMap<TaskKey, Lease>,
    /// What it was told to stop and may still hold: it keeps its slot until the agent no longer lists it.
    pub(crate) stopping: BTreeSet<AttemptKey>,
    /// Classes it rejected, and until when it is spared them.
    pub(crate) avoid: BTreeMap<ClassId, Tick>,
    /// Tasks that wait for this agent because it keeps their conversation.
    pub(crate) warm: Queue,
    /// Tasks whose conversation it says it keeps.
    pub(crate) conversations: BTreeSet<TaskKey>,
    pub(crate) clones: Clones,
    /// It keeps to what attempts are told they may spend.
    pub(crate) keeps_allowances: bool,
    /// The credential pools it uses.
    pub(crate) routes: Arc<[Route]>,
    /// The agents it is interchangeable with.
    pub(crate) group: GroupId,
    /// Its place among them while it takes work.
    pub(crate) rank: Option<Rank>,
    /// The state that watchers were told last.
    pub(crate) shown: AgentStateView,
    /// Ticks of its timers.
    pub(crate) armed: Armed,
}

/// When the timers of an agent go off.
#[derive(Debug, Default, Hash)]
pub(crate) struct Armed {
    pub(crate) silence: Option<Tick>,
    pub(crate) leases: Option<Tick>,
    pub(crate) warm: Option<Tick>,
    pub(crate) avoid: Option<Tick>,
}

impl Agent {
    pub(crate) fn new(tenant: TenantId, name: Arc<str>) -> Self {
        Self {
            tenant,
            name,
            slots: 0,
            own: Vec::new(),
            capabilities: Vec::new(),
            orders: Orders::default(),
            link: Link::Away,
            incarnation: [0; 16],
            draining: false,
            quarantine: None,
            endings: Endings::default(),
            forgotten: false,
            heard: Tick(0),
            last_seen: Wall(0),
            load_millis: 0,
            leases: BTreeMap::new(),
            stopping: BTreeSet::new(),
            avoid: BTreeMap::new(),
            warm: Queue::default(),
            conversations: BTreeSet::new(),
            clones: Clones::default(),
            keeps_allowances: false,
            routes: Arc::default(),
            group: GroupId::NONE,
            rank: None,
            shown: AgentStateView::Offline,
            armed: Armed::default(),
        }
    }

    /// Its stream, silent or not.
    pub(crate) fn session(&self) -> Option<SessionId> {
        match self.link {
            Link::Away => None,
            Link::Heard(session) | Link::Silent(session) => Some(session),
        }
    }

    /// Whether it may be given work, slots aside.
    pub(crate) fn takes_work(&self) -> bool {
        self.state() == AgentStateView::Ready && self.slots > 0
    }

    /// Slots in use: what it holds, and what it may not have stopped yet.
    pub(crate) fn used(&self) -> u32 {
        u32::try_from(self.leases.len() + self.stopping.len()).unwrap_or(u32::MAX)
    }

    /// Whether it offers everything in `requires`. Both are sorted.
    pub(crate) fn offers(&self, requires: &[Arc<str>]) -> bool {
        let mut offered = self.capabilities.iter();
        requires.iter().all(|wanted| offered.any(|capability| capability == wanted))
    }

    pub(crate) fn state(&self) -> AgentStateView {
        match self.link {
            Link::Heard(_) if self.quarantine.is_some() => AgentStateView::Quarantined,
            Link::Heard(_) if self.draining || self.orders.drain.is_some() => AgentStateView::Draining,
            Link::Heard(_) => AgentStateView::Ready,
            Link::Away | Link::Silent(_) if self.leases.is_empty() => AgentStateView::Offline,
            Link::Away | Link::Silent(_) => AgentStateView::Unreachable,
        }
    }
}

/// All agents ever seen by this process, and who is on which stream.
#[derive(Debug, Default, Hash)]
pub(crate) struct Agents {
    /// Those that were forgotten keep their place, because tasks tell by it where they ran.
    all: Vec<Agent>,
    by_name: BTreeMap<(TenantId, Arc<str>), AgentKey>,
    forgotten: usize,
    sessions: BTreeMap<SessionId, AgentKey>,
}

impl Agents {
    /// Known ones.
    pub(crate) fn len(&self) -> usize {
        self.all.len() - self.forgotten
    }

    /// The agent of that key, unless it is none or was forgotten.
    pub(crate) fn known(&self, key: AgentKey) -> Option<&Agent> {
        self.all.get(key.0 as usize).filter(|agent| !agent.forgotten)
    }

    pub(crate) fn get(&self, key: AgentKey) -> &Agent {
        &self.all[key.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, key: AgentKey) -> &mut Agent {
        &mut self.all[key.0 as usize]
    }

    pub(crate) fn find(&self, tenant: TenantId, name: &Arc<str>) -> Option<AgentKey> {
        self.by_name.get(&(tenant, Arc::clone(name))).copied().filter(|key| self.known(*key).is_some())
    }

    /// The agent that tasks of `tenant` mean by that name: their own, else one of the whole cluster.
    pub(crate) fn find_for(&self, tenant: TenantId, name: &Arc<str>) -> Option<AgentKey> {
        self.find(tenant, name).or_else(|| self.find(EVERYBODY, name))
    }

    /// Adds an agent that is not known, in its old place when it was forgotten.
    pub(crate) fn add(&mut self, agent: Agent) -> AgentKey {
        if let Some(key) = self.by_name.get(&(agent.tenant, Arc::clone(&agent.name))).copied() {
            self.forgotten -= usize::from(self.get(key).forgotten);
            self.all[key.0 as usize] = agent;
            return key;
        }
        self.push(agent)
    }

    /// The place of an agent that is not known, for tasks to tell where they ran.
    pub(crate) fn trace(&mut self, tenant: TenantId, name: &Arc<str>) -> AgentKey {
        if let Some(key) = self.by_name.get(&(tenant, Arc::clone(name))) {
            return *key;
        }
        self.forgotten += 1;
        self.push(Agent { forgotten: true, ..Agent::new(tenant, Arc::clone(name)) })
    }

    /// Leaves nothing of an agent but its place. It must be away, hold nothing and be in no group.
    pub(crate) fn forget(&mut self, key: AgentKey) {
        let agent = self.get_mut(key);
        debug_assert!(agent.leases.is_empty() && agent.link == Link::Away, "agent {key} is still needed");
        *agent = Agent { forgotten: true, ..Agent::new(agent.tenant, Arc::clone(&agent.name)) };
        self.forgotten += 1;
    }

    fn push(&mut self, agent: Agent) -> AgentKey {
        let key = AgentKey(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        self.by_name.insert((agent.tenant, Arc::clone(&agent.name)), key);
        self.all.push(agent);
        key
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AgentKey, &Agent)> {
        (0u32..).map(AgentKey).zip(&self.all).filter(|(_, agent)| !agent.forgotten)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Agent> {
        self.all.iter_mut()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = AgentKey> + '_ {
        self.iter().map(|(key, _)| key)
    }

    /// In the order of names, of one tenant.
    pub(crate) fn by_name(
        &self,
        tenant: TenantId,
        after: Option<&Arc<str>>,
    ) -> impl Iterator<Item = AgentKey> + '_ {
        let from = (tenant, after.map_or_else(|| Arc::from(""), Arc::clone));
        let past = after.is_some();
        self.by_name
            .range(from.clone()..)
            .take_while(move |((owner, _), _)| *owner == tenant)
            .filter(move |(name, _)| !past || **name != from)
            .map(|(_, key)| *key)
            .filter(|key| self.known(*key).is_some())
    }

    pub(crate) fn on_session(&self, session: SessionId) -> Option<AgentKey> {
        self.sessions.get(&session).copied()
    }

    pub(crate) fn connect(&mut self, session: SessionId, key: AgentKey) {
        self.sessions.insert(session, key);
        self.get_mut(key).link = Link::Heard(session);
    }

    /// Takes the stream away from its agent.
    pub(crate) fn disconnect(&mut self, session: SessionId) -> Option<AgentKey> {
        let key = self.sessions.remove(&session)?;
        self.get_mut(key).link = Link::Away;
        Some(key)
    }

    pub(crate) fn session_count(&self) -> usize {
        self.sessions.len()
    }
}
