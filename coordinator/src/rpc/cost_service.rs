//! Costs, budgets and limits over gRPC.
//! Thin: the ledger and the engine know; refuses to reckon anything itself. Each of the three has a room below.

pub(crate) mod budgets;
mod limits;
mod query;

use crate::engine::Handle;
use crate::presence::Registry;
use crate::rpc::auth::Caller;
use orch_proto::v1;
use orch_proto::v1::cost_service_server::CostService;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Answers what people ask of money.
#[derive(Debug, Clone)]
pub struct Costs {
    parts: Arc<CostParts>,
}

/// What the service needs.
#[derive(Debug)]
pub struct CostParts {
    /// The engine.
    pub engine: Handle,
    /// What agents say about themselves.
    pub registry: Arc<Registry>,
}

impl Costs {
    /// Answers from what its parts know.
    #[must_use]
    pub fn new(parts: CostParts) -> Self {
        Self { parts: Arc::new(parts) }
    }
}

#[tonic::async_trait]
impl CostService for Costs {
    async fn query_costs(
        &self,
        request: Request<v1::QueryCostsRequest>,
    ) -> Result<Response<v1::QueryCostsResponse>, Status> {
        let caller = Caller::of(&request)?;
        query::costs(&self.parts, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_budgets(
        &self,
        request: Request<v1::ListBudgetsRequest>,
    ) -> Result<Response<v1::ListBudgetsResponse>, Status> {
        let caller = Caller::of(&request)?;
        budgets::list(&self.parts, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn set_budget(
        &self,
        request: Request<v1::SetBudgetRequest>,
    ) -> Result<Response<v1::SetBudgetResponse>, Status> {
        let caller = Caller::of(&request)?;
        budgets::set(&self.parts, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn remove_budget(
        &self,
        request: Request<v1::RemoveBudgetRequest>,
    ) -> Result<Response<v1::RemoveBudgetResponse>, Status> {
        let caller = Caller::of(&request)?;
        budgets::remove(&self.parts, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn get_limits(
        &self,
        request: Request<v1::GetLimitsRequest>,
    ) -> Result<Response<v1::GetLimitsResponse>, Status> {
        let caller = Caller::of(&request)?;
        limits::pools(&self.parts, &caller, request.into_inner()).await.map(Response::new)
    }
}
