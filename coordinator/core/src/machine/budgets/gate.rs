//! What a used-up budget means: tasks of its run end, others wait until it begins anew, people are told.
//! Knows how budgets stand by [`super::rules`]; what attempts are told of it is [`super::serve`]'s.

use super::rules::{figures, is_counted_out, spends, terms};
use super::serve::end_all;
use crate::budgets::{AccountKey, BudgetMode, BudgetScope};
use crate::effect::{Change, Effects, Write};
use crate::ids::{RunId, TaskKey, TenantId};
use crate::machine::moves::{self, Told};
use crate::outcome::Outcome;
use crate::schedule;
use crate::state::{State, TaskState};
use crate::timers::Timer;
use std::sync::Arc;

/// People are told of a budget when so much of it is used, in percent.
const NEARLY: u8 = 80;
const ALL: u8 = 100;

/// Draws the conclusions from how a budget stands now.
pub(super) fn look(state: &mut State, effects: &mut Effects, key: &AccountKey) {
    let Some(terms) = terms(state, key) else { return };
    let percent = terms.percent();
    let level = if percent >= u64::from(ALL) {
        ALL
    } else if percent >= u64::from(NEARLY) {
        NEARLY
    } else {
        0
    };
    warn(state, effects, key, level);
    let (spent, counted, mode) = (terms.is_spent(), terms.is_counted_out(), terms.limit.mode);
    let stops = mode != BudgetMode::Soft;
    match key {
        AccountKey::Run(id) => {
            let over = stops && (spent || counted);
            let was = state.runs.get_mut(id).map(|run| std::mem::replace(&mut run.purse.over, over));
            if over {
                end_waiting(state, effects, *id);
            } else if was == Some(true) {
                let tenant = state.run(*id).map_or(TenantId(0), |run| run.tenant);
                reopen(state, tenant);
            }
        }
        AccountKey::Standing(tenant, name) => {
            close(state, *tenant, name, stops && spent, stops && counted);
        }
    }
    if spent && mode == BudgetMode::Hard {
        let detail = figures(state, key).into();
        end_all(state, effects, key, &detail);
    }
}

/// Closes a standing budget, or opens it again. Runs over a tenant or a name are counted when they are submitted.
fn close(state: &mut State, tenant: TenantId, name: &Arc<str>, spent: bool, counted: bool) {
    let Some(held) = state.budgets.standing.get_mut(&(tenant, Arc::clone(name))) else { return };
    let attempts = matches!(held.budget.scope, BudgetScope::Worker(_) | BudgetScope::Pool(_));
    let closed = spent || counted && attempts;
    if held.closed == closed {
        return;
    }
    held.closed = closed;
    if closed {
        state.budgets.closed += 1;
        super::mark_pools(state);
    } else {
        state.budgets.closed -= 1;
        reopen(state, tenant);
    }
}

/// What a budget of a tenant held back is looked at again.
pub(super) fn reopen(state: &mut State, tenant: TenantId) {
    state.limits.paid(tenant);
    let schedule = &mut state.schedule;
    let classes: Vec<_> =
        schedule.classes.iter().filter(|(_, class)| class.key.tenant == tenant).map(|(id, _)| id).collect();
    for id in classes {
        if let Some(class) = schedule.classes.get_mut(id) {
            class.queue.unhold(&schedule.passes);
        }
        schedule.fresh.insert(id);
    }
}

/// Ends what waits in a run whose budget is used up. What costs nothing goes on, unless attempts are counted out.
fn end_waiting(state: &mut State, effects: &mut Effects, id: RunId) {
    let counted = is_counted_out(state, id);
    let Some(run) = state.run(id) else { return };
    if run.state.is_terminal() {
        return;
    }
    let waits = |state: &State, key: TaskKey| {
        state.task(key).is_some_and(|task| {
            matches!(task.state, TaskState::Queued | TaskState::WaitingRetry | TaskState::Parked)
        })
    };
    let keys = run.indexes().map(|index| TaskKey { run: id, index });
    let ended: Vec<TaskKey> =
        keys.filter(|key| waits(state, *key) && (counted || spends(state, *key))).collect();
    let detail: Arc<str> = figures(state, &AccountKey::Run(id)).into();
    for key in ended {
        // The end of one may have ended others.
        if waits(state, key) {
            end_one(state, effects, key, &detail);
        }
    }
}

fn end_one(state: &mut State, effects: &mut Effects, key: TaskKey, detail: &Arc<str>) {
    let Some(task) = state.task(key) else { return };
    match task.state {
        TaskState::Queued => schedule::unqueue(state, key),
        TaskState::WaitingRetry | TaskState::Parked => {
            let due = task.retry;
            state.timers.clear(due, Timer::Retry(key));
        }
        TaskState::Blocked
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Skipped => return,
    }
    if let Some(task) = state.task_mut(key) {
        task.history_mut().note = Some(Arc::clone(detail));
    }
    let told = Told { detail: Some(Arc::clone(detail)), ..Told::default() };
    moves::finish(state, effects, key, TaskState::Failed, Outcome::BUDGET, told);
}

/// Tells people that a budget is nearly or wholly used, each once a period.
fn warn(state: &mut State, effects: &mut Effects, key: &AccountKey, level: u8) {
    let (tenant, run_ref) = match key {
        AccountKey::Run(id) => match state.run(*id) {
            Some(run) => (run.tenant, Arc::clone(&run.run_ref)),
            None => return,
        },
        AccountKey::Standing(tenant, _) => (*tenant, Arc::clone(&state.empty)),
    };
    let warned = match key {
        AccountKey::Run(id) => state.runs.get_mut(id).map(|run| &mut run.purse.warned),
        AccountKey::Standing(tenant, name) => {
            let held = state.budgets.standing.get_mut(&(*tenant, Arc::clone(name)));
            held.map(|held| &mut held.warned)
        }
    };
    let Some(warned) = warned.filter(|warned| **warned < level) else { return };
    *warned = level;
    let mode = terms(state, key).map_or(BudgetMode::Soft, |terms| terms.limit.mode);
    let what = match (level, mode, key) {
        (ALL, BudgetMode::Hard, AccountKey::Run(_)) => ": nothing more of the run starts",
        (ALL, BudgetMode::Drain, _) => ": what runs is finished, nothing more starts",
        (ALL, BudgetMode::Hard, AccountKey::Standing(..)) => ": nothing more under it starts",
        (ALL, BudgetMode::Soft, _) => ": it only warns",
        (_, _, _) => "",
    };
    let text = format!("{}{what}", figures(state, key)).into();
    let budget = match key {
        AccountKey::Run(_) => Arc::clone(&state.empty),
        AccountKey::Standing(_, name) => {
            effects.writes.push(Write::Budget { tenant, name: Arc::clone(name) });
            Arc::clone(name)
        }
    };
    state.tell(effects, tenant, Change::Budget { budget, run_ref, text, mode: Some(mode) });
}
