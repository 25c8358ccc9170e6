//! What the coordinator keeps, and what became of copies of it, as `-o json` prints them.

use orch_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;

use super::some;
use crate::output::figures::rfc3339;

/// The data directory and its store.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StorageView {
    /// Version of the records' form.
    schema: u32,
    cluster_id: String,
    /// Rises at every start.
    epoch: u64,
    records: u64,
    /// Bytes of keys and values.
    live_bytes: u64,
    /// Bytes of the store on disk.
    store_bytes: u64,
    blob_bytes: u64,
    transcript_bytes: u64,
    disk_free_bytes: u64,
    disk_bytes: u64,
    /// Since the start.
    commits: u64,
    /// What the start had to mend, in plain English.
    mended: Vec<String>,
    /// Directories with what was moved aside, below the data directory.
    aside: Vec<String>,
    /// Whether the next start compacts the store by itself.
    compacts_at_start: bool,
    /// What wants attention, in plain English.
    warnings: Vec<String>,
}

impl StorageView {
    /// The view with its warnings.
    pub(crate) fn new(storage: &v1::Storage, warnings: Vec<String>) -> Self {
        Self {
            schema: storage.schema,
            cluster_id: storage.cluster_id.clone(),
            epoch: storage.epoch,
            records: storage.records,
            live_bytes: storage.live_bytes,
            store_bytes: storage.store_bytes,
            blob_bytes: storage.blob_bytes,
            transcript_bytes: storage.transcript_bytes,
            disk_free_bytes: storage.disk_free_bytes,
            disk_bytes: storage.disk_bytes,
            commits: storage.commits,
            mended: storage.mended.clone(),
            aside: storage.aside.clone(),
            compacts_at_start: storage.compacts_at_start,
            warnings,
        }
    }
}

/// A copy that was written.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CopyView {
    /// `archive` or `records`.
    pub(crate) form: &'static str,
    /// Where it is; none on stdout.
    pub(crate) file: Option<String>,
    pub(crate) bytes: u64,
    /// Records of the store when it was begun.
    pub(crate) records: u64,
    pub(crate) epoch: u64,
    pub(crate) cluster_id: String,
    pub(crate) sha256: String,
}

/// A copy that was checked, or that the coordinator started anew on.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RestoredView {
    pub(crate) file: String,
    /// When it was made.
    created: Option<String>,
    records: u64,
    blobs: u64,
    transcripts: u64,
    /// Epoch in it.
    epoch: u64,
    /// False when it was only checked.
    restored: bool,
    /// Where what the coordinator held is kept, below its data directory.
    aside: Option<String>,
    /// Epoch of the coordinator that started anew.
    coordinator_epoch: Option<u64>,
}

impl RestoredView {
    /// What was found in a file, and the epoch that came of it.
    pub(crate) fn new(file: &str, found: &v1::RestoreResponse, anew: Option<u64>) -> Self {
        Self {
            file: file.to_owned(),
            created: rfc3339(found.created),
            records: found.records,
            blobs: found.blobs,
            transcripts: found.transcripts,
            epoch: found.epoch,
            restored: anew.is_some(),
            aside: some(&found.aside),
            coordinator_epoch: anew,
        }
    }
}

/// A store that was compacted.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CompactedView {
    pub(crate) before: StorageView,
    pub(crate) after: StorageView,
}

/// An agent that was forgotten.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RemovedAgentView {
    pub(crate) name: String,
}
