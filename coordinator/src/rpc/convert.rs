//! From the core's views to the wire, and from the wire's enumerations back.
//! The only place that names both; no rule is decided here.

pub mod budgets;
mod limits;
mod watch;

pub use self::limits::{
    allowance, bucket, limit_grant, limit_hit, limit_report, limit_signal, meter_from_wire, pool_notice,
    pool_state, spending,
};
pub use self::watch::watch_event;

use orch_core::effect::{ReportResult, StopReason, Verdict};
use orch_core::event::{FailurePolicy, HeldState, OnLoss, Role};
use orch_core::ids::{AttemptKey, AttemptNo, RunId, TaskIndex, TaskKey};
use orch_core::outcome::Outcome;
use orch_core::query::{AgentStateView, AgentView, Impossible, Reason, RunView, TaskView};
use orch_core::state::{RunState, TaskState};
use orch_core::time::{Span, Wall};
use orch_core::usage::{ModelUsage, Usage};
use orch_proto::v1;
use std::sync::Arc;

/// A wall clock reading.
#[must_use]
pub fn timestamp(wall: Wall) -> prost_types::Timestamp {
    let nanos = i32::try_from(wall.0.rem_euclid(1_000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp { seconds: wall.0.div_euclid(1_000), nanos }
}

/// A length of time.
#[must_use]
pub fn duration(span: Span) -> prost_types::Duration {
    let nanos = i32::try_from(span.0 % 1_000 * 1_000_000).unwrap_or(0);
    prost_types::Duration { seconds: i64::try_from(span.0 / 1_000).unwrap_or(i64::MAX), nanos }
}

/// A length of time from the wire; negative ones count as none.
#[must_use]
pub fn span(duration: &prost_types::Duration) -> Span {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let millis = u64::try_from(duration.nanos / 1_000_000).unwrap_or(0);
    Span(seconds.saturating_mul(1_000).saturating_add(millis))
}

/// The number on the wire is the number in the core.
#[must_use]
pub fn outcome_to_wire(outcome: Outcome) -> v1::Outcome {
    v1::Outcome::try_from(i32::from(outcome.0)).unwrap_or(v1::Outcome::Unspecified)
}

/// An outcome from the wire; `None` when unset or unknown.
#[must_use]
pub fn outcome_from_wire(number: i32) -> Option<Outcome> {
    match v1::Outcome::try_from(number) {
        Ok(v1::Outcome::Unspecified) | Err(_) => None,
        Ok(_) => u8::try_from(number).ok().map(Outcome),
    }
}

/// An outcome field: 0 when there is none.
#[must_use]
pub fn outcome_field(outcome: Option<Outcome>) -> i32 {
    outcome.map_or(0, |outcome| i32::from(outcome.0))
}

/// State of a run.
#[must_use]
pub const fn run_state(state: RunState) -> v1::RunState {
    match state {
        RunState::Planning => v1::RunState::Planning,
        RunState::WaitingApproval => v1::RunState::WaitingApproval,
        RunState::Running => v1::RunState::Running,
        RunState::Synthesizing => v1::RunState::Synthesizing,
        RunState::Succeeded => v1::RunState::Succeeded,
        RunState::Failed => v1::RunState::Failed,
        RunState::Cancelled => v1::RunState::Cancelled,
    }
}

/// State of a run from the wire.
#[must_use]
pub const fn run_state_from_wire(state: v1::RunState) -> Option<RunState> {
    match state {
        v1::RunState::Unspecified => None,
        v1::RunState::Planning => Some(RunState::Planning),
        v1::RunState::WaitingApproval => Some(RunState::WaitingApproval),
        v1::RunState::Running => Some(RunState::Running),
        v1::RunState::Synthesizing => Some(RunState::Synthesizing),
        v1::RunState::Succeeded => Some(RunState::Succeeded),
        v1::RunState::Failed => Some(RunState::Failed),
        v1::RunState::Cancelled => Some(RunState::Cancelled),
    }
}

/// State of a task.
#[must_use]
pub const fn task_state(state: TaskState) -> v1::TaskState {
    match state {
        TaskState::Blocked => v1::TaskState::Blocked,
        TaskState::Queued => v1::TaskState::Queued,
        TaskState::Leased => v1::TaskState::Leased,
        TaskState::Running => v1::TaskState::Running,
        TaskState::Verifying => v1::TaskState::Verifying,
        TaskState::WaitingRetry => v1::TaskState::WaitingRetry,
        TaskState::Parked => v1::TaskState::Parked,
        TaskState::Succeeded => v1::TaskState::Succeeded,
        TaskState::Failed => v1::TaskState::Failed,
        TaskState::Cancelled => v1::TaskState::Cancelled,
        TaskState::Skipped => v1::TaskState::Skipped,
    }
}

/// State of a task from the wire.
#[must_use]
pub const fn task_state_from_wire(state: v1::TaskState) -> Option<TaskState> {
    match state {
        v1::TaskState::Unspecified => None,
        v1::TaskState::Blocked => Some(TaskState::Blocked),
        v1::TaskState::Queued => Some(TaskState::Queued),
        v1::TaskState::Leased => Some(TaskState::Leased),
        v1::TaskState::Running => Some(TaskState::Running),
        v1::TaskState::Verifying => Some(TaskState::Verifying),
        v1::TaskState::WaitingRetry => Some(TaskState::WaitingRetry),
        v1::TaskState::Parked => Some(TaskState::Parked),
        v1::TaskState::Succeeded => Some(TaskState::Succeeded),
        v1::TaskState::Failed => Some(TaskState::Failed),
        v1::TaskState::Cancelled => Some(TaskState::Cancelled),
        v1::TaskState::Skipped => Some(TaskState::Skipped),
    }
}

/// What to do on loss; unset and unknown mean `fast`.
#[must_use]
pub const fn on_loss_from_wire(on_loss: v1::OnLoss) -> OnLoss {
    match on_loss {
        v1::OnLoss::Wait => OnLoss::Wait,
        v1::OnLoss::Fast | v1::OnLoss::Unspecified => OnLoss::Fast,
    }
}

/// An attempt.
#[must_use]
pub const fn attempt_id(key: AttemptKey) -> v1::AttemptId {
    v1::AttemptId { run_id: key.task.run.0, task_index: key.task.index.0, attempt: key.attempt.0 }
}

/// An attempt from the wire; attempt 0 does not exist.
#[must_use]
pub fn attempt_key(id: Option<&v1::AttemptId>) -> Option<AttemptKey> {
    let id = id.filter(|id| id.attempt > 0)?;
    let task = TaskKey { run: RunId(id.run_id), index: TaskIndex(id.task_index) };
    Some(AttemptKey { task, attempt: AttemptNo(id.attempt) })
}

/// How far a held attempt is.
#[must_use]
pub const fn held_state(state: v1::HeldState) -> Option<HeldState> {
    match state {
        v1::HeldState::Unspecified => None,
        v1::HeldState::Accepted => Some(HeldState::Accepted),
        v1::HeldState::Running => Some(HeldState::Running),
        v1::HeldState::Finished => Some(HeldState::Finished),
    }
}

/// What to do with a held attempt.
#[must_use]
pub const fn verdict(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Keep => v1::Verdict::Keep,
        Verdict::Cancel => v1::Verdict::Cancel,
        Verdict::SendReport => v1::Verdict::SendReport,
    }
}

/// Why an attempt is stopped.
#[must_use]
pub const fn stop_reason(reason: StopReason) -> v1::StopReason {
    match reason {
        StopReason::Cancelled => v1::StopReason::Cancelled,
        StopReason::Fenced => v1::StopReason::Fenced,
        StopReason::Revoked => v1::StopReason::Revoked,
    }
}

/// What became of a report.
#[must_use]
pub const fn report_result(result: ReportResult) -> v1::ReportResult {
    match result {
        ReportResult::Recorded => v1::ReportResult::Recorded,
        ReportResult::Fenced => v1::ReportResult::Fenced,
        ReportResult::Conflict => v1::ReportResult::Conflict,
    }
}

/// Tokens and money.
#[must_use]
pub fn usage(usage: &Usage) -> v1::Usage {
    v1::Usage {
        models: usage.models.iter().map(model_usage).collect(),
        cost_micro_usd: usage.cost_micro_usd,
        estimated: usage.estimated,
    }
}

fn model_usage(row: &ModelUsage) -> v1::ModelUsage {
    v1::ModelUsage {
        model: row.model.to_string(),
        input_tokens: row.input,
        output_tokens: row.output,
        cache_read_tokens: row.cache_read,
        cache_write_tokens: row.cache_write,
        cost_micro_usd: row.cost_micro_usd,
    }
}

/// Tokens and money from the wire, rows sorted and merged by model.
#[must_use]
pub fn usage_from_wire(wire: &v1::Usage) -> Usage {
    let mut sum = Usage { models: Vec::new(), cost_micro_usd: 0, estimated: wire.estimated };
    for row in &wire.models {
        let row = ModelUsage {
            model: Arc::from(row.model.as_str()),
            input: row.input_tokens,
            output: row.output_tokens,
            cache_read: row.cache_read_tokens,
            cache_write: row.cache_write_tokens,
            cost_micro_usd: row.cost_micro_usd,
        };
        sum.add(&Usage { models: vec![row], cost_micro_usd: 0, estimated: false });
    }
    sum.cost_micro_usd = wire.cost_micro_usd;
    sum
}

/// A run.
#[must_use]
pub fn run(view: &RunView) -> v1::Run {
    v1::Run {
        r#ref: view.run_ref.to_string(),
        run_id: view.id.0,
        state: run_state(view.state).into(),
        created_at: Some(timestamp(view.created)),
        finished_at: view.finished.map(timestamp),
        counts: view
            .counts
            .iter()
            .map(|(state, count)| v1::TaskStateCount { state: task_state(*state).into(), count: *count })
            .collect(),
        task_count: view.task_count,
        usage: Some(usage(&view.usage)),
        labels: view.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        submitted_by: view.submitted_by.to_string(),
        outcome: outcome_field(view.outcome),
        on_failure: failure_policy(view.shape.policy).into(),
        planned: view.shape.planning.is_some(),
        workflow: view.shape.workflow.as_ref().map(ToString::to_string).unwrap_or_default(),
        detail: view.detail.to_string(),
        max_parallel: view.shape.max_parallel,
        budget: view.budget.as_ref().map(budgets::budget_use),
    }
}

/// What a run does when a task does not succeed.
#[must_use]
pub const fn failure_policy(policy: FailurePolicy) -> v1::FailurePolicy {
    match policy {
        FailurePolicy::FailFast => v1::FailurePolicy::FailFast,
        FailurePolicy::Continue => v1::FailurePolicy::Continue,
        FailurePolicy::BestEffort => v1::FailurePolicy::BestEffort,
    }
}

/// What a run does when a task does not succeed, from the wire; unset means to go on with what does not depend on it.
#[must_use]
pub const fn failure_policy_from_wire(policy: v1::FailurePolicy) -> FailurePolicy {
    match policy {
        v1::FailurePolicy::FailFast => FailurePolicy::FailFast,
        v1::FailurePolicy::Unspecified | v1::FailurePolicy::Continue => FailurePolicy::Continue,
        v1::FailurePolicy::BestEffort => FailurePolicy::BestEffort,
    }
}

/// What a task is for.
#[must_use]
pub const fn role(role: Role) -> v1::TaskRole {
    match role {
        Role::Work => v1::TaskRole::Work,
        Role::Plan => v1::TaskRole::Plan,
        Role::Synthesis => v1::TaskRole::Synthesis,
        Role::Review => v1::TaskRole::Review,
        Role::Publish => v1::TaskRole::Publish,
    }
}

/// A task, without what only the store knows. `now` is the wall clock of the answer.
#[must_use]
pub fn task(run_ref: &str, created: Wall, view: &TaskView, now: Wall) -> v1::Task {
    let retry_at = view.retry_in.map(|wait| Wall(now.0.saturating_add_unsigned(wait.0)));
    v1::Task {
        r#ref: format!("{run_ref}/{}", view.id),
        index: view.index.0,
        task_id: view.id.to_string(),
        state: task_state(view.state).into(),
        worker: match &*view.worker {
            "command" | "noop" | "publish" => String::new(),
            worker => worker.to_owned(),
        },
        runner: match &*view.worker {
            runner @ ("command" | "noop" | "publish") => runner.to_owned(),
            _ => "claude".to_owned(),
        },
        dependencies: view.dependencies.iter().map(ToString::to_string).collect(),
        attempt: view.attempt,
        agent: view.agent.to_string(),
        outcome: outcome_field(view.outcome),
        detail: view.detail.to_string(),
        created_at: Some(timestamp(created)),
        started_at: view.granted.map(timestamp),
        finished_at: view.finished.map(timestamp),
        execution_time: view.execution_time.map(duration),
        usage: Some(v1::Usage { cost_micro_usd: view.cost_micro_usd, ..v1::Usage::default() }),
        retry_at: retry_at.map(timestamp),
        priority: view.priority,
        role: role(view.role).into(),
        of: view.of.as_deref().unwrap_or_default().to_owned(),
        repairs: view.repairs,
        ..v1::Task::default()
    }
}

/// Tasks that no known agent could run.
#[must_use]
pub fn impossible(list: &[Impossible]) -> Vec<v1::Impossible> {
    list.iter()
        .map(|entry| v1::Impossible { task_id: entry.task_id.to_string(), reason: entry.reason.clone() })
        .collect()
}

/// One line of an explanation.
#[must_use]
pub fn reason(reason: Reason) -> v1::Reason {
    let left = reason.left.map(duration);
    v1::Reason { kind: reason.kind.to_owned(), satisfied: reason.satisfied, text: reason.text, left }
}

/// The word for the state of a task.
#[must_use]
pub fn state_word(task: &v1::Task) -> &'static str {
    task_state_from_wire(task.state()).map_or("unknown", TaskState::word)
}

/// State of an agent.
#[must_use]
pub const fn agent_state(state: AgentStateView) -> v1::AgentState {
    match state {
        AgentStateView::Ready => v1::AgentState::Ready,
        AgentStateView::Draining => v1::AgentState::Draining,
        AgentStateView::Unreachable => v1::AgentState::Unreachable,
        AgentStateView::Offline => v1::AgentState::Offline,
        AgentStateView::Quarantined => v1::AgentState::Quarantined,
    }
}

/// The word for a state of an agent.
#[must_use]
pub const fn agent_state_word(state: AgentStateView) -> &'static str {
    match state {
        AgentStateView::Ready => "ready",
        AgentStateView::Draining => "draining",
        AgentStateView::Unreachable => "unreachable",
        AgentStateView::Offline => "offline",
        AgentStateView::Quarantined => "quarantined",
    }
}

/// An agent, without what only its session knows.
#[must_use]
pub fn agent(view: &AgentView) -> v1::Agent {
    let state = match (view.requeue_in, view.running.first()) {
        (Some(wait), Some(first)) => {
            format!(
                "unreachable, requeue in {} s; now: orchctl retry --force {first}",
                wait.0.div_ceil(1_000)
            )
        }
        (Some(_) | None, _) => agent_state_word(view.state).to_owned(),
    };
    let detail = match (view.state, &view.drain) {
        (AgentStateView::Draining, Some(reason)) => reason.to_string(),
        (_, Some(reason)) => format!("{state}; {reason}"),
        (_, None) => state,
    };
    let detail = match &view.quarantine {
        Some(reason) if view.state == AgentStateView::Quarantined => format!("in quarantine: {reason}"),
        Some(reason) => format!("{detail}; in quarantine: {reason}"),
        None => detail,
    };
    v1::Agent {
        name: view.name.to_string(),
        state: agent_state(view.state).into(),
        slots: view.slots,
        slots_used: view.slots_used,
        capabilities: view.capabilities.iter().map(ToString::to_string).collect(),
        running: view.running.clone(),
        last_seen: Some(timestamp(view.last_seen)),
        detail,
        labels: view.labels.iter().map(ToString::to_string).collect(),
        hidden: view.hidden.iter().map(ToString::to_string).collect(),
        drain_reason: view.drain.as_deref().unwrap_or_default().to_owned(),
        quarantine_reason: view.quarantine.as_deref().unwrap_or_default().to_owned(),
        ..v1::Agent::default()
    }
}

/// What happens when a budget is used up.
#[must_use]
pub const fn budget_mode(mode: orch_core::budgets::BudgetMode) -> v1::BudgetMode {
    use orch_core::budgets::BudgetMode;
    match mode {
        BudgetMode::Soft => v1::BudgetMode::Soft,
        BudgetMode::Hard => v1::BudgetMode::Hard,
        BudgetMode::Drain => v1::BudgetMode::Drain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_proto::outcome::OUTCOMES;

    #[test]
    fn the_cores_outcomes_have_the_numbers_of_the_wire() {
        let pairs = [
            (Outcome::OK, v1::Outcome::Ok),
            (Outcome::LOST_AGENT, v1::Outcome::LostAgent),
            (Outcome::CANCELLED, v1::Outcome::Cancelled),
            (Outcome::POISON, v1::Outcome::Poison),
            (Outcome::SKIPPED, v1::Outcome::Skipped),
        ];
        for (core, wire) in pairs {
            assert_eq!(outcome_to_wire(core), wire);
        }
        for row in &OUTCOMES {
            assert_eq!(outcome_from_wire(row.outcome as i32).map(outcome_to_wire), Some(row.outcome));
        }
        assert_eq!(outcome_from_wire(0), None);
        assert_eq!(outcome_from_wire(999), None);
        assert_eq!(outcome_from_wire(-1), None);
    }

    #[test]
    fn states_go_there_and_back() {
        for number in 1..=7 {
            let wire = v1::RunState::try_from(number).unwrap();
            assert_eq!(run_state(run_state_from_wire(wire).unwrap()), wire);
        }
        for number in 1..=11 {
            let wire = v1::TaskState::try_from(number).unwrap();
            assert_eq!(task_state(task_state_from_wire(wire).unwrap()), wire);
        }
    }

    #[test]
    fn times_keep_their_milliseconds() {
        assert_eq!(timestamp(Wall(1_234)), prost_types::Timestamp { seconds: 1, nanos: 234_000_000 });
        assert_eq!(timestamp(Wall(-1)), prost_types::Timestamp { seconds: -1, nanos: 999_000_000 });
        assert_eq!(span(&duration(Span(61_001))), Span(61_001));
        assert_eq!(span(&prost_types::Duration { seconds: -5, nanos: 0 }), Span(0));
    }

    #[test]
    fn usage_from_an_agent_is_sorted_and_merged() {
        let row = |model: &str, input| v1::ModelUsage {
            model: model.into(),
            input_tokens: input,
            ..Default::default()
        };
        let wire = v1::Usage {
            models: vec![row("b", 1), row("a", 2), row("b", 3)],
            cost_micro_usd: 9,
            estimated: false,
        };
        let sum = usage_from_wire(&wire);
        let rows: Vec<_> = sum.models.iter().map(|row| (&*row.model, row.input)).collect();
        assert_eq!(rows, [("a", 2), ("b", 4)]);
        assert_eq!(sum.cost_micro_usd, 9);
    }

    #[test]
    fn attempt_zero_is_nobodys() {
        assert_eq!(attempt_key(None), None);
        assert_eq!(attempt_key(Some(&v1::AttemptId { run_id: 1, task_index: 0, attempt: 0 })), None);
        let key = attempt_key(Some(&v1::AttemptId { run_id: 1, task_index: 2, attempt: 3 })).unwrap();
        assert_eq!(attempt_id(key), v1::AttemptId { run_id: 1, task_index: 2, attempt: 3 });
    }
}
