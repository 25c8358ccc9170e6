//! The only place where a task or a run changes its state: counts, records, watchers and dependents follow here.
//! Decides nothing; whoever calls has looked at the state.

use crate::effect::{Change, Effects, Payload, Write};
use crate::ids::{RunId, TaskIndex, TaskKey};
use crate::outcome::Outcome;
use crate::register::FinishedRun;
use crate::schedule;
use crate::state::{RunState, State, TaskState};
use crate::time::{Span, Tick};
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

/// Moves a task that stands in no queue to another state. Terminal states go through [`finish`], queued ones through [`make_ready`].
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
    let waited = (to == TaskState::Leased).then(|| now.tick - task.since);
    task.state = to;
    task.since = now.tick;
    task.level = 0;
    run.counts.leave(from);
    run.counts.enter(to);
    state.totals.tasks[from as usize] -= 1;
    state.totals.tasks[to as usize] += 1;
    // That a blocked task became ready follows from the records of its dependencies.
    if from != TaskState::Blocked || to != TaskState::Queued {
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
    if to == TaskState::Succeeded {
        release_dependents(state, effects, key);
        finish_run_when_done(state, effects, key.run, None);
    } else {
        after_failure(state, effects, key);
    }
}

/// What follows when a task ended and did not succeed.
pub(super) fn after_failure(state: &mut State, effects: &mut Effects, key: TaskKey) {
    skip_downstream(state, effects, key);
    finish_run_when_done(state, effects, key.run, None);
}

/// Ends a task without looking at anything else.
pub(super) fn end_one(state: &mut State, effects: &mut Effects, key: TaskKey, to: TaskState, told: Told) {
    let wall = state.now.wall;
    if let Some(task) = state.task_mut(key) {
        task.finished = Some(wall);
        task.outcome = told.outcome;
    }
    forget_conversation(state, key);
    change(state, effects, key, to, told);
}

fn forget_conversation(state: &mut State, key: TaskKey) {
    if let Some(agent) = state.schedule.conversations.remove(&key) {
        state.agents.get_mut(agent).conversations.remove(&key);
    }
}

fn release_dependents(state: &mut State, effects: &mut Effects, key: TaskKey) {
    let Some(run) = state.runs.get_mut(&key.run) else { return };
    let mut ready: Vec<TaskIndex> = Vec::new();
    for dependent in run.graph.dependents(key.index) {
        let task = &mut run.tasks[dependent.0 as usize];
        task.unmet = task.unmet.saturating_sub(1);
        if task.unmet == 0 && task.state == TaskState::Blocked {
            ready.push(*dependent);
        }
    }
    for index in ready {
        make_ready(state, effects, TaskKey { run: key.run, index }, Told::default());
    }
}

/// Skips everything that waits, directly or not, for a task that did not succeed.
fn skip_downstream(state: &mut State, effects: &mut Effects, key: TaskKey) {
    let mut causes = vec![key.index];
    while let Some(cause) = causes.pop() {
        let Some(run) = state.run(key.run) else { return };
        let cause_task = &run.tasks[cause.0 as usize];
        let detail: Arc<str> =
            format!("it waits for {}, which {}", cause_task.id, ended(cause_task.state)).into();
        let blocked = |index: &TaskIndex| run.tasks[index.0 as usize].state == TaskState::Blocked;
        let skipped: Vec<TaskIndex> = run.graph.dependents(cause).iter().copied().filter(blocked).collect();
        for index in skipped {
            let task = TaskKey { run: key.run, index };
            let told = Told {
                outcome: Some(Outcome::SKIPPED),
                detail: Some(Arc::clone(&detail)),
                ..Told::default()
            };
            end_one(state, effects, task, TaskState::Skipped, told);
            causes.push(index);
        }
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

/// Ends a run whose tasks are all terminal. `asked` is the state somebody asked for.
pub(super) fn finish_run_when_done(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    asked: Option<RunState>,
) {
    let now = state.now;
    let Some(run) = state.runs.get_mut(&id) else { return };
    if run.state.is_terminal() || run.counts.active() > 0 {
        return;
    }
    let to = asked.unwrap_or_else(|| {
        if run.counts.get(TaskState::Failed) > 0 {
            RunState::Failed
        } else if run.counts.get(TaskState::Cancelled) > 0 {
            RunState::Cancelled
        } else {
            RunState::Succeeded
        }
    });
    let first = |wanted: TaskState| run.tasks.iter().find(|task| task.state == wanted);
    run.outcome = match to {
        RunState::Failed => first(TaskState::Failed).and_then(|task| task.outcome),
        RunState::Cancelled => Some(Outcome::CANCELLED),
        RunState::Planning
        | RunState::WaitingApproval
        | RunState::Running
        | RunState::Synthesizing
        | RunState::Succeeded => None,
    };
    debug_assert!(run.state.may_become(to), "run {id}: {} -> {to}", run.state);
    run.state = to;
    run.finished = Some(now);
    let finished = FinishedRun {
        tenant: run.tenant,
        name: run.name,
        number: run.number,
        submitted_by: run.submitted_by,
        state: to,
        tasks: run.task_count(),
        at: now.tick,
        stays_since: Some(now.tick),
    };
    state.register.finished.add(id, finished);
    state.schedule.passes.forget(id);
    state.totals.active_runs -= 1;
    effects.writes.push(Write::Run(id));
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
