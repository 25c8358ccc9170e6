//! The order of waiting tasks of one class: priority, then run by fair share, then first come first served.
//! Knows no agents. Who may run what is decided around it.
//!
//! **Ageing.** A task that waited for [`Config::ageing`] (10 min) counts one level ([`Config::ageing_step`], 50, the
//! distance of `medium` and `high`) more, again and again, but never more than `high` (100) unless it was submitted
//! above. So `medium` draws level with `high` after 10 min and `low` after 20, and a high number is never overtaken, only
//! shared with. Raising costs each task at most one move a level, and is done when the queue is next looked at.
//!
//! **Passed over.** A run that may not start anything, because a budget over it is used up, is taken out of the order when its
//! task would be next, and put back when that is over: what stands behind it pays one look, not one a task.
//!
//! **Fair share.** Every grant costs its run one pass and its tenant one pass; the smaller pass goes first. Passes are
//! kept once for all queues ([`Passes`]); the copies in a queue are brought up to date when they come to the front,
//! which is enough because passes only rise.

use crate::config::Config;
use crate::ids::{RunId, TaskIndex, TaskKey, TenantId};
use crate::schedule::stretches::{Indexed, Stretches};
use crate::time::Tick;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Priority with ageing; larger first.
pub(crate) type Band = Reverse<i32>;

/// A task as a queue knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) task: TaskKey,
    pub(crate) priority: i32,
    /// Levels it was raised.
    pub(crate) level: u32,
    pub(crate) since: Tick,
}

/// The first of a queue, ordered like the queues' heads against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Head {
    pub(crate) band: Band,
    pub(crate) tenant_pass: u64,
    pub(crate) run_pass: u64,
    pub(crate) since: Tick,
    pub(crate) task: TaskKey,
}

/// Waiting tasks.
#[derive(Debug, Default, Hash)]
pub(crate) struct Queue {
    waiting: Stretches<Place>,
    /// Runs that have tasks here, by band and pass. The pass may be too small, never too large.
    runs: BTreeSet<(Band, u64, RunId)>,
    /// The pass under which a run stands in `runs`.
    passes: BTreeMap<(Band, RunId), u64>,
    /// Tasks by level and then age; [`TOP`] for those that rise no further.
    ages: BTreeMap<u32, Stretches<Age>>,
    /// Nobody rises before this.
    quiet_until: Tick,
    /// Runs that are passed over, by band: they have passes, and do not stand in `runs`.
    held: BTreeSet<(Band, RunId)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    band: Band,
    run: RunId,
    since: Tick,
    index: TaskIndex,
}

/// Since when a task has waited.
type Age = (Tick, RunId, TaskIndex);

impl Indexed for Place {
    fn index(self) -> TaskIndex {
        self.index
    }

    fn at(self, index: TaskIndex) -> Self {
        Self { index, ..self }
    }
}

impl Indexed for Age {
    fn index(self) -> TaskIndex {
        self.2
    }

    fn at(self, index: TaskIndex) -> Self {
        (self.0, self.1, index)
    }
}

/// The level of tasks that have reached the ceiling.
const TOP: u32 = u32::MAX;

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn push(&mut self, entry: Entry, passes: &Passes, config: &Config) {
        let band = band(entry.priority, entry.level, config);
        let run = entry.task.run;
        self.waiting.insert(Place { band, run, since: entry.since, index: entry.task.index });
        self.passes.entry((band, run)).or_insert_with(|| {
            let pass = passes.of_run(run);
            self.runs.insert((band, pass, run));
            pass
        });
        let level = age_level(&entry, config);
        self.ages.entry(level).or_default().insert((entry.since, run, entry.task.index));
        if level != TOP {
            self.quiet_until = self.quiet_until.min(rises_at(entry.since, level, config));
        }
    }

    /// Whether it was here.
    pub(crate) fn remove(&mut self, entry: Entry, config: &Config) -> bool {
        let band = band(entry.priority, entry.level, config);
        let run = entry.task.run;
        if !self.waiting.remove(Place { band, run, since: entry.since, index: entry.task.index }) {
            return false;
        }
        if self.first_of(band, run).is_none()
            && let Some(pass) = self.passes.remove(&(band, run))
        {
            self.runs.remove(&(band, pass, run));
            self.held.remove(&(band, run));
        }
        let level = age_level(&entry, config);
        if let Some(ages) = self.ages.get_mut(&level) {
            ages.remove((entry.since, run, entry.task.index));
            if ages.is_empty() {
                self.ages.remove(&level);
            }
        }
        true
    }

    /// The task that is next, with its band and the pass of its run.
    pub(crate) fn first(&mut self, passes: &Passes) -> Option<(Band, u64, Tick, TaskKey)> {
        loop {
            let (band, pass, run) = *self.runs.first()?;
            let current = passes.of_run(run);
            if pass == current {
                let place = self.first_of(band, run)?;
                return Some((band, pass, place.since, TaskKey { run, index: place.index }));
            }
            self.runs.remove(&(band, pass, run));
            self.runs.insert((band, current, run));
            self.passes.insert((band, run), current);
        }
    }

    /// Passes over the run whose task would be next, in that band, until [`Queue::unhold`].
    pub(crate) fn hold_first(&mut self) {
        if let Some((band, _, run)) = self.runs.pop_first() {
            self.held.insert((band, run));
        }
    }

    /// Passes over nobody any more.
    pub(crate) fn unhold(&mut self, passes: &Passes) {
        for (band, run) in std::mem::take(&mut self.held) {
            let pass = passes.of_run(run);
            self.passes.insert((band, run), pass);
            self.runs.insert((band, pass, run));
        }
    }

    /// Tasks of those runs of which `picks` says so. It is asked once for each run and band, about one task of them.
    pub(crate) fn count_of_runs(&self, picks: impl Fn(TaskKey) -> bool) -> u64 {
        let picked = |band: &Band, run: RunId| {
            self.first_of(*band, run).is_some_and(|place| picks(TaskKey { run, index: place.index }))
        };
        let runs = self.passes.keys().filter(|(band, run)| picked(band, *run));
        runs.map(|(band, run)| self.from(*band, *run).count() as u64).sum()
    }

    /// Since when the one that waits longest has waited.
    pub(crate) fn oldest(&self) -> Option<Tick> {
        self.ages.values().filter_map(Stretches::first).map(|(since, _, _)| since).min()
    }

    /// Tasks that have waited since `tick` or longer.
    pub(crate) fn since_up_to(&self, tick: Tick) -> Vec<TaskKey> {
        let old = self.ages.values().flat_map(|ages| ages.iter().take_while(|(since, _, _)| *since <= tick));
        old.map(|(_, run, index)| TaskKey { run, index }).collect()
    }

    /// Tasks that are due to rise, with their new level. The caller removes them and pushes them again.
    pub(crate) fn due_to_rise(&mut self, now: Tick, config: &Config) -> Vec<(TaskKey, u32)> {
        if now < self.quiet_until {
            return Vec::new();
        }
        let mut due = Vec::new();
        let mut quiet_until = Tick(u64::MAX);
        for (level, ages) in self.ages.range(..TOP) {
            for (since, run, index) in ages.iter() {
                let rises_at = rises_at(since, *level, config);
                if rises_at > now {
                    quiet_until = quiet_until.min(rises_at);
                    break;
                }
                let waited = (now - since).0 / config.ageing.0.max(1);
                let task = TaskKey { run, index };
                due.push((task, u32::try_from(waited).unwrap_or(TOP - 1)));
            }
        }
        self.quiet_until = quiet_until;
        due
    }

    /// Every task, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = TaskKey> + '_ {
        self.waiting.iter().map(|place| TaskKey { run: place.run, index: place.index })
    }

    /// Tasks of one run.
    pub(crate) fn of_run(&self, run: RunId) -> impl Iterator<Item = TaskKey> + '_ {
        let bands = self.passes.keys().filter(move |(_, owner)| *owner == run).map(|(band, _)| *band);
        bands.flat_map(move |band| self.from(band, run)).map(move |place| TaskKey { run, index: place.index })
    }

    pub(crate) fn contains(&self, entry: Entry, config: &Config) -> bool {
        let band = band(entry.priority, entry.level, config);
        self.waiting.contains(Place {
            band,
            run: entry.task.run,
            since: entry.since,
            index: entry.task.index,
        })
    }

    /// What is wrong with the indexes, if anything.
    pub(crate) fn inconsistency(&self, passes: &Passes) -> Option<String> {
        let aged: usize = self.ages.values().map(Stretches::len).sum();
        if aged != self.waiting.len() {
            return Some(format!("{aged} tasks by age, {} by order", self.waiting.len()));
        }
        let keyed: BTreeSet<(Band, u64, RunId)> = self
            .passes
            .iter()
            .filter(|(key, _)| !self.held.contains(key))
            .map(|((band, run), pass)| (*band, *pass, *run))
            .collect();
        if keyed != self.runs {
            return Some("runs by pass and passes by run differ".to_owned());
        }
        let present: BTreeSet<(Band, RunId)> =
            self.waiting.iter().map(|place| (place.band, place.run)).collect();
        if present != self.passes.keys().copied().collect() {
            return Some("a run without tasks, or tasks without a run".to_owned());
        }
        let ahead = self.runs.iter().find(|(_, pass, run)| *pass > passes.of_run(*run));
        ahead.map(|(_, _, run)| format!("the pass of run {run} is ahead of its own"))
    }

    fn from(&self, band: Band, run: RunId) -> impl Iterator<Item = Place> {
        self.waiting
            .from(Place { band, run, since: Tick(0), index: TaskIndex(0) })
            .take_while(move |place| place.band == band && place.run == run)
    }

    fn first_of(&self, band: Band, run: RunId) -> Option<Place> {
        self.from(band, run).next()
    }
}

/// Priority after `level` levels of ageing.
fn band(priority: i32, level: u32, config: &Config) -> Band {
    let ceiling = config.ageing_ceiling.max(priority);
    let raised = i64::from(priority) + i64::from(config.ageing_step) * i64::from(level);
    Reverse(i32::try_from(raised).unwrap_or(i32::MAX).min(ceiling))
}

fn age_level(entry: &Entry, config: &Config) -> u32 {
    let at_top = band(entry.priority, entry.level, config).0 >= config.ageing_ceiling.max(entry.priority);
    if at_top { TOP } else { entry.level }
}

fn rises_at(since: Tick, level: u32, config: &Config) -> Tick {
    Tick(since.0.saturating_add(config.ageing.0.saturating_mul(u64::from(level) + 1)))
}

/// What every run and tenant was granted so far, as stride passes with equal shares.
#[derive(Debug, Default, Hash)]
pub(crate) struct Passes {
    tenants: BTreeMap<TenantId, TenantPass>,
    runs: BTreeMap<RunId, u64>,
    /// Pass of the tenant granted to last: where a tenant that was idle starts again.
    floor: u64,
}

#[derive(Debug, Default, Clone, Copy, Hash)]
struct TenantPass {
    pass: u64,
    /// Pass of its run granted to last: where a new run starts.
    run_floor: u64,
}

impl Passes {
    pub(crate) fn of_run(&self, run: RunId) -> u64 {
        self.runs.get(&run).copied().unwrap_or(0)
    }

    pub(crate) fn of_tenant(&self, tenant: TenantId) -> u64 {
        self.tenants.get(&tenant).map_or(0, |held| held.pass)
    }

    /// A task of the run becomes ready: who was idle must not be owed for the time it was.
    pub(crate) fn enter(&mut self, tenant: TenantId, run: RunId) {
        let held = self.tenants.entry(tenant).or_default();
        held.pass = held.pass.max(self.floor);
        let pass = self.runs.entry(run).or_default();
        *pass = (*pass).max(held.run_floor);
    }

    /// A task of the run was granted.
    pub(crate) fn charge(&mut self, tenant: TenantId, run: RunId) {
        let held = self.tenants.entry(tenant).or_default();
        self.floor = self.floor.max(held.pass);
        held.pass += 1;
        let pass = self.runs.entry(run).or_default();
        held.run_floor = held.run_floor.max(*pass);
        *pass += 1;
    }

    /// The run ended.
    pub(crate) fn forget(&mut self, run: RunId) {
        self.runs.remove(&run);
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = RunId> + '_ {
        self.runs.keys().copied()
    }
}

#[cfg(test)]
mod tests;
