//! Finds runs and tasks wherever they are: live ones in the engine, finished ones in the store.
//! Knows both places and which of them to ask; the callers see one.

use crate::clock::Clock;
use crate::engine::Handle;
use crate::payloads::archive::{RunFilter, RunsPage, TasksPage};
use crate::payloads::{Archive, ArchiveError};
use crate::rpc::status::{internal, refuse};
use crate::rpc::{ask, ask_live, convert, unexpected};
use orch_core::event::{RunTarget, Target};
use orch_core::ids::{RunId, TaskIndex, TaskKey, TenantId};
use orch_core::query::{Answer, Query, RunView, TaskView};
use orch_core::state::TaskState;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::Status;

/// Answers of one page together: the page ends early rather than pass the message limit.
const MAX_ANSWER_BYTES: usize = 512 << 10;

/// Finds runs and tasks.
#[derive(Debug, Clone)]
pub struct Lookup {
    engine: Handle,
    archive: Archive,
    clock: Arc<dyn Clock>,
}

/// How far the latest attempt of a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The task.
    pub task: TaskKey,
    /// Its latest attempt.
    pub attempt: u32,
    /// Nothing follows but a retry.
    pub terminal: bool,
    /// Bytes of transcript that the recorded report announced.
    pub transcript_bytes: u64,
}

impl Lookup {
    /// Asks `engine` and its archive.
    #[must_use]
    pub fn new(engine: Handle, clock: Arc<dyn Clock>) -> Self {
        let archive = engine.archive();
        Self { engine, archive, clock }
    }

    /// Where runs are that are not live.
    pub(super) const fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The run that somebody named, and whether it is live.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn resolve(&self, target: &Target) -> Result<(RunId, bool), Status> {
        let found = self.engine.resolve(target.clone()).await.map_err(|_| super::gone())?;
        found.ok_or_else(|| no_such_run(target))
    }

    /// The same target by the name of its run, which stays when "the last run" becomes another one.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn pin(&self, target: &Target) -> Result<Target, Status> {
        if matches!(target.run, RunTarget::Ref { .. }) {
            return Ok(target.clone());
        }
        let run_ref = self.run(target).await?.r#ref;
        let (name, number) = run_ref.rsplit_once('/').ok_or_else(unexpected)?;
        let run = RunTarget::Ref { name: Arc::from(name), number: number.parse().map_err(|_| unexpected())? };
        Ok(Target { run, ..target.clone() })
    }

    /// A run.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn run(&self, target: &Target) -> Result<v1::Run, Status> {
        let (run, live) = self.resolve(target).await?;
        if live
            && let Some(Answer::Run(view)) = self.ask_live(target.tenant, Query::Run(target.clone())).await?
        {
            return Ok(convert::run(&view));
        }
        let stored = self.archive.run(target.tenant, run).await.map_err(|error| archive_status(&error))?;
        stored.ok_or_else(|| no_such_run(target))
    }

    /// Runs below an id, newest first. Every run is in the store; the live ones are shown as they are now.
    ///
    /// # Errors
    /// What the store says.
    pub async fn runs(
        &self,
        tenant: TenantId,
        below: RunId,
        limit: usize,
        filter: RunFilter,
    ) -> Result<RunsPage, Status> {
        let Answer::Status(status) = ask(&self.engine, tenant, Query::Status).await? else {
            return Err(unexpected());
        };
        // The archive looks at ids one window after the other: it is to begin where there are some.
        let below = below.min(RunId(status.last_run.0 + 1));
        let state_of =
            |state: &i32| v1::RunState::try_from(*state).ok().and_then(convert::run_state_from_wire);
        let states: Vec<_> = filter.states.iter().filter_map(state_of).collect();
        // Nobody but the engine has runs that go on: however many ended before, the store need not be searched for them.
        let only_live = !filter.states.is_empty()
            && states.len() == filter.states.len()
            && !states.iter().any(|state| state.is_terminal());
        let name = (!filter.name.is_empty()).then(|| Arc::from(filter.name.as_str()));
        let query = Query::Runs { below: Some(below), limit, states, name };
        let Answer::Runs(live) = ask(&self.engine, tenant, query).await? else { return Err(unexpected()) };
        if only_live {
            let last = live.last().filter(|_| live.len() == limit).map(|view| view.id);
            let below = last.filter(|last| last.0 > 1);
            return Ok(RunsPage { runs: live.iter().map(convert::run).collect(), below });
        }
        let live: BTreeMap<u64, RunView> = live.into_iter().map(|view| (view.id.0, view)).collect();
        let page = self.archive.runs_below(tenant, below, limit, filter).await;
        let mut page = page.map_err(|error| archive_status(&error))?;
        for run in &mut page.runs {
            if let Some(view) = live.get(&run.run_id) {
                *run = convert::run(view);
            }
        }
        Ok(page)
    }

    /// A task, with its answer and attempts.
    ///
    /// # Errors
    /// `NOT_FOUND`, or `INVALID_REF` when the run has several tasks and none was named.
    pub async fn task(&self, target: &Target) -> Result<v1::Task, Status> {
        let (run, live) = self.resolve(target).await?;
        if live
            && let Some(Answer::Task { run, task }) =
                self.ask_live(target.tenant, Query::Task(target.clone())).await?
        {
            return self.with_result(target.tenant, &run, &task).await;
        }
        let name = target.task.as_deref().map(str::to_owned);
        let stored =
            self.archive.task(target.tenant, run, name).await.map_err(|error| archive_status(&error))?;
        stored.ok_or_else(|| {
            refuse(ErrorCode::NotFound, "the run has no such task, or several: name one of them")
        })
    }

    /// Tasks of a run from an index on.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn tasks(
        &self,
        target: &Target,
        from: TaskIndex,
        limit: usize,
        states: &[v1::TaskState],
        with_answers: bool,
    ) -> Result<TasksPage, Status> {
        let (run, live) = self.resolve(target).await?;
        if live {
            let query = Query::Tasks {
                target: target.clone(),
                from,
                limit: limit + 1,
                states: states.iter().filter_map(|state| convert::task_state_from_wire(*state)).collect(),
            };
            if let Some(Answer::Tasks { run, tasks }) = self.ask_live(target.tenant, query).await? {
                return self.live_page(target.tenant, &run, tasks, limit, with_answers).await;
            }
        }
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let page = self.archive.tasks(target.tenant, run, from, limit, states, with_answers).await;
        let mut page = page.map_err(|error| archive_status(&error))?.ok_or_else(|| no_such_run(target))?;
        cut_to_message(&mut page);
        Ok(page)
    }

    /// How far the latest attempt of a task is.
    ///
    /// # Errors
    /// As [`Lookup::task`].
    pub async fn progress(&self, target: &Target) -> Result<Progress, Status> {
        let (run, live) = self.resolve(target).await?;
        let asked = Query::Task(target.clone());
        let answer = if live { self.ask_live(target.tenant, asked).await? } else { None };
        let (index, attempt, state) = if let Some(Answer::Task { task, .. }) = answer {
            (task.index, task.attempt, Some(task.state))
        } else {
            let task = self.task(target).await?;
            (TaskIndex(task.index), task.attempt, convert::task_state_from_wire(task.state()))
        };
        let task = TaskKey { run, index };
        let stored = self.archive.task_record(target.tenant, task).await;
        let result = stored.map_err(|error| archive_status(&error))?.and_then(|stored| stored.result);
        Ok(Progress {
            task,
            attempt,
            terminal: state.is_some_and(TaskState::is_terminal),
            transcript_bytes: result.map_or(0, |result| result.transcript_bytes),
        })
    }

    /// A live task on the wire, without what only its record says.
    #[must_use]
    pub fn shown(&self, run: &RunView, task: &TaskView) -> v1::Task {
        convert::task(&run.run_ref, run.created, task, self.clock.wall())
    }

    async fn ask_live(&self, tenant: TenantId, query: Query) -> Result<Option<Answer>, Status> {
        ask_live(&self.engine, tenant, query).await
    }

    async fn with_result(
        &self,
        tenant: TenantId,
        run: &RunView,
        task: &TaskView,
    ) -> Result<v1::Task, Status> {
        let key = TaskKey { run: run.id, index: task.index };
        let shown = self.shown(run, task);
        self.archive.add_result(tenant, key, shown).await.map_err(|error| archive_status(&error))
    }

    async fn live_page(
        &self,
        tenant: TenantId,
        run: &RunView,
        views: Vec<TaskView>,
        limit: usize,
        with_answers: bool,
    ) -> Result<TasksPage, Status> {
        let mut page = TasksPage { next: views.get(limit).map(|view| view.index), tasks: Vec::new() };
        let mut bytes = 0;
        for view in views.iter().take(limit) {
            let task = match with_answers && view.attempt > 0 {
                true => self.with_result(tenant, run, view).await?,
                false => self.shown(run, view),
            };
            bytes += task.encoded_len();
            if bytes > MAX_ANSWER_BYTES && !page.tasks.is_empty() {
                page.next = Some(view.index);
                break;
            }
            page.tasks.push(task);
        }
        Ok(page)
    }
}

fn cut_to_message(page: &mut TasksPage) {
    let mut bytes = 0;
    for at in 0..page.tasks.len() {
        bytes += page.tasks[at].encoded_len();
        if bytes > MAX_ANSWER_BYTES && at > 0 {
            page.next = Some(TaskIndex(page.tasks[at].index));
            page.tasks.truncate(at);
            return;
        }
    }
}

/// Says that a run is not there.
pub(crate) fn no_such_run(target: &Target) -> Status {
    let message = match &target.run {
        RunTarget::Ref { name, number } => format!("there is no run {name}/{number}"),
        RunTarget::LastOf(_) => "you have not submitted a run yet".to_owned(),
    };
    refuse(ErrorCode::NotFound, message)
}

/// A status for records that cannot be read.
pub(crate) fn archive_status(error: &ArchiveError) -> Status {
    internal("the stored records cannot be read", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Outbound;
    use crate::engine::tests::support::{Bench, TENANT, noops};
    use orch_core::outcome::Outcome;

    #[tokio::test]
    async fn runs_that_go_on_are_listed_page_by_page_without_those_that_ended() {
        let bench = Bench::start().await;
        let mut agent = bench.agent("box-1", 1, 1).await;
        agent.welcome().await;
        bench.submit(noops(1), "").await;
        loop {
            // Verdicts come between grants.
            let Outbound::Grant { attempt, .. } = agent.word().await else { continue };
            agent.finish(attempt, Outcome::OK, "").await;
            break;
        }
        for _ in 0..3 {
            bench.submit(noops(2), "").await;
        }
        let lookup = Lookup::new(bench.handle.clone(), Arc::new(bench.clock.clone()));
        let list = async |below: u64, limit: usize, states: &[v1::RunState]| {
            let states = states.iter().map(|state| i32::from(*state)).collect();
            let filter = RunFilter { states, ..RunFilter::default() };
            let page = lookup.runs(TENANT, RunId(below), limit, filter).await.unwrap();
            let refs: Vec<_> = page.runs.into_iter().map(|run| run.r#ref).collect();
            (refs, page.below)
        };
        let going = [v1::RunState::Planning, v1::RunState::Running];
        let (first, below) = list(u64::MAX, 2, &going).await;
        assert_eq!(first, ["adhoc/4", "adhoc/3"]);
        let (rest, end) = list(below.unwrap().0, 2, &going).await;
        assert_eq!((rest.as_slice(), end), (["adhoc/2".to_owned()].as_slice(), None));
        let (ended, _) = list(u64::MAX, 9, &[v1::RunState::Succeeded, v1::RunState::Running]).await;
        assert_eq!(ended, ["adhoc/4", "adhoc/3", "adhoc/2", "adhoc/1"]);
        let (ended, _) = list(u64::MAX, 9, &[v1::RunState::Succeeded]).await;
        assert_eq!(ended, ["adhoc/1"]);
    }
}
