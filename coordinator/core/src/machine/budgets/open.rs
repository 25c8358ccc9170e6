//! Attempts that ended without a bill: what each may have spent stays reserved until its bill, each for itself, and counts
//! as spent, estimated, when that is given up.
//!
//! What counts then is the most that the attempt was promised. It was held to that, so whatever it does later, even one
//! that nobody hears of still runs, passes no budget; a bill that comes all the same takes the place of the estimate.
//! Of a run that ended the records of its standing budgets say so from the start: a coordinator that is started again
//! does not read such runs.

use super::bill::{bill, record};
use super::{first_of, touch_run};
use crate::budgets::{AccountKey, Amount, Hold, OpenBill, Spent};
use crate::effect::{Effects, Write};
use crate::ids::{AttemptKey, AttemptNo, RunId, TaskKey, TenantId};
use crate::outcome::Outcome;
use crate::state::record::EndedAttempt;
use crate::state::{RestoredTask, State};
use crate::time::Wall;
use crate::usage::{ModelUsage, Usage};
use std::sync::Arc;

/// Open bills of one task: its record has no room for more. The oldest counts as spent when there is another.
const MAX_OPEN: usize = 4;
/// The row of tokens that no bill names a model for.
const UNBILLED: &str = "unbilled";

/// Keeps reserved what an attempt without a bill may have spent beyond what was counted.
pub(super) fn keep(
    state: &mut State,
    effects: &mut Effects,
    attempt: AttemptKey,
    hold: &Hold,
    counted: Amount,
) {
    let rest = hold.limited(hold.reserved()).minus(counted);
    if rest.is_zero() {
        return;
    }
    let open = keys_of(state, attempt.task);
    if let Some(oldest) = open.first().filter(|_| open.len() >= MAX_OPEN) {
        write_off(state, effects, *oldest);
    }
    let until = state.now.tick + state.config.lost_after;
    let open = Hold {
        accounts: hold.accounts.clone(),
        by_money: hold.by_money,
        by_tokens: hold.by_tokens,
        pool: Arc::clone(&hold.pool),
        promised: rest,
        ended: Some(until),
        ..Hold::default()
    };
    state.budgets.change(attempt, |slot| *slot = open);
}

/// A bill came: nothing is reserved for it any more.
pub(super) fn close(state: &mut State, effects: &mut Effects, attempt: AttemptKey) {
    if let Some(open) = state.budgets.take(attempt) {
        rewrite(effects, &open);
    }
}

/// Whether something is reserved for the bill of an attempt.
pub(in crate::machine) fn is_open(state: &State, attempt: AttemptKey) -> bool {
    state.budgets.holds.get(&attempt).is_some_and(|hold| hold.ended.is_some())
}

/// No bill comes any more: what an attempt may have spent counts as spent, estimated.
pub(super) fn write_off(state: &mut State, effects: &mut Effects, attempt: AttemptKey) {
    let Some(open) = state.budgets.take(attempt) else { return };
    rewrite(effects, &open);
    let rest = open.promised;
    let spent = estimate(rest);
    let Some(run) = state.runs.get_mut(&attempt.task.run) else { return };
    let Some(task) = run.tasks.get_mut(attempt.task.index.0 as usize) else { return };
    run.usage.add(&spent);
    let history = task.history_mut();
    history.usage.add(&spent);
    let at = history.attempts.iter_mut().find(|ended| ended.number == attempt.attempt);
    let ended = match at {
        Some(ended) => {
            ended.cost_micro_usd = ended.cost_micro_usd.saturating_add(rest.micro_usd);
            ended.clone()
        }
        None => forgotten(attempt.attempt, &state.empty),
    };
    effects.writes.push(Write::Task { task: attempt.task, payload: None });
    effects.writes.push(Write::Run(attempt.task.run));
    record(state, effects, attempt.task, &spent, &open.pool, Amount::ZERO, 0);
    touch_run(state, attempt.task);
    bill(state, effects, attempt, &ended, &spent, &open.pool, Some(0));
}

/// An attempt that the history of its task has no room for any more.
fn forgotten(number: AttemptNo, empty: &Arc<str>) -> EndedAttempt {
    EndedAttempt {
        number,
        agent: Arc::clone(empty),
        started: Wall(0),
        finished: Wall(0),
        outcome: Outcome::LOST_AGENT,
        detail: Arc::clone(empty),
        cost_micro_usd: 0,
        digest: None,
        awaits_bill: false,
        duration: None,
    }
}

/// What may have been spent, as spent. A bill that comes later takes back the money; its tokens count beside these.
fn estimate(most: Amount) -> Usage {
    let mut usage = Usage::estimate(most.micro_usd);
    if most.tokens > 0 {
        usage.estimated = true;
        usage.models.push(ModelUsage {
            model: Arc::from(UNBILLED),
            input: most.tokens,
            output: 0,
            cache_read: 0,
            cache_write: 0,
            cost_micro_usd: 0,
        });
    }
    usage
}

/// The open bills of a task, as its record says.
pub(crate) fn of_task(state: &State, key: TaskKey) -> Vec<OpenBill> {
    let said = |attempt: AttemptKey| {
        let hold = state.budgets.holds.get(&attempt)?;
        Some(OpenBill { attempt: attempt.attempt, most: hold.promised.into(), pool: Arc::clone(&hold.pool) })
    };
    keys_of(state, key).into_iter().filter_map(said).collect()
}

fn keys_of(state: &State, key: TaskKey) -> Vec<AttemptKey> {
    let first = AttemptKey { task: key, attempt: AttemptNo(0) };
    let last = AttemptKey { task: key, attempt: AttemptNo(u32::MAX) };
    let range = state.budgets.holds.range(first..=last);
    range.filter(|(_, hold)| hold.ended.is_some()).map(|(key, _)| *key).collect()
}

/// What is open of runs that ended, under a standing budget.
pub(super) fn of_ended_runs(state: &State, tenant: TenantId, name: &Arc<str>) -> Spent {
    let under = |hold: &Hold| {
        hold.accounts
            .iter()
            .any(|account| matches!(account, AccountKey::Standing(of, held) if *of == tenant && held == name))
    };
    let ended = |key: &AttemptKey| state.run(key.task.run).is_some_and(|run| run.state.is_terminal());
    let open = state.budgets.ends.iter().filter(|(_, key)| ended(key));
    let holds = open.filter_map(|(_, key)| state.budgets.holds.get(key)).filter(|hold| under(hold));
    holds.fold(Amount::ZERO, |sum, hold| sum.plus(hold.promised)).into()
}

/// A run ended or goes on: the records of its standing budgets say something else of its open bills.
pub(in crate::machine) fn run_moved(state: &State, effects: &mut Effects, id: RunId) {
    let range = state.budgets.holds.range(first_of(id)..first_of(RunId(id.0.saturating_add(1))));
    for (_, hold) in range.filter(|(_, hold)| hold.ended.is_some()) {
        rewrite(effects, hold);
    }
}

fn rewrite(effects: &mut Effects, open: &Hold) {
    for account in &open.accounts {
        if let AccountKey::Standing(tenant, name) = account {
            effects.writes.push(Write::Budget { tenant: *tenant, name: Arc::clone(name) });
        }
    }
}

/// Counts the open bills of a run that ended as spent, as the records of its standing budgets do.
pub(crate) fn count_ended(tasks: &mut [RestoredTask]) {
    for progress in tasks.iter_mut().filter_map(|task| task.progress.as_mut()) {
        for open in std::mem::take(&mut progress.open) {
            progress.usage.add(&estimate(open.most.into()));
            let mut attempts = progress.attempts.iter_mut();
            if let Some(ended) = attempts.find(|ended| ended.number == open.attempt) {
                ended.cost_micro_usd = ended.cost_micro_usd.saturating_add(open.most.micro_usd);
            }
        }
    }
}
