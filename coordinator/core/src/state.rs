//! The whole state of the coordinator as plain data.
//! Changed only by [`crate::machine::apply`], and by the restore functions before the first event.

pub mod record;
mod restore;
mod totals;
mod views;

pub use crate::run::RunState;
pub use crate::state::record::{
    AgentRecordView, EndedAttempt, GrantView, RestoreError, RestoredAgent, RestoredRequest, RestoredRun,
    RestoredTask, RunRecordView, TaskProgress, TaskRecordView,
};
pub use crate::task::{TaskCounts, TaskState};

pub(crate) use totals::Totals;

use crate::agents::Agents;
use crate::budgets::Budgets;
use crate::config::Config;
use crate::effect::{Change, Effects, Notice};
use crate::event::{RunTarget, Target};
use crate::ids::{AttemptNo, Epoch, EventSeq, RunId, TaskKey, TenantId};
use crate::limits::Limits;
use crate::names::Names;
use crate::outcome::Outcome;
use crate::query::QuestionKind;
use crate::register::Register;
use crate::run::Run;
use crate::schedule::Schedule;
use crate::task::Task;
use crate::time::{Now, Tick};
use crate::timers::Timers;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Runs, tasks, agents, queues and timers.
#[derive(Debug, Hash)]
pub struct State {
    pub(crate) config: Config,
    /// The latest moment seen.
    pub(crate) now: Now,
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
    pub(crate) seq: EventSeq,
    pub(crate) names: Names,
    /// Live runs: those that are not terminal, and finished ones for a while.
    pub(crate) runs: BTreeMap<RunId, Box<Run>>,
    pub(crate) register: Register,
    pub(crate) agents: Agents,
    pub(crate) schedule: Schedule,
    pub(crate) timers: Timers,
    /// Rate limits of credential pools.
    pub(crate) limits: Limits,
    /// What only payloads tell, by the task it is about: oldest run first.
    pub(crate) questions: BTreeMap<TaskKey, QuestionKind>,
    pub(crate) totals: Totals,
    pub(crate) budgets: Budgets,
    /// Tasks of runs up to this one get attempts above this number: what a restore left behind.
    pub(crate) attempt_floor: (RunId, AttemptNo),
    /// Before this nothing more is deleted from the store.
    pub(crate) forget_after: Tick,
    /// What was restored and is not checked yet.
    pub(crate) restoring: Vec<RestoreError>,
    pub(crate) empty: Arc<str>,
}

/// Whether tasks are granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Not started: leases are not rebuilt, so nothing may be granted.
    Loading,
    /// Everything is.
    Serving,
    /// Shutting down.
    Draining,
}

impl State {
    /// An empty state. Send [`crate::event::Event::Started`] before anything else, after a restore if there is one.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            now: Now::default(),
            epoch: Epoch(0),
            phase: Phase::Loading,
            seq: EventSeq(0),
            names: Names::default(),
            runs: BTreeMap::new(),
            register: Register::default(),
            agents: Agents::default(),
            schedule: Schedule::default(),
            timers: Timers::default(),
            limits: Limits::default(),
            questions: BTreeMap::new(),
            totals: Totals::default(),
            budgets: Budgets::default(),
            attempt_floor: (RunId(0), AttemptNo(0)),
            forget_after: Tick(0),
            restoring: Vec::new(),
            empty: Arc::from(""),
        }
    }

    /// Intervals and limits in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Generation of the coordinator, as the latest start said.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Sequence number of the newest notice.
    #[must_use]
    pub fn event_seq(&self) -> EventSeq {
        self.seq
    }

    /// The newest run id ever given out. Rises only; the driver keeps it where runs are deleted.
    #[must_use]
    pub fn last_run(&self) -> RunId {
        self.register.last_run
    }

    /// The run somebody named, and whether it is live. A run that is not live is terminal and in the store.
    #[must_use]
    pub fn resolve(&self, target: &Target) -> Option<(RunId, bool)> {
        let run = match &target.run {
            RunTarget::Ref { name, number } => {
                self.register.by_number(target.tenant, self.names.find(name)?, *number)?
            }
            RunTarget::LastOf(identity) => {
                self.register.newest_by(target.tenant, self.names.find(identity)?)?
            }
        };
        Some((run, self.runs.contains_key(&run)))
    }

    pub(crate) fn run(&self, id: RunId) -> Option<&Run> {
        self.runs.get(&id).map(Box::as_ref)
    }

    pub(crate) fn task(&self, key: TaskKey) -> Option<&Task> {
        self.runs.get(&key.run)?.tasks.get(key.index.0 as usize)
    }

    pub(crate) fn task_mut(&mut self, key: TaskKey) -> Option<&mut Task> {
        self.runs.get_mut(&key.run)?.tasks.get_mut(key.index.0 as usize)
    }

    /// Gives an ended task another try, as far as the task itself goes.
    pub(crate) fn start_over(&mut self, key: TaskKey) {
        let Some(task) = self.task_mut(key) else { return };
        let dead = task.outcome == Some(Outcome::POISON);
        task.start_over();
        if dead {
            self.note_dead(key.run, false);
        }
    }

    /// A task of a run ended as poison, or is no longer such a one.
    pub(crate) fn note_dead(&mut self, id: RunId, dead: bool) {
        let Some(tenant) = self.run(id).map(|run| run.tenant) else { return };
        let count = self.register.dead.entry((tenant, id)).or_default();
        *count = if dead { count.saturating_add(1) } else { count.saturating_sub(1) };
        if *count == 0 {
            self.register.dead.remove(&(tenant, id));
        }
    }

    /// Tells watchers something under the next number.
    pub(crate) fn tell(&mut self, effects: &mut Effects, tenant: TenantId, change: Change) {
        self.seq.0 += 1;
        effects.notices.push(Notice { seq: self.seq, tenant, at: self.now, change });
    }
}
