//! From the tasks of a plan to what the core decides by and what the store keeps: all pages of the run anew.
//! Knows how tasks join those that are there; refuses to know why they do.

use orch_core::event::Expansion;
use orch_core::ids::{TaskIndex, TenantId};
use orch_proto::store::v1::{StoredSpec, stored_spec::Runner};
use orch_proto::v1;

use super::{Files, Halt, Pages, PrepareError, Preparer};
use crate::engine::pool::BrokenOff;
use crate::payloads::SubmitPayload;
use crate::persist::decode::{self, Interner};
use crate::store::{MAX_VALUE_BYTES, Tenant};
use crate::submission::CheckedTask;

/// Tasks that are to join a run.
#[derive(Debug, Clone)]
pub struct Joining {
    /// The specs that the run has, in order, as they rest: texts that lie in files by reference.
    pub existing: Vec<StoredSpec>,
    /// The tasks, checked for indexes that go on after those.
    pub tasks: Vec<CheckedTask>,
    /// New dependencies of tasks that the run has, in place of those before. Sorted, without repetition.
    pub rewired: Vec<(TaskIndex, Vec<TaskIndex>)>,
}

impl Joining {
    /// The tasks of a plan: what makes one answer of all results waits for each of them, and for what it waited before.
    #[must_use]
    pub fn of_plan(existing: Vec<StoredSpec>, tasks: Vec<CheckedTask>, synthesis: TaskIndex) -> Self {
        let before = existing.get(synthesis.0 as usize).map_or(&[][..], |spec| spec.dependencies.as_slice());
        let first = u32::try_from(existing.len()).unwrap_or(u32::MAX);
        let mut dependencies: Vec<TaskIndex> = before.iter().copied().map(TaskIndex).collect();
        dependencies.extend((first..).take(tasks.len()).map(TaskIndex));
        Self { existing, tasks, rewired: vec![(synthesis, dependencies)] }
    }
}

impl Preparer {
    /// Makes the bulk of tasks that join a run durable, and all pages of the run anew. What comes back is for the engine,
    /// as the answer to the question about a plan or the decision of a person.
    ///
    /// # Errors
    /// [`PrepareError`]. Files that were stored already are swept later.
    pub async fn prepare_expansion(
        &self,
        tenant: TenantId,
        joining: Joining,
    ) -> Result<(Expansion, SubmitPayload), PrepareError> {
        let this = self.clone();
        let joined = self.pool.run(move || this.join(Tenant::new(tenant.0), joining)).await?;
        match joined {
            Ok(joined) => Ok(joined),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::File) => Err(PrepareError::BrokenOff(BrokenOff)),
        }
    }

    fn join(&self, tenant: Tenant, joining: Joining) -> Result<(Expansion, SubmitPayload), Halt> {
        let Joining { existing: mut specs, tasks, rewired } = joining;
        let context = specs.iter().find_map(context_of);
        for (index, dependencies) in &rewired {
            if let Some(spec) = specs.get_mut(index.0 as usize) {
                spec.dependencies = dependencies.iter().map(|dependency| dependency.0).collect();
            }
        }
        let mut pages = Pages::new(self.store_texts(tenant, &tasks, Files::Allowed)?);
        specs.into_iter().for_each(|spec| pages.push(spec));
        let (mut shared, mut new) = (Interner::default(), Vec::with_capacity(tasks.len()));
        for task in tasks {
            let spec = self.spec(tenant, task, context.as_ref(), Some(Files::Allowed))?;
            new.push(decode::new_task(&spec, &mut shared)?);
            pages.push(spec);
        }
        let payload = pages.finish(self, tenant, MAX_VALUE_BYTES, Files::Allowed)?;
        Ok((Expansion { tasks: new, rewired }, payload))
    }
}

/// Where the context files of the run lie, when it has some: every worker task names them.
fn context_of(spec: &StoredSpec) -> Option<v1::BlobRef> {
    let Some(Runner::Worker(task)) = &spec.runner else { return None };
    match &task.context_files.as_ref()?.body {
        Some(v1::text::Body::Blob(blob)) => Some(blob.clone()),
        Some(v1::text::Body::Inline(_)) | None => None,
    }
}
