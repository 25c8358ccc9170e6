//! What came of a task and of a run, for scripts: answers, the fields of the result contract and of a synthesis, files.
//! Knows the wire's messages and the two schemas; refuses to fetch anything.

use std::collections::BTreeMap;

use orch_proto::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Cost, GateView, Place, RunView, outcome_word, raw_json, some};
use crate::args::parse::task_state_word;
use crate::output::figures::{rfc3339, seconds};
use crate::plan::PlanView;

/// What a task came to. The first eight fields have the names of the earlier system.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ResultView {
    task_id: String,
    /// The task's state.
    status: String,
    worker: Option<String>,
    completed_at: Option<String>,
    execution_time: Option<f64>,
    /// By the result contract; without one the answer.
    summary: String,
    findings: Vec<Value>,
    artifacts: Vec<ArtifactView>,
    #[serde(rename = "ref")]
    reference: String,
    outcome: Option<&'static str>,
    answer: String,
    structured: Option<Box<RawValue>>,
    attempt: u32,
    agent: Option<String>,
    turns: u32,
    /// What the CLI denied it: a tool, or `Tool(what it was to do)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    denied_tools: Vec<String>,
    #[serde(flatten)]
    cost: Cost,
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    recommendations: Vec<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    scores: BTreeMap<String, Value>,
    #[serde(flatten)]
    place: Place,
    /// What was found when its gates were checked last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gates: Vec<GateView>,
}

impl ResultView {
    /// The result of a task with its answer, which may have been fetched apart from it, and its files.
    pub(crate) fn new(task: &v1::Task, answer: String, artifacts: Vec<ArtifactView>) -> Self {
        let contract = Contract::of(task).unwrap_or_default();
        Self {
            task_id: task.task_id.clone(),
            status: task_state_word(task.state()),
            worker: some(&task.worker),
            completed_at: rfc3339(task.finished_at),
            execution_time: seconds(task.execution_time),
            summary: some(&contract.summary)
                .or_else(|| some(&task.summary))
                .unwrap_or_else(|| answer.clone()),
            findings: contract.findings,
            artifacts,
            reference: task.r#ref.clone(),
            outcome: outcome_word(task.outcome()),
            answer,
            structured: raw_json(&task.structured),
            attempt: task.attempt,
            agent: some(&task.agent),
            turns: task.num_turns,
            denied_tools: task.denied_tools.clone(),
            cost: Cost::of(task.usage.as_ref()),
            detail: some(&task.detail),
            recommendations: contract.recommendations,
            scores: contract.scores,
            place: Place::from(task),
            gates: task.gates.iter().map(GateView::from).collect(),
        }
    }
}

/// The structured answer of a task that keeps to the result contract.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Contract {
    /// `complete`, `partial` or `failed`.
    pub(crate) status: String,
    pub(crate) summary: String,
    pub(crate) findings: Vec<Value>,
    pub(crate) recommendations: Vec<Value>,
    pub(crate) scores: BTreeMap<String, Value>,
}

impl Contract {
    /// Reads it, where the task's record says that there is one.
    pub(crate) fn of(task: &v1::Task) -> Option<Self> {
        if task.result_status.is_empty() {
            return None;
        }
        serde_json::from_str(&task.structured).ok()
    }
}

/// A file that a task handed over.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ArtifactView {
    /// Of its task.
    #[serde(rename = "ref")]
    pub(crate) reference: String,
    pub(crate) task_id: String,
    /// Beneath `out/`.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) executable: bool,
    /// Where it was published, beneath the workspace.
    pub(crate) published: Option<String>,
    /// Where it was written by this command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
}

impl ArtifactView {
    /// A file of a run.
    pub(crate) fn new(run: &str, file: &v1::TaskArtifact) -> Self {
        let artifact = file.artifact.clone().unwrap_or_default();
        let blob = artifact.blob.unwrap_or_default();
        Self {
            reference: format!("{run}/{}", file.task_id),
            task_id: file.task_id.clone(),
            path: artifact.path,
            bytes: blob.size,
            sha256: blob.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            executable: artifact.executable,
            published: some(&file.published),
            file: None,
        }
    }
}

/// What the last task of a planned run made of all results.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct SynthesisView {
    pub(crate) summary: String,
    /// A line about each task.
    pub(crate) tasks: Vec<TaskLine>,
    /// Results that contradict each other.
    pub(crate) conflicts: Vec<Value>,
    /// What is missing.
    pub(crate) gaps: Vec<Value>,
    /// By their impact.
    pub(crate) next_steps: Vec<NextStep>,
    /// Markdown.
    pub(crate) answer: String,
}

/// What a synthesis says of a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct TaskLine {
    pub(crate) id: String,
    pub(crate) line: String,
}

/// What should be done next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct NextStep {
    pub(crate) step: String,
    /// `high`, `medium` or `low`.
    pub(crate) impact: String,
}

impl SynthesisView {
    /// Reads a structured answer; one of another form is none.
    pub(crate) fn read(structured: &str) -> Option<Self> {
        serde_json::from_str(structured).ok()
    }
}

/// A run with the results of its tasks.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunResultView {
    #[serde(flatten)]
    pub(crate) run: RunView,
    /// True when nothing left of the run can ever be placed as things stand.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) impossible: bool,
    /// Seconds from the submit to the end.
    pub(crate) wall_time: Option<f64>,
    /// Of a planned run: what all results come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) synthesis: Option<SynthesisView>,
    /// Of a planned run of which nothing ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<PlanView>,
    pub(crate) results: Vec<ResultView>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::task;
    use super::*;

    #[test]
    fn a_result_carries_the_names_of_the_earlier_system_and_ours() {
        let json =
            serde_json::to_string_pretty(&ResultView::new(&task(), "fine".into(), Vec::new())).unwrap();
        insta::assert_snapshot!(json, @r#"
        {
          "task_id": "task",
          "status": "succeeded",
          "worker": "anga",
          "completed_at": "2026-11-20T21:26:53.000Z",
          "execution_time": 21.3,
          "summary": "fine",
          "findings": [],
          "artifacts": [],
          "ref": "adhoc/1/task",
          "outcome": "ok",
          "answer": "fine",
          "structured": {"score": 9},
          "attempt": 2,
          "agent": "box-1",
          "turns": 3,
          "tokens": {
            "input": 100,
            "output": 20,
            "cache_read": 5,
            "cache_write": 0,
            "total": 125
          },
          "cost_usd": 0.08,
          "cost_estimated": false,
          "detail": null
        }
        "#);
    }

    #[test]
    fn the_fields_of_the_contract_are_those_of_the_result() {
        let task = v1::Task {
            result_status: "partial".into(),
            structured:
                r#"{"status":"partial","summary":"two of three","findings":["a",{"b":1}],"artifacts":[],
                "recommendations":["c"],"scores":{"rhythm":8}}"#
                    .into(),
            ..task()
        };
        let json = serde_json::to_value(ResultView::new(&task, String::new(), Vec::new())).unwrap();
        assert_eq!(json["summary"], "two of three");
        assert_eq!(
            (json["findings"][1]["b"].as_u64(), json["scores"]["rhythm"].as_u64()),
            (Some(1), Some(8))
        );
        assert_eq!(
            (json["status"].as_str(), json["result_status"].as_str()),
            (Some("succeeded"), Some("partial"))
        );
    }

    #[test]
    fn a_structured_answer_that_is_no_json_does_not_break_the_document() {
        let broken = v1::Task { structured: "{nope".into(), ..task() };
        let json = serde_json::to_value(ResultView::new(&broken, String::new(), Vec::new())).unwrap();
        assert_eq!(json["structured"], "{nope");
    }

    #[test]
    fn a_structured_answer_of_several_lines_stays_on_one() {
        let indented = v1::Task { structured: "{\n  \"a\\\"\\n\": 1.50\r\n}".into(), ..task() };
        let json = serde_json::to_string(&ResultView::new(&indented, String::new(), Vec::new())).unwrap();
        assert!(json.contains(r#""structured":{  "a\"\n": 1.50}"#), "{json}");
    }

    #[test]
    fn a_synthesis_of_another_form_is_none() {
        assert_eq!(SynthesisView::read("[1]"), None);
        let read =
            SynthesisView::read(r##"{"answer":"# x","next_steps":[{"step":"a","impact":"high"}]}"##).unwrap();
        assert_eq!((read.answer.as_str(), read.next_steps[0].impact.as_str()), ("# x", "high"));
    }
}
