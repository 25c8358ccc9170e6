//! The command line and environment of the CLI for one attempt. Pure; every rule here was observed on the
//! CLI, which ignores or misreads much of what it is given without saying so. What it would ignore is
//! refused.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

use super::super::ClaudeWork;
use super::checks;
use crate::gateway::spec::LONGEST_HOLD;

/// Longest JSON passed as one argument, in bytes: the kernel allows 128 KiB for one.
pub const LONGEST_JSON: usize = 96 * 1024;

/// Longest prompt in bytes: the CLI refuses input of more than about 10 MB.
pub const LONGEST_PROMPT: usize = 8 * 1024 * 1024;

/// Longest argument in bytes, its end included: a limit of the kernel.
const LONGEST_ARGUMENT: usize = 128 * 1024 - 1;

/// Permission mode where a worker names none: what no rule allows is refused, and nobody is asked.
const DEFAULT_PERMISSION_MODE: &str = "dontAsk";

/// The modes the CLI knows.
pub const PERMISSION_MODES: [&str; 6] =
    ["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan"];

/// The CLI retries a refused key and an overloaded API alike, ten times over three minutes by default. The
/// coordinator retries better: it knows who else uses the credential.
const MAX_RETRIES: &str = "2";

/// How long the CLI waits for the headers of an answer, in milliseconds; five minutes by default.
const API_TIMEOUT_MS: &str = "120000";

/// Behind a gateway a refusal that cannot be retried says so itself, and what is left are holds of the gateway that took too
/// long: the most retries that the CLI knows, each after [`crate::gateway::spec::LONGEST_HOLD`].
const GATEWAY_RETRIES: &str = "15";

/// How long the API may take to begin an answer, beside the time the gateway holds a request, in milliseconds.
const API_BEGINS_MS: u64 = 300_000;

/// Variable of a block at the beginning of the system prompt that changes with the task's words, which would be the first
/// thing that is not the same for all tasks of a worker: nothing behind it would be read from the cache.
const ATTRIBUTION: &str = "CLAUDE_CODE_ATTRIBUTION_HEADER";

/// Variable of the place of the API.
const BASE_URL: &str = "ANTHROPIC_BASE_URL";

/// Why an attempt cannot be put on a command line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArgsError {
    /// The prompt is empty.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt is too long.
    #[error("the prompt has {bytes} bytes, {LONGEST_PROMPT} are allowed")]
    LongPrompt {
        /// Its length.
        bytes: usize,
    },
    /// A word would be taken for an option, or cannot be passed.
    #[error("{what} {value:?} cannot be passed to the CLI")]
    Word {
        /// What it is.
        what: &'static str,
        /// The word.
        value: String,
    },
    /// JSON is malformed, of the wrong shape, or too long.
    #[error("{what} {why}")]
    Json {
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// An argument is too long for the kernel.
    #[error("an argument has {bytes} bytes, {LONGEST_ARGUMENT} are allowed; name fewer tools or rules")]
    LongArgument {
        /// Its length.
        bytes: usize,
    },
    /// Nothing is left to spend. Reported as outcome `budget`.
    #[error("the budget is spent")]
    NoBudget,
}

/// Directories and files of the attempt, absolute paths.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// `HOME`.
    pub home: &'a Path,
    /// The CLI's configuration.
    pub config: &'a Path,
    /// Temporary files.
    pub tmp: &'a Path,
    /// What the task hands over: a working directory besides the current one.
    pub out: &'a Path,
    /// The workspace it is shown, where it has one: another working directory.
    pub workspace: Option<&'a Path>,
    /// File of the system prompt.
    pub system_prompt: &'a Path,
    /// File of the worker's settings, where it has any.
    pub settings: Option<&'a Path>,
    /// File of the worker's tool servers, where it has any.
    pub mcp_config: Option<&'a Path>,
    /// Whether the conversation has a session to resume.
    pub resume: bool,
}

/// The arguments.
///
/// # Errors
/// See [`ArgsError`].
pub fn arguments(work: &ClaudeWork, place: Place<'_>) -> Result<Vec<String>, ArgsError> {
    let worker = &work.worker;
    let mut args: Vec<String> =
        ["-p", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json"]
            .map(str::to_owned)
            .into();
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
    option("--model", word("the model", &worker.model)?);
    if !worker.fallback_model.is_empty() {
        option("--fallback-model", fallback(&worker.fallback_model)?);
    }
    option(if place.resume { "--resume" } else { "--session-id" }, work.session.to_string());
    option("--add-dir", path("the output directory", place.out)?);
    if let Some(dir) = place.workspace {
        option("--add-dir", path("the workspace", dir)?);
    }
    option("--setting-sources", checks::setting_sources(&worker.setting_sources)?);
    if let Some(file) = place.settings {
        option("--settings", path("the settings", file)?);
    }
    if let Some(file) = place.mcp_config {
        option("--mcp-config", path("the tool servers", file)?);
    }
    option("--permission-mode", permission_mode(&worker.permission_mode)?);
    option("--tools", tools(&worker.tools)?);
    if !worker.allowed_tools.is_empty() {
        option("--allowedTools", rules(&worker.allowed_tools)?);
    }
    if !worker.disallowed_tools.is_empty() {
        option("--disallowedTools", rules(&worker.disallowed_tools)?);
    }
    option("--system-prompt-file", path("the system prompt", place.system_prompt)?);
    if !worker.subagents_json.trim().is_empty() {
        option("--agents", checks::subagents(&worker.subagents_json)?.to_string());
    }
    if let Some(schema) = &work.output_schema {
        option("--json-schema", checks::schema(schema)?.to_string());
    }
    if let Some(budget) = work.budget_micro_usd {
        option("--max-budget-usd", dollars(budget)?);
    }
    args.push("--strict-mcp-config".to_owned());
    match args.iter().find(|arg| arg.len() > LONGEST_ARGUMENT) {
        Some(long) => Err(ArgsError::LongArgument { bytes: long.len() }),
        None => Ok(args),
    }
}

/// Adds the CLI's own variables to a child's environment. The key is not among them.
///
/// # Errors
/// When a path is not UTF-8.
pub fn environment(
    mut env: BTreeMap<String, String>,
    place: Place<'_>,
    api_base_url: Option<&str>,
) -> Result<BTreeMap<String, String>, ArgsError> {
    let tmp = path("the temporary directory", place.tmp)?;
    let own = [
        ("HOME", path("the home", place.home)?),
        ("CLAUDE_CONFIG_DIR", path("the configuration directory", place.config)?),
        ("CLAUDE_CODE_TMPDIR", tmp.clone()),
        ("TMPDIR", tmp),
        // `@path` in a prompt would put that file into the request, wherever it lies.
        ("CLAUDE_CODE_DISABLE_ATTACHMENTS", "1".to_owned()),
        ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1".to_owned()),
        // The quiet four: without them the CLI talks to hosts other than the API.
        ("DISABLE_TELEMETRY", "1".to_owned()),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
        ("DISABLE_ERROR_REPORTING", "1".to_owned()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
        (ATTRIBUTION, "0".to_owned()),
        ("CLAUDE_CODE_MAX_RETRIES", MAX_RETRIES.to_owned()),
        ("API_TIMEOUT_MS", API_TIMEOUT_MS.to_owned()),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    if let Some(url) = api_base_url {
        env.insert(BASE_URL.to_owned(), url.to_owned());
    }
    Ok(env)
}

/// Changes a child's environment for one whose requests pass a gateway: it holds them as long as their limits say, and
/// where the API is, it knows.
pub fn through_gateway(env: &mut BTreeMap<String, String>) {
    let hold = u64::try_from(LONGEST_HOLD.as_millis()).unwrap_or(u64::MAX);
    env.remove(BASE_URL);
    env.insert("CLAUDE_CODE_MAX_RETRIES".to_owned(), GATEWAY_RETRIES.to_owned());
    env.insert("API_TIMEOUT_MS".to_owned(), hold.saturating_add(API_BEGINS_MS).to_string());
}

/// Changes it for one that pays by a subscription: there the first block of the system prompt tells the API who asks, and
/// stays.
pub fn by_subscription(env: &mut BTreeMap<String, String>) {
    env.remove(ATTRIBUTION);
}

/// Checks a prompt.
///
/// # Errors
/// See [`ArgsError`].
pub fn check_prompt(prompt: &str) -> Result<(), ArgsError> {
    if prompt.trim().is_empty() {
        return Err(ArgsError::EmptyPrompt);
    }
    if prompt.len() > LONGEST_PROMPT {
        return Err(ArgsError::LongPrompt { bytes: prompt.len() });
    }
    Ok(())
}

/// A word that cannot be taken for an option.
fn word(what: &'static str, value: &str) -> Result<String, ArgsError> {
    let bad = value.is_empty() || value.starts_with('-') || value.chars().any(char::is_control);
    if bad {
        return Err(ArgsError::Word { what, value: value.to_owned() });
    }
    Ok(value.to_owned())
}

/// Models separated by commas, in the order in which they are tried.
fn fallback(models: &str) -> Result<String, ArgsError> {
    let checked: Result<Vec<String>, ArgsError> =
        models.split(',').map(|model| word("the fallback model", model.trim())).collect();
    Ok(checked?.join(","))
}

/// Tools joined as the CLI takes lists. An empty list is an empty argument: no tools at all. The CLI would split a name
/// at a comma or blank, and takes `default` for all the tools it has.
fn tools(values: &[String]) -> Result<String, ArgsError> {
    let what = "the tool";
    let split = |value: &&String| value.contains([',', ' ']) || value.as_str() == "default";
    if let Some(bad) = values.iter().find(split) {
        return Err(ArgsError::Word { what, value: bad.clone() });
    }
    joined(what, values)
}

/// Permission rules joined. The CLI splits at commas and blanks outside of brackets, so brackets must match.
fn rules(values: &[String]) -> Result<String, ArgsError> {
    let what = "the permission rule";
    match values.iter().find(|rule| !is_rule(rule)) {
        Some(bad) => Err(ArgsError::Word { what, value: bad.clone() }),
        None => joined(what, values),
    }
}

/// `Tool` or `Tool(anything)`.
fn is_rule(rule: &str) -> bool {
    match rule.split_once('(') {
        None => !rule.contains([',', ' ', ')']),
        Some((tool, rest)) => !tool.is_empty() && !tool.contains([',', ' ', ')']) && rest.ends_with(')'),
    }
}

fn joined(what: &'static str, values: &[String]) -> Result<String, ArgsError> {
    let checked: Result<Vec<String>, ArgsError> = values.iter().map(|value| word(what, value)).collect();
    Ok(checked?.join(","))
}

/// A path as the CLI is told it.
///
/// # Errors
/// When it is not UTF-8.
pub fn path(what: &'static str, path: &Path) -> Result<String, ArgsError> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(ArgsError::Word { what, value: path.display().to_string() }),
    }
}

/// The permission mode in force for what a worker says.
///
/// # Errors
/// When the CLI does not know it.
pub fn permission_mode(mode: &str) -> Result<String, ArgsError> {
    match mode {
        "" => Ok(DEFAULT_PERMISSION_MODE.to_owned()),
        known if PERMISSION_MODES.contains(&known) => Ok(known.to_owned()),
        _ => Err(ArgsError::Word { what: "the permission mode", value: mode.to_owned() }),
    }
}

/// Millionths of a dollar as the CLI takes amounts; 0 would crash it.
fn dollars(micro_usd: u64) -> Result<String, ArgsError> {
    if micro_usd == 0 {
        return Err(ArgsError::NoBudget);
    }
    Ok(format!("{}.{:06}", micro_usd / 1_000_000, micro_usd % 1_000_000))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::super::{Prompt, WorkerSettings};
    use super::*;

    fn work() -> ClaudeWork {
        ClaudeWork {
            worker: WorkerSettings {
                model: "sonnet".to_owned(),
                system_prompt: "You are Anga.".to_owned(),
                tools: vec!["Agent".to_owned(), "Bash".to_owned()],
                allowed_tools: vec!["Agent".to_owned(), "Bash(git *)".to_owned()],
                disallowed_tools: vec!["WebFetch".to_owned()],
                permission_mode: String::new(),
                subagents_json: r#"{"helper":{"description":"helps","prompt":"Help.","model":"haiku"}}"#
                    .to_owned(),
                ..WorkerSettings::default()
            },
            prompt: Prompt::Text("do it".to_owned()),
            session: Uuid::from_u128(0x5a5a_5a5a_2222_4333_8444_5555_5555_5555),
            output_schema: Some(r#"{"type":"object"}"#.to_owned()),
            budget_micro_usd: Some(1_250_000),
            max_turns: Some(9),
            denial_fails: false,
            feedback: None,
            interrupted: None,
            conversation: None,
            allowance: None,
        }
    }

    const PLACE: fn(bool) -> Place<'static> = |resume| Place {
        home: Path::new("/t/home"),
        config: Path::new("/t/home/.claude"),
        tmp: Path::new("/t/home/tmp"),
        out: Path::new("/t/out"),
        workspace: None,
        system_prompt: Path::new("/t/given/system-prompt.md"),
        settings: None,
        mcp_config: None,
        resume,
    };

    #[test]
    fn the_command_line_is_this() {
        insta::assert_snapshot!(arguments(&work(), PLACE(false)).unwrap().join("\n"), @r#"
        -p
        --verbose
        --input-format
        stream-json
        --output-format
        stream-json
        --model
        sonnet
        --session-id
        5a5a5a5a-2222-4333-8444-555555555555
        --add-dir
        /t/out
        --setting-sources

        --permission-mode
        dontAsk
        --tools
        Agent,Bash
        --allowedTools
        Agent,Bash(git *)
        --disallowedTools
        WebFetch
        --system-prompt-file
        /t/given/system-prompt.md
        --agents
        {"helper":{"description":"helps","model":"haiku","prompt":"Help."}}
        --json-schema
        {"type":"object"}
        --max-budget-usd
        1.250000
        --strict-mcp-config
        "#);
    }

    #[test]
    fn a_kept_session_is_resumed_and_the_turn_limit_is_not_the_clis() {
        let args = arguments(&work(), PLACE(true)).unwrap();
        assert!(args.windows(2).any(|pair| pair == ["--resume", "5a5a5a5a-2222-4333-8444-555555555555"]));
        assert!(!args.iter().any(|arg| arg == "--session-id" || arg == "--max-turns"));
    }

    #[test]
    fn sources_settings_and_tool_servers_are_passed_only_where_a_worker_has_them() {
        let mut work = work();
        work.worker.setting_sources = vec!["project".to_owned()];
        let place = Place {
            settings: Some(Path::new("/t/given/settings.json")),
            mcp_config: Some(Path::new("/t/given/mcp.json")),
            ..PLACE(false)
        };
        let args = arguments(&work, place).unwrap();
        for pair in [
            ["--setting-sources", "project"],
            ["--settings", "/t/given/settings.json"],
            ["--mcp-config", "/t/given/mcp.json"],
        ] {
            assert!(args.windows(2).any(|found| found == pair), "{pair:?}");
        }
        assert!(args.iter().any(|arg| arg == "--strict-mcp-config"));
    }

    #[test]
    fn a_workspace_is_another_working_directory() {
        let place = Place { workspace: Some(Path::new("/srv/dance")), ..PLACE(false) };
        let args = arguments(&work(), place).unwrap();
        let dirs: Vec<_> =
            args.windows(2).filter(|pair| pair[0] == "--add-dir").map(|pair| &pair[1]).collect();
        assert_eq!(dirs, ["/t/out", "/srv/dance"]);
    }

    #[test]
    fn no_tools_is_an_empty_argument() {
        let mut work = work();
        work.worker.tools.clear();
        work.worker.allowed_tools.clear();
        let args = arguments(&work, PLACE(false)).unwrap();
        assert!(args.windows(2).any(|pair| pair == ["--tools", ""]));
        assert!(!args.iter().any(|arg| arg == "--allowedTools"));
    }

    #[test]
    fn the_environment_is_quiet_and_holds_no_key() {
        let env = environment(BTreeMap::new(), PLACE(false), Some("http://127.0.0.1:1")).unwrap();
        let lines: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        ANTHROPIC_BASE_URL=http://127.0.0.1:1
        API_TIMEOUT_MS=120000
        CLAUDE_CODE_ATTRIBUTION_HEADER=0
        CLAUDE_CODE_DISABLE_ATTACHMENTS=1
        CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
        CLAUDE_CODE_MAX_RETRIES=2
        CLAUDE_CODE_TMPDIR=/t/home/tmp
        CLAUDE_CONFIG_DIR=/t/home/.claude
        DISABLE_AUTOUPDATER=1
        DISABLE_ERROR_REPORTING=1
        DISABLE_TELEMETRY=1
        HOME=/t/home
        TMPDIR=/t/home/tmp
        ");
    }

    #[test]
    fn behind_a_gateway_the_cli_waits_longer_than_the_gateway_holds_and_knows_no_place() {
        let mut env = environment(BTreeMap::new(), PLACE(false), Some("http://127.0.0.1:1")).unwrap();
        through_gateway(&mut env);
        let timeout: u128 = env["API_TIMEOUT_MS"].parse().unwrap();
        assert!(timeout > LONGEST_HOLD.as_millis());
        assert_eq!((env.get(BASE_URL), env["CLAUDE_CODE_MAX_RETRIES"].as_str()), (None, "15"));
        by_subscription(&mut env);
        assert!(!env.contains_key(ATTRIBUTION));
    }

    #[test]
    fn fallback_models_are_passed_in_their_order() {
        let mut work = work();
        work.worker.fallback_model = "sonnet, haiku".to_owned();
        let args = arguments(&work, PLACE(false)).unwrap();
        assert!(args.windows(2).any(|pair| pair == ["--fallback-model", "sonnet,haiku"]));
        work.worker.fallback_model = "--x".to_owned();
        assert!(arguments(&work, PLACE(false)).is_err());
    }

    fn refused(change: impl FnOnce(&mut ClaudeWork)) -> String {
        let mut work = work();
        change(&mut work);
        arguments(&work, PLACE(false)).unwrap_err().to_string()
    }

    #[test]
    fn what_the_cli_would_misread_or_ignore_is_refused() {
        assert_eq!(refused(|work| work.worker.model.clear()), "the model \"\" cannot be passed to the CLI");
        assert_eq!(
            refused(|work| work.worker.model = "--dangerously-skip-permissions".to_owned()),
            "the model \"--dangerously-skip-permissions\" cannot be passed to the CLI"
        );
        assert_eq!(
            refused(|work| work.worker.tools = vec!["-x".to_owned()]),
            "the tool \"-x\" cannot be passed to the CLI"
        );
        assert_eq!(
            refused(|work| work.worker.permission_mode = "nonsense".to_owned()),
            "the permission mode \"nonsense\" cannot be passed to the CLI"
        );
        for bad in ["Bash,Edit", "Bash Edit", "default"] {
            let told = refused(|work| work.worker.tools = vec![bad.to_owned()]);
            assert_eq!(told, format!("the tool {bad:?} cannot be passed to the CLI"));
        }
        for bad in ["Bash Edit", "Bash(git *", "Bash)", "(x)", "Bash(a),Edit"] {
            let told = refused(|work| work.worker.allowed_tools = vec![bad.to_owned()]);
            assert_eq!(told, format!("the permission rule {bad:?} cannot be passed to the CLI"));
        }
        assert!(refused(|work| work.worker.subagents_json = "[]".to_owned()).starts_with("the sub-agents"));
        assert!(refused(|work| work.output_schema = Some("{".to_owned())).starts_with("the schema of"));
        let rules: Vec<String> = (0..9_000).map(|number| format!("Bash(x {number} *)")).collect();
        assert!(refused(|work| work.worker.allowed_tools = rules).contains("131071 are allowed"));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(LONGEST_JSON));
        assert!(refused(|work| work.output_schema = Some(long)).contains("98304 are allowed"));
        assert_eq!(refused(|work| work.budget_micro_usd = Some(0)), "the budget is spent");
    }

    #[test]
    fn the_schemas_that_orch_ships_can_be_passed() {
        for schema in [
            include_str!("../../../../prompts/schemas/plan.json"),
            include_str!("../../../../prompts/schemas/result.json"),
            include_str!("../../../../prompts/schemas/review.json"),
            include_str!("../../../../prompts/schemas/synthesis.json"),
        ] {
            let args =
                arguments(&ClaudeWork { output_schema: Some(schema.to_owned()), ..work() }, PLACE(false));
            let args = args.unwrap();
            let at = args.iter().position(|arg| arg == "--json-schema").unwrap();
            let passed: serde_json::Value = serde_json::from_str(&args[at + 1]).unwrap();
            assert_eq!(passed, serde_json::from_str::<serde_json::Value>(schema).unwrap());
        }
    }

    #[test]
    fn the_smallest_budget_is_not_rounded_to_nothing() {
        assert_eq!(dollars(1).unwrap(), "0.000001");
        assert_eq!(dollars(20_000_000).unwrap(), "20.000000");
    }

    #[test]
    fn prompts_are_checked() {
        assert_eq!(check_prompt(" \n"), Err(ArgsError::EmptyPrompt));
        assert_eq!(check_prompt(""), Err(ArgsError::EmptyPrompt));
        assert_eq!(check_prompt("/help"), Ok(()));
        let long = "x".repeat(9 * 1024 * 1024);
        assert_eq!(check_prompt(&long), Err(ArgsError::LongPrompt { bytes: long.len() }));
    }
}
