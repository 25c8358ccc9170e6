//! What watchers see, on the wire.
//! Knows notices and their messages; refuses to know who watches.

use super::{agent_state_word, duration, outcome_field, run_state, task_state, timestamp};
use orch_core::effect::{Change, Notice};
use orch_core::time::Wall;
use orch_proto::v1;

/// An event for the log and for watchers.
#[must_use]
pub fn watch_event(notice: &Notice) -> v1::WatchEvent {
    use v1::watch_event::Change as Wire;
    let (run_ref, change) = match &notice.change {
        Change::Run { run_ref, state, task_count, cost_micro_usd, .. } => (
            run_ref.to_string(),
            Wire::Run(v1::RunChanged {
                state: run_state(*state).into(),
                task_count: *task_count,
                usage: Some(v1::Usage { cost_micro_usd: *cost_micro_usd, ..v1::Usage::default() }),
            }),
        ),
        Change::Task { run_ref, .. } => (run_ref.to_string(), Wire::Task(task_changed(notice))),
        Change::Budget { budget, run_ref, text, mode } => (
            run_ref.to_string(),
            Wire::Budget(v1::BudgetWarning {
                budget: budget.to_string(),
                text: text.to_string(),
                mode: mode.map_or(v1::BudgetMode::Unspecified, super::budget_mode).into(),
            }),
        ),
        Change::Agent { agent, state } => (
            String::new(),
            Wire::Agent(v1::AgentChanged {
                agent: agent.to_string(),
                state: agent_state_word(*state).to_owned(),
            }),
        ),
    };
    v1::WatchEvent { seq: notice.seq.0, time: Some(timestamp(notice.at.wall)), run_ref, change: Some(change) }
}

fn task_changed(notice: &Notice) -> v1::TaskChanged {
    let Change::Task {
        task,
        task_id,
        state,
        attempt,
        agent,
        outcome,
        detail,
        cost_micro_usd,
        execution_time,
        retry_at,
        ..
    } = &notice.change
    else {
        return v1::TaskChanged::default();
    };
    let retry_at =
        retry_at.map(|tick| Wall(notice.at.wall.0.saturating_add_unsigned((tick - notice.at.tick).0)));
    v1::TaskChanged {
        task_id: task_id.to_string(),
        state: task_state(*state).into(),
        attempt: *attempt,
        agent: agent.to_string(),
        outcome: outcome_field(*outcome),
        detail: detail.to_string(),
        usage: Some(v1::Usage { cost_micro_usd: *cost_micro_usd, ..v1::Usage::default() }),
        execution_time: execution_time.map(duration),
        retry_at: retry_at.map(timestamp),
        index: task.index.0,
    }
}
