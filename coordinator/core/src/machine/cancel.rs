//! Somebody wants the end of a run or a task. It is terminal at once; what an agent still says of it is fenced.

use crate::effect::{Effects, StopReason};
use crate::event::Target;
use crate::ids::{AttemptKey, RunId, TaskKey, Token};
use crate::machine::agents::show;
use crate::machine::attempts::stop;
use crate::machine::moves::{self, Told};
use crate::machine::reports::{Ending, end_attempt};
use crate::machine::settle;
use crate::machine::submit::reply;
use crate::machine::targets::named;
use crate::machine::view::run_view;
use crate::outcome::Outcome;
use crate::query::{Answer, Refusal};
use crate::schedule;
use crate::state::record::EndedAttempt;
use crate::state::{RunState, State, TaskState};
use crate::timers::Timer;
use crate::usage::Usage;
use std::sync::Arc;

pub(super) fn requested(
    state: &mut State,
    effects: &mut Effects,
    token: Token,
    target: &Target,
    reason: &Arc<str>,
) {
    let done = named(state, target).and_then(|(run, task)| match task {
        None => cancel_run(state, effects, run, reason).map(|count| (run, count)),
        Some(index) => cancel_task(state, effects, TaskKey { run, index }, reason).map(|count| (run, count)),
    });
    let answer = done.and_then(|(run, count)| {
        let run = run_view(state, run).ok_or(Refusal::RunNotLive)?;
        Ok(Answer::Cancelled { run, count })
    });
    reply(effects, token, answer.unwrap_or_else(Answer::Refused));
}

/// Cancels everything of a run that is not terminal. A cancelled run is fine: the first answer may have been lost.
fn cancel_run(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    reason: &Arc<str>,
) -> Result<u32, Refusal> {
    let Some(run) = state.run(id) else { return Err(Refusal::RunNotLive) };
    match run.state {
        RunState::Cancelled => return Ok(0),
        RunState::Succeeded | RunState::Failed => {
            return Err(Refusal::WrongState {
                what: run.run_ref.to_string(),
                state: run.state.to_string(),
                hint: "there is nothing left to cancel".to_owned(),
            });
        }
        RunState::Planning | RunState::WaitingApproval | RunState::Running | RunState::Synthesizing => {}
    }
    let mut count = 0;
    for index in run.indexes() {
        let key = TaskKey { run: id, index };
        if state.task(key).is_some_and(|task| !task.state.is_terminal()) {
            end(state, effects, key, reason);
            count += 1;
        }
    }
    settle::settle(state, effects, id, Some(RunState::Cancelled));
    Ok(count)
}

/// Cancels one task, and with it what waits for it.
fn cancel_task(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    reason: &Arc<str>,
) -> Result<u32, Refusal> {
    let Some(task) = state.task(key) else { return Err(Refusal::RunNotLive) };
    if task.state == TaskState::Cancelled {
        return Ok(0);
    }
    if task.state.is_terminal() {
        let run = state.run(key.run).map_or_else(String::new, |run| run.run_ref.to_string());
        return Err(Refusal::WrongState {
            what: format!("{run}/{}", task.id),
            state: task.state.to_string(),
            hint: "there is nothing left to cancel".to_owned(),
        });
    }
    end(state, effects, key, reason);
    moves::after_end(state, effects, key);
    Ok(1)
}

/// Ends a task that is not terminal, wherever it is.
pub(super) fn end(state: &mut State, effects: &mut Effects, key: TaskKey, reason: &Arc<str>) {
    let Some(task) = state.task(key) else { return };
    match task.state {
        TaskState::Queued => schedule::unqueue(state, key),
        TaskState::WaitingRetry | TaskState::Parked => {
            let due = task.retry;
            state.timers.clear(due, Timer::Retry(key));
        }
        TaskState::Leased | TaskState::Running => end_held(state, effects, key, reason),
        TaskState::Blocked
        | TaskState::Verifying
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Skipped => {}
    }
    if let Some(task) = state.task_mut(key) {
        task.history_mut().note = Some(Arc::clone(reason));
    }
    let told =
        Told { outcome: Some(Outcome::CANCELLED), detail: Some(Arc::clone(reason)), ..Told::default() };
    moves::end_one(state, effects, key, TaskState::Cancelled, told);
}

/// Takes an attempt from its agent. What it spent is what the agent said last, until the report of its end, which is
/// fenced, brings the exact figure ([`crate::machine::bills`]).
fn end_held(state: &mut State, effects: &mut Effects, key: TaskKey, reason: &Arc<str>) {
    let Some(task) = state.task(key) else { return };
    let started = task.granted.wall;
    let Some(agent) = task.agent else { return };
    let Some(lease) = state.agents.get_mut(agent).leases.remove(&key) else { return };
    let ended = EndedAttempt {
        number: lease.attempt,
        agent: Arc::clone(&state.agents.get(agent).name),
        started,
        finished: state.now.wall,
        outcome: Outcome::CANCELLED,
        detail: Arc::clone(reason),
        cost_micro_usd: lease.cost_micro_usd,
        digest: None,
        awaits_bill: true,
        duration: Some(state.now.tick - lease.granted),
    };
    let spent = Usage::estimate(lease.cost_micro_usd);
    let unsaid = Arc::clone(&state.empty);
    end_attempt(state, effects, key, ended, &spent, &unsaid, Ending { crash: false, failure: false });
    let attempt = AttemptKey { task: key, attempt: lease.attempt };
    stop(state, effects, agent, attempt, StopReason::Cancelled);
    show(state, effects, agent);
}
