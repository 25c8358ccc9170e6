//! Knows the shape of the events on stdout, field by field as observed with `claude` 2.1.197. Refuses to know
//! when they are printed.

use serde_json::{Map, Value, json};

use super::permissions::canonical;
use super::session::Session;
use super::settings::Settings;
use super::tools::Outcome;
use crate::models::{self, Usage};

/// The version the stand-in imitates.
pub(super) const VERSION: &str = "2.1.197";

/// Built-in agents of the imitated version.
const AGENTS: &[&str] = &["claude", "Explore", "general-purpose", "Plan", "statusline-setup"];

/// Built-in tools of the imitated version, in the order of its init event.
const TOOLS: &[&str] = &[
    "Agent",
    "Bash",
    "CronCreate",
    "CronDelete",
    "CronList",
    "Edit",
    "EnterWorktree",
    "ExitWorktree",
    "NotebookEdit",
    "Read",
    "ReportFindings",
    "ScheduleWakeup",
    "SendMessage",
    "Skill",
    "TaskCreate",
    "TaskGet",
    "TaskList",
    "TaskOutput",
    "TaskStop",
    "TaskUpdate",
    "WebFetch",
    "WebSearch",
    "Workflow",
    "Write",
];

/// The sub-agent whose events these are.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    /// The Agent call that started it.
    pub(super) tool_use_id: String,
    /// Its type.
    pub(super) kind: String,
    /// What it was asked, in a few words.
    pub(super) description: String,
}

/// Now, as events write it.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The tools offered, under their request names.
pub(super) fn tool_names(settings: &Settings) -> Vec<String> {
    let mut names: Vec<String> = match &settings.tools {
        None => TOOLS.iter().map(ToString::to_string).collect(),
        Some(list) if list.iter().any(|name| name == "default") => {
            TOOLS.iter().map(ToString::to_string).collect()
        }
        Some(list) => list.iter().map(|name| canonical(name).to_owned()).collect(),
    };
    names.extend(settings.schema.as_ref().map(|_| "StructuredOutput".to_owned()));
    names.retain(|name| !settings.disallowed.iter().any(|rule| canonical(rule) == name));
    names.sort_by_key(|name| if name == "Agent" { String::new() } else { name.clone() });
    names
}

/// The agents that can be called, sorted as the CLI lists them.
pub(super) fn agent_names(settings: &Settings) -> Vec<String> {
    let mut names: Vec<String> = AGENTS.iter().map(ToString::to_string).collect();
    names.extend(settings.agents.keys().cloned());
    names.sort_by_key(|name| name.to_lowercase());
    names.dedup();
    names
}

/// The first event of a turn.
pub(super) fn init(session: &Session) -> Value {
    let settings = &session.settings;
    // The init event calls the Agent tool by its old name.
    let tools: Vec<String> = tool_names(settings)
        .into_iter()
        .map(|name| if name == "Agent" { "Task".to_owned() } else { name })
        .collect();
    json!({
        "type": "system",
        "subtype": "init",
        "cwd": settings.env.cwd,
        "tools": tools,
        "mcp_servers": [],
        "model": session.model,
        "permissionMode": session.mode,
        "slash_commands": [],
        "apiKeySource": settings.env.api_key_source(),
        "claude_code_version": format!("{VERSION} (stand-in)"),
        "orch_standin": true,
        "output_style": "default",
        "agents": agent_names(settings),
        "skills": [],
        "plugins": [],
        "analytics_disabled": true,
        "product_feedback_disabled": true,
        "fast_mode_state": "off",
    })
}

/// One finished content block.
pub(super) fn assistant(id: &str, model: &str, block: &Value, usage: Usage, request_id: &str) -> Value {
    let first = Usage { output: 1, ..usage };
    json!({
        "type": "assistant",
        "message": {
            "id": id, "type": "message", "role": "assistant", "model": models::wire_name(model),
            "content": [block], "stop_reason": null, "stop_sequence": null,
            "usage": first.message_json(), "context_management": null,
        },
        "request_id": request_id,
    })
}

/// The CLI's own words in the place of an answer.
pub(super) fn synthetic(id: &str, text: &str, error: Option<&str>, stop_reason: &str) -> Value {
    let mut event = json!({
        "type": "assistant",
        "message": {
            "id": id, "container": null, "model": "<synthetic>", "role": "assistant", "stop_details": null,
            "stop_reason": stop_reason, "stop_sequence": "", "type": "message",
            "usage": {
                "input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0}, "service_tier": null,
                "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
                "inference_geo": null, "iterations": null, "speed": null,
            },
            "content": [{"type": "text", "text": text}], "context_management": null,
        },
    });
    if let Some(error) = error {
        event["error"] = json!(error);
    }
    event
}

/// The result of a tool call.
pub(super) fn tool_result(tool_use_id: &str, outcome: &Outcome) -> Value {
    let mut block = json!({"tool_use_id": tool_use_id, "type": "tool_result", "content": outcome.content});
    if let Some(is_error) = outcome.is_error {
        block["is_error"] = json!(is_error);
    }
    json!({
        "type": "user",
        "message": {"role": "user", "content": [block]},
        "timestamp": now(),
        "tool_use_result": outcome.detail,
    })
}

/// A text in the user's role.
pub(super) fn user_text(text: &str) -> Value {
    json!({
        "type": "user",
        "message": {"role": "user", "content": [{"type": "text", "text": text}]},
        "timestamp": now(),
    })
}

/// An echo of a message from stdin.
pub(super) fn replayed(message: &Value) -> Value {
    json!({"type": "user", "message": message, "parent_tool_use_id": null, "timestamp": now(), "isReplay": true})
}

/// A raw API event.
pub(super) fn stream_event(name: &str, mut event: Value) -> Value {
    event["type"] = json!(name);
    json!({"type": "stream_event", "event": event, "parent_tool_use_id": null})
}

/// Marks an event as the main thread's or a sub-agent's.
pub(super) fn of_thread(mut event: Value, parent: Option<&Parent>) -> Value {
    match parent {
        None => event["parent_tool_use_id"] = Value::Null,
        Some(parent) => {
            event["parent_tool_use_id"] = json!(parent.tool_use_id);
            event["subagent_type"] = json!(parent.kind);
            event["task_description"] = json!(parent.description);
        }
    }
    event
}

/// Lays `changes` over an event; null removes a field.
pub(super) fn patch(event: &mut Value, changes: &Map<String, Value>) {
    let Some(fields) = event.as_object_mut() else { return };
    for (name, value) in changes {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{agent_names, patch, tool_names};
    use crate::claude::args::Args;
    use crate::claude::environment::Environment;
    use crate::claude::settings::Settings;

    #[test]
    fn offered_tools_follow_the_flags() {
        let names = |more: &[&str]| {
            let all = ["-p"].iter().chain(more).map(ToString::to_string);
            let settings =
                Settings::build(&Args::parse(all).unwrap(), vec![], Environment::for_tests()).unwrap();
            (tool_names(&settings), agent_names(&settings))
        };
        assert_eq!(names(&["--tools", "Bash,Task,Read"]).0, ["Agent", "Bash", "Read"]);
        assert!(names(&["--tools", ""]).0.is_empty());
        assert_eq!(names(&["--tools", "Bash", "--json-schema", "{}"]).0, ["Bash", "StructuredOutput"]);
        assert!(!names(&["--disallowedTools", "Bash"]).0.contains(&"Bash".to_owned()));
        let agents = names(&["--agents", r#"{"worker":{"description":"d","prompt":"p"}}"#]).1;
        assert_eq!(agents, ["claude", "Explore", "general-purpose", "Plan", "statusline-setup", "worker"]);
    }

    #[test]
    fn a_patch_sets_and_removes_fields() {
        let mut event = json!({"a": 1, "b": 2});
        patch(&mut event, json!({"a": 9, "b": null}).as_object().unwrap());
        assert_eq!(event, json!({"a": 9}));
    }
}
