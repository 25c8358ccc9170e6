//! Copies of what the coordinator keeps, given out and taken back, and what its data directory holds.
//! Knows the messages and whose turn it is; what a copy is made of is known in [`crate::storage`].

mod streams;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use orch_core::config::Config;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, BackupForm, BackupResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status, Streaming};

use crate::blobs::{Blobs, FileBlobs};
use crate::rpc::auth::Caller;
use crate::rpc::blocking;
use crate::rpc::status::{internal, refuse, refuse_field};
use crate::storage::backup::Source;
use crate::storage::figures::{Figures, WARN_ABOVE_USED_PERCENT, compacts};
use crate::storage::restore::{Order, Present, Taken, take};
use crate::storage::{CopyError, start};
use crate::store::{ClusterId, DataDir, ReadError, SCHEMA, Store};
use crate::transcripts::Transcripts;

/// A copy on its way to whoever asked.
pub type Copy = Pin<Box<dyn Stream<Item = Result<BackupResponse, Status>> + Send>>;

/// Sizes are measured again after this long: every file is looked at for it.
const FIGURES_FRESH: Duration = Duration::from_secs(30);

/// What the desk leans on.
#[derive(Debug)]
pub struct StorageParts {
    /// Where things lie.
    pub data: DataDir,
    /// Records.
    pub store: Arc<dyn Store>,
    /// Blobs and packs.
    pub blobs: Arc<FileBlobs>,
    /// Transcripts.
    pub transcripts: Arc<Transcripts>,
    /// What the start had to mend.
    pub mended: Vec<String>,
    /// Limits that a start on a restored copy has.
    pub config: Config,
    /// Where copies are made.
    pub tasks: TaskTracker,
    /// Set when the coordinator drains: copies under way are broken off.
    pub draining: CancellationToken,
    /// To be set when the coordinator is to start anew.
    pub again: CancellationToken,
}

/// Gives copies out and takes them back, one at a time. One that keeps nothing on a disk refuses everything.
#[derive(Debug, Clone, Default)]
pub struct StorageDesk {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    parts: StorageParts,
    turn: Arc<Semaphore>,
    figures: Mutex<Option<(Instant, Figures)>>,
}

impl StorageDesk {
    /// Serves what its parts know.
    #[must_use]
    pub fn new(parts: StorageParts) -> Self {
        let inner = Inner { parts, turn: Arc::new(Semaphore::new(1)), figures: Mutex::default() };
        Self { inner: Some(Arc::new(inner)) }
    }

    /// What the data directory holds.
    ///
    /// # Errors
    /// The status for the caller.
    pub async fn storage(&self) -> Result<v1::Storage, Status> {
        let inner = Arc::clone(self.inner()?);
        blocking(move || inner.storage()).await?
    }

    /// Begins a copy.
    ///
    /// # Errors
    /// The status for the caller.
    pub fn backup(&self, form: BackupForm) -> Result<Copy, Status> {
        let inner = Arc::clone(self.inner()?);
        if form == BackupForm::Unspecified {
            return Err(refuse_field(ErrorCode::InvalidField, "form", "must say which form the copy has"));
        }
        let turn = inner.turn()?;
        let parts = &inner.parts;
        let (tasks, draining) = (parts.tasks.clone(), parts.draining.clone());
        let (root, store) = (parts.data.root().to_owned(), Arc::clone(&parts.store));
        let (blobs, transcripts) = (Arc::clone(&parts.blobs), Arc::clone(&parts.transcripts));
        let source = Source { store, blobs, transcripts };
        Ok(streams::send(&tasks, draining, move |to| {
            let _turn = turn;
            streams::write(&root, &source, form, to)
        }))
    }

    /// Takes a copy. Once this has returned, the coordinator starts anew on it, unless it was only to be checked.
    ///
    /// # Errors
    /// The status for the caller; nothing was changed.
    pub async fn restore(
        &self,
        request: Request<Streaming<v1::RestoreRequest>>,
    ) -> Result<v1::RestoreResponse, Status> {
        let caller = Caller::of(&request)?;
        let inner = Arc::clone(self.inner()?);
        let turn = inner.turn()?;
        let draining = inner.parts.draining.clone();
        // Set when the coordinator drains, and when this is dropped because whoever asked has gone: what is staged without
        // a start on it would replace, weeks later, everything that was acknowledged meanwhile.
        let unwanted = draining.child_token();
        let _gone = unwanted.clone().drop_guard();
        let mut messages = request.into_inner();
        let header = streams::header(&mut messages, &draining).await?;
        let cluster = inner.expected(&header.cluster_id)?;
        let (form, validate_only) = (header.form(), header.validate_only);
        let kept: Option<Arc<dyn Blobs>> = match form {
            BackupForm::Unspecified => {
                return Err(refuse_field(
                    ErrorCode::InvalidField,
                    "form",
                    "must say which form the copy has",
                ));
            }
            BackupForm::Archive => None,
            BackupForm::Records => Some(Arc::<FileBlobs>::clone(&inner.parts.blobs)),
        };
        let (for_thread, by) = (Arc::clone(&inner), caller.label());
        let work = move |from: &mut dyn std::io::BufRead| {
            // Held until nobody else can have it any more.
            let _turn = turn;
            let parts = &for_thread.parts;
            let order = Order {
                root: parts.data.root().to_owned(),
                cluster: Some(cluster),
                present: Some(Present::of(&*parts.store)?),
                records_beside: kept,
                validate_only,
                config: parts.config.clone(),
                now: SystemTime::now(),
                unwanted,
            };
            let taken = take(from, &order)?;
            tracing::info!(target: "audit", by, validate_only, "restore a copy of epoch {}", taken.epoch);
            // Here, because nobody may be left who waits for this.
            if !validate_only {
                parts.again.cancel();
            }
            Ok(taken)
        };
        let received = streams::receive(messages, (&draining, &inner.parts.again), work).await?;
        Ok(restored(received.map_err(|error| copy_status(&error))?))
    }

    /// Has the next start compact the store, and that start come. The storage as it was before.
    ///
    /// # Errors
    /// The status for the caller.
    pub async fn compact(&self, caller: &Caller) -> Result<v1::Storage, Status> {
        let inner = Arc::clone(self.inner()?);
        let turn = inner.turn()?;
        let for_thread = Arc::clone(&inner);
        let storage = blocking(move || {
            let storage = for_thread.storage()?;
            let asked = start::ask_for_compaction(for_thread.parts.data.root());
            asked.map_err(|error| internal("cannot ask for a compaction", &error))?;
            Ok::<_, Status>(storage)
        });
        let storage = storage.await??;
        drop(turn);
        tracing::info!(target: "audit", by = caller.label(), "compact the store");
        inner.parts.again.cancel();
        Ok(storage)
    }

    /// What people should know of the disk, a line each. Of what was measured last; asks for nothing.
    #[must_use]
    pub fn attention(&self) -> Vec<String> {
        self.inner.as_ref().map(|inner| inner.attention()).unwrap_or_default()
    }

    fn inner(&self) -> Result<&Arc<Inner>, Status> {
        let none = || refuse(ErrorCode::WrongState, "this coordinator keeps nothing on a disk");
        self.inner.as_ref().ok_or_else(none)
    }
}

impl Inner {
    fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        let busy = |_| {
            refuse(
                ErrorCode::WrongState,
                "a backup, a restore or a compaction is under way; wait for its end",
            )
        };
        if self.parts.again.is_cancelled() {
            return Err(crate::rpc::stopping());
        }
        Arc::clone(&self.turn).try_acquire_owned().map_err(busy)
    }

    fn expected(&self, bytes: &[u8]) -> Result<ClusterId, Status> {
        if bytes.is_empty() {
            return Ok(self.parts.store.meta().cluster);
        }
        let wrong = |_| refuse_field(ErrorCode::InvalidField, "cluster_id", "must have 16 bytes");
        <[u8; 16]>::try_from(bytes).map(ClusterId).map_err(wrong)
    }

    fn figures(&self) -> std::io::Result<Figures> {
        let mut kept = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, figures)) = kept.as_ref().filter(|(at, _)| at.elapsed() < FIGURES_FRESH) {
            return Ok(figures.clone());
        }
        let figures = Figures::of(&self.parts.data)?;
        *kept = Some((Instant::now(), figures.clone()));
        Ok(figures)
    }

    fn storage(&self) -> Result<v1::Storage, Status> {
        let parts = &self.parts;
        let health = parts.store.health().map_err(|error| health_status(&error))?;
        let figures =
            self.figures().map_err(|error| internal("cannot measure the data directory", &error))?;
        let meta = parts.store.meta();
        Ok(v1::Storage {
            schema: SCHEMA.into(),
            cluster_id: meta.cluster.to_string(),
            epoch: meta.epoch,
            records: health.live_records,
            live_bytes: health.live_bytes,
            store_bytes: health.bytes_on_disk,
            blob_bytes: figures.blob_bytes,
            transcript_bytes: figures.transcript_bytes,
            disk_free_bytes: figures.disk.available,
            disk_bytes: figures.disk.total,
            commits: health.commits,
            mended: parts.mended.clone(),
            aside: figures.aside,
            compacts_at_start: compacts(&parts.data.store(), health.bytes_on_disk, health.live_bytes),
        })
    }

    fn attention(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Ok(space) = self.parts.data.disk_space() {
            let used = 100 - space.free_percent();
            if used >= WARN_ABOVE_USED_PERCENT {
                lines.push(format!(
                    "the data disk is {used} % full: orchctl admin status shows what takes the room"
                ));
            }
        }
        let moved = crate::storage::figures::aside(self.parts.data.root()).unwrap_or_default();
        let restored: Vec<_> = moved.iter().filter(|name| name.starts_with("aside/restore-")).collect();
        if let [first, ..] = restored.as_slice() {
            let root = shown(self.parts.data.root());
            let count = restored.len();
            let what = if count == 1 { String::new() } else { format!(" and {} more", count - 1) };
            lines.push(format!(
                "what was replaced is kept in {root}/{first}{what}: delete it when it is not needed"
            ));
        }
        lines
    }
}

fn shown(root: &Path) -> String {
    root.display().to_string()
}

fn restored(taken: Taken) -> v1::RestoreResponse {
    let created = taken.created_ms.map(|millis| prost_types::Timestamp {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1_000 * 1_000_000).unwrap_or(0),
    });
    v1::RestoreResponse {
        created,
        records: taken.records,
        blobs: taken.blobs,
        transcripts: taken.transcripts,
        epoch: taken.epoch,
        aside: taken.aside.unwrap_or_default(),
    }
}

/// The whole text of an error: what is beneath says what to do.
fn copy_status(error: &CopyError) -> Status {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let beneath = error.to_string();
        if !text.ends_with(&beneath) {
            text = format!("{text}: {beneath}");
        }
        cause = error.source();
    }
    refuse(error.code(), text)
}

fn health_status(error: &ReadError) -> Status {
    internal("cannot look at the store", error)
}
