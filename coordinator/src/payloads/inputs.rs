//! Recorded results, for what comes after them: what a task is dispatched with beside its spec, which earlier result the
//! same work may use again, and which files the tasks of a run handed over.
//!
//! A task is granted in the same batch that records what it waits for, or a later one, and a grant leaves only when its
//! batch is durable: what is read here is there. Everything is read on a few threads and never through the engine.
//!
//! Knows where results lie and how much of them travels in an assignment; decides nothing about tasks.

mod assemble;
#[cfg(test)]
pub(crate) mod bench;
mod listing;
mod records;
mod reuse;
mod summary;

use std::sync::Arc;

use orch_core::ids::{AttemptKey, TaskKey, TenantId};
use orch_proto::store::v1::{ResultRecord, StoredSpec, stored_spec};
use orch_proto::v1;
use prost::Message as _;

use self::assemble::Summaries;
pub use self::listing::{ArtifactsPage, Place};
use self::records::Records;
pub use self::reuse::Reused;
use super::bulk::{self, BulkError, manifest};
use super::pages::PageError;
use super::{SpecError, SpecReader};
use crate::blobs::{BlobError, Blobs};
use crate::engine::pool::{BlockingPool, BrokenOff};
use crate::store::{ReadError, Store, Tenant};
use crate::submission::publish::final_path;

/// Reads results. Clones share threads.
#[derive(Debug, Clone)]
pub struct ResultReader {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    specs: SpecReader,
    pool: BlockingPool,
}

/// What an attempt is dispatched with.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// Its task's spec, ready for dispatch.
    pub spec: Arc<StoredSpec>,
    /// Results that it works on.
    pub inputs: Inputs,
    /// What it is told when it was sent back.
    pub feedback: Option<v1::Text>,
    /// The files of a publication, in its order.
    pub publish: Vec<v1::PublishFile>,
    /// Earlier results of the same work, newest first.
    pub reuse: Vec<v1::Reuse>,
}

/// Results that a task works on, in the order of their index.
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs {
    /// Few enough to travel inside the assignment.
    Inline(Vec<v1::Input>),
    /// Where the encoded [`v1::InputSet`] is.
    Blob(v1::BlobRef),
}

/// Why results cannot be read: the store is damaged, or the process is ending.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The spec cannot be read.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A spec of another task cannot be read.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The store refused.
    #[error("cannot read the result of a task")]
    Store(#[from] ReadError),
    /// A record is not what its key says.
    #[error("the result of a task cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    /// A task that ended has no record.
    #[error("task {0} has ended, and there is no record of it")]
    NoRecord(TaskKey),
    /// What a record names cannot be read.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// The inputs cannot be stored.
    #[error("cannot store the inputs of a task")]
    Blob(#[from] BlobError),
    /// The read was broken off.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
}

impl ResultReader {
    /// Reads from `store` and `blobs` on threads of `pool`, and specs with `specs`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, blobs: Arc<dyn Blobs>, specs: SpecReader, pool: BlockingPool) -> Self {
        Self { store, blobs, specs, pool }
    }

    /// What `attempt` is dispatched with. `run_ref` is `name/number` of its run, `sent_back` whether its task was sent back.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn dispatch(
        &self,
        tenant: TenantId,
        attempt: AttemptKey,
        run_ref: Arc<str>,
        sent_back: bool,
    ) -> Result<Dispatch, DispatchError> {
        let spec = self.specs.dispatch_spec(tenant, attempt.task).await?;
        if spec.dependencies.is_empty() && spec.cache_key.is_empty() && !sent_back {
            return Ok(Dispatch::of(spec));
        }
        let this = self.clone();
        self.pool.run(move || this.gather(tenant, attempt, &run_ref, sent_back, spec)).await?
    }

    /// The earlier result that a report which says `reused` means: of the same work, with the same state `tree` of the
    /// workspace. Nothing when it is no longer kept.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn reused(
        &self,
        tenant: TenantId,
        task: TaskKey,
        tree: Vec<u8>,
    ) -> Result<Option<Reused>, DispatchError> {
        let found = self.same_work(tenant, task, move |records, key| {
            let found = reuse::entries(records, key)?;
            Ok(found.into_iter().find(|reused| reused.tree == tree))
        });
        Ok(found.await?.flatten())
    }

    /// The digest under which the result of a task may be found again; nothing when it must not, or the task is gone.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn cache_key(
        &self,
        tenant: TenantId,
        task: TaskKey,
    ) -> Result<Option<[u8; 32]>, DispatchError> {
        self.same_work(tenant, task, |_, key| Ok(key)).await
    }

    /// Looks by the digest of a task's work, if it has one. A late report may be of a run that is deleted.
    async fn same_work<T: Send + 'static>(
        &self,
        tenant: TenantId,
        task: TaskKey,
        look: impl FnOnce(&Records<'_>, [u8; 32]) -> Result<T, DispatchError> + Send + 'static,
    ) -> Result<Option<T>, DispatchError> {
        let spec = match self.specs.dispatch_spec(tenant, task).await {
            Ok(spec) if spec.cache_key.is_empty() => return Ok(None),
            Ok(spec) => spec,
            Err(SpecError::Page(PageError::Missing { .. }) | SpecError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let this = self.clone();
        self.pool
            .run(move || {
                let records = this.records(tenant);
                match assemble::inputs(&records, task.run, "", &spec, Summaries::LeftOut) {
                    Ok(inputs) => look(&records, reuse::key(&spec, &inputs)).map(Some),
                    Err(DispatchError::NoRecord(_) | DispatchError::Page(PageError::Missing { .. })) => {
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            })
            .await?
    }

    fn records(&self, tenant: TenantId) -> Records<'_> {
        Records { store: &*self.store, blobs: &*self.blobs, specs: &self.specs, tenant }
    }

    fn gather(
        &self,
        tenant: TenantId,
        attempt: AttemptKey,
        run_ref: &str,
        sent_back: bool,
        spec: Arc<StoredSpec>,
    ) -> Result<Dispatch, DispatchError> {
        let records = self.records(tenant);
        if let Some(stored_spec::Runner::Publish(publish)) = &spec.runner {
            let publish =
                publications(&records, TaskKey { index: index(spec.of), ..attempt.task }, publish, run_ref)?;
            return Ok(Dispatch { publish, ..Dispatch::of(spec) });
        }
        let inputs = assemble::inputs(&records, attempt.task.run, run_ref, &spec, Summaries::Included)?;
        let reuse = match spec.cache_key.is_empty() || !may_reuse(attempt) {
            true => Vec::new(),
            false => {
                reuse::entries(&records, reuse::key(&spec, &inputs))?.into_iter().map(Reused::offer).collect()
            }
        };
        let feedback = if sent_back { self.feedback(&records, attempt.task)? } else { None };
        Ok(Dispatch { inputs: self.packed(tenant, inputs)?, feedback, reuse, ..Dispatch::of(spec) })
    }

    /// What the task's record says it was sent back with.
    fn feedback(&self, records: &Records<'_>, task: TaskKey) -> Result<Option<v1::Text>, DispatchError> {
        let stored = records.task(task)?.and_then(|stored| stored.result);
        let mut feedback = stored.and_then(|result| result.feedback);
        bulk::make_inline(&*self.blobs, records.store_tenant(), &mut feedback)?;
        Ok(feedback)
    }

    fn packed(&self, tenant: TenantId, inputs: Vec<v1::Input>) -> Result<Inputs, DispatchError> {
        let set = v1::InputSet { inputs };
        if set.encoded_len() as u64 <= bulk::INLINE_MESSAGE_BYTES {
            return Ok(Inputs::Inline(set.inputs));
        }
        let stored = self.blobs.put(Tenant::new(tenant.0), &set.encode_to_vec())?;
        Ok(Inputs::Blob(bulk::reference(&stored)))
    }
}

impl Dispatch {
    const fn of(spec: Arc<StoredSpec>) -> Self {
        let inputs = Inputs::Inline(Vec::new());
        Self { spec, inputs, feedback: None, publish: Vec::new(), reuse: Vec::new() }
    }
}

/// Whether an attempt may use a recorded result in place of running. Only the first: whoever has a task tried again wants it
/// run, and an offer that came to nothing is not made twice.
#[must_use]
pub const fn may_reuse(attempt: AttemptKey) -> bool {
    attempt.attempt.0 == 1
}

/// The number in `name/number`.
fn number_of(run_ref: &str) -> u64 {
    run_ref.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The files of a publication, by the names under which the task `of` handed them over.
fn publications(
    records: &Records<'_>,
    of: TaskKey,
    publish: &orch_proto::store::v1::StoredPublish,
    run_ref: &str,
) -> Result<Vec<v1::PublishFile>, DispatchError> {
    let result = records.task(of)?.ok_or(DispatchError::NoRecord(of))?.result.unwrap_or_default();
    let handed_over = records.manifest(&result)?;
    let files = publish.files.iter().map(|file| {
        let found = handed_over.iter().find(|artifact| artifact.path == file.artifact);
        v1::PublishFile {
            to: final_path(&file.to, number_of(run_ref)),
            blob: found.and_then(|artifact| artifact.blob.clone()),
            replace: file.replace,
            artifact: file.artifact.clone(),
        }
    });
    Ok(files.collect())
}

impl Records<'_> {
    fn manifest(&self, result: &ResultRecord) -> Result<Vec<v1::Artifact>, DispatchError> {
        let named = result.artifacts.as_ref().and_then(|artifacts| artifacts.manifest.as_ref());
        let Some(blob) = named else { return Ok(Vec::new()) };
        Ok(manifest::open(self.blobs, self.store_tenant(), blob)?.artifacts)
    }
}

const fn index(index: u32) -> orch_core::ids::TaskIndex {
    orch_core::ids::TaskIndex(index)
}

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;
