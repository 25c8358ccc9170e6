//! What a watcher was told and what lists show, as a history. Knows which change of a task means what; events of the log
//! stand in the order of their commits.

use super::Event;
use orch_proto::outcome::OUTCOMES;
use orch_proto::v1::{self, Outcome, TaskState, WatchEvent, watch_event::Change};
use std::collections::BTreeSet;

/// The label that the submits of these suites carry: their request id, so that a run tells which submit it came from.
pub const REQUEST_LABEL: &str = "request";

/// What the coordinator decided, by the events of its log from the first on.
#[must_use]
pub fn recorded_by(events: &[WatchEvent]) -> Vec<Event> {
    let mut decided = BTreeSet::new();
    let mut history = Vec::new();
    for event in events {
        let Some(Change::Task(changed)) = &event.change else { continue };
        let task = format!("{}/{}", event.run_ref, changed.task_id);
        let ends = is_terminal(changed.state());
        if !ends && decided.remove(&task) {
            history.push(Event::Retried { task: task.clone() });
        }
        if ends {
            decided.insert(task.clone());
        }
        history.extend(of_change(task, changed));
    }
    history
}

fn of_change(task: String, changed: &v1::TaskChanged) -> Vec<Event> {
    let attempt = changed.attempt;
    let outcome = changed.outcome();
    match changed.state() {
        TaskState::Leased => vec![Event::Granted { task, attempt, agent: changed.agent.clone() }],
        TaskState::Running => vec![Event::Accepted { task, attempt }],
        TaskState::Queued | TaskState::WaitingRetry | TaskState::Parked
            if outcome != Outcome::Unspecified =>
        {
            vec![Event::Ended { task, attempt, crash: is_crash(outcome) }]
        }
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Skipped => {
            let recorded =
                Event::Recorded { task: task.clone(), attempt, outcome: outcome.word().to_owned() };
            // The last crash is told as the poison that it made the task.
            let last = (outcome == Outcome::Poison).then_some(Event::Ended { task, attempt, crash: true });
            last.into_iter().chain([recorded]).collect()
        }
        TaskState::Queued
        | TaskState::WaitingRetry
        | TaskState::Parked
        | TaskState::Verifying
        | TaskState::Blocked
        | TaskState::Unspecified => Vec::new(),
    }
}

/// The runs of a list, looked at when everything should have ended.
#[must_use]
pub fn stored_in(runs: &[v1::Run]) -> Vec<Event> {
    let stored = |run: &v1::Run| Event::Stored {
        run: run.r#ref.clone(),
        request: run.labels.get(REQUEST_LABEL).cloned().unwrap_or_default(),
        ended: crate::client::is_terminal(run.state()),
    };
    runs.iter().map(stored).collect()
}

fn is_crash(outcome: Outcome) -> bool {
    OUTCOMES.iter().any(|row| row.outcome == outcome && row.counts_as_crash)
}

const fn is_terminal(state: TaskState) -> bool {
    matches!(state, TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::check;

    fn changed(state: TaskState, attempt: u32, outcome: Outcome) -> WatchEvent {
        let change = v1::TaskChanged {
            task_id: "t".into(),
            state: state.into(),
            attempt,
            agent: "a".into(),
            outcome: outcome.into(),
            ..Default::default()
        };
        WatchEvent { run_ref: "r/1".into(), change: Some(Change::Task(change)), ..Default::default() }
    }

    #[test]
    fn a_life_with_a_loss_and_a_retry_by_hand_reads_as_it_was() {
        let none = Outcome::Unspecified;
        let events = [
            changed(TaskState::Queued, 0, none),
            changed(TaskState::Leased, 1, none),
            changed(TaskState::Running, 1, none),
            changed(TaskState::WaitingRetry, 1, Outcome::LostAgent),
            changed(TaskState::Leased, 2, none),
            changed(TaskState::Running, 2, none),
            changed(TaskState::Failed, 2, Outcome::Refused),
            changed(TaskState::Queued, 2, none),
            changed(TaskState::Leased, 3, none),
            changed(TaskState::Running, 3, none),
            changed(TaskState::Succeeded, 3, Outcome::Ok),
        ];
        let history = recorded_by(&events);
        assert_eq!(check(&history), []);
        assert_eq!(history.len(), 10, "{history:?}");
        assert!(history.contains(&Event::Ended { task: "r/1/t".into(), attempt: 1, crash: true }));
        assert!(history.contains(&Event::Retried { task: "r/1/t".into() }));
    }
}
