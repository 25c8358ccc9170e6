//! From a workflow and its values to the tasks of a run: loops are unrolled, other workflows brought in, dependencies
//! joined. Knows ids and the limits of a run; what one task does is [`super::task`]'s.

mod loops;
mod reuse;

use super::Workflows;
use super::definition::{Definition, TaskDefinition};
use super::problem::{Problems, shown};
use super::reader::Reader;
use super::task::{self, Kind};
use super::template::Scope;
use super::values::{Row, Value};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};

/// Most tasks of a run, publications and reviews among them.
pub(super) const MAX_TASKS: usize = 100_000;
/// Most dependencies of all tasks together.
const MAX_EDGES: usize = 1_000_000;
/// All tasks together, encoded: what one submit may bring.
const MAX_BYTES: usize = 256 << 20;
/// Workflows within workflows.
const MAX_DEPTH: usize = 8;
/// Most dependencies of one task.
const MAX_DEPENDENCIES: usize = 10_000;
/// Longest name of a task.
const MAX_ID: usize = 63;
/// Stands for the slug of a row that is not known; no slug has such a character.
const UNKNOWN: &str = "?";

/// What stays the same while one call is compiled.
pub(super) struct Expander<'a, 'p> {
    pub(super) in_force: &'a Workflows,
    pub(super) problems: &'p mut Problems,
    /// Names of the workflows being expanded, the outermost first.
    stack: Vec<String>,
    tasks: usize,
    edges: usize,
    bytes: usize,
    ids: BTreeSet<String>,
    /// Tasks looked at, also those that came to nothing.
    steps: usize,
    /// A limit was passed: nothing more is made.
    stopped: bool,
}

/// What a `use` gives to the workflow it brings in.
#[derive(Default, Clone)]
pub(super) struct Outer {
    /// Before each id.
    prefix: String,
    /// Of the tasks that depend on nothing within.
    dependencies: Vec<String>,
    after: Option<v1::After>,
    conditions: Vec<v1::Condition>,
    workspace: String,
}

/// What a workflow became.
#[derive(Default)]
pub(super) struct Expanded {
    pub(super) tasks: Vec<v1::TaskSpec>,
    /// Tasks on which no other task within depends.
    last: Vec<String>,
}

/// What one task as written became.
#[derive(Default)]
struct Group {
    tasks: Vec<v1::TaskSpec>,
    /// For each row: its slug, and the tasks to depend on. Without a loop one, with an empty slug.
    instances: Vec<(String, Vec<String>)>,
    looped: bool,
}

/// A row of a loop; `None` in place of one that is not known yet.
type LoopRow = Option<Row>;

impl<'a, 'p> Expander<'a, 'p> {
    pub(super) fn new(in_force: &'a Workflows, problems: &'p mut Problems) -> Self {
        let (stack, ids) = (Vec::new(), BTreeSet::new());
        Self { in_force, problems, stack, tasks: 0, edges: 0, bytes: 0, ids, steps: 0, stopped: false }
    }

    /// Expands a workflow.
    pub(super) fn workflow(
        &mut self,
        definition: &Definition,
        values: &BTreeMap<String, Value>,
        outer: &Outer,
    ) -> Expanded {
        self.stack.push(definition.name.clone());
        let mut groups: Vec<Group> = Vec::new();
        groups.resize_with(definition.tasks.len(), Group::default);
        for index in &definition.order {
            if self.stopped || self.problems.full() {
                break;
            }
            let place = Place { definition, values, outer, task: &definition.tasks[*index] };
            groups[*index] = self.group(&place, &groups);
        }
        self.stack.pop();
        let mut expanded = Expanded::default();
        for (group, task) in groups.into_iter().zip(&definition.tasks) {
            if !task.needed {
                expanded.last.extend(group.instances.into_iter().flat_map(|(_, last)| last));
            }
            expanded.tasks.extend(group.tasks);
        }
        expanded
    }

    /// One task as written, for each row of its loop.
    fn group(&mut self, place: &Place<'_>, groups: &[Group]) -> Group {
        let Some((alias, rows)) = self.rows(place) else { return Group::default() };
        let mut group = Group { looped: alias.is_some(), ..Group::default() };
        let matching = self.matching(place, &rows, groups);
        for (position, row) in rows.into_iter().enumerate() {
            if self.stopped || self.problems.full() {
                break;
            }
            let slug = match (&alias, &row) {
                (None, _) => String::new(),
                (Some(_), Some(row)) => row.slug.clone(),
                (Some(_), None) => UNKNOWN.to_owned(),
            };
            let row = alias.as_deref().map(|alias| (alias, row.as_ref()));
            let scope = Scope { parameters: place.values, row, today: self.in_force.today() };
            let dependencies = dependencies(place, matching.then_some(position), groups);
            let last = self.instance(place, scope, &slug, dependencies, &mut group.tasks);
            group.instances.push((slug, last));
        }
        group
    }

    /// One task for one row. Returns what those who depend on it depend on.
    fn instance(
        &mut self,
        place: &Place<'_>,
        scope: Scope<'_>,
        slug: &str,
        dependencies: Resolved,
        tasks: &mut Vec<v1::TaskSpec>,
    ) -> Vec<String> {
        self.steps += 1;
        if self.steps > MAX_TASKS * (MAX_DEPTH + 1) {
            self.stop(place, MAX_TASKS + 1);
            return Vec::new();
        }
        let dash = if slug.is_empty() { "" } else { "-" };
        let id = format!("{}{}{dash}{slug}", place.outer.prefix, place.task.id);
        let source = &place.definition.source;
        let mut reader = Reader { source, scope, problems: self.problems };
        let conditions = task::conditions(&mut reader, &place.task.node, &dependencies.by_name);
        let after = task::after(&mut reader, &place.task.node);
        let roots = place.task.dependencies.is_empty();
        let mut all = dependencies.all;
        if roots {
            all.extend(place.outer.dependencies.iter().cloned());
        }
        if task::kind(&place.task.node) == Some(Kind::Use) {
            task::refuse_fields(&mut reader, &place.task.node, Kind::Use);
            let outer = Outer {
                prefix: format!("{id}."),
                dependencies: all,
                after: after.or_else(|| place.outer.after.filter(|_| roots)),
                conditions: [conditions, if roots { place.outer.conditions.clone() } else { Vec::new() }]
                    .concat(),
                workspace: String::new(),
            };
            return self.used(place, scope, outer, tasks);
        }
        let defaults = place.definition.root.get("defaults");
        let Some(mut spec) = task::read(&mut reader, &place.task.node, defaults, self.in_force) else {
            return vec![id];
        };
        spec.dependencies = all;
        spec.conditions = conditions;
        spec.after = after.unwrap_or_default().into();
        if roots {
            spec.conditions.extend(place.outer.conditions.iter().cloned());
            if let (None, Some(outer)) = (after, place.outer.after) {
                spec.after = outer.into();
            }
        }
        if spec.workspace.is_empty() && !matches!(spec.runner, Some(v1::task_spec::Runner::Noop(_))) {
            spec.workspace.clone_from(&place.outer.workspace);
        }
        spec.task_id.clone_from(&id);
        if self.counted(place, &spec) {
            tasks.push(spec);
        }
        vec![id]
    }

    /// Counts a task against the limits of a run.
    fn counted(&mut self, place: &Place<'_>, spec: &v1::TaskSpec) -> bool {
        let source = &place.definition.source;
        if spec.task_id.len() > MAX_ID {
            let message =
                format!("the task would be called `{}`, longer than {MAX_ID}", shown(&spec.task_id));
            self.problems
                .add(source, ErrorCode::InvalidName, place.task.at.clone(), message)
                .help("shorten its id, or give the row a shorter `slug`");
        }
        if !self.ids.insert(spec.task_id.clone()) {
            let message = format!("two tasks would be called `{}`", shown(&spec.task_id));
            self.problems
                .add(source, ErrorCode::DuplicateTaskId, place.task.at.clone(), message)
                .help("rename one");
        }
        if spec.dependencies.len() > MAX_DEPENDENCIES {
            let message =
                format!("{} dependencies; a task has at most {MAX_DEPENDENCIES}", spec.dependencies.len());
            self.problems
                .add(source, ErrorCode::TooLarge, place.task.at.clone(), message)
                .help("join in several steps, or split the run");
        }
        let reviewed = spec.gates.as_ref().is_some_and(|gates| gates.review.is_some());
        let published = !spec.publish.is_empty();
        self.tasks = self.tasks.saturating_add(1 + usize::from(reviewed) + usize::from(published));
        self.edges = self.edges.saturating_add(spec.dependencies.len());
        self.bytes = self.bytes.saturating_add(spec.encoded_len());
        if self.tasks > MAX_TASKS {
            self.stop(place, self.tasks);
        } else if self.edges > MAX_EDGES || self.bytes > MAX_BYTES {
            let message = format!(
                "the run would have more than {MAX_EDGES} dependencies or {} MiB of text",
                MAX_BYTES >> 20
            );
            self.problems
                .add(source, ErrorCode::TooLarge, place.task.at.clone(), message)
                .help("split it into several runs");
            self.stopped = true;
        }
        !self.stopped
    }

    fn stop(&mut self, place: &Place<'_>, tasks: usize) {
        let message = format!(
            "the run would have {tasks} tasks or more, publications and reviews among them; at most {MAX_TASKS}"
        );
        self.problems
            .add(&place.definition.source, ErrorCode::TooManyTasks, place.task.at.clone(), message)
            .help("split it into several runs");
        self.stopped = true;
    }
}

/// A task as written, and what it stands in.
struct Place<'d> {
    definition: &'d Definition,
    values: &'d BTreeMap<String, Value>,
    outer: &'d Outer,
    task: &'d TaskDefinition,
}

/// What one task depends on.
#[derive(Default)]
struct Resolved {
    all: Vec<String>,
    /// By the id that the file has.
    by_name: BTreeMap<String, Vec<String>>,
}

/// The ids that a task depends on: all tasks of a loop, or those of the row at `position` alone.
fn dependencies(place: &Place<'_>, position: Option<usize>, groups: &[Group]) -> Resolved {
    let mut resolved = Resolved::default();
    let named = place.task.node.get("when").is_some();
    for (index, _) in &place.task.dependencies {
        let group = &groups[*index];
        let instances = match position.filter(|_| group.looped) {
            Some(position) => group.instances.get(position..=position).unwrap_or_default(),
            None => &group.instances,
        };
        let ids = instances.iter().flat_map(|(_, last)| last.iter().cloned());
        let before = resolved.all.len();
        resolved.all.extend(ids);
        if named {
            let id = place.definition.tasks[*index].id.clone();
            resolved.by_name.insert(id, resolved.all[before..].to_vec());
        }
    }
    resolved
}
