//! The schemas of the four structured answers that orch asks for, as they lie in `prompts/schemas`, and the same as types.
//! Knows their fields; refuses to know what is made of them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// JSON Schema of a plan, [`Plan`].
pub const PLAN: &str = include_str!("../../../prompts/schemas/plan.json");
/// JSON Schema of a synthesis, [`Synthesis`].
pub const SYNTHESIS: &str = include_str!("../../../prompts/schemas/synthesis.json");
/// JSON Schema of the result contract, [`TaskResult`].
pub const RESULT: &str = include_str!("../../../prompts/schemas/result.json");
/// JSON Schema of a review's verdict, [`Verdict`].
pub const REVIEW: &str = include_str!("../../../prompts/schemas/review.json");

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// How the request is split, and why so.
    pub summary: String,
    /// The tasks; empty when something is missing.
    pub tasks: Vec<PlannedTask>,
    /// What only the requester can give, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// A task of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct PlannedTask {
    /// Name within the run.
    pub id: String,
    /// Who does it.
    pub worker: String,
    /// What is to be done.
    pub description: String,
    /// Ids of the tasks whose results it needs. A person who writes a plan may leave it out.
    #[serde(default)]
    pub dependencies: Vec<String>,
    /// What comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Longest attempt, such as `20m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Material word for word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Files it must leave, beneath `out/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// Files that go into the workspace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PlannedPublication>,
    /// Least number of tool calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tool_calls: Option<u32>,
    /// Who judges it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<PlannedReview>,
    /// What it will probably cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_cost_usd: Option<f64>,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// 100.
    High,
    /// 50.
    Medium,
    /// 10.
    Low,
}

/// A file that goes into the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct PlannedPublication {
    /// Path beneath `out/`.
    pub artifact: String,
    /// Path beneath the workspace.
    pub to: String,
    /// Replaces what is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// Who judges a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct PlannedReview {
    /// The worker.
    pub worker: String,
    /// What to look at. A person who writes a plan may leave it out.
    #[serde(default)]
    pub instructions: String,
}

/// One answer made of all results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synthesis {
    /// Whether it was done, and what was found.
    pub summary: String,
    /// A line for each task.
    pub tasks: Vec<TaskLine>,
    /// Contradictions between results.
    pub conflicts: Vec<String>,
    /// What the answer lacks.
    pub gaps: Vec<String>,
    /// What follows, by effect.
    pub next_steps: Vec<NextStep>,
    /// Markdown.
    pub answer: String,
}

/// A task in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskLine {
    /// Its id.
    pub id: String,
    /// What it found, or how it ended.
    pub line: String,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextStep {
    /// What.
    pub step: String,
    /// How much it changes.
    pub impact: Priority,
}

/// The result of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// The worker's own word; it never sets the task's state.
    pub status: ResultStatus,
    /// What came out.
    pub summary: String,
    /// What was found.
    pub findings: Vec<String>,
    /// Files it left, beneath `out/`.
    pub artifacts: Vec<String>,
    /// What should follow.
    pub recommendations: Vec<String>,
    /// Figures by name.
    pub scores: BTreeMap<String, f64>,
}

/// A worker's own word on its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultStatus {
    /// All that was asked is done.
    Complete,
    /// Some of it is.
    Partial,
    /// Nothing of use came of it.
    Failed,
}

/// A verdict on another's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Whether it holds.
    pub verdict: PassFail,
    /// What was checked, or every defect.
    pub reasons: Vec<String>,
}

/// Whether a result holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassFail {
    /// It does.
    Pass,
    /// It does not.
    Fail,
}
