//! The money of the fake: a bill that a test makes up, budgets that can be set and removed, pools as they stand.

use orch_proto::codes::ErrorCode;
use orch_proto::v1::cost_service_server::CostService;
use orch_proto::v1::*;
use tonic::{Request, Response, Status};

use super::Fake;
use super::admin::refused;

/// What is known of money and limits.
#[derive(Default)]
pub(in super::super) struct Money {
    pub(in super::super) costs: QueryCostsResponse,
    pub(in super::super) queries: Vec<QueryCostsRequest>,
    pub(in super::super) budgets: Vec<BudgetUse>,
    /// Ceilings of runs, as they were sent.
    pub(in super::super) run_limits: Vec<BudgetLimit>,
    pub(in super::super) pools: Vec<PoolLimits>,
    /// What every submit is expected to cost.
    pub(in super::super) estimate: Option<CostEstimate>,
}

type Answer<T> = Result<Response<T>, Status>;

fn is_named(used: &BudgetUse, name: &str) -> bool {
    used.budget.as_ref().is_some_and(|budget| budget.name == name)
}

#[tonic::async_trait]
impl CostService for Fake {
    async fn query_costs(&self, request: Request<QueryCostsRequest>) -> Answer<QueryCostsResponse> {
        let request = request.into_inner();
        let mut held = self.call("costs")?;
        let wanted = request.by.len();
        held.money.queries.push(request);
        let mut costs = held.money.costs.clone();
        costs.rows.iter_mut().for_each(|row| row.keys.truncate(wanted));
        Ok(Response::new(costs))
    }

    async fn list_budgets(&self, request: Request<ListBudgetsRequest>) -> Answer<ListBudgetsResponse> {
        let runs = request.into_inner().runs;
        let held = self.call("budgets")?;
        let wanted = |used: &&BudgetUse| runs || used.budget.is_some();
        let budgets = held.money.budgets.iter().filter(wanted).cloned().collect();
        Ok(Response::new(ListBudgetsResponse { budgets }))
    }

    async fn set_budget(&self, request: Request<SetBudgetRequest>) -> Answer<SetBudgetResponse> {
        let request = request.into_inner();
        if let Some(limit) = request.run_limit {
            let mut held = self.call("set_run_budget")?;
            held.money.run_limits.push(limit);
            let known = held.money.budgets.iter_mut().find(|used| used.run_ref == request.run);
            let Some(known) = known else {
                let used = BudgetUse { limit: Some(limit), run_ref: request.run, ..BudgetUse::default() };
                return Ok(Response::new(SetBudgetResponse { budget: Some(used), replaced: false }));
            };
            let before = known.limit.unwrap_or_default();
            known.limit = Some(BudgetLimit { micro_usd: limit.micro_usd.or(before.micro_usd), ..limit });
            return Ok(Response::new(SetBudgetResponse { budget: Some(known.clone()), replaced: true }));
        }
        let budget = request.budget.unwrap();
        let mut held = self.call("set_budget")?;
        let earlier = held.money.budgets.iter().position(|used| is_named(used, &budget.name));
        let earlier = earlier.map(|at| held.money.budgets.remove(at));
        let replaced = earlier.is_some();
        let used = BudgetUse { limit: budget.limit, budget: Some(budget), ..earlier.unwrap_or_default() };
        held.money.budgets.push(used.clone());
        Ok(Response::new(SetBudgetResponse { budget: Some(used), replaced }))
    }

    async fn remove_budget(&self, request: Request<RemoveBudgetRequest>) -> Answer<RemoveBudgetResponse> {
        let RemoveBudgetRequest { name, run } = request.into_inner();
        let mut held = self.call("remove_budget")?;
        let before = held.money.budgets.len();
        held.money.budgets.retain(|used| !is_named(used, &name) && (run.is_empty() || used.run_ref != run));
        if held.money.budgets.len() == before {
            return Err(refused(ErrorCode::NotFound, format!("there is no budget `{name}`")));
        }
        Ok(Response::new(RemoveBudgetResponse {}))
    }

    async fn get_limits(&self, request: Request<GetLimitsRequest>) -> Answer<GetLimitsResponse> {
        let name = request.into_inner().pool;
        let held = self.call("limits")?;
        let wanted = |pool: &&PoolLimits| name.is_empty() || pool.pool == name;
        let pools: Vec<_> = held.money.pools.iter().filter(wanted).cloned().collect();
        if pools.is_empty() && !name.is_empty() {
            return Err(refused(ErrorCode::NotFound, format!("there is no pool `{name}`")));
        }
        Ok(Response::new(GetLimitsResponse { pools }))
    }
}
