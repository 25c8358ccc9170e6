//! Records as they come, in key order, into the state, each run as soon as all of it was seen.
//!
//! In key order all runs come before all spec pages, and those before all tasks. So runs wait with their pages, still
//! encoded, until their tasks have come: what is decoded at any moment is one run.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_core::config::Config;
use orch_core::ids::{AttemptNo, EventSeq, RunId, TenantId};
use orch_core::state::{RestoredTask, State};
use orch_core::time::{Tick, Wall};
use orch_proto::store::v1 as record;

use super::RecoverError;
use crate::blobs::Blobs;
use crate::events::{LogExtent, Page};
use crate::ledger::seed::Seed;
use crate::payloads::open_page;
use crate::persist::budget;
use crate::persist::decode::{self, FieldError, Interner};
use crate::persist::page::{PAGE_SPECS, pages_of};
use crate::store::{Entity, Key, Tenant};

const MILLIS_A_DAY: i64 = 86_400_000;

/// What the records were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadedCounts {
    /// Runs that go on.
    pub live_runs: u64,
    /// Their tasks.
    pub live_tasks: u64,
    /// Runs that are finished and stay in the store.
    pub finished_runs: u64,
    /// Agents.
    pub agents: u64,
    /// Event pages.
    pub event_pages: u64,
}

/// Everything that was read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) extent: LogExtent,
    /// Latest tick of any record.
    pub(super) tick: Tick,
    pub(super) spent_today: u64,
    pub(super) ledger: Seed,
    pub(super) counts: LoadedCounts,
}

/// Takes records in key order.
#[derive(Debug)]
pub(super) struct Loader {
    state: State,
    blobs: Arc<dyn Blobs>,
    shared: Interner,
    pending: BTreeMap<RunKey, PendingRun>,
    done: Done,
    extent: LogExtent,
    last_page: Option<(u64, Vec<u8>)>,
    tick: Tick,
    last_run: u64,
    floors: Option<record::CountersRecord>,
    now: Wall,
    day: i64,
    spent_today: u64,
    ledger: Seed,
    counts: LoadedCounts,
    failed: Option<RecoverError>,
}

type RunKey = (Tenant, u64);

/// A run that goes on, before all of its records were seen.
#[derive(Debug)]
struct PendingRun {
    record: record::RunRecord,
    pages: Vec<Vec<u8>>,
    tasks: BTreeMap<u32, record::TaskRecord>,
}

/// Runs that are done with: what else is stored of them is passed over. In key order, because runs come in it.
#[derive(Debug, Default)]
struct Done(Vec<RunKey>);

impl Done {
    fn contains(&self, key: RunKey) -> bool {
        self.0.binary_search(&key).is_ok()
    }
}

impl Loader {
    pub(super) fn new(config: Config, blobs: Arc<dyn Blobs>, now: Wall) -> Self {
        Self {
            state: State::new(config),
            blobs,
            shared: Interner::default(),
            pending: BTreeMap::new(),
            done: Done::default(),
            extent: LogExtent::default(),
            last_page: None,
            tick: Tick(0),
            last_run: 0,
            floors: None,
            now,
            day: now.0.div_euclid(MILLIS_A_DAY),
            spent_today: 0,
            ledger: Seed::new(now),
            counts: LoadedCounts::default(),
            failed: None,
        }
    }

    /// Takes a record. After the first that cannot be used, the rest is passed over.
    pub(super) fn visit(&mut self, key: &Key, payload: &[u8]) {
        if self.failed.is_none()
            && let Err(error) = self.take(key, payload)
        {
            self.failed = Some(error);
        }
    }

    fn take(&mut self, key: &Key, payload: &[u8]) -> Result<(), RecoverError> {
        match key.entity()? {
            Entity::EventPage { first } => {
                self.extent.oldest = if self.extent.pages == 0 { first } else { self.extent.oldest };
                self.extent.pages += 1;
                self.extent.bytes += payload.len() as u64;
                // Only the last page is decoded, for its last number.
                self.last_page = Some((first, payload.to_vec()));
                Ok(())
            }
            Entity::Run { tenant, run } => self.take_run((tenant, run), payload),
            Entity::SpecPage { tenant, run, page } => self.take_page((tenant, run), page, payload),
            Entity::Task { tenant, run, task } => self.take_task((tenant, run), task, payload),
            Entity::Name { tenant, name } => {
                let stored: record::NameRecord = decoded("name record", 0, payload)?;
                let name = self.shared.intern(name);
                self.state.restore_name(TenantId(tenant.get()), &name, stored.last_number);
                self.last_run = self.last_run.max(stored.last_run);
                Ok(())
            }
            Entity::Agent { tenant, name } => {
                let stored: record::AgentRecord = decoded("agent record", 0, payload)?;
                let agent = decode::agent(TenantId(tenant.get()), name, &stored, &mut self.shared);
                self.state.restore_agent(agent);
                self.counts.agents += 1;
                Ok(())
            }
            Entity::Request { tenant, .. } => {
                let stored: record::RequestRecord = decoded("request", 0, payload)?;
                self.passed(stored.tick);
                let request =
                    decode::request(TenantId(tenant.get()), &stored).map_err(field(stored.run_id))?;
                self.state.restore_request(&request);
                Ok(())
            }
            Entity::Budget { tenant, .. } => {
                let stored: record::BudgetRecord = decoded("budget record", 0, payload)?;
                let budget = budget::restored(TenantId(tenant.get()), &stored).map_err(field(0))?;
                self.state.restore_budget(budget);
                Ok(())
            }
            Entity::Counters => {
                self.floors = Some(decoded("counters record", 0, payload)?);
                Ok(())
            }
            Entity::LedgerPage { day, number } => Ok(self.ledger.visit(day, number, payload)?),
            Entity::Worker { .. } | Entity::Cache { .. } | Entity::Audit { .. } | Entity::StoreOwned => {
                Ok(())
            }
        }
    }

    fn take_run(&mut self, key: RunKey, payload: &[u8]) -> Result<(), RecoverError> {
        let (tenant, run) = key;
        let mut stored: record::RunRecord = decoded("record", run, payload)?;
        self.last_run = self.last_run.max(run);
        self.passed(stored.created_tick);
        self.passed(stored.finished_tick);
        let state = decode::run_state(&stored).map_err(field(run))?;
        if state.is_terminal() {
            let spent = stored.task.as_ref().map_or(stored.usage.as_ref(), |task| task.usage.as_ref());
            self.spent(spent.map_or(0, |usage| usage.cost_micro_usd), stored.finished_ms);
            let restored = decode::run(TenantId(tenant.get()), RunId(run), &stored, &mut self.shared)
                .map_err(field(run))?;
            self.state.restore_run(restored);
            self.done.0.push(key);
            self.counts.finished_runs += 1;
            return Ok(());
        }
        let tasks: BTreeMap<_, _> = stored.task.take().map(|task| (0, task)).into_iter().collect();
        let whole = stored.page.is_some() && !tasks.is_empty();
        let pending = PendingRun { record: stored, pages: Vec::new(), tasks };
        if whole {
            // A task record under its own key would be an older one: see `Draft::Lone`.
            self.done.0.push(key);
            return self.restore(key, pending);
        }
        self.pending.insert(key, pending);
        Ok(())
    }

    fn take_page(&mut self, key: RunKey, page: u32, payload: &[u8]) -> Result<(), RecoverError> {
        let what = "spec page";
        let Some(run) = self.pending.get_mut(&key) else { return self.passed_over(what, key) };
        // In key order pages of a run come in their own, so a gap shows at once.
        if usize::try_from(page) != Ok(run.pages.len()) {
            let expected = pages_of(run.record.task_count);
            return Err(RecoverError::Count {
                run: key.1,
                what: "spec pages",
                found: run.pages.len(),
                expected,
            });
        }
        run.pages.push(payload.to_vec());
        Ok(())
    }

    fn take_task(&mut self, key: RunKey, task: u32, payload: &[u8]) -> Result<(), RecoverError> {
        // Runs whose tasks, if any, are behind this one are complete.
        while let Some(first) = self.pending.first_entry() {
            if *first.key() >= key {
                break;
            }
            let (key, run) = first.remove_entry();
            self.restore(key, run)?;
        }
        let Some(run) = self.pending.get_mut(&key) else { return self.passed_over("task", key) };
        let stored: record::TaskRecord = decoded("task", key.1, payload)?;
        run.tasks.insert(task, stored);
        Ok(())
    }

    /// Further records of a run that is done with are left where they are; those of no run at all are damage.
    fn passed_over(&self, what: &'static str, key: RunKey) -> Result<(), RecoverError> {
        if self.done.contains(key) { Ok(()) } else { Err(RecoverError::Orphan { what, run: key.1 }) }
    }

    fn restore(&mut self, (tenant, run): RunKey, pending: PendingRun) -> Result<(), RecoverError> {
        let PendingRun { mut record, pages, mut tasks } = pending;
        let count = record.task_count;
        let lone = record.page.take();
        let decode_page = |payload: Vec<u8>| decoded::<record::SpecPage>("spec page", run, &payload);
        let pages = pages.into_iter().map(decode_page).chain(lone.map(Ok));
        let mut restored =
            decode::run(TenantId(tenant.get()), RunId(run), &record, &mut self.shared).map_err(field(run))?;
        restored.tasks.reserve(usize::try_from(count).unwrap_or(0));
        for page in pages {
            let page = open_page(&*self.blobs, tenant, page?)
                .map_err(|source| RecoverError::Specs { run, source })?;
            for spec in &page.specs {
                let index = u32::try_from(restored.tasks.len()).unwrap_or(u32::MAX);
                let progress = tasks.remove(&index);
                let task = decode::task(spec, progress.as_ref(), &mut self.shared).map_err(field(run))?;
                self.passed_task(&task);
                restored.tasks.push(task);
            }
            let found = restored.tasks.len();
            if found < count as usize && !found.is_multiple_of(PAGE_SPECS as usize) {
                return Err(RecoverError::Count { run, what: "task specs", found, expected: count });
            }
        }
        if restored.tasks.len() != count as usize {
            let found = restored.tasks.len();
            return Err(RecoverError::Count { run, what: "task specs", found, expected: count });
        }
        if !tasks.is_empty() {
            let found = restored.tasks.len() + tasks.len();
            return Err(RecoverError::Count { run, what: "task records", found, expected: count });
        }
        self.counts.live_runs += 1;
        self.counts.live_tasks += u64::from(count);
        self.state.restore_run(restored);
        Ok(())
    }

    fn passed_task(&mut self, task: &RestoredTask) {
        let Some(progress) = &task.progress else { return };
        self.passed(progress.since.0);
        self.passed(progress.granted.unwrap_or_default().tick.0);
        for attempt in &progress.attempts {
            self.spent(attempt.cost_micro_usd, attempt.finished.0);
        }
    }

    fn passed(&mut self, tick: u64) {
        self.tick = self.tick.max(Tick(tick));
    }

    fn spent(&mut self, micro_usd: u64, at: i64) {
        if at.div_euclid(MILLIS_A_DAY) == self.day {
            self.spent_today = self.spent_today.saturating_add(micro_usd);
        }
    }

    /// Everything was seen.
    pub(super) fn finish(mut self) -> Result<Loaded, RecoverError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        while let Some((key, run)) = self.pending.pop_first() {
            self.restore(key, run)?;
        }
        if let Some((first, payload)) = self.last_page.take() {
            let page = Page::decode(first, &payload)?;
            self.extent.newest = page.last();
            self.passed(page.tick().0);
            self.state.restore_seq(EventSeq(page.last()));
        }
        self.counts.event_pages = self.extent.pages;
        self.state.restore_last_run(RunId(self.last_run));
        if let Some(floors) = self.floors.take() {
            self.restore_floors(&floors);
        }
        self.state.finish_restore()?;
        // The ledger says it exactly; what ended today before there was one, the records of runs do.
        let billed = self.ledger.spent_on(self.now);
        let spent_today = if billed > 0 { billed } else { self.spent_today };
        let Self { state, extent, tick, ledger, counts, .. } = self;
        Ok(Loaded { state, extent, tick, spent_today, ledger, counts })
    }
}

impl Loader {
    /// What a restore left behind: the event log begins behind it, so that nobody who read what is no more goes on
    /// as if he had missed nothing.
    fn restore_floors(&mut self, floors: &record::CountersRecord) {
        let (run, attempt) = (RunId(floors.last_run), AttemptNo(floors.last_attempt));
        self.state.restore_floors(run, floors.last_number, EventSeq(floors.last_event), attempt);
        if self.extent.newest < floors.last_event {
            self.extent.newest = floors.last_event;
            self.extent.oldest = floors.last_event + 1;
        }
    }
}

fn decoded<M: prost::Message + Default>(
    what: &'static str,
    run: u64,
    payload: &[u8],
) -> Result<M, RecoverError> {
    M::decode(payload).map_err(|source| RecoverError::Malformed { what, run, source })
}

fn field(run: u64) -> impl FnOnce(FieldError) -> RecoverError {
    move |source| RecoverError::Field { run, source }
}
