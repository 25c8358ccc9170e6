//! Runs, tasks and answers out of the store, for people.
//! Knows where records lie and how much may be read for one question; refuses to know the live state, which is ahead of
//! the records by what is not durable yet.

mod records;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use orch_core::ids::{RunId, TaskIndex, TaskKey, TenantId};
use orch_core::state::RestoredRun;
use orch_proto::store::v1 as record;
use orch_proto::v1;

use self::records::{Records, Specs};
use super::bulk::BulkError;
use super::pages::PageError;
use crate::blobs::Blobs;
use crate::engine::pool::{BlockingPool, BrokenOff};
use crate::persist::decode::{self, FieldError, Interner};
use crate::persist::page::PAGE_SPECS;
use crate::persist::show;
use crate::store::{ReadError, Store};

/// Spec pages looked at for one page of a list of tasks.
const MAX_PAGES_READ: u32 = 200;

/// Reads records. Clones share threads.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    pool: BlockingPool,
    newest_run: Arc<AtomicU64>,
}

/// Why a record cannot be shown: the store is damaged, or the process is ending.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store refused.
    #[error("cannot read the store")]
    Store(#[from] ReadError),
    /// A record is not what its key says.
    #[error("a record cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    /// A record holds what this version does not know.
    #[error("a record cannot be used")]
    Field(#[from] FieldError),
    /// Specs cannot be read.
    #[error(transparent)]
    Page(#[from] PageError),
    /// An answer cannot be read.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// The read was broken off.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
}

/// A page of runs, newest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunsPage {
    /// The runs.
    pub runs: Vec<v1::Run>,
    /// Ask below this to go on; `None` at the end.
    pub below: Option<RunId>,
}

/// A page of tasks, in order of index.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TasksPage {
    /// The tasks.
    pub tasks: Vec<v1::Task>,
    /// Ask from this on to go on; `None` at the end.
    pub next: Option<TaskIndex>,
}

/// Which runs a list wants.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only these states, as numbers of the wire; empty means all.
    pub states: Vec<i32>,
    /// Only this name; empty means all.
    pub name: String,
}

impl RunFilter {
    fn takes(&self, run: &record::RunRecord) -> bool {
        (self.states.is_empty() || self.states.contains(&run.state))
            && (self.name.is_empty() || self.name == run.name)
    }
}

impl Archive {
    /// Reads from `store` and `blobs` on threads of `pool`. `newest_run` follows the newest id in use: where lists start.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        blobs: Arc<dyn Blobs>,
        pool: BlockingPool,
        newest_run: Arc<AtomicU64>,
    ) -> Self {
        Self { store, blobs, pool, newest_run }
    }

    /// A run as its record says; `None` when there is no such run.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn run(&self, tenant: TenantId, run: RunId) -> Result<Option<v1::Run>, ArchiveError> {
        self.read(tenant, move |records| {
            let Some(stored) = records.run(run)? else { return Ok(None) };
            let only = if stored.task_count == 1 { records.task(&stored, run, 0)? } else { None };
            Ok(Some(show::run(run.0, &stored, only.as_ref())))
        })
        .await
    }

    /// The record of a run, with what is kept of how it is planned; `None` when there is no such run.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn run_record(
        &self,
        tenant: TenantId,
        run: RunId,
    ) -> Result<Option<record::RunRecord>, ArchiveError> {
        self.read(tenant, move |records| records.run(run)).await
    }

    /// How a run is planned, as it was submitted; `None` when there is no such run, or it is not planned.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn planning(
        &self,
        tenant: TenantId,
        run: RunId,
    ) -> Result<Option<record::PlanningRecord>, ArchiveError> {
        self.read(tenant, move |records| Ok(records.run(run)?.and_then(|stored| stored.planning))).await
    }

    /// Specs of all tasks of a run as they rest, in order: texts that lie in files by reference. `None` when there is no
    /// such run.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn specs(
        &self,
        tenant: TenantId,
        run: RunId,
    ) -> Result<Option<Vec<record::StoredSpec>>, ArchiveError> {
        self.read(tenant, move |records| {
            let Some(stored) = records.run(run)? else { return Ok(None) };
            let mut specs = Specs::new(records, run);
            (0..stored.task_count).map(|index| specs.spec(index)).collect::<Result<_, _>>().map(Some)
        })
        .await
    }

    /// Runs with ids below `below`, newest first, at most `limit`. A page may be short, or empty, before the end.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn runs_below(
        &self,
        tenant: TenantId,
        below: RunId,
        limit: usize,
        filter: RunFilter,
    ) -> Result<RunsPage, ArchiveError> {
        let end = self.newest_run.load(Ordering::Relaxed).saturating_add(1);
        let below = RunId(below.0.min(end));
        self.read(tenant, move |records| records.runs_below(below, limit, &filter)).await
    }

    /// The record of a task, with its result; `None` while nothing is recorded. Never younger than what was said of the
    /// task before.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn task_record(
        &self,
        tenant: TenantId,
        task: TaskKey,
    ) -> Result<Option<record::TaskRecord>, ArchiveError> {
        self.read(tenant, move |records| {
            let Some(run) = records.run(task.run)? else { return Ok(None) };
            records.task(&run, task.run, task.index.0)
        })
        .await
    }

    /// Adds to a live task what only its record says: answers as far as they may travel inside a message, attempts,
    /// tokens, session.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn add_result(
        &self,
        tenant: TenantId,
        key: TaskKey,
        mut task: v1::Task,
    ) -> Result<v1::Task, ArchiveError> {
        self.read(tenant, move |records| {
            let Some(run) = records.run(key.run)? else { return Ok(task) };
            let spec = Specs::new(records, key.run).spec(key.index.0)?;
            task.workspace = spec.workspace;
            if let Some(stored) = records.task(&run, key.run, key.index.0)? {
                show::add_result(&mut task, &stored);
                records.add_bulk(&mut task, &stored)?;
            }
            Ok(task)
        })
        .await
    }

    /// A task of a run with its answers; by name, or the only one where `task_id` is `None`. `None` when there is no such
    /// run or task, or the run has several and none was named.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn task(
        &self,
        tenant: TenantId,
        run: RunId,
        task_id: Option<String>,
    ) -> Result<Option<v1::Task>, ArchiveError> {
        self.read(tenant, move |records| {
            let Some(stored) = records.run(run)? else { return Ok(None) };
            let mut specs = Specs::new(records, run);
            let index = match task_id {
                Some(task_id) => specs.find(&stored, &task_id)?,
                None => (stored.task_count == 1).then_some(0),
            };
            index.map_or(Ok(None), |index| records.shown(&stored, &mut specs, index, true))
        })
        .await
    }

    /// Tasks of a run from `from` on, at most `limit`, in any of `states` (numbers of the wire; empty means all). A page
    /// may be short, or empty, before the end; `None` when there is no such run.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn tasks(
        &self,
        tenant: TenantId,
        run: RunId,
        from: TaskIndex,
        limit: usize,
        states: Vec<i32>,
        with_answers: bool,
    ) -> Result<Option<TasksPage>, ArchiveError> {
        self.read(tenant, move |records| {
            let Some(stored) = records.run(run)? else { return Ok(None) };
            let mut page = TasksPage::default();
            let mut specs = Specs::new(records, run);
            let end = from.0.saturating_add(MAX_PAGES_READ * PAGE_SPECS).min(stored.task_count);
            for index in from.0..end {
                if page.tasks.len() == limit {
                    page.next = Some(TaskIndex(index));
                    return Ok(Some(page));
                }
                let task = records.shown(&stored, &mut specs, index, with_answers)?;
                page.tasks.extend(task.filter(|task| states.is_empty() || states.contains(&task.state)));
            }
            page.next = (end < stored.task_count).then_some(TaskIndex(end));
            Ok(Some(page))
        })
        .await
    }

    /// Tasks of a run that ended as poison, without answers, from `from` on, at most `limit`. A page may be short, or empty,
    /// before the end; a run that is not there has none.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn dead_tasks(
        &self,
        tenant: TenantId,
        run: RunId,
        from: TaskIndex,
        limit: usize,
    ) -> Result<TasksPage, ArchiveError> {
        self.read(tenant, move |records| {
            let mut page = TasksPage::default();
            let Some(stored) = records.run(run)? else { return Ok(page) };
            let mut specs = Specs::new(records, run);
            let end = from.0.saturating_add(MAX_PAGES_READ * PAGE_SPECS).min(stored.task_count);
            for index in from.0..end {
                if page.tasks.len() == limit {
                    page.next = Some(TaskIndex(index));
                    return Ok(page);
                }
                let dead = |task: &record::TaskRecord| task.outcome() == v1::Outcome::Poison;
                if records.task(&stored, run, index)?.as_ref().is_some_and(dead) {
                    page.tasks.extend(records.shown(&stored, &mut specs, index, false)?);
                }
            }
            page.next = (end < stored.task_count).then_some(TaskIndex(end));
            Ok(page)
        })
        .await
    }

    /// A run with all its tasks as the core takes it back, for another try; `None` when there is no such run.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn recall(&self, tenant: TenantId, run: RunId) -> Result<Option<RestoredRun>, ArchiveError> {
        self.read(tenant, move |records| {
            let Some(stored) = records.run(run)? else { return Ok(None) };
            let mut shared = Interner::default();
            let mut restored = decode::run(tenant, run, &stored, &mut shared)?;
            let mut specs = Specs::new(records, run);
            for index in 0..stored.task_count {
                let spec = specs.spec(index)?;
                let task = records.task(&stored, run, index)?;
                restored.tasks.push(decode::task(&spec, task.as_ref(), &mut shared)?);
            }
            Ok(Some(restored))
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        tenant: TenantId,
        question: impl FnOnce(&Records) -> Result<T, ArchiveError> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let records = Records { store: Arc::clone(&self.store), blobs: Arc::clone(&self.blobs), tenant };
        self.pool.run(move || question(&records)).await?
    }
}
