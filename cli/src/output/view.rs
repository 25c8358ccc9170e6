//! The values that `-o json` prints: references, lower-case states, RFC 3339 times, durations in seconds, dollars.
//! The JSON is a contract: fields may be added, never renamed or taken away. Knows the wire's messages and their
//! plain form; refuses to fetch anything.

use std::collections::BTreeMap;

use orch_proto::v1::{self, Outcome};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use self::money::{BudgetView, EstimateView};
use super::figures::{rfc3339, seconds, usd};
use crate::args::parse::{on_failure_word, role_word, run_state_word, task_state_word};

pub(crate) mod fleet;
pub(crate) mod money;
pub(crate) mod operate;
pub(crate) mod result;
pub(crate) mod storage;
pub(crate) mod workflow;

/// Tokens, summed over models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Tokens {
    /// Input tokens that were neither read from nor written to the cache.
    pub(crate) input: u64,
    /// Output tokens.
    pub(crate) output: u64,
    /// Input tokens read from the cache.
    pub(crate) cache_read: u64,
    /// Input tokens written to the cache.
    pub(crate) cache_write: u64,
    /// All of them.
    pub(crate) total: u64,
}

impl Tokens {
    /// The sum over the models of a usage.
    pub(crate) fn of(usage: &v1::Usage) -> Self {
        let mut sum = Self::default();
        for model in &usage.models {
            sum.input += model.input_tokens;
            sum.output += model.output_tokens;
            sum.cache_read += model.cache_read_tokens;
            sum.cache_write += model.cache_write_tokens;
        }
        sum.total = sum.input + sum.output + sum.cache_read + sum.cache_write;
        sum
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            input: self.input + other.input,
            output: self.output + other.output,
            cache_read: self.cache_read + other.cache_read,
            cache_write: self.cache_write + other.cache_write,
            total: self.total + other.total,
        }
    }
}

/// Tokens and money.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub(crate) struct Cost {
    /// Tokens.
    pub(crate) tokens: Tokens,
    /// List price in US dollars.
    pub(crate) cost_usd: f64,
    /// Whether part of it is an estimate.
    pub(crate) cost_estimated: bool,
}

impl Cost {
    /// The plain form of a usage; nothing was spent where there is none.
    pub(crate) fn of(usage: Option<&v1::Usage>) -> Self {
        let Some(usage) = usage else { return Self::default() };
        Self {
            tokens: Tokens::of(usage),
            cost_usd: usd(usage.cost_micro_usd),
            cost_estimated: usage.estimated,
        }
    }
}

/// A run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunView {
    #[serde(rename = "ref")]
    reference: String,
    state: String,
    outcome: Option<&'static str>,
    created_at: Option<String>,
    finished_at: Option<String>,
    task_count: u32,
    tasks_by_state: BTreeMap<String, u32>,
    #[serde(flatten)]
    cost: Cost,
    labels: BTreeMap<String, String>,
    submitted_by: String,
    /// Whether it was submitted as a request to be planned.
    planned: bool,
    /// Workflow it was made from.
    workflow: Option<String>,
    /// `fail_fast`, `continue` or `best_effort`.
    on_failure: &'static str,
    /// Most of its tasks at once; 0: no limit.
    max_parallel: u32,
    /// Why it is in its state, where its tasks do not say it.
    detail: Option<String>,
    /// The ceiling over it and how far that is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<BudgetView>,
}

impl From<&v1::Run> for RunView {
    fn from(run: &v1::Run) -> Self {
        Self {
            reference: run.r#ref.clone(),
            state: run_state_word(run.state()),
            outcome: outcome_word(run.outcome()),
            created_at: rfc3339(run.created_at),
            finished_at: rfc3339(run.finished_at),
            task_count: run.task_count,
            tasks_by_state: run.counts.iter().map(|c| (task_state_word(c.state()), c.count)).collect(),
            cost: Cost::of(run.usage.as_ref()),
            labels: run.labels.clone(),
            submitted_by: run.submitted_by.clone(),
            planned: run.planned,
            workflow: some(&run.workflow),
            on_failure: on_failure_word(run.on_failure()),
            max_parallel: run.max_parallel,
            detail: some(&run.detail),
            budget: run.budget.as_ref().map(BudgetView::from),
        }
    }
}

/// A task without its answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TaskView {
    #[serde(rename = "ref")]
    reference: String,
    task_id: String,
    state: String,
    outcome: Option<&'static str>,
    runner: String,
    worker: Option<String>,
    dependencies: Vec<String>,
    priority: i32,
    attempt: u32,
    agent: Option<String>,
    detail: Option<String>,
    created_at: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
    retry_at: Option<String>,
    execution_time: Option<f64>,
    turns: u32,
    /// What the CLI denied it: a tool, or `Tool(what it was to do)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    denied_tools: Vec<String>,
    #[serde(flatten)]
    cost: Cost,
    session_id: Option<String>,
    /// Credential pool of its latest attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    /// What its author expects it to cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_cost_usd: Option<f64>,
    #[serde(flatten)]
    place: Place,
    /// What was found when its gates were checked last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gates: Vec<GateView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<AttemptView>,
}

/// What a task is in its run besides ordinary work, and what became of it besides its ending.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Place {
    /// `plan`, `synthesis`, `review` or `publish`; none for ordinary work.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// Id of the task that a review or publication belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    /// Workspace it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<String>,
    /// Times it was sent back with what was wrong.
    #[serde(skip_serializing_if = "is_zero")]
    repairs: u32,
    /// Files it handed over.
    #[serde(skip_serializing_if = "is_zero")]
    artifact_count: u32,
    /// Task whose recorded result was used in its place: it cost nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    reused_from: Option<String>,
    /// By the result contract the worker's own word: `complete`, `partial` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_status: Option<String>,
}

impl From<&v1::Task> for Place {
    fn from(task: &v1::Task) -> Self {
        Self {
            role: role_word(task.role()),
            of: some(&task.of),
            workspace: some(&task.workspace),
            repairs: task.repairs,
            artifact_count: task.artifact_count,
            reused_from: some(&task.reused_from),
            result_status: some(&task.result_status),
        }
    }
}

/// What was found when a gate was checked.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GateView {
    /// `activity`, `artifact`, `command` or `review`.
    kind: String,
    name: String,
    passed: bool,
    log: String,
    duration: Option<f64>,
}

impl From<&v1::GateResult> for GateView {
    fn from(gate: &v1::GateResult) -> Self {
        Self {
            kind: gate.kind.clone(),
            name: gate.name.clone(),
            passed: gate.passed,
            log: gate.log.clone(),
            duration: seconds(gate.duration),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl From<&v1::Task> for TaskView {
    fn from(task: &v1::Task) -> Self {
        Self {
            reference: task.r#ref.clone(),
            task_id: task.task_id.clone(),
            state: task_state_word(task.state()),
            outcome: outcome_word(task.outcome()),
            runner: task.runner.clone(),
            worker: some(&task.worker),
            dependencies: task.dependencies.clone(),
            priority: task.priority,
            attempt: task.attempt,
            agent: some(&task.agent),
            detail: some(&task.detail),
            created_at: rfc3339(task.created_at),
            started_at: rfc3339(task.started_at),
            finished_at: rfc3339(task.finished_at),
            retry_at: rfc3339(task.retry_at),
            execution_time: seconds(task.execution_time),
            turns: task.num_turns,
            denied_tools: task.denied_tools.clone(),
            cost: Cost::of(task.usage.as_ref()),
            session_id: some(&task.session_id),
            pool: some(&task.pool),
            expected_cost_usd: task.expected_cost_micro_usd.map(usd),
            place: Place::from(task),
            gates: task.gates.iter().map(GateView::from).collect(),
            attempts: task.attempts.iter().map(AttemptView::from).collect(),
        }
    }
}

/// An attempt.
#[derive(Debug, Serialize, JsonSchema)]
struct AttemptView {
    number: u32,
    agent: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    outcome: Option<&'static str>,
    detail: Option<String>,
    #[serde(flatten)]
    cost: Cost,
}

impl From<&v1::Attempt> for AttemptView {
    fn from(attempt: &v1::Attempt) -> Self {
        Self {
            number: attempt.number,
            agent: attempt.agent.clone(),
            started_at: rfc3339(attempt.started_at),
            finished_at: rfc3339(attempt.finished_at),
            outcome: outcome_word(attempt.outcome()),
            detail: some(&attempt.detail),
            cost: Cost::of(attempt.usage.as_ref()),
        }
    }
}

/// Where a submit went.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SubmittedView {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    pub(crate) task_count: u32,
    /// True when the key was known: nothing new was queued.
    pub(crate) existing: bool,
    pub(crate) dry_run: bool,
    pub(crate) impossible: Vec<ImpossibleView>,
    /// What earlier work of the same kind says it will cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) estimate: Option<EstimateView>,
}

/// A task that nothing known can run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ImpossibleView {
    task_id: String,
    reason: String,
}

impl From<&v1::Impossible> for ImpossibleView {
    fn from(impossible: &v1::Impossible) -> Self {
        Self { task_id: impossible.task_id.clone(), reason: impossible.reason.clone() }
    }
}

/// Why something ended as it did, on one line: the word of the outcome and the detail, which may open with the same words.
pub(crate) fn reason(outcome: Outcome, detail: &str) -> String {
    let Some(word) = outcome_word(outcome) else { return detail.to_owned() };
    let spoken = word.replace('_', " ");
    let rest = detail.strip_prefix(&spoken).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(detail);
    if rest.is_empty() { word.to_owned() } else { format!("{word}: {rest}") }
}

/// The word of an outcome; none while there is none.
pub(crate) fn outcome_word(outcome: Outcome) -> Option<&'static str> {
    outcome.row().map(|row| row.word)
}

/// A JSON document of somebody else as it was written; anything that is none would break the whole output, and is shown
/// as the text it is.
pub(crate) fn raw_json(json: &str) -> Option<Box<RawValue>> {
    some(json).and_then(|json| match RawValue::from_string(on_one_line(&json)) {
        Ok(raw) => Some(raw),
        Err(_) => RawValue::from_string(Value::String(json).to_string()).ok(),
    })
}

/// A JSON document without the line breaks between its parts, for lines of JSON hold one value each. Numbers and the
/// order of members stay as they were written.
fn on_one_line(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keep = |char: &char| {
        match (inside, escaped, char) {
            (true, true, _) => escaped = false,
            (true, false, '\\') => escaped = true,
            (_, false, '"') => inside = !inside,
            (true | false, _, _) => {}
        }
        inside || !matches!(char, '\n' | '\r')
    };
    json.chars().filter(keep).collect()
}

/// Text that is there, or `None` where the wire leaves it empty.
fn some(text: &str) -> Option<String> {
    if text.is_empty() { None } else { Some(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use orch_proto::v1::{ModelUsage, TaskState};

    use super::*;

    pub(super) fn task() -> v1::Task {
        let model = ModelUsage {
            model: "m".into(),
            input_tokens: 100,
            output_tokens: 20,
            cache_read_tokens: 5,
            ..ModelUsage::default()
        };
        v1::Task {
            r#ref: "adhoc/1/task".into(),
            task_id: "task".into(),
            state: TaskState::Succeeded.into(),
            worker: "anga".into(),
            runner: "claude".into(),
            attempt: 2,
            agent: "box-1".into(),
            outcome: Outcome::Ok.into(),
            finished_at: Some(prost_types::Timestamp { seconds: 1_795_210_013, nanos: 0 }),
            execution_time: Some(prost_types::Duration { seconds: 21, nanos: 300_000_000 }),
            usage: Some(v1::Usage { models: vec![model], cost_micro_usd: 80_000, estimated: false }),
            num_turns: 3,
            structured: r#"{"score": 9}"#.into(),
            ..v1::Task::default()
        }
    }

    #[test]
    fn a_task_in_a_list_is_plain_json() {
        let json = serde_json::to_string_pretty(&TaskView::from(&task())).unwrap();
        insta::assert_snapshot!(json, @r#"
        {
          "ref": "adhoc/1/task",
          "task_id": "task",
          "state": "succeeded",
          "outcome": "ok",
          "runner": "claude",
          "worker": "anga",
          "dependencies": [],
          "priority": 0,
          "attempt": 2,
          "agent": "box-1",
          "detail": null,
          "created_at": null,
          "started_at": null,
          "finished_at": "2026-11-20T21:26:53.000Z",
          "retry_at": null,
          "execution_time": 21.3,
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
          "session_id": null
        }
        "#);
    }
}
