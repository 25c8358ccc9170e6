//! A person asks for another try: of what did not succeed ([`super::retry`]), or of a task and everything below it,
//! whatever became of it. A request that was answered before is answered again and does nothing.

use crate::effect::{Effects, Write};
use crate::event::Target;
use crate::ids::{RunId, TaskIndex, TaskKey, TenantId, Token};
use crate::machine::retry::{reopen_run, reset, retry_run, retry_task};
use crate::machine::submit::{reply, taken};
use crate::machine::targets::{find_task, named};
use crate::machine::view::{finished_run_view, run_view};
use crate::query::{Answer, Refusal};
use crate::register::Request;
use crate::state::{State, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What somebody asked for.
pub(super) struct Again {
    pub(super) target: Target,
    pub(super) force: bool,
    pub(super) from: Option<Arc<str>>,
    pub(super) request_id: Arc<str>,
    pub(super) digest: [u8; 32],
}

pub(super) fn requested(state: &mut State, effects: &mut Effects, token: Token, again: &Again) {
    let answer = known(state, again).unwrap_or_else(|| {
        let (run, count) = carry_out(state, effects, again)?;
        remember(state, effects, again, run, count);
        let run = run_view(state, run).ok_or(Refusal::RunNotLive)?;
        Ok(Answer::Retried { run, count, existing: false })
    });
    reply(effects, token, answer.unwrap_or_else(Answer::Refused));
}

/// The answer to an earlier request with the same id.
fn known(state: &State, again: &Again) -> Option<Result<Answer, Refusal>> {
    let request = state.register.requests.get(again.target.tenant, &again.request_id)?;
    let run = run_view(state, request.run).or_else(|| finished_run_view(state, request.run))?;
    Some(match request.retried {
        Some(count) if request.digest == again.digest => Ok(Answer::Retried { run, count, existing: true }),
        Some(_) | None => Err(taken(&again.request_id, &run)),
    })
}

fn carry_out(state: &mut State, effects: &mut Effects, again: &Again) -> Result<(RunId, u32), Refusal> {
    let (run, task) = named(state, &again.target)?;
    let count = match (&again.from, task) {
        (Some(from), _) => from_task(state, effects, run, from),
        (None, None) => retry_run(state, effects, run, again.force),
        (None, Some(index)) => retry_task(state, effects, TaskKey { run, index }, again.force),
    }?;
    Ok((run, count))
}

/// Keeps the answer for as long as a repetition may come. A refusal is not kept: it did nothing.
fn remember(state: &mut State, effects: &mut Effects, again: &Again, run: RunId, count: u32) {
    let (tenant, id): (TenantId, _) = (again.target.tenant, &again.request_id);
    if id.is_empty() {
        return;
    }
    let request = Request { run, digest: again.digest, at: state.now.tick, retried: Some(count) };
    state.register.requests.note(tenant, id, request);
    effects.writes.push(Write::Request { tenant, id: Arc::clone(id) });
}

/// Runs a task and everything below it again, whatever became of it.
fn from_task(state: &mut State, effects: &mut Effects, id: RunId, from: &str) -> Result<u32, Refusal> {
    let run = state.run(id).ok_or(Refusal::RunNotLive)?;
    let first = find_task(run, from)?;
    if !run.state.is_terminal() {
        return Err(Refusal::WrongState {
            what: run.run_ref.to_string(),
            state: run.state.to_string(),
            hint: "only a run that ended can go back to a task: wait for its end, or cancel it".to_owned(),
        });
    }
    let dead = |index: &&TaskIndex| run.tasks[index.0 as usize].state != TaskState::Succeeded;
    if let Some(cause) = run.graph.dependencies(first).iter().find(dead) {
        return Err(Refusal::WrongState {
            what: format!("{}/{from}", run.run_ref),
            state: run.tasks[first.0 as usize].state.to_string(),
            hint: format!("it waits for {}: retry that first", run.tasks[cause.0 as usize].id),
        });
    }
    let set = hopeful_from(state, id, first);
    reopen_run(state, effects, id);
    unsettle(state, id, &set);
    for index in &set {
        reset(state, effects, TaskKey { run: id, index: *index }, &set);
    }
    Ok(u32::try_from(set.len()).unwrap_or(u32::MAX))
}

/// A task and what is below it, but not what another failure holds back: that stays as it is.
fn hopeful_from(state: &State, id: RunId, first: TaskIndex) -> BTreeSet<TaskIndex> {
    let mut set = BTreeSet::from([first]);
    let Some(run) = state.run(id) else { return set };
    let mut open = vec![first];
    while let Some(cause) = open.pop() {
        for dependent in run.graph.dependents(cause) {
            let hopeful =
                |on: &TaskIndex| set.contains(on) || run.tasks[on.0 as usize].state == TaskState::Succeeded;
            // One that is not hopeful yet is looked at again when another of its dependencies joins.
            if !set.contains(dependent) && run.graph.dependencies(*dependent).iter().all(hopeful) {
                set.insert(*dependent);
                open.push(*dependent);
            }
        }
    }
    set
}

/// What is not run again and waits for something that is has one more to wait for.
fn unsettle(state: &mut State, id: RunId, set: &BTreeSet<TaskIndex>) {
    let Some(run) = state.runs.get_mut(&id) else { return };
    for index in set {
        if run.tasks[index.0 as usize].state != TaskState::Succeeded {
            continue;
        }
        for dependent in run.graph.dependents(*index) {
            if !set.contains(dependent) {
                run.tasks[dependent.0 as usize].unmet += 1;
            }
        }
    }
}
