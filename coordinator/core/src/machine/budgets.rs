//! Budgets as they are set, spent of and asked for.
//! Sums are in [`crate::budgets`]; what a spent budget means for runs and tasks is decided here.
//!
//! Whatever happens marks the budgets it touches ([`crate::budgets::Budgets::touched`]); [`settle`] looks at those, once,
//! after the event. An event of a tenant without budgets marks nothing and pays nothing.

mod bill;
mod gate;
mod keepers;
mod of_run;
mod open;
mod rules;
mod serve;

pub(in crate::machine) use bill::{corrected, ended, given_back, granted, pool_held};
pub(crate) use keepers::is_held;
use keepers::is_unkept;
pub(in crate::machine) use keepers::{found, would_ignore};
pub(crate) use of_run::own_budget;
pub(in crate::machine) use of_run::set_run;

pub(crate) use open::{count_ended, of_task as open_bills};
pub(in crate::machine) use open::{is_open, run_moved};
pub(crate) use rules::gate as gate_of;
pub(in crate::machine) use serve::{note_cost, reported};

use crate::budgets::{
    AccountKey, Allowance, Budget, BudgetMode, BudgetRecordView, BudgetScope, BudgetView, Hold, Spent,
    Standing, period,
};
use crate::effect::{Effects, Write};
use crate::ids::{AgentKey, AttemptKey, RunId, TaskKey, TenantId, Token};
use crate::machine::leases::seconds;
use crate::machine::submit::reply;
use crate::query::{Answer, Refusal};
use crate::state::State;
use crate::time::{Span, Tick};
use crate::timers::Timer;
use rules::{anew_in, figures, raise, terms};
use std::sync::Arc;

/// Standing budgets of one tenant: each costs a look at every grant.
const MAX_BUDGETS: usize = 256;
/// Runs whose budgets one answer shows.
const MAX_RUNS_SHOWN: usize = 1_000;
/// A clock that is behind its timer is looked at again after this.
const AGAIN: Span = Span::seconds(1);

/// Begins new periods where midnight has passed. Comes first, whatever happened.
pub(super) fn roll(state: &mut State, effects: &mut Effects) {
    for (tenant, name) in state.budgets.roll(state.now.wall) {
        effects.writes.push(Write::Budget { tenant, name });
    }
}

/// Draws the conclusions of an event: budgets that are used up close, room goes to who waits for it.
pub(super) fn settle(state: &mut State, effects: &mut Effects) {
    if state.budgets.touched.is_empty() || state.phase == crate::state::Phase::Loading {
        return;
    }
    while !state.budgets.touched.is_empty() {
        let touched = std::mem::take(&mut state.budgets.touched);
        for key in &touched {
            gate::look(state, effects, key);
        }
        serve::serve(state, effects);
    }
    rearm(state);
}

/// Sees to it that the next period and the end of an open bill are noticed.
fn rearm(state: &mut State) {
    let now = state.now;
    let roll = state.budgets.next_roll.map(|at| {
        let left = u64::try_from(at.0.saturating_sub(now.wall.0)).unwrap_or(0);
        now.tick + Span(left.max(1))
    });
    // A timer that is early looks again; one that stands may stay.
    let end = state.budgets.ends.first().map(|(at, _)| *at);
    let due: Option<Tick> = roll.into_iter().chain(end).min();
    let mut armed = state.budgets.armed;
    state.timers.rearm(&mut armed, Timer::Budgets, due);
    state.budgets.armed = armed;
}

/// Tells pools which budgets over them are used up. Pools come and go with agents, so this comes before every round of
/// granting, where any budget is closed.
pub(super) fn mark_pools(state: &mut State) {
    let State { budgets, limits, .. } = state;
    if budgets.closed == 0 {
        return;
    }
    for ((tenant, name), held) in budgets.standing.iter().filter(|(_, held)| held.closed) {
        let BudgetScope::Pool(pool) = &held.budget.scope else { continue };
        if let Some(pool) = limits.find(*tenant, pool).and_then(|id| limits.get_mut(id)) {
            pool.unpaid.get_or_insert_with(|| Arc::clone(name));
        }
    }
}

/// The timer of [`rearm`] went off.
pub(super) fn due(state: &mut State, effects: &mut Effects) {
    state.budgets.armed = None;
    let now = state.now.tick;
    while let Some((at, attempt)) = state.budgets.ends.first().copied() {
        if at > now {
            break;
        }
        open::write_off(state, effects, attempt);
    }
    settle(state, effects);
    rearm(state);
    if state.budgets.armed.is_some_and(|at| at <= now) {
        let mut armed = state.budgets.armed;
        state.timers.rearm(&mut armed, Timer::Budgets, Some(now + AGAIN));
        state.budgets.armed = armed;
    }
}

/// After a start: bills that are open stay so for their whole time, what is granted once more says what it may spend by a
/// number of this coordinator, and every budget is looked at.
pub(super) fn started(state: &mut State) {
    let unaccepted = |(_, agent): (AgentKey, &crate::agents::Agent)| {
        let leases = agent.leases.iter().filter(|(_, lease)| !lease.accepted);
        leases.map(|(task, lease)| AttemptKey { task: *task, attempt: lease.attempt }).collect::<Vec<_>>()
    };
    let granted: Vec<AttemptKey> = state.agents.iter().flat_map(unaccepted).collect();
    let seq = serve::first_seq(state);
    for key in granted.into_iter().filter(|key| state.budgets.holds.contains_key(key)).collect::<Vec<_>>() {
        state.budgets.change(key, |hold| hold.told.seq = hold.told.seq.max(seq));
    }
    let until = state.now.tick + state.config.lost_after;
    let open: Vec<AttemptKey> = state.budgets.ends.iter().map(|(_, key)| *key).collect();
    for key in open {
        state.budgets.change(key, |hold| hold.ended = Some(until));
    }
    let runs = state.runs.iter().filter(|(_, run)| run.shape.budget.is_some() && !run.state.is_terminal());
    let runs: Vec<AccountKey> = runs.map(|(id, _)| AccountKey::Run(*id)).collect();
    let standing = state.budgets.standing.keys();
    let standing: Vec<AccountKey> =
        standing.map(|(tenant, name)| AccountKey::Standing(*tenant, Arc::clone(name))).collect();
    state.budgets.touched.extend(runs.into_iter().chain(standing));
}

/// What a restore found is fitted to the budgets there are: attempts held, and bills that are open.
pub(crate) fn restored(state: &mut State) {
    let keys: Vec<AttemptKey> = state.budgets.holds.keys().copied().collect();
    for key in keys.into_iter().chain(live(state, None)) {
        let before = state.budgets.take(key);
        let pool = before.as_ref().map_or_else(|| Arc::clone(&state.empty), |hold| Arc::clone(&hold.pool));
        let Some(fresh) = bill::reservation(state, key.task, pool) else { continue };
        let known = before.unwrap_or_default();
        state.budgets.change(key, |hold| {
            *hold = Hold { promised: known.promised, ended: known.ended, told: known.told, ..fresh };
            hold.tell_promise();
        });
    }
}

/// Live attempts, of one tenant or of all.
fn live(state: &State, tenant: Option<TenantId>) -> Vec<AttemptKey> {
    let of = |key: &TaskKey| tenant.is_none() || state.run(key.run).map(|run| run.tenant) == tenant;
    let leases = state.agents.iter().flat_map(|(_, agent)| &agent.leases);
    leases
        .filter(|(task, _)| of(task))
        .map(|(task, lease)| AttemptKey { task: *task, attempt: lease.attempt })
        .collect()
}

/// A run leaves the state: no bill of it comes any more.
pub(super) fn forget_run(state: &mut State, effects: &mut Effects, id: RunId) {
    let range = state.budgets.holds.range(first_of(id)..first_of(RunId(id.0.saturating_add(1))));
    let open: Vec<AttemptKey> = range.map(|(key, _)| *key).collect();
    for key in open {
        open::write_off(state, effects, key);
    }
    state.budgets.touched.remove(&AccountKey::Run(id));
}

fn touch_run(state: &mut State, key: TaskKey) {
    if state.run(key.run).is_some_and(|run| run.shape.budget.is_some()) {
        state.budgets.touched.insert(AccountKey::Run(key.run));
    }
}

const fn first_of(run: RunId) -> AttemptKey {
    let task = TaskKey { run, index: crate::ids::TaskIndex(0) };
    AttemptKey { task, attempt: crate::ids::AttemptNo(0) }
}

/// Whether a tenant may submit one more run of a name.
pub(super) fn check_submit(state: &State, tenant: TenantId, name: &str) -> Result<(), Refusal> {
    for (held_name, held) in state.budgets.of_tenant(tenant) {
        let key = AccountKey::Standing(tenant, Arc::clone(held_name));
        let full = counts_run(&held.budget, name)
            && held.stops()
            && terms(state, &key).is_some_and(|terms| terms.is_counted_out());
        if full {
            let anew = anew_in(state, held).map(|(_, left)| left);
            let change = raise(state, &key, &held.budget);
            let until =
                anew.map_or_else(String::new, |left| format!(", it begins anew in {}", seconds(left)));
            let detail = format!("{}{until}; now: {change}", figures(state, &key));
            return Err(Refusal::OverBudget { detail, retry_in: anew });
        }
    }
    Ok(())
}

/// Counts a run that is being queued.
pub(super) fn count_run(state: &mut State, effects: &mut Effects, tenant: TenantId, name: &str) {
    let over = state.budgets.of_tenant(tenant).filter(|(_, held)| counts_run(&held.budget, name));
    let over: Vec<Arc<str>> = over.map(|(name, _)| Arc::clone(name)).collect();
    for name in over {
        if let Some(held) = state.budgets.standing.get_mut(&(tenant, Arc::clone(&name))) {
            held.recorded.runs += 1;
        }
        effects.writes.push(Write::Budget { tenant, name: Arc::clone(&name) });
        state.budgets.touched.insert(AccountKey::Standing(tenant, name));
    }
}

fn counts_run(budget: &Budget, name: &str) -> bool {
    budget.limit.runs.is_some()
        && match &budget.scope {
            BudgetScope::Tenant => true,
            BudgetScope::Name(of) => **of == *name,
            BudgetScope::Worker(_) | BudgetScope::Pool(_) => false,
        }
}

/// Refuses another try of what a run's own budget does not pay for.
pub(super) fn check_retry(state: &State, id: RunId) -> Result<(), Refusal> {
    let key = AccountKey::Run(id);
    let stands = terms(state, &key).filter(|terms| terms.limit.mode != BudgetMode::Soft);
    match stands {
        Some(terms) if terms.is_spent() || terms.is_counted_out() => {
            let detail = format!("{}; now: {}", figures(state, &key), of_run::more(state, id, "retry"));
            Err(Refusal::OverBudget { detail, retry_in: None })
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn set(state: &mut State, effects: &mut Effects, token: Token, tenant: TenantId, budget: Budget) {
    let key = (tenant, Arc::clone(&budget.name));
    let known = state.budgets.standing.get(&key);
    if known.is_none() && state.budgets.of_tenant(tenant).count() >= MAX_BUDGETS {
        reply(effects, token, Answer::Refused(Refusal::TooManyBudgets { limit: MAX_BUDGETS }));
        return;
    }
    let replaced = known.is_some();
    let wall = state.budgets.wall;
    // What was spent stays counted as long as it is of the same things in the same time.
    let same = known.filter(|held| held.budget.scope == budget.scope && held.budget.period == budget.period);
    let fresh = Standing {
        period: same.map_or_else(|| period::beginning(budget.period, wall), |held| held.period),
        recorded: same.map_or_else(Spent::default, |held| held.recorded),
        estimated_micro_usd: same.map_or(0, |held| held.estimated_micro_usd),
        warned: 0,
        closed: known.is_some_and(|held| held.closed),
        budget,
    };
    state.budgets.standing.insert(key.clone(), fresh);
    effects.writes.push(Write::Budget { tenant, name: Arc::clone(&key.1) });
    changed(state, effects, tenant);
    // What nobody kept may no longer have to be kept.
    if state.budgets.unkept {
        gate::reopen(state, tenant);
    }
    let account = AccountKey::Standing(tenant, Arc::clone(&key.1));
    state.budgets.touched.insert(account);
    settle(state, effects);
    if let Some(held) = state.budgets.standing.get(&key) {
        let view = view(state, tenant, &key.1, held);
        reply(effects, token, Answer::BudgetSet { view, replaced });
    }
}

pub(super) fn removed(
    state: &mut State,
    effects: &mut Effects,
    token: Token,
    tenant: TenantId,
    name: &Arc<str>,
) {
    let Some(held) = state.budgets.standing.remove(&(tenant, Arc::clone(name))) else {
        reply(effects, token, Answer::Refused(Refusal::NoSuchBudget { name: name.to_string() }));
        return;
    };
    effects.writes.push(Write::ForgetBudget { tenant, name: Arc::clone(name) });
    state.budgets.closed -= usize::from(held.closed);
    changed(state, effects, tenant);
    gate::reopen(state, tenant);
    reply(effects, token, Answer::BudgetRemoved);
}

/// The budgets of a tenant are others: its attempts count against those there are now.
fn changed(state: &mut State, effects: &mut Effects, tenant: TenantId) {
    state.budgets.note_roll();
    refit(state, effects, live(state, Some(tenant)));
    rearm(state);
}

/// Live attempts count against the budgets there are now, and are told so.
fn refit(state: &mut State, effects: &mut Effects, attempts: Vec<AttemptKey>) {
    for key in attempts {
        let agent = rules::holder_of(state, key);
        let known = pool_held(state, key);
        let pool = match agent {
            Some(agent) if known.is_empty() => rules::pool_of(state, agent, key.task),
            Some(_) | None => known,
        };
        let fresh = bill::reservation(state, key.task, pool);
        serve::refit(state, effects, key, fresh);
    }
}

/// An agent said which pools it has: what it holds may count against budgets over them.
pub(super) fn rejoined(state: &mut State, effects: &mut Effects, agent: AgentKey) {
    let over_pool = |held: &Standing| matches!(held.budget.scope, BudgetScope::Pool(_));
    if !state.budgets.standing.values().any(over_pool) {
        return;
    }
    let leases = state.agents.get(agent).leases.iter();
    let held: Vec<AttemptKey> =
        leases.map(|(task, lease)| AttemptKey { task: *task, attempt: lease.attempt }).collect();
    for key in held {
        if !pool_held(state, key).is_empty() {
            continue;
        }
        let fresh = bill::reservation(state, key.task, rules::pool_of(state, agent, key.task));
        if fresh.is_some() {
            serve::refit(state, effects, key, fresh);
        }
    }
}

/// What an assignment says that an attempt may spend; `None` where nothing limits it.
pub(crate) fn allowance(state: &State, attempt: AttemptKey) -> Option<Allowance> {
    state.budgets.holds.get(&attempt).filter(|hold| hold.is_limited()).map(|hold| hold.told.clone())
}

/// A standing budget as its record says.
pub(crate) fn record(state: &State, tenant: TenantId, name: &Arc<str>) -> Option<BudgetRecordView> {
    let held = state.budgets.standing.get(&(tenant, Arc::clone(name)))?;
    let open = open::of_ended_runs(state, tenant, name);
    Some(BudgetRecordView {
        tenant,
        budget: held.budget.clone(),
        period: held.period,
        spent: held.recorded.plus(open),
        estimated_micro_usd: held.estimated_micro_usd.saturating_add(open.micro_usd),
        warned: held.warned > 0,
    })
}

/// Budgets, for people.
pub(super) fn views(state: &State, tenant: TenantId, runs: bool) -> Vec<BudgetView> {
    let standing = state.budgets.of_tenant(tenant).map(|(name, held)| view(state, tenant, name, held));
    let of_tenant = state.runs.iter().filter(|(_, run)| run.tenant == tenant && !run.state.is_terminal());
    let of_runs = of_tenant.filter_map(|(id, _)| run_budget(state, *id));
    standing.chain(of_runs.take(if runs { MAX_RUNS_SHOWN } else { 0 })).collect()
}

/// The budget of a live run, for people.
pub(crate) fn run_budget(state: &State, id: RunId) -> Option<BudgetView> {
    let run = state.run(id)?;
    let limit = run.shape.budget?;
    let key = AccountKey::Run(id);
    let terms = terms(state, &key)?;
    let note = if run.purse.over { "its waiting tasks ended with `budget`" } else { "" };
    Some(BudgetView {
        budget: None,
        run_ref: Some(Arc::clone(&run.run_ref)),
        limit,
        spent: terms.recorded,
        reserved: reserved(state, &key),
        estimated_micro_usd: if run.usage.estimated { estimated_of(run) } else { 0 },
        resets_at: None,
        state: note.to_owned(),
    })
}

/// The money of tasks that have an estimate in their sum.
fn estimated_of(run: &crate::run::Run) -> u64 {
    run.tasks
        .iter()
        .map(crate::task::Task::usage)
        .filter(|usage| usage.estimated)
        .map(|usage| usage.cost_micro_usd)
        .sum()
}

fn reserved(state: &State, key: &AccountKey) -> Spent {
    let (reserved, _) = state.budgets.sums(key);
    Spent { micro_usd: reserved.micro_usd, tokens: reserved.tokens, runs: 0 }
}

fn view(state: &State, tenant: TenantId, name: &Arc<str>, held: &Standing) -> BudgetView {
    let key = AccountKey::Standing(tenant, Arc::clone(name));
    let anew = anew_in(state, held);
    let note = if held.closed { closed_note(state, &key, anew.map(|(_, left)| left)) } else { String::new() };
    BudgetView {
        budget: Some(held.budget.clone()),
        run_ref: None,
        limit: held.budget.limit,
        spent: held.recorded,
        reserved: reserved(state, &key),
        estimated_micro_usd: held.estimated_micro_usd,
        resets_at: anew.map(|(at, _)| at),
        state: note,
    }
}

fn closed_note(state: &State, key: &AccountKey, left: Option<Span>) -> String {
    let tenant = match key {
        AccountKey::Standing(tenant, _) => *tenant,
        AccountKey::Run(_) => TenantId(0),
    };
    let classes =
        state.schedule.classes.iter().filter(|(_, class)| class.key.tenant == tenant && class.spends());
    let first = |class: &crate::schedule::Class| class.queue.iter().next();
    let waits =
        classes.filter_map(|(_, class)| first(class)).any(|task| gate_of(state, task).as_ref() == Some(key));
    let until = left.map_or_else(|| "until it is raised".to_owned(), |left| format!("for {}", seconds(left)));
    if waits { format!("tasks wait {until}") } else { format!("nothing under it starts {until}") }
}

/// Why a queued task is not granted, when a budget is the reason: in plain English, and the command line that mends it.
pub(crate) fn why(state: &State, key: TaskKey) -> Option<(String, String)> {
    let Some(gate) = gate_of(state, key) else {
        let text =
            "a budget that stops is over it, and no agent that fits keeps budgets: their release is too old";
        return is_unkept(state, key).then(|| (text.to_owned(), String::new()));
    };
    match gate {
        AccountKey::Standing(tenant, name) => why_closed(state, tenant, &name),
        account @ AccountKey::Run(id) => {
            Some((figures(state, &account), of_run::more(state, id, "budgets set")))
        }
    }
}

/// The same of a standing budget that is used up.
pub(crate) fn why_closed(state: &State, tenant: TenantId, name: &Arc<str>) -> Option<(String, String)> {
    let held = state.budgets.standing.get(&(tenant, Arc::clone(name)))?;
    let account = AccountKey::Standing(tenant, Arc::clone(name));
    let help = raise(state, &account, &held.budget);
    let anew = anew_in(state, held)
        .map_or_else(String::new, |(_, left)| format!("; begins anew in {}", seconds(left)));
    Some((format!("{}{anew}", figures(state, &account)), help))
}
