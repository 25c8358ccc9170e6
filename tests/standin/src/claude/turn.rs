//! Knows how one turn begins and ends: init, the prompt's own oddities (slash commands, attachments), the main
//! thread, and the result event with its figures. Refuses to know how the process goes on.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::events;
use super::failures::ApiFailure;
use super::input::UserLine;
use super::mind::Mind;
use super::session::{By, During, Session, Stop};
use super::thread::{Finish, Thread};
use super::tools::Outcome;
use crate::models::Usage;
use crate::script::steps::Call;
use crate::script::{self, Directive};

/// What belongs to one turn, sub-agents included.
#[derive(Debug)]
pub(super) struct Turn {
    started: Instant,
    first_answer: Option<Duration>,
    /// Tokens of the main thread's answers.
    pub(super) usage: Usage,
    /// User messages of the main thread after its prompt: what num_turns counts.
    pub(super) user_events: u64,
    /// Refused tool calls.
    denials: Vec<Value>,
    /// Changes to the result (directive `result`), in order.
    pub(super) overrides: Vec<Map<String, Value>>,
    /// Factor on every usage (directive `grow`).
    pub(super) growth: f64,
}

impl Turn {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            first_answer: None,
            usage: Usage::default(),
            user_events: 0,
            denials: Vec::new(),
            overrides: Vec::new(),
            growth: 1.0,
        }
    }

    /// Notes when the first answer came.
    pub(super) fn answered(&mut self) {
        self.first_answer.get_or_insert_with(|| self.started.elapsed());
    }

    /// Usage as the directive `grow` has it.
    pub(super) fn grown(&self, usage: Usage) -> Usage {
        let grow = |tokens: u64| (tokens as f64 * self.growth) as u64;
        Usage {
            input: grow(usage.input),
            output: grow(usage.output),
            cache_read: grow(usage.cache_read),
            cache_write: grow(usage.cache_write),
        }
    }

    /// Whether the process has spent more than it may.
    pub(super) fn over_budget(&self, session: &Session) -> bool {
        session.settings.max_budget_usd.is_some_and(|most| session.bill.total_usd() > most)
    }

    /// Counts a refused call; gives its tool result.
    pub(super) fn denied(&mut self, id: &str, call: &Call, text: &str) -> Outcome {
        self.denials.push(json!({"tool_name": call.name, "tool_use_id": id, "tool_input": call.input}));
        Outcome::error(text)
    }
}

impl Session {
    /// Runs one turn.
    ///
    /// # Errors
    /// The process ends with this code.
    pub(super) async fn turn(&mut self, line: UserLine) -> Result<(), u8> {
        let directives = script::parse(&line.text).map_err(|error| {
            super::complain(&format!("orch stand-in: {error}"));
            1
        })?;
        self.before_anything(&directives).await?;
        let counts = self.history.note(&line.text);
        let mut turn = Turn::new();
        let played = self.play(&mut turn, &line, &counts).await;
        match played {
            Ok(()) => Ok(()),
            Err(Stop::Exit(code)) => {
                self.out.drain().await;
                Err(code)
            }
            Err(Stop::Interrupted(by)) => self.interrupted_turn(&turn, by).await,
        }
    }

    /// Directives that act before the first event.
    async fn before_anything(&mut self, directives: &[Directive]) -> Result<(), u8> {
        for directive in directives {
            match directive.name {
                "silent" => return Err(exit_code(directive.number("code"), 0)),
                "replay" => return Err(self.replay(directive).await),
                "hang_start" => match self.wait(std::future::pending::<()>()).await {
                    Err(Stop::Exit(code)) => return Err(code),
                    Err(Stop::Interrupted(By::Signal)) => return Err(0),
                    Err(Stop::Interrupted(By::Request)) | Ok(()) => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    async fn play(&mut self, turn: &mut Turn, line: &UserLine, counts: &str) -> Result<(), Stop> {
        self.during = During::Waiting;
        let init = events::init(self);
        self.emit(init).await?;
        if self.settings.replay_user {
            self.emit(events::replayed(&line.message)).await?;
        }
        if line.text.starts_with('/') {
            return self.slash_command(turn, &line.text).await;
        }
        let prompt = self.with_attachments(counts);
        let agent_offered = events::tool_names(&self.settings).iter().any(|name| name == "Agent");
        let settings = &self.settings;
        // The prompt was parsed before; an attachment may have broken it.
        let mind = Mind::main(prompt, settings, agent_offered).map_err(|error| {
            super::complain(&format!("orch stand-in: {error}"));
            Stop::Exit(1)
        })?;
        let mut thread = Thread::new(None, mind, self.model.clone(), self.settings.max_turns);
        thread.remote = self.goes_remote(counts).map_err(|why| {
            super::complain(&why);
            Stop::Exit(1)
        })?;
        if thread.remote {
            thread.messages = self.say(&line.text);
        }
        let finish = if !self.settings.env.logged_in() {
            Finish::Api(ApiFailure::not_logged_in())
        } else if turn.over_budget(self) {
            Finish::Budget
        } else {
            self.run_thread(turn, &mut thread).await?
        };
        if let Finish::Api(failure) = &finish {
            let id = self.ids.uuid().to_string();
            let event = events::synthetic(&id, &failure.text, Some(failure.error), failure.stop_reason);
            self.emit(events::of_thread(event, None)).await?;
        }
        let result = self.result(turn, &thread, &finish);
        self.finish_turn(turn, result).await;
        Ok(())
    }

    async fn slash_command(&mut self, turn: &Turn, text: &str) -> Result<(), Stop> {
        let command = text.split_whitespace().next().unwrap_or(text);
        let answer = format!("Unknown command: {command}");
        let id = self.ids.uuid().to_string();
        let event = events::synthetic(&id, &answer, None, "stop_sequence");
        self.emit(events::of_thread(event, None)).await?;
        let mut result = self.result_base(turn, Usage::default(), 0);
        events::patch(
            &mut result,
            &fields(json!({"subtype": "success", "is_error": false, "result": answer, "stop_reason": null})),
        );
        result["stop_reason"] = Value::Null;
        self.finish_turn(turn, result).await;
        Ok(())
    }

    /// The prompt with the files that `@path` names, unless attachments are off.
    fn with_attachments(&self, text: &str) -> String {
        if self.settings.env.attachments_off {
            return text.to_owned();
        }
        let mut whole = text.to_owned();
        for word in text.split_whitespace().filter_map(|word| word.strip_prefix('@')) {
            let path = super::permissions::absolute(&self.settings.env.cwd, word);
            if let Ok(content) = std::fs::read_to_string(&path) {
                whole.push_str(&format!("\n<attached {}>\n{content}", path.display()));
            }
        }
        whole
    }

    /// The result of a turn that ended by itself.
    fn result(&self, turn: &Turn, thread: &Thread, finish: &Finish) -> Value {
        // As observed, the last answer of a budget stop is missing here and present in modelUsage.
        let counted =
            if *finish == Finish::Budget { less(turn.usage, thread.last_usage) } else { turn.usage };
        let mut result = self.result_base(turn, counted, 1 + turn.user_events);
        result["stop_reason"] = json!(thread.stop_reason);
        let success = |text: &str, is_error: bool, status: Option<u16>| {
            json!({"subtype": "success", "is_error": is_error, "result": text, "terminal_reason": "completed",
                "api_error_status": status})
        };
        let error =
            |subtype: &str, text: String| json!({"subtype": subtype, "is_error": true, "errors": [text]});
        let outcome = match finish {
            Finish::Text(text) => success(text, false, None),
            Finish::Structured(value) => {
                let mut outcome = success(&value.to_string(), false, None);
                outcome["structured_output"] = value.clone();
                outcome
            }
            Finish::StructuredGaveUp => error(
                "error_max_structured_output_retries",
                "Failed to provide valid structured output after 5 attempts".to_owned(),
            ),
            Finish::MaxTurns(most) => {
                let mut outcome =
                    error("error_max_turns", format!("Reached maximum number of turns ({most})"));
                outcome["terminal_reason"] = json!("max_turns");
                outcome
            }
            Finish::Budget => {
                let most = self.settings.max_budget_usd.unwrap_or_default();
                error("error_max_budget_usd", format!("Reached maximum budget (${most})"))
            }
            Finish::Api(failure) => {
                result["stop_reason"] = json!(failure.stop_reason);
                success(&failure.text, true, failure.status)
            }
        };
        if let (Value::Object(all), Value::Object(more)) = (&mut result, outcome) {
            all.extend(more);
        }
        if let (Some(first), true) = (turn.first_answer, result["is_error"] == json!(false)) {
            let ms = millis(first);
            events::patch(
                &mut result,
                &fields(json!({"ttft_ms": ms, "ttft_stream_ms": ms, "time_to_request_ms": ms})),
            );
        }
        result
    }

    fn result_base(&self, turn: &Turn, usage: Usage, num_turns: u64) -> Value {
        json!({
            "type": "result",
            "duration_ms": millis(turn.started.elapsed()),
            "duration_api_ms": turn.first_answer.map_or(0, millis),
            "num_turns": num_turns,
            "stop_reason": null,
            "total_cost_usd": self.bill.total_usd(),
            "usage": usage.result_json(),
            "modelUsage": self.bill.json(),
            "permission_denials": turn.denials,
            "fast_mode_state": "off",
        })
    }

    /// Prints the result and remembers whether it was one to be proud of.
    async fn finish_turn(&mut self, turn: &Turn, mut result: Value) {
        for changes in &turn.overrides {
            events::patch(&mut result, changes);
        }
        self.failed = result["is_error"] == json!(true);
        self.emit_surely(result).await;
    }

    /// What an interrupted turn still says. SIGINT while no answer has begun: nothing.
    async fn interrupted_turn(&mut self, turn: &Turn, by: By) -> Result<(), u8> {
        let during = std::mem::replace(&mut self.during, During::Waiting);
        if by == By::Signal && during == During::Waiting {
            self.out.drain().await;
            return Err(0);
        }
        let mut user_events = 1;
        let (note, terminal, stop_reason) = match &during {
            During::Tool(id) => {
                user_events = 2;
                let mut refused = Outcome::error(
                    "The user doesn't want to proceed with this tool use. The tool use was rejected.",
                );
                refused.detail = json!("User rejected tool use");
                self.emit_surely(events::of_thread(events::tool_result(id, &refused), None)).await;
                ("[Request interrupted by user for tool use]", "aborted_tools", json!("tool_use"))
            }
            During::Streaming(partial) => {
                if let Some(event) = partial {
                    self.emit_surely(event.clone()).await;
                }
                ("[Request interrupted by user]", "aborted_streaming", Value::Null)
            }
            During::Waiting => ("[Request interrupted by user]", "aborted_streaming", Value::Null),
        };
        self.emit_surely(events::of_thread(events::user_text(note), None)).await;
        let mut result = self.result_base(turn, turn.usage, 1 + turn.user_events + user_events);
        let reason = stop_reason.as_str().unwrap_or("null");
        let why = format!("[ede_diagnostic] result_type=user last_content_type=n/a stop_reason={reason}");
        let more = json!({"subtype": "error_during_execution", "is_error": true, "terminal_reason": terminal, "errors": [why]});
        events::patch(&mut result, &fields(more));
        result["stop_reason"] = stop_reason;
        self.finish_turn(turn, result).await;
        match by {
            By::Request => Ok(()),
            By::Signal => {
                self.out.drain().await;
                // As observed: 1 for a prompt given as text when a tool was running, else 0.
                Err(u8::from(matches!(during, During::Tool(_)) && !self.settings.stream_input))
            }
        }
    }
}

/// An exit code given by a directive.
pub(super) fn exit_code(given: Option<u64>, default: u8) -> u8 {
    given.and_then(|code| u8::try_from(code).ok()).unwrap_or(default)
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

fn less(all: Usage, last: Usage) -> Usage {
    Usage {
        input: all.input.saturating_sub(last.input),
        output: all.output.saturating_sub(last.output),
        cache_read: all.cache_read.saturating_sub(last.cache_read),
        cache_write: all.cache_write.saturating_sub(last.cache_write),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
