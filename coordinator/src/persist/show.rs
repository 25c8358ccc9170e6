//! From store records to what people see: runs, tasks and answers that are no longer, or never were, in the state.
//! Knows every field of both; computes nothing that is not in the record.

use orch_core::time::Wall;
use orch_proto::store::v1::{self as record, stored_spec::Runner};
use orch_proto::v1;

use crate::rpc::convert;

/// A run. `task` is its task's record where it has only one, which then also says what was spent.
#[must_use]
pub fn run(id: u64, stored: &record::RunRecord, task: Option<&record::TaskRecord>) -> v1::Run {
    let lone_counts =
        || task.map(|task| vec![v1::TaskStateCount { state: task.state, count: 1 }]).unwrap_or_default();
    v1::Run {
        r#ref: run_ref(stored),
        run_id: id,
        state: stored.state,
        created_at: Some(convert::timestamp(Wall(stored.created_ms))),
        finished_at: moment(stored.finished_ms),
        counts: if stored.task_count == 1 { lone_counts() } else { stored.counts.clone() },
        task_count: stored.task_count,
        usage: task.map_or_else(|| stored.usage.clone(), |task| task.usage.clone()),
        labels: stored.labels.clone(),
        submitted_by: stored.submitted_by.clone(),
        outcome: stored.outcome,
        on_failure: stored.on_failure,
        planned: stored.planning.is_some(),
        workflow: stored.workflow.clone(),
        detail: stored.detail.clone(),
        max_parallel: stored.max_parallel,
        budget: stored.budget.as_ref().map(|limit| spent_budget(limit, stored, task)),
    }
}

/// The budget of a run that is no longer in the state: nothing is reserved.
fn spent_budget(
    limit: &v1::BudgetLimit,
    stored: &record::RunRecord,
    task: Option<&record::TaskRecord>,
) -> v1::BudgetUse {
    let usage = task.map_or(stored.usage.as_ref(), |task| task.usage.as_ref());
    let tokens = |row: &v1::ModelUsage| {
        row.input_tokens + row.output_tokens + row.cache_read_tokens + row.cache_write_tokens
    };
    let spent = usage.map_or_else(v1::Spent::default, |usage| v1::Spent {
        micro_usd: usage.cost_micro_usd,
        tokens: usage.models.iter().map(tokens).sum(),
        runs: 0,
    });
    v1::BudgetUse {
        spent: Some(spent),
        limit: Some(*limit),
        run_ref: run_ref(stored),
        ..v1::BudgetUse::default()
    }
}

/// `name/number` of a run.
#[must_use]
pub fn run_ref(stored: &record::RunRecord) -> String {
    format!("{}/{}", stored.name, stored.number)
}

/// A task with its attempts and, where they were recorded, its answers. `dependencies` are the names of those in its
/// spec; without a record it is as it was submitted.
#[must_use]
pub fn task(
    run: &record::RunRecord,
    index: u32,
    spec: &record::StoredSpec,
    stored: Option<&record::TaskRecord>,
    dependencies: Vec<String>,
) -> v1::Task {
    let (worker, runner) = match &spec.runner {
        Some(Runner::Worker(task)) => (task.worker.clone(), "claude"),
        Some(Runner::Command(_) | Runner::PackedCommand(_)) => (String::new(), "command"),
        Some(Runner::Noop(_)) => (String::new(), "noop"),
        Some(Runner::Publish(_)) => (String::new(), "publish"),
        None => (String::new(), ""),
    };
    let mut task = v1::Task {
        r#ref: format!("{}/{}", run_ref(run), spec.task_id),
        index,
        task_id: spec.task_id.clone(),
        state: initial_state(spec).into(),
        worker,
        runner: runner.to_owned(),
        dependencies,
        created_at: Some(convert::timestamp(Wall(run.created_ms))),
        priority: spec.priority,
        role: role(spec).into(),
        workspace: spec.workspace.clone(),
        ..v1::Task::default()
    };
    if let Some(stored) = stored {
        add_record(&mut task, stored);
    }
    task
}

/// Adds what a task's record says beyond what a live view has: answers, attempts, tokens, session.
pub fn add_result(task: &mut v1::Task, stored: &record::TaskRecord) {
    task.usage.clone_from(&stored.usage);
    task.attempts = stored.attempts.iter().map(attempt).collect();
    if let Some(result) = &stored.result {
        task.num_turns = result.num_turns;
        task.session_id.clone_from(&result.session_id);
        task.denied_tools.clone_from(&result.denied_tools);
        task.artifact_count = result.artifacts.as_ref().map_or(0, |artifacts| artifacts.count);
        task.reused_from.clone_from(&result.reused_from);
        task.result_status.clone_from(&result.result_status);
        task.summary.clone_from(&result.summary);
        task.answer.clone_from(&result.answer);
        if let Some(v1::Text { body: Some(v1::text::Body::Inline(text)) }) = &result.structured {
            task.structured.clone_from(text);
        }
    }
}

fn add_record(task: &mut v1::Task, stored: &record::TaskRecord) {
    task.state = stored.state;
    task.attempt = stored.attempt;
    task.agent.clone_from(&stored.agent);
    task.outcome = stored.outcome;
    task.started_at = moment(stored.granted_ms);
    task.finished_at = moment(stored.finished_ms);
    let last = stored.attempts.last();
    task.repairs = stored.repairs;
    task.detail = match stored.note.is_empty() {
        true => last.map(|last| last.detail.clone()).unwrap_or_default(),
        false => stored.note.clone(),
    };
    let length = last.map(|last| last.finished_ms.saturating_sub(last.started_ms));
    task.execution_time = length
        .and_then(|length| u64::try_from(length).ok())
        .map(|length| convert::duration(orch_core::time::Span(length)));
    add_result(task, stored);
}

fn attempt(stored: &record::AttemptRecord) -> v1::Attempt {
    let usage = v1::Usage { cost_micro_usd: stored.cost_micro_usd, ..v1::Usage::default() };
    v1::Attempt {
        number: stored.number,
        agent: stored.agent.clone(),
        started_at: moment(stored.started_ms),
        finished_at: moment(stored.finished_ms),
        outcome: stored.outcome,
        detail: stored.detail.clone(),
        usage: Some(usage),
    }
}

fn initial_state(spec: &record::StoredSpec) -> v1::TaskState {
    let waits = !spec.dependencies.is_empty() || !spec.conditions.is_empty();
    if waits { v1::TaskState::Blocked } else { v1::TaskState::Queued }
}

/// What a task is for. A spec that does not say so is work.
fn role(spec: &record::StoredSpec) -> v1::TaskRole {
    match v1::TaskRole::try_from(spec.role) {
        Ok(v1::TaskRole::Unspecified) | Err(_) => v1::TaskRole::Work,
        Ok(role) => role,
    }
}

/// Whether a task belongs to another: a review or a publication.
pub(crate) fn belongs(spec: &record::StoredSpec) -> bool {
    matches!(role(spec), v1::TaskRole::Review | v1::TaskRole::Publish)
}

fn moment(wall: i64) -> Option<prost_types::Timestamp> {
    (wall != 0).then(|| convert::timestamp(Wall(wall)))
}
