//! A plan, examined: tasks that can join the run, or everything that speaks against it.
//! Knows the order of the steps; each has its own rules.

use super::schemas::Plan;
use super::{read_plan, specs, task_specs};
use crate::presence::harmless;
use crate::submission::{
    CheckedPlanning, CheckedTask, Frame, Given, PLAN, SYNTHESIS, SpecError, check_tasks,
};
use orch_core::plan::{Limits, compile};
use orch_proto::v1;
use std::collections::BTreeSet;

/// Index of the first task of a plan: before it come the planner and the synthesis.
const FIRST: u32 = 2;
/// Problems kept: whoever mended these is told of the rest.
const MAX_PROBLEMS: usize = 100;
/// All of them together, in bytes: they travel in one message, and into a prompt.
const MAX_PROBLEM_BYTES: usize = 32 << 10;
/// Longest words of a planner on what is missing, in characters.
const MAX_MISSING: usize = 2_000;

/// A plan that can be run.
#[derive(Debug, Clone)]
pub struct Examined {
    /// Its tasks as they would have been submitted, dependencies first.
    pub specs: Vec<v1::TaskSpec>,
    /// The same checked, reviews and publications after them. Their indexes begin with 2.
    pub tasks: Vec<CheckedTask>,
}

/// Why a plan is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// The planner gave none, and says what is missing.
    Missing(String),
    /// What is wrong with it; never empty.
    Problems(Vec<String>),
}

/// What a plan of at most `max_tasks` may not pass.
#[must_use]
pub fn limits(max_tasks: u32) -> Limits {
    Limits { max_tasks: usize::try_from(max_tasks).unwrap_or(usize::MAX), ..Limits::default() }
}

/// Examines a plan for the run that `planning` belongs to.
///
/// # Errors
/// [`Objection`].
pub fn examine(text: &str, planning: &CheckedPlanning, given: &Given<'_>) -> Result<Examined, Objection> {
    let plan = read_plan(text).map_err(|problem| Objection::Problems(vec![problem]))?;
    let mut problems = Vec::new();
    let missing: Vec<&str> =
        plan.missing.iter().map(|one| one.trim()).filter(|one| !one.is_empty()).collect();
    if !missing.is_empty() {
        if plan.tasks.is_empty() {
            return Err(Objection::Missing(harmless(&missing.join("; "), MAX_MISSING)));
        }
        let both =
            "the plan has tasks and says in `missing` that there can be none: leave one of the two out";
        problems.push(both.to_owned());
    }
    let (drafts, bad_values) = specs::drafts(&plan);
    problems.extend(bad_values);
    match compile(&drafts, &given.catalogue.measure(planning), &limits(planning.max_tasks)) {
        Ok(compiled) if problems.is_empty() => {
            let tasks = compiled.order.iter().map(|at| plan.tasks[*at].clone()).collect();
            check(&Plan { tasks, ..plan }, planning, given)
        }
        Ok(_) => Err(Objection::Problems(bounded(problems))),
        Err(found) => {
            problems.extend(found.iter().map(ToString::to_string));
            Err(Objection::Problems(bounded(problems)))
        }
    }
}

/// The rules that hold for every task of every run.
fn check(plan: &Plan, planning: &CheckedPlanning, given: &Given<'_>) -> Result<Examined, Objection> {
    let specs = task_specs(plan);
    let taken: BTreeSet<String> = [PLAN, SYNTHESIS].map(str::to_owned).into();
    let frame = Frame { first: FIRST, taken: &taken, workspace: &planning.workspace, no_cache: true };
    match check_tasks(specs.clone(), &frame, given) {
        Ok(tasks) => Ok(Examined { specs, tasks }),
        Err(error) => Err(Objection::Problems(bounded(vec![named(&error, &specs)]))),
    }
}

/// The error with the task's id in place of its position.
fn named(error: &SpecError, specs: &[v1::TaskSpec]) -> String {
    let place = error.field.strip_prefix("tasks[").and_then(|rest| rest.split_once(']'));
    let task = place.and_then(|(at, rest)| Some((specs.get(at.parse::<usize>().ok()?)?, rest)));
    match task {
        Some((spec, rest)) => {
            let field = rest.trim_start_matches('.');
            format!("task `{}`: {field}: {}", spec.task_id, error.message)
        }
        None => error.to_string(),
    }
}

fn bounded(problems: Vec<String>) -> Vec<String> {
    let (all, mut bytes) = (problems.len(), 0);
    let fits = |(at, problem): &(usize, String)| {
        bytes += problem.len();
        *at == 0 || (*at < MAX_PROBLEMS && bytes <= MAX_PROBLEM_BYTES)
    };
    let mut kept: Vec<String> =
        problems.into_iter().enumerate().take_while(fits).map(|(_, problem)| problem).collect();
    if kept.len() < all {
        kept.push(format!("and {} more of that kind: mend these first", all - kept.len()));
    }
    kept
}
