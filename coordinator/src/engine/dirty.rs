//! What changed since the last batch was closed, and how it becomes a batch.
//! Knows which records a change touches, each once; the content is read from the state when the batch is closed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use orch_core::effect::{Payload, Write};
use orch_core::ids::{AgentKey, RunId, TaskIndex, TaskKey, TenantId};
use orch_core::state::{RunRecordView, State};

use crate::events::retention::{MAX_DELETES, Trim};
use crate::payloads::SpecRecords;
use crate::persist::page::pages_of;
use crate::persist::{Draft, Part, budget, cached, encode};
use crate::store::{Key, KeyError, Tenant};

/// Bytes of pages of lone runs kept in memory until their runs end. Beyond it the committer reads them back from the
/// store, which costs it a few microseconds each.
const MAX_LONE_BYTES: usize = 16 << 20;

/// An agent by its name.
type AgentName = (TenantId, Arc<str>);

/// A standing budget by its name.
type BudgetName = (TenantId, Arc<str>);

/// A request by its id.
type RequestKey = (TenantId, Arc<str>);

/// Records to be written with the next batch.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    runs: BTreeSet<RunId>,
    tasks: BTreeMap<TaskKey, Option<Payload>>,
    agents: BTreeSet<AgentKey>,
    /// Agents that were forgotten. One that is known again by the time the batch is closed is written after all.
    gone_agents: BTreeSet<AgentName>,
    requests: BTreeSet<RequestKey>,
    /// Standing budgets that changed; those that are no more by the time the batch is closed are deleted.
    budgets: BTreeSet<BudgetName>,
    /// Spec pages of runs with several tasks that are new in this batch, or that tasks joined.
    pages: Vec<(RunId, Vec<Vec<u8>>)>,
    lone_pages: LonePages,
    deletions: Deletions,
}

/// What a closed batch writes.
#[derive(Debug, Default)]
pub(super) struct ClosedWrites {
    pub(super) drafts: Vec<Draft>,
    /// Trims of the event log that are complete with it.
    pub(super) trims: Vec<Trim>,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.tasks.is_empty()
            && self.agents.is_empty()
            && self.gone_agents.is_empty()
            && self.requests.is_empty()
            && self.budgets.is_empty()
            && self.deletions.is_empty()
    }

    /// Takes note of a write. `records` are those of the submit or plan that caused it, if one did.
    pub(super) fn note(&mut self, write: Write, records: &mut SpecRecords) {
        match write {
            Write::NewRun(run) => {
                self.runs.insert(run);
                match std::mem::take(records) {
                    SpecRecords::Inside(page) => self.lone_pages.insert(run, page),
                    SpecRecords::Pages(pages) => self.pages.push((run, pages)),
                }
            }
            // A run that tasks can join has two at least: its pages lie under keys of their own.
            Write::Expanded(run) => {
                self.runs.insert(run);
                if let SpecRecords::Pages(pages) = std::mem::take(records) {
                    self.pages.push((run, pages));
                }
            }
            Write::Run(run) => {
                self.runs.insert(run);
            }
            Write::Task { task, payload } => {
                let known = self.tasks.entry(task).or_default();
                *known = payload.or_else(|| known.take());
            }
            Write::ForgetRun { tenant, run, tasks, newest_of } => {
                self.lone_pages.remove(run);
                self.deletions.runs.push_back(Forget { tenant, run, tasks, newest_of, done: 0 });
            }
            Write::Agent(agent) => {
                self.agents.insert(agent);
            }
            Write::ForgetAgent { tenant, name } => {
                self.gone_agents.insert((tenant, name));
            }
            // One that was removed and set again within a batch is written, whatever came first.
            Write::Budget { tenant, name } | Write::ForgetBudget { tenant, name } => {
                self.budgets.insert((tenant, name));
            }
            // An id may come again while the deletion of its earlier use still waits.
            Write::Request { tenant, id } => {
                let key = (tenant, id);
                self.deletions.requests.retain(|gone| *gone != key);
                self.requests.insert(key);
            }
            Write::ForgetRequest { tenant, id } => {
                let key = (tenant, id);
                self.requests.remove(&key);
                self.deletions.requests.push_back(key);
            }
        }
    }

    /// Takes note of event pages to be deleted.
    pub(super) fn note_trim(&mut self, trim: Trim) {
        self.deletions.trims.push_back(trim);
    }

    /// Takes note of records to be deleted that no state knows.
    pub(super) fn note_gone(&mut self, keys: Vec<Key>) {
        self.deletions.keys.extend(keys);
    }

    /// Everything noted, encoded from `state`; afterwards nothing is noted but deletions beyond the limit of a batch.
    ///
    /// # Errors
    /// When a name does not fit a key, which checked names do.
    pub(super) fn close(&mut self, state: &State) -> Result<ClosedWrites, KeyError> {
        let mut drafts = Vec::with_capacity(self.runs.len() + self.tasks.len() + self.agents.len());
        self.close_pages(state, &mut drafts);
        self.close_runs(state, &mut drafts);
        for (task, payload) in std::mem::take(&mut self.tasks) {
            let Some(view) = state.task_record(task).filter(|view| view.task_count > 1) else { continue };
            drafts.extend(cached::note(&view, payload.as_deref()));
            drafts.push(encode::task(&view, result_of(payload, !view.attempts.is_empty())));
        }
        let mut gone = std::mem::take(&mut self.gone_agents);
        for agent in std::mem::take(&mut self.agents) {
            if let Some(view) = state.agent_record(agent) {
                gone.remove(&(view.tenant, Arc::clone(view.name)));
                drafts.push(encode::agent(&view)?);
            }
        }
        for (tenant, name) in gone {
            drafts.push(Draft::Gone { key: encode::agent_key(tenant, &name)? });
        }
        for (tenant, id) in std::mem::take(&mut self.requests) {
            drafts.extend(state.request_record(tenant, &id).as_ref().map(encode::request));
        }
        for (tenant, name) in std::mem::take(&mut self.budgets) {
            drafts.push(match state.budget_record(tenant, &name) {
                Some(view) => budget::draft(&view)?,
                None => Draft::Gone { key: budget::key(tenant, &name)? },
            });
        }
        let trims = self.deletions.take(MAX_DELETES, &mut drafts)?;
        Ok(ClosedWrites { drafts, trims })
    }

    fn close_pages(&mut self, state: &State, drafts: &mut Vec<Draft>) {
        for (run, pages) in self.pages.drain(..) {
            let Some(view) = state.run_record(run) else { continue };
            let tenant = Tenant::new(view.tenant.0);
            drafts.extend(
                (0_u32..)
                    .zip(pages)
                    .map(|(page, value)| Draft::Whole { key: Key::spec_page(tenant, run.0, page), value }),
            );
        }
    }

    /// Runs, with the task inside where a run has only one.
    fn close_runs(&mut self, state: &State, drafts: &mut Vec<Draft>) {
        let mut runs = std::mem::take(&mut self.runs);
        let lone = self.tasks.keys().map(|task| task.run).filter(|run| is_lone(state, *run));
        runs.extend(lone.collect::<Vec<_>>());
        for run in runs {
            let Some(view) = state.run_record(run) else { continue };
            if view.task_count == 1 {
                self.lone(state, &view, drafts);
            } else {
                drafts.push(encode::run(&view));
            }
        }
    }

    fn lone(&mut self, state: &State, run: &RunRecordView<'_>, drafts: &mut Vec<Draft>) {
        let key = TaskKey { run: run.id, index: TaskIndex(0) };
        let Some(task) = state.task_record(key) else { return };
        let payload = self.tasks.remove(&key).flatten();
        let page = self.lone_pages.get(run.id).map_or(Part::Stored, Part::Given);
        if run.state.is_terminal() {
            self.lone_pages.remove(run.id);
        }
        drafts.extend(cached::note(&task, payload.as_deref()));
        let result = result_of(payload, !task.attempts.is_empty());
        drafts.push(encode::lone_run(run, page, &task, result));
    }
}

fn is_lone(state: &State, run: RunId) -> bool {
    state.run_record(run).is_some_and(|view| view.task_count == 1)
}

/// The result to be written: the one that came now, else what a former attempt may have left.
fn result_of(payload: Option<Payload>, attempted: bool) -> Part {
    match payload {
        Some(bytes) => Part::Given(bytes),
        None if attempted => Part::Stored,
        None => Part::Absent,
    }
}

/// Spec pages of runs of one task: their record is written several times, and the state does not hold the page.
#[derive(Debug, Default)]
struct LonePages {
    pages: BTreeMap<RunId, Arc<[u8]>>,
    bytes: usize,
}

impl LonePages {
    fn insert(&mut self, run: RunId, page: Arc<[u8]>) {
        self.bytes += page.len();
        self.pages.insert(run, page);
        while self.bytes > MAX_LONE_BYTES {
            let Some((_, oldest)) = self.pages.pop_first() else { break };
            self.bytes -= oldest.len();
        }
    }

    fn get(&self, run: RunId) -> Option<Arc<[u8]>> {
        self.pages.get(&run).cloned()
    }

    fn remove(&mut self, run: RunId) {
        if let Some(page) = self.pages.remove(&run) {
            self.bytes -= page.len();
        }
    }
}

/// Records to be deleted, a few with every batch.
#[derive(Debug, Default)]
struct Deletions {
    runs: VecDeque<Forget>,
    requests: VecDeque<RequestKey>,
    keys: VecDeque<Key>,
    trims: VecDeque<Trim>,
}

/// A run to be deleted. Its own record goes last, so that a crash in between leaves a run that is deleted again.
#[derive(Debug)]
struct Forget {
    tenant: TenantId,
    run: RunId,
    tasks: u32,
    newest_of: Option<(Arc<str>, u64)>,
    /// Keys of pages and tasks deleted so far.
    done: u32,
}

impl Deletions {
    fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.requests.is_empty() && self.keys.is_empty() && self.trims.is_empty()
    }

    /// Deletes up to `limit` keys, or one trim more. Returns the trims that are complete.
    fn take(&mut self, limit: usize, drafts: &mut Vec<Draft>) -> Result<Vec<Trim>, KeyError> {
        let start = drafts.len();
        while let Some(forget) = self.runs.front_mut() {
            let room = limit.saturating_sub(drafts.len() - start);
            if room == 0 {
                return Ok(Vec::new());
            }
            if forget.step(room, drafts)? {
                self.runs.pop_front();
            }
        }
        while drafts.len() - start < limit {
            let Some((tenant, id)) = self.requests.pop_front() else { break };
            drafts.push(Draft::Gone { key: encode::request_key(tenant, &id) });
        }
        let room = limit.saturating_sub(drafts.len() - start).min(self.keys.len());
        drafts.extend(self.keys.drain(..room).map(|key| Draft::Gone { key }));
        let mut trims = Vec::new();
        while drafts.len() - start < limit {
            let Some(trim) = self.trims.pop_front() else { break };
            drafts.extend(trim.firsts.iter().map(|first| Draft::Gone { key: Key::event_page(*first) }));
            trims.push(trim);
        }
        Ok(trims)
    }
}

impl Forget {
    /// Deletes up to `room` keys. Whether that was all.
    fn step(&mut self, room: usize, drafts: &mut Vec<Draft>) -> Result<bool, KeyError> {
        let tenant = Tenant::new(self.tenant.0);
        let run = self.run.0;
        let pages = if self.tasks == 1 { 0 } else { pages_of(self.tasks) };
        let parts = pages.saturating_add(self.tasks);
        let until = parts.min(self.done.saturating_add(u32::try_from(room).unwrap_or(u32::MAX)));
        drafts.extend((self.done..until).map(|part| Draft::Gone {
            key: match part.checked_sub(pages) {
                None => Key::spec_page(tenant, run, part),
                Some(task) => Key::task(tenant, run, task),
            },
        }));
        let taken = until - self.done;
        self.done = until;
        if until < parts || taken as usize >= room {
            return Ok(false);
        }
        if let Some((name, number)) = &self.newest_of {
            drafts.push(encode::name(tenant, name, *number, run)?);
        }
        drafts.push(Draft::Gone { key: Key::run(tenant, run) });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(drafts: &[Draft]) -> Vec<Key> {
        drafts
            .iter()
            .map(|draft| match draft {
                Draft::Whole { key, .. } | Draft::Gone { key } => key.clone(),
                Draft::Task { .. } | Draft::Lone { .. } | Draft::Cached { .. } => panic!("{draft:?}"),
            })
            .collect()
    }

    fn forget(run: u64, tasks: u32) -> Write {
        let newest_of = Some((Arc::from("adhoc"), run));
        Write::ForgetRun { tenant: TenantId(1), run: RunId(run), tasks, newest_of }
    }

    #[test]
    fn a_large_run_is_forgotten_in_steps_and_its_own_record_last() {
        let mut dirty = Dirty::default();
        dirty.note(forget(7, 300), &mut SpecRecords::default());
        let state = State::new(orch_core::config::Config::new(orch_core::outcome::OutcomeRules::default()));
        let mut batches = Vec::new();
        while !dirty.is_empty() {
            batches.push(keys(&dirty.close(&state).unwrap().drafts));
        }
        assert!(batches.iter().all(|batch| batch.len() <= MAX_DELETES + 2), "{:?}", batches.len());
        let all: Vec<_> = batches.concat();
        let tenant = Tenant::DEFAULT;
        assert_eq!(all.len(), 10 + 300 + 2);
        assert_eq!(all.last(), Some(&Key::run(tenant, 7)));
        assert_eq!(all.get(all.len() - 2), Some(&Key::name(tenant, "adhoc").unwrap()));
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(
            distinct.contains(&Key::task(tenant, 7, 299)) && distinct.contains(&Key::spec_page(tenant, 7, 9))
        );
    }

    #[test]
    fn trims_wait_until_runs_are_forgotten() {
        let mut dirty = Dirty::default();
        dirty.note(forget(7, 300), &mut SpecRecords::default());
        let trim = Trim { firsts: vec![1, 5], bytes: 10, oldest: 9 };
        dirty.note_trim(trim.clone());
        let state = State::new(orch_core::config::Config::new(orch_core::outcome::OutcomeRules::default()));
        let mut seen = Vec::new();
        while !dirty.is_empty() {
            seen.push(dirty.close(&state).unwrap().trims);
        }
        assert_eq!(seen.last(), Some(&vec![trim]));
        assert_eq!(seen.concat().len(), 1);
    }
}
