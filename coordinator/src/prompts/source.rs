//! One prompt file, read and checked by itself: which keys it has and what each may hold.
//!
//! Knows one file at a time. References to sub-agents and templates are kept with their places and looked up
//! by [`super::resolve`], because another layer may define them.

use std::collections::BTreeMap;

use super::error::{PromptError, PromptErrorKind};
use super::fields::Fields;
use super::front_matter::Text;
use super::material::is_context_path;
use super::models::{TIERS, fallback, model};
use super::names;
use super::tools::{AGENT, BUILT_IN_SUBAGENTS, ToolEntry, ToolProblem};
use super::worker::{OnDenial, OnLoss, PermissionMode};
use crate::context;

/// Keys of a worker file.
pub(super) const WORKER_KEYS: &[&str] = &[
    "name",
    "description",
    "model",
    "fallback",
    "tools",
    "disallowed_tools",
    "permission_mode",
    "max_turns",
    "budget_usd",
    "timeout",
    "requires",
    "subagents",
    "templates",
    "on_loss",
    "on_denial",
    "context_files",
    "pool",
    "setting_sources",
    "settings",
    "mcp_config",
];

/// Keys of a sub-agent file.
pub(super) const SUBAGENT_KEYS: &[&str] = &["name", "description", "model", "tools", "max_turns"];

/// Sub-agents are many and narrow: the smallest tier unless the file says otherwise.
const DEFAULT_SUBAGENT_MODEL: &str = "haiku";

/// Enough for reading a handful of files or running one test suite; the CLI has no bound of its own.
const DEFAULT_SUBAGENT_TURNS: u32 = 20;

/// Longest description, in bytes: the planner and the worker's model read all of them in every request.
const MAX_DESCRIPTION_BYTES: usize = 1024;

const MAX_TOOLS: usize = 64;
const MAX_SUBAGENTS: usize = 16;
const MAX_TEMPLATES: usize = 16;
const MAX_REQUIRES: usize = 32;

/// A worker file before its references are looked up.
#[derive(Clone, Debug)]
pub struct WorkerSource {
    pub(super) file: String,
    pub(super) name: Text,
    pub(super) description: String,
    pub(super) model: String,
    pub(super) fallback: Vec<String>,
    pub(super) tools: Vec<(Text, ToolEntry)>,
    pub(super) disallowed_tools: Vec<ToolEntry>,
    pub(super) permission_mode: PermissionMode,
    pub(super) max_turns: Option<u32>,
    pub(super) budget_micro_usd: Option<u64>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) requires: BTreeMap<String, String>,
    pub(super) subagents: Vec<Text>,
    pub(super) templates: Vec<Text>,
    pub(super) on_loss: OnLoss,
    pub(super) on_denial: OnDenial,
    pub(super) context_files: Vec<Text>,
    pub(super) pool: Option<String>,
    pub(super) setting_sources: Vec<String>,
    pub(super) settings: Option<Text>,
    pub(super) mcp_config: Option<Text>,
    pub(super) body: String,
    pub(super) body_line: u32,
}

impl WorkerSource {
    /// The worker's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name.value
    }
}

/// A sub-agent file.
#[derive(Clone, Debug)]
pub struct SubAgentSource {
    pub(super) file: String,
    pub(super) name: Text,
    pub(super) description: String,
    pub(super) model: String,
    pub(super) tools: Vec<ToolEntry>,
    pub(super) max_turns: u32,
    pub(super) body: String,
    pub(super) body_line: u32,
}

impl SubAgentSource {
    /// The sub-agent's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name.value
    }
}

/// Reads a worker file. `file` only names it in errors.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse_worker(file: &str, text: &str) -> Result<WorkerSource, PromptError> {
    let mut fields = Fields::read(file, text, WORKER_KEYS)?;
    let modes = PermissionMode::ALL.map(|mode| (mode, mode.as_str()));
    let (name, description) = (name(&mut fields)?, description(&mut fields)?);
    let model = model(&mut fields, &TIERS)?.ok_or_else(|| fields.missing("model"))?;
    let source = WorkerSource {
        file: fields.file().to_owned(),
        name,
        description,
        fallback: fallback(&mut fields, Some(&model))?,
        model,
        tools: tools(&mut fields, "tools")?.ok_or_else(|| fields.missing("tools"))?,
        disallowed_tools: tools(&mut fields, "disallowed_tools")?
            .unwrap_or_default()
            .into_iter()
            .map(|(_, entry)| entry)
            .collect(),
        permission_mode: fields
            .choice("permission_mode", "acceptEdits, auto, default, dontAsk or plan", &modes)?
            .unwrap_or(PermissionMode::DontAsk),
        max_turns: fields.number("max_turns")?,
        budget_micro_usd: fields.micro_usd("budget_usd")?,
        timeout_ms: fields.milliseconds("timeout")?,
        requires: fields.labels("requires", MAX_REQUIRES)?,
        subagents: fields.list("subagents", MAX_SUBAGENTS)?.unwrap_or_default(),
        templates: fields.list("templates", MAX_TEMPLATES)?.unwrap_or_default(),
        on_loss: fields
            .choice("on_loss", "fast or wait", &[(OnLoss::Fast, "fast"), (OnLoss::Wait, "wait")])?
            .unwrap_or(OnLoss::Fast),
        on_denial: fields
            .choice("on_denial", "warn or fail", &[(OnDenial::Warn, "warn"), (OnDenial::Fail, "fail")])?
            .unwrap_or(OnDenial::Warn),
        context_files: context_files(&mut fields)?,
        pool: pool(&mut fields)?,
        setting_sources: setting_sources(&mut fields)?,
        settings: fields.text("settings")?,
        mcp_config: fields.text("mcp_config")?,
        body: std::mem::take(&mut fields.body),
        body_line: fields.body_line,
    };
    check_grants(&fields, &source)?;
    Ok(source)
}

/// Reads a sub-agent file. `file` only names it in errors.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse_subagent(file: &str, text: &str) -> Result<SubAgentSource, PromptError> {
    const TIERS_AND_INHERIT: [&str; 5] = ["fable", "haiku", "inherit", "opus", "sonnet"];
    let mut fields = Fields::read(file, text, SUBAGENT_KEYS)?;
    let name = name(&mut fields)?;
    if BUILT_IN_SUBAGENTS.contains(&name.value.as_str()) {
        return Err(fields.bad("name", &name, "a name that is not built into the CLI", None));
    }
    let entries = tools(&mut fields, "tools")?.ok_or_else(|| fields.missing("tools"))?;
    let mut tools = Vec::with_capacity(entries.len());
    for (text, entry) in entries {
        if entry.name() == AGENT {
            return Err(fields.fail(text.at, entry.error(ToolProblem::NestedAgents)));
        }
        if entry.has_rule() {
            return Err(fields.fail(text.at, entry.error(ToolProblem::RuleInSubAgent)));
        }
        tools.push(entry);
    }
    Ok(SubAgentSource {
        file: fields.file().to_owned(),
        name,
        description: description(&mut fields)?,
        model: model(&mut fields, &TIERS_AND_INHERIT)?.unwrap_or_else(|| DEFAULT_SUBAGENT_MODEL.to_owned()),
        tools,
        max_turns: fields.number("max_turns")?.unwrap_or(DEFAULT_SUBAGENT_TURNS),
        body: std::mem::take(&mut fields.body),
        body_line: fields.body_line,
    })
}

/// Refuses lists that contradict each other: the CLI would not complain, the model would meet refusals.
fn check_grants(fields: &Fields, source: &WorkerSource) -> Result<(), PromptError> {
    let mode = source.permission_mode;
    let may_pass_without_rule = match mode {
        PermissionMode::AcceptEdits | PermissionMode::Auto => true,
        PermissionMode::Default | PermissionMode::DontAsk | PermissionMode::Plan => false,
    };
    let denied_without_server = source.disallowed_tools.iter().find(|entry| entry.server().is_some());
    if let (Some(entry), None) = (denied_without_server, &source.mcp_config) {
        return Err(fields.fail(source.name.at, entry.error(ToolProblem::Mcp)));
    }
    let mut offers_agent = false;
    for (text, entry) in &source.tools {
        let has_path_rule =
            source.tools.iter().any(|(_, other)| other.name() == entry.name() && other.has_rule());
        let problem = if entry.server().is_some() && source.mcp_config.is_none() {
            ToolProblem::Mcp
        } else if source.disallowed_tools.iter().any(|denied| denied == entry) {
            ToolProblem::Contradiction
        } else if entry.is_always_refused(may_pass_without_rule) && !has_path_rule {
            ToolProblem::AlwaysRefused { mode: mode.as_str() }
        } else if entry.name() == AGENT && source.subagents.is_empty() {
            ToolProblem::AgentWithoutSubAgents
        } else {
            offers_agent |= entry.name() == AGENT;
            continue;
        };
        return Err(fields.fail(text.at, entry.error(problem)));
    }
    match source.subagents.first() {
        Some(first) if !offers_agent => {
            let tool = AGENT.to_owned();
            let problem = ToolProblem::SubAgentsWithoutAgent;
            Err(fields.fail(first.at, PromptErrorKind::Tool { tool, problem }))
        }
        _ => Ok(()),
    }
}

fn name(fields: &mut Fields) -> Result<Text, PromptError> {
    let name = fields.required_text("name")?;
    if names::is_valid(&name.value) {
        return Ok(name);
    }
    Err(fields.bad("name", &name, "1 to 63 of `a-z`, `0-9` and `-`, beginning with a letter", None))
}

fn description(fields: &mut Fields) -> Result<String, PromptError> {
    let text = fields.required_text("description")?;
    let (bytes, limit) = (text.value.len(), MAX_DESCRIPTION_BYTES);
    if bytes > limit {
        return Err(fields.fail(text.at, PromptErrorKind::TooLong { what: "the description", bytes, limit }));
    }
    if text.value.trim().is_empty() {
        return Err(fields.bad("description", &text, "a sentence saying what it is for", None));
    }
    Ok(text.value)
}

fn context_files(fields: &mut Fields) -> Result<Vec<Text>, PromptError> {
    let files = fields.list("context_files", context::MAX_FILES)?.unwrap_or_default();
    match files.iter().find(|file| !is_context_path(&file.value)) {
        None => Ok(files),
        Some(bad) => {
            let expected = "a path below `context/`, such as `terms.md`, without `..` and hidden parts";
            Err(fields.bad("context_files", bad, expected, None))
        }
    }
}

/// The name of a credential pool, as agents have them.
fn pool(fields: &mut Fields) -> Result<Option<String>, PromptError> {
    let Some(text) = fields.text("pool")? else { return Ok(None) };
    let name = &text.value;
    let shaped = (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if shaped {
        return Ok(Some(text.value));
    }
    Err(fields.bad("pool", &text, "1 to 63 of `a-z`, `0-9` and `-`, beginning with a letter or digit", None))
}

fn setting_sources(fields: &mut Fields) -> Result<Vec<String>, PromptError> {
    const SOURCES: [&str; 2] = ["local", "project"];
    let listed = fields.list("setting_sources", SOURCES.len())?.unwrap_or_default();
    if let Some(bad) = listed.iter().find(|text| !SOURCES.contains(&text.value.as_str())) {
        let nearest = names::nearest(&bad.value, SOURCES);
        return Err(fields.bad("setting_sources", bad, "project or local", nearest));
    }
    let mut sources: Vec<String> = listed.into_iter().map(|text| text.value).collect();
    sources.sort_unstable();
    Ok(sources)
}

fn tools(fields: &mut Fields, key: &'static str) -> Result<Option<Vec<(Text, ToolEntry)>>, PromptError> {
    let Some(items) = fields.list(key, MAX_TOOLS)? else { return Ok(None) };
    let parse = |item: Text| match ToolEntry::parse(&item.value) {
        Ok(entry) => Ok((item, entry)),
        Err(kind) => Err(fields.fail(item.at, kind)),
    };
    items.into_iter().map(parse).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINIMAL: &str = "name: w\ndescription: does it\nmodel: sonnet\ntools: []";

    fn worker(head: &str) -> Result<WorkerSource, PromptError> {
        parse_worker("w.md", &format!("---\n{head}\n---\nPrompt.\n"))
    }

    /// [`MINIMAL`] with `extra` lines, each of which replaces the line of the same key.
    fn with(extra: &str) -> Result<WorkerSource, PromptError> {
        let key = |line: &str| line.split(':').next().map(str::to_owned);
        let kept = MINIMAL.lines().filter(|line| extra.lines().all(|other| key(other) != key(line)));
        worker(&kept.chain(extra.lines()).collect::<Vec<_>>().join("\n"))
    }

    fn tool_problem(extra: &str) -> ToolProblem {
        let PromptErrorKind::Tool { problem, .. } = with(extra).unwrap_err().kind else { panic!("{extra}") };
        problem
    }

    fn subagent(head: &str) -> Result<SubAgentSource, PromptError> {
        parse_subagent("s.md", &format!("---\n{head}\n---\nPrompt.\n"))
    }

    #[test]
    fn a_worker_needs_four_keys_and_the_rest_has_safe_defaults() {
        let source = worker(MINIMAL).unwrap();
        assert_eq!((source.name(), source.model.as_str()), ("w", "sonnet"));
        assert_eq!((source.permission_mode, source.on_loss), (PermissionMode::DontAsk, OnLoss::Fast));
        assert_eq!(source.on_denial, OnDenial::Warn);
        assert!(source.requires.is_empty(), "a worker requires nothing unless it says so");
        assert_eq!((source.max_turns, source.budget_micro_usd, source.timeout_ms), (None, None, None));
        for missing in ["name", "description", "model", "tools"] {
            let head: Vec<&str> = MINIMAL.lines().filter(|line| !line.starts_with(missing)).collect();
            let error = worker(&head.join("\n")).unwrap_err();
            assert_eq!(error.kind, PromptErrorKind::MissingKey { key: missing });
        }
    }

    #[test]
    fn every_key_is_read() {
        let source = with(
            "tools: [Agent, Read]\ndisallowed_tools: [Bash]\npermission_mode: plan\nmax_turns: 7\n\
             budget_usd: 1.5\ntimeout: 2m\nrequires:\n  gpu: yes\nsubagents: [a]\ntemplates: [t]\n\
             on_loss: wait\non_denial: fail",
        )
        .unwrap();
        assert_eq!(source.tools.len(), 2);
        assert_eq!(source.disallowed_tools, [ToolEntry::parse("Bash").unwrap()]);
        assert_eq!((source.permission_mode, source.on_loss), (PermissionMode::Plan, OnLoss::Wait));
        assert_eq!(source.on_denial, OnDenial::Fail);
        assert_eq!(source.max_turns, Some(7));
        assert_eq!((source.budget_micro_usd, source.timeout_ms), (Some(1_500_000), Some(120_000)));
        assert_eq!(source.requires, BTreeMap::from([("gpu".into(), "yes".into())]));
        assert_eq!((source.subagents[0].value.as_str(), source.templates[0].value.as_str()), ("a", "t"));
    }

    #[test]
    fn names_that_could_be_paths_flags_or_escapes_are_refused() {
        for bad in ["'../x'", "'-x'", "Marie", "'a b'", "'a\u{202e}b'", "élise", "''"] {
            let error = with(&format!("name: {bad}")).unwrap_err();
            assert!(matches!(error.kind, PromptErrorKind::BadValue { key: "name", .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn models_are_aliases_or_full_ids() {
        for good in
            ["opus", "haiku", "sonnet[1m]", "claude-opus-4-8", "eu.vendor.claude-x-v1:0", "claude-x@20260101"]
        {
            assert_eq!(with(&format!("model: {good}")).unwrap().model, good);
        }
        for (bad, nearest) in
            [("opsu", Some("opus")), ("gpt", None), ("inherit", None), ("'-p x'", None), ("''", None)]
        {
            let error = with(&format!("model: {bad}")).unwrap_err();
            let PromptErrorKind::BadValue { nearest: found, .. } = error.kind else { panic!("{bad}") };
            assert_eq!(found.as_deref(), nearest, "{bad}");
        }
    }

    #[test]
    fn unknown_choices_are_suggested() {
        let error = with("permission_mode: acceptEdit").unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean `acceptEdits`?");
        assert!(with("permission_mode: bypassPermissions").is_err());
        assert!(with("on_loss: slow").is_err());
        assert!(with("on_denial: ignore").is_err());
    }

    #[test]
    fn tool_lists_that_could_not_work_are_refused() {
        assert_eq!(tool_problem("tools: [Write]"), ToolProblem::AlwaysRefused { mode: "dontAsk" });
        assert!(with("tools: [Write]\npermission_mode: acceptEdits").is_ok());
        assert!(with("tools: [Write, 'Write(//srv/out/**)']").is_ok());
        assert_eq!(tool_problem("tools: [Agent]"), ToolProblem::AgentWithoutSubAgents);
        assert_eq!(tool_problem("tools: [Read]\nsubagents: [a]"), ToolProblem::SubAgentsWithoutAgent);
        assert_eq!(tool_problem("tools: [Read]\ndisallowed_tools: [Read]"), ToolProblem::Contradiction);
    }

    #[test]
    fn errors_point_at_the_item_that_is_wrong() {
        let error = with("tools: [Read, Gerp]").unwrap_err();
        assert_eq!(error.to_string(), "w.md:5:15: tool \"Gerp\": the CLI has no such tool");
        assert_eq!(error.hint().unwrap(), "did you mean `Grep`?");
    }

    #[test]
    fn descriptions_are_one_short_text() {
        let long = format!("description: {}", "x".repeat(MAX_DESCRIPTION_BYTES + 1));
        assert!(matches!(with(&long).unwrap_err().kind, PromptErrorKind::TooLong { .. }));
        assert!(with("description: ' '").is_err());
    }

    #[test]
    fn a_sub_agent_defaults_to_the_smallest_tier_and_a_turn_limit() {
        let source = subagent("name: s\ndescription: helps\ntools: [Read]").unwrap();
        assert_eq!(
            (source.model.as_str(), source.max_turns),
            (DEFAULT_SUBAGENT_MODEL, DEFAULT_SUBAGENT_TURNS)
        );
        assert_eq!(subagent("name: s\ndescription: d\ntools: []\nmodel: inherit").unwrap().model, "inherit");
    }

    #[test]
    fn a_sub_agent_has_plain_tools_of_its_own_and_no_built_in_name() {
        let problem = |tools: &str| {
            let error = subagent(&format!("name: s\ndescription: d\ntools: {tools}")).unwrap_err();
            let PromptErrorKind::Tool { problem, .. } = error.kind else { panic!("{error}") };
            problem
        };
        assert_eq!(problem("[Agent]"), ToolProblem::NestedAgents);
        assert_eq!(problem("['Bash(ls *)']"), ToolProblem::RuleInSubAgent);
        let error = subagent("name: s\ndescription: d").unwrap_err();
        assert_eq!(error.kind, PromptErrorKind::MissingKey { key: "tools" });
        for name in ["claude", "general-purpose"] {
            assert!(subagent(&format!("name: {name}\ndescription: d\ntools: []")).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_front_matter_makes_the_parsers_panic(
            lines in prop::collection::vec(
                "(name|tools|model|timeout|requires|budget_usd|subagents|x|  - a|  a): \
                 ?[-\\[\\]a-zA-Z0-9(), .:'\"]{0,20}",
                0..8,
            ),
            body in any::<String>(),
        ) {
            let text = format!("---\n{}\n---\n{body}", lines.join("\n"));
            let _ = parse_worker("w.md", &text);
            let _ = parse_subagent("s.md", &text);
        }
    }
}
