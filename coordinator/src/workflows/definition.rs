//! A workflow as it is written: name, parameters, and the graph of its tasks by their ids, before any value is known.
//! Knows ids, dependencies and cycles; the other fields of a task are [`super::task`]'s.

use super::json::{Json, Node};
use super::parameters::{self, Parameter};
use super::problem::{Problems, Source, shown};
use super::reader::known_fields;
use super::task;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;

/// Every field of a workflow.
pub(super) const FIELDS: &[&str] = &[
    "$schema",
    "name",
    "description",
    "parameters",
    "defaults",
    "on_failure",
    "max_parallel",
    "workspace",
    "labels",
    "tasks",
    "budget_usd",
];
/// Longest definition, in bytes.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// Most tasks written in one file: a run has no more.
const MAX_TASKS: usize = 100_000;
/// Longest description, in bytes: it stands in lists.
const MAX_DESCRIPTION: usize = 2_000;

/// A workflow whose graph is sound.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) source: Source,
    pub(super) name: String,
    description: String,
    pub(super) parameters: Vec<Parameter>,
    /// The whole file.
    pub(super) root: Node,
    /// In the order of the file.
    pub(super) tasks: Vec<TaskDefinition>,
    /// Indexes of `tasks`, each after those that it depends on.
    pub(super) order: Vec<usize>,
}

/// A task as it is written.
#[derive(Debug)]
pub(super) struct TaskDefinition {
    pub(super) id: String,
    /// Of the id.
    pub(super) at: Range<usize>,
    pub(super) node: Node,
    /// Indexes of the tasks it depends on, and where it says so.
    pub(super) dependencies: Vec<(usize, Range<usize>)>,
    /// Another task depends on it.
    pub(super) needed: bool,
}

impl Definition {
    /// Reads a definition; what is wrong goes to `problems`. The second part is its name as far as it can be told.
    pub(super) fn read(source: Source, problems: &mut Problems) -> (Option<Self>, Option<String>) {
        let before = problems.count();
        if source.text.len() > MAX_BYTES {
            let message = format!("{} bytes; a workflow has at most {MAX_BYTES}", source.text.len());
            problems.add_whole(&source.file, ErrorCode::TooLarge, message);
            return (None, None);
        }
        let Some(root) = super::json::read(&source, problems) else { return (None, None) };
        known_fields(&source, &root, "a workflow", FIELDS, problems);
        if !matches!(root.json, Json::Object(_)) {
            return (None, None);
        }
        let name = name(&source, &root, problems);
        let description = description(&source, &root, problems);
        let parameters = root
            .get("parameters")
            .map_or_else(Vec::new, |node| parameters::declared(&source, node, problems));
        let mut tasks = tasks(&source, &root, problems);
        link(&source, &mut tasks, problems);
        let order = order(&source, &tasks, problems);
        let sound = problems.count() == before;
        let made = name.clone().filter(|_| sound);
        let made = made.map(|name| Self { source, name, description, parameters, root, tasks, order });
        (made, name)
    }

    /// For lists: everything but the definition itself.
    pub(super) fn wire(&self) -> v1::Workflow {
        v1::Workflow {
            name: self.name.clone(),
            description: self.description.clone(),
            parameters: self.parameters.iter().map(Parameter::wire).collect(),
            source: match self.source.file.starts_with(crate::prompts::EMBEDDED) {
                true => "shipped".to_owned(),
                false => self.source.file.clone(),
            },
            definition: String::new(),
            digest: Sha256::digest(&self.source.text).to_vec(),
        }
    }
}

fn name(source: &Source, root: &Node, problems: &mut Problems) -> Option<String> {
    let start = root.at.start..root.at.start + 1;
    let Some(node) = root.get("name") else {
        problems.add(source, ErrorCode::InvalidName, start, "the workflow has no `name`");
        return None;
    };
    match node.as_text() {
        Some(name) if is_name(name) => Some(name.to_owned()),
        Some(_) | None => {
            problems
                .add(source, ErrorCode::InvalidName, node.at.clone(), "this cannot be the name of a workflow")
                .help("lower-case letters, digits and `-`, a letter first, at most 63");
            None
        }
    }
}

/// The rule of worker names, for one place to remember; a name of a run may be it.
fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn description(source: &Source, root: &Node, problems: &mut Problems) -> String {
    let Some(node) = root.get("description") else { return String::new() };
    match node.as_text() {
        Some(text) if text.len() <= MAX_DESCRIPTION => text.to_owned(),
        Some(_) | None => {
            let message = format!("`description` must be a text of at most {MAX_DESCRIPTION} bytes");
            problems.add(source, ErrorCode::InvalidField, node.at.clone(), message);
            String::new()
        }
    }
}

fn tasks(source: &Source, root: &Node, problems: &mut Problems) -> Vec<TaskDefinition> {
    let items = root.get("tasks").and_then(Node::items);
    let Some(items) = items.filter(|items| (1..=MAX_TASKS).contains(&items.len())) else {
        let at = root.get("tasks").map_or(root.at.start..root.at.start + 1, |node| node.at.clone());
        let message = format!("a workflow has `tasks`: a list of 1 to {MAX_TASKS}");
        problems.add(source, ErrorCode::TooManyTasks, at, message);
        return Vec::new();
    };
    let mut tasks: Vec<TaskDefinition> = Vec::with_capacity(items.len());
    let mut ids = BTreeMap::new();
    for item in items {
        if !known_fields(source, item, "a task", task::FIELDS, problems)
            && !matches!(item.json, Json::Object(_))
        {
            continue;
        }
        let Some((id, at)) = id(source, item, problems) else { continue };
        if ids.insert(id.clone(), ()).is_some() {
            let message = format!("the task id `{id}` is there twice");
            problems.add(source, ErrorCode::DuplicateTaskId, at, message).help("rename one");
            continue;
        }
        tasks.push(TaskDefinition { id, at, node: item.clone(), dependencies: Vec::new(), needed: false });
    }
    tasks
}

fn id(source: &Source, item: &Node, problems: &mut Problems) -> Option<(String, Range<usize>)> {
    let Some(node) = item.get("id") else {
        let at = item.at.start..item.at.start + 1;
        problems.add(source, ErrorCode::InvalidName, at, "a task has no `id`");
        return None;
    };
    let fits = |id: &&str| {
        (1..=63).contains(&id.len())
            && id.starts_with(|c: char| c.is_ascii_alphanumeric())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let Some(id) = node.as_text().filter(fits) else {
        problems
            .add(source, ErrorCode::InvalidName, node.at.clone(), "this cannot be the id of a task")
            .help("letters, digits, `-` and `_`, a letter or digit first, at most 63; a dot stands between a `use` and what it brings");
        return None;
    };
    Some((id.to_owned(), node.at.clone()))
}

/// Finds the tasks that `dependencies` name.
fn link(source: &Source, tasks: &mut [TaskDefinition], problems: &mut Problems) {
    let indexes: BTreeMap<String, usize> =
        tasks.iter().enumerate().map(|(index, task)| (task.id.clone(), index)).collect();
    let mut needed = vec![false; tasks.len()];
    for task in tasks.iter_mut() {
        let Some(node) = task.node.get("dependencies") else { continue };
        let Some(items) = node.items() else {
            let message = format!("`dependencies` must be a list of task ids, not {}", node.kind());
            problems.add(source, ErrorCode::InvalidField, node.at.clone(), message);
            continue;
        };
        let mut found = Vec::with_capacity(items.len());
        for item in items {
            let name = item.as_text().unwrap_or_default();
            match indexes.get(name) {
                Some(index) => {
                    needed[*index] = true;
                    found.push((*index, item.at.clone()));
                }
                None => {
                    let message =
                        format!("task `{}` depends on `{}`, which does not exist", task.id, shown(name));
                    problems
                        .add(source, ErrorCode::UnknownDependency, item.at.clone(), message)
                        .nearest(name, indexes.keys().map(String::as_str));
                }
            }
        }
        found.sort_by_key(|(index, _)| *index);
        found.dedup_by_key(|(index, _)| *index);
        task.dependencies = found;
    }
    for (task, needed) in tasks.iter_mut().zip(needed) {
        task.needed = needed;
    }
}

/// An order in which each task follows what it depends on. Tasks that wait for each other are reported.
fn order(source: &Source, tasks: &[TaskDefinition], problems: &mut Problems) -> Vec<usize> {
    let mut waits: Vec<usize> = tasks.iter().map(|task| task.dependencies.len()).collect();
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    for (index, task) in tasks.iter().enumerate() {
        for (dependency, _) in &task.dependencies {
            after[*dependency].push(index);
        }
    }
    let mut order: Vec<usize> = (0..tasks.len()).filter(|index| waits[*index] == 0).collect();
    let mut at = 0;
    while let Some(index) = order.get(at).copied() {
        at += 1;
        for next in &after[index] {
            waits[*next] -= 1;
            if waits[*next] == 0 {
                order.push(*next);
            }
        }
    }
    if order.len() < tasks.len() {
        report_circle(source, tasks, &waits, problems);
    }
    order
}

/// Follows dependencies that are never met until a task comes back.
fn report_circle(source: &Source, tasks: &[TaskDefinition], waits: &[usize], problems: &mut Problems) {
    /// Tasks of a circle that are named.
    const NAMED: usize = 8;
    let stuck = |index: usize| tasks[index].dependencies.iter().find(|(next, _)| waits[*next] > 0);
    let Some(mut at) = (0..tasks.len()).find(|index| waits[*index] > 0) else { return };
    let (mut path, mut seen) = (Vec::new(), BTreeMap::new());
    while let Some((next, place)) = stuck(at) {
        if let Some(first) = seen.insert(at, path.len()) {
            let mut ids: Vec<&str> =
                path[first..].iter().map(|index: &usize| tasks[*index].id.as_str()).collect();
            let last = ids.first().copied().unwrap_or_default();
            if ids.len() > NAMED {
                ids.truncate(NAMED);
                ids.push("…");
            }
            let message = format!("tasks wait for each other: {} → {last}", ids.join(" → "));
            problems.add(source, ErrorCode::DependencyCycle, place.clone(), message);
            return;
        }
        path.push(at);
        at = *next;
    }
}
