//! Turns worker sources into workers: looks up sub-agents and templates, fills markers, checks total sizes.
//!
//! Knows the whole set of effective sources, but no files. A template's text goes in as it is: braces in it
//! mean nothing, so a studio's own form may use them.

use std::collections::BTreeMap;

use super::error::{PromptError, PromptErrorKind, Spot};
use super::fields::spot_of;
use super::front_matter::Text;
use super::names;
use super::source::{SubAgentSource, WorkerSource};
use super::tools::{self, ToolEntry};
use super::worker::{SubAgent, Worker};

/// Largest system prompt, templates included, in bytes.
pub const MAX_SYSTEM_PROMPT_BYTES: usize = 256 * 1024;

/// Largest value of `--agents`, in bytes. The kernel takes 128 KiB for one argument; the rest is margin.
pub const MAX_AGENTS_JSON_BYTES: usize = 96 * 1024;

/// Largest template, in bytes.
pub(super) const MAX_TEMPLATE_BYTES: usize = 64 * 1024;

/// Everything that a worker may refer to, by name.
pub(super) struct Sources {
    pub(super) workers: BTreeMap<String, WorkerSource>,
    pub(super) subagents: BTreeMap<String, SubAgentSource>,
    pub(super) templates: BTreeMap<String, String>,
}

impl Sources {
    /// Resolves one worker.
    pub(super) fn resolve(&self, source: &WorkerSource) -> Result<Worker, PromptError> {
        let entries: Vec<ToolEntry> = source.tools.iter().map(|(_, entry)| entry.clone()).collect();
        let flags = tools::flags(&entries, &source.disallowed_tools);
        let worker = Worker {
            format: Worker::FORMAT,
            name: source.name().to_owned(),
            description: source.description.clone(),
            model: source.model.clone(),
            system_prompt: self.system_prompt(source)?,
            agents: self.agents(source, &flags.tools)?,
            tools: flags.tools,
            allowed_tools: flags.allowed_tools,
            disallowed_tools: flags.disallowed_tools,
            permission_mode: source.permission_mode,
            max_turns: source.max_turns,
            budget_micro_usd: source.budget_micro_usd,
            timeout_ms: source.timeout_ms,
            requires: source.requires.clone(),
            on_loss: source.on_loss,
        };
        let sizes = [
            ("the system prompt with its templates", worker.system_prompt.len(), MAX_SYSTEM_PROMPT_BYTES),
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

    fn agents(
        &self,
        source: &WorkerSource,
        offered: &[String],
    ) -> Result<BTreeMap<String, SubAgent>, PromptError> {
        let mut agents = BTreeMap::new();
        for reference in &source.subagents {
            let Some(subagent) = self.subagents.get(&reference.value) else {
                return Err(unresolved(&source.file, "sub-agent", reference, self.subagents.keys()));
            };
            let mut tools: Vec<String> = subagent.tools.iter().map(|entry| entry.name().to_owned()).collect();
            tools.sort();
            if let Some(tool) = tools.iter().find(|tool| !offered.contains(tool)) {
                let (subagent, tool) = (reference.value.clone(), tool.clone());
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
