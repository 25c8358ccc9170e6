//! Costs, budgets and limits over gRPC.
//! Thin: the ledger and the engine know; refuses to reckon anything itself.

use crate::engine::Handle;
use orch_proto::v1;
use orch_proto::v1::cost_service_server::CostService;
use tonic::{Request, Response, Status};

/// Answers what people ask of money.
#[derive(Debug, Clone)]
pub struct Costs {
    _engine: Handle,
}

impl Costs {
    /// Answers from what `engine` knows.
    #[must_use]
    pub const fn new(engine: Handle) -> Self {
        Self { _engine: engine }
    }
}

#[tonic::async_trait]
impl CostService for Costs {
    async fn query_costs(
        &self,
        _request: Request<v1::QueryCostsRequest>,
    ) -> Result<Response<v1::QueryCostsResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn list_budgets(
        &self,
        _request: Request<v1::ListBudgetsRequest>,
    ) -> Result<Response<v1::ListBudgetsResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn set_budget(
        &self,
        _request: Request<v1::SetBudgetRequest>,
    ) -> Result<Response<v1::SetBudgetResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn remove_budget(
        &self,
        _request: Request<v1::RemoveBudgetRequest>,
    ) -> Result<Response<v1::RemoveBudgetResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn get_limits(
        &self,
        _request: Request<v1::GetLimitsRequest>,
    ) -> Result<Response<v1::GetLimitsResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}
