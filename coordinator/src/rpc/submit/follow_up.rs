//! The conversations that a spec wants continued: found, and found fit to go on, before the spec is checked.
//! Knows what a conversation needs to go on; refuses to know how an agent resumes one.

use super::SubmitParts;
use crate::engine::pool::{BlockingPool, BrokenOff};
use crate::payloads::bulk::{self, BulkError};
use crate::payloads::{SpecError as StoredSpecError, SpecReader};
use crate::rpc::auth::Caller;
use crate::rpc::refs::parse_ref;
use crate::rpc::status::{internal, refuse_field};
use crate::rpc::{gone, unexpected};
use crate::store::Tenant;
use crate::submission::{CheckedContext, Continued, Conversation, PinnedWorker};
use orch_core::event::Event;
use orch_core::ids::{TaskIndex, TaskKey};
use orch_core::query::{Answer, Query, Refusal};
use orch_proto::codes::ErrorCode;
use orch_proto::store::v1::{StoredSpec, StoredWorkerTask, stored_spec};
use orch_proto::v1;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Code, Status};

/// Conversations that one run continues: each costs some reads before anything is checked.
const MAX_FOLLOW_UPS: usize = 100;
/// Longest definition or context that is read back; they are checked to be far shorter.
const MAX_PART_BYTES: u64 = 4 << 20;

/// Finds conversations.
#[derive(Debug, Clone)]
pub(super) struct FollowUps {
    parts: SubmitParts,
    specs: SpecReader,
    readers: BlockingPool,
}

impl FollowUps {
    pub(super) fn new(parts: SubmitParts) -> Self {
        let specs = parts.engine.spec_reader();
        Self { parts, specs, readers: BlockingPool::default() }
    }

    /// The conversations that `spec` names, by reference.
    pub(super) async fn find(
        &self,
        caller: &Caller,
        spec: &v1::RunSpec,
    ) -> Result<BTreeMap<String, Conversation>, Status> {
        let mut found = BTreeMap::new();
        for (at, task) in spec.tasks.iter().enumerate() {
            let Some(v1::task_spec::Runner::Worker(worker)) = &task.runner else { continue };
            if worker.after_ref.is_empty() || found.contains_key(&worker.after_ref) {
                continue;
            }
            let field = format!("tasks[{at}].worker.after_ref");
            if found.len() == MAX_FOLLOW_UPS {
                let message = format!("a run continues at most {MAX_FOLLOW_UPS} conversations");
                return Err(refuse_field(ErrorCode::TooLarge, &field, message));
            }
            let asked = Asked { follow_ups: self, caller, field: &field, text: &worker.after_ref };
            found.insert(worker.after_ref.clone(), asked.find().await?);
        }
        Ok(found)
    }
}

/// One conversation that somebody asked for.
struct Asked<'a> {
    follow_ups: &'a FollowUps,
    caller: &'a Caller,
    field: &'a str,
    text: &'a str,
}

impl Asked<'_> {
    async fn find(&self) -> Result<Conversation, Status> {
        let lookup = &self.follow_ups.parts.lookup;
        let target = parse_ref(self.text, self.caller).map_err(|status| self.of_field(status))?;
        // The newest run may be another one between two questions.
        let target = lookup.pin(&target).await.map_err(|status| self.of_field(status))?;
        let (run, _) = lookup.resolve(&target).await.map_err(|status| self.of_field(status))?;
        let task = lookup.task(&target).await.map_err(|status| self.of_field(status))?;
        self.check_ended(&task)?;
        self.check_agent(&task).await?;
        let key = TaskKey { run, index: TaskIndex(task.index) };
        let spec = self.follow_ups.specs.dispatch_spec(self.caller.tenant, key).await;
        let spec = spec.map_err(|error| unreadable(&error))?;
        let Some(stored_spec::Runner::Worker(stored)) = &spec.runner else { return Err(unexpected()) };
        let (worker, context) = self.pinned(&spec, stored).await?;
        let itself = v1::TaskId { run_id: run.0, task_index: task.index };
        Ok(Conversation {
            continued: Continued {
                task: stored.conversation.unwrap_or(itself),
                session_id: task.session_id,
                context,
            },
            worker: Arc::new(worker),
            agent: task.agent,
            workspace: spec.workspace.clone(),
        })
    }

    fn refuse(&self, message: impl Into<String>) -> Status {
        refuse_field(ErrorCode::NotContinuable, self.field, message)
    }

    /// What was said of the reference, said of the field that holds it.
    fn of_field(&self, status: Status) -> Status {
        let code = status.code();
        if code == Code::NotFound {
            return refuse_field(ErrorCode::NotFound, self.field, status.message());
        }
        if code == Code::InvalidArgument {
            return refuse_field(ErrorCode::InvalidRef, self.field, status.message());
        }
        status
    }

    fn check_ended(&self, task: &v1::Task) -> Result<(), Status> {
        let name = &task.r#ref;
        if task.runner != "claude" {
            let message = format!("{name} was no conversation: its runner is {}", task.runner);
            return Err(self.refuse(message));
        }
        let ended = matches!(
            task.state(),
            v1::TaskState::Succeeded
                | v1::TaskState::Failed
                | v1::TaskState::Cancelled
                | v1::TaskState::Skipped
        );
        if !ended {
            let message = format!("{name} has not ended yet: wait for it, or cancel it, and ask again");
            return Err(self.refuse(message));
        }
        if !task.reused_from.is_empty() {
            let other = &task.reused_from;
            let message = format!(
                "{name} had no conversation of its own: its result is that of {other}, continue that one"
            );
            return Err(self.refuse(message));
        }
        if task.attempt == 0 || task.agent.is_empty() {
            return Err(self.refuse(format!("{name} never ran, so there is nothing to continue")));
        }
        if task.session_id.is_empty() {
            let message =
                format!("{name} ended before the CLI had begun a session, so there is nothing to continue");
            return Err(self.refuse(message));
        }
        Ok(())
    }

    async fn check_agent(&self, task: &v1::Task) -> Result<(), Status> {
        let (tenant, agent) = (self.caller.tenant, Arc::from(task.agent.as_str()));
        let query = Query::Agent(agent);
        let asked = move |token| Event::Asked { token, tenant, query };
        let answer = self.follow_ups.parts.engine.request(asked).await.map_err(|_| gone())?;
        if matches!(answer, Answer::Agent(_)) {
            return Ok(());
        }
        if !matches!(answer, Answer::Refused(Refusal::NoSuchAgent { .. })) {
            return Err(unexpected());
        }
        let (name, agent) = (&task.r#ref, &task.agent);
        let message =
            format!("the conversation of {name} lies on agent {agent}, which is not known any more");
        Err(self.refuse(message))
    }

    /// The worker as the task pinned it, and the context files that it had.
    async fn pinned(
        &self,
        spec: &StoredSpec,
        stored: &StoredWorkerTask,
    ) -> Result<(PinnedWorker, Option<CheckedContext>), Status> {
        let definition = match &stored.definition {
            Some(blob) => self.read(blob.clone()).await?,
            None => return Err(unexpected()),
        };
        let context = match stored.context_files.as_ref().and_then(|text| text.body.as_ref()) {
            Some(v1::text::Body::Blob(blob)) => Some(self.read(blob.clone()).await?),
            Some(v1::text::Body::Inline(text)) => Some(text.clone().into_bytes()),
            None => None,
        };
        let context = context.map(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| unexpected())?;
            Ok::<_, Status>(CheckedContext { digest: Sha256::digest(&text).into(), text: text.into() })
        });
        let worker = PinnedWorker {
            name: stored.worker.clone(),
            digest: Sha256::digest(&definition).into(),
            definition: definition.into(),
            model: stored.model.clone(),
            max_turns: stored.max_turns,
            budget_micro_usd: stored.budget_micro_usd,
            timeout_ms: Some(spec.timeout_ms),
            requires: spec.requires.iter().filter(|word| !word.starts_with("runner=")).cloned().collect(),
            on_loss: v1::OnLoss::try_from(spec.on_loss).unwrap_or_default(),
        };
        Ok((worker, context.transpose()?))
    }

    async fn read(&self, blob: v1::BlobRef) -> Result<Vec<u8>, Status> {
        let (blobs, tenant) = (Arc::clone(&self.follow_ups.parts.blobs), Tenant::new(self.caller.tenant.0));
        let read = move || bulk::read(&*blobs, tenant, &blob, MAX_PART_BYTES);
        let read: Result<Result<Vec<u8>, BulkError>, BrokenOff> = self.follow_ups.readers.run(read).await;
        let read = read.map_err(|_| gone())?;
        read.map_err(|error| {
            tracing::warn!(%error, "what a conversation was begun with cannot be read");
            self.refuse("what its worker was is not kept any more")
        })
    }
}

fn unreadable(error: &StoredSpecError) -> Status {
    internal("the stored task cannot be read", error)
}
