//! What the commands about workflows print: the workflows, what is wrong with one, its graph, its past, and a batch.

use std::collections::BTreeMap;

use orch_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::operate::ProblemView;
use super::result::ArtifactView;
use super::{RunView, some};

/// A workflow of the coordinator, without its definition.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WorkflowView {
    name: String,
    description: Option<String>,
    parameters: Vec<ParameterView>,
    /// `shipped`, or a file.
    source: String,
    /// SHA-256 of the definition in hexadecimal.
    digest: String,
}

/// A parameter of a workflow.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ParameterView {
    name: String,
    /// `string`, `integer`, `number`, `boolean`, `list` or `roster`.
    #[serde(rename = "type")]
    kind: String,
    description: Option<String>,
    /// Whether it must be given.
    required: bool,
    default: Option<Value>,
    /// The only values allowed; empty: any.
    values: Vec<Value>,
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl From<&v1::Workflow> for WorkflowView {
    fn from(workflow: &v1::Workflow) -> Self {
        Self {
            name: workflow.name.clone(),
            description: some(&workflow.description),
            parameters: workflow.parameters.iter().map(ParameterView::from).collect(),
            source: workflow.source.clone(),
            digest: hex(&workflow.digest),
        }
    }
}

impl From<&v1::WorkflowParameter> for ParameterView {
    fn from(parameter: &v1::WorkflowParameter) -> Self {
        Self {
            name: parameter.name.clone(),
            kind: parameter.r#type.clone(),
            description: some(&parameter.description),
            required: parameter.default.is_empty(),
            default: serde_json::from_str(&parameter.default).ok(),
            values: parameter.values.iter().filter_map(|value| serde_json::from_str(value).ok()).collect(),
        }
    }
}

/// What a check of a workflow found.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CheckedWorkflowView {
    /// File or name, as it was given.
    pub(crate) workflow: String,
    pub(crate) valid: bool,
    /// `coordinator`, or `schema` where no coordinator could be reached: then names, templates and the graph were not
    /// checked.
    pub(crate) checked_by: &'static str,
    pub(crate) problems: Vec<ProblemView>,
}

/// Which task of a workflow waits for which.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GraphView {
    pub(crate) workflow: String,
    pub(crate) tasks: Vec<NodeView>,
}

/// A task of a workflow.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct NodeView {
    pub(crate) id: String,
    /// From 1: every dependency stands in a layer before.
    pub(crate) layer: usize,
    /// The worker, the program, or the workflow that takes its place.
    pub(crate) by: String,
    pub(crate) dependencies: Vec<String>,
    /// What it is repeated over, as it is written.
    pub(crate) for_each: Option<String>,
    /// Whether it runs however its dependencies ended.
    pub(crate) after_end: bool,
}

/// A run of a workflow, with how each of its tasks went.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PastView {
    #[serde(flatten)]
    pub(crate) run: RunView,
    /// States by task, in the order of the run; of large runs none.
    pub(crate) tasks: BTreeMap<String, String>,
}

/// What came of a batch.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BatchView {
    /// Its run.
    pub(crate) run: RunView,
    /// One for each row of the roster, in its order.
    pub(crate) items: Vec<ItemView>,
    /// Tasks that belong to no row, such as an overview of all.
    pub(crate) shared: ItemView,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    /// Rows of blanks that were passed over.
    pub(crate) rows_skipped: usize,
}

/// What came of one row of a roster.
#[derive(Debug, Default, Clone, Serialize, JsonSchema)]
pub(crate) struct ItemView {
    pub(crate) name: String,
    /// The name as it stands in task and file names.
    pub(crate) slug: String,
    /// `succeeded`, `failed`, `cancelled`, `skipped`, or of the least of its tasks while they go on.
    pub(crate) state: String,
    /// Of the first task that did not succeed.
    pub(crate) outcome: Option<&'static str>,
    /// Why, in plain English.
    pub(crate) detail: Option<String>,
    pub(crate) tasks: usize,
    pub(crate) tasks_succeeded: usize,
    /// Over all of its tasks.
    pub(crate) attempts: u64,
    pub(crate) cost_usd: f64,
    /// Files that its tasks handed over.
    pub(crate) files: Vec<ArtifactView>,
}
