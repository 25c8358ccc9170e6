//! Recorded results of the same work: under which digest they are found, and which of them may be used.
//! Knows what makes two tasks the same work; refuses to know the state of a workspace, which the agent compares.

use orch_core::ids::{RunId, TaskKey};
use orch_proto::store::v1::{CacheEntry, CacheRecord, ResultRecord, StoredSpec};
use orch_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::records::{Records, Specs};
use super::{DispatchError, index};
use crate::payloads::PageError;
use crate::persist::show::run_ref;
use crate::store::Key;

/// A recorded result that the same work may use again.
#[derive(Debug, Clone, PartialEq)]
pub struct Reused {
    /// Ref of the task it is from.
    pub task_ref: String,
    /// State of the workspace it saw; empty without one.
    pub tree: Vec<u8>,
    /// What was recorded.
    pub result: ResultRecord,
}

impl Reused {
    /// As an assignment offers it.
    #[must_use]
    pub fn offer(self) -> v1::Reuse {
        v1::Reuse { r#ref: self.task_ref, tree: self.tree }
    }
}

/// The digest of the work of a task: of everything in its spec that decides its result, and of the results that reach it.
/// Where those are from is no part of it, what they are called is.
pub(super) fn key(spec: &StoredSpec, inputs: &[v1::Input]) -> [u8; 32] {
    let mut hasher = Sha256::new_with_prefix(b"orch.v1.CacheKey\0");
    let mut add = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    add(&spec.cache_key);
    for input in inputs {
        add(input.task_id.as_bytes());
        add(&input.state.to_be_bytes());
        add(&input.outcome.to_be_bytes());
        add(&input.role.to_be_bytes());
        add(input.worker.as_bytes());
        add(input.detail.as_bytes());
        add(&text_digest(input.answer.as_ref()));
        add(&text_digest(input.structured.as_ref()));
        let manifest = input.artifacts.as_ref().and_then(|artifacts| artifacts.manifest.as_ref());
        add(manifest.map_or(&[][..], |blob| &blob.digest));
        add(&(input.published.len() as u64).to_be_bytes());
        for path in &input.published {
            add(path.as_bytes());
        }
    }
    hasher.finalize().into()
}

/// The same whether the text is inside or elsewhere.
fn text_digest(text: Option<&v1::Text>) -> Vec<u8> {
    match text.and_then(|text| text.body.as_ref()) {
        None => Vec::new(),
        Some(v1::text::Body::Inline(text)) => Sha256::digest(text).to_vec(),
        Some(v1::text::Body::Blob(blob)) => blob.digest.clone(),
    }
}

/// Results under a digest that may be used, newest first. Passed over: those of runs that are deleted, and of tasks that did
/// not succeed after all or were tried again since.
pub(super) fn entries(records: &Records<'_>, key: [u8; 32]) -> Result<Vec<Reused>, DispatchError> {
    let payload = records.store.get(&Key::cache(records.store_tenant(), &key))?;
    let Some(payload) = payload else { return Ok(Vec::new()) };
    let known = CacheRecord::decode(payload.as_slice())?;
    let mut found = Vec::new();
    for entry in known.entries {
        found.extend(entry_of(records, entry)?);
    }
    Ok(found)
}

fn entry_of(records: &Records<'_>, entry: CacheEntry) -> Result<Option<Reused>, DispatchError> {
    let Some(task) = entry.task else { return Ok(None) };
    let task = TaskKey { run: RunId(task.run_id), index: index(task.task_index) };
    let (Some(run), Some(stored)) = (records.run(task.run)?, records.task(task)?) else { return Ok(None) };
    if stored.state() != v1::TaskState::Succeeded || stored.attempt != entry.attempt {
        return Ok(None);
    }
    let Some(result) = stored.result else { return Ok(None) };
    let spec = match Specs::new(records, task.run).get(task.index.0) {
        Ok(spec) => spec,
        // It is being deleted: the record of a run goes last.
        Err(DispatchError::Page(PageError::Missing { .. })) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Reused { task_ref: format!("{}/{}", run_ref(&run), spec.task_id), tree: entry.tree, result }))
}
