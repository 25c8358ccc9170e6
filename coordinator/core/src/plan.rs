//! The plan compiler: what a planner drafted goes in, an order that can be run or everything that speaks against it
//! comes out. Knows tasks as words and sets; refuses to know JSON, prompts, the queue and the state.
//!
//! The verdict does not depend on the order in which the drafts are given.

mod paths;
mod problem;
mod shape;

#[cfg(test)]
mod tests;

pub use paths::is_off_limits;
pub use problem::{PathUse, PlanProblem, Reason};

use crate::machine::nearest::nearest;
use std::collections::{BTreeMap, BTreeSet};

/// Longest id of a planned task in bytes: `ID.publish` must still be a name of at most 63.
pub const MAX_ID_BYTES: usize = 50;

/// Unknown names that get a "did you mean": each costs a look at every known one.
const MAX_GUESSES: usize = 32;

/// A task as its planner drafted it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draft {
    /// Name within the run.
    pub id: String,
    /// Who does it.
    pub worker: String,
    /// What is to be done.
    pub description: String,
    /// Material that comes with it; may be empty.
    pub context: String,
    /// Ids of the tasks whose results it needs.
    pub dependencies: Vec<String>,
    /// Who judges its result, if anybody. The author's own worker may: the review is a conversation of its own.
    pub reviewer: Option<String>,
    /// Files it must leave, beneath `out/`; globs are allowed. Each task has an `out/` of its own.
    pub artifacts: Vec<String>,
    /// Files of it that go into the workspace.
    pub publications: Vec<DraftPublication>,
    /// What its planner expects it to cost, in millionths of a US dollar; 0 when nothing was said.
    pub expected_cost_micro_usd: u64,
}

/// A file that goes into the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DraftPublication {
    /// Path beneath `out/`.
    pub artifact: String,
    /// Path beneath the workspace. `{date}`, `{run}` and `{task}` are replaced later.
    pub to: String,
}

/// What a plan may count on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    /// The worker that plans; it may neither work nor review.
    pub planner: String,
    /// Workers that this plan may name, each with the capabilities (`key=value`) that it needs.
    pub workers: BTreeMap<String, BTreeSet<String>>,
    /// What every task of the run needs beside that: its runner, the run's workspace.
    pub everywhere: BTreeSet<String>,
    /// What a publication needs; `None` when the run has no workspace to publish into.
    pub publication: Option<BTreeSet<String>>,
    /// What each known agent offers, connected or not.
    pub offers: Vec<BTreeSet<String>>,
    /// Ids that tasks of the run have already.
    pub taken: BTreeSet<String>,
}

/// What a plan may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tasks, reviews and publications not counted.
    pub max_tasks: usize,
    /// Most tasks in a row, each waiting for the one before.
    pub max_depth: usize,
    /// Most tasks that wait directly for one task.
    pub max_fan_out: usize,
    /// Most that all tasks together may be expected to cost, in millionths of a US dollar.
    pub max_cost_micro_usd: u64,
}

impl Default for Limits {
    /// 20 tasks, 10 in a row, 50 waiting for one, 100 US dollars.
    fn default() -> Self {
        Self { max_tasks: 20, max_depth: 10, max_fan_out: 50, max_cost_micro_usd: 100_000_000 }
    }
}

/// A plan that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Positions of the drafts, every task after its dependencies, otherwise as they came.
    pub order: Vec<usize>,
    /// Tasks in its longest row.
    pub depth: usize,
    /// What all of it is expected to cost, in millionths of a US dollar.
    pub expected_cost_micro_usd: u64,
}

/// Compiles a plan.
///
/// # Errors
/// Everything that speaks against it, sorted, without repetition; never empty.
pub fn compile(
    drafts: &[Draft],
    catalogue: &Catalogue,
    limits: &Limits,
) -> Result<Compiled, Vec<PlanProblem>> {
    let mut problems = Vec::new();
    check_count(drafts, limits, &mut problems);
    check_ids(drafts, catalogue, &mut problems);
    check_texts(drafts, &mut problems);
    check_workers(drafts, catalogue, &mut problems);
    check_capabilities(drafts, catalogue, &mut problems);
    paths::check(drafts, catalogue.publication.is_some(), &mut problems);
    let shape = shape::check(drafts, limits, &mut problems);
    let expected_cost_micro_usd =
        drafts.iter().fold(0u64, |sum, draft| sum.saturating_add(draft.expected_cost_micro_usd));
    if expected_cost_micro_usd > limits.max_cost_micro_usd {
        problems.push(PlanProblem::TooExpensive {
            expected_micro_usd: expected_cost_micro_usd,
            limit_micro_usd: limits.max_cost_micro_usd,
        });
    }
    match shape {
        Some(shape) if problems.is_empty() => {
            Ok(Compiled { order: shape.order, depth: shape.depth, expected_cost_micro_usd })
        }
        Some(_) | None => {
            problems.sort();
            problems.dedup();
            Err(problems)
        }
    }
}

fn check_count(drafts: &[Draft], limits: &Limits, problems: &mut Vec<PlanProblem>) {
    if drafts.is_empty() {
        problems.push(PlanProblem::Empty);
    }
    if drafts.len() > limits.max_tasks {
        problems.push(PlanProblem::TooManyTasks { count: drafts.len(), limit: limits.max_tasks });
    }
}

fn check_ids(drafts: &[Draft], catalogue: &Catalogue, problems: &mut Vec<PlanProblem>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for draft in drafts {
        *counts.entry(&draft.id).or_default() += 1;
    }
    for (id, count) in counts {
        let id_shown = problem::shown(id);
        if !is_id(id) {
            problems.push(PlanProblem::BadId { id: id_shown.clone() });
        } else if catalogue.taken.contains(id) || id.ends_with(".review") || id.ends_with(".publish") {
            problems.push(PlanProblem::TakenId { id: id_shown.clone() });
        }
        if count > 1 {
            problems.push(PlanProblem::DuplicateId { id: id_shown, count });
        }
    }
}

/// The rule of task names of every run, and short enough for the tasks that are derived from it.
fn is_id(id: &str) -> bool {
    let fits = (1..=MAX_ID_BYTES).contains(&id.len()) && id.as_bytes()[0].is_ascii_alphanumeric();
    fits && !id.contains("..")
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn check_texts(drafts: &[Draft], problems: &mut Vec<PlanProblem>) {
    let mut same: BTreeMap<(&str, String, String), Vec<String>> = BTreeMap::new();
    for draft in drafts {
        let description = normalised(&draft.description);
        if description.is_empty() {
            problems.push(PlanProblem::MissingDescription { task: problem::shown(&draft.id) });
            continue;
        }
        let work = (draft.worker.as_str(), description, normalised(&draft.context));
        same.entry(work).or_default().push(problem::shown(&draft.id));
    }
    for ((worker, ..), tasks) in same {
        if tasks.len() > 1 {
            problems.push(PlanProblem::SameWork { tasks: sorted(tasks), worker: problem::shown(worker) });
        }
    }
}

/// Words only: neither case nor blanks make it other work.
fn normalised(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn check_workers(drafts: &[Draft], catalogue: &Catalogue, problems: &mut Vec<PlanProblem>) {
    let mut planning = Vec::new();
    let mut unknown: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for draft in drafts {
        for worker in [Some(&draft.worker), draft.reviewer.as_ref()].into_iter().flatten() {
            if *worker == catalogue.planner {
                planning.push(problem::shown(&draft.id));
            } else if !catalogue.workers.contains_key(worker) {
                unknown.entry(worker).or_default().push(problem::shown(&draft.id));
            }
        }
    }
    if !planning.is_empty() {
        let (planner, known) = (catalogue.planner.clone(), known_workers(catalogue));
        problems.push(PlanProblem::PlannerWorks { tasks: sorted(planning), planner, known });
    }
    for (at, (worker, tasks)) in unknown.into_iter().enumerate() {
        let names = catalogue.workers.keys().map(String::as_str);
        let near = if at < MAX_GUESSES { nearest(worker, names, 1).pop() } else { None };
        problems.push(PlanProblem::UnknownWorker {
            tasks: sorted(tasks),
            worker: problem::shown(worker),
            nearest: near,
            known: known_workers(catalogue),
        });
    }
}

fn known_workers(catalogue: &Catalogue) -> Vec<String> {
    catalogue.workers.keys().cloned().collect()
}

/// Each distinct set of needs is matched once: a plan has few of them, however many tasks.
fn check_capabilities(drafts: &[Draft], catalogue: &Catalogue, problems: &mut Vec<PlanProblem>) {
    let mut unmet: BTreeMap<(String, Vec<String>), Vec<String>> = BTreeMap::new();
    let mut offered: BTreeMap<BTreeSet<String>, bool> = BTreeMap::new();
    let mut look = |who: &str, needs: BTreeSet<String>, task: &str| {
        let met = offered
            .entry(needs.clone())
            .or_insert_with(|| catalogue.offers.iter().any(|offer| needs.is_subset(offer)));
        if !*met {
            let key = (who.to_owned(), needs.into_iter().collect());
            unmet.entry(key).or_default().push(problem::shown(task));
        }
    };
    for draft in drafts {
        for worker in [Some(&draft.worker), draft.reviewer.as_ref()].into_iter().flatten() {
            if let Some(needs) = catalogue.workers.get(worker) {
                look(&format!("worker `{worker}`"), needs | &catalogue.everywhere, &draft.id);
            }
        }
        if let (Some(needs), false) = (&catalogue.publication, draft.publications.is_empty()) {
            look("publishing", needs.clone(), &draft.id);
        }
    }
    for ((who, needs), tasks) in unmet {
        problems.push(PlanProblem::Unsatisfiable { tasks: sorted(tasks), who, needs });
    }
}
