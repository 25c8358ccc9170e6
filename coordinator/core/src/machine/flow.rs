//! How the tasks of a run go together: what an end makes ready, skips or cancels, and what must be asked first.
//! Knows the roles of tasks and the policy of their run; how a run ends is [`super::settle`]'s.

use crate::effect::Effects;
use crate::event::{After, FailurePolicy, Role};
use crate::ids::{RunId, TaskIndex, TaskKey};
use crate::machine::cancel;
use crate::machine::consult;
use crate::machine::moves::{self, Told, ended};
use crate::outcome::Outcome;
use crate::query::QuestionKind;
use crate::run::Run;
use crate::state::{State, TaskState};
use crate::task::judges;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Carries out what follows from tasks that ended (`causes`) and from others that may be ready (`open`). Places are
/// given by [`super::settle`], which comes after.
pub(super) fn follow(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    mut causes: Vec<TaskIndex>,
    mut open: BTreeSet<TaskIndex>,
) {
    loop {
        while let Some(cause) = causes.pop() {
            judge(state, effects, id, cause, &mut causes);
            skip(state, effects, id, cause, &mut causes, &mut open);
            if stops_run(state, id, cause) {
                cancel_rest(state, effects, id, cause);
                return;
            }
        }
        let Some(index) = open.pop_first() else { return };
        if release(state, effects, TaskKey { run: id, index }) {
            causes.push(index);
        }
    }
}

/// What the end of a review means for the task it judges, which is waiting for it.
fn judge(state: &mut State, effects: &mut Effects, id: RunId, by: TaskIndex, causes: &mut Vec<TaskIndex>) {
    let Some(run) = state.run(id) else { return };
    let review = run.task(by);
    let (Role::Review, Some(of)) = (review.flow.role, review.flow.of) else { return };
    if run.task(of).state != TaskState::Verifying {
        return;
    }
    let key = TaskKey { run: id, index: of };
    if review.state == TaskState::Succeeded {
        consult::ask(state, effects, key, QuestionKind::Review { by });
        return;
    }
    fail_unjudged(state, effects, key, by);
    causes.push(of);
}

/// Ends a task whose review ended without a verdict.
pub(super) fn fail_unjudged(state: &mut State, effects: &mut Effects, key: TaskKey, by: TaskIndex) {
    let Some(run) = state.run(key.run) else { return };
    let review = run.task(by);
    let why = match review.detail() {
        Some(detail) if !detail.is_empty() => detail.to_string(),
        Some(_) | None => format!("{} {}", review.id, ended(review.state)),
    };
    let detail: Arc<str> = format!("its review could not be done: {why}").into();
    consult::amend(state, key, Outcome::GATE_FAILED, &detail);
    let told = Told { outcome: Some(Outcome::GATE_FAILED), detail: Some(detail), ..Told::default() };
    moves::end_one(state, effects, key, TaskState::Failed, told);
}

/// Skips what waited for the success of a task that ended otherwise; what may go on is added to `open`.
fn skip(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    cause: TaskIndex,
    causes: &mut Vec<TaskIndex>,
    open: &mut BTreeSet<TaskIndex>,
) {
    let Some(run) = state.run(id) else { return };
    let task = run.task(cause);
    let success = task.state == TaskState::Succeeded;
    let detail: Arc<str> = format!("it waits for {}, which {}", task.id, ended(task.state)).into();
    let unplanned = task.flow.role == Role::Plan && run.is_unplanned() && !success;
    let (mut skipped, mut useless) = (Vec::new(), Vec::new());
    for index in run.graph.dependents(cause).iter().copied() {
        let dependent = run.task(index);
        if dependent.state == TaskState::Blocked {
            if success || dependent.flow.after == After::End && !unplanned {
                open.insert(index);
            } else {
                skipped.push(index);
            }
        } else if !success && judges(dependent.flow, cause) && dependent.state.takes_place() {
            useless.push(index);
        }
    }
    let told = |detail: &Arc<str>| Told {
        outcome: Some(Outcome::SKIPPED),
        detail: Some(Arc::clone(detail)),
        ..Told::default()
    };
    for index in skipped {
        let key = TaskKey { run: id, index };
        if unplanned {
            note(state, key, &detail);
        }
        moves::end_one(state, effects, key, TaskState::Skipped, told(&detail));
        causes.push(index);
    }
    for index in useless {
        cancel::end(state, effects, TaskKey { run: id, index }, &detail);
        causes.push(index);
    }
}

/// Whether the end of a task ends everything else of its run.
fn stops_run(state: &State, id: RunId, cause: TaskIndex) -> bool {
    state.run(id).is_some_and(|run| {
        run.shape.policy == FailurePolicy::FailFast
            && matches!(run.task(cause).state, TaskState::Failed | TaskState::Cancelled)
    })
}

/// Cancels what has not ended, because of a task that did not succeed.
fn cancel_rest(state: &mut State, effects: &mut Effects, id: RunId, cause: TaskIndex) {
    let Some(run) = state.runs.get_mut(&id) else { return };
    let task = run.task(cause);
    let reason: Arc<str> =
        format!("{} {}, and the run stops at the first failure", task.id, ended(task.state)).into();
    let rest: Vec<TaskIndex> = run.indexes().filter(|index| !run.task(*index).state.is_terminal()).collect();
    if !rest.is_empty() {
        run.detail = Arc::clone(&reason);
    }
    for index in rest {
        cancel::end(state, effects, TaskKey { run: id, index }, &reason);
    }
}

/// Lets a blocked task that waits for nothing else go on: into the queue, to a place, or to a question. Whether it was
/// skipped instead.
pub(super) fn release(state: &mut State, effects: &mut Effects, key: TaskKey) -> bool {
    let Some(run) = state.run(key.run) else { return false };
    let task = run.task(key.index);
    if task.state != TaskState::Blocked || !run.is_ready(key.index) {
        return false;
    }
    if task.flow.role == Role::Synthesis && !run.has_success() {
        skip_one(state, effects, key, &Arc::from("nothing succeeded, so there is nothing to combine"));
        return true;
    }
    if asks_first(run, key.index) {
        consult::ask(state, effects, key, QuestionKind::Conditions);
    } else {
        admit(state, effects, key);
    }
    false
}

/// Whether a task has conditions to be looked at. A review has none of its own: it belongs to its task.
pub(crate) fn asks_first(run: &Run, index: TaskIndex) -> bool {
    let flow = run.task(index).flow;
    flow.conditional && flow.role != Role::Review
}

/// Queues a blocked task, or lets it wait for a place.
pub(super) fn admit(state: &mut State, effects: &mut Effects, key: TaskKey) {
    let Some(run) = state.runs.get_mut(&key.run) else { return };
    if run.shape.max_parallel == 0 || run.task(key.index).flow.role == Role::Review {
        moves::make_ready(state, effects, key, Told::default());
    } else {
        run.waiting.insert(key.index);
    }
}

/// Skips a task for a reason that its dependencies do not tell.
pub(super) fn skip_one(state: &mut State, effects: &mut Effects, key: TaskKey, detail: &Arc<str>) {
    note(state, key, detail);
    let told = Told { outcome: Some(Outcome::SKIPPED), detail: Some(Arc::clone(detail)), ..Told::default() };
    moves::end_one(state, effects, key, TaskState::Skipped, told);
}

fn note(state: &mut State, key: TaskKey, detail: &Arc<str>) {
    if let Some(task) = state.task_mut(key) {
        task.history_mut().note = Some(Arc::clone(detail));
    }
}
