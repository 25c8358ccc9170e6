//! A person asks for another try: of what did not succeed ([`super::retry`]), or of a task and everything below it,
//! whatever became of it. A request that was answered before is answered again and does nothing.

use crate::effect::{Effects, Write};
use crate::event::{After, Role, Target};
use crate::ids::{RunId, TaskIndex, TaskKey, TenantId, Token};
use crate::machine::moves::{self, Told};
use crate::machine::retry::{retry_dead, retry_run, retry_task};
use crate::machine::submit::{reply, taken};
use crate::machine::targets::{find_task, named};
use crate::machine::view::{finished_run_view, run_view};
use crate::machine::{budgets, flow, settle};
use crate::query::{Answer, Refusal, RunView};
use crate::register::Request;
use crate::run::Run;
use crate::state::{RunState, State, TaskState};
use crate::task::judges;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What somebody asked for.
pub(super) struct Again {
    pub(super) target: Target,
    pub(super) force: bool,
    pub(super) from: Option<Arc<str>>,
    pub(super) dead: bool,
    pub(super) request_id: Arc<str>,
    pub(super) digest: [u8; 32],
}

pub(super) fn requested(state: &mut State, effects: &mut Effects, token: Token, again: &Again) {
    let tenant = again.target.tenant;
    let known = known_request(state, tenant, &again.request_id, &again.digest);
    let known = known.map(|known| known.map(|(run, count)| Answer::Retried { run, count, existing: true }));
    let answer = known.unwrap_or_else(|| {
        let (run, count) = carry_out(state, effects, again)?;
        let request = Request::answered(run, again.digest, count);
        remember(state, effects, tenant, &again.request_id, request);
        let run = run_view(state, run).ok_or(Refusal::RunNotLive)?;
        Ok(Answer::Retried { run, count, existing: false })
    });
    reply(effects, token, answer.unwrap_or_else(Answer::Refused));
}

/// The run of an earlier request with the same id, and the tasks that were queued again; refused where that asked for
/// something else. `None` when the id is not known.
pub(super) fn known_request(
    state: &State,
    tenant: TenantId,
    request_id: &Arc<str>,
    digest: &[u8; 32],
) -> Option<Result<(RunView, u32), Refusal>> {
    let request = state.register.requests.get(tenant, request_id)?;
    let run = run_view(state, request.run).or_else(|| finished_run_view(state, request.run))?;
    Some(match request.retried {
        Some(count) if request.digest == *digest => Ok((run, count)),
        Some(_) | None => Err(taken(request_id, &run)),
    })
}

fn carry_out(state: &mut State, effects: &mut Effects, again: &Again) -> Result<(RunId, u32), Refusal> {
    let (run, task) = named(state, &again.target)?;
    budgets::check_retry(state, run)?;
    let count = match (&again.from, task) {
        (Some(from), _) => from_task(state, effects, run, from),
        (None, _) if again.dead => retry_dead(state, effects, run, task),
        (None, None) => retry_run(state, effects, run, again.force),
        (None, Some(index)) => retry_task(state, effects, TaskKey { run, index }, again.force),
    }?;
    Ok((run, count))
}

/// Keeps the answer for as long as a repetition may come. A refusal is not kept: it did nothing.
pub(super) fn remember(
    state: &mut State,
    effects: &mut Effects,
    tenant: TenantId,
    id: &Arc<str>,
    request: Request,
) {
    if id.is_empty() {
        return;
    }
    state.register.requests.note(tenant, id, Request { at: state.now.tick, ..request });
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
    if let Some(hint) = cannot_start_at(run, first) {
        return Err(Refusal::WrongState {
            what: format!("{}/{from}", run.run_ref),
            state: run.task(first).state.to_string(),
            hint,
        });
    }
    let set = hopeful_from(run, first);
    for index in &set {
        let task = state.task_mut(TaskKey { run: id, index: *index });
        if let Some((attempt, history)) = task.and_then(|task| Some((task.attempt, task.history.as_mut()?))) {
            history.afresh = attempt;
        }
    }
    Ok(reopen(state, effects, id, &set))
}

/// Why a run cannot go back to a task, in plain English.
fn cannot_start_at(run: &Run, first: TaskIndex) -> Option<String> {
    let flow = run.task(first).flow;
    let name = |index: TaskIndex| Arc::clone(&run.task(index).id);
    match (flow.role, flow.of) {
        (Role::Review, Some(of)) => return Some(format!("it judges {}: go back to that", name(of))),
        (Role::Plan, _) if run.shape.planning.is_some() && !run.is_unplanned() => {
            return Some("its plan was carried out: submit the request again for another".to_owned());
        }
        (Role::Plan | Role::Work | Role::Synthesis | Role::Review | Role::Publish, _) => {}
    }
    let planner = TaskIndex(0);
    if run.is_unplanned() && first != planner {
        return Some(format!("it waits for {}: retry that first", name(planner)));
    }
    let dead =
        |index: &TaskIndex| flow.after == After::Success && run.task(*index).state != TaskState::Succeeded;
    let cause = run.graph.dependencies(first).iter().copied().find(dead)?;
    Some(format!("it waits for {}: retry that first", name(cause)))
}

/// A task and what is below it, but not what another failure holds back: that stays as it is.
fn hopeful_from(run: &Run, first: TaskIndex) -> BTreeSet<TaskIndex> {
    let mut set = BTreeSet::from([first]);
    let mut open = vec![first];
    while let Some(cause) = open.pop() {
        for dependent in run.graph.dependents(cause) {
            let hopeful = |on: &TaskIndex| set.contains(on) || run.task(*on).state == TaskState::Succeeded;
            // One that is not hopeful yet is looked at again when another of its dependencies joins.
            if !set.contains(dependent)
                && (run.task(*dependent).flow.after == After::End
                    || run.graph.dependencies(*dependent).iter().all(hopeful))
            {
                set.insert(*dependent);
                open.push(*dependent);
            }
        }
    }
    set
}

/// The tasks of `again` that have a chance, and what goes with them: what was skipped because of them and of nothing
/// else, what judges them, and what was made of what they came to.
pub(super) fn widen(run: &Run, again: BTreeSet<TaskIndex>) -> BTreeSet<TaskIndex> {
    let mut set = again;
    let mut open: Vec<TaskIndex> = set.iter().copied().collect();
    while let Some(cause) = open.pop() {
        for dependent in run.graph.dependents(cause) {
            if !set.contains(dependent) && goes_along(run, cause, *dependent, &set) {
                set.insert(*dependent);
                open.push(*dependent);
            }
        }
    }
    // What waits for something that stays as it is has no chance, nor has what waits for that.
    let mut open: Vec<TaskIndex> = set.iter().copied().collect();
    while let Some(index) = open.pop() {
        if set.contains(&index) && dead_dependency(run, index, &set).is_some() {
            set.remove(&index);
            open.extend(run.graph.dependents(index));
        }
    }
    set
}

/// Whether a task is tried again because `cause`, which it depends on, is.
fn goes_along(run: &Run, cause: TaskIndex, index: TaskIndex, set: &BTreeSet<TaskIndex>) -> bool {
    let task = run.task(index);
    let made_of_it = task.flow.after == After::End || run.task(cause).state == TaskState::Succeeded;
    match task.state {
        TaskState::Skipped => dead_dependency(run, index, set).is_none(),
        TaskState::Succeeded | TaskState::Failed => made_of_it || judges(task.flow, cause),
        TaskState::Cancelled => judges(task.flow, cause),
        TaskState::Blocked
        | TaskState::Queued
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked => false,
    }
}

/// A dependency that ended without the success it had to have, and is not tried again.
pub(super) fn dead_dependency(run: &Run, index: TaskIndex, again: &BTreeSet<TaskIndex>) -> Option<Arc<str>> {
    if run.task(index).flow.after == After::End {
        return None;
    }
    let dead = |on: &TaskIndex| {
        let held = run.task(*on).state;
        held.is_terminal() && held != TaskState::Succeeded && !again.contains(on)
    };
    let on = run.graph.dependencies(index).iter().copied().find(dead)?;
    Some(Arc::clone(&run.task(on).id))
}

/// Something that was made of what there was cannot be given other things to be made of.
pub(super) fn refuse_begun(run: &Run, again: &BTreeSet<TaskIndex>) -> Result<(), Refusal> {
    let dependents = again.iter().flat_map(|index| run.graph.dependents(*index));
    match dependents.map(|index| run.task(*index)).find(|task| task.state.takes_place()) {
        None => Ok(()),
        Some(begun) => Err(Refusal::WrongState {
            what: format!("{}/{}", run.run_ref, begun.id),
            state: begun.state.to_string(),
            hint: "it has begun with what there is: wait for its end, or cancel it".to_owned(),
        }),
    }
}

/// Makes ended tasks wait or run again. Returns how many that are.
pub(super) fn reopen(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    again: &BTreeSet<TaskIndex>,
) -> u32 {
    if again.is_empty() {
        return 0;
    }
    reopen_run(state, effects, id, again);
    // First what waits for others of them, so that nothing takes what is about to be done again for done.
    let waits = |state: &State, index: TaskIndex| {
        let run = state.run(id);
        run.is_some_and(|run| run.graph.dependencies(index).iter().any(|on| again.contains(on)))
    };
    let (waiting, free): (Vec<TaskIndex>, Vec<TaskIndex>) =
        again.iter().copied().partition(|index| waits(state, *index));
    for index in waiting {
        reset(state, effects, TaskKey { run: id, index }, true);
    }
    let mut open = BTreeSet::new();
    for index in free {
        if reset(state, effects, TaskKey { run: id, index }, false) == TaskState::Blocked {
            open.insert(index);
        }
    }
    flow::follow(state, effects, id, Vec::new(), open);
    settle::settle(state, effects, id, None);
    u32::try_from(again.len()).unwrap_or(u32::MAX)
}

/// A run that had ended goes on.
fn reopen_run(state: &mut State, effects: &mut Effects, id: RunId, again: &BTreeSet<TaskIndex>) {
    let Some(run) = state.runs.get_mut(&id) else { return };
    if !run.state.is_terminal() {
        return;
    }
    run.finished = None;
    run.outcome = None;
    run.detail = Arc::clone(&state.empty);
    let plans = again.iter().any(|index| run.task(*index).flow.role == Role::Plan);
    let to = match (run.is_unplanned(), plans) {
        (true, true) => RunState::Planning,
        (true, false) => RunState::WaitingApproval,
        (false, _) => RunState::Running,
    };
    state.totals.active_runs += 1;
    state.register.finished.reopen(id);
    moves::change_run(state, effects, id, to);
}

/// Gives an ended task another try, and returns its state then: queued at once where nothing is to be looked at.
fn reset(state: &mut State, effects: &mut Effects, key: TaskKey, waits: bool) -> TaskState {
    state.start_over(key);
    let Some(run) = state.run(key.run) else { return TaskState::Blocked };
    let task = run.task(key.index);
    let plain = run.shape.max_parallel == 0 && !task.flow.conditional && task.flow.role != Role::Synthesis;
    if !waits && plain && run.is_ready(key.index) {
        moves::make_ready(state, effects, key, Told::default());
        return TaskState::Queued;
    }
    moves::change(state, effects, key, TaskState::Blocked, Told::default());
    TaskState::Blocked
}
