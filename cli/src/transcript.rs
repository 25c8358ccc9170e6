//! A transcript as people read it: what the assistant said, which tools it used, how it ended. Lines that are not
//! events of the CLI, such as those of a program, are shown as they are. What a sub-agent does stands below the call
//! that started it. Pure: bytes in, lines out.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::output::figures::{count, short};
use crate::output::safe::{one_line, safe};

/// Longest line kept together; longer ones are cut, as nobody reads them here.
const MAX_LINE: usize = 16 << 20;
/// Longest summary of a tool's input.
const INPUT: usize = 160;
/// Fields of a tool's input that say what it does, in order of preference.
const TELLING: &[&str] =
    &["command", "file_path", "path", "pattern", "query", "url", "description", "prompt"];

/// Calls remembered as possible parents; a transcript with more is not shown in depth any further.
const MAX_CALLS: usize = 10_000;
/// Deepest indentation: the CLI nests sub-agents once, and nothing should push text off the screen.
const MAX_DEPTH: usize = 6;
/// Longest id of a call.
const MAX_ID: usize = 200;

/// What a line is about; decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The start of a session.
    Session,
    /// The assistant's words.
    Assistant,
    /// A tool, or what it returned.
    Tool,
    /// How it ended.
    Result,
    /// Whose lines follow: of several sub-agents at once each is named again where its lines go on. No event.
    Heading,
    /// Anything else.
    Other,
}

/// A line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLine {
    /// What it is about.
    pub(crate) kind: Kind,
    /// The label in front, for example `tool`.
    pub(crate) label: &'static str,
    /// The text; several lines where the assistant wrote several.
    pub(crate) text: String,
    /// Sub-agents around whoever said or did it.
    pub(crate) depth: usize,
    /// Call that started the sub-agent which said or did it.
    pub(crate) parent: Option<String>,
    /// Id of the call, where the line is one.
    pub(crate) call: Option<String>,
}

/// A call that may have started a sub-agent.
#[derive(Debug)]
struct Call {
    depth: usize,
    title: String,
}

/// Turns bytes into lines as they come.
#[derive(Debug, Default)]
pub(crate) struct Renderer {
    rest: Vec<u8>,
    /// Show whole inputs and outputs of tools.
    full: bool,
    calls: HashMap<String, Call>,
    /// Sub-agent of the last line.
    inside: Option<String>,
    /// The last line, where it was a call.
    called: Option<String>,
}

impl Renderer {
    /// A renderer at the start of a transcript.
    pub(crate) fn new(full: bool) -> Self {
        Self { full, ..Self::default() }
    }

    /// Takes bytes and returns the lines they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.rest.len() + part.len() <= MAX_LINE || part.ends_with(b"\n") {
                self.rest.extend_from_slice(&part[..part.len().min(MAX_LINE)]);
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.rest);
                self.line(&line, &mut lines);
            }
        }
        lines
    }

    /// The line that never got its end.
    pub(crate) fn finish(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let line = std::mem::take(&mut self.rest);
        self.line(&line, &mut lines);
        lines
    }

    fn line(&mut self, line: &[u8], lines: &mut Vec<LogLine>) {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return;
        }
        match serde_json::from_slice::<Value>(line) {
            Ok(event) if event.get("type").is_some_and(Value::is_string) => self.event(&event, lines),
            Ok(_) | Err(_) => {
                let text = safe(&String::from_utf8_lossy(line)).into_owned();
                lines.push(LogLine {
                    kind: Kind::Other,
                    label: "",
                    text,
                    depth: 0,
                    parent: None,
                    call: None,
                });
            }
        }
    }

    fn event(&mut self, event: &Value, lines: &mut Vec<LogLine>) {
        let parent = event["parent_tool_use_id"].as_str().map(str::to_owned);
        // The call of a sub-agent that was never seen, as when only the end is read, still makes it one.
        let depth = parent.as_ref().map_or(0, |id| self.calls.get(id).map_or(1, |call| call.depth + 1));
        let depth = depth.min(MAX_DEPTH);
        let mut told: Vec<(Kind, &'static str, String, Option<String>)> = Vec::new();
        match event["type"].as_str().unwrap_or_default() {
            "system" if event["subtype"] == "init" => {
                told.push((Kind::Session, "session", session(event), None))
            }
            "assistant" | "user" => {
                for part in parts(event) {
                    let call = self.remember(part, depth);
                    self.part(part, &mut |kind, label, text| told.push((kind, label, text, call.clone())));
                }
            }
            "result" => told.push((Kind::Result, "result", result(event), None)),
            "rate_limit_event" => {
                let text = one_line(&event["rate_limit_info"].to_string(), INPUT);
                told.push((Kind::Other, "limit", text, None));
            }
            // Partial messages repeat what the whole ones say; the rest is the CLI talking to itself. --raw shows all.
            _ => {}
        }
        for (kind, label, text, call) in told {
            self.heading(parent.as_deref(), depth, lines);
            (self.inside, self.called) = (parent.clone(), call.clone());
            lines.push(LogLine { kind, label, text, depth, parent: parent.clone(), call });
        }
    }

    /// Remembers a call, and gives its id.
    fn remember(&mut self, part: &Value, depth: usize) -> Option<String> {
        let id = part["id"].as_str().filter(|id| part["type"] == "tool_use" && id.len() <= MAX_ID)?;
        if self.calls.len() < MAX_CALLS {
            let title = self.tool(part);
            self.calls.insert(id.to_owned(), Call { depth, title: one_line(&title, INPUT) });
        }
        Some(id.to_owned())
    }

    /// Names a sub-agent again where its lines go on after those of somebody else.
    fn heading(&self, parent: Option<&str>, depth: usize, lines: &mut Vec<LogLine>) {
        let begins = parent.is_some() && self.called.as_deref() == parent;
        let Some(id) = parent.filter(|_| self.inside.as_deref() != parent && !begins) else { return };
        let Some(call) = self.calls.get(id) else { return };
        lines.push(LogLine {
            kind: Kind::Heading,
            label: "in",
            text: call.title.clone(),
            depth: depth.saturating_sub(1),
            parent: None,
            call: Some(id.to_owned()),
        });
    }

    fn part(&self, part: &Value, add: &mut impl FnMut(Kind, &'static str, String)) {
        match part["type"].as_str().unwrap_or_default() {
            "text" => add(
                Kind::Assistant,
                "assistant",
                safe(part["text"].as_str().unwrap_or_default()).into_owned(),
            ),
            "tool_use" => add(Kind::Tool, "tool", self.tool(part)),
            "tool_result" => {
                let text = content_text(&part["content"]);
                let failed = part["is_error"].as_bool().unwrap_or(false);
                if self.full {
                    add(Kind::Tool, if failed { "error" } else { "output" }, safe(&text).into_owned());
                } else if failed {
                    add(Kind::Tool, "error", one_line(&text, INPUT));
                }
            }
            _ => {}
        }
    }

    fn tool(&self, part: &Value) -> String {
        let name = one_line(part["name"].as_str().unwrap_or("?"), INPUT);
        let input = &part["input"];
        if self.full {
            return format!("{name} {}", safe(&serde_json::to_string_pretty(input).unwrap_or_default()));
        }
        let telling = TELLING.iter().find_map(|field| input[*field].as_str());
        let name = match input["subagent_type"].as_str() {
            Some(kind) => format!("{name} {}:", one_line(kind, INPUT)),
            None => name,
        };
        match telling {
            Some(text) => format!("{name} {}", one_line(text, INPUT)),
            None if input.as_object().is_none_or(serde_json::Map::is_empty) => name,
            None => format!("{name} {}", one_line(&input.to_string(), INPUT)),
        }
    }
}

/// The parts of a message; text of a user message is the prompt, which is not repeated.
fn parts(event: &Value) -> impl Iterator<Item = &Value> {
    let from_user = event["type"] == "user";
    let content = event["message"]["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    content.iter().filter(move |part| !from_user || part["type"] == "tool_result")
}

fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => content.to_string(),
    }
}

fn session(event: &Value) -> String {
    let mut text = one_line(event["session_id"].as_str().unwrap_or("?"), 64);
    for (label, field) in [("model", "model"), ("CLI", "claude_code_version")] {
        if let Some(value) = event[field].as_str() {
            // Writing to a String cannot fail.
            let _ = write!(text, "  {label} {}", one_line(value, 64));
        }
    }
    text
}

fn result(event: &Value) -> String {
    let failed = event["is_error"].as_bool().unwrap_or(false);
    let subtype = event["subtype"].as_str().unwrap_or("?");
    // The CLI calls every API failure a success; the flag is what counts.
    let mut text = match (failed, subtype) {
        (false, _) => one_line(subtype, 64),
        (true, "success") => "failed".to_owned(),
        (true, other) => format!("failed: {}", one_line(other, 64)),
    };
    if let Some(turns) = event["num_turns"].as_u64() {
        let _ = write!(text, "  {turns} turns");
    }
    if let Some(millis) = event["duration_ms"].as_u64() {
        let _ = write!(text, "  {}", short(std::time::Duration::from_millis(millis)));
    }
    let output: u64 = event["modelUsage"]
        .as_object()
        .map_or(0, |models| models.values().filter_map(|model| model["outputTokens"].as_u64()).sum());
    if output > 0 {
        let _ = write!(text, "  {} output tokens", count(output));
    }
    if let Some(cost) = event["total_cost_usd"].as_f64() {
        let _ = write!(text, "  ${cost:.4} est.");
    }
    if failed && let Some(message) = event["result"].as_str() {
        let _ = write!(text, "  {}", one_line(message, INPUT));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events as the CLI writes them, shortened to what is read here.
    const EVENTS: &str = concat!(
        r#"{"type":"system","subtype":"init","session_id":"5a5a","model":"claude-sonnet-5","claude_code_version":"2.1.197"}"#,
        "\n",
        r#"{"type":"assistant","message":{"content":[{"type":"text","text":"I will read it.\nThen edit."},{"type":"tool_use","name":"Bash","input":{"command":"git diff\n--stat","timeout":5}}]},"parent_tool_use_id":null}"#,
        "\n",
        r#"{"type":"user","message":{"content":[{"type":"text","text":"prompt"},{"type":"tool_result","content":"done"}]}}"#,
        "\n",
        r#"{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Write","input":{"file_path":"/w/out.txt","content":"x"}}]},"parent_tool_use_id":"toolu_1"}"#,
        "\n",
        r#"{"type":"user","message":{"content":[{"type":"tool_result","is_error":true,"content":[{"type":"text","text":"denied \u001b[31m"}]}]}}"#,
        "\n",
        r#"{"type":"stream_event","event":{"type":"content_block_delta"}}"#,
        "\n",
        r#"{"type":"result","subtype":"success","is_error":true,"num_turns":2,"duration_ms":1250,"result":"API Error: 529","total_cost_usd":0.0016,"modelUsage":{"m":{"outputTokens":1400}}}"#,
        "\n",
    );

    fn told(lines: &[LogLine]) -> String {
        let shown: Vec<_> = lines
            .iter()
            .map(|line| {
                format!("{}{:<9} {}", "  ".repeat(line.depth), line.label, line.text).trim_end().to_owned()
            })
            .collect();
        shown.join("\n")
    }

    #[test]
    fn events_become_lines() {
        insta::assert_snapshot!(told(&Renderer::new(false).push(EVENTS.as_bytes())), @r"
        session   5a5a  model claude-sonnet-5  CLI 2.1.197
        assistant I will read it.
        Then edit.
        tool      Bash git diff --stat
          tool      Write /w/out.txt
        error     denied ␛[31m
        result    failed  2 turns  1.2s  1.4k output tokens  $0.0016 est.  API Error: 529
        ");
    }

    #[test]
    fn full_shows_inputs_and_outputs() {
        insta::assert_snapshot!(told(&Renderer::new(true).push(EVENTS.as_bytes())[1..5]), @r#"
        assistant I will read it.
        Then edit.
        tool      Bash {
          "command": "git diff\n--stat",
          "timeout": 5
        }
        output    done
          tool      Write {
          "content": "x",
          "file_path": "/w/out.txt"
        }
        "#);
    }

    /// What the CLI wrote when it was recorded.
    fn recorded(name: &str) -> Vec<u8> {
        let path = format!("{}/../tests/standin/streams/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    }

    #[test]
    fn recorded_sub_agents_stand_below_the_calls_that_started_them() {
        for name in
            ["agent_general", "ctl_partial_subagent_bash", "subagent_perm", "subagent_bg", "recommended"]
        {
            let lines = Renderer::new(false).push(&recorded(name));
            let nested: Vec<_> = lines.iter().filter(|line| line.parent.is_some()).collect();
            for line in &nested {
                assert_eq!(line.depth, 1, "{name}: {line:?}");
                let before = lines.iter().take_while(|other| !std::ptr::eq(*other, *line));
                let called =
                    before.filter(|other| other.call == line.parent && other.kind == Kind::Tool).count();
                assert_eq!(called, 1, "{name}: the call of {line:?} stands above it");
            }
        }
        insta::assert_snapshot!(told(&Renderer::new(false).push(&recorded("ctl_partial_subagent_bash"))), @r"
        session   ca855aae-20b6-4dda-a3bb-364722a66c36  model claude-sonnet-5  CLI 2.1.197
        tool      Agent general-purpose: stand-in sub-agent
          tool      Bash echo inner
        assistant all done
        result    success  2 turns  0.2s  80 output tokens  $0.0024 est.
        ");
    }

    #[test]
    fn sub_agents_at_once_are_named_where_their_lines_go_on() {
        let call = |id: &str, what: &str, parent: &str| {
            format!(
                r#"{{"type":"assistant","parent_tool_use_id":{parent},"message":{{"content":[{{"type":"tool_use","id":"{id}","name":"Agent","input":{{"subagent_type":"Explore","description":"{what}"}}}}]}}}}"#
            )
        };
        let said = |parent: &str, text: &str| {
            format!(
                r#"{{"type":"assistant","parent_tool_use_id":"{parent}","message":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#
            )
        };
        let lines = [
            call("a", "the north", "null"),
            call("b", "the south", "null"),
            said("a", "I look north"),
            said("a", "still north"),
            said("b", "I look south"),
            call("c", "the deep south", "\"b\""),
            said("c", "I dig"),
            said("a", "north again"),
            said("unseen", "whoever"),
        ];
        let text = lines.join("\n") + "\n";
        insta::assert_snapshot!(told(&Renderer::new(false).push(text.as_bytes())), @r"
        tool      Agent Explore: the north
        tool      Agent Explore: the south
        in        Agent Explore: the north
          assistant I look north
          assistant still north
        in        Agent Explore: the south
          assistant I look south
          tool      Agent Explore: the deep south
            assistant I dig
        in        Agent Explore: the north
          assistant north again
          assistant whoever
        ");
    }

    #[test]
    fn bytes_may_be_cut_anywhere() {
        let whole = Renderer::new(false).push(EVENTS.as_bytes());
        let mut renderer = Renderer::new(false);
        let pieces: Vec<_> = EVENTS.as_bytes().chunks(7).flat_map(|chunk| renderer.push(chunk)).collect();
        assert_eq!(pieces, whole);
    }

    #[test]
    fn output_of_a_program_is_shown_safely() {
        let mut renderer = Renderer::default();
        let mut lines = renderer.push(b"ok \x1b[2J\xff\r\n{\"type\":3}\nno end");
        lines.extend(renderer.finish());
        assert_eq!(told(&lines), "          ok ␛[2J\u{fffd}\n          {\"type\":3}\n          no end");
    }
}
