//! Knows how to read a request: which prompt is being worked on, how many answers it has had, what the
//! last tool gave, and so which step of the script comes next. Pure: the time is an argument. Refuses to
//! know HTTP.

use serde_json::{Value, json};

use crate::models::Usage;
use crate::rehearsal::scene::{self, Part, Scene};
use crate::rehearsal::{self, Persona};
use crate::schema;
use crate::script::steps::{Answer, Call, Failure, Gate, Repeat, Step, compile};
use crate::script::{self, Directive, ScriptError};

/// User text the CLI adds by itself; the prompt being worked on is an earlier one.
const NUDGES: &[&str] = &[
    "<system-reminder>",
    "[structured-output-enforce]",
    "[Request interrupted",
    "Output token limit hit",
    "[Your previous response had no visible output",
    "Continue from where you left off.",
];

/// The answer that the CLI itself puts after what was interrupted, when it resumes a conversation (observed).
const FILLED_IN: &str = "No response requested.";

/// What a request is about.
#[derive(Debug)]
pub(super) struct Conversation {
    /// The prompt being worked on.
    pub(super) prompt: String,
    /// Assistant messages since that prompt.
    pub(super) answered: u64,
    /// What the last tool gave, when the last message is a tool result.
    pub(super) last_tool_result: Option<String>,
    /// What tools gave since the prompt, oldest first.
    pub(super) seen: Vec<String>,
    /// The whole system prompt.
    pub(super) system: String,
    /// The schema of the tool StructuredOutput, when offered.
    pub(super) schema: Option<Value>,
    /// Bytes of all messages, for estimates.
    pub(super) bytes: usize,
}

/// What the stand-in does with a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// It answers.
    Answer(Answer),
    /// It fails.
    Fail(Failure),
}

impl Conversation {
    /// Reads the body of a Messages API request.
    pub(super) fn read(body: &Value) -> Self {
        let none = Vec::new();
        let messages = body.get("messages").and_then(Value::as_array).unwrap_or(&none);
        let role = |message: &Value| message.get("role").and_then(Value::as_str).map(ToOwned::to_owned);
        let is = |message: &Value, wanted: &str| role(message).as_deref() == Some(wanted);
        let last_user = messages.iter().rfind(|message| is(message, "user"));
        let said = Said::of(messages.iter().filter(|message| is(message, "user")));
        let start = messages.iter().rposition(|message| is(message, "user") && said.is_in(message));
        let since = start.map_or(messages.as_slice(), |at| &messages[at + 1..]);
        Self {
            prompt: said.prompt(),
            answered: since
                .iter()
                .filter(|message| is(message, "assistant") && !is_filled_in(message))
                .count() as u64,
            last_tool_result: last_user.and_then(tool_result),
            seen: since.iter().filter_map(tool_result).collect(),
            system: blocks_text(body.get("system").unwrap_or(&Value::Null)),
            schema: structured_schema(body),
            bytes: messages.iter().map(|message| blocks_text(&message["content"]).len()).sum(),
        }
    }

    /// The step whose turn it is. `strikes(step, times)` says whether a failing step strikes (again); `unix_now` is
    /// wall time in seconds.
    pub(super) fn reply(
        &self,
        model: &str,
        unix_now: u64,
        mut strikes: impl FnMut(usize, Option<u64>) -> bool,
    ) -> Result<Reply, ScriptError> {
        let mut directives = script::parse(&self.prompt)?;
        let foreseen = script::take_plan(&mut directives);
        if directives.is_empty() {
            return Ok(Reply::Answer(self.rehearse(foreseen.as_ref())));
        }
        let mut left = self.answered;
        let mut headers = Vec::new();
        for (at, step) in compile(directives).into_iter().enumerate() {
            match step {
                Step::Answer(answer) => match answer.repeat {
                    Repeat::Once if left > 0 => left -= 1,
                    Repeat::Times(times) if left >= times => left -= times,
                    Repeat::Once | Repeat::Times(_) | Repeat::Forever => {
                        return Ok(Reply::Answer(self.filled(answer, headers)));
                    }
                },
                Step::Gate(gate) => {
                    if left == 0 && meant(&gate, model) && strikes(at, gate.times) {
                        return Ok(Reply::Fail(gate.failure));
                    }
                }
                Step::Local(directive) if directive.name == "then" => {}
                Step::Local(directive) if directive.name == "rate_limit" => {
                    let window = window(&directive, unix_now);
                    if directive.text("status").is_none_or(|status| status == "rejected") {
                        return Ok(Reply::Fail(exhausted(window)));
                    }
                    headers = window;
                }
                Step::Local(directive) => {
                    let message =
                        format!("[[{}]] is for the scripted CLI, not for the API stand-in", directive.name);
                    return Ok(Reply::Fail(Failure::Status { status: 400, message, headers: Vec::new() }));
                }
            }
        }
        let usage = crate::models::SCRIPTED_USAGE;
        Ok(Reply::Answer(Answer::after_script(usage, self.last_tool_result.as_deref())))
    }

    fn filled(&self, mut answer: Answer, headers: Vec<(String, String)>) -> Answer {
        answer.headers.extend(headers);
        if answer.echo {
            answer.texts.insert(0, self.prompt.clone());
        }
        answer
    }

    /// The answer when nothing is scripted.
    fn rehearse(&self, foreseen: Option<&Value>) -> Answer {
        let mut answer = Answer::empty(Usage::default());
        let scene = Scene { system_prompt: &self.system, prompt: &self.prompt, seen: &self.seen, foreseen };
        match &self.schema {
            Some(schema) if Part::of(schema).is_some() => {
                answer.calls.extend(Part::of(schema).into_iter().flat_map(|part| scene::next(part, &scene)));
            }
            Some(schema) if self.answered == 0 => {
                let input = schema::instance(schema, rehearsal::LABEL);
                answer.calls.push(Call { name: "StructuredOutput".to_owned(), input });
            }
            _ => answer.texts.push(rehearsal::answer(Persona::detect(&self.system), &self.prompt)),
        }
        let output: usize = answer.texts.iter().map(String::len).sum();
        answer.usage = Usage::estimated(self.system.len() + self.bytes, output);
        answer
    }
}

/// What the API says of a subscription's window.
fn window(directive: &Directive, unix_now: u64) -> Vec<(String, String)> {
    let in_seconds = directive.number("resets_in").unwrap_or(3600);
    let resets_at = directive.number("resets_at").unwrap_or(unix_now + in_seconds);
    let mut headers = window_headers(
        directive.text("status").unwrap_or("rejected"),
        directive.text("type").unwrap_or("five_hour"),
        resets_at,
    );
    if let Some(used) = directive.arg.get("utilization").and_then(Value::as_f64) {
        let kind = if directive.text("type").unwrap_or("five_hour") == "five_hour" { "5h" } else { "7d" };
        let name = |what: &str| format!("anthropic-ratelimit-unified-{kind}-{what}");
        headers.push((name("utilization"), used.to_string()));
        headers.push((name("reset"), resets_at.to_string()));
        headers.push((name("surpassed-threshold"), "0.9".to_owned()));
    }
    headers
}

/// The headers that tell of a subscription's window: `claim` is which one, `resets_at` Unix seconds.
pub(super) fn window_headers(status: &str, claim: &str, resets_at: u64) -> Vec<(String, String)> {
    let header = |name: &str, value: &str| (format!("anthropic-ratelimit-unified-{name}"), value.to_owned());
    vec![
        header("status", status),
        header("reset", &resets_at.to_string()),
        header("representative-claim", claim),
        header("overage-status", "rejected"),
    ]
}

/// The refusal of a request whose subscription's window is used up.
pub(super) fn exhausted(headers: Vec<(String, String)>) -> Failure {
    Failure::Status { status: 429, message: "stand-in: the window is used up".to_owned(), headers }
}

/// What a person, a parent agent or the runner said, oldest first.
struct Said<'a> {
    texts: Vec<&'a str>,
    /// Whether the runner's note of an interruption is passed over: the script goes on where it was.
    past_notes: bool,
}

impl<'a> Said<'a> {
    fn of(messages: impl Iterator<Item = &'a Value>) -> Self {
        let mut texts: Vec<&str> =
            messages.flat_map(|message| texts(&message["content"])).filter(|text| is_own(text)).collect();
        let past_notes = texts.last().is_some_and(|last| script::is_note(last)) && foreseen(&texts).is_none();
        texts.retain(|text| !past_notes || !script::is_note(text));
        Self { texts, past_notes }
    }

    /// Whether some of it is in this message.
    fn is_in(&self, message: &Value) -> bool {
        texts(&message["content"]).any(|text| is_own(text) && !(self.past_notes && script::is_note(text)))
    }

    /// The prompt that counts: the last text, unless it holds no directives and an earlier one foresaw it with `then`.
    /// The last: after a turn without an answer the CLI sends that turn's prompt and the next one in one message
    /// (observed).
    fn prompt(&self) -> String {
        let last = self.texts.last().copied().unwrap_or_default();
        if !last.contains("[[") || script::parse(last).is_ok_and(|found| found.is_empty()) {
            return foreseen(&self.texts).unwrap_or_else(|| last.to_owned());
        }
        last.to_owned()
    }
}

/// What the latest text but the last that foresaw the next one has for it.
fn foreseen(said: &[&str]) -> Option<String> {
    let (_, earlier) = said.split_last()?;
    let directives = |text: &&str| script::parse(text).unwrap_or_default();
    let then = earlier.iter().rev().flat_map(directives).find(|directive| directive.name == "then");
    then?.text("prompt").map(ToOwned::to_owned)
}

fn meant(gate: &Gate, model: &str) -> bool {
    gate.only_model.as_deref().is_none_or(|part| model.contains(part))
}

fn is_filled_in(message: &Value) -> bool {
    texts(&message["content"]).any(|text| text.trim() == FILLED_IN)
}

/// Whether a text is not one the CLI adds by itself.
fn is_own(text: &str) -> bool {
    !text.is_empty() && !NUDGES.iter().any(|nudge| text.trim_start().starts_with(nudge))
}

fn texts(content: &Value) -> impl Iterator<Item = &str> {
    let blocks = content.as_array().into_iter().flatten();
    let in_blocks = blocks.filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str());
    content.as_str().into_iter().chain(in_blocks)
}

fn blocks_text(content: &Value) -> String {
    texts(content).collect::<Vec<_>>().join("\n")
}

fn tool_result(message: &Value) -> Option<String> {
    let blocks = message.get("content")?.as_array()?;
    let block = blocks.iter().rfind(|block| block["type"] == "tool_result")?;
    Some(blocks_text(&block["content"]))
}

fn structured_schema(body: &Value) -> Option<Value> {
    let tools = body.get("tools")?.as_array()?;
    let tool = tools.iter().find(|tool| tool["name"] == json!("StructuredOutput"))?;
    tool.get("input_schema").cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Conversation, Reply};
    use crate::script::steps::{Answer, Failure};

    const SCRIPT: &str = r#"go [[tool {"name":"Bash","input":{"command":"x"}}]][[text {"text":"end"}]]"#;

    fn messages(more: Vec<Value>) -> Value {
        let mut all = vec![
            json!({"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>date [[text]]</system-reminder>"},
                {"type": "text", "text": SCRIPT}]}),
            json!({"role": "system", "content": "agents and skills"}),
        ];
        all.extend(more);
        json!({"messages": all, "system": [{"type": "text", "text": "You are Marie."}]})
    }

    fn answer(body: &Value) -> Answer {
        match Conversation::read(body).reply("claude-opus-4-8", 1_000, |_, _| false).unwrap() {
            Reply::Answer(answer) => answer,
            Reply::Fail(failure) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn the_script_advances_with_each_tool_result_and_then_reports_it() {
        let called = json!({"role": "assistant", "content": []});
        let result = json!({"role": "user", "content": [{"type": "tool_result", "content": "42"}]});
        assert_eq!(answer(&messages(vec![])).calls[0].name, "Bash");
        let second = messages(vec![called.clone(), result.clone()]);
        assert_eq!(answer(&second).texts, ["end"]);
        let third = messages(vec![called.clone(), result.clone(), called, result]);
        assert_eq!(answer(&third).texts, ["done: 42"]);
    }

    #[test]
    fn a_later_prompt_starts_its_own_script_and_without_one_it_is_rehearsed() {
        let plain = json!({"role": "user", "content": "Evaluate Léa"});
        let text =
            answer(&messages(vec![json!({"role": "assistant", "content": []}), plain])).texts[0].clone();
        assert!(text.contains("rehearsal") && text.contains("Total"), "{text}");
    }

    #[test]
    fn of_two_prompts_in_one_message_the_later_counts() {
        let body = json!({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "x [[hang]]"}, {"type": "text", "text": "[Request interrupted by user]"},
            {"type": "text", "text": "y [[text {\"text\":\"second\"}]]"}]}]});
        assert_eq!(answer(&body).texts, ["second"]);
    }

    #[test]
    fn a_conversation_that_was_interrupted_goes_on_where_its_script_was_unless_that_foresaw_it() {
        let note =
            json!({"type": "text", "text": "\nYou were interrupted while you worked on this task (lost)."});
        let text = |text: &str| json!({"type": "text", "text": text});
        let called = json!({"role": "assistant", "content": []});
        let result = json!({"role": "user", "content": [{"type": "tool_result", "content": "42"},
            text("[Request interrupted by user]"), text("Continue from where you left off.")]});
        let filled = json!({"role": "assistant", "content": [text(super::FILLED_IN)]});
        let resumed = messages(vec![called, result, filled, json!({"role": "user", "content": [note]})]);
        assert_eq!(answer(&resumed).texts, ["end"]);

        let asked = |prompt: &str| json!({"messages": [{"role": "user", "content": [text(prompt), note]}]});
        assert_eq!(answer(&asked(r#"[[text {"text":"first"}]]"#)).texts, ["first"], "in one message");
        let foreseen = r#"[[text {"text":"first"}]][[then {"prompt":"[[text {\"text\":\"then\"}]]"}]]"#;
        assert_eq!(answer(&asked(foreseen)).texts, ["then"]);
    }

    #[test]
    fn a_failing_step_strikes_as_often_as_it_is_told() {
        let body = json!({"messages": [{"role": "user", "content": "[[error {\"status\":529,\"times\":1,\"only_model\":\"opus\"}]][[text]]"}]});
        let conversation = Conversation::read(&body);
        let failed = |model: &str, strikes: bool| {
            matches!(
                conversation
                    .reply(model, 1_000, |_, times| {
                        assert_eq!(times, Some(1));
                        strikes
                    })
                    .unwrap(),
                Reply::Fail(Failure::Status { status: 529, .. })
            )
        };
        assert!(failed("claude-opus-4-8", true));
        assert!(!failed("claude-opus-4-8", false));
        assert!(!failed("claude-sonnet-5", true));
    }

    #[test]
    fn a_prompt_may_foresee_the_next_one() {
        let foreseen = r#"a [[then {"prompt":"[[text {\"text\":\"second\"}]]"}]][[text {"text":"first"}]]"#;
        let user = |text: &str| json!({"role": "user", "content": text});
        let said = json!({"role": "assistant", "content": []});
        assert_eq!(answer(&json!({"messages": [user(foreseen)]})).texts, ["first"]);
        let again = json!({"messages": [user(foreseen), said, user("please go on")]});
        assert_eq!(answer(&again).texts, ["second"]);
        let own = json!({"messages": [user(foreseen), said, user("[[text {\"text\":\"third\"}]]")]});
        assert_eq!(answer(&own).texts, ["third"]);
    }

    #[test]
    fn a_window_is_told_in_headers_and_refuses_when_it_is_used_up() {
        let reply = |prompt: &str| {
            let body = json!({"messages": [{"role": "user", "content": prompt}]});
            Conversation::read(&body).reply("claude-opus-4-8", 1_000, |_, _| false).unwrap()
        };
        let Reply::Fail(Failure::Status { status: 429, headers, .. }) =
            reply("[[rate_limit {\"resets_in\":60,\"type\":\"seven_day\"}]][[text]]")
        else {
            panic!("not refused");
        };
        let told = |name: &str, value: &str| {
            headers.contains(&(format!("anthropic-ratelimit-unified-{name}"), value.to_owned()))
        };
        assert!(told("status", "rejected") && told("reset", "1060"), "{headers:?}");
        assert!(told("representative-claim", "seven_day"), "{headers:?}");
        let Reply::Answer(answer) = reply("[[rate_limit {\"status\":\"allowed_warning\"}]][[text]]") else {
            panic!("refused");
        };
        assert!(answer.headers.iter().any(|(_, value)| value == "allowed_warning"), "{answer:?}");
    }
}
