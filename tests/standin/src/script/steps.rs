//! Knows how directives become the steps of a scripted model: what it answers to the first request,
//! to the next after a tool result, and where the line fails. Refuses to know how an answer travels
//! (events on stdout or SSE): that is each stand-in's own business.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Directive;
use crate::models::{SCRIPTED_USAGE, Usage};

/// One thing that happens in turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The model answers a request.
    Answer(Answer),
    /// A request fails or hangs before the next answer is given.
    Gate(Gate),
    /// Something only the scripted CLI does.
    Local(Directive),
}

/// How often an answer is given before the next step's turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Once.
    Once,
    /// So many times.
    Times(u64),
    /// As often as asked: no later step is ever reached.
    Forever,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It was done, or asked for tools.
    Natural,
    /// It refused.
    Refusal,
    /// It reached the limit of one answer.
    MaxTokens,
}

/// A tool the model asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// Its input.
    pub input: Value,
}

/// One message of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// A thinking block before everything else.
    pub thinking: Option<String>,
    /// Text blocks.
    pub texts: Vec<String>,
    /// Tool calls after the texts.
    pub calls: Vec<Call>,
    /// Whether the text is the prompt as seen (directive `echo`).
    pub echo: bool,
    /// Tokens.
    pub usage: Usage,
    /// Why it stops.
    pub stop: Stop,
    /// Response headers (the Messages API stand-in only).
    pub headers: Vec<(String, String)>,
    /// Wait before the answer.
    pub delay: Duration,
    /// Pieces the text comes in, and the wait before each.
    pub pace: Option<(usize, Duration)>,
    /// How often it is given.
    pub repeat: Repeat,
}

impl Answer {
    /// An answer without content that uses `usage`.
    pub const fn empty(usage: Usage) -> Self {
        Self {
            thinking: None,
            texts: Vec::new(),
            calls: Vec::new(),
            echo: false,
            usage,
            stop: Stop::Natural,
            headers: Vec::new(),
            delay: Duration::ZERO,
            pace: None,
            repeat: Repeat::Once,
        }
    }

    /// The `stop_reason` of the message.
    pub const fn stop_reason(&self) -> &'static str {
        match self.stop {
            Stop::Refusal => "refusal",
            Stop::MaxTokens => "max_tokens",
            Stop::Natural if self.calls.is_empty() => "end_turn",
            Stop::Natural => "tool_use",
        }
    }

    /// What the model says when its script is used up: what the last tool gave, if anything.
    pub fn after_script(usage: Usage, last_tool_result: Option<&str>) -> Self {
        let text =
            last_tool_result.map_or_else(|| "ok".to_owned(), |result| format!("done: {}", head(result, 200)));
        Self { texts: vec![text], ..Self::empty(usage) }
    }
}

/// How a request fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// An HTTP status with an error body.
    Status {
        /// The status.
        status: u16,
        /// The message in the body.
        message: String,
        /// Response headers.
        headers: Vec<(String, String)>,
    },
    /// No answer, ever.
    Hang,
    /// An answer that starts and falls silent.
    HangMid,
    /// An answer whose connection is lost.
    Cut,
    /// A connection lost before the answer.
    Reset,
}

/// A failure that stands before the following steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// What happens.
    pub failure: Failure,
    /// How many requests fail before one passes; `None`: none ever passes.
    pub times: Option<u64>,
    /// Only requests for a model whose name contains this.
    pub only_model: Option<String>,
}

/// A tool of the scripted CLI alone: its result is a text of `tokens` tokens.
pub const PAD: &str = "StandinPad";

/// A text of so many tokens, at four bytes each, that begins with `beginning`.
pub fn filler(beginning: &str, tokens: u64) -> String {
    let bytes = usize::try_from(tokens.saturating_mul(4)).unwrap_or(usize::MAX).min(64 << 20);
    let mut text = format!("{beginning} ");
    while text.len() < bytes {
        text.push_str("lorem ipsum dolor sit amet ");
    }
    // Beginnings are ASCII, or short enough to be left whole.
    if text.is_char_boundary(bytes) {
        text.truncate(bytes);
    }
    text
}

/// The first `limit` characters of `text`.
pub fn head(text: &str, limit: usize) -> &str {
    text.char_indices().nth(limit).map_or(text, |(at, _)| &text[..at])
}

/// `text` in at most `count` pieces of about the same number of characters.
pub fn split(text: &str, count: usize) -> Vec<String> {
    let size = text.chars().count().div_ceil(count.max(1)).max(1);
    let mut rest = text;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let part = head(rest, size);
        parts.push(part.to_owned());
        rest = &rest[part.len()..];
    }
    parts
}

/// Compiles directives into steps.
pub fn compile(directives: Vec<Directive>) -> Vec<Step> {
    let mut builder =
        Builder { steps: Vec::new(), texts: None, delay: Duration::ZERO, usage: SCRIPTED_USAGE };
    for directive in directives {
        builder.take(directive);
    }
    builder.finish()
}

struct Builder {
    steps: Vec<Step>,
    /// A text that may still turn out to be the preamble of a tool call.
    texts: Option<Answer>,
    delay: Duration,
    usage: Usage,
}

impl Builder {
    fn take(&mut self, directive: Directive) {
        match directive.name {
            "usage" => self.usage = Usage::scripted(self.usage, &Value::Object(directive.arg)),
            "sleep" => self.delay += Duration::from_millis(directive.number("ms").unwrap_or(1000)),
            "text" | "think" | "echo" | "slow" => self.text(&directive),
            "tool" | "loop" | "tools" | "agent" | "subagent" | "structured" => self.calls(&directive),
            "api" => self.api(&directive),
            "refusal" => self.ending(&directive, Stop::Refusal, "I cannot."),
            "maxtok" => self.ending(&directive, Stop::MaxTokens, "trunc"),
            "error" | "hang" | "hangmid" | "cut" | "reset" => {
                self.flush();
                self.steps.push(Step::Gate(gate(&directive)));
            }
            _ => {
                self.flush();
                self.steps.push(Step::Local(directive));
            }
        }
    }

    fn text(&mut self, directive: &Directive) {
        let usage = self.usage_of(directive);
        let delay =
            std::mem::take(&mut self.delay) + millis(directive, "delay_ms", "delay").unwrap_or_default();
        let answer = self.texts.get_or_insert_with(|| Answer::empty(usage));
        answer.usage = usage;
        answer.delay += delay;
        answer.headers.extend(headers(directive));
        match directive.name {
            "echo" => answer.echo = true,
            "slow" => {
                let chunks = usize::try_from(directive.number("chunks").unwrap_or(5)).unwrap_or(5);
                let pause = millis(directive, "delay_ms", "delay").unwrap_or(Duration::from_millis(200));
                answer.delay = Duration::ZERO;
                answer.pace = Some((chunks.max(1), pause));
                answer.texts.push((0..chunks).map(|n| format!("slow word{n} ")).collect());
            }
            "think" => {
                answer.thinking = Some(directive.text("thinking").unwrap_or("thinking about it").to_owned());
                answer.texts.push(directive.text("text").unwrap_or("ok").to_owned());
            }
            _ => answer.texts.push(directive.text("text").unwrap_or("ok").to_owned()),
        }
    }

    fn calls(&mut self, directive: &Directive) {
        let usage = self.usage_of(directive);
        let mut answer = self.texts.take().unwrap_or_else(|| Answer::empty(usage));
        answer.usage = usage;
        answer.delay += std::mem::take(&mut self.delay);
        if directive.name == "structured" {
            answer.calls.push(Call {
                name: "StructuredOutput".to_owned(),
                input: Value::Object(directive.arg.clone()),
            });
            self.steps.push(Step::Answer(answer));
            return;
        }
        answer.texts.extend(directive.text("text").map(ToOwned::to_owned));
        if directive.name == "loop" {
            answer.repeat = directive.number("times").map_or(Repeat::Forever, Repeat::Times);
        }
        answer.calls = match directive.name {
            "tools" => directive
                .arg
                .get("calls")
                .and_then(Value::as_array)
                .map(|calls| calls.iter().filter_map(Value::as_object).map(call).collect())
                .unwrap_or_default(),
            "agent" | "subagent" => vec![agent_call(directive)],
            _ => vec![call(&directive.arg)],
        };
        self.steps.push(Step::Answer(answer));
    }

    /// So many requests, with sub-agents before the first of them ends, each answer as long as it is billed.
    fn api(&mut self, directive: &Directive) {
        self.flush();
        let number = |name: &str, default: u64| directive.number(name).unwrap_or(default);
        let (calls, output, grow) = (number("calls", 1), number("output", 20), number("grow", 0));
        let usage = Usage { input: number("input", 0).max(1), output, ..Usage::default() };
        let said = filler("answer", output);
        let answer = |calls: Vec<Call>| Answer { texts: vec![said.clone()], calls, ..Answer::empty(usage) };
        let below = directive.arg.get("subagent").cloned().unwrap_or_else(|| json!({"output": output}));
        for number in 0..number("subagents", 0) {
            let input = json!({"description": format!("part {number}"), "prompt": format!("[[api {below}]]"),
                "subagent_type": "general-purpose"});
            let call = Call { name: "Agent".to_owned(), input };
            self.steps.push(Step::Answer(answer(vec![call])));
        }
        let pad = Call { name: PAD.to_owned(), input: json!({"tokens": grow}) };
        let repeat =
            if directive.flag("forever") { Repeat::Forever } else { Repeat::Times(calls.saturating_sub(1)) };
        if repeat != Repeat::Times(0) {
            self.steps.push(Step::Answer(Answer { repeat, ..answer(vec![pad]) }));
        }
        self.steps.push(Step::Answer(answer(Vec::new())));
    }

    fn ending(&mut self, directive: &Directive, stop: Stop, default: &str) {
        self.flush();
        let text = directive.text("text").unwrap_or(default).to_owned();
        let usage = self.usage_of(directive);
        let delay = std::mem::take(&mut self.delay);
        let answer =
            Answer { texts: vec![text], stop, delay, repeat: Repeat::Forever, ..Answer::empty(usage) };
        self.steps.push(Step::Answer(answer));
    }

    fn usage_of(&self, directive: &Directive) -> Usage {
        directive.arg.get("usage").map_or(self.usage, |value| Usage::scripted(self.usage, value))
    }

    fn flush(&mut self) {
        if let Some(answer) = self.texts.take() {
            self.steps.push(Step::Answer(answer));
        }
    }

    fn finish(mut self) -> Vec<Step> {
        self.flush();
        self.steps
    }
}

fn call(arg: &Map<String, Value>) -> Call {
    Call {
        name: arg.get("name").and_then(Value::as_str).unwrap_or("Bash").to_owned(),
        input: arg.get("input").cloned().unwrap_or_else(|| json!({})),
    }
}

fn agent_call(directive: &Directive) -> Call {
    let mut input = Map::new();
    input.insert(
        "description".to_owned(),
        json!(directive.text("description").unwrap_or("stand-in sub-agent")),
    );
    input.insert("prompt".to_owned(), json!(directive.text("prompt").unwrap_or("[[text]]")));
    input.insert("subagent_type".to_owned(), json!(directive.text("type").unwrap_or("general-purpose")));
    if let Some(model) = directive.text("model") {
        input.insert("model".to_owned(), json!(model));
    }
    if let Some(extra) = directive.arg.get("input").and_then(Value::as_object) {
        input.extend(extra.clone());
    }
    Call { name: "Agent".to_owned(), input: Value::Object(input) }
}

fn gate(directive: &Directive) -> Gate {
    let failure = match directive.name {
        "hang" => Failure::Hang,
        "hangmid" => Failure::HangMid,
        "cut" => Failure::Cut,
        "reset" => Failure::Reset,
        _ => {
            let status =
                directive.number("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
            let message = directive
                .text("message")
                .map_or_else(|| format!("stand-in error {status}"), ToOwned::to_owned);
            let mut all = headers(directive);
            if let Some(seconds) = directive.number("retry_after") {
                all.push(("retry-after".to_owned(), seconds.to_string()));
            }
            Failure::Status { status, message, headers: all }
        }
    };
    Gate {
        failure,
        times: directive.number("times"),
        only_model: directive.text("only_model").map(ToOwned::to_owned),
    }
}

fn headers(directive: &Directive) -> Vec<(String, String)> {
    let Some(map) = directive.arg.get("headers").and_then(Value::as_object) else { return Vec::new() };
    map.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// A duration given in milliseconds under `short`, or in seconds under `long`.
fn millis(directive: &Directive, short: &str, long: &str) -> Option<Duration> {
    let seconds = || {
        directive.arg.get(long).and_then(Value::as_f64).map(|s| Duration::from_secs_f64(s.clamp(0.0, 1e6)))
    };
    directive.number(short).map(Duration::from_millis).or_else(seconds)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{Answer, Failure, Repeat, Step, compile, split};
    use crate::script::parse;

    fn steps(prompt: &str) -> Vec<Step> {
        compile(parse(prompt).unwrap())
    }

    fn answer(step: &Step) -> &Answer {
        match step {
            Step::Answer(answer) => answer,
            other @ (Step::Gate(_) | Step::Local(_)) => panic!("not an answer: {other:?}"),
        }
    }

    #[test]
    fn text_is_split_between_characters_and_loses_nothing() {
        assert_eq!(split("été ☀", 2).concat(), "été ☀");
        assert_eq!(split("abcd", 3), ["ab", "cd"]);
        assert!(split("", 3).is_empty());
    }

    #[test]
    fn a_text_before_a_tool_is_its_preamble_and_one_after_it_the_next_answer() {
        let steps =
            steps(r#"[[text {"text":"first"}]][[tool {"name":"Bash","input":{"command":"x"}}]][[text]]"#);
        assert_eq!(steps.len(), 2);
        assert_eq!(answer(&steps[0]).texts, ["first"]);
        assert_eq!(answer(&steps[0]).calls[0].input, json!({"command": "x"}));
        assert_eq!(answer(&steps[0]).stop_reason(), "tool_use");
        assert_eq!(answer(&steps[1]).stop_reason(), "end_turn");
    }

    #[test]
    fn usage_and_sleep_hold_for_what_follows() {
        let steps = steps(r#"[[tool]][[usage {"input":7,"output":3}]][[sleep {"ms":40}]][[text]]"#);
        assert_eq!((answer(&steps[0]).usage.input, answer(&steps[0]).delay), (100, Duration::ZERO));
        assert_eq!((answer(&steps[1]).usage.input, answer(&steps[1]).usage.output), (7, 3));
        assert_eq!(answer(&steps[1]).delay, Duration::from_millis(40));
    }

    #[test]
    fn a_number_of_requests_is_so_many_answers_each_as_long_as_it_is_billed() {
        let steps = steps(r#"[[api {"calls":3,"output":50,"grow":10,"subagents":1}]]"#);
        assert_eq!(steps.len(), 3, "{steps:?}");
        assert_eq!(answer(&steps[0]).calls[0].name, "Agent");
        assert_eq!(
            (answer(&steps[1]).repeat, answer(&steps[1]).calls[0].name.as_str()),
            (Repeat::Times(2), super::PAD)
        );
        assert_eq!((answer(&steps[2]).texts.concat().len(), answer(&steps[2]).usage.output), (200, 50));
        let forever = compile(parse(r#"[[api {"forever":true}]]"#).unwrap());
        assert_eq!(answer(&forever[0]).repeat, Repeat::Forever);
    }

    #[test]
    fn errors_carry_status_headers_and_how_often_they_strike() {
        let steps = steps(r#"[[error {"status":429,"times":2,"retry_after":1}]][[loop {"times":3}]]"#);
        let Step::Gate(gate) = &steps[0] else { panic!("no gate") };
        assert_eq!(gate.times, Some(2));
        let Failure::Status { status, headers, .. } = &gate.failure else { panic!("no status") };
        assert_eq!((*status, headers[0].1.as_str()), (429, "1"));
        assert_eq!(answer(&steps[1]).repeat, Repeat::Times(3));
    }
}
