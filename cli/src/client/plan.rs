//! Plans: looking at one, and answering it. Knows the wire; refuses to print and to decide what a person wants.

use orch_proto::v1;

use super::{Client, new_request_id};
use crate::failure::Outcome;

/// An answer to a plan.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// The run, `name/number`.
    pub(crate) run: String,
    /// Approve or reject.
    pub(crate) decision: v1::PlanDecision,
    /// Another plan in place of the proposed one, as JSON; empty: as proposed.
    pub(crate) plan: String,
    /// Why, for people.
    pub(crate) reason: String,
}

impl Client {
    /// The plan of a planned run, with what speaks against it.
    pub(crate) async fn plan(&self, run: &str) -> Outcome<v1::GetPlanResponse> {
        let request = v1::GetPlanRequest { r#ref: run.to_owned() };
        self.call(async || self.runs().get_plan(request.clone()).await).await
    }

    /// Answers a plan. The request id makes repeating it harmless.
    pub(crate) async fn decide(&self, decision: Decision) -> Outcome<v1::DecidePlanResponse> {
        let request = v1::DecidePlanRequest {
            r#ref: decision.run,
            decision: decision.decision.into(),
            plan: decision.plan,
            reason: decision.reason,
            request_id: new_request_id(),
        };
        self.call(async || self.runs().decide_plan(request.clone()).await).await
    }
}
