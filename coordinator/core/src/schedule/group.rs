//! Groups of interchangeable agents: of one tenant, with the same credential pools, and fit for the same classes in use.
//! What an agent offers that no task asks for does not tell it apart, so a fleet with a label per host is one group, and
//! finding an agent for a task costs one look a group instead of one an agent.
//! Knows ranks; whether an agent has room and is there is [`super::rank`]'s.

use crate::agents::{Agents, serves};
use crate::ids::{AgentKey, ClassId, TenantId};
use crate::limits::Route;
use crate::schedule::class::{Class, Classes};
use crate::schedule::rank::Rank;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A group of agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(u32);

impl GroupId {
    /// Of an agent that is not placed yet.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// Agents that are fit for the same classes.
#[derive(Debug, Default, Hash)]
pub(crate) struct Group {
    pub(crate) tenant: TenantId,
    /// The pools they use.
    pub(crate) routes: Arc<[Route]>,
    /// Known agents, connected or not.
    pub(crate) members: BTreeSet<AgentKey>,
    /// Those that take work, best first.
    pub(crate) ranked: BTreeSet<Rank>,
    /// Classes without a pin whose requirements they meet.
    pub(crate) fits: BTreeSet<ClassId>,
    /// Those of them that have waiting tasks.
    pub(crate) waiting: BTreeSet<ClassId>,
}

/// All groups that have members.
#[derive(Debug, Default, Hash)]
pub(crate) struct Groups {
    all: BTreeMap<GroupId, Group>,
    next: u32,
}

impl Groups {
    pub(crate) fn get(&self, id: GroupId) -> Option<&Group> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.all.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.all.iter().map(|(id, group)| (*id, group))
    }

    /// Puts an agent whose capabilities are new into the group it belongs to. It must not be in one.
    pub(crate) fn place(&mut self, key: AgentKey, agents: &mut Agents, classes: &mut Classes) {
        let agent = agents.get(key);
        let meets = |class: &Class| {
            class.key.pinned.is_none()
                && serves(agent.tenant, class.key.tenant)
                && agent.offers(&class.key.requires)
        };
        let fits: BTreeSet<ClassId> =
            classes.iter().filter(|(_, class)| meets(class)).map(|(id, _)| id).collect();
        let same = |group: &Group| {
            group.tenant == agent.tenant && group.fits == fits && group.routes == agent.routes
        };
        let found = self.all.iter().find(|(_, group)| same(group)).map(|(id, _)| *id);
        let (tenant, routes) = (agent.tenant, Arc::clone(&agent.routes));
        let id = found.unwrap_or_else(|| self.create(tenant, routes, fits, classes));
        self.enter(id, key, agents);
    }

    /// Takes an agent out of its group.
    pub(crate) fn leave(&mut self, key: AgentKey, agents: &mut Agents, classes: &mut Classes) {
        let agent = agents.get_mut(key);
        let id = std::mem::replace(&mut agent.group, GroupId::NONE);
        let Some(group) = self.all.get_mut(&id) else { return };
        group.members.remove(&key);
        if let Some(rank) = &agent.rank {
            group.ranked.remove(rank);
        }
        if group.members.is_empty() {
            self.dissolve(id, classes);
        }
    }

    /// Sorts every group into those that meet the requirements of a new class and those that do not.
    pub(crate) fn add_class(&mut self, id: ClassId, agents: &mut Agents, classes: &mut Classes) {
        let Some(class) = classes.get(id) else { return };
        let key = class.key.clone();
        if key.pinned.is_some() {
            return;
        }
        let candidates: Vec<GroupId> = self
            .all
            .iter()
            .filter(|(_, group)| serves(group.tenant, key.tenant))
            .map(|(group, _)| *group)
            .collect();
        for candidate in candidates {
            let Some(group) = self.all.get(&candidate) else { continue };
            let fit: Vec<AgentKey> = group
                .members
                .iter()
                .copied()
                .filter(|agent| agents.get(*agent).offers(&key.requires))
                .collect();
            let fitting = if fit.is_empty() {
                continue;
            } else if fit.len() == group.members.len() {
                candidate
            } else {
                self.split(candidate, &fit, agents, classes)
            };
            if let (Some(group), Some(class)) = (self.all.get_mut(&fitting), classes.get_mut(id)) {
                group.fits.insert(id);
                class.groups.insert(fitting);
            }
        }
    }

    /// Forgets a class that was taken away, and unites groups that only it told apart.
    pub(crate) fn remove_class(
        &mut self,
        id: ClassId,
        class: &Class,
        agents: &mut Agents,
        classes: &mut Classes,
    ) {
        for group in &class.groups {
            if let Some(group) = self.all.get_mut(group) {
                group.fits.remove(&id);
                group.waiting.remove(&id);
            }
        }
        for group in &class.groups {
            self.unite(*group, agents, classes);
        }
    }

    /// Lists or unlists a class as waiting.
    pub(crate) fn relist(&mut self, id: ClassId, class: &mut Class) {
        let waits = !class.queue.is_empty();
        if class.listed == waits {
            return;
        }
        class.listed = waits;
        for group in &class.groups {
            if let Some(group) = self.all.get_mut(group) {
                if waits {
                    group.waiting.insert(id);
                } else {
                    group.waiting.remove(&id);
                }
            }
        }
    }

    fn enter(&mut self, id: GroupId, key: AgentKey, agents: &mut Agents) {
        let agent = agents.get_mut(key);
        agent.group = id;
        if let Some(group) = self.all.get_mut(&id) {
            group.members.insert(key);
            group.ranked.extend(agent.rank.clone());
        }
    }

    fn create(
        &mut self,
        tenant: TenantId,
        routes: Arc<[Route]>,
        fits: BTreeSet<ClassId>,
        classes: &mut Classes,
    ) -> GroupId {
        let id = GroupId(self.next);
        self.next = self.next.wrapping_add(1);
        let mut waiting = BTreeSet::new();
        for fit in &fits {
            if let Some(class) = classes.get_mut(*fit) {
                class.groups.insert(id);
                if class.listed {
                    waiting.insert(*fit);
                }
            }
        }
        self.all.insert(
            id,
            Group { tenant, routes, members: BTreeSet::new(), ranked: BTreeSet::new(), fits, waiting },
        );
        id
    }

    fn dissolve(&mut self, id: GroupId, classes: &mut Classes) {
        let Some(group) = self.all.remove(&id) else { return };
        for fit in &group.fits {
            if let Some(class) = classes.get_mut(*fit) {
                class.groups.remove(&id);
            }
        }
    }

    /// Moves some members of a group into a new one that is so far fit for the same.
    fn split(
        &mut self,
        id: GroupId,
        movers: &[AgentKey],
        agents: &mut Agents,
        classes: &mut Classes,
    ) -> GroupId {
        let Some(group) = self.all.get(&id) else { return id };
        let (tenant, routes, fits) = (group.tenant, Arc::clone(&group.routes), group.fits.clone());
        let target = self.create(tenant, routes, fits, classes);
        for mover in movers {
            self.leave(*mover, agents, classes);
            self.enter(target, *mover, agents);
        }
        target
    }

    /// Joins a group with another that is fit for the same, if there is one.
    fn unite(&mut self, id: GroupId, agents: &mut Agents, classes: &mut Classes) {
        let Some(group) = self.all.get(&id) else { return };
        let same = |other: &Group| {
            other.tenant == group.tenant && other.fits == group.fits && other.routes == group.routes
        };
        let Some(target) = self.all.iter().find(|(other, held)| **other != id && same(held)) else { return };
        let target = *target.0;
        let movers: Vec<AgentKey> = group.members.iter().copied().collect();
        for mover in movers {
            self.leave(mover, agents, classes);
            self.enter(target, mover, agents);
        }
    }
}
