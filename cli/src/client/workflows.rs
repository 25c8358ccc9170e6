//! Workflows of the coordinator: listed, shown, and compiled without being run. Knows the wire; refuses to print.

use orch_proto::codes::ErrorCode;
use orch_proto::v1::workflow_service_client::WorkflowServiceClient;
use orch_proto::v1::{self, WorkflowCall};
use prost::Message;
use tonic::transport::Channel;

use super::submission::ONE_MESSAGE;
use super::{Client, MAX_MESSAGE, incomplete};
use crate::failure::Outcome;

impl Client {
    fn flows(&self) -> WorkflowServiceClient<Channel> {
        WorkflowServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The workflows in force, by name, and the files that cannot be used.
    pub(crate) async fn workflows(&self) -> Outcome<v1::ListWorkflowsResponse> {
        self.call(async || self.flows().list_workflows(v1::ListWorkflowsRequest {}).await).await
    }

    /// One workflow, with its definition.
    pub(crate) async fn workflow(&self, name: &str) -> Outcome<v1::Workflow> {
        let request = v1::GetWorkflowRequest { name: name.to_owned() };
        let answer = self.call(async || self.flows().get_workflow(request.clone()).await).await?;
        answer.workflow.ok_or_else(|| incomplete("GetWorkflow"))
    }

    /// What a call would run, or what is wrong with it; `None` when that is too much for one message: then only a
    /// submit can tell.
    pub(crate) async fn compile(
        &self,
        call: &WorkflowCall,
        definition_only: bool,
    ) -> Outcome<Option<v1::CompileWorkflowResponse>> {
        if call.encoded_len() > ONE_MESSAGE {
            return Ok(None);
        }
        let request = v1::CompileWorkflowRequest { call: Some(call.clone()), definition_only };
        match self.call(async || self.flows().compile_workflow(request.clone()).await).await {
            Ok(answer) => Ok(Some(answer)),
            Err(failure) if failure.code() == Some(ErrorCode::TooLarge.code()) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}
