//! Knows what a command line and an environment add up to: a validated run, or the line the CLI prints
//! when it refuses one. Reads the files the options name. Refuses to start anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::args::{Args, split_rules};
use super::environment::Environment;
use crate::models;

/// How the answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The result text alone.
    Text,
    /// One result object, or with `--verbose` an array of all events.
    Json,
    /// One event a line.
    StreamJson,
}

/// Which conversation the run belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversation {
    /// A new one with this id.
    New(Uuid),
    /// An earlier one, which must exist for this directory.
    Resume(Uuid),
    /// A copy of an earlier one.
    Fork {
        /// The earlier one.
        from: Uuid,
        /// The copy.
        to: Uuid,
    },
}

/// A sub-agent defined by `--agents`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AgentDef {
    /// What it is for.
    pub(super) description: String,
    /// Its system prompt.
    pub(super) prompt: String,
    /// Its model, resolved; none: the parent's.
    pub(super) model: Option<String>,
    /// Turns after which it is stopped.
    pub(super) max_turns: Option<u64>,
}

/// Everything a run needs to know.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) output: Output,
    pub(super) stream_input: bool,
    pub(super) verbose: bool,
    pub(super) partial: bool,
    pub(super) replay_user: bool,
    pub(super) model: String,
    pub(super) fallback_models: Vec<String>,
    pub(super) conversation: Conversation,
    pub(super) persist: bool,
    pub(super) permission_mode: String,
    /// Ask on stdout instead of refusing.
    pub(super) ask: bool,
    /// The offered built-in tools; none: the default set.
    pub(super) tools: Option<Vec<String>>,
    pub(super) allowed: Vec<String>,
    pub(super) disallowed: Vec<String>,
    pub(super) add_dirs: Vec<PathBuf>,
    pub(super) max_turns: Option<u64>,
    pub(super) max_budget_usd: Option<f64>,
    pub(super) agents: BTreeMap<String, AgentDef>,
    pub(super) schema: Option<Value>,
    pub(super) system_prompt: String,
    /// Leave the directory and the like out of the system prompt.
    pub(super) exclude_dynamic: bool,
    /// The prompt on the command line.
    pub(super) prompt: Option<String>,
    pub(super) env: Environment,
    /// The command line as given, for the directive `report`.
    pub(super) argv: Vec<String>,
}

impl Settings {
    /// Pause between events.
    pub(super) const fn delay(&self) -> Duration {
        self.env.delay
    }

    /// Pause for each output token.
    pub(super) const fn token_pause(&self) -> Duration {
        self.env.token
    }

    /// This run's session.
    pub(super) const fn session_id(&self) -> Uuid {
        match self.conversation {
            Conversation::New(id) | Conversation::Resume(id) | Conversation::Fork { to: id, .. } => id,
        }
    }

    /// Puts a run together.
    ///
    /// # Errors
    /// The text for stderr; the exit code is 1.
    pub(super) fn build(args: &Args, argv: Vec<String>, env: Environment) -> Result<Self, String> {
        let output = match args.one("--output-format") {
            Some("stream-json") => Output::StreamJson,
            Some("json") => Output::Json,
            _ => Output::Text,
        };
        let stream_input = args.one("--input-format") == Some("stream-json");
        if !args.has("--print") {
            return Err("Error: the orch stand-in only runs headless; pass -p".to_owned());
        }
        if output == Output::StreamJson && !args.has("--verbose") {
            return Err(
                "Error: When using --print, --output-format=stream-json requires --verbose".to_owned()
            );
        }
        if stream_input && output != Output::StreamJson {
            return Err("Error: --input-format=stream-json requires output-format=stream-json.".to_owned());
        }
        let permission_mode = permission_mode(args, &env)?;
        Ok(Self {
            output,
            stream_input,
            verbose: args.has("--verbose"),
            partial: args.has("--include-partial-messages"),
            replay_user: args.has("--replay-user-messages"),
            model: models::resolve(args.one("--model").unwrap_or("opus[1m]")),
            fallback_models: split_rules(args.many("--fallback-model"))
                .iter()
                .map(|m| models::resolve(m))
                .collect(),
            conversation: conversation(args)?,
            persist: !args.has("--no-session-persistence"),
            permission_mode,
            ask: args.one("--permission-prompt-tool") == Some("stdio"),
            tools: args.has("--tools").then(|| split_rules(args.many("--tools"))),
            allowed: split_rules(args.many("--allowedTools")),
            disallowed: split_rules(args.many("--disallowedTools")),
            add_dirs: args.many("--add-dir").iter().map(PathBuf::from).collect(),
            // As observed: nonsense, 0 and -1 silently mean "no limit".
            max_turns: args
                .one("--max-turns")
                .and_then(|turns| turns.parse().ok())
                .filter(|turns| *turns > 0),
            max_budget_usd: budget(args)?,
            agents: args.one("--agents").map(agents).unwrap_or_default(),
            schema: schema(args)?,
            system_prompt: system_prompt(args)?,
            exclude_dynamic: args.has("--exclude-dynamic-system-prompt-sections"),
            prompt: args.words.first().cloned(),
            env,
            argv,
        })
    }
}

fn permission_mode(args: &Args, env: &Environment) -> Result<String, String> {
    let skip = args.has("--dangerously-skip-permissions");
    let mode = if skip { "bypassPermissions" } else { args.one("--permission-mode").unwrap_or("default") };
    if mode == "bypassPermissions" && env.root && !env.sandbox {
        let why = "cannot be used with root/sudo privileges for security reasons";
        return Err(format!("--dangerously-skip-permissions {why}"));
    }
    Ok(mode.to_owned())
}

fn conversation(args: &Args) -> Result<Conversation, String> {
    let uuid = |text: &str| Uuid::parse_str(text).ok();
    let given = match args.one("--session-id") {
        Some(text) => Some(uuid(text).ok_or("Error: Invalid session ID. Must be a valid UUID.")?),
        None => None,
    };
    if !args.has("--resume") {
        return Ok(Conversation::New(given.unwrap_or_else(Uuid::new_v4)));
    }
    let from = args.one("--resume").and_then(uuid);
    let from = from.ok_or("Error: --resume requires a valid session ID when used with --print.")?;
    match (args.has("--fork-session"), given) {
        (true, given) => Ok(Conversation::Fork { from, to: given.unwrap_or_else(Uuid::new_v4) }),
        (false, None) => Ok(Conversation::Resume(from)),
        (false, Some(_)) => Err("Error: --session-id can only be used with --continue or --resume if \
                                 --fork-session is also specified."
            .to_owned()),
    }
}

fn budget(args: &Args) -> Result<Option<f64>, String> {
    let Some(text) = args.one("--max-budget-usd") else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(usd) if usd > 0.0 && usd.is_finite() => Ok(Some(usd)),
        Ok(_) | Err(_) => Err(format!(
            "error: option '--max-budget-usd <amount>' argument '{text}' is invalid. It must be a number above 0."
        )),
    }
}

/// The agents of `--agents`. As observed, bad JSON and entries without description or prompt are
/// silently left out.
fn agents(text: &str) -> BTreeMap<String, AgentDef> {
    let Ok(Value::Object(map)) = serde_json::from_str(text) else { return BTreeMap::new() };
    let define = |value: &Value| {
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        Some(AgentDef {
            description: field("description")?.to_owned(),
            prompt: field("prompt")?.to_owned(),
            model: field("model").filter(|name| *name != "inherit").map(models::resolve),
            max_turns: value.get("maxTurns").and_then(Value::as_u64),
        })
    };
    map.iter().filter_map(|(name, value)| Some((name.clone(), define(value)?))).collect()
}

fn schema(args: &Args) -> Result<Option<Value>, String> {
    let Some(text) = args.one("--json-schema") else { return Ok(None) };
    match serde_json::from_str(text) {
        Ok(schema @ Value::Object(_)) => Ok(Some(schema)),
        Ok(_) => Err("Error: --json-schema is not valid JSON: it must be an object".to_owned()),
        Err(error) => Err(format!("Error: --json-schema is not valid JSON: {error}")),
    }
}

fn system_prompt(args: &Args) -> Result<String, String> {
    let read = |name: &str, what: &str| match args.one(name) {
        None => Ok(None),
        Some(path) => std::fs::read_to_string(Path::new(path))
            .map(Some)
            .map_err(|_| format!("Error: {what} prompt file not found: {path}")),
    };
    if args.has("--system-prompt") && args.has("--system-prompt-file") {
        return Err("Error: Cannot use both --system-prompt and --system-prompt-file. Please use only one."
            .to_owned());
    }
    let parts = [
        args.one("--system-prompt").map(ToOwned::to_owned),
        read("--system-prompt-file", "System")?,
        args.one("--append-system-prompt").map(ToOwned::to_owned),
        read("--append-system-prompt-file", "Append system")?,
    ];
    Ok(parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::{Conversation, Settings};
    use crate::claude::args::Args;
    use crate::claude::environment::Environment;

    const ID: &str = "11111111-2222-4333-8444-555555555555";

    fn build(more: &[&str]) -> Result<Settings, String> {
        let all = ["-p", "--output-format", "stream-json", "--verbose"].iter().chain(more);
        let args = Args::parse(all.map(ToString::to_string)).unwrap();
        Settings::build(&args, Vec::new(), Environment::for_tests())
    }

    #[test]
    fn sessions_are_new_resumed_or_forked_and_bad_combinations_refused() {
        let id = ID.parse().unwrap();
        assert_eq!(build(&["--session-id", ID]).unwrap().conversation, Conversation::New(id));
        assert_eq!(build(&["--resume", ID]).unwrap().conversation, Conversation::Resume(id));
        assert!(matches!(
            build(&["-r", ID, "--fork-session"]).unwrap().conversation,
            Conversation::Fork { .. }
        ));
        assert!(build(&["--session-id", "notauuid"]).unwrap_err().contains("Must be a valid UUID"));
        assert!(build(&["--resume", ID, "--session-id", ID]).unwrap_err().contains("--fork-session"));
    }

    #[test]
    fn limits_that_are_nonsense_are_ignored_or_refused_like_the_original() {
        assert_eq!(build(&["--max-turns", "abc"]).unwrap().max_turns, None);
        assert_eq!(build(&["--max-turns", "3"]).unwrap().max_turns, Some(3));
        assert!(build(&["--max-budget-usd", "0"]).is_err());
        assert!(
            build(&["--json-schema", "{bad"])
                .unwrap_err()
                .starts_with("Error: --json-schema is not valid JSON")
        );
        assert!(build(&["--agents", "{bad"]).unwrap().agents.is_empty());
        let agents = build(&[
            "--agents",
            r#"{"a":{"description":"d","prompt":"p","model":"haiku"},"b":{"prompt":"p"}}"#,
        ]);
        assert_eq!(agents.unwrap().agents.keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_missing_prompt_file_is_an_error() {
        let error = build(&["--system-prompt-file", "/nonexistent"]).unwrap_err();
        assert_eq!(error, "Error: System prompt file not found: /nonexistent");
    }
}
