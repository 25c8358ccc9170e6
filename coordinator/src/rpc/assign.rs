//! From what was read for dispatch to the message an agent gets.
//! Knows both forms; decides nothing: model, limits and worker were pinned at submit.

use crate::payloads::inputs::{Dispatch, Inputs};
use crate::presence::harmless;
use crate::rpc::convert::{self, attempt_id};
use orch_core::budgets::{Allowance, OwnBudget};
use orch_core::ids::{AttemptKey, TaskKey};
use orch_core::state::EndedAttempt;
use orch_proto::store::v1::{StoredWorkerTask, stored_spec};
use orch_proto::v1;
use prost::Message as _;
use std::time::Duration;
use uuid::Uuid;

/// What is the same for every assignment of this coordinator.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    /// Cluster id: the name space of conversations.
    pub id: [u8; 16],
    /// Generation of the coordinator.
    pub epoch: u64,
    /// Longest time a child may show no sign of work before it counts as hung.
    pub silence_limit: Duration,
}

/// Why a stored spec could not be turned into an assignment. All mean a damaged store or a mistake here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// The record names no runner.
    #[error("the stored spec names no runner")]
    NoRunner,
    /// The command was not unpacked.
    #[error("the stored command was not unpacked")]
    Packed,
    /// It is longer than a message may be.
    #[error("the assignment has {0} bytes, a message at most {MAX_ASSIGNMENT_BYTES}")]
    TooLong(usize),
}

/// Longest cause of an interruption that is told, in characters.
const MAX_CAUSE: usize = 400;

/// Longest assignment: the limit of a message, with room for its frame.
const MAX_ASSIGNMENT_BYTES: usize = (1 << 20) - 1_024;

/// What a grant says of an attempt, as far as its agent understands it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Granted<'a> {
    /// The attempt in whose conversation it may go on.
    pub interrupted: Option<&'a EndedAttempt>,
    /// What it may spend from the start.
    pub allowance: Option<&'a Allowance>,
    /// What becomes of its own budget, if that is as much as its run was submitted with.
    pub own_budget: Option<OwnBudget>,
}

/// The message for `attempt`, as it was read for dispatch. `task_ref` is `name/number/task`.
///
/// # Errors
/// When the record is damaged.
pub fn assignment(
    cluster: Cluster,
    attempt: AttemptKey,
    task_ref: String,
    dispatch: Dispatch,
    granted: Granted<'_>,
) -> Result<v1::Assignment, AssignError> {
    use v1::assignment::Runner;
    let Dispatch { spec, inputs, feedback, publish, reuse } = dispatch;
    let runner = match spec.runner.as_ref().ok_or(AssignError::NoRunner)? {
        stored_spec::Runner::Worker(task) => {
            // Feedback says more, and the conversation of a follow-up is there before its prompt was said.
            let goes_on = feedback.is_none() && task.conversation.is_none();
            let interrupted = granted.interrupted.filter(|_| goes_on).map(note).unwrap_or_default();
            Runner::Claude(v1::ClaudeAssignment {
                feedback,
                interrupted,
                allowance: granted.allowance.map(|allowance| convert::allowance(None, allowance)),
                budget_micro_usd: own_budget(task.budget_micro_usd, granted.own_budget),
                ..claude(cluster, attempt.task, task)
            })
        }
        stored_spec::Runner::Command(command) => Runner::Command(command.clone()),
        stored_spec::Runner::PackedCommand(_) => return Err(AssignError::Packed),
        stored_spec::Runner::Noop(noop) => Runner::Noop(*noop),
        stored_spec::Runner::Publish(stored) => {
            Runner::Publish(v1::PublishAssignment { workspace: stored.workspace.clone(), files: publish })
        }
    };
    let (inputs, inputs_blob) = match inputs {
        Inputs::Inline(inputs) => (inputs, None),
        Inputs::Blob(blob) => (Vec::new(), Some(blob)),
    };
    let assignment = v1::Assignment {
        attempt: Some(attempt_id(attempt)),
        r#ref: task_ref,
        runner: Some(runner),
        timeout: Some(wire_duration(Duration::from_millis(spec.timeout_ms))),
        silence_limit: Some(wire_duration(cluster.silence_limit)),
        on_loss: spec.on_loss,
        epoch: cluster.epoch,
        inputs,
        inputs_blob,
        workspace: spec.workspace.clone(),
        gates: spec.gates.as_ref().and_then(agents_part),
        reuse,
    };
    match assignment.encoded_len() {
        bytes if bytes > MAX_ASSIGNMENT_BYTES => Err(AssignError::TooLong(bytes)),
        _ => Ok(assignment),
    }
}

fn own_budget(stored: Option<u64>, becomes: Option<OwnBudget>) -> Option<u64> {
    match becomes {
        Some(OwnBudget { submitted, becomes }) if stored == Some(submitted) => becomes,
        Some(_) | None => stored,
    }
}

/// The gates that an agent checks: a review is a task of its own.
fn agents_part(gates: &v1::Gates) -> Option<v1::Gates> {
    let part = v1::Gates { review: None, repairs: None, ..gates.clone() };
    (part != v1::Gates::default()).then_some(part)
}

/// What the CLI is to do, but for what it is told when it was sent back. A follow-up goes on in another task's conversation.
fn claude(cluster: Cluster, task: TaskKey, stored: &StoredWorkerTask) -> v1::ClaudeAssignment {
    let session_id = match &stored.conversation {
        Some(_) => stored.session_id.clone(),
        None => session_uuid(cluster, task).to_string(),
    };
    v1::ClaudeAssignment {
        worker: stored.definition.clone(),
        prompt: stored.prompt.clone(),
        model: stored.model.clone(),
        output_schema: stored.output_schema.clone(),
        budget_micro_usd: stored.budget_micro_usd,
        max_turns: stored.max_turns,
        session_id,
        worker_name: stored.worker.clone(),
        context_files: stored.context_files.clone(),
        feedback: None,
        conversation: stored.conversation,
        interrupted: String::new(),
        allowance: None,
    }
}

/// What cut an attempt off, such as `attempt 2 on build-1 was cut off after 14 min: the agent was lost while it ran`.
fn note(ended: &EndedAttempt) -> String {
    let walls = u64::try_from(ended.finished.0.saturating_sub(ended.started.0)).unwrap_or(0);
    let lasted = in_words(ended.duration.map_or(walls, |duration| duration.0));
    let why = match convert::outcome_to_wire(ended.outcome).row() {
        Some(row) if ended.detail.is_empty() => row.sentence,
        Some(_) | None => &*ended.detail,
    };
    let why = harmless(why, MAX_CAUSE);
    format!("attempt {} on {} was cut off after {lasted}: {why}", ended.number, ended.agent)
}

/// A length of time as people say it.
fn in_words(millis: u64) -> String {
    match millis.div_ceil(1_000) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3_600)),
    }
}

/// The CLI session of a task's conversation: the same on every attempt, different in every cluster.
#[must_use]
pub fn session_uuid(cluster: Cluster, task: TaskKey) -> Uuid {
    let name = format!("{}/{}/0", task.run, task.index);
    Uuid::new_v5(&Uuid::from_bytes(cluster.id), name.as_bytes())
}

fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_core::ids::{AttemptNo, RunId, TaskIndex};
    use orch_core::outcome::Outcome;
    use orch_core::time::{Span, Wall};
    use orch_proto::store::v1::{StoredPublish, StoredSpec};
    use std::sync::Arc;

    const CLUSTER: Cluster = Cluster { id: [7; 16], epoch: 3, silence_limit: Duration::from_secs(60) };

    fn key(run: u64, attempt: u32) -> AttemptKey {
        AttemptKey::new(TaskKey { run: RunId(run), index: TaskIndex(0) }, attempt)
    }

    fn dispatch(runner: stored_spec::Runner) -> Dispatch {
        Dispatch {
            spec: Arc::new(StoredSpec { timeout_ms: 1_500, runner: Some(runner), ..StoredSpec::default() }),
            inputs: Inputs::Inline(Vec::new()),
            feedback: None,
            publish: Vec::new(),
            reuse: Vec::new(),
        }
    }

    fn worker() -> StoredWorkerTask {
        StoredWorkerTask { worker: "anga".into(), ..StoredWorkerTask::default() }
    }

    fn sent(attempt: AttemptKey, dispatch: Dispatch) -> v1::Assignment {
        assignment(CLUSTER, attempt, "a/1/t".into(), dispatch, Granted::default()).unwrap()
    }

    fn for_claude(attempt: AttemptKey, dispatch: Dispatch) -> v1::ClaudeAssignment {
        match sent(attempt, dispatch).runner {
            Some(v1::assignment::Runner::Claude(claude)) => claude,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_conversation_keeps_its_session_over_attempts_and_no_two_share_one() {
        let session = |run, attempt| {
            for_claude(key(run, attempt), dispatch(stored_spec::Runner::Worker(worker()))).session_id
        };
        assert_eq!(session(1, 1), session(1, 2));
        assert_ne!(session(1, 1), session(2, 1));
        let elsewhere = Cluster { id: [8; 16], ..CLUSTER };
        assert_ne!(session_uuid(CLUSTER, key(1, 1).task), session_uuid(elsewhere, key(1, 1).task));
    }

    #[test]
    fn a_follow_up_goes_on_in_the_session_it_names_and_a_task_sent_back_is_told_why() {
        let earlier = v1::TaskId { run_id: 9, task_index: 4 };
        let follow_up =
            StoredWorkerTask { conversation: Some(earlier), session_id: "its session".into(), ..worker() };
        let feedback = crate::payloads::bulk::text("a gate is red".into());
        let back =
            Dispatch { feedback: feedback.clone(), ..dispatch(stored_spec::Runner::Worker(follow_up)) };
        let claude = for_claude(key(1, 2), back);
        assert_eq!((claude.conversation, claude.session_id.as_str()), (Some(earlier), "its session"));
        assert_eq!(claude.feedback, feedback);
    }

    #[test]
    fn what_was_cut_off_is_told_unless_there_is_feedback_or_the_conversation_is_another_tasks() {
        let ended = EndedAttempt {
            number: AttemptNo(2),
            agent: "build-1".into(),
            started: Wall(0),
            finished: Wall(1_000_000),
            outcome: Outcome::LOST_AGENT,
            detail: "".into(),
            cost_micro_usd: 0,
            digest: None,
            awaits_bill: false,
            duration: Some(Span::seconds(835)),
        };
        let told = |dispatch: Dispatch, ended: &EndedAttempt| {
            let granted = Granted { interrupted: Some(ended), ..Granted::default() };
            let sent = assignment(CLUSTER, key(1, 3), "a/1/t".into(), dispatch, granted).unwrap();
            let Some(v1::assignment::Runner::Claude(claude)) = sent.runner else { panic!("{sent:?}") };
            claude.interrupted
        };
        let plain = || dispatch(stored_spec::Runner::Worker(worker()));
        assert_eq!(
            told(plain(), &ended),
            "attempt 2 on build-1 was cut off after 14 min: the agent was lost while it ran"
        );
        let restarted =
            EndedAttempt { detail: "the agent\nrestarted".into(), duration: None, ..ended.clone() };
        assert_eq!(
            told(plain(), &restarted),
            "attempt 2 on build-1 was cut off after 17 min: the agent restarted"
        );
        let feedback = crate::payloads::bulk::text("a gate is red".into());
        assert_eq!(told(Dispatch { feedback, ..plain() }, &ended), "");
        let follow_up = StoredWorkerTask { conversation: Some(v1::TaskId::default()), ..worker() };
        assert_eq!(told(dispatch(stored_spec::Runner::Worker(follow_up)), &ended), "");
        assert_eq!([0, 119_500, 7_199_000, 7_200_001].map(in_words), ["0 s", "2 min", "120 min", "3 h"]);
    }

    #[test]
    fn an_allowance_of_the_grant_is_part_of_the_assignment() {
        let allowance = Allowance { micro_usd: Some(9), one_more: true, ..Allowance::default() };
        let granted = Granted { allowance: Some(&allowance), ..Granted::default() };
        let read = dispatch(stored_spec::Runner::Worker(worker()));
        let sent = assignment(CLUSTER, key(1, 1), "a/1/t".into(), read, granted).unwrap();
        let Some(v1::assignment::Runner::Claude(claude)) = sent.runner else { panic!("{sent:?}") };
        let told = claude.allowance.unwrap();
        assert_eq!((told.attempt, told.micro_usd, told.tokens, told.one_more), (None, Some(9), None, true));
    }

    #[test]
    fn an_own_budget_as_large_as_that_of_the_run_follows_it_and_any_other_stays() {
        let submitted = 100;
        for (becomes, told) in [(Some(500), [Some(500), Some(99)]), (None, [None, Some(99)])] {
            let own = Some(OwnBudget { submitted, becomes });
            assert_eq!([own_budget(Some(100), own), own_budget(Some(99), own)], told);
        }
        assert_eq!(own_budget(Some(100), None), Some(100));
    }

    #[test]
    fn limits_and_epoch_travel_along() {
        let sent = sent(key(1, 2), dispatch(stored_spec::Runner::Worker(worker())));
        assert_eq!(sent.timeout, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        assert_eq!((sent.epoch, sent.attempt.unwrap().attempt), (3, 2));
        assert_eq!(sent.gates, None);
    }

    #[test]
    fn an_agent_gets_the_gates_it_checks_and_the_workspace_it_shows() {
        let review = v1::Review { worker: "fabien".into(), ..v1::Review::default() };
        let gates =
            v1::Gates { min_tool_calls: 3, review: Some(review), repairs: Some(2), ..Default::default() };
        let with = |gates| {
            let mut read = dispatch(stored_spec::Runner::Worker(worker()));
            let spec = StoredSpec { gates: Some(gates), workspace: "dance".into(), ..(*read.spec).clone() };
            read.spec = Arc::new(spec);
            sent(key(1, 1), read)
        };
        let agents = with(gates.clone());
        assert_eq!(agents.gates, Some(v1::Gates { min_tool_calls: 3, ..Default::default() }));
        assert_eq!(agents.workspace, "dance");
        assert_eq!(
            with(v1::Gates { min_tool_calls: 0, ..gates }).gates,
            None,
            "a review alone is none of its"
        );
    }

    #[test]
    fn inputs_offers_and_files_to_publish_travel_where_they_belong() {
        let input = v1::Input { task_id: "before".into(), ..v1::Input::default() };
        let offer = v1::Reuse { r#ref: "a/0/t".into(), tree: vec![1; 32] };
        let mut read = dispatch(stored_spec::Runner::Worker(worker()));
        read.inputs = Inputs::Inline(vec![input.clone()]);
        read.reuse = vec![offer.clone()];
        let inside = sent(key(1, 1), read.clone());
        assert_eq!((inside.inputs, inside.inputs_blob, inside.reuse), (vec![input], None, vec![offer]));
        let blob = v1::BlobRef { size: 9, ..v1::BlobRef::default() };
        let outside = sent(key(1, 1), Dispatch { inputs: Inputs::Blob(blob.clone()), ..read });
        assert_eq!((outside.inputs, outside.inputs_blob), (Vec::new(), Some(blob)));

        let files = vec![v1::PublishFile { to: "a.md".into(), ..v1::PublishFile::default() }];
        let stored = StoredPublish { workspace: "dance".into(), files: Vec::new() };
        let read = Dispatch { publish: files.clone(), ..dispatch(stored_spec::Runner::Publish(stored)) };
        let publish = v1::PublishAssignment { workspace: "dance".into(), files };
        assert_eq!(sent(key(1, 1), read).runner, Some(v1::assignment::Runner::Publish(publish)));
    }

    #[test]
    fn damaged_records_are_refused() {
        let mut nothing = dispatch(stored_spec::Runner::Noop(v1::NoopTask {}));
        nothing.spec = Arc::new(StoredSpec::default());
        let refused =
            |read| assignment(CLUSTER, key(1, 1), String::new(), read, Granted::default()).unwrap_err();
        assert_eq!(refused(nothing), AssignError::NoRunner);
        let packed = dispatch(stored_spec::Runner::PackedCommand(v1::BlobRef::default()));
        assert_eq!(refused(packed), AssignError::Packed);
        let long = StoredWorkerTask { prompt: crate::payloads::bulk::text("x".repeat(2 << 20)), ..worker() };
        let refused = refused(dispatch(stored_spec::Runner::Worker(long)));
        assert!(matches!(refused, AssignError::TooLong(_)), "{refused}");
    }
}
