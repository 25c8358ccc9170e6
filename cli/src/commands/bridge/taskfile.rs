//! A task file: what it may say and what it means. Pure; knows no folder and no coordinator.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::parse;

/// Longest task file, in bytes: a prompt and its framing.
pub(super) const MAX_BYTES: u64 = 9 << 20;

/// What a task file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskFile {
    /// What is to be done.
    pub(super) description: String,
    /// Material, as text.
    context: String,
    /// Names of task files whose results it needs.
    pub(super) dependencies: Vec<String>,
    pub(super) priority: Option<i32>,
    pub(super) timeout: Option<Duration>,
    pub(super) model: String,
    pub(super) workspace: String,
    pub(super) budget_micro_usd: Option<u64>,
}

/// The file as it is spelt. What it says beyond this is somebody else's and means nothing here.
#[derive(Deserialize)]
struct Spelt {
    #[serde(alias = "prompt", alias = "task", alias = "instruction", alias = "instructions")]
    description: Option<String>,
    worker: Option<String>,
    #[serde(default)]
    context: Value,
    #[serde(default)]
    dependencies: Vec<String>,
    priority: Option<Value>,
    timeout: Option<Value>,
    #[serde(default)]
    model: String,
    #[serde(default)]
    workspace: String,
    budget_usd: Option<Value>,
}

impl TaskFile {
    /// Reads the bytes of a file in the folder of `worker`.
    ///
    /// # Errors
    /// In plain English, what is wrong and where.
    pub(super) fn parse(bytes: &[u8], worker: &str) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("it is not UTF-8: {error}"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // A list would be taken for the fields in order.
        if !text.trim_start().starts_with('{') && !text.trim().is_empty() {
            return Err("it is not a task: a task is a JSON object".to_owned());
        }
        let spelt: Spelt =
            serde_json::from_str(text).map_err(|error| format!("it is not a task: {error}"))?;
        if let Some(named) = spelt.worker.filter(|named| named != worker) {
            return Err(format!("it names the worker `{named}` and lies in the folder of `{worker}`"));
        }
        let description = spelt.description.filter(|text| !text.trim().is_empty());
        let description = description.ok_or("it has no `description`: say what is to be done")?;
        Ok(Self {
            description,
            context: material(&spelt.context),
            dependencies: spelt.dependencies,
            priority: word(spelt.priority.as_ref(), "priority", parse::priority)?,
            timeout: word(spelt.timeout.as_ref(), "timeout", parse::duration)?,
            model: spelt.model,
            workspace: spelt.workspace,
            budget_micro_usd: word(spelt.budget_usd.as_ref(), "budget_usd", parse::budget)?,
        })
    }

    /// The material with what the files it waited for gave.
    pub(super) fn context_with(&self, inputs: &BTreeMap<String, String>) -> String {
        if inputs.is_empty() {
            return self.context.clone();
        }
        let results = json!({"results of earlier tasks": inputs});
        if self.context.is_empty() { results.to_string() } else { format!("{}\n\n{results}", self.context) }
    }
}

fn material(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

/// A number or a word, as the flags of the command line are read.
fn word<T>(
    value: Option<&Value>,
    name: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    read(&text).map(Some).map_err(|error| format!("`{name}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TaskFile, String> {
        TaskFile::parse(text.as_bytes(), "marie")
    }

    #[test]
    fn a_file_of_the_earlier_system_is_read_whole() {
        let file = parse(
            "\u{feff}{\"task_id\":\"eval-1\",\"worker\":\"marie\",\"description\":\"Evaluate Emma\",\"context\":{\"class\":\"hip-hop\"},\
             \"dependencies\":[\"prepare\"],\"priority\":\"high\",\"timeout\":300,\"created_at\":\"2025-01-01\"}",
        )
        .unwrap();
        assert_eq!((file.description.as_str(), file.priority), ("Evaluate Emma", Some(100)));
        assert_eq!(file.timeout, Some(Duration::from_secs(300)));
        assert_eq!(file.dependencies, ["prepare"]);
        let inputs = BTreeMap::from([("prepare".to_owned(), "done".to_owned())]);
        assert!(
            file.context_with(&inputs).contains("hip-hop") && file.context_with(&inputs).contains("done")
        );
    }

    #[test]
    fn what_cannot_be_a_task_says_why() {
        for (text, why) in [
            ("{", "line 1"),
            ("[]", "JSON object"),
            ("{}", "description"),
            ("{\"description\":\" \"}", "description"),
            ("{\"description\":\"x\",\"worker\":\"anga\"}", "anga"),
            ("{\"description\":\"x\",\"priority\":\"soon\"}", "priority"),
            ("{\"description\":5}", "string"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(TaskFile::parse(b"\xff", "marie").unwrap_err().contains("UTF-8"));
    }
}
