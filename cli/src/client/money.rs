//! Calls about money and limits. All may be repeated: a budget that is set twice is the same budget.
//! Knows the wire; refuses to print.

use orch_proto::v1;
use orch_proto::v1::cost_service_client::CostServiceClient;
use tonic::transport::Channel;

use super::{Client, MAX_MESSAGE};
use crate::failure::Outcome;

impl Client {
    fn money(&self) -> CostServiceClient<Channel> {
        CostServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// What was spent.
    pub(crate) async fn costs(&self, query: &v1::QueryCostsRequest) -> Outcome<v1::QueryCostsResponse> {
        self.call(async || self.money().query_costs(query.clone()).await).await
    }

    /// Standing budgets, and with `runs` those of runs that go on.
    pub(crate) async fn budgets(&self, runs: bool) -> Outcome<Vec<v1::BudgetUse>> {
        let request = v1::ListBudgetsRequest { runs };
        Ok(self.call(async || self.money().list_budgets(request).await).await?.budgets)
    }

    /// Makes or replaces a budget.
    pub(crate) async fn set_budget(&self, budget: v1::Budget) -> Outcome<v1::SetBudgetResponse> {
        let request = v1::SetBudgetRequest { budget: Some(budget), ..v1::SetBudgetRequest::default() };
        self.call(async || self.money().set_budget(request.clone()).await).await
    }

    /// Changes the budget of a run.
    pub(crate) async fn set_run_budget(
        &self,
        run: &str,
        limit: v1::BudgetLimit,
    ) -> Outcome<v1::SetBudgetResponse> {
        let request = v1::SetBudgetRequest { run: run.to_owned(), run_limit: Some(limit), budget: None };
        self.call(async || self.money().set_budget(request.clone()).await).await
    }

    /// Ends the budget of a run.
    pub(crate) async fn remove_run_budget(&self, run: &str) -> Outcome<()> {
        let request = v1::RemoveBudgetRequest { run: run.to_owned(), ..v1::RemoveBudgetRequest::default() };
        self.call(async || self.money().remove_budget(request.clone()).await).await?;
        Ok(())
    }

    /// Ends a budget.
    pub(crate) async fn remove_budget(&self, name: &str) -> Outcome<()> {
        let request = v1::RemoveBudgetRequest { name: name.to_owned(), ..v1::RemoveBudgetRequest::default() };
        self.call(async || self.money().remove_budget(request.clone()).await).await?;
        Ok(())
    }

    /// How credential pools stand; an empty name asks for all.
    pub(crate) async fn limits(&self, pool: &str) -> Outcome<Vec<v1::PoolLimits>> {
        let request = v1::GetLimitsRequest { pool: pool.to_owned() };
        Ok(self.call(async || self.money().get_limits(request.clone()).await).await?.pools)
    }
}
