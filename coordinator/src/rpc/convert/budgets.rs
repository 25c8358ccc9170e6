//! Budgets between the wire and the core.
//! Names both and decides nothing; what a name may look like is [`crate::rpc::cost_service`]'s.

use super::timestamp;
use orch_core::budgets::{Budget, BudgetLimit, BudgetMode, BudgetPeriod, BudgetScope, BudgetView, Spent};
use orch_proto::v1;
use std::sync::Arc;

/// A ceiling.
#[must_use]
pub fn limit(limit: &BudgetLimit) -> v1::BudgetLimit {
    v1::BudgetLimit {
        micro_usd: limit.micro_usd,
        tokens: limit.tokens,
        runs: limit.runs,
        mode: super::budget_mode(limit.mode).into(),
    }
}

/// A ceiling from the wire or a record; `None` when it limits nothing or names a mode that this version does not know.
#[must_use]
pub fn limit_from_wire(wire: &v1::BudgetLimit) -> Option<BudgetLimit> {
    let mode = match v1::BudgetMode::try_from(wire.mode).ok()? {
        v1::BudgetMode::Soft => BudgetMode::Soft,
        v1::BudgetMode::Unspecified | v1::BudgetMode::Hard => BudgetMode::Hard,
        v1::BudgetMode::Drain => BudgetMode::Drain,
    };
    let limit = BudgetLimit { micro_usd: wire.micro_usd, tokens: wire.tokens, runs: wire.runs, mode };
    (limit.micro_usd.is_some() || limit.tokens.is_some() || limit.runs.is_some()).then_some(limit)
}

/// What a budget is over.
#[must_use]
pub fn scope(scope: &BudgetScope) -> v1::BudgetScope {
    use v1::budget_scope::Scope;
    v1::BudgetScope {
        scope: Some(match scope {
            BudgetScope::Tenant => Scope::Tenant(v1::TenantBudget {}),
            BudgetScope::Worker(name) => Scope::Worker(name.to_string()),
            BudgetScope::Name(name) => Scope::Name(name.to_string()),
            BudgetScope::Pool(name) => Scope::Pool(name.to_string()),
        }),
    }
}

/// A standing budget.
#[must_use]
pub fn budget(budget: &Budget) -> v1::Budget {
    let period = match budget.period {
        BudgetPeriod::Total => v1::BudgetPeriod::Total,
        BudgetPeriod::Day => v1::BudgetPeriod::Day,
        BudgetPeriod::Month => v1::BudgetPeriod::Month,
    };
    v1::Budget {
        name: budget.name.to_string(),
        scope: Some(scope(&budget.scope)),
        period: period.into(),
        limit: Some(limit(&budget.limit)),
    }
}

/// A standing budget from the wire or a record; `None` when a part is missing or not known.
#[must_use]
pub fn budget_from_wire(wire: &v1::Budget) -> Option<Budget> {
    use v1::budget_scope::Scope;
    let text = |text: &String| Arc::from(text.as_str());
    let scope = match wire.scope.as_ref()?.scope.as_ref()? {
        Scope::Tenant(v1::TenantBudget {}) => BudgetScope::Tenant,
        Scope::Worker(name) => BudgetScope::Worker(text(name)),
        Scope::Name(name) => BudgetScope::Name(text(name)),
        Scope::Pool(name) => BudgetScope::Pool(text(name)),
    };
    let period = match v1::BudgetPeriod::try_from(wire.period).ok()? {
        v1::BudgetPeriod::Unspecified => return None,
        v1::BudgetPeriod::Total => BudgetPeriod::Total,
        v1::BudgetPeriod::Day => BudgetPeriod::Day,
        v1::BudgetPeriod::Month => BudgetPeriod::Month,
    };
    Some(Budget { name: text(&wire.name), scope, period, limit: limit_from_wire(wire.limit.as_ref()?)? })
}

/// Money, tokens, runs.
#[must_use]
pub const fn spent(spent: Spent) -> v1::Spent {
    v1::Spent { micro_usd: spent.micro_usd, tokens: spent.tokens, runs: spent.runs }
}

/// The same from a record.
#[must_use]
pub fn spent_from_wire(wire: Option<&v1::Spent>) -> Spent {
    wire.map_or_else(Spent::default, |wire| Spent {
        micro_usd: wire.micro_usd,
        tokens: wire.tokens,
        runs: wire.runs,
    })
}

/// A budget and how far it is used.
#[must_use]
pub fn budget_use(view: &BudgetView) -> v1::BudgetUse {
    v1::BudgetUse {
        budget: view.budget.as_ref().map(budget),
        spent: Some(spent(view.spent)),
        reserved: Some(spent(view.reserved)),
        resets_at: view.resets_at.map(timestamp),
        state: view.state.clone(),
        estimated_micro_usd: view.estimated_micro_usd,
        limit: Some(limit(&view.limit)),
        run_ref: view.run_ref.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}
