//! What is remembered of runs beyond the live ones: names and numbers, request ids, and finished runs until retention
//! deletes them. A few dozen bytes a run; everything else of a finished run is in the store.

use crate::ids::{RunId, TenantId};
use crate::names::NameId;
use crate::run::RunState;
use crate::time::{Span, Tick};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Names, numbers, request ids, finished runs.
#[derive(Debug, Default, Hash)]
pub(crate) struct Register {
    /// The newest run id ever given out.
    pub(crate) last_run: RunId,
    /// No run of any name gets a number up to this one: what a restore left behind.
    pub(crate) number_floor: u64,
    numbers: BTreeMap<(TenantId, NameId), Numbers>,
    newest_by: BTreeMap<(TenantId, NameId), RunId>,
    pub(crate) requests: Requests,
    pub(crate) finished: Finished,
    /// Runs that have tasks which ended as poison, live or not, and how many.
    pub(crate) dead: BTreeMap<(TenantId, RunId), u32>,
}

/// The runs of one name.
#[derive(Debug, Default, Hash)]
struct Numbers {
    last: u64,
    runs: BTreeMap<u64, RunId>,
}

impl Register {
    pub(crate) fn next_run(&mut self) -> RunId {
        self.last_run.0 += 1;
        self.last_run
    }

    /// The number a new run of that name gets.
    pub(crate) fn next_number(&self, tenant: TenantId, name: NameId) -> u64 {
        self.last_number(tenant, name).max(self.number_floor) + 1
    }

    pub(crate) fn last_number(&self, tenant: TenantId, name: NameId) -> u64 {
        self.numbers.get(&(tenant, name)).map_or(0, |numbers| numbers.last)
    }

    /// Numbers up to `last` are taken.
    pub(crate) fn note_number(&mut self, tenant: TenantId, name: NameId, last: u64) {
        let numbers = self.numbers.entry((tenant, name)).or_default();
        numbers.last = numbers.last.max(last);
    }

    /// Enters a run. Returns the run that has its name and number already, if any.
    pub(crate) fn enter(
        &mut self,
        (tenant, name, number): (TenantId, NameId, u64),
        submitted_by: NameId,
        run: RunId,
    ) -> Option<RunId> {
        self.last_run = self.last_run.max(run);
        self.note_number(tenant, name, number);
        let newest = self.newest_by.entry((tenant, submitted_by)).or_insert(run);
        *newest = run.max(*newest);
        self.numbers.entry((tenant, name)).or_default().runs.insert(number, run)
    }

    pub(crate) fn by_number(&self, tenant: TenantId, name: NameId, number: u64) -> Option<RunId> {
        self.numbers.get(&(tenant, name))?.runs.get(&number).copied()
    }

    pub(crate) fn newest_by(&self, tenant: TenantId, submitted_by: NameId) -> Option<RunId> {
        self.newest_by.get(&(tenant, submitted_by)).copied()
    }

    /// Runs of a name, newest first.
    pub(crate) fn by_name(&self, tenant: TenantId, name: NameId) -> impl Iterator<Item = RunId> + '_ {
        self.numbers.get(&(tenant, name)).into_iter().flat_map(|held| held.runs.values().rev().copied())
    }

    /// Runs of a tenant that have tasks which ended as poison, and how many: newest first, from one on.
    pub(crate) fn dead_from(&self, tenant: TenantId, from: RunId) -> impl Iterator<Item = (RunId, u32)> + '_ {
        let range = self.dead.range((tenant, RunId(0))..=(tenant, from));
        range.rev().map(|((_, run), count)| (*run, *count))
    }

    /// Forgets a run but not its number.
    pub(crate) fn leave(&mut self, run: RunId, held: &FinishedRun) {
        if let Some(numbers) = self.numbers.get_mut(&(held.tenant, held.name)) {
            numbers.runs.remove(&held.number);
        }
        if self.newest_by.get(&(held.tenant, held.submitted_by)) == Some(&run) {
            self.newest_by.remove(&(held.tenant, held.submitted_by));
        }
    }
}

/// Request ids, for as long as a repetition must be recognised.
#[derive(Debug, Default, Hash)]
pub(crate) struct Requests {
    by_id: BTreeMap<(TenantId, Arc<str>), Request>,
    /// By tick; an entry whose request came again meanwhile is stale.
    order: VecDeque<(Tick, TenantId, Arc<str>)>,
}

/// What a request id stands for: a submit, tasks of a run that were tried again, or the answer to a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) run: RunId,
    pub(crate) digest: [u8; 32],
    pub(crate) at: Tick,
    /// Of a retry: how many tasks it queued; of the answer to a plan: 0. Such a request has a record of its own.
    pub(crate) retried: Option<u32>,
}

impl Request {
    /// One that is not remembered with its run; its moment is entered when it is noted.
    pub(crate) const fn answered(run: RunId, digest: [u8; 32], retried: u32) -> Self {
        Self { run, digest, at: Tick(0), retried: Some(retried) }
    }
}

impl Requests {
    pub(crate) fn get(&self, tenant: TenantId, id: &Arc<str>) -> Option<&Request> {
        if id.is_empty() {
            return None;
        }
        self.by_id.get(&(tenant, Arc::clone(id)))
    }

    /// Remembers a request; ids that are empty are none. Of two with one id, as a restore may find because runs are kept
    /// longer than ids, the later counts. Requests must come in the order of their ticks, or
    /// [`Requests::sort`] be called before the first is forgotten.
    pub(crate) fn note(&mut self, tenant: TenantId, id: &Arc<str>, request: Request) {
        if id.is_empty() {
            return;
        }
        self.order.push_back((request.at, tenant, Arc::clone(id)));
        let held = self.by_id.entry((tenant, Arc::clone(id))).or_insert(request);
        if held.at <= request.at {
            *held = request;
        }
    }

    pub(crate) fn sort(&mut self) {
        self.order.make_contiguous().sort();
    }

    /// When the next is to be forgotten.
    pub(crate) fn deadline(&self, keep: Span) -> Option<Tick> {
        self.order.front().map(|(at, _, _)| *at + keep)
    }

    /// Forgets what is old enough. Returns the requests that have a record of their own.
    pub(crate) fn forget_until(&mut self, now: Tick, keep: Span) -> Vec<(TenantId, Arc<str>)> {
        let mut recorded = Vec::new();
        while self.deadline(keep).is_some_and(|due| due <= now) {
            let Some((at, tenant, id)) = self.order.pop_front() else { break };
            let key = (tenant, id);
            let Some(held) = self.by_id.get(&key).filter(|held| held.at == at) else { continue };
            let own_record = held.retried.is_some();
            self.by_id.remove(&key);
            if own_record {
                recorded.push(key);
            }
        }
        recorded
    }

    /// Every remembered id has its place in the order of forgetting.
    pub(crate) fn is_consistent(&self) -> bool {
        let sorted = self.order.iter().zip(self.order.iter().skip(1)).all(|(a, b)| a.0 <= b.0);
        let listed: BTreeSet<_> = self.order.iter().map(|(at, tenant, id)| (*at, *tenant, id)).collect();
        sorted && self.by_id.iter().all(|((tenant, id), request)| listed.contains(&(request.at, *tenant, id)))
    }
}

/// A run that is terminal, live or not.
#[derive(Debug, Clone, Hash)]
pub(crate) struct FinishedRun {
    pub(crate) tenant: TenantId,
    pub(crate) name: NameId,
    pub(crate) number: u64,
    pub(crate) submitted_by: NameId,
    pub(crate) state: RunState,
    pub(crate) tasks: u32,
    /// When it became terminal.
    pub(crate) at: Tick,
    /// When it became live or terminal last, while it is live.
    pub(crate) stays_since: Option<Tick>,
}

/// Finished runs, and the order in which they leave the state and then the store.
#[derive(Debug, Default, Hash)]
pub(crate) struct Finished {
    by_id: BTreeMap<RunId, FinishedRun>,
    /// Live ones by the tick since when they stay; entries whose run was tried again are stale.
    live: VecDeque<(Tick, RunId)>,
    live_count: usize,
    /// All by the tick they ended; entries whose run was tried again are stale.
    order: VecDeque<(Tick, RunId)>,
}

impl Finished {
    pub(crate) fn get(&self, run: RunId) -> Option<&FinishedRun> {
        self.by_id.get(&run)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RunId, &FinishedRun)> {
        self.by_id.iter().map(|(id, run)| (*id, run))
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live_count
    }

    /// Adds a run. Runs must come in the order of their ticks, or [`Finished::sort`] be called.
    pub(crate) fn add(&mut self, id: RunId, run: FinishedRun) {
        self.order.push_back((run.at, id));
        if let Some(since) = run.stays_since {
            self.live.push_back((since, id));
            self.live_count += 1;
        }
        self.by_id.insert(id, run);
    }

    /// A run that had left came back.
    pub(crate) fn came_back(&mut self, id: RunId, now: Tick) {
        if let Some(run) = self.by_id.get_mut(&id)
            && run.stays_since.is_none()
        {
            run.stays_since = Some(now);
            self.live.push_back((now, id));
            self.live_count += 1;
        }
    }

    /// A live run is no longer terminal.
    pub(crate) fn reopen(&mut self, id: RunId) {
        if self.by_id.remove(&id).is_some_and(|run| run.stays_since.is_some()) {
            self.live_count -= 1;
        }
    }

    pub(crate) fn sort(&mut self) {
        self.live.make_contiguous().sort_unstable();
        self.order.make_contiguous().sort_unstable();
    }

    /// The live run that stays longest, and since when.
    pub(crate) fn oldest_live(&mut self) -> Option<(Tick, RunId)> {
        while let Some((since, id)) = self.live.front().copied() {
            if self.by_id.get(&id).and_then(|run| run.stays_since) == Some(since) {
                return Some((since, id));
            }
            self.live.pop_front();
        }
        None
    }

    /// The run leaves the state.
    pub(crate) fn evict(&mut self, id: RunId) {
        if let Some(run) = self.by_id.get_mut(&id)
            && run.stays_since.take().is_some()
        {
            self.live_count -= 1;
        }
    }

    /// The run that ended first, and when.
    pub(crate) fn oldest(&mut self) -> Option<(Tick, RunId)> {
        while let Some((at, id)) = self.order.front().copied() {
            if self.by_id.get(&id).is_some_and(|run| run.at == at) {
                return Some((at, id));
            }
            self.order.pop_front();
        }
        None
    }

    /// The run leaves the store. It must not be live.
    pub(crate) fn remove(&mut self, id: RunId) -> Option<FinishedRun> {
        let run = self.by_id.remove(&id)?;
        debug_assert!(run.stays_since.is_none(), "run {id} is live");
        Some(run)
    }

    /// When the first live run has stayed for `stay`. Stale entries count: a look too early does no harm.
    pub(crate) fn live_deadline(&self, stay: Span) -> Option<Tick> {
        self.live.front().map(|(since, _)| *since + stay)
    }

    /// When the first run was kept for `keep`, in the same way.
    pub(crate) fn kept_deadline(&self, keep: Span) -> Option<Tick> {
        self.order.front().map(|(at, _)| *at + keep)
    }

    /// What is wrong with the orders, if anything.
    pub(crate) fn inconsistency(&self) -> Option<String> {
        let live = self.by_id.values().filter(|run| run.stays_since.is_some()).count();
        if live != self.live_count {
            return Some(format!("{live} finished runs are live, {} counted", self.live_count));
        }
        let kept: BTreeSet<_> = self.order.iter().copied().collect();
        let staying: BTreeSet<_> = self.live.iter().copied().collect();
        for (id, run) in &self.by_id {
            if !kept.contains(&(run.at, *id)) {
                return Some(format!("run {id} is in no order of deletion"));
            }
            if run.stays_since.is_some_and(|since| !staying.contains(&(since, *id))) {
                return Some(format!("run {id} would never leave"));
            }
        }
        let sorted =
            |order: &VecDeque<(Tick, RunId)>| order.iter().zip(order.iter().skip(1)).all(|(a, b)| a.0 <= b.0);
        (!sorted(&self.live) || !sorted(&self.order)).then(|| "an order is not sorted".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TenantId = TenantId(1);

    #[test]
    fn of_two_runs_with_one_request_id_the_later_counts_and_is_remembered_its_whole_time() {
        let id: Arc<str> = "key".into();
        let request = |run, at| Request { run: RunId(run), digest: [0; 32], at: Tick(at), retried: None };
        let mut requests = Requests::default();
        requests.note(ONE, &id, request(2, 20));
        requests.note(ONE, &id, request(1, 10));
        requests.sort();
        assert!(requests.is_consistent());
        requests.forget_until(Tick(15), Span(5));
        assert_eq!(requests.get(ONE, &id).map(|held| held.run), Some(RunId(2)));
        requests.forget_until(Tick(25), Span(5));
        assert_eq!(requests.get(ONE, &id), None);
    }
}
