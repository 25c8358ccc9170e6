//! What becomes of a run after something happened to its tasks: places are given, its state follows, it ends.
//! Knows the policy; which tasks are ready is [`super::flow`]'s.

use crate::effect::{Effects, Write};
use crate::event::{FailurePolicy, Role};
use crate::ids::{RunId, TaskIndex, TaskKey};
use crate::machine::budgets;
use crate::machine::moves::{self, Told, change_run, tell_run};
use crate::outcome::Outcome;
use crate::register::FinishedRun;
use crate::run::{MAX_RUN_DETAIL_BYTES, Run};
use crate::state::{RunState, State, TaskState};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

/// Tasks named in the detail of a run before it says "and n more".
const NAMED: usize = 10;

/// Brings a run up to date. Comes last, whatever happened. `asked` is the state somebody wants it to end in.
pub(super) fn settle(state: &mut State, effects: &mut Effects, id: RunId, asked: Option<RunState>) {
    give_places(state, effects, id);
    let Some(run) = state.run(id) else { return };
    if run.state.is_terminal() {
        return;
    }
    if run.counts.active() == 0 {
        end(state, effects, id, asked);
        return;
    }
    match (run.state, run.is_synthesizing()) {
        (RunState::Running, true) => change_run(state, effects, id, RunState::Synthesizing),
        (RunState::Synthesizing, false) => change_run(state, effects, id, RunState::Running),
        (_, _) => {}
    }
}

/// Queues what waits for a place, in the order of the tasks, while there is one.
fn give_places(state: &mut State, effects: &mut Effects, id: RunId) {
    while let Some(run) = state.runs.get_mut(&id)
        && run.has_place()
        && let Some(index) = run.waiting.pop_first()
    {
        moves::make_ready(state, effects, TaskKey { run: id, index }, Told::default());
    }
}

/// Ends a run whose tasks are all terminal.
fn end(state: &mut State, effects: &mut Effects, id: RunId, asked: Option<RunState>) {
    let now = state.now;
    let Some(run) = state.runs.get_mut(&id) else { return };
    let to = asked.unwrap_or_else(|| ending(run));
    run.outcome = match to {
        RunState::Failed => {
            let failed = run.tasks.iter().find(|task| task.state == TaskState::Failed);
            failed.and_then(|task| task.outcome)
        }
        RunState::Cancelled => Some(Outcome::CANCELLED),
        RunState::Planning
        | RunState::WaitingApproval
        | RunState::Running
        | RunState::Synthesizing
        | RunState::Succeeded => None,
    };
    if run.shape.policy == FailurePolicy::BestEffort
        && to != RunState::Cancelled
        && let Some(detail) = gaps(run)
    {
        run.detail = detail;
    }
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
    budgets::run_moved(state, effects, id);
    tell_run(state, effects, id);
}

/// What the ends of its tasks make of a run.
fn ending(run: &Run) -> RunState {
    let (failed, cancelled) =
        (run.counts.get(TaskState::Failed) > 0, run.counts.get(TaskState::Cancelled) > 0);
    // A plan that failed leaves nothing that an effort could be made of.
    let saved = run.shape.policy == FailurePolicy::BestEffort && !run.is_unplanned() && run.has_success();
    if !failed && !cancelled || saved {
        RunState::Succeeded
    } else if failed {
        RunState::Failed
    } else {
        RunState::Cancelled
    }
}

/// Names what did not succeed: what failed or was cancelled, and what was skipped because of that. What conditions
/// skipped is no gap, and a review is part of what it judges.
fn gaps(run: &Run) -> Option<Arc<str>> {
    let lacking =
        |index: &TaskIndex| matches!(run.task(*index).state, TaskState::Failed | TaskState::Cancelled);
    let mut open: Vec<TaskIndex> = run.indexes().filter(lacking).collect();
    let mut gaps: BTreeSet<TaskIndex> = open.iter().copied().collect();
    while let Some(cause) = open.pop() {
        for dependent in run.graph.dependents(cause) {
            if run.task(*dependent).state == TaskState::Skipped && gaps.insert(*dependent) {
                open.push(*dependent);
            }
        }
    }
    let shown = |index: &TaskIndex| !matches!(run.task(*index).flow.role, Role::Plan | Role::Review);
    gaps.retain(shown);
    // The synthesis is none of what was to be done, but where it failed it is missing.
    let counts = |index: &TaskIndex| {
        shown(index) && (run.task(*index).flow.role != Role::Synthesis || gaps.contains(index))
    };
    let total = run.indexes().filter(counts).count();
    let mut detail = match gaps.len() {
        0 => return None,
        1 => format!("1 of {total} tasks did not succeed: "),
        count => format!("{count} of {total} tasks did not succeed: "),
    };
    let names: Vec<&str> = gaps.iter().take(NAMED).map(|index| &*run.task(*index).id).collect();
    detail.push_str(&names.join(", "));
    if gaps.len() > NAMED {
        let _ = write!(detail, " and {} more", gaps.len() - NAMED);
    }
    Some(cut(&detail))
}

/// A detail that fits the record of a run.
pub(super) fn cut(detail: &str) -> Arc<str> {
    if detail.len() <= MAX_RUN_DETAIL_BYTES {
        return Arc::from(detail);
    }
    let mark = "…";
    let end = detail.floor_char_boundary(MAX_RUN_DETAIL_BYTES - mark.len());
    Arc::from(format!("{}{mark}", &detail[..end]))
}
