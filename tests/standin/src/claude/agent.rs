//! Knows how a sub-agent runs inside a turn and which events surround it (task_started, task_progress,
//! task_updated, task_notification, the Agent tool's result). Refuses background agents: the runner turns
//! them off.

use serde_json::{Value, json};

use super::events::{self, Parent};
use super::mind::{Mind, rehearse_agent};
use super::session::{During, Session, Stop};
use super::thread::{Finish, Thread};
use super::tools::Outcome;
use super::turn::Turn;
use crate::models;

impl Session {
    /// Runs the sub-agent that `input` asks for.
    pub(super) async fn sub_agent(
        &mut self,
        turn: &mut Turn,
        id: &str,
        input: &Value,
    ) -> Result<Outcome, Stop> {
        let field = |name: &str, default: &str| input[name].as_str().unwrap_or(default).to_owned();
        let kind = field("subagent_type", "general-purpose");
        let names = events::agent_names(&self.settings);
        if !names.contains(&kind) {
            let text = format!("Agent type '{kind}' not found. Available agents: {}", names.join(", "));
            return Ok(Outcome::error(&text));
        }
        let def = self.settings.agents.get(&kind).cloned().unwrap_or_default();
        let asked_model = input["model"].as_str().map(models::resolve);
        let model = asked_model.or(def.model).unwrap_or_else(|| self.model.clone());
        let prompt = field("prompt", "");
        let rehearse = |prompt: &str| rehearse_agent(&kind, &def.prompt, prompt);
        let mind = match Mind::new(prompt.clone(), rehearse) {
            Ok(mind) => mind,
            Err(error) => return Ok(Outcome::error(&format!("orch stand-in: {error}"))),
        };
        let parent = Parent { tool_use_id: id.to_owned(), kind, description: field("description", "") };
        let mut thread = Thread::new(Some(parent.clone()), mind, model, def.max_turns);
        thread.task_id = self.ids.tagged("a", 16);
        thread.remote = self.remote.is_some();
        thread.system_prompt = def.prompt;
        thread.messages =
            vec![json!({"role": "user", "content": [{"type": "text", "text": prompt.clone()}]})];
        self.emit(json!({
            "type": "system", "subtype": "task_started", "task_id": thread.task_id, "tool_use_id": id,
            "description": parent.description, "subagent_type": parent.kind, "task_type": "local_agent", "prompt": prompt,
        }))
        .await?;
        self.emit(events::of_thread(events::user_text(&prompt), Some(&parent))).await?;
        let ended = self.run_thread(turn, &mut thread).await;
        // From here an interruption hits the Agent call, whatever the sub-agent was doing.
        self.during = During::Tool(id.to_owned());
        match ended {
            Ok(finish) => {
                self.task_ended(&thread, &parent, "completed", "completed").await;
                Ok(agent_result(&thread, &parent, &prompt, &finish))
            }
            Err(stop) => {
                self.task_ended(&thread, &parent, "killed", "stopped").await;
                Err(stop)
            }
        }
    }

    async fn task_ended(&mut self, thread: &Thread, parent: &Parent, state: &str, status: &str) {
        let end_time = jiff::Timestamp::now().as_millisecond();
        self.emit_surely(json!({
            "type": "system", "subtype": "task_updated", "task_id": thread.task_id,
            "patch": {"status": state, "end_time": end_time},
        }))
        .await;
        self.emit_surely(json!({
            "type": "system", "subtype": "task_notification", "task_id": thread.task_id,
            "tool_use_id": parent.tool_use_id, "status": status, "output_file": "", "summary": parent.description,
            "usage": task_usage(thread),
        }))
        .await;
    }

    /// The progress event that precedes a sub-agent's tool call.
    pub(super) async fn before_sub_agent_call(&mut self, thread: &Thread, block: &Value) -> Result<(), Stop> {
        let Some(parent) = thread.parent.as_ref().filter(|_| block["type"] == "tool_use") else {
            return Ok(());
        };
        let tool = block["name"].as_str().unwrap_or_default();
        let input = &block["input"];
        let file = input["file_path"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let description = match tool {
            "Bash" => format!("Running {}", input["description"].as_str().unwrap_or("a command")),
            "Write" => format!("Writing {file}"),
            "Edit" => format!("Editing {file}"),
            "Read" => format!("Reading {file}"),
            other => other.to_owned(),
        };
        let mut usage = task_usage(thread);
        usage["tool_uses"] = json!(thread.tool_uses + 1);
        self.emit(json!({
            "type": "system", "subtype": "task_progress", "task_id": thread.task_id, "tool_use_id": parent.tool_use_id,
            "description": description, "subagent_type": parent.kind, "usage": usage, "last_tool_name": tool,
        }))
        .await
    }
}

fn millis(thread: &Thread) -> u64 {
    u64::try_from(thread.started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn task_usage(thread: &Thread) -> Value {
    json!({"total_tokens": thread.last_usage.total(), "tool_uses": thread.tool_uses, "duration_ms": millis(thread)})
}

/// The Agent tool's result. A sub-agent whose API call failed is a completed one with the error as its text.
fn agent_result(thread: &Thread, parent: &Parent, prompt: &str, finish: &Finish) -> Outcome {
    let text = match finish {
        Finish::Text(text) => text.clone(),
        Finish::Structured(value) => value.to_string(),
        Finish::Api(failure) => failure.text.clone(),
        Finish::MaxTurns(_) | Finish::Budget | Finish::StructuredGaveUp => {
            "(Subagent completed but returned no output.)".to_owned()
        }
    };
    let (task, tokens, took) = (&thread.task_id, thread.last_usage.total(), millis(thread));
    let note = format!(
        "agentId: {task}\n<usage>subagent_tokens: {tokens}\ntool_uses: {}\nduration_ms: {took}</usage>",
        thread.tool_uses
    );
    let said = json!({"type": "text", "text": text});
    let detail = json!({
        "status": "completed", "prompt": prompt, "agentId": task, "agentType": parent.kind, "content": [said],
        "resolvedModel": thread.model, "totalDurationMs": took, "totalTokens": tokens,
        "totalToolUseCount": thread.tool_uses, "usage": thread.last_usage.result_json(),
    });
    Outcome { content: json!([said, {"type": "text", "text": note}]), is_error: None, detail }
}
