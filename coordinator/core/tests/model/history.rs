//! What must be true of everything that was ever said, restarts included.

use orch_core::effect::{Action, Change, Effects, ReportResult, Write};
use orch_core::event::{After, Event, NewTask, Role};
use orch_core::ids::{AttemptKey, EventSeq, RunId, SessionId, TaskKey};
use orch_core::outcome::Outcome;
use orch_core::query::Answer;
use orch_core::state::{State, TaskState};
use std::collections::{BTreeMap, BTreeSet};

/// Facts so far.
#[derive(Debug, Default)]
pub struct History {
    seq: EventSeq,
    /// Latest grant of each task, and the stream it went out on.
    granted: BTreeMap<TaskKey, (u32, SessionId)>,
    /// Latest state watchers were told.
    told: BTreeMap<TaskKey, TaskState>,
    /// Digests of recorded reports.
    recorded: BTreeMap<AttemptKey, [u8; 32]>,
    /// Attempts whose report is in the sums, recorded or as the late bill of a cancelled one.
    billed: BTreeSet<AttemptKey>,
    /// The attempt that succeeded, since somebody had the task run again.
    succeeded: BTreeMap<TaskKey, AttemptKey>,
    /// Runs with tasks that are made of others, whatever became of those, or that judge others.
    loose: BTreeSet<RunId>,
    /// Agents that operators drain.
    drained: BTreeSet<String>,
}

impl History {
    pub fn check(&mut self, state: &State, event: &Event, effects: &Effects) {
        let obeyed = |action: &Action| matches!(action, Action::Reply { answer, .. } if matches!(**answer, Answer::Agent(_)));
        if effects.actions.iter().any(obeyed) {
            self.note_orders(event);
        }
        for write in &effects.writes {
            // Orders are forgotten with the agent they were about.
            if let Write::ForgetAgent { name, .. } = write {
                self.drained.remove(&**name);
            }
        }
        if let Event::Submitted(submit) = event {
            let plain = |task: &NewTask| task.flow.after == After::Success && task.flow.role == Role::Work;
            if !submit.tasks.iter().all(plain) {
                self.loose.insert(state.last_run());
            }
        }
        for notice in &effects.notices {
            self.seq.0 += 1;
            assert_eq!(notice.seq, self.seq, "notices are numbered without a gap");
            if let Change::Task { task, state, .. } = &notice.change {
                self.check_change(event, *task, *state);
            }
        }
        if effects.billed {
            let Event::AttemptReported { report, .. } = event else { panic!("a bill by {event:?}") };
            assert!(self.billed.insert(report.attempt), "{} is billed twice", report.attempt);
        }
        for action in &effects.actions {
            match action {
                Action::Grant { session, attempt } => self.check_grant(state, *session, *attempt),
                Action::ReportVerdict { attempt, result, .. } => self.check_verdict(event, *attempt, *result),
                Action::Reply { .. }
                | Action::Consult
                | Action::Welcome { .. }
                | Action::Stop { .. }
                | Action::HeartbeatAck { .. }
                | Action::LimitGrant { .. }
                | Action::PoolNotice { .. }
                | Action::Allowance { .. }
                | Action::Close { .. } => {}
            }
        }
    }

    fn note_orders(&mut self, event: &Event) {
        if let Event::DrainRequested { agent, .. } = event {
            self.drained.insert(agent.to_string());
        } else if let Event::ResumeRequested { agent, .. } = event {
            self.drained.remove(&**agent);
        }
    }

    fn check_change(&mut self, event: &Event, task: TaskKey, to: TaskState) {
        let Some(from) = self.told.insert(task, to) else { return };
        if from == TaskState::Verifying && to == TaskState::Queued {
            // It did not hold.
            self.succeeded.remove(&task);
        } else if from.is_terminal() {
            assert!(matches!(to, TaskState::Queued | TaskState::Blocked), "{task}: {from} -> {to}");
            let made_of_others = self.loose.contains(&task.run);
            if let Event::RetryRequested { from: back, .. } = event {
                let kept = from == TaskState::Succeeded && back.is_none() && !made_of_others;
                assert!(!kept, "{task} left success");
            } else if let Event::AttemptReported { report, .. } = event {
                // A review judges again.
                assert!(from == TaskState::Succeeded && made_of_others, "{task} left {from}");
                assert!(report.attempt.task != task, "{task} was revived by itself");
            } else {
                panic!("{task} left {from} by {event:?}");
            }
            self.succeeded.remove(&task);
        }
    }

    fn check_grant(&mut self, state: &State, session: SessionId, attempt: AttemptKey) {
        let grant = state.grant_view(attempt);
        assert!(grant.is_some(), "{attempt} is granted and not current");
        let (latest, _) = self.granted.get(&attempt.task).copied().unwrap_or((0, session));
        let again = latest == attempt.attempt.0;
        assert!(attempt.attempt.0 > latest || again, "{attempt} after attempt {latest}");
        let agent = grant.map(|grant| grant.agent.to_string()).unwrap_or_default();
        assert!(again || !self.drained.contains(&agent), "{attempt} is granted to {agent}, which is drained");
        if again {
            let task = state.task_record(attempt.task).expect("a task");
            assert_eq!(task.state, TaskState::Leased, "{attempt} is sent again and was accepted");
        }
        self.granted.insert(attempt.task, (attempt.attempt.0, session));
    }

    fn check_verdict(&mut self, event: &Event, attempt: AttemptKey, result: ReportResult) {
        let Event::AttemptReported { report, .. } = event else { panic!("a verdict on {event:?}") };
        if result != ReportResult::Recorded {
            return;
        }
        // One that comes again may be of an attempt that was sent back since.
        let known = self.recorded.contains_key(&attempt);
        let first = *self.recorded.entry(attempt).or_insert(report.digest);
        assert_eq!(first, report.digest, "{attempt} is recorded with two digests");
        if report.outcome == Outcome::OK && !known {
            let success = *self.succeeded.entry(attempt.task).or_insert(attempt);
            assert_eq!(success, attempt, "two attempts of a task succeeded");
        }
    }
}
