//! What a finished task says in a result file. Knows the words of both sides; refuses to know folders.

use orch_proto::v1::{self, Artifact, BlobRef, TaskState};
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::Outcome;
use crate::output::figures::rfc3339;
use crate::output::view::outcome_word;
use crate::output::words::task_ended;

/// How a task ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    state: TaskState,
    outcome: &'static str,
    detail: String,
    answer: String,
    structured: Value,
    reference: String,
    attempts: u32,
    cost_micro_usd: u64,
    started_at: Option<String>,
    completed_at: Option<String>,
    /// Files it handed over.
    pub(super) artifacts: Vec<Handed>,
}

/// A file that a task handed over.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) path: String,
    pub(super) blob: BlobRef,
}

impl Ended {
    /// The ending of `task`, with its whole answer; `None` while it has none.
    pub(super) async fn of(client: &Client, task: &v1::Task) -> Outcome<Option<Self>> {
        let state = task.state();
        if !task_ended(state) {
            return Ok(None);
        }
        let listed =
            if task.artifact_count == 0 { Vec::new() } else { client.artifacts(&task.r#ref).await? };
        let handed = |listed: v1::TaskArtifact| {
            let Artifact { path, blob, .. } = listed.artifact?;
            Some(Handed { path, blob: blob? })
        };
        Ok(Some(Self {
            state,
            outcome: outcome_word(task.outcome()).unwrap_or_default(),
            detail: task.detail.clone(),
            answer: client.text(task.answer.as_ref()).await?,
            structured: serde_json::from_str(&task.structured).unwrap_or(Value::Null),
            reference: task.r#ref.clone(),
            attempts: task.attempt,
            cost_micro_usd: task.usage.as_ref().map_or(0, |usage| usage.cost_micro_usd),
            started_at: rfc3339(task.started_at),
            completed_at: rfc3339(task.finished_at),
            artifacts: listed.into_iter().filter_map(handed).collect(),
        }))
    }

    /// The ending of a task that is not run because another failed.
    pub(super) fn skipped(dependency: &str) -> Self {
        Self {
            state: TaskState::Skipped,
            outcome: "skipped",
            detail: format!("it waits for {dependency}, which failed"),
            ..Self::default()
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state == TaskState::Succeeded
    }

    pub(super) fn was_cancelled(&self) -> bool {
        self.state == TaskState::Cancelled
    }

    /// For people.
    pub(super) fn said(&self) -> String {
        if self.is_complete() {
            "complete".to_owned()
        } else {
            format!("failed ({}): {}", self.outcome, self.detail)
        }
    }

    /// The result file.
    pub(super) fn json(&self, worker: &str, name: &str, artifacts: &[String]) -> Value {
        let mut result = json!({
            "task_id": name,
            "worker": worker,
            "status": if self.is_complete() { "complete" } else { "failed" },
            "outcome": self.outcome,
            "result": self.answer,
            "artifacts": artifacts,
            "attempts": self.attempts,
            "cost_usd": self.cost_micro_usd as f64 / 1e6,
        });
        let texts = [
            ("ref", Some(&self.reference)),
            ("started_at", self.started_at.as_ref()),
            ("completed_at", self.completed_at.as_ref()),
        ];
        for (key, text) in texts {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                result[key] = json!(text);
            }
        }
        if !self.structured.is_null() {
            result["structured"] = self.structured.clone();
        }
        if !self.is_complete() {
            result["error"] = json!(self.detail);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_complete_or_failed_and_why() {
        let done =
            Ended { state: TaskState::Succeeded, outcome: "ok", answer: "said".into(), ..Ended::default() };
        let json = done.json("marie", "a", &["a.files/x".to_owned()]);
        assert_eq!(
            (&json["status"], &json["outcome"], &json["result"]),
            (&json!("complete"), &json!("ok"), &json!("said"))
        );
        assert_eq!(json["artifacts"], json!(["a.files/x"]));
        assert!(json.get("error").is_none());
        let skipped = Ended::skipped("b").json("marie", "a", &[]);
        assert_eq!((&skipped["status"], &skipped["outcome"]), (&json!("failed"), &json!("skipped")));
        assert!(skipped["error"].as_str().unwrap().contains("waits for b"));
    }
}
