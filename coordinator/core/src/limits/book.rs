//! All credential pools: who uses which, what is to be looked at, and when.
//! Knows pools by tenant and name; refuses to know queues and what is sent.

use crate::ids::{AgentKey, AttemptKey, SessionId, TaskKey, TenantId};
use crate::limits::pool::{Hold, Pool, User};
use crate::limits::{AgentPool, Meter, PoolSettings};
use crate::time::{Span, Tick};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Pools that are known at a time. Agents that tell more run them without limits.
const MOST_POOLS: usize = 1_024;
/// Pools that one agent may tell.
const MOST_OF_ONE: usize = 64;
/// The name of the settings of every pool that has none of its own.
const EVERY: &str = "*";

/// A pool, numbered for the life of the coordinator process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolId(u32);

/// Which workers of an agent use which pool. Agents with the same routes are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Route {
    name: Arc<str>,
    pub(crate) pool: PoolId,
    /// Sorted; empty means every worker that no other route names.
    workers: Vec<Arc<str>>,
}

/// Whose limits the tasks of a class use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClassMeter {
    pub(crate) worker: Arc<str>,
    pub(crate) meter: Meter,
}

/// The pool of an agent with these routes that a task of that meter uses.
pub(crate) fn pool_of(routes: &[Route], meter: &ClassMeter) -> Option<PoolId> {
    let found = match &meter.meter.pool {
        Some(name) => routes.iter().find(|route| route.name == *name),
        None => {
            let names = |route: &&Route| route.workers.binary_search(&meter.worker).is_ok();
            routes.iter().find(names).or_else(|| routes.iter().find(|route| route.workers.is_empty()))
        }
    };
    found.map(|route| route.pool)
}

/// Everything about rate limits.
#[derive(Debug, Default, Hash)]
pub(crate) struct Limits {
    pools: BTreeMap<PoolId, Pool>,
    ids: BTreeMap<(TenantId, Arc<str>), PoolId>,
    next: u32,
    settings: BTreeMap<Arc<str>, PoolSettings>,
    /// Sessions that ended, whose agents may still use what they held; until when that is believed.
    gone: BTreeMap<SessionId, (AgentKey, Tick)>,
    /// Pools to be looked at.
    dirty: BTreeSet<PoolId>,
    due: BTreeSet<(Tick, PoolId)>,
    /// The timer.
    pub(crate) armed: Option<Tick>,
    /// Attempts that others wait for, by their task.
    warming: BTreeMap<TaskKey, (PoolId, u64)>,
    /// Tasks that are parked, and the name of the pool they wait for.
    parked: BTreeMap<TaskKey, Arc<str>>,
}

impl Limits {
    pub(crate) fn get(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(&id)
    }

    /// A pool that is about to change: it is looked at before the event is over.
    pub(crate) fn touch(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.dirty.insert(id);
        self.pools.get_mut(&id)
    }

    /// A pool, without a look at it.
    pub(crate) fn get_mut(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.pools.get_mut(&id)
    }

    pub(crate) fn find(&self, tenant: TenantId, name: &Arc<str>) -> Option<PoolId> {
        self.ids.get(&(tenant, Arc::clone(name))).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        self.pools.iter().map(|(id, pool)| (*id, pool))
    }

    /// What an agent says of its pools, in place of what it said before.
    pub(crate) fn routes(&mut self, tenant: TenantId, agent: AgentKey, pools: &[AgentPool]) -> Arc<[Route]> {
        for pool in self.pools.values_mut() {
            pool.users.remove(&agent);
        }
        let mut routes = Vec::new();
        for told in pools.iter().take(MOST_OF_ONE) {
            let Some(id) = self.intern(tenant, &told.name) else { continue };
            let user = User { gateway: told.gateway, fingerprint: told.fingerprint.clone() };
            if let Some(pool) = self.touch(id) {
                pool.users.insert(agent, user);
            }
            let mut workers = told.workers.clone();
            workers.sort_unstable();
            workers.dedup();
            routes.push(Route { name: Arc::clone(&told.name), pool: id, workers });
        }
        routes.sort_unstable();
        routes.dedup();
        routes.into()
    }

    fn intern(&mut self, tenant: TenantId, name: &Arc<str>) -> Option<PoolId> {
        if let Some(id) = self.find(tenant, name) {
            return Some(id);
        }
        if self.pools.len() >= MOST_POOLS {
            let idle: Vec<PoolId> =
                self.pools.iter().filter(|(_, pool)| pool.is_idle()).map(|(id, _)| *id).collect();
            for id in idle {
                self.remove(id);
            }
        }
        if self.pools.len() >= MOST_POOLS {
            return None;
        }
        let id = PoolId(self.next);
        self.next = self.next.wrapping_add(1);
        let mut pool = Pool::new(tenant, Arc::clone(name));
        pool.configure(self.settings_of(name));
        self.pools.insert(id, pool);
        self.ids.insert((tenant, Arc::clone(name)), id);
        Some(id)
    }

    fn remove(&mut self, id: PoolId) {
        let Some(pool) = self.pools.remove(&id) else { return };
        self.ids.remove(&(pool.tenant, pool.name));
        self.dirty.remove(&id);
        if let Some(at) = pool.due {
            self.due.remove(&(at, id));
        }
    }

    fn settings_of(&self, name: &str) -> PoolSettings {
        self.settings.get(name).or_else(|| self.settings.get(EVERY)).cloned().unwrap_or_default()
    }

    /// An operator's limits, in place of those before.
    pub(crate) fn configure(&mut self, pools: Vec<(Arc<str>, PoolSettings)>) {
        self.settings = pools.into_iter().collect();
        let names: Vec<(PoolId, Arc<str>)> =
            self.pools.iter().map(|(id, pool)| (*id, Arc::clone(&pool.name))).collect();
        for (id, name) in names {
            let settings = self.settings_of(&name);
            if let Some(pool) = self.touch(id) {
                pool.configure(settings);
            }
        }
    }

    /// An agent lost its stream: what it held counts as used at `until`, unless it is back earlier.
    pub(crate) fn lost(&mut self, session: SessionId, agent: AgentKey, until: Tick) {
        if self.pools.values().any(|pool| pool.has_credit(session)) {
            self.gone.insert(session, (agent, until));
        }
    }

    /// An agent is back under another stream: what it held before counts as used.
    pub(crate) fn returned(&mut self, agent: AgentKey, now: Tick) {
        let of_it = |(session, held): (&SessionId, &(AgentKey, Tick))| (held.0 == agent).then_some(*session);
        let sessions: Vec<SessionId> = self.gone.iter().filter_map(of_it).collect();
        for session in sessions {
            self.forget(session, now);
        }
    }

    fn forget(&mut self, session: SessionId, now: Tick) {
        self.gone.remove(&session);
        let ids: Vec<PoolId> = self.pools.keys().copied().collect();
        for id in ids {
            if let Some(pool) = self.touch(id) {
                pool.forget(session, now);
            }
        }
    }

    /// Everything that time made due: pools are looked at.
    pub(crate) fn pass(&mut self, now: Tick) {
        self.armed = None;
        let over: Vec<SessionId> =
            self.gone.iter().filter(|(_, (_, until))| *until <= now).map(|(session, _)| *session).collect();
        for session in over {
            self.forget(session, now);
        }
        let due = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id);
        self.dirty.extend(due);
    }

    /// Pools that are to be looked at, once.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<PoolId> {
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Notes when a pool is to be looked at again.
    pub(crate) fn schedule(&mut self, id: PoolId, before: Option<Tick>) {
        let due = self.pools.get(&id).and_then(|pool| pool.due);
        if let Some(before) = before {
            self.due.remove(&(before, id));
        }
        self.due.extend(due.map(|due| (due, id)));
    }

    /// When anything is due.
    pub(crate) fn first_due(&self) -> Option<Tick> {
        let pools = self.due.first().map(|(at, _)| *at);
        let gone = self.gone.values().map(|(_, until)| *until).min();
        pools.into_iter().chain(gone).min()
    }

    /// An attempt was granted to an agent of the pool.
    pub(crate) fn started(
        &mut self,
        id: PoolId,
        meter: &ClassMeter,
        attempt: AttemptKey,
        now: Tick,
        patience: Span,
    ) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.started(now);
        let prefix = meter.meter.prefix;
        if pool.prefixes.begin(prefix, attempt, now, patience) {
            self.warming.insert(attempt.task, (id, prefix));
        }
        let before = pool.due;
        let wake = pool.prefixes.due().into_iter().chain(pool.next_start(now)).chain(before).min();
        pool.due = wake;
        self.schedule(id, before);
    }

    /// A task is no longer held. Says whether others waited for its attempt.
    pub(crate) fn ended(&mut self, attempt: AttemptKey) -> bool {
        let Some((id, prefix)) = self.warming.remove(&attempt.task) else { return false };
        self.touch(id).is_some_and(|pool| {
            let waited = pool.prefixes.ended(prefix, attempt);
            pool.opened |= waited;
            waited
        })
    }

    /// The cache of a pool knows the beginning of an attempt. Says whether others may have waited for that.
    pub(crate) fn warmed(&mut self, id: PoolId, prefix: u64, now: Tick) -> bool {
        self.touch(id).is_some_and(|pool| {
            let waited = pool.prefixes.warmed(prefix, now);
            pool.opened |= waited;
            waited
        })
    }

    /// No budget over any pool of a tenant is taken for used up, until somebody says so again.
    pub(crate) fn paid(&mut self, tenant: TenantId) {
        for pool in self.pools.values_mut().filter(|pool| pool.tenant == tenant) {
            pool.unpaid = None;
        }
    }

    /// Why tasks of a meter are not given to agents with these routes now. `old` is for conversations that go on.
    pub(crate) fn hold(&self, routes: &[Route], meter: Option<&ClassMeter>, old: bool) -> Option<Hold> {
        let meter = meter?;
        let pool = self.pools.get(&pool_of(routes, meter)?)?;
        if old {
            return pool.hold_old(&meter.meter.model_class);
        }
        pool.hold(&meter.meter.model_class, &meter.worker, meter.meter.prefix)
    }

    /// What does not hold.
    pub(crate) fn inconsistency(&self) -> Option<String> {
        let due: BTreeSet<(Tick, PoolId)> =
            self.pools.iter().filter_map(|(id, pool)| Some((pool.due?, *id))).collect();
        if due != self.due {
            return Some(format!("{due:?} are due, kept {:?}", self.due));
        }
        let broken = self
            .pools
            .values()
            .find_map(|pool| pool.inconsistency().map(|wrong| format!("pool {}: {wrong}", pool.name)));
        if broken.is_some() {
            return broken;
        }
        let mut waited = self.pools.values().flat_map(|pool| pool.prefixes.attempts());
        let stray = waited.find(|attempt| !self.warming.contains_key(&attempt.task));
        stray.map(|attempt| format!("{attempt} is waited for and nobody would say that it ended"))
    }

    /// A task is parked until a pool of that name lets it go on.
    pub(crate) fn park(&mut self, task: TaskKey, pool: Arc<str>) {
        self.parked.insert(task, pool);
    }

    /// It is parked no longer.
    pub(crate) fn unpark(&mut self, task: TaskKey) {
        self.parked.remove(&task);
    }

    /// Tasks that are parked, each with the name of its pool.
    pub(crate) fn parked(&self) -> &BTreeMap<TaskKey, Arc<str>> {
        &self.parked
    }

    /// Whether anything waits for a pool of that name.
    pub(crate) fn is_waited_for(&self, pool: &str) -> bool {
        self.parked.values().any(|name| **name == *pool)
    }

    /// Tasks whose attempts others wait for.
    pub(crate) fn warming(&self) -> impl Iterator<Item = TaskKey> + '_ {
        self.warming.keys().copied()
    }

    /// Sessions that agents of no stream had.
    pub(crate) fn gone(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.gone.keys().copied()
    }
}
