//! Workflows of the fake: enough of a compiler for loops over a roster and for what depends on what. A task called
//! `broken` is a mistake.

use orch_proto::slug::slug;
use orch_proto::v1::workflow_service_server::WorkflowService;
use serde_json::Value;

use super::*;

/// What a definition says of itself.
fn about(name: &str, definition: &str, source: &str) -> Workflow {
    let value: Value = serde_json::from_str(definition).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parameters =
        value["parameters"].as_object().into_iter().flatten().map(|(name, about)| WorkflowParameter {
            name: name.clone(),
            r#type: about["type"].as_str().unwrap_or("string").to_owned(),
            description: text(&about["description"]),
            default: about.get("default").map(ToString::to_string).unwrap_or_default(),
            values: about["values"].as_array().into_iter().flatten().map(ToString::to_string).collect(),
        });
    Workflow {
        name: name.to_owned(),
        description: text(&value["description"]),
        parameters: parameters.collect(),
        source: source.to_owned(),
        definition: definition.to_owned(),
        digest: vec![0xab; 32],
    }
}

impl Held {
    fn definition(&self, call: &WorkflowCall) -> Result<String, Status> {
        if !call.definition.is_empty() {
            return Ok(call.definition.clone());
        }
        let found = self.workflows.iter().find(|(name, _)| *name == call.name);
        found
            .map(|(_, definition)| definition.clone())
            .ok_or_else(|| Status::not_found(format!("there is no workflow `{}`", call.name)))
    }

    fn compiled(&self, call: &WorkflowCall) -> Result<RunSpec, Status> {
        let definition: Value = serde_json::from_str(&self.definition(call)?).unwrap();
        let given: Value = serde_json::from_str(&call.parameters).unwrap_or_default();
        let rows = |task: &Value| {
            let parameter = task["for_each"].as_str()?.trim_matches(['{', '}']).to_owned();
            let default = &definition["parameters"][&parameter]["default"];
            let rows = given.get(&parameter).unwrap_or(default).as_array().cloned().unwrap_or_default();
            Some(
                rows.iter()
                    .map(|row| slug(row["name"].as_str().or(row.as_str()).unwrap()))
                    .collect::<Vec<_>>(),
            )
        };
        let mut tasks = Vec::new();
        for task in definition["tasks"].as_array().unwrap() {
            let id = task["id"].as_str().unwrap();
            let worker = task["worker"]
                .as_str()
                .or_else(|| definition["defaults"]["worker"].as_str())
                .unwrap_or("marie");
            let names = rows(task).map_or_else(
                || vec![(id.to_owned(), String::new())],
                |rows| rows.into_iter().map(|row| (format!("{id}-{row}"), row)).collect(),
            );
            for (task_id, row) in names {
                let needs = task["dependencies"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let fails = row.starts_with("lucas");
                let work = WorkerTask {
                    worker: worker.to_owned(),
                    description: if fails { "fail" } else { "do it" }.to_owned(),
                    budget_micro_usd: Some(1_500_000),
                    ..WorkerTask::default()
                };
                tasks.push(TaskSpec {
                    task_id,
                    runner: Some(Runner::Worker(work)),
                    dependencies: needs
                        .map(
                            |need| {
                                if task["matching"] == true {
                                    format!("{need}-{row}")
                                } else {
                                    need.to_owned()
                                }
                            },
                        )
                        .collect(),
                    expected_cost_micro_usd: Some(400_000),
                    ..TaskSpec::default()
                });
            }
        }
        let name = definition["name"].as_str().unwrap().to_owned();
        Ok(RunSpec { name, tasks, ..RunSpec::default() })
    }

    /// The run that a submit is about, and the workflow it was made from.
    pub(super) fn called(&self, spec: RunSpec) -> (RunSpec, String) {
        let Some(call) = &spec.workflow else { return (spec, String::new()) };
        let compiled = self.compiled(call).unwrap();
        let name = compiled.name.clone();
        (RunSpec { labels: spec.labels, budget: spec.budget, ..compiled }, name)
    }
}

#[tonic::async_trait]
impl WorkflowService for Fake {
    async fn list_workflows(
        &self,
        _request: Request<ListWorkflowsRequest>,
    ) -> Result<Response<ListWorkflowsResponse>, Status> {
        let held = self.call("list_workflows")?;
        let workflows = held.workflows.iter().map(|(name, definition)| about(name, definition, "shipped"));
        Ok(Response::new(ListWorkflowsResponse {
            workflows: workflows.collect(),
            problems: held.problems.clone(),
        }))
    }

    async fn get_workflow(
        &self,
        request: Request<GetWorkflowRequest>,
    ) -> Result<Response<GetWorkflowResponse>, Status> {
        let name = request.into_inner().name;
        let held = self.call("get_workflow")?;
        let definition = held.definition(&WorkflowCall { name: name.clone(), ..WorkflowCall::default() })?;
        Ok(Response::new(GetWorkflowResponse { workflow: Some(about(&name, &definition, "shipped")) }))
    }

    async fn compile_workflow(
        &self,
        request: Request<CompileWorkflowRequest>,
    ) -> Result<Response<CompileWorkflowResponse>, Status> {
        let CompileWorkflowRequest { call, definition_only } = request.into_inner();
        let held = self.call("compile")?;
        let call = call.unwrap();
        let definition = held.definition(&call)?;
        if let Some(at) = definition.find("\"broken") {
            let line = definition[..at].matches('\n').count() + 1;
            let start = definition[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let problem = PromptProblem {
                path: call.source,
                line: u32::try_from(line).unwrap(),
                column: u32::try_from(at - start + 1).unwrap(),
                message: "task `merge` depends on `broken\u{1b}[2J`, which does not exist".into(),
                help: "did you mean `brook`?".into(),
                code: "E0104".into(),
            };
            return Ok(Response::new(CompileWorkflowResponse {
                problems: vec![problem],
                ..Default::default()
            }));
        }
        let spec = if definition_only { None } else { Some(held.compiled(&call)?) };
        let name = if call.name.is_empty() { "from-a-file" } else { &call.name };
        let workflow = Some(about(name, &definition, "shipped"));
        Ok(Response::new(CompileWorkflowResponse { problems: Vec::new(), spec, workflow }))
    }
}
