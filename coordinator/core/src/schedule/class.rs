//! Ready classes: tasks that the same agents can run wait in one queue.
//! Knows requirements as words, and whose limits they use; which agents meet them is in [`super::group`].

use crate::event::NewTask;
use crate::ids::{ClassId, RunId, TenantId};
use crate::limits::ClassMeter;
use crate::schedule::fair::Queue;
use crate::schedule::group::GroupId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What tasks of a class have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClassKey {
    pub(crate) tenant: TenantId,
    /// Capabilities, sorted.
    pub(crate) requires: Vec<Arc<str>>,
    /// Name of the only agent.
    pub(crate) pinned: Option<Arc<str>>,
    /// How many an agent may hold beyond its slots.
    pub(crate) prefetch: u32,
    /// Whose limits its tasks use.
    pub(crate) meter: Option<ClassMeter>,
}

/// The capability of tasks that have a conversation to come back to.
const CONVERSATIONAL: &str = "runner=claude";

impl ClassKey {
    /// What a task needs.
    pub(crate) fn of(tenant: TenantId, task: &NewTask) -> Self {
        let meter = task.meter.clone().map(|meter| ClassMeter { worker: Arc::clone(&task.worker), meter });
        let (requires, pinned) = (task.requires.clone(), task.pinned.clone());
        Self { tenant, requires, pinned, prefetch: task.prefetch, meter }
    }

    /// The same for tasks that share no beginning of a prompt with others.
    pub(crate) fn without_prefix(mut self) -> Self {
        if let Some(meter) = &mut self.meter {
            meter.meter.prefix = 0;
        }
        self
    }

    /// Whether an agent that ran an earlier attempt is worth waiting for.
    pub(crate) fn is_conversational(&self) -> bool {
        self.pinned.is_none() && self.requires.iter().any(|capability| &**capability == CONVERSATIONAL)
    }
}

/// A class in use.
#[derive(Debug, Hash)]
pub(crate) struct Class {
    pub(crate) key: Arc<ClassKey>,
    pub(crate) conversational: bool,
    /// Tasks of live runs that belong to it, in whatever state.
    pub(crate) tasks: u32,
    pub(crate) queue: Queue,
    /// Groups of agents that meet the requirements. Empty for a pinned class: its agent is looked up.
    pub(crate) groups: BTreeSet<GroupId>,
    /// Whether its groups list it as waiting.
    pub(crate) listed: bool,
}

impl Class {
    /// Whether its tasks ask an API, so that they cost.
    pub(crate) fn spends(&self) -> bool {
        self.key.meter.is_some() || self.key.requires.iter().any(|capability| &**capability == CONVERSATIONAL)
    }
}

/// All classes in use. A class lives as long as a live run has a task of it; its id is then used again.
#[derive(Debug, Default, Hash)]
pub(crate) struct Classes {
    all: Vec<Option<Class>>,
    ids: BTreeMap<Arc<ClassKey>, ClassId>,
    unused: BTreeSet<ClassId>,
    /// Classes pinned to an agent, by the tenant of the tasks and the agent's name.
    pinned: BTreeMap<(TenantId, Arc<str>), BTreeSet<ClassId>>,
}

impl Classes {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn find(&self, key: &ClassKey) -> Option<ClassId> {
        self.ids.get(key).copied()
    }

    pub(crate) fn get(&self, id: ClassId) -> Option<&Class> {
        self.all.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: ClassId) -> Option<&mut Class> {
        self.all.get_mut(id.0 as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        (0u32..).map(ClassId).zip(&self.all).filter_map(|(id, class)| Some((id, class.as_ref()?)))
    }

    /// Classes pinned to an agent of that name by tasks of `tenant`.
    pub(crate) fn pinned_to(&self, tenant: TenantId, name: &Arc<str>) -> impl Iterator<Item = ClassId> + '_ {
        self.pinned.get(&(tenant, Arc::clone(name))).into_iter().flatten().copied()
    }

    /// Classes pinned to that name by anybody.
    pub(crate) fn pinned_by_anybody(&self, name: &Arc<str>) -> impl Iterator<Item = ClassId> + '_ {
        let name = Arc::clone(name);
        self.pinned.iter().filter(move |((_, pin), _)| *pin == name).flat_map(|(_, ids)| ids.iter().copied())
    }

    /// Adds a class without tasks and groups.
    pub(crate) fn add(&mut self, key: ClassKey) -> ClassId {
        let key = Arc::new(key);
        let id = self.unused.pop_first().unwrap_or_else(|| {
            self.all.push(None);
            ClassId(u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX))
        });
        if let Some(name) = &key.pinned {
            self.pinned.entry((key.tenant, Arc::clone(name))).or_default().insert(id);
        }
        self.ids.insert(Arc::clone(&key), id);
        self.all[id.0 as usize] = Some(Class {
            conversational: key.is_conversational(),
            key,
            tasks: 0,
            queue: Queue::default(),
            groups: BTreeSet::new(),
            listed: false,
        });
        id
    }

    /// Takes away a class without tasks.
    pub(crate) fn take(&mut self, id: ClassId) -> Option<Class> {
        let class = self.all.get_mut(id.0 as usize)?.take()?;
        debug_assert!(class.tasks == 0 && class.queue.is_empty(), "class {id} is in use");
        self.ids.remove(&class.key);
        self.unused.insert(id);
        if let Some(name) = &class.key.pinned {
            let slot = (class.key.tenant, Arc::clone(name));
            if let Some(ids) = self.pinned.get_mut(&slot) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.pinned.remove(&slot);
                }
            }
        }
        Some(class)
    }

    /// Tasks of `run` that wait in classes for which `wanted` holds.
    pub(crate) fn waiting_of(
        &self,
        run: RunId,
        wanted: impl Fn(&Class) -> bool,
    ) -> Vec<crate::ids::TaskIndex> {
        let classes = self.iter().filter(|(_, class)| !class.queue.is_empty() && wanted(class));
        let mut found: Vec<_> =
            classes.flat_map(|(_, class)| class.queue.of_run(run)).map(|task| task.index).collect();
        found.sort_unstable();
        found
    }
}
