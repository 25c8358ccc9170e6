//! The rules of budgets: of a run, and of standing ones.
//! A budget that cannot be enforced is refused, never ignored.

use super::SpecError;
use super::rules::{NameStyle, check_name};
use crate::rpc::convert::budgets::limit_from_wire;
use orch_core::budgets::BudgetLimit;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;

/// Runners whose attempts cost nothing and are told apart by no worker.
const NOT_WORKERS: [&str; 3] = ["noop", "command", "publish"];
/// A billion dollars: sums of what is above could overflow.
const MAX_MICRO_USD: u64 = 1_000_000_000_000_000;

/// Checks a ceiling: each limit above 0, and one at least.
///
/// # Errors
/// What is wrong with it.
pub fn check_budget_limit(field: &str, limit: &v1::BudgetLimit) -> Result<BudgetLimit, SpecError> {
    let refuse = |field: String, message: &str| Err(SpecError::new(ErrorCode::InvalidField, field, message));
    for (name, value) in [("micro_usd", limit.micro_usd), ("tokens", limit.tokens), ("runs", limit.runs)] {
        if value == Some(0) {
            return refuse(format!("{field}.{name}"), "must be above 0: nothing could ever start");
        }
        if value.is_some_and(|value| value > MAX_MICRO_USD) {
            return refuse(format!("{field}.{name}"), "is more than anything costs");
        }
    }
    if v1::BudgetMode::try_from(limit.mode).is_err() {
        return refuse(format!("{field}.mode"), "is not known: soft, hard or drain");
    }
    match limit_from_wire(limit) {
        Some(limit) => Ok(limit),
        None => refuse(field.to_owned(), "limits nothing: give money, tokens or runs"),
    }
}

/// Checks what a standing budget is over.
///
/// # Errors
/// A name that nothing can have.
pub fn check_scope_name(field: &str, scope: &v1::budget_scope::Scope) -> Result<(), SpecError> {
    use v1::budget_scope::Scope;
    match scope {
        Scope::Tenant(v1::TenantBudget {}) => Ok(()),
        Scope::Worker(name) if NOT_WORKERS.contains(&name.as_str()) => {
            let message = format!("`{name}` is no worker: what it does costs nothing");
            Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.worker"), message))
        }
        Scope::Worker(name) => check_name(&format!("{field}.worker"), name, NameStyle::Task),
        Scope::Name(name) => check_name(&format!("{field}.name"), name, NameStyle::Run),
        Scope::Pool(name) => check_name(&format!("{field}.pool"), name, NameStyle::Task),
    }
}
