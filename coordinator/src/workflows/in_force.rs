//! The workflows that calls may name: every file of every layer, read and checked, the sound ones by name.
//! Knows layers and which file goes before which; files themselves are [`crate::prompts`]'.

use super::definition::Definition;
use super::problem::{Problems, Source};
use crate::prompts::WorkflowFile;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Day of workflows whose caller never said one: recognisable, and no day of anybody.
const NO_DAY: &str = "1970-01-01";

/// The workflows in force on a day. Cheap to clone; a reload makes another.
#[derive(Debug, Clone)]
pub struct Workflows {
    set: Arc<Set>,
    today: Arc<str>,
}

#[derive(Debug, Default)]
struct Set {
    sound: BTreeMap<String, Arc<Definition>>,
    /// Names whose file has mistakes.
    broken: BTreeSet<String>,
    problems: Vec<v1::PromptProblem>,
    workers: BTreeSet<String>,
}

impl Workflows {
    /// Reads layers, the last going before all others, for tasks of these workers.
    #[must_use]
    pub fn load<'f, 'w>(
        layers: impl IntoIterator<Item = &'f [WorkflowFile]>,
        workers: impl IntoIterator<Item = &'w str>,
    ) -> Self {
        let mut set = Set { workers: workers.into_iter().map(str::to_owned).collect(), ..Set::default() };
        for layer in layers {
            set.read_layer(layer);
        }
        Self { set: Arc::new(set), today: Arc::from(NO_DAY) }.settled()
    }

    /// The same on a day, written `2026-11-21`: what `{{date}}` stands for.
    #[must_use]
    pub fn on(&self, day: &str) -> Self {
        Self { set: Arc::clone(&self.set), today: Arc::from(day) }
    }

    /// Takes away what does not hold together, until everything left does: a workflow may use one that just went.
    fn settled(mut self) -> Self {
        loop {
            let mut wrong = Vec::new();
            for (name, definition) in &self.set.sound {
                let mut problems = Problems::default();
                super::made(definition, "", true, &self, &mut problems);
                if !problems.is_empty() {
                    wrong.push((name.clone(), definition.source.file.clone(), problems.into_found()));
                }
            }
            if wrong.is_empty() {
                return self;
            }
            let Set { mut sound, mut broken, mut problems, workers } = match Arc::try_unwrap(self.set) {
                Ok(set) => set,
                Err(_shared) => return Self { set: Arc::default(), today: self.today },
            };
            for (name, file, found) in wrong {
                sound.remove(&name);
                broken.insert(name);
                problems.extend(told_of(&file, found));
            }
            self.set = Arc::new(Set { sound, broken, problems, workers });
        }
    }

    /// The names in force.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.set.sound.keys().map(String::as_str)
    }

    /// Whether a workflow of this name is in force.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.set.sound.contains_key(name)
    }

    /// For lists, by name.
    pub fn list(&self) -> impl Iterator<Item = v1::Workflow> {
        self.set.sound.values().map(|definition| definition.wire())
    }

    /// One with its definition.
    #[must_use]
    pub fn show(&self, name: &str) -> Option<v1::Workflow> {
        let definition = self.set.sound.get(name)?;
        Some(v1::Workflow { definition: definition.source.text.clone(), ..definition.wire() })
    }

    /// Everything that is wrong with files; their workflows are not in force.
    #[must_use]
    pub fn problems(&self) -> &[v1::PromptProblem] {
        &self.set.problems
    }

    /// Whether a file defines this name and has mistakes.
    #[must_use]
    pub fn is_broken(&self, name: &str) -> bool {
        self.set.broken.contains(name)
    }

    /// The name that an unknown one was probably meant to be.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<&str> {
        super::problem::nearest(name, self.names())
    }

    pub(super) fn definition(&self, name: &str) -> Option<Arc<Definition>> {
        self.set.sound.get(name).cloned()
    }

    pub(super) fn today(&self) -> &str {
        &self.today
    }

    pub(super) fn has_worker(&self, name: &str) -> bool {
        self.set.workers.contains(name)
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &str> {
        self.set.workers.iter().map(String::as_str)
    }
}

/// What is told of a file: mistakes of what it brings in are told with their own.
fn told_of(file: &str, found: Vec<v1::PromptProblem>) -> Vec<v1::PromptProblem> {
    let (own, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|problem| problem.path == file);
    match others.first() {
        Some(other) if own.is_empty() => {
            let mut problems = Problems::default();
            let v1::PromptProblem { path, line, column, message, .. } = other;
            let message = format!("brings in a workflow with mistakes: {path}:{line}:{column}: {message}");
            problems.add_whole(file, ErrorCode::InvalidWorkflow, message);
            problems.into_found()
        }
        Some(_) | None => own,
    }
}

impl Set {
    fn read_layer(&mut self, layer: &[WorkflowFile]) {
        let mut named: BTreeMap<String, String> = BTreeMap::new();
        for file in layer {
            let mut problems = Problems::default();
            let (definition, name) = match &file.text {
                Ok(text) => Definition::read(Source::new(file.path.as_str(), text.as_str()), &mut problems),
                Err(why) => {
                    problems.add_whole(&file.path, ErrorCode::InvalidWorkflow, why.as_str());
                    (None, None)
                }
            };
            // A file that does not even say its name is about the one that its own name gives.
            let name = name.unwrap_or_else(|| file.stem.clone());
            if let Some(first) = named.insert(name.clone(), file.path.clone()) {
                let message = format!("the workflow `{name}` is already defined by {first}");
                problems.add_whole(&file.path, ErrorCode::InvalidWorkflow, message);
            }
            self.sound.remove(&name);
            self.broken.remove(&name);
            match definition.filter(|_| problems.is_empty()) {
                Some(definition) => drop(self.sound.insert(name, Arc::new(definition))),
                None => drop(self.broken.insert(name)),
            }
            self.problems.extend(problems.into_found());
        }
    }
}
