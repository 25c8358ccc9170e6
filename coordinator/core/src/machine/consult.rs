//! What only payloads tell: which questions are open, and what their answers do.
//! A question follows from the state of its task, so that a restart asks it again, and an answer to one that is no longer
//! asked is without effect. Plans are [`super::expand`]'s.

use crate::effect::{Action, Effects, Payload};
use crate::event::{Consultation, Role};
use crate::ids::{AttemptNo, TaskIndex, TaskKey};
use crate::machine::moves::{self, Told};
use crate::machine::{expand, flow, settle};
use crate::outcome::Outcome;
use crate::query::{Question, QuestionKind};
use crate::state::{State, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Notes a question and wakes whoever answers.
pub(super) fn ask(state: &mut State, effects: &mut Effects, key: TaskKey, kind: QuestionKind) {
    state.questions.insert(key, kind);
    wake(effects);
}

/// Wakes whoever answers, once an event.
pub(super) fn wake(effects: &mut Effects) {
    if !effects.actions.iter().any(|action| matches!(action, Action::Consult)) {
        effects.actions.push(Action::Consult);
    }
}

/// The oldest questions.
pub(super) fn questions(state: &State, limit: usize) -> Vec<Question> {
    let open = state.questions.iter().filter_map(|(key, kind)| {
        let (run, task) = state.run(key.run).zip(state.task(*key))?;
        Some(Question {
            task: *key,
            attempt: task.attempt,
            tenant: run.tenant,
            kind: *kind,
            repairs_left: task.flow.repairs.saturating_sub(task.repairs),
        })
    });
    open.take(limit).collect()
}

/// The question that the records of a task imply.
pub(crate) fn implied(state: &State, key: TaskKey) -> Option<QuestionKind> {
    let run = state.run(key.run).filter(|run| !run.state.is_terminal())?;
    let task = run.task(key.index);
    match task.state {
        TaskState::Verifying if task.flow.role == Role::Plan => Some(QuestionKind::Plan),
        TaskState::Verifying => {
            let by = run.review_of(key.index)?;
            (run.task(by).state == TaskState::Succeeded).then_some(QuestionKind::Review { by })
        }
        TaskState::Blocked => {
            let asks = run.is_ready(key.index) && flow::asks_first(run, key.index);
            asks.then_some(QuestionKind::Conditions)
        }
        TaskState::Queued
        | TaskState::Leased
        | TaskState::Running
        | TaskState::WaitingRetry
        | TaskState::Parked
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Skipped => None,
    }
}

/// The driver looked at payloads.
pub(super) fn answered(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    attempt: AttemptNo,
    answer: Consultation,
) {
    let Some(kind) = state.questions.get(&key).copied() else { return };
    if state.task(key).is_none_or(|task| task.attempt != attempt) {
        return;
    }
    match (kind, answer) {
        (QuestionKind::Conditions, Consultation::Run) => {
            state.questions.remove(&key);
            flow::admit(state, effects, key);
            settle::settle(state, effects, key.run, None);
        }
        (QuestionKind::Conditions, Consultation::Skip { detail }) => {
            flow::skip_one(state, effects, key, &detail);
            moves::after_end(state, effects, key);
        }
        (QuestionKind::Plan, Consultation::Expand(expansion)) => {
            expand::carry_out(state, effects, key, *expansion);
        }
        (QuestionKind::Plan, Consultation::Hold) => expand::hold(state, effects, key),
        (QuestionKind::Plan, Consultation::Accept { .. }) => expand::accept(state, effects, key),
        (QuestionKind::Review { .. }, Consultation::Accept { payload }) => {
            let told = Told { payload, ..Told::default() };
            moves::finish(state, effects, key, TaskState::Succeeded, Outcome::OK, told);
        }
        (QuestionKind::Plan | QuestionKind::Review { .. }, Consultation::SendBack { payload, detail }) => {
            send_back(state, effects, key, payload, &detail)
        }
        (
            QuestionKind::Plan | QuestionKind::Review { .. },
            Consultation::Refuse { outcome, detail, payload },
        ) => refuse(state, effects, key, outcome, payload, &detail),
        // What does not answer the question that is asked.
        (_, _) => {}
    }
}

/// Has a task tried again with what is wrong; refuses it when it was often enough.
fn send_back(state: &mut State, effects: &mut Effects, key: TaskKey, payload: Payload, detail: &Arc<str>) {
    if !repairs_left(state, key) {
        return refuse(state, effects, key, Outcome::GATE_FAILED, Some(payload), detail);
    }
    amend(state, key, Outcome::GATE_FAILED, detail);
    let told = Told {
        outcome: Some(Outcome::GATE_FAILED),
        detail: Some(Arc::clone(detail)),
        payload: Some(payload),
        ..Told::default()
    };
    repair(state, effects, key, told);
    settle::settle(state, effects, key.run, None);
}

/// Whether a task may be sent back once more.
pub(super) fn repairs_left(state: &State, key: TaskKey) -> bool {
    state.task(key).is_some_and(|task| task.repairs < task.flow.repairs)
}

/// Queues a task again whose result does not hold. It prefers the agent that keeps its conversation.
pub(super) fn repair(state: &mut State, effects: &mut Effects, key: TaskKey, told: Told) {
    if let Some(task) = state.task_mut(key) {
        task.repairs += 1;
    }
    moves::make_ready(state, effects, key, told);
}

/// Ends a task whose result does not hold.
pub(super) fn refuse(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    outcome: Outcome,
    payload: Option<Payload>,
    detail: &Arc<str>,
) {
    // Nothing fails with `ok`.
    let outcome = if outcome == Outcome::OK { Outcome::GATE_FAILED } else { outcome };
    amend(state, key, outcome, detail);
    let told = Told { detail: Some(Arc::clone(detail)), payload, ..Told::default() };
    moves::finish(state, effects, key, TaskState::Failed, outcome, told);
}

/// Says of the latest attempt, which ended with `ok`, what its result came to.
pub(super) fn amend(state: &mut State, key: TaskKey, outcome: Outcome, detail: &Arc<str>) {
    let Some(task) = state.task_mut(key) else { return };
    let latest = task.attempt;
    let Some(history) = &mut task.history else { return };
    if let Some(ended) = history.attempts.last_mut().filter(|ended| ended.number == latest) {
        ended.outcome = outcome;
        ended.detail = Arc::clone(detail);
    }
}

/// Whether an `ok` of this task is looked at before it counts.
pub(super) fn is_judged(state: &State, key: TaskKey) -> bool {
    let Some(run) = state.run(key.run) else { return false };
    let flow = run.task(key.index).flow;
    match flow.role {
        Role::Plan => run.is_unplanned(),
        Role::Work | Role::Synthesis | Role::Review | Role::Publish => {
            flow.reviewed && run.review_of(key.index).is_some()
        }
    }
}

/// The work of a task that is judged is done.
pub(super) fn verify(state: &mut State, effects: &mut Effects, key: TaskKey, told: Told) {
    moves::change(state, effects, key, TaskState::Verifying, told);
    let Some(run) = state.run(key.run) else { return };
    if run.task(key.index).flow.role == Role::Plan {
        ask(state, effects, key, QuestionKind::Plan);
    } else if let Some(by) = run.review_of(key.index) {
        review(state, effects, key, by);
    }
    settle::settle(state, effects, key.run, None);
}

/// Has a task judged, for the first time or again.
fn review(state: &mut State, effects: &mut Effects, key: TaskKey, by: TaskIndex) {
    let review = TaskKey { run: key.run, index: by };
    let Some(task) = state.task(review) else { return };
    match task.state {
        TaskState::Blocked => {
            flow::release(state, effects, review);
        }
        TaskState::Succeeded => {
            state.start_over(review);
            moves::make_ready(state, effects, review, Told::default());
        }
        TaskState::Failed | TaskState::Cancelled | TaskState::Skipped => {
            flow::fail_unjudged(state, effects, key, by);
            flow::follow(state, effects, key.run, vec![key.index], BTreeSet::new());
        }
        TaskState::Queued
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked => {}
    }
}
