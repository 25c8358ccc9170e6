//! Workers, sub-agents and templates: read from files, checked, and resolved into what an agent runs.
//!
//! A prompt file is Markdown under a small front matter, a strict subset of YAML. Files come in layers
//! ([`Layer`]): those built into the program, then `/etc/orch/prompts`, then `--prompts DIR`; a later layer
//! replaces what an earlier one defines, by name, and may refer to what it does not replace.
//! [`Catalogue::load`] puts the layers together or reports everything that is wrong with them; there is no
//! half-loaded catalogue. A [`Worker`] is then self-contained: its definition is stored by digest and pinned
//! at submit, and an agent needs nothing else to run it. `docs/workers.md` describes the format for those
//! who write workers.
//!
//! This module never talks to an agent and never changes a file. Loading blocks on the file system: call it
//! at start and on reload, off the async threads.

use std::collections::BTreeMap;
use std::sync::Arc;

mod error;
mod fields;
mod front_matter;
mod layer;
mod material;
mod models;
mod names;
mod problem;
mod resolve;
mod source;
mod tools;
mod worker;
mod workflow_files;

#[cfg(test)]
mod catalogue_tests;
#[cfg(test)]
mod material_tests;
#[cfg(test)]
mod shipped_tests;

pub use error::{PromptError, PromptErrorKind, Spot};
pub use front_matter::SyntaxError;
pub use layer::{EMBEDDED, Layer, PromptDir};
pub(crate) use names::nearest;
pub use problem::{CatalogueError, CatalogueProblem, Place};
pub use resolve::{MAX_AGENTS_JSON_BYTES, MAX_SYSTEM_PROMPT_BYTES};
pub use source::{SubAgentSource, WorkerSource, parse_subagent, parse_worker};
pub use tools::ToolProblem;
pub use worker::{DefinitionError, OnDenial, OnLoss, PermissionMode, SubAgent, Worker, WorkerDigest};
pub use workflow_files::WorkflowFile;

use fields::normalised;
use layer::{Kind, PromptFile};
use resolve::{MAX_TEMPLATE_BYTES, Sources};

/// The host's own prompts, read between those built in and those of `--prompts`.
pub const SYSTEM_PROMPT_DIR: &str = "/etc/orch/prompts";

/// All workers that tasks may name, resolved. Immutable: a reload makes a new one.
#[derive(Clone, Debug)]
pub struct Catalogue {
    workers: BTreeMap<String, (Worker, String)>,
    /// What it was made of.
    layers: Arc<[Layer]>,
}

impl Catalogue {
    /// The prompts built in, overridden by `dirs` in order: a later directory goes before an earlier one.
    ///
    /// # Errors
    /// Everything that is wrong in any layer. Nothing is loaded then; a daemon keeps the catalogue it has.
    pub fn load(dirs: &[PromptDir]) -> Result<Self, CatalogueError> {
        let (mut layers, mut problems) = (Vec::new(), Vec::new());
        let directories = dirs.iter().map(Layer::read);
        for layer in std::iter::once_with(Layer::embedded).chain(directories) {
            match layer {
                Ok(layer) => layers.push(layer),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() { Self::from_layers(layers) } else { Err(CatalogueError { problems }) }
    }

    /// Puts layers together, the last going before all others.
    ///
    /// # Errors
    /// Everything that is wrong in any layer, files that a later layer replaces included.
    pub fn from_layers(layers: impl IntoIterator<Item = Layer>) -> Result<Self, CatalogueError> {
        let layers: Arc<[Layer]> = layers.into_iter().collect();
        let mut sources = Sources::default();
        let mut problems = Vec::new();
        for layer in layers.iter() {
            let parsed = parse_layer(layer, &mut problems);
            sources.workers.extend(parsed.workers);
            sources.subagents.extend(parsed.subagents);
            sources.templates.extend(parsed.templates);
            sources.context.extend(parsed.context);
            sources.settings.extend(parsed.settings);
            sources.mcp.extend(parsed.mcp);
        }
        let mut workers = BTreeMap::new();
        if problems.is_empty() {
            for (name, source) in &sources.workers {
                match sources.resolve(source) {
                    Ok(worker) => drop(workers.insert(name.clone(), (worker, source.file.clone()))),
                    Err(error) => problems.push(error.into()),
                }
            }
        }
        if problems.is_empty() { Ok(Self { workers, layers }) } else { Err(CatalogueError { problems }) }
    }

    /// The catalogue with files that somebody sent as a last layer.
    ///
    /// # Errors
    /// Everything that is wrong with them, or with what they change.
    pub fn with_layer<P: AsRef<str>, C: AsRef<[u8]>>(
        &self,
        files: impl IntoIterator<Item = (P, C)>,
    ) -> Result<Self, CatalogueError> {
        let last = Layer::sent(files).map_err(|problems| CatalogueError { problems })?;
        Self::from_layers(self.layers.iter().cloned().chain([last]))
    }

    /// The worker of that name.
    #[must_use]
    pub fn worker(&self, name: &str) -> Option<&Worker> {
        self.workers.get(name).map(|(worker, _)| worker)
    }

    /// The file that defines the worker of that name, as errors would name it.
    #[must_use]
    pub fn origin(&self, name: &str) -> Option<&str> {
        self.workers.get(name).map(|(_, file)| file.as_str())
    }

    /// All workers, by name.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().map(|(worker, _)| worker)
    }

    /// The workflow files of each layer, the last going before all others.
    pub fn workflow_files(&self) -> impl Iterator<Item = &[WorkflowFile]> {
        self.layers.iter().map(|layer| layer.workflows.as_slice())
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.workers.keys().map(String::as_str)
    }

    /// The worker that an unknown `name` was probably meant to be, for "did you mean".
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.names())
    }
}

/// The sources of one layer. Two files of one layer must not define one name: which of them holds would
/// depend on file names, which mean nothing here.
fn parse_layer(layer: &Layer, problems: &mut Vec<CatalogueProblem>) -> Sources {
    let (mut workers, mut subagents, mut templates) = (Vec::new(), Vec::new(), BTreeMap::new());
    let (mut settings, mut mcp) = (BTreeMap::new(), BTreeMap::new());
    for file in &layer.files {
        let stem = file.stem.clone();
        let outcome = match file.kind {
            Kind::Worker => parse_worker(&file.path, &file.text).map(|source| workers.push(source)),
            Kind::SubAgent => subagent(file).map(|source| subagents.push(source)),
            Kind::Template => template(file).map(|text| drop(templates.insert(stem, text))),
            Kind::Settings => material::settings(file).map(|json| drop(settings.insert(stem, json))),
            Kind::Mcp => material::mcp_config(file).map(|config| drop(mcp.insert(stem, config))),
        };
        problems.extend(outcome.err().map(CatalogueProblem::from));
    }
    Sources {
        workers: by_name("worker", workers, WorkerSource::name, |source| &source.file, problems),
        subagents: by_name("sub-agent", subagents, SubAgentSource::name, |source| &source.file, problems),
        templates,
        context: layer.context.clone(),
        settings,
        mcp,
    }
}

/// A sub-agent whose prompt is whole in itself, so that its mistakes show even before a worker names it.
fn subagent(file: &PromptFile) -> Result<SubAgentSource, PromptError> {
    let source = parse_subagent(&file.path, &file.text)?;
    resolve::subagent_prompt(&source).map(|_| source)
}

fn template(file: &PromptFile) -> Result<String, PromptError> {
    let fail = |at, kind| PromptError { file: file.path.clone(), at, kind };
    let text = normalised(&file.text).map_err(|(at, kind)| fail(at, kind))?;
    let start = Spot { line: 1, column: 1 };
    if text.trim().is_empty() {
        return Err(fail(start, PromptErrorKind::EmptyBody));
    }
    if text.len() > MAX_TEMPLATE_BYTES {
        let kind =
            PromptErrorKind::TooLong { what: "the template", bytes: text.len(), limit: MAX_TEMPLATE_BYTES };
        return Err(fail(start, kind));
    }
    Ok(text.trim().to_owned())
}

fn by_name<T>(
    what: &'static str,
    sources: Vec<T>,
    name: impl Fn(&T) -> &str,
    file: impl Fn(&T) -> &String,
    problems: &mut Vec<CatalogueProblem>,
) -> BTreeMap<String, T> {
    let mut named: BTreeMap<String, T> = BTreeMap::new();
    for source in sources {
        match named.get(name(&source)) {
            None => drop(named.insert(name(&source).to_owned(), source)),
            Some(earlier) => problems.push(CatalogueProblem::Duplicate {
                what,
                name: name(&source).to_owned(),
                first: file(earlier).clone(),
                second: file(&source).clone(),
            }),
        }
    }
    named
}
