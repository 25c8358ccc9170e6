//! Which budgets are over a task, how they stand, and what people are told of that.
//! Looks only; changes nothing.

use crate::budgets::{
    AccountKey, Amount, Budget, BudgetLimit, BudgetMode, BudgetPeriod, BudgetScope, Spent, Standing, period,
};
use crate::ids::{AgentKey, AttemptKey, RunId, TaskKey, TenantId};
use crate::limits;
use crate::state::State;
use crate::time::{Span, Wall};
use std::fmt::Write as _;
use std::sync::Arc;

/// How a budget stands.
pub(super) struct Terms {
    pub(super) limit: BudgetLimit,
    /// By attempts that ended; runs or attempts as its limit counts them.
    pub(super) recorded: Spent,
    /// That, and what live attempts have spent so far: no less was spent.
    pub(super) certain: Spent,
}

impl Terms {
    /// Whether money or tokens are used up.
    pub(super) fn is_spent(&self) -> bool {
        let over = |limit: Option<u64>, spent: u64| limit.is_some_and(|limit| spent >= limit);
        over(self.limit.micro_usd, self.certain.micro_usd) || over(self.limit.tokens, self.certain.tokens)
    }

    /// Whether there were as many runs or attempts as there may be.
    pub(super) fn is_counted_out(&self) -> bool {
        self.limit.runs.is_some_and(|limit| self.certain.runs >= limit)
    }

    /// How much of it is used: percent of whatever is used most.
    pub(super) fn percent(&self) -> u64 {
        let part = |limit: Option<u64>, spent: u64| {
            let limit = limit?.max(1);
            u64::try_from(u128::from(spent) * 100 / u128::from(limit)).ok()
        };
        let (limit, spent) = (&self.limit, &self.certain);
        let parts = [
            part(limit.micro_usd, spent.micro_usd),
            part(limit.tokens, spent.tokens),
            part(limit.runs, spent.runs),
        ];
        parts.into_iter().flatten().max().unwrap_or(0)
    }

    /// Whether it stops attempts before a request.
    pub(super) fn is_hard(&self) -> bool {
        self.limit.mode == BudgetMode::Hard && (self.limit.micro_usd.is_some() || self.limit.tokens.is_some())
    }
}

/// How a budget stands; `None` when it is no more.
pub(super) fn terms(state: &State, key: &AccountKey) -> Option<Terms> {
    let (limit, recorded) = match key {
        AccountKey::Run(id) => {
            let run = state.run(*id)?;
            let Amount { micro_usd, tokens } = Amount::of(&run.usage);
            (run.shape.budget?, Spent { micro_usd, tokens, runs: run.purse.granted })
        }
        AccountKey::Standing(tenant, name) => {
            let held = state.budgets.standing.get(&(*tenant, Arc::clone(name)))?;
            (held.budget.limit, held.recorded)
        }
    };
    let (_, live) = state.budgets.sums(key);
    let certain = Spent {
        micro_usd: recorded.micro_usd.saturating_add(live.micro_usd),
        tokens: recorded.tokens.saturating_add(live.tokens),
        runs: recorded.runs,
    };
    Some(Terms { limit, recorded, certain })
}

/// Standing budgets over the attempts of a task that use `pool`.
pub(super) fn standing_over<'a>(
    state: &'a State,
    key: TaskKey,
    pool: &'a str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Standing)> {
    let run = state.run(key.run);
    let tenant = run.map_or(TenantId(0), |run| run.tenant);
    let name = run.map_or("", |run| state.names.word(run.name));
    let worker = state.task(key).map_or("", |task| state.names.word(task.worker));
    state.budgets.of_tenant(tenant).filter(move |(_, held)| match &held.budget.scope {
        BudgetScope::Tenant => true,
        BudgetScope::Worker(of) => **of == *worker,
        BudgetScope::Name(of) => **of == *name,
        BudgetScope::Pool(of) => **of == *pool && !pool.is_empty(),
    })
}

/// Every budget over money or tokens that an attempt of a task counts against.
pub(super) fn accounts_of(state: &State, key: TaskKey, pool: &str) -> Vec<AccountKey> {
    let measured = |limit: &BudgetLimit| limit.micro_usd.is_some() || limit.tokens.is_some();
    let Some(run) = state.run(key.run) else { return Vec::new() };
    let own = run.shape.budget.as_ref().is_some_and(measured).then_some(AccountKey::Run(key.run));
    let mut accounts: Vec<AccountKey> = own.into_iter().collect();
    if state.budgets.has_any(run.tenant) {
        let over = standing_over(state, key, pool).filter(|(_, held)| measured(&held.budget.limit));
        accounts.extend(over.map(|(name, _)| AccountKey::Standing(run.tenant, Arc::clone(name))));
    }
    accounts
}

/// Whether attempts of a task ask an API, so that they cost.
pub(crate) fn spends(state: &State, key: TaskKey) -> bool {
    let class = state.task(key).and_then(|task| state.schedule.classes.get(task.class));
    class.is_some_and(crate::schedule::Class::spends)
}

/// The budget that keeps a queued task from being granted, if one does.
pub(crate) fn gate(state: &State, key: TaskKey) -> Option<AccountKey> {
    let run = state.run(key.run)?;
    let over = run.purse.over && (spends(state, key) || is_counted_out(state, key.run));
    if over {
        return Some(AccountKey::Run(key.run));
    }
    if state.budgets.closed == 0 || !spends(state, key) {
        return None;
    }
    let closed = standing_over(state, key, "").find(|(_, held)| held.closed)?;
    Some(AccountKey::Standing(run.tenant, Arc::clone(closed.0)))
}

/// The pool that an attempt of a task uses on an agent, or empty.
pub(in crate::machine) fn pool_of(state: &State, agent: AgentKey, key: TaskKey) -> Arc<str> {
    let class = state.task(key).and_then(|task| state.schedule.classes.get(task.class));
    let meter = class.and_then(|class| class.key.meter.as_ref());
    let id = meter.and_then(|meter| limits::pool_of(&state.agents.get(agent).routes, meter));
    let pool = id.and_then(|id| state.limits.get(id));
    pool.map_or_else(|| Arc::clone(&state.empty), |pool| Arc::clone(&pool.name))
}

/// Whether a run has had as many attempts as it may.
pub(super) fn is_counted_out(state: &State, id: RunId) -> bool {
    terms(state, &AccountKey::Run(id)).is_some_and(|terms| terms.is_counted_out())
}

/// The stream to the agent of a live attempt.
pub(super) fn holder_of(state: &State, attempt: AttemptKey) -> Option<AgentKey> {
    let agent = state.task(attempt.task)?.agent?;
    let lease = state.agents.get(agent).leases.get(&attempt.task)?;
    (lease.attempt == attempt.attempt).then_some(agent)
}

/// When a standing budget begins anew, from now.
pub(super) fn anew_in(state: &State, held: &Standing) -> Option<(Wall, Span)> {
    let at = period::next(held.budget.period, held.period)?;
    Some((at, Span(u64::try_from(at.0 - state.now.wall.0).unwrap_or(0))))
}

/// A budget as people name it: `budget nightly`, `budget of run evaluate/3`.
pub(super) fn name_of(state: &State, key: &AccountKey) -> String {
    match key {
        AccountKey::Run(id) => {
            format!("budget of run {}", state.run(*id).map_or("", |run| &*run.run_ref))
        }
        AccountKey::Standing(_, name) => format!("budget {name}"),
    }
}

/// How a budget stands, for people: `budget nightly: $10.00 of $10.00 spent today`.
pub(super) fn figures(state: &State, key: &AccountKey) -> String {
    let Some(terms) = terms(state, key) else { return name_of(state, key) };
    let standing = match key {
        AccountKey::Run(_) => None,
        AccountKey::Standing(tenant, name) => {
            state.budgets.standing.get(&(*tenant, Arc::clone(name))).map(|held| &held.budget)
        }
    };
    let counts = match standing.map(|budget| &budget.scope) {
        Some(BudgetScope::Tenant | BudgetScope::Name(_)) => "runs",
        Some(BudgetScope::Worker(_) | BudgetScope::Pool(_)) | None => "attempts",
    };
    let when = match standing.map(|budget| budget.period) {
        Some(BudgetPeriod::Day) => " today",
        Some(BudgetPeriod::Month) => " this month",
        Some(BudgetPeriod::Total) | None => "",
    };
    let (limit, spent) = (terms.limit, terms.certain);
    let mut parts = Vec::new();
    // What is used up; where nothing is, everything.
    let mut add = |all: bool| {
        let said = |limit: u64, used: u64| all || used >= limit;
        if let Some(limit) = limit.micro_usd.filter(|limit| said(*limit, spent.micro_usd)) {
            parts.push(format!("{} of {} spent", usd(spent.micro_usd), usd(limit)));
        }
        if let Some(limit) = limit.tokens.filter(|limit| said(*limit, spent.tokens)) {
            parts.push(format!("{} of {} tokens used", grouped(spent.tokens), grouped(limit)));
        }
        if let Some(limit) = limit.runs.filter(|limit| said(*limit, spent.runs)) {
            parts.push(format!("{} of {} {counts}", grouped(spent.runs), grouped(limit)));
        }
        parts.len()
    };
    if add(false) == 0 {
        add(true);
    }
    format!("{}: {}{when}", name_of(state, key), parts.join(", "))
}

/// The command line that doubles what is used up of a standing budget, and leaves everything else of it as it is.
pub(super) fn raise(state: &State, key: &AccountKey, budget: &Budget) -> String {
    let certain = terms(state, key).map_or_else(Spent::default, |terms| terms.certain);
    let raised = |limit: u64, used: u64| if used >= limit { limit.saturating_mul(2) } else { limit };
    let mut line = format!("orchctl budgets set {}", budget.name);
    if let Some(limit) = budget.limit.micro_usd {
        let dollars = usd(raised(limit, certain.micro_usd)).replace(['$', ','], "");
        let _ = write!(line, " --usd {}", dollars.trim_end_matches(".00"));
    }
    if let Some(limit) = budget.limit.tokens {
        let _ = write!(line, " --tokens {}", raised(limit, certain.tokens));
    }
    if let Some(limit) = budget.limit.runs {
        let _ = write!(line, " --runs {}", raised(limit, certain.runs));
    }
    line.push_str(match budget.period {
        BudgetPeriod::Total => " --per total",
        BudgetPeriod::Day => " --per day",
        BudgetPeriod::Month => " --per month",
    });
    let _ = match &budget.scope {
        BudgetScope::Tenant => Ok(()),
        BudgetScope::Worker(name) => write!(line, " --on worker={name}"),
        BudgetScope::Name(name) => write!(line, " --on name={name}"),
        BudgetScope::Pool(name) => write!(line, " --on pool={name}"),
    };
    line.push_str(match budget.limit.mode {
        BudgetMode::Hard => "",
        BudgetMode::Drain => " --mode drain",
        BudgetMode::Soft => " --mode soft",
    });
    line
}

/// Dollars and cents; what is less than a cent with two digits more.
pub(super) fn usd(micro_usd: u64) -> String {
    if micro_usd > 0 && micro_usd < 10_000 {
        return format!("$0.{:04}", micro_usd / 100);
    }
    let cents = (micro_usd.saturating_add(5_000)) / 10_000;
    format!("${}.{:02}", grouped(cents / 100), cents % 100)
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_reads_as_people_write_it() {
        let shown = [0, 99, 4_200, 10_000, 1_234_567, 5_000_000, 12_345_678_900].map(usd);
        assert_eq!(shown, ["$0.00", "$0.0000", "$0.0042", "$0.01", "$1.23", "$5.00", "$12,345.68"]);
    }
}
