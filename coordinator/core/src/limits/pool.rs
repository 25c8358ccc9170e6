//! One credential pool: how it stands, its classes of models, who uses it, and what agents were told of it.
//! Knows sessions as numbers; refuses to know tasks and queues.

use crate::ids::{AgentKey, SessionId, TenantId};
use crate::limits::account::PERMITS;
use crate::limits::class::{Holder, ModelClass, Permits};
use crate::limits::gate::{Gate, Meaning};
use crate::limits::prefix::Prefixes;
use crate::limits::starts::Starts;
use crate::limits::{BucketSettings, LimitReport, LimitSignal, MeterId, PoolNotice, PoolSettings, PoolState};
use crate::time::{Span, Tick};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Classes of models and workers of one session that are kept: more is a mistake.
const MOST_CLASSES: usize = 32;
const MOST_ACCOUNTS: usize = 20_000;
/// How long an attempt that started to try whether the API is back has for its first request.
const LONGEST_TRY: Span = Span::seconds(60);

/// What an agent says of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub(crate) gateway: bool,
    pub(crate) fingerprint: Vec<u8>,
}

/// Why a class of tasks is given to no agent of a pool now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Hold {
    /// A window is used up.
    Exhausted,
    /// It is open again, and those that were interrupted go on first.
    Resuming,
    /// The API fails.
    Failing,
    /// So many attempts a minute, and no more.
    Starts,
    /// So much waits for credit already that what is started would only wait as well.
    Congested,
    /// Another attempt brings the common beginning into the cache.
    Warming,
    /// A budget over the pool is used up.
    Unpaid,
}

/// A credential pool.
#[derive(Debug, Hash)]
pub(crate) struct Pool {
    pub(crate) tenant: TenantId,
    pub(crate) name: Arc<str>,
    pub(crate) settings: PoolSettings,
    /// Known agents that tell it.
    pub(crate) users: BTreeMap<AgentKey, User>,
    gates: BTreeMap<Arc<str>, Gate>,
    pub(crate) classes: BTreeMap<Arc<str>, ModelClass>,
    pub(crate) permits: Permits,
    starts: Starts,
    /// No attempt may be started before the timer says so.
    starts_spent: bool,
    /// Until then only what was interrupted goes on.
    pub(crate) resuming: Option<Tick>,
    /// Somebody may start although the API fails: to try whether it is back.
    probing: bool,
    /// Until then the one that started for that is waited for.
    trying: Option<Tick>,
    /// The budget over it that is used up: nothing of it starts.
    pub(crate) unpaid: Option<Arc<str>>,
    pub(crate) prefixes: Prefixes,
    /// Throttles by the minute, the last hour.
    throttles: BTreeMap<u64, u32>,
    /// What agents were told last.
    told: BTreeMap<Arc<str>, Told>,
    /// Accounts whose totals may be other than their agents know.
    changed: BTreeSet<(Arc<str>, Holder)>,
    /// Tasks may be granted that were not before.
    pub(crate) opened: bool,
    /// When it is to be looked at again.
    pub(crate) due: Option<Tick>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Told {
    state: PoolState,
    until: Option<Tick>,
    window: Arc<str>,
    metered: bool,
}

/// What a look at a pool came to.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Who has more credit: class of models and account.
    pub(crate) served: BTreeSet<(Arc<str>, Holder)>,
    /// What agents are to be told.
    pub(crate) notices: Vec<PoolNotice>,
    /// Tasks may be granted that were not before.
    pub(crate) opened: bool,
    /// Who is to try whether the API is back, and of which class.
    pub(crate) probe: Option<(Arc<str>, SessionId)>,
}

impl Pool {
    pub(crate) fn new(tenant: TenantId, name: Arc<str>) -> Self {
        Self {
            tenant,
            name,
            settings: PoolSettings::default(),
            users: BTreeMap::new(),
            gates: BTreeMap::new(),
            classes: BTreeMap::new(),
            permits: Permits::default(),
            starts: Starts::default(),
            starts_spent: false,
            resuming: None,
            probing: false,
            trying: None,
            unpaid: None,
            prefixes: Prefixes::default(),
            throttles: BTreeMap::new(),
            told: BTreeMap::new(),
            changed: BTreeSet::new(),
            opened: false,
            due: None,
        }
    }

    /// An operator's limits, in place of those before.
    pub(crate) fn configure(&mut self, settings: PoolSettings) {
        self.settings = settings;
        self.opened = true;
        self.permits.most = self.settings.max_concurrent.map(u64::from);
        self.starts.limit(self.settings.starts_per_minute);
        let share = self.settings.share();
        let names: Vec<Arc<str>> = self.classes.keys().cloned().collect();
        for name in names {
            let settings = row(&self.settings.buckets, &name);
            let Some(class) = self.classes.get_mut(&name) else { continue };
            class.configure(settings, share);
            class.shares.clear();
            class.tight.clear();
        }
    }

    fn class(&mut self, name: &Arc<str>, now: Tick) -> Option<&mut ModelClass> {
        if !self.classes.contains_key(name) {
            if self.classes.len() >= MOST_CLASSES {
                return None;
            }
            let mut class = ModelClass::new(now);
            class.configure(row(&self.settings.buckets, name), self.settings.share());
            self.classes.insert(Arc::clone(name), class);
        }
        self.classes.get_mut(name)
    }

    pub(crate) fn is_metered(&self) -> bool {
        let configured = |rows: &[(Arc<str>, BucketSettings)]| {
            rows.iter().any(|(_, row)| *row != BucketSettings::default())
        };
        self.permits.most.is_some()
            || configured(&self.settings.buckets)
            || configured(&self.settings.per_worker)
            || self.classes.values().any(ModelClass::is_limited)
    }

    /// Takes a report over.
    pub(crate) fn report(&mut self, session: SessionId, report: &LimitReport, now: Tick) {
        let worker = Arc::clone(&report.meter.worker);
        let holder = Holder { session, worker };
        let share = row(&self.settings.per_worker, &report.meter.model_class);
        let room = self.classes.values().map(|class| class.accounts.len()).sum::<usize>() < MOST_ACCOUNTS;
        let Some(class) = self.class(&report.meter.model_class, now) else { return };
        if !room && !class.accounts.contains_key(&holder) {
            return;
        }
        class.share(&holder.worker, share, now);
        let before = class.accounts.get(&holder).map_or(0, |held| held.account.held()[PERMITS]);
        let moved = class.report(&holder, report, now);
        let after = class.accounts.get(&holder).map_or(0, |held| held.account.held()[PERMITS]);
        if let Some(headers) = report.headers {
            class.headers(headers, now);
        }
        self.permits.held = self.permits.held.saturating_sub(before).saturating_add(after);
        self.changed.insert((Arc::clone(&report.meter.model_class), holder.clone()));
        if moved.used[0] > 0 && !self.is_paused(&report.meter.model_class) {
            let Some(class) = self.classes.get_mut(&report.meter.model_class) else { return };
            class.ahead(&holder, &mut self.permits);
        }
    }

    /// Takes a signal over.
    pub(crate) fn signal(&mut self, signal: &LimitSignal, now: Tick, longest: Span) -> Meaning {
        let known = self.gates.len() < MOST_CLASSES || self.gates.contains_key(&signal.model_class);
        let name = if known { Arc::clone(&signal.model_class) } else { Arc::default() };
        let gate = self.gates.entry(Arc::clone(&name)).or_default();
        let closed = |gate: &Gate| matches!(gate.state, PoolState::Exhausted | PoolState::Failing);
        let before = closed(gate);
        let meaning = gate.signal(signal, now, longest);
        self.opened |= before && !closed(gate);
        if meaning == Meaning::Slower {
            let until = gate.until.unwrap_or(now);
            let minute = now.0 / 60_000;
            let count = self.throttles.entry(minute).or_default();
            *count = count.saturating_add(1);
            self.throttles.retain(|at, _| *at + 60 > minute);
            let later = if signal.model_class.is_empty() {
                self.classes.values_mut().map(|class| class.throttled(now, until)).max()
            } else {
                self.class(&signal.model_class, now).map(|class| class.throttled(now, until))
            };
            if let Some(gate) = self.gates.get_mut(&name) {
                gate.until = gate.until.max(later);
            }
        }
        meaning
    }

    /// The worse of the gate of all models and that of one class.
    pub(crate) fn gate(&self, class: &str) -> Option<&Gate> {
        let all = self.gates.get("");
        let own = if class.is_empty() { None } else { self.gates.get(class) };
        match (all, own) {
            (Some(all), Some(own)) if own.severity() >= all.severity() => Some(own),
            (Some(gate), _) | (None, Some(gate)) => Some(gate),
            (None, None) => None,
        }
    }

    /// The worst of all gates, with its class.
    pub(crate) fn worst(&self) -> Option<(&Arc<str>, &Gate)> {
        self.gates.iter().max_by_key(|(_, gate)| gate.severity())
    }

    fn is_paused(&self, class: &str) -> bool {
        self.gate(class).is_some_and(|gate| gate.state != PoolState::Open)
    }

    /// Until when nothing of a class begins, where a window is used up.
    pub(crate) fn exhausted_until(&self, class: &str) -> Option<Tick> {
        let gate = self.gate(class).filter(|gate| gate.state == PoolState::Exhausted)?;
        gate.until
    }

    /// Why a conversation that was interrupted does not go on now.
    pub(crate) fn hold_old(&self, class: &str) -> Option<Hold> {
        if self.unpaid.is_some() {
            return Some(Hold::Unpaid);
        }
        match self.gate(class).map(|gate| gate.state)? {
            PoolState::Exhausted => Some(Hold::Exhausted),
            PoolState::Failing => (!self.probing).then_some(Hold::Failing),
            PoolState::Open | PoolState::Throttled => None,
        }
    }

    /// Why nothing of a class of tasks is started now.
    pub(crate) fn hold(&self, class: &str, worker: &str, prefix: u64) -> Option<Hold> {
        if let Some(hold) = self.hold_old(class) {
            return Some(hold);
        }
        if self.resuming.is_some() {
            return Some(Hold::Resuming);
        }
        if self.starts_spent {
            return Some(Hold::Starts);
        }
        let tight = |class: &ModelClass| class.congested || class.tight.contains(worker);
        if self.classes.get(class).is_some_and(tight) {
            return Some(Hold::Congested);
        }
        self.prefixes.warming(prefix).map(|_| Hold::Warming)
    }

    /// An attempt of it was granted.
    pub(crate) fn started(&mut self, now: Tick) {
        if std::mem::take(&mut self.probing) {
            self.trying = Some(now + LONGEST_TRY);
        }
        self.starts.note(now);
        self.starts_spent = self.starts.wait(now).is_some();
    }

    /// When another attempt may be started, if not now.
    pub(crate) fn next_start(&self, now: Tick) -> Option<Tick> {
        self.starts.wait(now)
    }

    /// Looks at everything that time or a report may have changed. After a window was reset, nothing new is started for
    /// `resume`, if something was parked: its agents' slots are for that.
    pub(crate) fn look(&mut self, now: Tick, resume: Option<Span>) -> Looked {
        let mut looked = Looked { served: std::mem::take(&mut self.changed), ..Looked::default() };
        let mut expired = false;
        for gate in self.gates.values_mut() {
            let was = gate.state;
            if gate.expire(now) {
                expired = true;
                if was == PoolState::Exhausted {
                    self.resuming = self.resuming.max(resume.map(|span| now + span));
                }
            }
        }
        let prefixes = self.prefixes.expire(now);
        let resumed = self.resuming.is_some_and(|until| until <= now);
        if resumed {
            self.resuming = None;
        }
        let spent = self.starts.wait(now).is_some();
        let starts = std::mem::replace(&mut self.starts_spent, spent) && !spent;
        looked.opened = std::mem::take(&mut self.opened) || expired || prefixes || resumed || starts;
        let mut due = None;
        let names: Vec<Arc<str>> = self.classes.keys().cloned().collect();
        for name in names {
            if !self.is_paused(&name)
                && let Some(class) = self.classes.get_mut(&name)
            {
                let (served, next) = class.deal(now, &mut self.permits);
                looked.served.extend(served.into_iter().map(|holder| (Arc::clone(&name), holder)));
                due = due.into_iter().chain(next).min();
            }
            looked.opened |= self.classes.get_mut(&name).is_some_and(ModelClass::judge);
        }
        self.probe(now, &mut looked);
        looked.notices = self.news(now);
        self.due = self.next_due(now, due);
        looked
    }

    /// Lets one try whether the API is back: a request that waits, else an attempt. Where neither is there, the next that
    /// comes does: requests wait but shortly for an API that fails.
    fn probe(&mut self, now: Tick, looked: &mut Looked) {
        let names: Vec<Arc<str>> = self.gates.keys().cloned().collect();
        for name in names {
            let Some(gate) = self.gates.get_mut(&name).filter(|gate| gate.may_probe(now)) else { continue };
            let mine = |class: &&Arc<str>| name.is_empty() || **class == name;
            let waits = self.classes.iter().filter(|(class, _)| mine(class));
            let waits =
                waits.filter(|(_, class)| class.has_waiting()).map(|(class, _)| class).next().cloned();
            if let Some(class) = waits
                && let Some(held) = self.classes.get_mut(&class)
                && let Some(holder) = held.probe(&mut self.permits)
            {
                gate.probed(now);
                (self.probing, self.trying) = (false, None);
                looked.probe = Some((name, holder.session));
                looked.served.insert((class, holder));
            } else if !self.probing && self.trying.is_none_or(|until| until <= now) {
                (self.probing, self.trying) = (true, None);
                looked.opened = true;
            }
        }
        if self.gates.values().all(|gate| gate.state != PoolState::Failing) {
            looked.opened |= self.probing;
            (self.probing, self.trying) = (false, None);
        }
    }

    fn next_due(&self, now: Tick, credit: Option<Tick>) -> Option<Tick> {
        // What waits for somebody who tries is not waited for.
        let gates = self.gates.values().filter(|gate| gate.state != PoolState::Open && !gate.may_probe(now));
        let starts = self.starts.wait(now);
        let all = gates.filter_map(|gate| gate.until).chain(credit).chain(starts);
        let trying = self.trying.filter(|_| self.gates.values().any(|gate| gate.may_probe(now)));
        let all = all.chain(self.resuming).chain(self.prefixes.due()).chain(trying);
        // Whatever is due now was done; what is late is looked at again, but never in a circle.
        all.map(|due| due.max(now + Span(1))).min()
    }

    /// What is other than agents were told.
    fn news(&mut self, now: Tick) -> Vec<PoolNotice> {
        let metered = self.is_metered();
        let mut names: BTreeSet<Arc<str>> = self.gates.keys().cloned().collect();
        names.insert(Arc::default());
        let mut notices = Vec::new();
        for name in names {
            let gate = self.gate(&name);
            let is = Told {
                state: gate.map_or(PoolState::Open, |gate| gate.state),
                until: gate.and_then(|gate| gate.until),
                window: gate.map_or_else(Arc::default, |gate| Arc::clone(&gate.window)),
                metered,
            };
            let before = self.told.get(&name);
            if before == Some(&is) || (before.is_none() && is == Told::nothing()) {
                continue;
            }
            notices.push(is.notice(&self.name, &name, now));
            self.told.insert(name, is);
        }
        notices
    }

    /// What a session that is new has to know.
    pub(crate) fn standing(&self, now: Tick) -> Vec<PoolNotice> {
        let told = self.told.iter().filter(|(_, told)| **told != Told::nothing());
        told.map(|(class, told)| told.notice(&self.name, class, now)).collect()
    }

    /// The totals of an account, if they are not what its agent knows.
    pub(crate) fn tell(
        &mut self,
        class: &Arc<str>,
        holder: &Holder,
    ) -> Option<(MeterId, crate::limits::Amounts)> {
        let granted = self.classes.get_mut(class)?.accounts.get_mut(holder)?.account.tell()?;
        let (pool, model_class) = (Arc::clone(&self.name), Arc::clone(class));
        Some((MeterId { pool, model_class, worker: Arc::clone(&holder.worker) }, granted))
    }

    /// Whether a session has an account.
    pub(crate) fn has_credit(&self, session: SessionId) -> bool {
        self.classes.values().any(|class| class.has_credit(session))
    }

    /// A session ended long ago.
    pub(crate) fn forget(&mut self, session: SessionId, now: Tick) {
        for class in self.classes.values_mut() {
            let permits = class.forget(session, now);
            self.permits.held = self.permits.held.saturating_sub(permits);
        }
    }

    /// Throttles in the last hour.
    pub(crate) fn throttled(&self, now: Tick) -> u64 {
        let recent = self.throttles.iter().filter(|(minute, _)| **minute + 60 > now.0 / 60_000);
        recent.map(|(_, count)| u64::from(*count)).sum()
    }

    /// Whether nothing of it is worth keeping.
    pub(crate) fn is_idle(&self) -> bool {
        let shut = self.gates.values().any(|gate| gate.state != PoolState::Open);
        let used = self.classes.values().any(|class| !class.accounts.is_empty());
        self.users.is_empty() && !shut && !used && self.prefixes.attempts().next().is_none()
    }

    /// What does not hold.
    pub(crate) fn inconsistency(&self) -> Option<String> {
        let held = self.classes.values().flat_map(|class| class.accounts.values());
        let held = held.fold(0u64, |sum, held| sum.saturating_add(held.account.held()[PERMITS]));
        if held != self.permits.held {
            return Some(format!("{held} permits with agents, kept {}", self.permits.held));
        }
        self.classes.values().find_map(ModelClass::inconsistency)
    }
}

impl Told {
    /// What agents take for granted.
    fn nothing() -> Self {
        Self { state: PoolState::Open, until: None, window: Arc::default(), metered: false }
    }

    fn notice(&self, pool: &Arc<str>, class: &Arc<str>, now: Tick) -> PoolNotice {
        PoolNotice {
            pool: Arc::clone(pool),
            model_class: Arc::clone(class),
            state: self.state,
            left: self.until.map(|until| until - now),
            window: Arc::clone(&self.window),
            metered: self.metered,
        }
    }
}

/// The settings of a class: its own, else those of every class that has none.
fn row(rows: &[(Arc<str>, BucketSettings)], class: &str) -> BucketSettings {
    let of = |name: &str| rows.iter().find(|(row, _)| **row == *name).map(|(_, settings)| *settings);
    of(class).or_else(|| of("")).unwrap_or_default()
}
