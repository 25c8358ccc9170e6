//! How far standing budgets are used, as series.
//! Knows names and figures; there are at most as many series as a tenant may have budgets.

use super::FloatGauge;
use orch_core::budgets::BudgetView;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ByBudget {
    budget: String,
}

/// The series of budgets.
#[derive(Debug, Default)]
pub(super) struct BudgetFigures {
    used: Family<ByBudget, FloatGauge>,
    reserved: Family<ByBudget, FloatGauge>,
    named: Mutex<BTreeSet<ByBudget>>,
}

impl BudgetFigures {
    pub(super) fn register(&self, all: &mut Registry) {
        let help =
            "Recorded part of a standing budget, of whatever it limits and is used most: 1 is all of it";
        all.register("budget_used_ratio", help, self.used.clone());
        let help = "Part of a standing budget that is held for what runs, beyond what is recorded";
        all.register("budget_reserved_ratio", help, self.reserved.clone());
    }

    /// Budgets as they stand now; what is no more leaves.
    pub(super) fn set(&self, budgets: &[BudgetView]) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *named);
        for view in budgets {
            let Some(budget) = &view.budget else { continue };
            let label = ByBudget { budget: budget.name.to_string() };
            let (limit, spent, reserved) = (&view.limit, &view.spent, &view.reserved);
            let most = |parts: [(Option<u64>, u64); 3]| {
                let parts = parts.into_iter().filter_map(|(limit, amount)| Some(ratio(amount, limit?)));
                parts.fold(0.0, f64::max)
            };
            let used =
                [(limit.micro_usd, spent.micro_usd), (limit.tokens, spent.tokens), (limit.runs, spent.runs)];
            let held = [(limit.micro_usd, reserved.micro_usd), (limit.tokens, reserved.tokens), (None, 0)];
            self.used.get_or_create(&label).set(most(used));
            self.reserved.get_or_create(&label).set(most(held));
            gone.remove(&label);
            named.insert(label);
        }
        for label in gone {
            self.used.remove(&label);
            self.reserved.remove(&label);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share that people look at")]
fn ratio(amount: u64, limit: u64) -> f64 {
    amount as f64 / limit.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use orch_core::budgets::{Budget, BudgetLimit, BudgetPeriod, BudgetScope, Spent};

    fn view(spent: u64, reserved: u64) -> BudgetView {
        let limit = BudgetLimit { micro_usd: Some(100), tokens: Some(1_000), ..BudgetLimit::default() };
        let (scope, period) = (BudgetScope::Tenant, BudgetPeriod::Day);
        BudgetView {
            budget: Some(Budget { name: "nightly".into(), scope, period, limit }),
            run_ref: None,
            limit,
            spent: Spent { micro_usd: spent, tokens: 10, runs: 0 },
            reserved: Spent { micro_usd: reserved, ..Spent::default() },
            estimated_micro_usd: 0,
            resets_at: None,
            state: String::new(),
        }
    }

    #[test]
    fn budgets_are_series_as_long_as_they_are() {
        let metrics = Metrics::new("test");
        metrics.set_budgets(&[view(75, 5)]);
        let text = metrics.encode().unwrap();
        assert!(text.contains("orch_budget_used_ratio{budget=\"nightly\"} 0.75"), "{text}");
        assert!(text.contains("orch_budget_reserved_ratio{budget=\"nightly\"} 0.05"), "{text}");
        metrics.set_budgets(&[]);
        assert!(!metrics.encode().unwrap().contains("nightly"));
    }
}
