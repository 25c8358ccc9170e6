//! Knows the control requests that stdin may carry and how each is answered, as observed. Refuses to read stdin.

use serde_json::{Value, json};

use super::events;
use super::session::{By, Session, Stop};
use crate::models;

impl Session {
    /// Answers a control request; an interrupt then stops the running turn.
    pub(super) async fn control(&mut self, id: &str, request: &Value) -> Result<(), Stop> {
        let subtype = request["subtype"].as_str().unwrap_or_default();
        let mut response = json!({"subtype": "success", "request_id": id});
        match subtype {
            "initialize" => response["response"] = self.introduction(),
            "interrupt" if self.ignores_requests => return Ok(()),
            "interrupt" => {}
            "set_model" => {
                let asked = request["model"].as_str().unwrap_or("opus[1m]");
                self.model = models::resolve(asked);
                let text = format!(
                    "<local-command-stdout>Set model to {asked} ({})</local-command-stdout>",
                    self.model
                );
                let message = json!({"role": "user", "content": text});
                let event = json!({"type": "user", "message": message, "parent_tool_use_id": null,
                    "timestamp": events::now(), "isReplay": true});
                self.emit_surely(event).await;
            }
            "set_permission_mode" => {
                self.mode = request["mode"].as_str().unwrap_or("default").to_owned();
                response["response"] = json!({"mode": self.mode});
            }
            other => {
                let error = format!("Unsupported control request subtype: {other}");
                response = json!({"subtype": "error", "request_id": id, "error": error});
            }
        }
        self.out.line(json!({"type": "control_response", "response": response}).to_string()).await;
        if subtype == "interrupt" && self.running { Err(Stop::Interrupted(By::Request)) } else { Ok(()) }
    }

    fn introduction(&self) -> Value {
        let agents = events::agent_names(&self.settings);
        let agents: Vec<Value> =
            agents.iter().map(|name| json!({"name": name, "description": "(stand-in)"})).collect();
        json!({
            "commands": [],
            "agents": agents,
            "output_style": "default",
            "available_output_styles": ["default"],
            "models": [{"value": self.model, "resolvedModel": self.model, "displayName": "stand-in"}],
            "account": {"tokenSource": "none", "apiKeySource": self.settings.env.api_key_source(), "apiProvider": "firstParty"},
            "pid": std::process::id(),
            "orch_standin": true,
        })
    }
}
