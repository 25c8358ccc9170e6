//! Turns worker sources into workers: looks up sub-agents and templates, fills markers, checks total sizes.
//!
//! Knows the whole set of effective sources, but no files. A template's text goes in as it is: braces in it
//! mean nothing, so a studio's own form may use them.

use std::collections::BTreeMap;

use super::error::{PromptError, PromptErrorKind, Spot};
use super::fields::spot_of;
use super::front_matter::Text;
use super::material::{ContextFile, McpConfig};
use super::names;
use super::source::{SubAgentSource, WorkerSource};
use super::tools::{self, ToolEntry, ToolProblem};
use super::worker::{SubAgent, Worker};
use crate::context;

/// Largest system prompt, templates included, in bytes.
pub const MAX_SYSTEM_PROMPT_BYTES: usize = 256 * 1024;

/// Largest value of `--agents`, in bytes. The kernel takes 128 KiB for one argument; the rest is margin.
pub const MAX_AGENTS_JSON_BYTES: usize = 96 * 1024;

/// Largest template, in bytes.
pub(super) const MAX_TEMPLATE_BYTES: usize = 64 * 1024;

/// Everything that a worker may refer to, by name.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) workers: BTreeMap<String, WorkerSource>,
    pub(super) subagents: BTreeMap<String, SubAgentSource>,
    pub(super) templates: BTreeMap<String, String>,
    pub(super) context: BTreeMap<String, ContextFile>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) mcp: BTreeMap<String, McpConfig>,
}

impl Sources {
    /// Resolves one worker.
    pub(super) fn resolve(&self, source: &WorkerSource) -> Result<Worker, PromptError> {
        let entries: Vec<ToolEntry> = source.tools.iter().map(|(_, entry)| entry.clone()).collect();
        let flags = tools::flags(&entries, &source.disallowed_tools);
        let prompt = self.system_prompt(source)?;
        let prompt_bytes = prompt.len();
        let mcp = self.mcp_config(source)?;
        let worker = Worker {
            format: Worker::FORMAT,
            name: source.name().to_owned(),
            description: source.description.clone(),
            model: source.model.clone(),
            fallback: source.fallback.clone(),
            system_prompt: prompt + &self.context(source)?,
            agents: self.agents(source)?,
            tools: flags.tools,
            allowed_tools: flags.allowed_tools,
            disallowed_tools: flags.disallowed_tools,
            permission_mode: source.permission_mode,
            max_turns: source.max_turns,
            budget_micro_usd: source.budget_micro_usd,
            timeout_ms: source.timeout_ms,
            requires: source.requires.clone(),
            on_loss: source.on_loss,
            on_denial: source.on_denial,
            context_files: source.context_files.iter().map(|file| file.value.clone()).collect(),
            pool: source.pool.clone(),
            setting_sources: source.setting_sources.clone(),
            settings_json: self.settings(source)?,
            mcp_config_json: mcp.map(|config| config.json.clone()),
        };
        let sizes = [
            ("the system prompt with its templates", prompt_bytes, MAX_SYSTEM_PROMPT_BYTES),
            (
                "the JSON of all sub-agents",
                worker.agents_json().map_or(0, |json| json.len()),
                MAX_AGENTS_JSON_BYTES,
            ),
        ];
        match sizes.into_iter().find(|(_, bytes, limit)| bytes > limit) {
            None => Ok(worker),
            Some((what, bytes, limit)) => {
                Err(fail(&source.file, source.name.at, PromptErrorKind::TooLong { what, bytes, limit }))
            }
        }
    }

    fn system_prompt(&self, source: &WorkerSource) -> Result<String, PromptError> {
        let mut unused: Vec<&Text> = source.templates.iter().collect();
        for listed in &source.templates {
            if !self.templates.contains_key(&listed.value) {
                return Err(unresolved(&source.file, "template", listed, self.templates.keys()));
            }
        }
        let prompt = fill_markers(&source.body, |marker| match marker {
            Marker::Workers => Ok(self.other_workers(source.name())),
            Marker::Template(name) => {
                unused.retain(|listed| listed.value != name);
                let listed = source.templates.iter().any(|listed| listed.value == name);
                let text = self.templates.get(name).filter(|_| listed);
                text.cloned().ok_or_else(|| PromptErrorKind::TemplateNotListed { name: name.to_owned() })
            }
        })
        .map_err(|(offset, kind)| {
            fail(&source.file, spot_of(&source.body, offset, source.body_line), kind)
        })?;
        match unused.first() {
            None => Ok(prompt),
            Some(first) => {
                let kind = PromptErrorKind::TemplateNotUsed { name: first.value.clone() };
                Err(fail(&source.file, first.at, kind))
            }
        }
    }

    /// The text of `{{workers}}`: all workers but this one, one a line.
    fn other_workers(&self, this: &str) -> String {
        let others = self.workers.values().filter(|other| other.name() != this);
        let lines: Vec<String> =
            others.map(|other| format!("- `{}`: {}", other.name(), other.description)).collect();
        if lines.is_empty() { "(none)".to_owned() } else { lines.join("\n") }
    }

    /// The worker's context files in their one form; empty without any.
    fn context(&self, source: &WorkerSource) -> Result<String, PromptError> {
        let (mut files, mut bytes) = (Vec::with_capacity(source.context_files.len()), 0);
        for listed in &source.context_files {
            let name = listed.value.clone();
            let text = match self.context.get(&name) {
                None => return Err(unresolved(&source.file, "context file", listed, self.context.keys())),
                Some(Err(why)) => {
                    let kind = PromptErrorKind::BadContext { name, why: why.clone() };
                    return Err(fail(&source.file, listed.at, kind));
                }
                Some(Ok(text)) => text,
            };
            bytes += text.len();
            if bytes > context::MAX_TOTAL_BYTES {
                let (what, limit) = ("the context files together", context::MAX_TOTAL_BYTES);
                return Err(fail(&source.file, listed.at, PromptErrorKind::TooLong { what, bytes, limit }));
            }
            files.push((name, text));
        }
        let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        Ok(context::render(context::Of::Worker, files))
    }

    fn settings(&self, source: &WorkerSource) -> Result<Option<String>, PromptError> {
        let Some(named) = &source.settings else { return Ok(None) };
        let known = self.settings.get(&named.value).cloned().map(Some);
        known.ok_or_else(|| unresolved(&source.file, "settings file", named, self.settings.keys()))
    }

    /// The worker's tool servers; every MCP tool it names must be of one of them.
    fn mcp_config(&self, source: &WorkerSource) -> Result<Option<&McpConfig>, PromptError> {
        let Some(named) = &source.mcp_config else { return Ok(None) };
        let Some(config) = self.mcp.get(&named.value) else {
            return Err(unresolved(&source.file, "tool server file", named, self.mcp.keys()));
        };
        let listed = source.tools.iter().map(|(text, entry)| (text.at, entry));
        let denied = source.disallowed_tools.iter().map(|entry| (named.at, entry));
        for (at, entry) in listed.chain(denied) {
            let Some(server) = entry.server().filter(|server| !config.servers.iter().any(|s| s == server))
            else {
                continue;
            };
            let nearest =
                names::nearest(server, config.servers.iter().map(String::as_str)).map(str::to_owned);
            let problem = ToolProblem::NoServer { server: server.to_owned(), nearest };
            return Err(fail(&source.file, at, entry.error(problem)));
        }
        Ok(Some(config))
    }

    fn agents(&self, source: &WorkerSource) -> Result<BTreeMap<String, SubAgent>, PromptError> {
        // A worker that lists a whole tool server offers every tool of it.
        let offered = |tool: &ToolEntry| {
            source.tools.iter().any(|(_, entry)| {
                let server = tool.server().map(|server| format!("mcp__{server}"));
                entry.name() == tool.name() || server.is_some_and(|server| entry.name() == server)
            })
        };
        let mut agents = BTreeMap::new();
        for reference in &source.subagents {
            let Some(subagent) = self.subagents.get(&reference.value) else {
                return Err(unresolved(&source.file, "sub-agent", reference, self.subagents.keys()));
            };
            let mut tools: Vec<String> = subagent.tools.iter().map(|entry| entry.name().to_owned()).collect();
            tools.sort();
            if let Some(tool) = subagent.tools.iter().find(|tool| !offered(tool)) {
                let (subagent, tool) = (reference.value.clone(), tool.name().to_owned());
                let kind = PromptErrorKind::SubAgentToolNotOffered { subagent, tool };
                return Err(fail(&source.file, reference.at, kind));
            }
            agents.insert(
                reference.value.clone(),
                SubAgent {
                    description: subagent.description.clone(),
                    prompt: subagent_prompt(subagent)?,
                    tools,
                    model: subagent.model.clone(),
                    max_turns: subagent.max_turns,
                },
            );
        }
        Ok(agents)
    }
}

/// A sub-agent's prompt. It takes no markers, but escapes are the same as everywhere.
pub(super) fn subagent_prompt(source: &SubAgentSource) -> Result<String, PromptError> {
    fill_markers(&source.body, |marker| Err(PromptErrorKind::UnknownMarker { marker: marker.text() }))
        .map_err(|(offset, kind)| fail(&source.file, spot_of(&source.body, offset, source.body_line), kind))
}

#[derive(Clone, Copy)]
enum Marker<'a> {
    Template(&'a str),
    Workers,
}

impl Marker<'_> {
    fn text(self) -> String {
        match self {
            Self::Template(name) => format!("template {name}"),
            Self::Workers => "workers".to_owned(),
        }
    }
}

/// Replaces every `{{…}}` by what `fill` gives and `\{{` by `{{`, and trims blank lines at both ends.
/// An error comes with its byte offset in `body`.
fn fill_markers<'b>(
    body: &'b str,
    mut fill: impl FnMut(Marker<'b>) -> Result<String, PromptErrorKind>,
) -> Result<String, (usize, PromptErrorKind)> {
    let mut filled = String::with_capacity(body.len());
    let mut rest = body;
    while let Some((before, after)) = rest.split_once("{{") {
        let offset = body.len() - rest.len() + before.len();
        if let Some(before) = before.strip_suffix('\\') {
            filled.push_str(before);
            filled.push_str("{{");
            rest = after;
            continue;
        }
        filled.push_str(before);
        let closed = after.split_once("}}").filter(|(inside, _)| !inside.contains('\n'));
        let (inside, behind) = closed.ok_or((offset, PromptErrorKind::UnclosedMarker))?;
        let words: Vec<&str> = inside.split_whitespace().collect();
        let marker = match words.as_slice() {
            ["workers"] => Marker::Workers,
            ["template", name] => Marker::Template(name),
            _ => return Err((offset, PromptErrorKind::UnknownMarker { marker: inside.trim().to_owned() })),
        };
        filled.push_str(fill(marker).map_err(|kind| (offset, kind))?.trim_end());
        rest = behind;
    }
    filled.push_str(rest);
    Ok(format!("{}\n", filled.trim()))
}

fn unresolved<'a>(
    file: &str,
    what: &'static str,
    reference: &Text,
    known: impl Iterator<Item = &'a String>,
) -> PromptError {
    let nearest = names::nearest(&reference.value, known.map(String::as_str)).map(str::to_owned);
    fail(file, reference.at, PromptErrorKind::Unresolved { what, name: reference.value.clone(), nearest })
}

fn fail(file: &str, at: Spot, kind: PromptErrorKind) -> PromptError {
    PromptError { file: file.to_owned(), at, kind }
}
