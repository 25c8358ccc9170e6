//! From a stored spec and a grant to the message an agent gets.
//! Knows both forms; decides nothing: model, limits and worker were pinned at submit.

use crate::rpc::convert::attempt_id;
use orch_core::ids::{AttemptKey, TaskKey};
use orch_proto::store::v1::{StoredSpec, StoredWorkerTask, stored_spec};
use orch_proto::v1;
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

/// Why a stored spec could not be turned into an assignment. Both mean a damaged store or a mistake here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// The record names no runner.
    #[error("the stored spec names no runner")]
    NoRunner,
    /// The command was not unpacked.
    #[error("the stored command was not unpacked")]
    Packed,
}

/// The message for `attempt` of the task with `spec`, as it is read for dispatch. `task_ref` is `name/number/task`.
///
/// # Errors
/// When the record is damaged.
pub fn assignment(
    cluster: Cluster,
    attempt: AttemptKey,
    task_ref: String,
    spec: &StoredSpec,
) -> Result<v1::Assignment, AssignError> {
    use v1::assignment::Runner;
    let runner = match spec.runner.as_ref().ok_or(AssignError::NoRunner)? {
        stored_spec::Runner::Worker(task) => Runner::Claude(claude(cluster, attempt.task, task)),
        stored_spec::Runner::Command(command) => Runner::Command(command.clone()),
        stored_spec::Runner::PackedCommand(_) => return Err(AssignError::Packed),
        stored_spec::Runner::Noop(noop) => Runner::Noop(*noop),
        stored_spec::Runner::Publish(_) => return Err(AssignError::NoRunner),
    };
    Ok(v1::Assignment {
        attempt: Some(attempt_id(attempt)),
        r#ref: task_ref,
        runner: Some(runner),
        timeout: Some(wire_duration(Duration::from_millis(spec.timeout_ms))),
        silence_limit: Some(wire_duration(cluster.silence_limit)),
        on_loss: spec.on_loss,
        epoch: cluster.epoch,
        ..v1::Assignment::default()
    })
}

fn claude(cluster: Cluster, task: TaskKey, stored: &StoredWorkerTask) -> v1::ClaudeAssignment {
    v1::ClaudeAssignment {
        worker: stored.definition.clone(),
        prompt: stored.prompt.clone(),
        model: stored.model.clone(),
        output_schema: stored.output_schema.clone(),
        budget_micro_usd: stored.budget_micro_usd,
        max_turns: stored.max_turns,
        session_id: session_uuid(cluster, task).to_string(),
        worker_name: stored.worker.clone(),
        context_files: stored.context_files.clone(),
        ..v1::ClaudeAssignment::default()
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
    use orch_core::ids::{RunId, TaskIndex};

    const CLUSTER: Cluster = Cluster { id: [7; 16], epoch: 3, silence_limit: Duration::from_secs(60) };

    fn key(run: u64, attempt: u32) -> AttemptKey {
        AttemptKey::new(TaskKey { run: RunId(run), index: TaskIndex(0) }, attempt)
    }

    fn worker_spec() -> StoredSpec {
        StoredSpec {
            timeout_ms: 1_500,
            runner: Some(stored_spec::Runner::Worker(StoredWorkerTask {
                worker: "anga".into(),
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    #[test]
    fn a_conversation_keeps_its_session_over_attempts_and_no_two_share_one() {
        let session =
            |run, attempt| match assignment(CLUSTER, key(run, attempt), "a/1/t".into(), &worker_spec())
                .unwrap()
                .runner
            {
                Some(v1::assignment::Runner::Claude(claude)) => claude.session_id,
                other => panic!("{other:?}"),
            };
        assert_eq!(session(1, 1), session(1, 2));
        assert_ne!(session(1, 1), session(2, 1));
        let elsewhere = Cluster { id: [8; 16], ..CLUSTER };
        assert_ne!(session_uuid(CLUSTER, key(1, 1).task), session_uuid(elsewhere, key(1, 1).task));
    }

    #[test]
    fn limits_and_epoch_travel_along() {
        let sent = assignment(CLUSTER, key(1, 2), "a/1/t".into(), &worker_spec()).unwrap();
        assert_eq!(sent.timeout, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        assert_eq!((sent.epoch, sent.attempt.unwrap().attempt), (3, 2));
    }

    #[test]
    fn damaged_records_are_refused() {
        let spec = StoredSpec::default();
        assert_eq!(assignment(CLUSTER, key(1, 1), String::new(), &spec), Err(AssignError::NoRunner));
        let packed = StoredSpec {
            runner: Some(stored_spec::Runner::PackedCommand(v1::BlobRef::default())),
            ..Default::default()
        };
        assert_eq!(assignment(CLUSTER, key(1, 1), String::new(), &packed), Err(AssignError::Packed));
    }
}
