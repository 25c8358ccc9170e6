//! Budgets, standing ones and those of runs: listed, set, removed.
//! Knows the wire and what may be said; what follows is the core's.

use crate::engine::Handle;
use crate::rpc::auth::Caller;
use crate::rpc::convert::budgets::{budget_from_wire, budget_use};
use crate::rpc::cost_service::CostParts;
use crate::rpc::refs::parse_ref;
use crate::rpc::run_service::recall;
use crate::rpc::status::{from_spec_error, refuse_field};
use crate::rpc::{answered, ask, unexpected};
use crate::submission::{check_budget_limit, check_scope_name};
use orch_core::budgets::{Budget, BudgetChange};
use orch_core::event::{Event, Target};
use orch_core::query::{Answer, Query, Refusal};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::sync::Arc;
use tonic::Status;

/// Longest name of a budget.
const MAX_NAME: usize = 63;

/// Budgets of the caller's tenant.
pub(super) async fn list(
    parts: &CostParts,
    caller: &Caller,
    request: v1::ListBudgetsRequest,
) -> Result<v1::ListBudgetsResponse, Status> {
    let answer = ask(&parts.engine, caller.tenant, Query::Budgets(request.runs)).await?;
    let Answer::Budgets(views) = answer else { return Err(unexpected()) };
    Ok(v1::ListBudgetsResponse { budgets: views.iter().map(budget_use).collect() })
}

/// Makes or replaces one.
pub(super) async fn set(
    parts: &CostParts,
    caller: &Caller,
    request: v1::SetBudgetRequest,
) -> Result<v1::SetBudgetResponse, Status> {
    if !request.run.is_empty() {
        if request.budget.is_some() {
            let message = "goes without a budget of another name: run_limit is its ceiling";
            return Err(refuse_field(ErrorCode::InvalidField, "run", message));
        }
        let limit = request.run_limit.unwrap_or_default();
        return change_run(&parts.engine, caller, parse_ref(&request.run, caller)?, Some(&limit)).await;
    }
    let budget = Box::new(checked(&request.budget.unwrap_or_default())?);
    let (tenant, name) = (caller.tenant, Arc::clone(&budget.name));
    let answer = parts.engine.request(move |token| Event::BudgetSet { token, tenant, budget }).await;
    let Answer::BudgetSet { view, replaced } = answered(answer)? else { return Err(unexpected()) };
    tracing::info!(target: "audit", by = caller.label(), "set budget {name}");
    Ok(v1::SetBudgetResponse { budget: Some(budget_use(&view)), replaced })
}

/// Changes the budget of a run, or ends it. A run that ended may have left the state and is taken back first: a larger
/// budget is what another try of it needs.
pub(crate) async fn change_run(
    engine: &Handle,
    caller: &Caller,
    target: Target,
    limit: Option<&v1::BudgetLimit>,
) -> Result<v1::SetBudgetResponse, Status> {
    if target.task.is_some() {
        let message = "names a task: a budget is over its whole run";
        return Err(refuse_field(ErrorCode::InvalidField, "run", message));
    }
    let change = limit.map(changed).transpose()?;
    let named = target.clone();
    let event = move |token| Event::RunBudgetSet { token, target: named, change };
    let mut answer = engine.request(event.clone()).await;
    if matches!(answer, Ok(Answer::Refused(Refusal::RunNotLive))) {
        recall(engine, &target).await?;
        answer = engine.request(event).await;
    }
    let answer = answered(answer)?;
    if let Answer::BudgetSet { view, replaced } = answer {
        let run = view.run_ref.as_deref().unwrap_or_default();
        tracing::info!(target: "audit", by = caller.label(), "set budget of run {run}");
        return Ok(v1::SetBudgetResponse { budget: Some(budget_use(&view)), replaced });
    }
    let Answer::BudgetRemoved = answer else { return Err(unexpected()) };
    tracing::info!(target: "audit", by = caller.label(), "remove budget of a run");
    Ok(v1::SetBudgetResponse::default())
}

/// What is to become of a ceiling; what it says nothing of stays.
fn changed(limit: &v1::BudgetLimit) -> Result<BudgetChange, Status> {
    // Only a mode may be said: the rule of ceilings wants one limit at least.
    let only_mode = limit.micro_usd.is_none() && limit.tokens.is_none() && limit.runs.is_none();
    let probe = v1::BudgetLimit { runs: limit.runs.or_else(|| only_mode.then_some(1)), ..*limit };
    if only_mode && limit.mode == 0 {
        let message = "changes nothing: give money, tokens, runs or a mode";
        return Err(refuse_field(ErrorCode::InvalidField, "run_limit", message));
    }
    let known = check_budget_limit("run_limit", &probe).map_err(|error| from_spec_error(&error))?;
    Ok(BudgetChange {
        micro_usd: limit.micro_usd,
        tokens: limit.tokens,
        runs: limit.runs,
        mode: (limit.mode != 0).then_some(known.mode),
    })
}

/// Ends one.
pub(super) async fn remove(
    parts: &CostParts,
    caller: &Caller,
    request: v1::RemoveBudgetRequest,
) -> Result<v1::RemoveBudgetResponse, Status> {
    if !request.run.is_empty() {
        change_run(&parts.engine, caller, parse_ref(&request.run, caller)?, None).await?;
        return Ok(v1::RemoveBudgetResponse {});
    }
    check_name(&request.name, "name")?;
    let (tenant, name): (_, Arc<str>) = (caller.tenant, request.name.as_str().into());
    let answer = parts.engine.request(move |token| Event::BudgetRemoved { token, tenant, name }).await;
    let Answer::BudgetRemoved = answered(answer)? else { return Err(unexpected()) };
    tracing::info!(target: "audit", by = caller.label(), "remove budget {}", request.name);
    Ok(v1::RemoveBudgetResponse {})
}

/// A budget as it may be set.
fn checked(wire: &v1::Budget) -> Result<Budget, Status> {
    check_name(&wire.name, "budget.name")?;
    let missing = |field: &str, message: &str| refuse_field(ErrorCode::InvalidField, field, message);
    let limit = wire
        .limit
        .as_ref()
        .ok_or_else(|| missing("budget.limit", "is missing: --usd, --tokens or --runs"))?;
    check_budget_limit("budget.limit", limit).map_err(|error| from_spec_error(&error))?;
    let scope = wire.scope.as_ref().and_then(|scope| scope.scope.as_ref());
    let scope = scope.ok_or_else(|| missing("budget.scope", "is missing: tenant, worker, name or pool"))?;
    check_scope_name("budget.scope", scope).map_err(|error| from_spec_error(&error))?;
    budget_from_wire(wire).ok_or_else(|| missing("budget.period", "is not known: total, day or month"))
}

/// The name of a budget stands in keys and command lines.
fn check_name(name: &str, field: &str) -> Result<(), Status> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-') {
        return Ok(());
    }
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    let message = format!(
        "`{shown}` is not the name of a budget: lower-case letters, digits and dash, starting with a letter or digit, at \
         most {MAX_NAME} bytes"
    );
    Err(refuse_field(ErrorCode::InvalidName, field, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::budget_scope::Scope;

    fn nightly() -> v1::Budget {
        v1::Budget {
            name: "nightly".into(),
            scope: Some(v1::BudgetScope { scope: Some(Scope::Tenant(v1::TenantBudget {})) }),
            period: v1::BudgetPeriod::Day.into(),
            limit: Some(v1::BudgetLimit { micro_usd: Some(1), ..v1::BudgetLimit::default() }),
        }
    }

    #[test]
    fn a_budget_that_says_all_is_taken() {
        assert_eq!(&*checked(&nightly()).unwrap().name, "nightly");
    }

    #[test]
    fn what_is_missing_or_odd_is_refused_with_its_field() {
        let refused = |change: fn(&mut v1::Budget)| {
            let mut budget = nightly();
            change(&mut budget);
            checked(&budget).unwrap_err().message().to_owned()
        };
        let said = [
            refused(|budget| budget.name = "Night ly".into()),
            refused(|budget| budget.limit = None),
            refused(|budget| budget.limit = Some(v1::BudgetLimit::default())),
            refused(|budget| budget.limit.as_mut().unwrap().micro_usd = Some(0)),
            refused(|budget| budget.limit.as_mut().unwrap().mode = 9),
            refused(|budget| budget.scope = None),
            refused(|budget| {
                budget.scope = Some(v1::BudgetScope { scope: Some(Scope::Worker("a b".into())) })
            }),
            refused(|budget| {
                budget.scope = Some(v1::BudgetScope { scope: Some(Scope::Worker("noop".into())) })
            }),
            refused(|budget| budget.period = 0),
        ];
        let fields = ["name", "limit", "limit", "limit", "mode", "scope", "scope", "scope", "period"];
        for (said, field) in said.iter().zip(fields) {
            assert!(said.contains(field), "{said}");
        }
    }
}
