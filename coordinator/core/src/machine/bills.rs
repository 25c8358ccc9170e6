//! The bill of an attempt that ended without a report: somebody cancelled it, or its agent was lost.
//! The sums hold what the last heartbeat said. The agent's report comes later, if it comes, and is fenced; what it spent was
//! spent all the same, and takes the place of that estimate, once.
//! Outcome, answer and state stay as they are.

use crate::effect::{Effects, Write};
use crate::event::Report;
use crate::ids::{AgentKey, AttemptKey};
use crate::machine::budgets;
use crate::machine::moves::tell_run;
use crate::state::State;
use crate::state::record::EndedAttempt;

/// Takes what `attempt` spent, if `agent` held it when it ended and it was not said before.
pub(super) fn take(
    state: &mut State,
    effects: &mut Effects,
    agent: AgentKey,
    attempt: AttemptKey,
    report: &Report,
) {
    let spent = &report.usage;
    let is_open = budgets::is_open(state, attempt);
    let name = &state.agents.get(agent).name;
    let Some(run) = state.runs.get_mut(&attempt.task.run) else { return };
    let Some(task) = run.tasks.get_mut(attempt.task.index.0 as usize) else { return };
    let waits =
        |ended: &EndedAttempt| ended.awaits_bill && ended.number == attempt.attempt && ended.agent == *name;
    let Some(at) = task.attempts().iter().position(waits) else { return };
    // What cost nothing, as most that is cancelled right after its start, is worth no record.
    if spent.is_zero() && task.attempts()[at].cost_micro_usd == 0 && !is_open {
        return;
    }
    let history = task.history_mut();
    let ended = &mut history.attempts[at];
    let estimate = std::mem::replace(&mut ended.cost_micro_usd, spent.cost_micro_usd);
    ended.awaits_bill = false;
    let billed = ended.clone();
    let alone = history.attempts.len() == 1 && attempt.attempt.0 == 1;
    history.usage.settle(estimate, spent);
    // Of several attempts others may have been estimated, which their sum does not tell apart.
    if alone {
        history.usage.estimated = spent.estimated;
    }
    run.usage.settle(estimate, spent);
    run.usage.estimated = run.tasks.iter().any(|task| task.usage().estimated);
    let ended = run.state.is_terminal();
    effects.billed = true;
    effects.writes.push(Write::Task { task: attempt.task, payload: None });
    effects.writes.push(Write::Run(attempt.task.run));
    budgets::corrected(state, effects, attempt, &billed, estimate, spent, &report.pool);
    // Whoever watches a run that ended was told so, once.
    if !ended {
        tell_run(state, effects, attempt.task.run);
    }
}
