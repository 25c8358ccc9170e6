//! One line of the CLI's output as a typed event, with only what orch needs of it. Reads every field
//! defensively: absent, of another type or unknown is never an error. Draws no conclusion.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::ModelUsage;

/// Most values in one line that is understood. A value takes up to about 100 bytes once parsed, so a line takes 100 MB
/// beside its own text at the very most, for as long as it takes to read it.
const MOST_VALUES: usize = 1_000_000;

/// Lines up to this length cannot hold too many values, so they are not counted.
const FEW_VALUES: usize = MOST_VALUES;

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The CLI accepted its arguments and a line of input.
    Init(Init),
    /// A finished block of a model's message.
    Assistant(Assistant),
    /// A tool's result, a sub-agent's prompt, or an echo.
    User(User),
    /// The CLI waits before it asks the API again.
    Retry(Retry),
    /// A subscription window moved.
    RateLimit(RateLimit),
    /// A sub-agent or background command started.
    TaskStarted {
        /// Its id.
        id: String,
        /// Its kind, for people.
        kind: String,
        /// The call that started it.
        call: String,
    },
    /// A sub-agent calls a tool. Of one that another sub-agent started nothing else is told (observed).
    TaskProgress {
        /// Its kind, for people.
        kind: String,
        /// The call that started it.
        call: String,
        /// What it calls.
        tool: String,
        /// Its calls so far.
        calls: u32,
    },
    /// A sub-agent or background command ended.
    TaskEnded {
        /// Its id.
        id: String,
    },
    /// The CLI asks us something.
    ControlRequest {
        /// To be repeated in the answer.
        request_id: String,
        /// What it asks, for example `can_use_tool`.
        subtype: String,
    },
    /// A turn is over.
    Result(Box<ResultLine>),
    /// Something else, by type and subtype.
    Other {
        /// `type` or `type/subtype`.
        kind: String,
    },
    /// Not a JSON object.
    Malformed,
    /// A line over the limit of length, or of values in it.
    Oversized,
}

/// `system/init`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Init {
    /// Session in use.
    pub session_id: Option<String>,
    /// Model in use.
    pub model: Option<String>,
    /// Sub-agents that were understood: bad JSON in `--agents` is dropped silently by the CLI. Absent: not said.
    pub agents: Option<Vec<String>>,
    /// Tools on offer; the tool for sub-agents is `Task` here and `Agent` elsewhere. Absent: not said.
    pub tools: Option<Vec<String>>,
    /// Tool servers and their state, such as `connected` or `failed`.
    pub mcp_servers: Vec<(String, String)>,
    /// Permission mode in force.
    pub permission_mode: Option<String>,
    /// CLI version.
    pub version: Option<String>,
}

/// `assistant`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assistant {
    /// The same for every block of one message.
    pub message_id: String,
    /// Model name.
    pub model: String,
    /// Made by the CLI itself to tell of an error.
    pub synthetic: bool,
    /// The error, on a synthetic message.
    pub error: Option<String>,
    /// Whether the main thread spoke, not a sub-agent.
    pub main_thread: bool,
    /// The call that started the sub-agent that spoke; empty for the main thread.
    pub parent: String,
    /// What kind of sub-agent spoke; may be empty.
    pub subagent: String,
    /// Tokens as known at the message's start. Output is far too low there.
    pub usage: ModelUsage,
    /// Bytes of text, thinking and tool input in this block.
    pub written: u64,
    /// Tools called in this block.
    pub tools: Vec<Call>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// Its id.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// The beginning of what it is to act on, for people; may be empty.
    pub subject: String,
    /// Kind of the sub-agent that it starts; empty for every other tool.
    pub starts: String,
}

/// `user`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct User {
    /// Whether it belongs to the main thread.
    pub main_thread: bool,
    /// Tool results in it.
    pub tool_results: u32,
}

/// `system/api_retry`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retry {
    /// Which retry.
    pub attempt: u64,
    /// Of how many.
    pub max_retries: u64,
    /// HTTP status; absent for network errors and timeouts.
    pub status: Option<u16>,
    /// How long the CLI waits, in milliseconds.
    pub delay_ms: u64,
    /// The CLI's word for it.
    pub error: String,
}

/// `rate_limit_event`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RateLimit {
    /// `allowed`, `allowed_warning` or `rejected`.
    pub status: String,
    /// When the window resets, in seconds since 1970.
    pub resets_at: Option<u64>,
    /// Which window.
    pub window: String,
}

/// `result`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResultLine {
    /// Not a verdict: failures of the API are `success` here.
    pub subtype: String,
    /// Whether the turn failed.
    pub is_error: Option<bool>,
    /// HTTP status of the API's refusal.
    pub api_error_status: Option<u16>,
    /// Turns of this line of input.
    pub num_turns: u64,
    /// The answer, or the text of the failure.
    pub text: Option<String>,
    /// Further texts of a failure.
    pub errors: Vec<String>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// Why the turn ended.
    pub terminal_reason: Option<String>,
    /// Money of this process so far, in millionths of a US dollar.
    pub cost_micro_usd: Option<u64>,
    /// Tokens and money of this process so far, by model.
    pub models: BTreeMap<String, ModelUsage>,
    /// Calls that were denied: `Tool`, or `Tool(what it was to do)`.
    pub denied_tools: Vec<String>,
    /// The structured answer as JSON.
    pub structured: Option<String>,
    /// Session.
    pub session_id: Option<String>,
}

impl Event {
    /// Parses one line.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        if line.len() > FEW_VALUES && values_at_most(line) > MOST_VALUES {
            return Self::Oversized;
        }
        let Ok(value) = serde_json::from_slice::<Value>(line) else { return Self::Malformed };
        if !value.is_object() {
            return Self::Malformed;
        }
        let (kind, subtype) = (text(&value, "type"), text(&value, "subtype"));
        match (kind.as_str(), subtype.as_str()) {
            ("system", "init") => Self::Init(init(&value)),
            ("system", "api_retry") => Self::Retry(retry(&value)),
            ("system", "task_started") => {
                let (id, call) = (text(&value, "task_id"), text(&value, "tool_use_id"));
                Self::TaskStarted { id, kind: task_kind(&value), call }
            }
            ("system", "task_progress") => Self::TaskProgress {
                kind: task_kind(&value),
                call: text(&value, "tool_use_id"),
                tool: text(&value, "last_tool_name"),
                calls: value
                    .get("usage")
                    .map_or(0, |usage| u32::try_from(number(usage, "tool_uses")).unwrap_or(u32::MAX)),
            },
            ("system", "task_updated" | "task_notification") => ended_task(&value),
            ("assistant", _) => Self::Assistant(assistant(&value)),
            ("user", _) => Self::User(user(&value)),
            ("rate_limit_event", _) => Self::RateLimit(rate_limit(&value)),
            ("control_request", _) => Self::ControlRequest {
                request_id: text(&value, "request_id"),
                subtype: value.get("request").map(|request| text(request, "subtype")).unwrap_or_default(),
            },
            ("result", _) => Self::Result(Box::new(result(value, subtype))),
            (_, "") => Self::Other { kind },
            (_, _) => Self::Other { kind: format!("{kind}/{subtype}") },
        }
    }
}

/// An upper bound of the values in a line of JSON: what separates or opens them outside of texts.
fn values_at_most(line: &[u8]) -> usize {
    let (mut count, mut in_text, mut escaped) = (1, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

fn init(value: &Value) -> Init {
    Init {
        session_id: opt_text(value, "session_id"),
        model: opt_text(value, "model"),
        agents: opt_texts(value, "agents"),
        tools: opt_texts(value, "tools"),
        mcp_servers: list(value, "mcp_servers")
            .map(|server| (text(server, "name"), text(server, "status")))
            .collect(),
        permission_mode: opt_text(value, "permissionMode"),
        version: opt_text(value, "claude_code_version"),
    }
}

fn assistant(value: &Value) -> Assistant {
    let empty = Value::Null;
    let message = value.get("message").unwrap_or(&empty);
    let model = text(message, "model");
    let usage = message.get("usage").unwrap_or(&empty);
    let mut found = Assistant {
        message_id: text(message, "id"),
        synthetic: model == "<synthetic>",
        model,
        error: opt_text(value, "error"),
        main_thread: is_main_thread(value),
        parent: text(value, "parent_tool_use_id"),
        subagent: text(value, "subagent_type"),
        usage: ModelUsage {
            input_tokens: number(usage, "input_tokens"),
            output_tokens: number(usage, "output_tokens"),
            cache_read_tokens: number(usage, "cache_read_input_tokens"),
            cache_write_tokens: number(usage, "cache_creation_input_tokens"),
            cost_micro_usd: 0,
        },
        ..Assistant::default()
    };
    for block in list(message, "content") {
        found.written += written(block);
        if text(block, "type") == "tool_use" {
            found.tools.push(call(block));
        }
    }
    if let Some(Value::String(content)) = message.get("content") {
        found.written += content.len() as u64;
    }
    found
}

fn written(block: &Value) -> u64 {
    let texts =
        ["text", "thinking"].iter().filter_map(|key| block.get(key)?.as_str()).map(str::len).sum::<usize>();
    let input = block.get("input").map_or(0, |input| input.to_string().len());
    (texts + input) as u64
}

/// `message.content` is an array or, now and then, a string.
fn user(value: &Value) -> User {
    let results = value.get("message").map_or(0, |message| {
        list(message, "content").filter(|block| text(block, "type") == "tool_result").count()
    });
    User { main_thread: is_main_thread(value), tool_results: u32::try_from(results).unwrap_or(u32::MAX) }
}

fn retry(value: &Value) -> Retry {
    Retry {
        attempt: number(value, "attempt"),
        max_retries: number(value, "max_retries"),
        status: status(value, "error_status"),
        // A cast from a float saturates, and takes NaN and negative waits to 0.
        delay_ms: value.get("retry_delay_ms").and_then(Value::as_f64).map_or(0, |delay| delay as u64),
        error: text(value, "error"),
    }
}

fn rate_limit(value: &Value) -> RateLimit {
    let info = value.get("rate_limit_info").unwrap_or(&Value::Null);
    RateLimit {
        status: text(info, "status"),
        resets_at: info.get("resetsAt").and_then(Value::as_u64),
        window: text(info, "rateLimitType"),
    }
}

fn task_kind(value: &Value) -> String {
    opt_text(value, "subagent_type").unwrap_or_else(|| text(value, "task_type"))
}

fn ended_task(value: &Value) -> Event {
    let status = opt_text(value, "status")
        .or_else(|| value.get("patch").and_then(|patch| opt_text(patch, "status")))
        .unwrap_or_default();
    match status.as_str() {
        "" | "running" | "pending" => Event::Other { kind: format!("system/{}", text(value, "subtype")) },
        _ => Event::TaskEnded { id: text(value, "task_id") },
    }
}

fn result(mut value: Value, subtype: String) -> ResultLine {
    let structured = value.get_mut("structured_output").map(Value::take).filter(|answer| !answer.is_null());
    ResultLine {
        subtype,
        is_error: value.get("is_error").and_then(Value::as_bool),
        api_error_status: status(&value, "api_error_status"),
        num_turns: number(&value, "num_turns"),
        text: opt_text(&value, "result"),
        errors: list(&value, "errors").filter_map(Value::as_str).map(str::to_owned).collect(),
        stop_reason: opt_text(&value, "stop_reason"),
        terminal_reason: opt_text(&value, "terminal_reason"),
        cost_micro_usd: value.get("total_cost_usd").and_then(Value::as_f64).map(micro_usd),
        models: models(&value),
        denied_tools: list(&value, "permission_denials").map(denied_call).collect(),
        structured: structured.map(|answer| answer.to_string()),
        session_id: opt_text(&value, "session_id"),
    }
}

/// A denied call in the form of a permission rule: the tool and the beginning of what it was to act on.
fn denied_call(denial: &Value) -> String {
    let name = text(denial, "tool_name");
    match subject(denial.get("tool_input")) {
        subject if subject.is_empty() => name,
        subject => format!("{name}({subject})"),
    }
}

fn call(block: &Value) -> Call {
    let input = block.get("input");
    let starts = input.map(|input| text(input, "subagent_type")).unwrap_or_default();
    Call { id: text(block, "id"), name: text(block, "name"), subject: subject(input), starts }
}

/// The beginning of what a call is to act on, on one line; empty where its input does not say.
fn subject(input: Option<&Value>) -> String {
    const SUBJECTS: [&str; 8] =
        ["command", "file_path", "notebook_path", "path", "url", "pattern", "subagent_type", "skill"];
    const LONGEST: usize = 40;
    let found = input.and_then(|input| SUBJECTS.iter().find_map(|key| opt_text(input, key)));
    // A call may hold megabytes, and only the beginning is told.
    let found = found.map(|text| text.chars().take(LONGEST * 8).collect::<String>()).unwrap_or_default();
    let words = found.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LONGEST) {
        None => words,
        Some((end, _)) => format!("{}…", words[..end].trim_end()),
    }
}

fn models(value: &Value) -> BTreeMap<String, ModelUsage> {
    let rows = value.get("modelUsage").and_then(Value::as_object).into_iter().flatten();
    rows.map(|(model, row)| {
        let usage = ModelUsage {
            input_tokens: number(row, "inputTokens"),
            output_tokens: number(row, "outputTokens"),
            cache_read_tokens: number(row, "cacheReadInputTokens"),
            cache_write_tokens: number(row, "cacheCreationInputTokens"),
            cost_micro_usd: row.get("costUSD").and_then(Value::as_f64).map_or(0, micro_usd),
        };
        (model.clone(), usage)
    })
    .collect()
}

/// US dollars to millionths, rounded; nonsense is nothing.
fn micro_usd(usd: f64) -> u64 {
    // A cast from a float saturates, and takes NaN and negative amounts to 0.
    (usd * 1e6).round() as u64
}

fn is_main_thread(value: &Value) -> bool {
    value.get("parent_tool_use_id").is_none_or(Value::is_null)
}

fn status(value: &Value, key: &str) -> Option<u16> {
    value.get(key)?.as_u64().and_then(|status| u16::try_from(status).ok())
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn opt_text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

fn opt_texts(value: &Value, key: &str) -> Option<Vec<String>> {
    let texts = value.get(key)?.as_array()?.iter().filter_map(Value::as_str);
    Some(texts.map(str::to_owned).collect())
}

fn text(value: &Value, key: &str) -> String {
    opt_text(value, key).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_denied_call_is_named_with_what_it_was_to_do() {
        let named = |denial: Value| denied_call(&denial);
        let call =
            |tool: &str, input: Value| json!({"tool_name": tool, "tool_use_id": "t", "tool_input": input});
        assert_eq!(
            named(call("Bash", json!({"command": "rm -rf\n  /", "description": "d"}))),
            "Bash(rm -rf /)"
        );
        assert_eq!(
            named(call("Write", json!({"file_path": "/etc/passwd", "content": "x"}))),
            "Write(/etc/passwd)"
        );
        let long = named(call("Bash", json!({"command": "é".repeat(99)})));
        assert_eq!(long, format!("Bash({}…)", "é".repeat(40)));
        for nothing in [json!({}), json!({"command": " "}), json!({"command": 7}), Value::Null] {
            assert_eq!(named(call("Bash", nothing)), "Bash");
        }
        assert_eq!(named(json!({"tool_name": "Bash"})), "Bash");
    }

    #[test]
    fn a_result_gives_its_figures_in_millionths() {
        let line = br#"{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"cached","total_cost_usd":0.15150000000000002,"modelUsage":{"claude-opus-4-8[1m]":{"inputTokens":10,"outputTokens":50,"cacheReadInputTokens":30000,"cacheCreationInputTokens":2000,"costUSD":0.0288}},"permission_denials":[{"tool_name":"Bash"}],"structured_output":{"n":3}}"#;
        let Event::Result(result) = Event::parse(line) else { panic!("not a result") };
        assert_eq!(
            (result.is_error, result.num_turns, result.cost_micro_usd),
            (Some(false), 1, Some(151_500))
        );
        assert_eq!(result.models["claude-opus-4-8[1m]"].cost_micro_usd, 28_800);
        assert_eq!(result.models["claude-opus-4-8[1m]"].cache_read_tokens, 30_000);
        assert_eq!(
            (result.denied_tools, result.structured.as_deref()),
            (vec!["Bash".to_owned()], Some(r#"{"n":3}"#))
        );
    }

    #[test]
    fn fields_of_a_wrong_type_are_absent() {
        let line = br#"{"type":"result","subtype":7,"is_error":"no","num_turns":"3","result":[1],"total_cost_usd":"x","modelUsage":[1],"permission_denials":{},"errors":"x","structured_output":null,"api_error_status":99999999}"#;
        assert_eq!(Event::parse(line), Event::Result(Box::default()));
        assert_eq!(Event::parse(br#"{"type":"result","total_cost_usd":-1}"#), {
            let result = ResultLine { cost_micro_usd: Some(0), ..ResultLine::default() };
            Event::Result(Box::new(result))
        });
    }

    #[test]
    fn content_may_be_a_string() {
        let user = Event::parse(br#"{"type":"user","message":{"role":"user","content":"<local>"}}"#);
        assert_eq!(user, Event::User(User { main_thread: true, tool_results: 0 }));
        let Event::Assistant(said) = Event::parse(br#"{"type":"assistant","message":{"content":"four"}}"#)
        else {
            panic!("not an assistant")
        };
        assert_eq!(said.written, 4);
    }

    #[test]
    fn a_sub_agents_call_is_not_of_the_main_thread() {
        let line = br#"{"type":"assistant","message":{"id":"m","model":"x","content":[{"type":"tool_use","name":"Bash","input":{"a":1}}],"usage":{"input_tokens":100}},"parent_tool_use_id":"toolu_1"}"#;
        let Event::Assistant(said) = Event::parse(line) else { panic!("not an assistant") };
        assert!(!said.main_thread && !said.synthetic);
        assert_eq!((said.tools[0].name.as_str(), said.usage.input_tokens, said.written), ("Bash", 100, 7));
        assert_eq!(said.parent, "toolu_1");
    }

    #[test]
    fn a_line_of_very_many_values_is_not_parsed_and_one_of_a_long_text_is() {
        let many = format!("{{\"type\":\"x\",\"a\":[{}1]}}", "1,".repeat(MOST_VALUES));
        assert_eq!(Event::parse(many.as_bytes()), Event::Oversized);
        let long = format!("{{\"type\":\"x\",\"a\":\"\\\\\\\"{}\"}}", ",[{".repeat(MOST_VALUES));
        assert_eq!(Event::parse(long.as_bytes()), Event::Other { kind: "x".to_owned() });
        assert_eq!(values_at_most(br#"{"a,[":["\\",{}],"b":1}"#), 6);
    }

    #[test]
    fn what_the_cli_took_over_is_told_at_its_start() {
        let line = br#"{"type":"system","subtype":"init","tools":["Task"],"agents":["a",7],"permissionMode":"plan","mcp_servers":[{"name":"d","status":"failed"},3]}"#;
        let Event::Init(init) = Event::parse(line) else { panic!("not an init") };
        assert_eq!((init.tools, init.agents), (Some(vec!["Task".to_owned()]), Some(vec!["a".to_owned()])));
        assert_eq!(init.mcp_servers[0], ("d".to_owned(), "failed".to_owned()));
        assert_eq!(init.permission_mode.as_deref(), Some("plan"));
    }

    #[test]
    fn a_task_that_goes_on_has_not_ended() {
        let line = |status: &str| {
            format!(
                r#"{{"type":"system","subtype":"task_updated","task_id":"t","patch":{{"status":"{status}"}}}}"#
            )
        };
        assert_eq!(Event::parse(line("completed").as_bytes()), Event::TaskEnded { id: "t".to_owned() });
        assert!(matches!(Event::parse(line("running").as_bytes()), Event::Other { .. }));
    }
}
