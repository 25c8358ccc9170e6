//! Knows the loop of one thread (main or sub-agent): ask the scripted model, print its answer, have its tools carried
//! out, until it is done or a limit ends it. Refuses to know how a turn begins and ends, and what tools do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::events::{self, Parent};
use super::failures::ApiFailure;
use super::mind::Mind;
use super::remote;
use super::session::{During, Session, Stop};
use super::turn::Turn;
use crate::models::Usage;
use crate::script::steps::{self, Answer, Call, Step};

/// Invalid structured answers after which the CLI gives up, as observed.
const STRUCTURED_ATTEMPTS: u64 = 5;
/// Answers cut at the output limit after which the CLI gives up, as observed.
const MAX_TOKEN_ANSWERS: usize = 4;

/// One thread's state.
#[derive(Debug)]
pub(super) struct Thread {
    /// The sub-agent it is; none: the main thread.
    pub(super) parent: Option<Parent>,
    /// Its id as a task; empty for the main thread.
    pub(super) task_id: String,
    pub(super) started: Instant,
    pub(super) mind: Mind,
    pub(super) model: String,
    pub(super) max_turns: Option<u64>,
    /// Tokens of the last answer alone.
    pub(super) last_usage: Usage,
    pub(super) answers: u64,
    pub(super) tool_uses: u64,
    /// The text of the last answer without tool calls.
    pub(super) text: Option<String>,
    pub(super) stop_reason: Option<&'static str>,
    /// Structured answers that did not fit the schema.
    pub(super) invalid_structured: u64,
    nudged: bool,
    /// Its answers come from an endpoint, and these are the messages so far.
    pub(super) remote: bool,
    pub(super) messages: Vec<Value>,
    /// The system prompt of a sub-agent.
    pub(super) system_prompt: String,
}

/// How a thread ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Finish {
    /// With a text.
    Text(String),
    /// With a structured answer.
    Structured(Value),
    /// Without a valid structured answer after several attempts.
    StructuredGaveUp,
    /// At its turn limit.
    MaxTurns(u64),
    /// At the budget, which may have been used up by a sub-agent.
    Budget,
    /// With an API error.
    Api(ApiFailure),
}

impl Thread {
    pub(super) fn new(parent: Option<Parent>, mind: Mind, model: String, max_turns: Option<u64>) -> Self {
        Self {
            parent,
            task_id: String::new(),
            started: Instant::now(),
            mind,
            model,
            max_turns,
            last_usage: Usage::default(),
            answers: 0,
            tool_uses: 0,
            text: None,
            stop_reason: None,
            invalid_structured: 0,
            nudged: false,
            remote: false,
            messages: Vec::new(),
            system_prompt: String::new(),
        }
    }

    fn of(&self, event: Value) -> Value {
        events::of_thread(event, self.parent.as_ref())
    }
}

impl Session {
    /// Runs a thread to its end.
    pub(super) async fn run_thread(&mut self, turn: &mut Turn, thread: &mut Thread) -> Result<Finish, Stop> {
        loop {
            let done = match thread.mind.next().filter(|_| !thread.remote) {
                None if thread.remote && thread.text.is_none() => match self.ask_api(thread).await? {
                    Ok(answer) => self.answer(turn, thread, &answer).await?,
                    Err(failure) => Some(Finish::Api(failure)),
                },
                Some(Step::Answer(answer)) => self.answer(turn, thread, &answer).await?,
                Some(Step::Gate(gate)) => {
                    let meant = gate.only_model.as_deref().is_none_or(|part| thread.model.contains(part));
                    if meant { self.fail(thread, &gate).await?.map(Finish::Api) } else { None }
                }
                Some(Step::Local(directive)) => self.act(turn, thread, &directive).await?,
                None => match thread.text.take() {
                    Some(text) => Some(Finish::Text(text)),
                    None => {
                        let last = thread.mind.last_word(crate::models::SCRIPTED_USAGE);
                        self.answer(turn, thread, &last).await?
                    }
                },
            };
            match done {
                Some(Finish::Text(text)) if self.wants_structured(thread) => {
                    // The CLI reminds the model once; a script that says nothing more stays at its text.
                    thread.nudged = true;
                    turn.user_events += 1;
                    let mut nudge =
                        events::user_text("[structured-output-enforce] Call the StructuredOutput tool now.");
                    nudge["isSynthetic"] = json!(true);
                    self.emit(thread.of(nudge)).await?;
                    let again = Answer { texts: vec![text], ..Answer::empty(thread.last_usage) };
                    if let Some(finish) = self.answer(turn, thread, &again).await? {
                        return Ok(finish);
                    }
                }
                Some(finish) => return Ok(finish),
                None => {}
            }
        }
    }

    fn wants_structured(&self, thread: &Thread) -> bool {
        thread.parent.is_none() && self.settings.schema.is_some() && !thread.nudged && !thread.remote
    }

    /// Prints an answer and carries out its tools.
    pub(super) async fn answer(
        &mut self,
        turn: &mut Turn,
        thread: &mut Thread,
        answer: &Answer,
    ) -> Result<Option<Finish>, Stop> {
        let mut answer = answer.clone();
        if answer.echo {
            answer.texts.insert(0, thread.mind.prompt.clone());
        }
        let again = answer.stop == steps::Stop::MaxTokens && !thread.remote;
        let rounds = if again { MAX_TOKEN_ANSWERS } else { 1 };
        let mut calls = Vec::new();
        for _ in 0..rounds {
            calls = self.print_answer(turn, thread, &answer).await?;
        }
        if thread.remote {
            self.heard(thread, remote::said(&answer, &calls));
        }
        if turn.over_budget(self) {
            return Ok(Some(Finish::Budget));
        }
        match answer.stop {
            steps::Stop::Refusal => return Ok(Some(Finish::Api(self.refused(thread).await?))),
            steps::Stop::MaxTokens => return Ok(Some(Finish::Api(ApiFailure::max_tokens(&thread.model)))),
            steps::Stop::Natural => {}
        }
        if answer.calls.is_empty() {
            thread.text = Some(answer.texts.concat());
            return Ok(None);
        }
        thread.text = None;
        let mut results = Vec::new();
        let several = calls.len();
        for (id, call) in calls {
            let outcome = self.call(turn, thread, &id, &call).await?;
            thread.mind.saw(outcome.text());
            let result = events::tool_result(&id, &outcome);
            results.push(result.clone());
            if thread.remote && results.len() == several {
                self.heard(thread, remote::results(&results));
            }
            self.emit(thread.of(result)).await?;
            if thread.parent.is_none() {
                turn.user_events += 1;
                self.hand_over().await?;
            }
            if turn.over_budget(self) {
                return Ok(Some(Finish::Budget));
            }
            if call.name == "StructuredOutput" && outcome.is_error.is_none() {
                return Ok(Some(Finish::Structured(call.input)));
            }
            if thread.invalid_structured >= STRUCTURED_ATTEMPTS {
                return Ok(Some(Finish::StructuredGaveUp));
            }
        }
        Ok(thread.max_turns.filter(|most| thread.answers >= *most).map(Finish::MaxTurns))
    }

    /// Echoes the user messages that the running turn takes over.
    async fn hand_over(&mut self) -> Result<(), Stop> {
        for line in self.absorbed() {
            if self.settings.replay_user {
                self.emit(events::replayed(&line.message)).await?;
            }
        }
        Ok(())
    }

    /// Prints the events of one answer; gives the calls with their ids.
    pub(super) async fn print_answer(
        &mut self,
        turn: &mut Turn,
        thread: &mut Thread,
        answer: &Answer,
    ) -> Result<Vec<(String, Call)>, Stop> {
        let partial = self.settings.partial && thread.parent.is_none();
        self.during = During::Waiting;
        if partial {
            self.emit(json!({"type": "system", "subtype": "status", "status": "requesting"})).await?;
        }
        let usage = turn.grown(answer.usage);
        let spoken = u32::try_from(usage.output).unwrap_or(u32::MAX);
        self.pause(answer.delay + self.settings.token_pause().saturating_mul(spoken)).await?;
        let (message_id, request_id) = (self.ids.tagged("msg_", 24), self.ids.tagged("req_", 20));
        turn.answered();
        self.during = During::Streaming(None);
        let calls: Vec<(String, Call)> =
            answer.calls.iter().map(|call| (self.ids.tagged("toolu_", 22), call.clone())).collect();
        let blocks = blocks(answer, &calls);
        if partial {
            let message = json!({"id": message_id, "type": "message", "role": "assistant", "content": [],
                "model": crate::models::wire_name(&thread.model), "stop_reason": null, "stop_sequence": null,
                "usage": Usage { output: 1, ..usage }.message_json()});
            self.emit(events::stream_event("message_start", json!({"message": message}))).await?;
        }
        for (index, block) in blocks.iter().enumerate() {
            let event =
                |block: &Value| events::assistant(&message_id, &thread.model, block, usage, &request_id);
            self.stream_block(partial, index, block, answer.pace, |block| thread.of(event(block))).await?;
            self.before_sub_agent_call(thread, block).await?;
            // The final text of a sub-agent is printed in its result only.
            if thread.parent.is_none() || block["type"] == "tool_use" {
                self.emit(thread.of(event(block))).await?;
            }
            if partial {
                self.emit(events::stream_event("content_block_stop", json!({"index": index}))).await?;
            }
        }
        if partial {
            let delta = json!({"stop_reason": answer.stop_reason(), "stop_sequence": null});
            let end = json!({"delta": delta, "usage": usage.message_json()});
            self.emit(events::stream_event("message_delta", end)).await?;
            self.emit(events::stream_event("message_stop", json!({}))).await?;
        }
        if thread.parent.is_none() {
            turn.usage.add(usage);
        }
        thread.last_usage = usage;
        thread.answers += 1;
        thread.stop_reason = Some(answer.stop_reason());
        self.bill.add(&thread.model, usage);
        Ok(calls)
    }

    /// The pieces of one block, with their pauses; without partial messages only the pauses.
    async fn stream_block(
        &mut self,
        partial: bool,
        index: usize,
        block: &Value,
        pace: Option<(usize, Duration)>,
        event: impl Fn(&Value) -> Value,
    ) -> Result<(), Stop> {
        if !partial && pace.is_none() {
            return Ok(());
        }
        let (opened, field, kind, whole) = match block["type"].as_str() {
            Some("tool_use") => {
                let mut opened = block.clone();
                opened["input"] = json!({});
                (opened, "partial_json", "input_json_delta", block["input"].to_string())
            }
            Some("thinking") => {
                let text = block["thinking"].as_str().unwrap_or_default().to_owned();
                (
                    json!({"type": "thinking", "thinking": "", "signature": ""}),
                    "thinking",
                    "thinking_delta",
                    text,
                )
            }
            _ => {
                let text = block["text"].as_str().unwrap_or_default().to_owned();
                (json!({"type": "text", "text": ""}), "text", "text_delta", text)
            }
        };
        if partial {
            let start = json!({"index": index, "content_block": opened});
            self.emit(events::stream_event("content_block_start", start)).await?;
        }
        let mut so_far = String::new();
        for piece in steps::split(&whole, pace.map_or(3, |(chunks, _)| chunks)) {
            if let Some((_, pause)) = pace {
                self.wait(tokio::time::sleep(pause)).await?;
            }
            if partial {
                let delta = json!({"index": index, "delta": {"type": kind, field: piece}});
                self.emit(events::stream_event("content_block_delta", delta)).await?;
            }
            if field == "text" {
                so_far.push_str(&piece);
                self.during = During::Streaming(Some(event(&json!({"type": "text", "text": so_far}))));
            }
        }
        self.during = During::Streaming(None);
        Ok(())
    }
}

fn blocks(answer: &Answer, calls: &[(String, Call)]) -> Vec<Value> {
    let thinking = answer
        .thinking
        .iter()
        .map(|text| json!({"type": "thinking", "thinking": text, "signature": "c3RhbmQtaW4="}));
    let texts = answer.texts.iter().map(|text| json!({"type": "text", "text": text}));
    let uses = calls
        .iter()
        .map(|(id, call)| json!({"type": "tool_use", "id": id, "name": call.name, "input": call.input}));
    thinking.chain(texts).chain(uses).collect()
}
