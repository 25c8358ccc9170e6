//! When to try again: after a failure by rule, or because a person asks. The asking is in [`super::again`].

use crate::effect::{Effects, StopReason};
use crate::event::Role;
use crate::ids::{AttemptKey, RunId, TaskIndex, TaskKey};
use crate::machine::again;
use crate::machine::agents::show;
use crate::machine::attempts::{lose, stop};
use crate::machine::limits;
use crate::machine::moves::{self, Told};
use crate::outcome::Outcome;
use crate::query::{AgentStateView, Refusal};
use crate::state::{RunState, State, TaskState};
use crate::time::{Span, Tick};
use crate::timers::Timer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// When the next attempt of a task that just failed may start: a doubling delay, between half of it and all of it so
/// that tasks that failed together do not come back together; later when the report knew a time.
pub(super) fn retry_at(state: &State, key: TaskKey, crash: bool, retry_after: Option<Span>) -> Tick {
    let config = &state.config;
    let Some(task) = state.task(key) else { return state.now.tick };
    let (base, cap, failures) = if crash {
        (config.crash_base, config.crash_cap, task.crashes)
    } else {
        (config.retry_base, config.retry_cap, task.failures)
    };
    let seed = scatter(key, task.attempt.0);
    let doubled = base.0.saturating_mul(1 << failures.saturating_sub(1).min(32));
    let full = doubled.min(cap.0);
    let delay = full - full / 2 + seed % (full / 2 + 1);
    let asked = retry_after.map_or(0, |after| after.0.min(config.retry_after_cap.0));
    // A tenth on top, for the same reason; never earlier than asked.
    let asked = asked + seed % (asked / 10 + 1);
    state.now.tick + Span(delay.max(asked))
}

/// A number that looks random and is the same at every replay (splitmix64 over the names of the attempt).
pub(super) fn scatter(key: TaskKey, attempt: u32) -> u64 {
    let mut mixed = key
        .run
        .0
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(u64::from(key.index.0) << 32)
        .wrapping_add(u64::from(attempt));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The delay of a task is over.
pub(super) fn due(state: &mut State, effects: &mut Effects, key: TaskKey) {
    match state.task(key).map(|task| task.state) {
        Some(TaskState::WaitingRetry) => moves::make_ready(state, effects, key, Told::default()),
        Some(TaskState::Parked) => limits::wake(state, effects, key),
        Some(_) | None => {}
    }
}

/// Tries everything of a run again that did not succeed.
pub(super) fn retry_run(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    force: bool,
) -> Result<u32, Refusal> {
    let Some(run) = state.run(id) else { return Err(Refusal::RunNotLive) };
    if run.state.is_terminal() && run.is_shelved() {
        return reopen_plan(state, effects, id);
    }
    let ended =
        |index: &TaskIndex| matches!(run.task(*index).state, TaskState::Failed | TaskState::Cancelled);
    let again = again::widen(run, run.indexes().filter(ended).collect());
    again::refuse_begun(run, &again)?;
    let mut count = 0;
    for index in run.indexes() {
        let key = TaskKey { run: id, index };
        match state.task(key).map(|task| task.state) {
            Some(TaskState::WaitingRetry | TaskState::Parked) => count += wake(state, effects, key),
            Some(TaskState::Leased | TaskState::Running) if force => {
                count += u32::from(take_back(state, effects, key).is_ok());
            }
            Some(_) | None => {}
        }
    }
    count += again::reopen(state, effects, id, &again);
    if count > 0 {
        return Ok(count);
    }
    let run = state.run(id).ok_or(Refusal::RunNotLive)?;
    Err(Refusal::WrongState {
        what: run.run_ref.to_string(),
        state: run.state.to_string(),
        hint: "no task of it failed, was cancelled or skipped".to_owned(),
    })
}

/// Tries again what ended as poison: of a run, or the one task. Its crashes are forgotten, as by every retry.
pub(super) fn retry_dead(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    only: Option<TaskIndex>,
) -> Result<u32, Refusal> {
    let Some(run) = state.run(id) else { return Err(Refusal::RunNotLive) };
    let dead = |index: &TaskIndex| run.task(*index).outcome == Some(Outcome::POISON);
    let dead: BTreeSet<TaskIndex> =
        run.indexes().filter(dead).filter(|index| only.is_none_or(|only| only == *index)).collect();
    if dead.is_empty() {
        let (what, held) = match only.map(|index| run.task(index)) {
            Some(task) => (format!("{}/{}", run.run_ref, task.id), task.state.to_string()),
            None => (run.run_ref.to_string(), run.state.to_string()),
        };
        let hint = "no task of it ended as poison: orchctl ls --dead".to_owned();
        return Err(Refusal::WrongState { what, state: held, hint });
    }
    if let Some(index) = only {
        return retry_task(state, effects, TaskKey { run: id, index }, false);
    }
    let again = again::widen(run, dead);
    again::refuse_begun(run, &again)?;
    Ok(again::reopen(state, effects, id, &again))
}

/// Tries one task again, and what was skipped because of it.
pub(super) fn retry_task(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    force: bool,
) -> Result<u32, Refusal> {
    let Some((run, task)) = state.run(key.run).zip(state.task(key)) else { return Err(Refusal::RunNotLive) };
    let refused = |hint: String| Refusal::WrongState {
        what: format!("{}/{}", run.run_ref, task.id),
        state: task.state.to_string(),
        hint,
    };
    match task.state {
        TaskState::Failed | TaskState::Cancelled | TaskState::Skipped => {
            if run.state.is_terminal() && run.is_unplanned() && task.flow.role != Role::Plan {
                return match run.tasks.first() {
                    Some(plan) if !run.is_shelved() => {
                        Err(refused(format!("it waits for {}: retry that first", plan.id)))
                    }
                    Some(_) | None => reopen_plan(state, effects, key.run),
                };
            }
            if let Some(name) = again::dead_dependency(run, key.index, &BTreeSet::new()) {
                return Err(refused(format!("it waits for {name}: retry that first")));
            }
            let again = again::widen(run, BTreeSet::from([key.index]));
            again::refuse_begun(run, &again)?;
            Ok(again::reopen(state, effects, key.run, &again))
        }
        TaskState::WaitingRetry | TaskState::Parked => Ok(wake(state, effects, key)),
        TaskState::Leased | TaskState::Running if force => {
            take_back(state, effects, key).map(|()| 1).map_err(|agent| {
                let run = state.run(key.run).map_or_else(String::new, |run| run.run_ref.to_string());
                let task = state.task(key);
                Refusal::WrongState {
                    what: format!("{run}/{}", task.map_or("", |task| &*task.id)),
                    state: task.map_or_else(String::new, |task| task.state.to_string()),
                    hint: format!("{agent} is connected: cancel it first"),
                }
            })
        }
        TaskState::Leased | TaskState::Running => {
            Err(refused("cancel it first; --force takes it from an agent that is unreachable".to_owned()))
        }
        TaskState::Verifying => {
            Err(refused("its result is being judged: wait for that, or cancel it".to_owned()))
        }
        TaskState::Blocked | TaskState::Queued => Err(refused("it has yet to run".to_owned())),
        TaskState::Succeeded => Err(refused("it is done; --from runs it again".to_owned())),
    }
}

/// A run whose plan was rejected, or that was cancelled before somebody approved it, waits for a word again.
fn reopen_plan(state: &mut State, effects: &mut Effects, id: RunId) -> Result<u32, Refusal> {
    let Some(run) = state.run(id) else { return Err(Refusal::RunNotLive) };
    let plan = run.tasks.first().map_or("", |task| &*task.id);
    if run.state != RunState::Cancelled || run.shape.planning.is_none_or(|planning| planning.plan_only) {
        return Err(Refusal::WrongState {
            what: run.run_ref.to_string(),
            state: run.state.to_string(),
            hint: format!("its plan was not carried out: --from {plan} plans anew"),
        });
    }
    let rest = run.indexes().filter(|index| run.task(*index).state != TaskState::Succeeded).collect();
    Ok(again::reopen(state, effects, id, &rest))
}

/// Does not wait for the end of a delay.
fn wake(state: &mut State, effects: &mut Effects, key: TaskKey) -> u32 {
    let Some(due) = state.task(key).map(|task| task.retry) else { return 0 };
    state.timers.clear(due, Timer::Retry(key));
    moves::make_ready(state, effects, key, Told::default());
    1
}

/// Takes an attempt from an agent that is unreachable. `Err` is the name of one that is not.
fn take_back(state: &mut State, effects: &mut Effects, key: TaskKey) -> Result<(), Arc<str>> {
    let Some((agent, attempt)) = state.task(key).and_then(|task| Some((task.agent?, task.attempt))) else {
        return Err(Arc::clone(&state.empty));
    };
    let held = state.agents.get(agent);
    if held.state() != AgentStateView::Unreachable {
        return Err(Arc::clone(&held.name));
    }
    let detail: Arc<str> = format!("taken back from {}, which is unreachable", held.name).into();
    lose(state, effects, agent, key, &detail, false);
    stop(state, effects, agent, AttemptKey { task: key, attempt }, StopReason::Fenced);
    show(state, effects, agent);
    Ok(())
}
