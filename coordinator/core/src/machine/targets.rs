//! From what somebody named to what it is, or to a refusal that helps.

use crate::event::Target;
use crate::ids::{AgentKey, RunId, TaskIndex, TaskKey, TenantId};
use crate::machine::nearest::nearest;
use crate::query::Refusal;
use crate::run::Run;
use crate::state::State;
use std::sync::Arc;

/// Names proposed for one that does not exist.
const PROPOSALS: usize = 3;

/// The live run.
pub(super) fn run_of(state: &State, target: &Target) -> Result<RunId, Refusal> {
    match state.resolve(target) {
        Some((run, true)) => Ok(run),
        Some((_, false)) | None => Err(Refusal::RunNotLive),
    }
}

/// The agent of that name, connected or not.
pub(super) fn agent_of(state: &State, tenant: TenantId, name: &Arc<str>) -> Result<AgentKey, Refusal> {
    state.agents.find(tenant, name).ok_or_else(|| {
        let known = state.agents.iter().map(|(_, agent)| agent).filter(|agent| agent.tenant == tenant);
        let nearest = nearest(name, known.map(|agent| &*agent.name), PROPOSALS);
        Refusal::NoSuchAgent { agent: name.to_string(), nearest }
    })
}

/// The live run, and the task when one was named.
pub(super) fn named(state: &State, target: &Target) -> Result<(RunId, Option<TaskIndex>), Refusal> {
    let id = run_of(state, target)?;
    let run = state.run(id).ok_or(Refusal::RunNotLive)?;
    let Some(name) = &target.task else { return Ok((id, None)) };
    find_task(run, name).map(|index| (id, Some(index)))
}

/// The task of a run by its name.
pub(super) fn find_task(run: &Run, name: &str) -> Result<TaskIndex, Refusal> {
    run.find(name).ok_or_else(|| Refusal::NoSuchTask {
        run_ref: run.run_ref.to_string(),
        task: name.to_owned(),
        nearest: nearest(name, run.tasks.iter().map(|task| &*task.id), PROPOSALS),
    })
}

/// The task: the one named, or the only one.
pub(super) fn task_of(state: &State, target: &Target) -> Result<TaskKey, Refusal> {
    let (id, index) = named(state, target)?;
    let run = state.run(id).ok_or(Refusal::RunNotLive)?;
    match index {
        Some(index) => Ok(TaskKey { run: id, index }),
        None if run.tasks.len() == 1 => Ok(TaskKey { run: id, index: TaskIndex(0) }),
        None => Err(Refusal::TaskNeeded { run_ref: run.run_ref.to_string(), tasks: run.task_count() }),
    }
}
