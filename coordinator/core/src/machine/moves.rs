//! The only place where a task changes its state: counts, records, watchers and what others wait for follow here.
//! Decides nothing; whoever calls has looked at the state.

use crate::budgets::AccountKey;
use crate::effect::{Change, Effects, Payload, Write};
use crate::event::Role;
use crate::ids::{AttemptKey, RunId, TaskIndex, TaskKey};
use crate::machine::{budgets, flow, settle};
use crate::outcome::Outcome;
use crate::run::Run;
use crate::schedule;
use crate::state::{RunState, State, TaskState};
use crate::task::is_met;
use crate::time::{Span, Tick};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What watchers are told of a change beyond the state.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Outcome of the attempt that ended, or of the task.
    pub(super) outcome: Option<Outcome>,
    /// In plain English.
    pub(super) detail: Option<Arc<str>>,
    /// Length of the attempt that ended.
    pub(super) execution_time: Option<Span>,
    /// When a waiting retry becomes ready.
    pub(super) retry_at: Option<Tick>,
    /// Payload of the report that made the change.
    pub(super) payload: Option<Payload>,
}

/// Moves a task that stands in no queue to another state. Terminal states go through [`end_one`], queued ones through
/// [`make_ready`]. What waits for it is counted anew; that something became ready is [`super::flow`]'s to see.
pub(super) fn change(state: &mut State, effects: &mut Effects, key: TaskKey, to: TaskState, told: Told) {
    let now = state.now;
    let Some(run) = state.runs.get_mut(&key.run) else { return };
    let Some(task) = run.tasks.get_mut(key.index.0 as usize) else { return };
    let from = task.state;
    debug_assert!(from.may_become(to), "task {key}: {from} -> {to}");
    // Whatever else is wrong, what ended stays ended.
    if !from.may_become(to) {
        return;
    }
    // Nothing that costs waits in a run whose budget is used up.
    if run.purse.over && matches!(to, TaskState::Queued | TaskState::WaitingRetry | TaskState::Parked) {
        state.budgets.touched.insert(AccountKey::Run(key.run));
    }
    let attempt = task.attempt;
    let waited = (to == TaskState::Leased).then(|| now.tick - task.since);
    task.state = to;
    task.since = now.tick;
    task.level = 0;
    state.totals.change(run.tenant, from, to, now.tick);
    state.questions.remove(&key);
    for index in recount(run, key.index, from, to) {
        state.questions.remove(&TaskKey { run: key.run, index });
    }
    let task = run.task(key.index);
    // That a blocked task became ready usually follows from the records of its dependencies.
    if from != TaskState::Blocked || to != TaskState::Queued || run.records_readiness(task) {
        effects.writes.push(Write::Task { task: key, payload: told.payload });
    }
    let agent = task.agent.map_or(&state.empty, |agent| &state.agents.get(agent).name);
    let notice = Change::Task {
        task: key,
        run_ref: Arc::clone(&run.run_ref),
        task_id: Arc::clone(&task.id),
        state: to,
        attempt: task.attempt.0,
        agent: Arc::clone(agent),
        outcome: told.outcome,
        detail: told.detail.unwrap_or_else(|| Arc::clone(&state.empty)),
        cost_micro_usd: task.usage().cost_micro_usd,
        execution_time: told.execution_time,
        retry_at: told.retry_at,
        waited,
    };
    let tenant = run.tenant;
    state.tell(effects, tenant, notice);
    if from.is_held() && !to.is_held() {
        state.limits.ended(AttemptKey { task: key, attempt });
    }
    if from == TaskState::Parked {
        state.limits.unpark(key);
    }
}

/// Brings the sums of a run up to date, and what the dependents of the task that changed still wait for. Returns those
/// that have one more to wait for: what they waited for beside is no longer of interest.
fn recount(run: &mut Run, index: TaskIndex, from: TaskState, to: TaskState) -> Vec<TaskIndex> {
    let mut held_back = Vec::new();
    run.counts.leave(from);
    run.counts.enter(to);
    run.waiting.remove(&index);
    if run.task(index).flow.role != Role::Review {
        run.places = run.places + u32::from(to.takes_place()) - u32::from(from.takes_place());
    }
    // Nothing else is looked at by what waits.
    let seen = |state: TaskState| {
        (state.is_terminal(), state == TaskState::Succeeded, state == TaskState::Verifying)
    };
    if seen(from) == seen(to) {
        return held_back;
    }
    let Run { graph, tasks, waiting, .. } = run;
    for dependent in graph.dependents(index) {
        let task = &mut tasks[dependent.0 as usize];
        match (is_met(task.flow, index, from), is_met(task.flow, index, to)) {
            (false, true) => task.unmet = task.unmet.saturating_sub(1),
            (true, false) => {
                task.unmet += 1;
                waiting.remove(dependent);
                held_back.push(*dependent);
            }
            (true, true) | (false, false) => {}
        }
    }
    held_back
}

/// Queues a task.
pub(super) fn make_ready(state: &mut State, effects: &mut Effects, key: TaskKey, told: Told) {
    change(state, effects, key, TaskState::Queued, told);
    schedule::enqueue(state, key);
}

/// Ends a task for good, and with it perhaps its dependents' waiting, its dependents, or its run.
pub(super) fn finish(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    to: TaskState,
    outcome: Outcome,
    told: Told,
) {
    end_one(state, effects, key, to, Told { outcome: Some(outcome), ..told });
    after_end(state, effects, key);
}

/// What follows when a task ended.
pub(super) fn after_end(state: &mut State, effects: &mut Effects, key: TaskKey) {
    flow::follow(state, effects, key.run, vec![key.index], BTreeSet::new());
    settle::settle(state, effects, key.run, None);
}

/// Ends a task without looking at anything else.
pub(super) fn end_one(state: &mut State, effects: &mut Effects, key: TaskKey, to: TaskState, told: Told) {
    let wall = state.now.wall;
    if let Some(task) = state.task_mut(key) {
        task.finished = Some(wall);
        task.outcome = told.outcome;
    }
    if told.outcome == Some(Outcome::POISON) {
        state.note_dead(key.run, true);
    }
    forget_conversation(state, key);
    change(state, effects, key, to, told);
}

fn forget_conversation(state: &mut State, key: TaskKey) {
    if let Some(agent) = state.schedule.conversations.remove(&key) {
        state.agents.get_mut(agent).conversations.remove(&key);
    }
}

/// What a task that did not succeed did, in plain English.
pub(crate) fn ended(state: TaskState) -> &'static str {
    match state {
        TaskState::Failed => "failed",
        TaskState::Cancelled => "was cancelled",
        TaskState::Skipped => "was skipped",
        TaskState::Succeeded => "succeeded",
        TaskState::Blocked
        | TaskState::Queued
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked => "has not ended",
    }
}

/// Moves a run to another state that is not terminal. [`settle`] ends it.
pub(super) fn change_run(state: &mut State, effects: &mut Effects, id: RunId, to: RunState) {
    let Some(run) = state.runs.get_mut(&id) else { return };
    debug_assert!(run.state.may_become(to), "run {id}: {} -> {to}", run.state);
    run.state = to;
    effects.writes.push(Write::Run(id));
    budgets::run_moved(state, effects, id);
    tell_run(state, effects, id);
}

/// Tells watchers the state of a run.
pub(super) fn tell_run(state: &mut State, effects: &mut Effects, id: RunId) {
    let Some(run) = state.run(id) else { return };
    let tenant = run.tenant;
    let change = Change::Run {
        run: id,
        run_ref: Arc::clone(&run.run_ref),
        state: run.state,
        task_count: run.task_count(),
        cost_micro_usd: run.usage.cost_micro_usd,
    };
    state.tell(effects, tenant, change);
}
