//! What a start does to its data directory, in this order: lock, put in place what is staged, open, migrate, compact.
//! Knows the order; the work is that of the modules it calls. Whatever it does is said in [`Opened::mended`].

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::figures::{compacts, forget_aside, note_made_anew};
use super::{COMPACT, StartError, convert, reserve, swap};
use crate::blobs::FileBlobs;
use crate::store::dir::{DirLock, create_private, sync_dir};
use crate::store::{ClusterId, DataDir, OpenError, Recovery, SledStore, Store};
use crate::transcripts::Transcripts;

const MIGRATE: &str = "migrate";
const COMPACTION: &str = "compact";

/// A data directory that is ready to be served from.
#[derive(Debug)]
pub struct Opened {
    /// Where things lie.
    pub dir: DataDir,
    /// Records.
    pub store: Arc<SledStore>,
    /// Blobs and packs.
    pub blobs: Arc<FileBlobs>,
    /// Transcripts.
    pub transcripts: Arc<Transcripts>,
    /// What had to be done, in plain English.
    pub mended: Vec<String>,
    /// Held as long as the directory is used.
    pub lock: DirLock,
}

/// Opens the data directory at `root`, or makes one there for a cluster named `new_cluster`.
///
/// # Errors
/// [`StartError`]; what to do about it is in its text and in its row of the code table.
pub fn open(root: &Path, new_cluster: ClusterId, now: SystemTime) -> Result<Opened, StartError> {
    create_private(root).map_err(StartError::dir("create", root))?;
    let lock = DirLock::take(root)?;
    let mut mended = Vec::new();
    let first = open_locked(root, new_cluster, now, &mut mended);
    let rooms = match first {
        Err(error) if reserve::was_full(&error) && reserve::release(root).unwrap_or(false) => {
            mended.push("the disk was full: the reserve was given up for this start".to_owned());
            open_locked(root, new_cluster, now, &mut mended)?
        }
        Err(error) => return Err(error),
        Ok(rooms) => {
            if let Err(error) = reserve::make(root) {
                tracing::warn!(%error, "no room is kept for a start on a full disk");
            }
            rooms
        }
    };
    let Rooms { dir, store, blobs, transcripts } = rooms;
    Ok(Opened { dir, store: Arc::new(store), blobs, transcripts, mended, lock })
}

struct Rooms {
    dir: DataDir,
    store: SledStore,
    blobs: Arc<FileBlobs>,
    transcripts: Arc<Transcripts>,
}

fn open_locked(
    root: &Path,
    new_cluster: ClusterId,
    now: SystemTime,
    mended: &mut Vec<String>,
) -> Result<Rooms, StartError> {
    put_in_place(root, mended)?;
    let dir = DataDir::open(root).map_err(StartError::dir("use the rooms of", root))?;
    let store = open_store(&dir, new_cluster, now, mended)?;
    let store = compacted(&dir, store, new_cluster, now, mended)?;
    let blobs = Arc::new(FileBlobs::open(&dir.blobs())?);
    let transcripts = Arc::new(Transcripts::open(&dir.transcripts())?);
    Ok(Rooms { dir, store, blobs, transcripts })
}

fn put_in_place(root: &Path, mended: &mut Vec<String>) -> Result<(), StartError> {
    if let Some(staged) = swap::carry_out(root)? {
        mended.push(format!(
            "a {} was carried out; what it replaced is in aside/{}",
            staged.what, staged.aside
        ));
    }
    Ok(())
}

/// Opens the store, made anew first if an older version wrote it. The old one stays aside until a clean stop.
fn open_store(
    dir: &DataDir,
    new_cluster: ClusterId,
    now: SystemTime,
    mended: &mut Vec<String>,
) -> Result<SledStore, StartError> {
    let place = dir.store();
    let found = match SledStore::open(&place, new_cluster) {
        Err(OpenError::OlderSchema { found }) => found,
        other => return Ok(other?),
    };
    let old = SledStore::open_older(&place)?;
    let made = convert::anew(dir.root(), MIGRATE, &old, now);
    let report = made.map_err(|source| StartError::Anew { doing: MIGRATE, source: Box::new(source) })?;
    drop(old);
    tracing::info!(from = found, records = report.records, "store migrated");
    put_in_place(dir.root(), mended)?;
    Ok(SledStore::open(&place, new_cluster)?)
}

/// Makes the store anew if it was asked for or takes up far more than it holds. That it cannot be is no reason not to start.
fn compacted(
    dir: &DataDir,
    store: SledStore,
    new_cluster: ClusterId,
    now: SystemTime,
    mended: &mut Vec<String>,
) -> Result<SledStore, StartError> {
    let health = store.health().map_err(|error| StartError::Store(fault_of(error)))?;
    let asked = dir.root().join(COMPACT);
    if !asked.exists() && !compacts(&dir.store(), health.bytes_on_disk, health.live_bytes) {
        return Ok(store);
    }
    let made = convert::anew(dir.root(), COMPACTION, &store, now);
    if asked.exists() {
        fs::remove_file(&asked).map_err(StartError::dir("remove", &asked))?;
    }
    if let Err(error) = made {
        tracing::warn!(error = &error as &dyn std::error::Error, "the store is not compacted");
        mended.push(format!("the store could not be compacted: {error}"));
        return Ok(store);
    }
    drop(store);
    put_in_place(dir.root(), mended)?;
    let store = SledStore::open(&dir.store(), new_cluster)?;
    let after = store.health().map_err(|error| StartError::Store(fault_of(error)))?;
    note_made_anew(&dir.store(), after.bytes_on_disk).map_err(StartError::dir("write to", &dir.store()))?;
    mended.push(format!(
        "the store was compacted from {} to {} bytes",
        health.bytes_on_disk, after.bytes_on_disk
    ));
    Ok(store)
}

fn fault_of(error: crate::store::ReadError) -> OpenError {
    match error {
        crate::store::ReadError::Fault(fault) => OpenError::Fault(fault),
        crate::store::ReadError::Limit { .. } => OpenError::Fault(crate::store::Fault::Stopped),
    }
}

/// Asks the next start to compact the store, durably.
///
/// # Errors
/// The operating system's.
pub fn ask_for_compaction(root: &Path) -> std::io::Result<()> {
    File::create(root.join(COMPACT))?.sync_all()?;
    sync_dir(root)
}

/// The state was recovered from what was opened: what a compaction replaced is needed no more.
pub fn proved(root: &Path) {
    forget(root, COMPACTION);
}

/// The coordinator ended in order: what a migration replaced is needed no more.
pub fn ended(root: &Path) {
    forget(root, MIGRATE);
}

fn forget(root: &Path, what: &str) {
    if let Err(error) = forget_aside(root, what) {
        tracing::warn!(%error, what, "what was moved aside is not removed");
    }
}

/// What opening the store mended, for people.
#[must_use]
pub fn describe(recovered: &Recovery) -> Vec<String> {
    let mut lines = Vec::new();
    if recovered.replayed > 0 {
        lines.push(format!("{} commits were taken over from the journal", recovered.replayed));
    }
    if recovered.torn_snapshots > 0 {
        lines.push(format!("{} half-written indexes were removed", recovered.torn_snapshots));
    }
    if recovered.rebuilt_index {
        lines.push("damaged indexes were moved aside and rebuilt from the log".to_owned());
    }
    lines
}
