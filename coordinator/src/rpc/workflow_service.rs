//! Workflows, for people: listed, shown, and compiled without being run. Adapters: what makes a workflow is
//! [`crate::workflows`]'.

use crate::clock::Clock;
use crate::rpc::status::{refuse_field, refuse_helped};
use crate::rpc::{blocking, gone};
use crate::workers::WorkersInForce;
use crate::workflows::{Compiled, Workflows, examine};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use orch_proto::v1::workflow_service_server::WorkflowService;
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// Compilations at a time: each may take a core for a second and several hundred MiB.
const MAX_COMPILING: usize = 2;
/// Largest answer; messages end at 1 MiB.
const MAX_ANSWER_BYTES: usize = 900 << 10;
/// Mistakes of one list: whoever mended these finds the rest.
const MAX_PROBLEMS: usize = 200;

/// The service.
#[derive(Debug, Clone)]
pub struct Flows {
    prompts: Arc<WorkersInForce>,
    clock: Arc<dyn Clock>,
    compiling: Arc<Semaphore>,
}

impl Flows {
    /// Serves the workflows of `prompts`; their day is that of `clock`.
    #[must_use]
    pub fn new(prompts: Arc<WorkersInForce>, clock: Arc<dyn Clock>) -> Self {
        Self { prompts, clock, compiling: Arc::new(Semaphore::new(MAX_COMPILING)) }
    }

    fn in_force(&self) -> Workflows {
        self.prompts.workflows(self.clock.wall())
    }
}

#[tonic::async_trait]
impl WorkflowService for Flows {
    async fn list_workflows(
        &self,
        _request: Request<v1::ListWorkflowsRequest>,
    ) -> Result<Response<v1::ListWorkflowsResponse>, Status> {
        let in_force = self.in_force();
        Ok(Response::new(v1::ListWorkflowsResponse {
            workflows: in_force.list().collect(),
            problems: in_force.problems().iter().take(MAX_PROBLEMS).cloned().collect(),
        }))
    }

    async fn get_workflow(
        &self,
        request: Request<v1::GetWorkflowRequest>,
    ) -> Result<Response<v1::GetWorkflowResponse>, Status> {
        let (in_force, name) = (self.in_force(), request.into_inner().name);
        let workflow = in_force.show(&name).ok_or_else(|| unknown(&in_force, &name))?;
        if workflow.definition.len() > MAX_ANSWER_BYTES {
            let message = format!("the definition of `{name}` has {} bytes", workflow.definition.len());
            let help = format!("read it where it is: {}", workflow.source);
            return Err(refuse_helped(ErrorCode::TooLarge, message, &help));
        }
        Ok(Response::new(v1::GetWorkflowResponse { workflow: Some(workflow) }))
    }

    async fn compile_workflow(
        &self,
        request: Request<v1::CompileWorkflowRequest>,
    ) -> Result<Response<v1::CompileWorkflowResponse>, Status> {
        let v1::CompileWorkflowRequest { call, definition_only } = request.into_inner();
        let call = call.ok_or_else(|| refuse_field(ErrorCode::InvalidField, "call", "is missing"))?;
        let in_force = self.in_force();
        if call.definition.is_empty() && !in_force.has(&call.name) {
            return Err(unknown(&in_force, &call.name));
        }
        let _turn = self.compiling.acquire().await.map_err(|_| gone())?;
        let Compiled { workflow, spec, problems } =
            blocking(move || examine(&call, &in_force, definition_only)).await?;
        let response = v1::CompileWorkflowResponse { problems, spec, workflow };
        if response.encoded_len() > MAX_ANSWER_BYTES {
            let tasks = response.spec.as_ref().map_or(0, |spec| spec.tasks.len());
            let message =
                format!("the workflow is sound, and its run of {tasks} tasks is too large to be shown");
            let help = "submit it with validate_only, which checks it whole";
            return Err(refuse_helped(ErrorCode::TooLarge, message, help));
        }
        Ok(Response::new(response))
    }
}

fn unknown(in_force: &Workflows, name: &str) -> Status {
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    let (message, help) = match (in_force.is_broken(name), in_force.nearest(name)) {
        (true, _) => (
            format!("the workflow `{shown}` is not in force: its file has mistakes"),
            "orchctl workflows list shows them",
        ),
        (false, Some(near)) => {
            (format!("there is no workflow `{shown}`; did you mean `{near}`?"), "orchctl workflows list")
        }
        (false, None) => (format!("there is no workflow `{shown}`"), "orchctl workflows list"),
    };
    refuse_helped(ErrorCode::NotFound, message, help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::prompts::Catalogue;
    use crate::submission::{CheckedRun, Given};
    use serde_json::json;
    use std::collections::BTreeMap;

    fn flows() -> Flows {
        let catalogue = Catalogue::load(&[]).unwrap();
        Flows::new(Arc::new(WorkersInForce::new(catalogue)), Arc::new(SystemClock))
    }

    async fn compiled(
        flows: &Flows,
        call: v1::WorkflowCall,
        definition_only: bool,
    ) -> Result<v1::CompileWorkflowResponse, Status> {
        let request = v1::CompileWorkflowRequest { call: Some(call), definition_only };
        flows.compile_workflow(Request::new(request)).await.map(Response::into_inner)
    }

    fn named(name: &str, parameters: &serde_json::Value) -> v1::WorkflowCall {
        v1::WorkflowCall {
            name: name.to_owned(),
            parameters: parameters.to_string(),
            ..v1::WorkflowCall::default()
        }
    }

    #[tokio::test]
    async fn workflows_are_listed_without_and_shown_with_their_definition() {
        let flows = flows();
        let listed =
            flows.list_workflows(Request::new(v1::ListWorkflowsRequest {})).await.unwrap().into_inner();
        assert!(listed.problems.is_empty());
        let names: Vec<_> = listed.workflows.iter().map(|workflow| workflow.name.as_str()).collect();
        assert!(names.is_sorted() && names.contains(&"batch-evaluation"), "{names:?}");
        assert!(listed.workflows.iter().all(|workflow| workflow.definition.is_empty()));
        let get =
            |name: &str| flows.get_workflow(Request::new(v1::GetWorkflowRequest { name: name.to_owned() }));
        let shown = get("batch-evaluation").await.unwrap().into_inner().workflow.unwrap();
        assert!(shown.definition.contains("\"for_each\"") && shown.source == "shipped");
        let missing = get("batch-evaluatoin").await.unwrap_err();
        assert_eq!(missing.code(), tonic::Code::NotFound);
        assert!(missing.message().contains("did you mean `batch-evaluation`?"), "{}", missing.message());
    }

    #[tokio::test]
    async fn a_call_is_compiled_on_the_day_of_the_clock_or_told_what_is_wrong() {
        let flows = flows();
        let students = json!({"students": ["Emma Rodriguez", "Sophia Chen"]});
        let good = compiled(&flows, named("batch-evaluation", &students), false).await.unwrap();
        let spec = good.spec.unwrap();
        assert_eq!(spec.tasks.len(), 2);
        let Some(v1::task_spec::Runner::Worker(worker)) = &spec.tasks[0].runner else { panic!("no worker") };
        assert!(!worker.description.contains("1970-01-01"), "{}", worker.description);
        let bad = compiled(&flows, named("batch-evaluation", &json!({})), false).await.unwrap();
        assert!(bad.spec.is_none());
        let problem = &bad.problems[0];
        assert!(problem.line > 1 && problem.path.ends_with("workflows/batch-evaluation.json"), "{problem:?}");
        let sound = compiled(&flows, named("batch-evaluation", &json!({})), true).await.unwrap();
        assert!(sound.problems.is_empty() && sound.spec.is_none() && sound.workflow.is_some());
        assert!(compiled(&flows, named("nothing", &json!({})), false).await.is_err());
    }

    #[tokio::test]
    async fn a_run_too_large_to_be_shown_says_how_to_check_it() {
        let rows: Vec<String> = (0..20_000).map(|row| format!("student {row}")).collect();
        let call = named("batch-evaluation", &json!({"students": rows}));
        let refused = compiled(&flows(), call, false).await.unwrap_err();
        assert!(refused.message().contains("20000 tasks"), "{}", refused.message());
    }

    /// Something for every parameter that must be given.
    fn given(workflow: &v1::Workflow) -> serde_json::Value {
        let value = |parameter: &v1::WorkflowParameter| match parameter.r#type.as_str() {
            "roster" => json!(["Emma Rodriguez", "Sophia Chen"]),
            "list" => json!(["src", "tests/a"]),
            _ => json!("Night Bus"),
        };
        let needed = workflow.parameters.iter().filter(|parameter| parameter.default.is_empty());
        needed.map(|parameter| (parameter.name.clone(), value(parameter))).collect()
    }

    #[tokio::test]
    async fn every_shipped_workflow_becomes_a_run_that_is_taken() {
        let flows = flows();
        let (catalogue, conversations) = (crate::planning::Catalogue::default(), BTreeMap::new());
        for workflow in flows.in_force().list() {
            let answer = compiled(&flows, named(&workflow.name, &given(&workflow)), false).await.unwrap();
            let spec = answer.spec.unwrap_or_else(|| panic!("{}: {:#?}", workflow.name, answer.problems));
            let given = Given {
                workers: &*flows.prompts,
                catalogue: &catalogue,
                submitted: flows.clock.wall(),
                conversations: &conversations,
            };
            let run = CheckedRun::check(spec, &given);
            run.unwrap_or_else(|refused| panic!("{}: {refused}", workflow.name));
        }
    }
}
