//! Calls that show and steer the fleet. All may be repeated: a drain, a label and a reload come to the same however
//! often they are asked for. Knows the wire; refuses to print.

use orch_proto::v1;

use super::{Client, incomplete};
use crate::failure::Outcome;

impl Client {
    /// One agent.
    pub(crate) async fn agent(&self, name: &str) -> Outcome<v1::Agent> {
        let request = v1::GetAgentRequest { name: name.to_owned() };
        let answer = self.call(async || self.admin().get_agent(request.clone()).await).await?;
        answer.agent.ok_or_else(|| incomplete("GetAgent"))
    }

    /// Gives an agent no new work, and returns it as it is then.
    pub(crate) async fn drain(&self, name: &str, reason: &str) -> Outcome<v1::Agent> {
        let request = v1::DrainAgentRequest { name: name.to_owned(), reason: reason.to_owned() };
        let answer = self.call(async || self.admin().drain_agent(request.clone()).await).await?;
        answer.agent.ok_or_else(|| incomplete("DrainAgent"))
    }

    /// Ends a drain.
    pub(crate) async fn resume(&self, name: &str) -> Outcome<v1::Agent> {
        let request = v1::ResumeAgentRequest { name: name.to_owned() };
        let answer = self.call(async || self.admin().resume_agent(request.clone()).await).await?;
        answer.agent.ok_or_else(|| incomplete("ResumeAgent"))
    }

    /// Changes what an agent offers.
    pub(crate) async fn label(&self, request: v1::LabelAgentRequest) -> Outcome<v1::Agent> {
        let answer = self.call(async || self.admin().label_agent(request.clone()).await).await?;
        answer.agent.ok_or_else(|| incomplete("LabelAgent"))
    }

    /// One worker with its definition in force.
    pub(crate) async fn worker(&self, name: &str) -> Outcome<(v1::Worker, v1::WorkerDefinition)> {
        let request = v1::GetWorkerRequest { name: name.to_owned() };
        let answer = self.call(async || self.admin().get_worker(request.clone()).await).await?;
        let worker = answer.worker.ok_or_else(|| incomplete("GetWorker"))?;
        Ok((worker, answer.definition.unwrap_or_default()))
    }

    /// Checks files of prompts as a last layer over what is in force.
    pub(crate) async fn validate_workers(
        &self,
        files: Vec<v1::PromptFile>,
    ) -> Outcome<v1::ValidateWorkersResponse> {
        let request = v1::ValidateWorkersRequest { files };
        self.call(async || self.admin().validate_workers(request.clone()).await).await
    }

    /// Has the coordinator read its prompts again.
    pub(crate) async fn reload_workers(&self) -> Outcome<v1::ReloadWorkersResponse> {
        self.call(async || self.admin().reload_workers(v1::ReloadWorkersRequest {}).await).await
    }
}
