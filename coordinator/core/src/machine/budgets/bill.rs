//! Attempts begin and end: reservations are made, kept, and replaced by bills.
//! What an attempt has cost comes with its report; where none came, what its agent had said counts until a bill comes, and
//! what it may have spent beyond that stays reserved until it is certainly dead.

use super::gate::look;
use super::open;
use super::rules::{accounts_of, standing_over, terms};
use super::serve::begin;
use super::touch_run;
use crate::budgets::{AccountKey, Amount, Bill, Budget, BudgetMode, BudgetScope, Budgets, Hold};
use crate::effect::{Change, Effects, Write};
use crate::ids::{AgentKey, AttemptKey, TaskKey};
use crate::state::State;
use crate::state::record::EndedAttempt;
use crate::usage::Usage;
use std::sync::Arc;

/// An attempt is being granted: it is counted, and reserves what it may spend from the start.
pub(in crate::machine) fn granted(
    state: &mut State,
    effects: &mut Effects,
    attempt: AttemptKey,
    agent: AgentKey,
) {
    let key = attempt.task;
    let Some(run) = state.runs.get_mut(&key.run) else { return };
    run.purse.granted += 1;
    let (tenant, budgeted) = (run.tenant, run.shape.budget);
    if budgeted.is_none() && !state.budgets.has_any(tenant) {
        return;
    }
    let pool = super::rules::pool_of(state, agent, key);
    let counts = |budget: &Budget| {
        let attempts = matches!(budget.scope, BudgetScope::Worker(_) | BudgetScope::Pool(_));
        attempts && budget.limit.runs.is_some()
    };
    let counted: Vec<Arc<str>> = standing_over(state, key, &pool)
        .filter(|(_, held)| counts(&held.budget))
        .map(|(name, _)| Arc::clone(name))
        .collect();
    for name in counted {
        if let Some(held) = state.budgets.standing.get_mut(&(tenant, Arc::clone(&name))) {
            held.recorded.runs += 1;
        }
        effects.writes.push(Write::Budget { tenant, name: Arc::clone(&name) });
        look(state, effects, &AccountKey::Standing(tenant, name));
    }
    // What waits in the run ends after this round of granting; until then it only must not be granted.
    if budgeted.is_some() {
        let account = AccountKey::Run(key.run);
        let over = terms(state, &account).is_some_and(|terms| terms.is_counted_out());
        if let Some(run) = state.runs.get_mut(&key.run) {
            run.purse.over |= over && budgeted.is_some_and(|limit| limit.mode != BudgetMode::Soft);
        }
        state.budgets.touched.insert(account);
    }
    if let Some(hold) = reservation(state, key, pool) {
        begin(state, attempt, hold);
    }
}

/// An empty reservation for attempts of a task; `None` where no budget over it measures money or tokens, or it costs
/// nothing anyway.
pub(super) fn reservation(state: &State, key: TaskKey, pool: Arc<str>) -> Option<Hold> {
    if !super::rules::spends(state, key) {
        return None;
    }
    let accounts = accounts_of(state, key, &pool);
    if accounts.is_empty() {
        return None;
    }
    let hard = || accounts.iter().filter_map(|account| terms(state, account)).filter(|terms| terms.is_hard());
    let by_money = hard().any(|terms| terms.limit.micro_usd.is_some());
    let by_tokens = hard().any(|terms| terms.limit.tokens.is_some());
    Some(Hold { accounts, by_money, by_tokens, pool, ..Hold::default() })
}

/// An attempt never began: it reserves nothing.
pub(in crate::machine) fn given_back(budgets: &mut Budgets, attempt: AttemptKey) {
    budgets.take(attempt);
}

/// The pool that an attempt was granted to, as far as a budget knows it.
pub(in crate::machine) fn pool_held(state: &State, attempt: AttemptKey) -> Arc<str> {
    state.budgets.holds.get(&attempt).map_or_else(|| Arc::clone(&state.empty), |hold| Arc::clone(&hold.pool))
}

/// An attempt ended and is in the history of its task: its bill takes the place of its reservation.
pub(in crate::machine) fn ended(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    ended: &EndedAttempt,
    spent: &Usage,
    pool: &Arc<str>,
) {
    let attempt = AttemptKey { task: key, attempt: ended.number };
    let hold = state.budgets.take(attempt);
    let pool = match &hold {
        Some(hold) if pool.is_empty() => Arc::clone(&hold.pool),
        Some(_) | None => Arc::clone(pool),
    };
    record(state, effects, key, spent, &pool, Amount::ZERO, 0);
    if let Some(hold) = hold.filter(|_| ended.awaits_bill) {
        open::keep(state, effects, attempt, &hold, Amount::of(spent));
    }
    touch_run(state, key);
    warn_expected(state, effects, key, spent.cost_micro_usd);
    bill(state, effects, attempt, ended, spent, &pool, None);
}

/// A bill came in place of what was counted when the attempt ended without one.
pub(in crate::machine) fn corrected(
    state: &mut State,
    effects: &mut Effects,
    attempt: AttemptKey,
    ended: &EndedAttempt,
    counted: u64,
    spent: &Usage,
    pool: &Arc<str>,
) {
    open::close(state, effects, attempt);
    let taken = Amount::new(counted, 0);
    record(state, effects, attempt.task, spent, pool, taken, ended.finished.0);
    touch_run(state, attempt.task);
    warn_expected(state, effects, attempt.task, spent.cost_micro_usd.saturating_sub(counted));
    bill(state, effects, attempt, ended, spent, pool, Some(counted));
}

/// Counts what was spent in every standing budget over the task. What is taken back was counted at `since`; where that
/// was in an earlier period, only what goes beyond it counts in this one.
pub(super) fn record(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    spent: &Usage,
    pool: &str,
    taken: Amount,
    since: i64,
) {
    let Some(tenant) = state.run(key.run).map(|run| run.tenant) else { return };
    if !state.budgets.has_any(tenant) {
        return;
    }
    let amount = Amount::of(spent);
    let over: Vec<Arc<str>> = standing_over(state, key, pool).map(|(name, _)| Arc::clone(name)).collect();
    if amount.is_zero() && taken.is_zero() {
        return;
    }
    for name in over {
        let Some(held) = state.budgets.standing.get_mut(&(tenant, Arc::clone(&name))) else { continue };
        let earlier = taken.micro_usd > 0 && since < held.period.0;
        let added = if earlier { amount.minus(taken) } else { amount };
        let recorded = &mut held.recorded;
        if taken.micro_usd > 0 && !earlier {
            recorded.micro_usd = recorded.micro_usd.saturating_sub(taken.micro_usd);
            held.estimated_micro_usd = held.estimated_micro_usd.saturating_sub(taken.micro_usd);
        }
        recorded.micro_usd = recorded.micro_usd.saturating_add(added.micro_usd);
        recorded.tokens = recorded.tokens.saturating_add(added.tokens);
        if spent.estimated {
            held.estimated_micro_usd = held.estimated_micro_usd.saturating_add(added.micro_usd);
        }
        effects.writes.push(Write::Budget { tenant, name: Arc::clone(&name) });
        state.budgets.touched.insert(AccountKey::Standing(tenant, name));
    }
}

/// Once, when the attempts of a task come to more than its author expected.
fn warn_expected(state: &mut State, effects: &mut Effects, key: TaskKey, added: u64) {
    let Some(run) = state.run(key.run) else { return };
    let task = run.task(key.index);
    let (expected, sum) = (task.expected_micro_usd(), task.usage().cost_micro_usd);
    if expected == 0 || sum <= expected || sum.saturating_sub(added) > expected {
        return;
    }
    let (tenant, run_ref) = (run.tenant, Arc::clone(&run.run_ref));
    let (cost, hoped) = (super::rules::usd(sum), super::rules::usd(expected));
    let text = format!("{run_ref}/{} has cost {cost}, more than the {hoped} expected", task.id).into();
    let budget = Arc::clone(&state.empty);
    state.tell(effects, tenant, Change::Budget { budget, run_ref, text, mode: None });
}

/// The entry of the ledger. What cost nothing has none.
pub(super) fn bill(
    state: &State,
    effects: &mut Effects,
    attempt: AttemptKey,
    ended: &EndedAttempt,
    spent: &Usage,
    pool: &Arc<str>,
    taken_back_micro_usd: Option<u64>,
) {
    if spent.is_zero() && taken_back_micro_usd.unwrap_or(0) == 0 {
        return;
    }
    let Some(run) = state.run(attempt.task.run) else { return };
    let task = run.task(attempt.task.index);
    effects.bills.push(Bill {
        tenant: run.tenant,
        run: attempt.task.run,
        run_ref: Arc::clone(&run.run_ref),
        task_id: Arc::clone(&task.id),
        attempt: attempt.attempt.0,
        worker: Arc::clone(state.names.word(task.worker)),
        agent: Arc::clone(&ended.agent),
        pool: Arc::clone(pool),
        outcome: ended.outcome,
        usage: spent.clone(),
        taken_back_micro_usd,
        duration: ended.duration,
    });
}
