//! Knows what the CLI sends: headers and body with system blocks, tools, and the three cache breakpoints where the real one
//! puts them; and the file that keeps a conversation's messages. Refuses to send any of it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::claude::events;
use crate::claude::settings::Settings;
use crate::claude::thread::Thread;
use crate::models;

const IDENTITY: &str = "You are Claude Code, Anthropic's official CLI for Claude.";

/// Headers of a request of this thread.
pub(super) fn headers(settings: &Settings, thread: &Thread, streaming: bool) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("anthropic-version", "2023-06-01".to_owned()),
        ("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14".to_owned()),
        ("user-agent", format!("claude-cli/{} (external, sdk-cli)", events::VERSION)),
        ("x-app", "cli".to_owned()),
        ("x-claude-code-session-id", settings.session_id().to_string()),
        ("x-stainless-timeout", if streaming { "600" } else { "300" }.to_owned()),
        ("x-stainless-retry-count", "0".to_owned()),
    ];
    if thread.parent.is_some() {
        all.push(("x-claude-code-agent-id", thread.task_id.clone()));
    }
    all.extend(settings.env.credential_header());
    all
}

/// The body of a request of this thread.
pub(super) fn body(settings: &Settings, thread: &Thread, streaming: bool) -> Value {
    let mut messages = thread.messages.clone();
    let mut system = system(settings, thread);
    if settings.env.prompt_caching {
        // On identity and system prompt, and on the last block of the last message of the user.
        let last = messages.iter_mut().rfind(|message| message["role"] == "user");
        let last = last.and_then(|message| message["content"].as_array_mut()?.last_mut());
        let after_billing = system.len().saturating_sub(2);
        for block in system.iter_mut().skip(after_billing).chain(last) {
            block["cache_control"] = json!({"type": "ephemeral"});
        }
    }
    let session = settings.session_id();
    let user = json!({"device_id": "standin", "account_uuid": "", "session_id": session}).to_string();
    let model = models::wire_name(&thread.model);
    let most = settings.env.max_output.unwrap_or_else(|| models::max_output(&thread.model));
    json!({
        "model": model, "max_tokens": most, "stream": streaming, "metadata": {"user_id": user},
        "thinking": {"type": "adaptive"}, "system": system, "messages": messages, "tools": tools(settings),
    })
}

/// The blocks of the system prompt: the billing line, the identity, the prompt.
fn system(settings: &Settings, thread: &Thread) -> Vec<Value> {
    let text = |text: String| json!({"type": "text", "text": text});
    let mut blocks = Vec::new();
    let sub_agent = thread.parent.is_some();
    if settings.env.attribution {
        // As observed: the suffix changes with the prompt.
        let of = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, thread.mind.prompt.as_bytes())
            .simple()
            .to_string();
        let whose = if sub_agent { " cc_is_subagent=true;" } else { "" };
        let version = events::VERSION;
        blocks.push(text(format!(
            "x-anthropic-billing-header: cc_version={version}.{}; cc_entrypoint=sdk-cli;{whose}",
            &of[..3]
        )));
    }
    blocks.push(text(IDENTITY.to_owned()));
    let place = format!("\nWorking directory: {}", settings.env.cwd.display());
    let prompt = if sub_agent {
        format!("{}{place}", thread.system_prompt)
    } else if settings.system_prompt.is_empty() {
        let place = if settings.exclude_dynamic { "" } else { place.as_str() };
        format!("You are an interactive agent that helps with tasks.{place}")
    } else {
        settings.system_prompt.clone()
    };
    blocks.push(text(prompt));
    blocks
}

fn tools(settings: &Settings) -> Vec<Value> {
    let tool = |name: String| {
        let schema = settings.schema.as_ref().filter(|_| name == "StructuredOutput");
        let schema = schema.cloned().unwrap_or_else(|| json!({"type": "object"}));
        json!({"name": name, "description": format!("The tool {name}."), "input_schema": schema})
    };
    events::tool_names(settings).into_iter().map(tool).collect()
}

/// What a conversation that was cut off owes before its next prompt: results of the tools that were called last.
pub(super) fn unanswered(messages: &[Value]) -> Vec<Value> {
    let Some(last) = messages.last().filter(|message| message["role"] == "assistant") else {
        return Vec::new();
    };
    let calls = last["content"].as_array().into_iter().flatten().filter(|block| block["type"] == "tool_use");
    let result = |call: &Value| {
        json!({"type": "tool_result", "tool_use_id": call["id"], "is_error": true,
            "content": "[Request interrupted by user for tool use]"})
    };
    calls.map(result).collect()
}

/// The messages in a file.
pub(super) fn read(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Adds a message to a file.
pub(super) fn append(file: &Path, message: &Value) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(file)?;
    file.write_all(format!("{message}\n").as_bytes())
}
