//! The budget of one run, changed by a person: of one that goes on, or of one that ended and is to be tried again.
//! Knows the run; what a budget that is used up means is [`super::gate`]'s.

use super::gate::reopen;
use super::rules::{pool_of, terms, usd};
use super::{live, refit, run_budget, settle};
use crate::budgets::{AccountKey, BudgetChange, BudgetLimit, BudgetMode, OwnBudget};
use crate::effect::{Effects, Write};
use crate::event::Target;
use crate::ids::{AgentKey, AttemptKey, RunId, TaskKey, TenantId, Token};
use crate::machine::submit::reply;
use crate::machine::targets::run_of;
use crate::query::{Answer, Refusal};
use crate::state::State;
use std::fmt::Write as _;

/// Changes the ceiling of a run, or ends it. One that is lower than what was spent is used up at once.
pub(in crate::machine) fn set_run(
    state: &mut State,
    effects: &mut Effects,
    token: Token,
    target: &Target,
    change: Option<BudgetChange>,
) {
    let answer = run_of(state, target).and_then(|id| carry_out(state, effects, id, change));
    reply(effects, token, answer.unwrap_or_else(Answer::Refused));
}

fn carry_out(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    change: Option<BudgetChange>,
) -> Result<Answer, Refusal> {
    let Some(run) = state.runs.get_mut(&id) else { return Err(Refusal::RunNotLive) };
    let before = run.shape.budget;
    if change.is_none() && before.is_none() {
        return Err(Refusal::NoSuchBudget { name: run.run_ref.to_string() });
    }
    let tenant = run.tenant;
    if let Some(first) = before.and_then(|before| before.micro_usd) {
        run.shape.first_budget_micro_usd.get_or_insert(first);
    }
    run.shape.budget = change.map(|change| changed(before, change));
    // People are told again of what they allowed anew.
    run.purse.warned = 0;
    effects.writes.push(Write::Run(id));
    if change.is_none() && std::mem::take(&mut run.purse.over) {
        reopen(state, tenant);
    }
    let of_it = attempts(state, tenant, id);
    refit(state, effects, of_it);
    state.budgets.touched.insert(AccountKey::Run(id));
    settle(state, effects);
    match run_budget(state, id) {
        Some(view) => Ok(Answer::BudgetSet { view, replaced: before.is_some() }),
        None => Ok(Answer::BudgetRemoved),
    }
}

/// What was said goes before what was there.
fn changed(before: Option<BudgetLimit>, change: BudgetChange) -> BudgetLimit {
    let before = before.unwrap_or_default();
    BudgetLimit {
        micro_usd: change.micro_usd.or(before.micro_usd),
        tokens: change.tokens.or(before.tokens),
        runs: change.runs.or(before.runs),
        mode: change.mode.unwrap_or(before.mode),
    }
}

fn attempts(state: &State, tenant: TenantId, id: RunId) -> Vec<AttemptKey> {
    live(state, Some(tenant)).into_iter().filter(|key| key.task.run == id).collect()
}

/// The command line that doubles what is used up of a run's budget.
pub(super) fn more(state: &State, id: RunId, verb: &str) -> String {
    let run_ref = state.run(id).map_or("", |run| &*run.run_ref);
    let mut line = format!("orchctl {verb} {run_ref}");
    let Some(terms) = terms(state, &AccountKey::Run(id)) else { return line };
    let (limit, spent) = (terms.limit, terms.certain);
    let twice = |limit: Option<u64>, spent: u64| {
        limit.filter(|limit| spent >= *limit).map(|limit| limit.max(spent).saturating_mul(2))
    };
    let money = twice(limit.micro_usd, spent.micro_usd).map(|most| usd(most).replace(['$', ','], ""));
    let money = money.map(|dollars| format!("{}usd", dollars.trim_end_matches(".00")));
    let tokens = twice(limit.tokens, spent.tokens).map(|most| format!("{most}tok"));
    let ceiling: Vec<String> = money.into_iter().chain(tokens).collect();
    let flag = if verb == "retry" { " --budget" } else { "" };
    // Writing to a String cannot fail.
    if !ceiling.is_empty() {
        let _ = write!(line, "{flag} {}", ceiling.join(","));
    } else if let Some(runs) = twice(limit.runs, spent.runs) {
        line = format!("orchctl budgets set {run_ref} --runs {runs}");
    }
    line
}

/// What becomes of the own budget of a task's attempts on an agent.
pub(crate) fn own_budget(state: &State, key: TaskKey, agent: AgentKey) -> Option<OwnBudget> {
    let run = state.run(key.run)?;
    let limit = run.shape.budget.filter(|limit| limit.mode == BudgetMode::Hard)?.micro_usd;
    let submitted = run.shape.first_budget_micro_usd.or(limit)?;
    let pool = state.limits.find(run.tenant, &pool_of(state, agent, key)).and_then(|id| state.limits.get(id));
    let held = pool.and_then(|pool| pool.users.get(&agent)).is_some_and(|user| user.gateway);
    Some(OwnBudget { submitted, becomes: limit.filter(|_| !held) })
}
