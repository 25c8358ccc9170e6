//! A plan as the compiler takes it, and as tasks of a run.
//! Knows what each field of a plan means; the rules are the compiler's and the submission's.

use super::schemas::{Plan, PlannedTask, Priority};
use crate::presence::harmless;
use orch_core::plan::{Draft, DraftPublication};
use orch_proto::v1;
use std::collections::BTreeSet;

/// Characters of a value in a message.
const MAX_QUOTED: usize = 120;
/// Millionths of a US dollar in one.
const MICRO: f64 = 1_000_000.0;

/// A plan for the compiler, and which of its values are none.
pub(super) fn drafts(plan: &Plan) -> (Vec<Draft>, Vec<String>) {
    let mut problems = Vec::new();
    let drafts = plan.tasks.iter().map(|task| {
        problems.extend(bad_values(task));
        draft(task)
    });
    (drafts.collect(), problems)
}

fn bad_values(task: &PlannedTask) -> impl Iterator<Item = String> {
    let of = format!("task `{}`: ", harmless(&task.id, MAX_QUOTED));
    let timeout = task.timeout.as_ref().filter(|text| time(text).is_none());
    let timeout = timeout.map(|text| {
        format!("{of}timeout `{}` is no length of time: write 90s, 20m or 1h 30m", harmless(text, MAX_QUOTED))
    });
    let cost = task.expected_cost_usd.filter(|usd| micro_usd(*usd).is_none());
    let cost = cost.map(|usd| format!("{of}expected_cost_usd {usd} is no amount: 0 or more US dollars"));
    timeout.into_iter().chain(cost)
}

fn draft(task: &PlannedTask) -> Draft {
    Draft {
        id: task.id.clone(),
        worker: task.worker.clone(),
        description: task.description.clone(),
        context: task.context.clone().unwrap_or_default(),
        dependencies: task.dependencies.clone(),
        reviewer: task.review.as_ref().map(|review| review.worker.clone()),
        artifacts: task.artifacts.clone(),
        publications: task
            .publish
            .iter()
            .map(|one| DraftPublication { artifact: one.artifact.clone(), to: one.to.clone() })
            .collect(),
        expected_cost_micro_usd: task.expected_cost_usd.and_then(micro_usd).unwrap_or(0),
    }
}

/// The tasks that a plan stands for, in its order. Reviews and publications are in the tasks that they belong to.
#[must_use]
pub fn task_specs(plan: &Plan) -> Vec<v1::TaskSpec> {
    plan.tasks.iter().map(task_spec).collect()
}

fn task_spec(task: &PlannedTask) -> v1::TaskSpec {
    let worker = v1::WorkerTask {
        worker: task.worker.clone(),
        description: task.description.clone(),
        context: task.context.clone().unwrap_or_default(),
        contract: true,
        ..v1::WorkerTask::default()
    };
    let publish = task.publish.iter().map(|one| v1::Publication {
        artifact: one.artifact.clone(),
        to: one.to.clone(),
        replace: one.replace,
    });
    v1::TaskSpec {
        task_id: task.id.clone(),
        runner: Some(v1::task_spec::Runner::Worker(worker)),
        dependencies: task.dependencies.clone(),
        priority: task.priority.map(|priority| match priority {
            Priority::High => 100,
            Priority::Medium => 50,
            Priority::Low => 10,
        }),
        timeout: task.timeout.as_deref().and_then(time),
        gates: gates(task),
        publish: publish.collect(),
        expected_cost_micro_usd: task.expected_cost_usd.and_then(micro_usd),
        ..v1::TaskSpec::default()
    }
}

/// A file that is to be published must be there: a task that left it out can still mend that, a publication cannot.
fn gates(task: &PlannedTask) -> Option<v1::Gates> {
    let published = task.publish.iter().map(|one| &one.artifact);
    let mut seen = BTreeSet::new();
    let required = task.artifacts.iter().chain(published).filter(|path| seen.insert(*path));
    let gates = v1::Gates {
        min_tool_calls: task.min_tool_calls.unwrap_or(0),
        required_artifacts: required.cloned().collect(),
        review: task.review.as_ref().map(|review| v1::Review {
            worker: review.worker.clone(),
            instructions: review.instructions.clone(),
            model: String::new(),
        }),
        ..v1::Gates::default()
    };
    (gates != v1::Gates::default()).then_some(gates)
}

fn time(text: &str) -> Option<prost_types::Duration> {
    let time = humantime::parse_duration(text.trim()).ok().filter(|time| !time.is_zero())?;
    prost_types::Duration::try_from(time).ok()
}

/// `None` for what is no amount: negative, infinite, or far beyond anything that is paid.
fn micro_usd(usd: f64) -> Option<u64> {
    let micro = (usd * MICRO).round();
    // Far below the first whole number that a float cannot hold.
    (0.0..=1e15).contains(&micro).then_some(micro as u64)
}
