//! Knows how one tool call is carried out: whether the tool exists, who permits it, which of the few real tools
//! acts. Refuses to know why the model asked.

use std::time::Duration;

use serde_json::{Value, json};

use super::events;
use super::permissions::{self, Verdict};
use super::session::{During, Session, Stop};
use super::thread::Thread;
use super::tools::{self, Bash, Outcome};
use super::turn::Turn;
use crate::schema::validate::mismatch;
use crate::script::steps::{Call, PAD, filler};

impl Session {
    /// Carries out one tool call.
    pub(super) async fn call(
        &mut self,
        turn: &mut Turn,
        thread: &mut Thread,
        id: &str,
        call: &Call,
    ) -> Result<Outcome, Stop> {
        self.during = During::Tool(id.to_owned());
        thread.tool_uses += 1;
        if call.name == "StructuredOutput" && self.settings.schema.is_some() {
            return Ok(self.structured(thread, &call.input));
        }
        if call.name == PAD {
            let text = filler(id, call.input["tokens"].as_u64().unwrap_or(0));
            return Ok(Outcome::ok(&text, Value::Null));
        }
        if !events::tool_names(&self.settings).contains(&call.name) {
            return Ok(Outcome::misuse(&format!("Error: No such tool available: {}", call.name)));
        }
        let mut input = call.input.clone();
        match permissions::judge(&self.settings, &self.mode, &call.name, &input) {
            Verdict::Allow => {}
            Verdict::Deny(text) => return Ok(turn.denied(id, call, &text)),
            Verdict::Ask(text) if !self.settings.ask => return Ok(turn.denied(id, call, &text)),
            Verdict::Ask(text) => match self.ask_permission(id, call, &text).await? {
                Ok(changed) => input = changed,
                Err(refusal) => return Ok(turn.denied(id, call, &refusal)),
            },
        }
        match call.name.as_str() {
            "Agent" => Box::pin(self.sub_agent(turn, id, &input)).await,
            "Bash" => self.bash(&input).await,
            other => {
                self.pause(Duration::ZERO).await?;
                Ok(tools::file_tool(&self.settings.env.cwd, other, &input))
            }
        }
    }

    fn structured(&self, thread: &mut Thread, input: &Value) -> Outcome {
        let schema = self.settings.schema.as_ref().unwrap_or(&Value::Null);
        match mismatch(schema, input) {
            None => {
                let text = "Structured output provided successfully";
                Outcome::ok(text, json!(text))
            }
            Some(what) => {
                thread.invalid_structured += 1;
                Outcome::error(&format!("Output does not match required schema: {what}"))
            }
        }
    }

    /// The input to run with, or the text of the refusal.
    async fn ask_permission(
        &mut self,
        id: &str,
        call: &Call,
        why: &str,
    ) -> Result<Result<Value, String>, Stop> {
        let request = json!({
            "subtype": "can_use_tool", "tool_name": call.name, "display_name": call.name, "input": call.input,
            "description": call.input.get("description").cloned().unwrap_or_default(), "permission_suggestions": [],
            "decision_reason": why, "decision_reason_type": "other", "tool_use_id": id,
        });
        let answer = self.ask(request).await?;
        Ok(match answer["behavior"].as_str() {
            Some("allow") => Ok(answer
                .get("updatedInput")
                .filter(|input| input.is_object())
                .unwrap_or(&call.input)
                .clone()),
            Some(_) => Err(answer["message"].as_str().unwrap_or("denied").to_owned()),
            None => Err("Tool permission request failed: Error: Stream closed".to_owned()),
        })
    }

    async fn bash(&mut self, input: &Value) -> Result<Outcome, Stop> {
        if self.settings.env.background_off && input.get("run_in_background").is_some() {
            let text = "InputValidationError: Bash failed due to the following issue:\n\
                        An unexpected parameter `run_in_background` was provided";
            return Ok(Outcome::misuse(text));
        }
        let limit = input["timeout"].as_u64().map_or(self.settings.env.bash_timeout, Duration::from_millis);
        let command = input["command"].as_str().unwrap_or_default();
        let mut bash = match Bash::start(&self.settings.env.cwd, command) {
            Ok(bash) => bash,
            Err(error) => return Ok(Outcome::error(&format!("cannot start bash: {error}"))),
        };
        match self.wait(tokio::time::timeout(limit, bash.wait())).await {
            Err(stop) => {
                bash.kill();
                Err(stop)
            }
            Ok(Err(_)) => Ok(bash.timed_out(limit.as_secs())),
            Ok(Ok(Ok(status))) => Ok(bash.finished(status)),
            Ok(Ok(Err(error))) => Ok(Outcome::error(&format!("cannot wait for bash: {error}"))),
        }
    }
}
