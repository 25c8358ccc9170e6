//! What a worker gives the CLI as JSON, checked before the start: the CLI drops a malformed sub-agent or a settings file
//! without a word, and a misspelt field too. Pure. Fields a newer CLI may know are let through only where
//! ignoring them would do no harm.

use serde_json::{Map, Value};

use super::super::environment;
use super::args::{ArgsError, LONGEST_JSON, PERMISSION_MODES};

/// Fields of a sub-agent the CLI was seen to read, or names in its own files. A misspelt one (`max_turns`) would be
/// ignored, and with it a limit.
const SUBAGENT_FIELDS: [&str; 16] = [
    "background",
    "color",
    "description",
    "disallowedTools",
    "effort",
    "hooks",
    "initialPrompt",
    "isolation",
    "maxTurns",
    "mcpServers",
    "memory",
    "model",
    "permissionMode",
    "prompt",
    "skills",
    "tools",
];

/// Setting sources a worker may open. The user's own are not among them: that directory belongs to the conversation,
/// and a task could write there what the next attempt would execute.
const SETTING_SOURCES: [&str; 2] = ["project", "local"];

/// Settings that decide whose credential is used: that is for the agent's pools.
const CREDENTIAL_SETTINGS: [&str; 5] =
    ["apiKeyHelper", "awsAuthRefresh", "awsCredentialExport", "forceLoginMethod", "forceLoginOrgUUID"];

/// A JSON object of at most [`LONGEST_JSON`] bytes.
///
/// # Errors
/// Says what is wrong with it.
pub fn json_object(what: &'static str, text: &str) -> Result<Value, ArgsError> {
    if text.len() > LONGEST_JSON {
        return Err(bad(what, format!("have {} bytes, {LONGEST_JSON} are allowed", text.len())));
    }
    let value: Value =
        serde_json::from_str(text).map_err(|error| bad(what, format!("is not JSON: {error}")))?;
    if !value.is_object() {
        return Err(bad(what, "is not a JSON object".to_owned()));
    }
    Ok(value)
}

/// Sub-agents for `--agents`.
///
/// # Errors
/// When the CLI would drop one of them or a field of one.
pub fn subagents(text: &str) -> Result<Value, ArgsError> {
    let what = "the sub-agents";
    let agents = json_object(what, text)?;
    for (name, agent) in agents.as_object().into_iter().flatten() {
        for field in ["description", "prompt"] {
            if agent.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                return Err(bad(what, format!("lack a {field} for {name:?}")));
            }
        }
        for (field, value) in agent.as_object().into_iter().flatten() {
            if !subagent_field_is_good(field, value) {
                return Err(bad(what, format!("have a {field:?} for {name:?} that the CLI would ignore")));
            }
        }
    }
    Ok(agents)
}

fn subagent_field_is_good(field: &str, value: &Value) -> bool {
    match field {
        "tools" | "disallowedTools" => texts(value).is_some(),
        "model" => value.as_str().is_some_and(|model| !model.trim().is_empty()),
        "maxTurns" => value.as_u64().is_some_and(|turns| turns > 0),
        "permissionMode" => value.as_str().is_some_and(|mode| PERMISSION_MODES.contains(&mode)),
        _ => SUBAGENT_FIELDS.contains(&field),
    }
}

/// A schema for `--json-schema`. It becomes the input of a tool, which is an object always.
///
/// # Errors
/// When it is none.
pub fn schema(text: &str) -> Result<Value, ArgsError> {
    let what = "the schema of the answer";
    let schema = json_object(what, text)?;
    match schema.get("type") {
        None => Ok(schema),
        Some(Value::String(kind)) if kind == "object" => Ok(schema),
        Some(_) => Err(bad(what, "describes no object; wrap it in one".to_owned())),
    }
}

/// Setting sources for `--setting-sources`.
///
/// # Errors
/// When one is not on offer.
pub fn setting_sources(sources: &[String]) -> Result<String, ArgsError> {
    match sources.iter().find(|source| !SETTING_SOURCES.contains(&source.as_str())) {
        Some(bad) => Err(ArgsError::Word { what: "the setting source", value: bad.clone() }),
        None => Ok(sources.join(",")),
    }
}

/// Settings for the file of `--settings`. Empty text means none.
///
/// # Errors
/// When the CLI would ignore them, or when they would change whose credential is used or where it is sent.
pub fn settings(text: &str) -> Result<Option<Value>, ArgsError> {
    let what = "the worker's settings";
    if text.trim().is_empty() {
        return Ok(None);
    }
    let settings = json_object(what, text)?;
    for (name, value) in settings.as_object().into_iter().flatten() {
        if CREDENTIAL_SETTINGS.contains(&name.as_str()) {
            return Err(bad(what, format!("set {name}; credentials come from the agent's pools")));
        }
        let good = match name.as_str() {
            "env" => check_env(what, value)?,
            "permissions" => permissions_are_good(value),
            "hooks" => hooks_are_good(value),
            "model" => value.is_string(),
            _ => true,
        };
        if !good {
            return Err(bad(
                what,
                format!("have a malformed {name}, for which the CLI would ignore all of them"),
            ));
        }
    }
    Ok(Some(settings))
}

/// Variables a worker sets, under the same rule as those of a request: an address of another API here would be sent
/// the credential.
fn check_env(what: &'static str, env: &Value) -> Result<bool, ArgsError> {
    let Some(env) = env.as_object() else { return Ok(false) };
    for (name, value) in env {
        let Some(value) = value.as_str() else { return Ok(false) };
        environment::check(name, value).map_err(|error| bad(what, format!("are refused: {error}")))?;
    }
    Ok(true)
}

fn permissions_are_good(permissions: &Value) -> bool {
    let Some(fields) = permissions.as_object() else { return false };
    fields.iter().all(|(name, value)| match name.as_str() {
        "allow" | "deny" | "ask" | "additionalDirectories" => texts(value).is_some(),
        "defaultMode" => value.as_str().is_some_and(|mode| PERMISSION_MODES.contains(&mode)),
        _ => true,
    })
}

/// `{"PreToolUse":[{"matcher":"Bash","hooks":[{"type":"command","command":"…"}]}]}`.
fn hooks_are_good(hooks: &Value) -> bool {
    let group_is_good = |group: &Value| {
        let matcher = group.get("matcher").is_none_or(Value::is_string);
        let hooks = group.get("hooks").and_then(Value::as_array);
        matcher
            && hooks
                .is_some_and(|hooks| hooks.iter().all(|hook| hook.get("type").is_some_and(Value::is_string)))
    };
    let event_is_good =
        |groups: &Value| groups.as_array().is_some_and(|groups| groups.iter().all(group_is_good));
    hooks.as_object().is_some_and(|events| events.values().all(event_is_good))
}

/// Tool servers for the file of `--mcp-config`. Empty text means none.
///
/// # Errors
/// When the CLI would refuse or ignore one.
pub fn tool_servers(text: &str) -> Result<Option<Value>, ArgsError> {
    let what = "the worker's tool servers";
    if text.trim().is_empty() {
        return Ok(None);
    }
    let config = json_object(what, text)?;
    let Some(servers) = config.get("mcpServers").and_then(Value::as_object) else {
        return Err(bad(what, "lack the object mcpServers".to_owned()));
    };
    for (name, server) in servers {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(bad(what, format!("have a name {name:?}; letters, digits, - and _ are allowed")));
        }
        if !server.as_object().is_some_and(server_is_good) {
            let why = format!("lack a command, or a url with its type, for {name:?}");
            return Err(bad(what, why));
        }
    }
    Ok(Some(config))
}

fn server_is_good(server: &Map<String, Value>) -> bool {
    let text = |key: &str| server.get(key).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    let well_formed = server.get("args").is_none_or(|args| texts(args).is_some())
        && server
            .get("env")
            .is_none_or(|env| env.as_object().is_some_and(|env| env.values().all(Value::is_string)));
    well_formed
        && match text("type").unwrap_or("stdio") {
            "stdio" => text("command").is_some(),
            "http" | "sse" => text("url").is_some(),
            _ => false,
        }
}

fn texts(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

fn bad(what: &'static str, why: String) -> ArgsError {
    ArgsError::Json { what, why }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told<T>(result: Result<T, ArgsError>) -> String {
        result.err().expect("it is refused").to_string()
    }

    fn agent(more: &Value) -> String {
        let mut agent = json!({"description": "helps", "prompt": "Help."});
        agent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "a": agent }).to_string()
    }

    #[test]
    fn a_sub_agent_that_would_be_dropped_or_lose_a_limit_is_refused() {
        let good = json!({"tools": ["Bash"], "disallowedTools": [], "model": "haiku", "maxTurns": 3,
            "permissionMode": "plan", "skills": ["x"]});
        subagents(&agent(&good)).unwrap();
        for bad in [
            json!({"maxTurns": 0}),
            json!({"maxTurns": "3"}),
            json!({"max_turns": 3}),
            json!({"tools": "Bash"}),
            json!({"tools": [1]}),
            json!({"model": ""}),
            json!({"permissionMode": "yes"}),
        ] {
            assert!(told(subagents(&agent(&bad))).contains("that the CLI would ignore"), "{bad}");
        }
        assert_eq!(told(subagents(r#"{"a":{"prompt":"x"}}"#)), "the sub-agents lack a description for \"a\"");
        assert_eq!(told(subagents(r#"{"a":7}"#)), "the sub-agents lack a description for \"a\"");
        assert_eq!(told(subagents("[]")), "the sub-agents is not a JSON object");
    }

    #[test]
    fn a_schema_describes_an_object() {
        schema(r#"{"type":"object"}"#).unwrap();
        schema(r#"{"properties":{}}"#).unwrap();
        assert_eq!(
            told(schema(r#"{"type":"array"}"#)),
            "the schema of the answer describes no object; wrap it in one"
        );
        assert!(told(schema("{")).starts_with("the schema of the answer is not JSON"));
    }

    #[test]
    fn only_sources_of_the_working_directory_can_be_opened() {
        let sources =
            |list: &[&str]| setting_sources(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(sources(&[]).unwrap(), "");
        assert_eq!(sources(&["project", "local"]).unwrap(), "project,local");
        assert_eq!(
            told(sources(&["project", "user"])),
            "the setting source \"user\" cannot be passed to the CLI"
        );
    }

    #[test]
    fn settings_that_would_be_ignored_or_move_the_credential_are_refused() {
        assert_eq!(settings(" ").unwrap(), None);
        let good = json!({"env": {"COLOUR": "red"}, "model": "haiku", "newer": [1],
            "permissions": {"allow": ["Bash"], "defaultMode": "plan"},
            "hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "true"}]}]}});
        assert_eq!(settings(&good.to_string()).unwrap(), Some(good));
        for malformed in [
            json!({"env": {"A": 1}}),
            json!({"env": []}),
            json!({"permissions": {"allow": "Bash"}}),
            json!({"permissions": {"defaultMode": "sure"}}),
            json!({"hooks": {"PreToolUse": {"hooks": []}}}),
            json!({"hooks": {"PreToolUse": [{"matcher": 1, "hooks": []}]}}),
            json!({"hooks": {"PreToolUse": [{"hooks": [{"command": "true"}]}]}}),
            json!({"model": 7}),
        ] {
            assert!(told(settings(&malformed.to_string())).contains("have a malformed "), "{malformed}");
        }
        assert_eq!(
            told(settings(r#"{"env":{"ANTHROPIC_BASE_URL":"http://x"}}"#)),
            "the worker's settings are refused: the environment variable ANTHROPIC_BASE_URL may not be set by a request"
        );
        assert!(told(settings(r#"{"apiKeyHelper":"cat key"}"#)).contains("the agent's pools"));
    }

    #[test]
    fn tool_servers_must_be_startable() {
        assert_eq!(tool_servers("").unwrap(), None);
        let good = json!({"mcpServers": {"demo": {"command": "demo", "args": ["-x"], "env": {"A": "b"}},
            "far": {"type": "http", "url": "https://tools.example"}}});
        assert_eq!(tool_servers(&good.to_string()).unwrap(), Some(good));
        for bad in [
            json!({}),
            json!({"mcpServers": []}),
            json!({"mcpServers": {"a": {}}}),
            json!({"mcpServers": {"a": {"url": "https://x"}}}),
            json!({"mcpServers": {"a": {"type": "carrier-pigeon", "command": "x"}}}),
            json!({"mcpServers": {"a": {"command": "x", "args": "y"}}}),
            json!({"mcpServers": {"a b": {"command": "x"}}}),
        ] {
            told(tool_servers(&bad.to_string()));
        }
    }
}
