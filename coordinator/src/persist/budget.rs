//! Standing budgets between the core's records and the store's.
//! Knows every field of both; decides nothing.

use super::Draft;
use super::decode::FieldError;
use crate::rpc::convert::budgets::{budget, budget_from_wire, spent, spent_from_wire};
use crate::store::{Key, KeyError, Tenant};
use orch_core::budgets::BudgetRecordView;
use orch_core::ids::TenantId;
use orch_core::time::Wall;
use orch_proto::store::v1 as record;
use prost::Message as _;

/// The record of a standing budget.
///
/// # Errors
/// When its name does not fit a key, which checked names do.
pub(crate) fn draft(view: &BudgetRecordView) -> Result<Draft, KeyError> {
    let value = record::BudgetRecord {
        budget: Some(budget(&view.budget)),
        period_ms: view.period.0,
        spent: Some(spent(view.spent)),
        estimated_micro_usd: view.estimated_micro_usd,
        warned: view.warned,
    };
    Ok(Draft::Whole { key: key(view.tenant, &view.budget.name)?, value: value.encode_to_vec() })
}

/// Where [`draft`] lies.
///
/// # Errors
/// When the name does not fit a key.
pub(crate) fn key(tenant: TenantId, name: &str) -> Result<Key, KeyError> {
    Key::budget(Tenant::new(tenant.0), name)
}

/// A standing budget as its record says.
///
/// # Errors
/// When it names a scope, a period or a mode of a later version: to pass over a budget would be to spend without it.
pub fn restored(tenant: TenantId, stored: &record::BudgetRecord) -> Result<BudgetRecordView, FieldError> {
    let known = stored.budget.as_ref().and_then(budget_from_wire);
    let period = stored.budget.as_ref().map_or(0, |budget| budget.period);
    Ok(BudgetRecordView {
        tenant,
        budget: known.ok_or_else(|| FieldError::new("a part of a budget of period", period.into()))?,
        period: Wall(stored.period_ms),
        spent: spent_from_wire(stored.spent.as_ref()),
        estimated_micro_usd: stored.estimated_micro_usd,
        warned: stored.warned,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_core::budgets::{Budget, BudgetLimit, BudgetMode, BudgetPeriod, BudgetScope, Spent};

    fn record(scope: BudgetScope, period: BudgetPeriod, mode: BudgetMode) -> BudgetRecordView {
        let limit = BudgetLimit { micro_usd: Some(u64::MAX), tokens: Some(1), runs: None, mode };
        BudgetRecordView {
            tenant: TenantId(7),
            budget: Budget { name: "n".repeat(63).into(), scope, period, limit },
            period: Wall(1_795_219_200_000),
            spent: Spent { micro_usd: 3, tokens: 4, runs: 5 },
            estimated_micro_usd: 2,
            warned: true,
        }
    }

    #[test]
    fn a_budget_is_read_back_as_it_was_written() {
        let name = || "w".repeat(128).into();
        let scopes = [
            BudgetScope::Tenant,
            BudgetScope::Worker(name()),
            BudgetScope::Name(name()),
            BudgetScope::Pool(name()),
        ];
        let periods = [BudgetPeriod::Total, BudgetPeriod::Day, BudgetPeriod::Month, BudgetPeriod::Day];
        let modes = [BudgetMode::Soft, BudgetMode::Hard, BudgetMode::Drain, BudgetMode::Hard];
        for ((scope, period), mode) in scopes.into_iter().zip(periods).zip(modes) {
            let view = record(scope, period, mode);
            let Draft::Whole { value, .. } = draft(&view).unwrap() else { panic!("one value") };
            assert!(value.len() < 512, "{}", value.len());
            let stored = record::BudgetRecord::decode(&*value).unwrap();
            assert_eq!(restored(TenantId(7), &stored), Ok(view));
        }
    }

    #[test]
    fn a_budget_that_is_not_understood_is_refused_rather_than_left_out() {
        let view = record(BudgetScope::Tenant, BudgetPeriod::Day, BudgetMode::Hard);
        let Draft::Whole { value, .. } = draft(&view).unwrap() else { panic!("one value") };
        let mut stored = record::BudgetRecord::decode(&*value).unwrap();
        stored.budget.as_mut().unwrap().period = 9;
        assert!(restored(TenantId(7), &stored).is_err());
    }
}
