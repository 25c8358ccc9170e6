//! Transcripts: the CLI's own event lines of an attempt, appended as they arrive.
//!
//! ```text
//! <transcripts>/<tenant>/<run>/<task>.<attempt>
//! ```
//!
//! A transcript has two offsets. *Received* is its length: what has been written to the file. *Durable* is what
//! survives a loss of power, and what an agent may forget. [`Transcripts::append`] syncs by itself after every
//! [`SYNC_BYTES`]; the owner calls [`Transcripts::sync_all`] every second for the rest.
//!
//! The length of a file that is not open is the truth, and durable: what an earlier process left behind is synced once
//! at the start, and a file is closed only after a sync.
//!
//! This file knows bytes and offsets, not events. Reading never passes the engine. No clock is read: callers pass the
//! time.

mod cache;
mod retention;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::cache::Cache;
pub use self::retention::{Deleted, RetentionPolicy};
use crate::store::Tenant;
use crate::store::dir;
use crate::store::hold::Holds;

/// Bytes that may be received and not durable before an append syncs them itself.
pub const SYNC_BYTES: u64 = 1 << 20;

/// Transcripts kept open for writing, half of the usual limit of a process. Beyond, the one unused longest is closed,
/// and opened again when it goes on.
pub const MAX_OPEN: usize = 512;

/// Names the transcript of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TranscriptId {
    /// Whose run it is.
    pub tenant: Tenant,
    /// The run.
    pub run: u64,
    /// The task within the run.
    pub task: u32,
    /// The attempt of the task.
    pub attempt: u32,
}

impl TranscriptId {
    /// Path below the directory of all transcripts.
    pub(crate) fn path(&self) -> PathBuf {
        run_path(self.tenant, self.run).join(format!("{}.{}", self.task, self.attempt))
    }
}

fn run_path(tenant: Tenant, run: u64) -> PathBuf {
    PathBuf::from(tenant.to_string()).join(run.to_string())
}

/// How far a transcript has come, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// Written to the file.
    pub received: u64,
    /// Survives a loss of power. Never above `received`.
    pub durable: u64,
}

/// Why a transcript could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum TranscriptError {
    /// The piece starts behind what has been received.
    #[error("the piece starts at byte {offset}, only {received} have been received")]
    Gap {
        /// Where it starts.
        offset: u64,
        /// Where to go on.
        received: u64,
    },
    /// There is no such transcript, or not any more.
    #[error("there is no transcript of this attempt")]
    NotFound,
    /// A sync failed before. What was received since the last durable offset may be lost without a trace.
    #[error("an earlier sync of this transcript failed; restart to see what is durable")]
    Stopped,
    /// The operating system refused.
    #[error("cannot {doing} transcript {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// All transcripts of a coordinator. Blocking; shared by as many threads as need be.
#[derive(Debug)]
pub struct Transcripts {
    root: PathBuf,
    cache: Cache,
    syncs: Arc<AtomicU64>,
    holds: Arc<Holds>,
}

impl Transcripts {
    /// The transcripts in `root`, which is made if need be.
    ///
    /// # Errors
    /// [`TranscriptError::Io`].
    pub fn open(root: &Path) -> Result<Self, TranscriptError> {
        Self::with_capacity(root, MAX_OPEN)
    }

    /// As [`Transcripts::open`], with another bound on open files.
    ///
    /// # Errors
    /// [`TranscriptError::Io`].
    pub fn with_capacity(root: &Path, max_open: usize) -> Result<Self, TranscriptError> {
        dir::create_private(root).map_err(io_at("create the directory of", root))?;
        let synced = File::open(root).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(io_at("sync the file system of", root))?;
        Ok(Self {
            root: root.to_owned(),
            cache: Cache::new(max_open),
            syncs: Arc::default(),
            holds: Arc::default(),
        })
    }

    /// Appends a piece that starts at `offset`, and returns the offsets after it. What was received before is skipped,
    /// so a piece may be repeated; one that reaches further is taken from where the last one ended.
    ///
    /// # Errors
    /// [`TranscriptError::Gap`] when something in between is missing: go on at `received`. Any other is fatal.
    pub fn append(&self, id: &TranscriptId, offset: u64, bytes: &[u8]) -> Result<Offsets, TranscriptError> {
        self.for_writing(id)?.append(offset, bytes)
    }

    /// Makes everything received durable.
    ///
    /// # Errors
    /// [`TranscriptError::NotFound`]; any other is fatal.
    pub fn sync(&self, id: &TranscriptId) -> Result<Offsets, TranscriptError> {
        self.cache.get(id).map_or_else(|| self.closed_offsets(id), |open| open.sync())
    }

    /// Makes everything received of every transcript durable, and says which ones came further by it. To be called
    /// every second.
    ///
    /// # Errors
    /// Fatal.
    pub fn sync_all(&self) -> Result<Vec<(TranscriptId, Offsets)>, TranscriptError> {
        let mut synced = Vec::new();
        for (id, open) in self.cache.all() {
            if open.is_dirty() {
                synced.push((id, open.sync()?));
            }
        }
        Ok(synced)
    }

    /// How far a transcript has come.
    ///
    /// # Errors
    /// [`TranscriptError::NotFound`], [`TranscriptError::Io`].
    pub fn offsets(&self, id: &TranscriptId) -> Result<Offsets, TranscriptError> {
        self.cache.get(id).map_or_else(|| self.closed_offsets(id), |open| Ok(open.offsets()))
    }

    /// Up to `max` bytes from `offset`, durable or not; none at or behind the end of what was received.
    ///
    /// # Errors
    /// [`TranscriptError::NotFound`], [`TranscriptError::Io`].
    pub fn read(&self, id: &TranscriptId, offset: u64, max: usize) -> Result<Vec<u8>, TranscriptError> {
        if let Some(open) = self.cache.get(id) {
            return open.read(offset, max);
        }
        let path = self.root.join(id.path());
        let file = File::open(&path).map_err(not_found_or("open", &path))?;
        let len = file.metadata().map_err(io_at("measure", &path))?.len();
        read_range(&file, &path, len, offset, max)
    }

    /// Removes the transcript of one attempt; no error when there is none. Whether it did: while somebody copies what is
    /// there, nothing is removed.
    ///
    /// # Errors
    /// [`TranscriptError::Io`].
    pub fn delete(&self, id: &TranscriptId) -> Result<bool, TranscriptError> {
        let path = self.root.join(id.path());
        let removed = self.holds.delete(|| {
            self.cache.remove(|open| open == id);
            gone_is_fine(fs::remove_file(&path)).map_err(io_at("remove", &path))
        });
        removed.transpose().map(|removed| removed.is_some())
    }

    /// Removes all transcripts of a run; no error when there are none. Whether it did, as [`Transcripts::delete`].
    ///
    /// # Errors
    /// [`TranscriptError::Io`].
    pub fn delete_run(&self, tenant: Tenant, run: u64) -> Result<bool, TranscriptError> {
        let path = self.root.join(run_path(tenant, run));
        let removed = self.holds.delete(|| {
            self.cache.remove(|open| open.tenant == tenant && open.run == run);
            gone_is_fine(fs::remove_dir_all(&path)).map_err(io_at("remove", &path))
        });
        removed.transpose().map(|removed| removed.is_some())
    }

    /// What keeps transcripts from being removed.
    pub fn holds(&self) -> &Arc<Holds> {
        &self.holds
    }

    /// Opens the file of a transcript, for reading it from its start.
    ///
    /// # Errors
    /// [`TranscriptError::NotFound`], [`TranscriptError::Io`].
    pub fn open_whole(&self, id: &TranscriptId) -> Result<File, TranscriptError> {
        let path = self.root.join(id.path());
        File::open(&path).map_err(not_found_or("open", &path))
    }

    /// Every transcript that is there, in order, with how far it has come.
    ///
    /// # Errors
    /// [`TranscriptError::Io`].
    pub fn all(&self) -> Result<Vec<(TranscriptId, Offsets)>, TranscriptError> {
        let mut ids: Vec<_> = self.list()?.into_iter().map(|found| found.id).collect();
        ids.sort_unstable();
        let measured = ids.into_iter().filter_map(|id| match self.offsets(&id) {
            Ok(offsets) => Some(Ok((id, offsets))),
            Err(TranscriptError::NotFound) => None,
            Err(error) => Some(Err(error)),
        });
        measured.collect()
    }

    /// Waits for the disk since this was opened, for metrics and tests.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn closed_offsets(&self, id: &TranscriptId) -> Result<Offsets, TranscriptError> {
        let path = self.root.join(id.path());
        let len = fs::metadata(&path).map_err(not_found_or("measure", &path))?.len();
        Ok(Offsets { received: len, durable: len })
    }

    fn for_writing(&self, id: &TranscriptId) -> Result<Arc<OpenTranscript>, TranscriptError> {
        self.cache.get_or_open(id, || OpenTranscript::open(self.root.join(id.path()), self.syncs.clone()))
    }
}

/// A transcript that is open for writing. There is one per file: two would disagree about its length.
#[derive(Debug)]
struct OpenTranscript {
    path: PathBuf,
    file: File,
    state: Mutex<State>,
    syncs: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    offsets: Offsets,
    /// The file was made just now, and its name is not durable yet.
    name_is_new: bool,
    stopped: bool,
}

impl OpenTranscript {
    fn open(path: PathBuf, syncs: Arc<AtomicU64>) -> Result<Self, TranscriptError> {
        if let Some(parent) = path.parent() {
            dir::create_private(parent).map_err(io_at("create the directory of", parent))?;
        }
        let name_is_new = !path.exists();
        let opened = dir::private_file().read(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(io_at("open", &path))?;
        let len = file.metadata().map_err(io_at("measure", &path))?.len();
        let offsets = Offsets { received: len, durable: len };
        let state = Mutex::new(State { offsets, name_is_new, stopped: false });
        Ok(Self { path, file, state, syncs })
    }

    fn append(&self, offset: u64, bytes: &[u8]) -> Result<Offsets, TranscriptError> {
        let mut state = self.running()?;
        let received = state.offsets.received;
        if offset > received {
            return Err(TranscriptError::Gap { offset, received });
        }
        let known = usize::try_from(received - offset).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        crate::failpoint::failpoint!("transcripts::before_write");
        // At the offset: a piece that failed half-way is written again over its first half.
        self.file.write_all_at(new, received).map_err(io_at("write to", &self.path))?;
        state.offsets.received += new.len() as u64;
        if state.offsets.received - state.offsets.durable >= SYNC_BYTES {
            self.sync_locked(&mut state)?;
        }
        Ok(state.offsets)
    }

    fn sync(&self) -> Result<Offsets, TranscriptError> {
        let mut state = self.running()?;
        self.sync_locked(&mut state)?;
        Ok(state.offsets)
    }

    /// Never tried again after a failure: the kernel forgets what it could not write.
    fn sync_locked(&self, state: &mut State) -> Result<(), TranscriptError> {
        if state.offsets.durable == state.offsets.received && !state.name_is_new {
            return Ok(());
        }
        crate::failpoint::failpoint!("transcripts::before_sync");
        let synced = self.file.sync_data().and_then(|()| match self.path.parent() {
            Some(parent) if state.name_is_new => dir::sync_dir(parent),
            _ => Ok(()),
        });
        state.stopped = synced.is_err();
        crate::failpoint::failpoint!("transcripts::after_sync");
        synced.map_err(io_at("sync", &self.path))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        state.name_is_new = false;
        state.offsets.durable = state.offsets.received;
        Ok(())
    }

    fn read(&self, offset: u64, max: usize) -> Result<Vec<u8>, TranscriptError> {
        read_range(&self.file, &self.path, self.offsets().received, offset, max)
    }

    fn offsets(&self) -> Offsets {
        self.lock().offsets
    }

    /// Whether closing has to wait for the disk.
    fn is_dirty(&self) -> bool {
        let state = self.lock();
        state.offsets.durable < state.offsets.received || state.name_is_new
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<MutexGuard<'_, State>, TranscriptError> {
        let state = self.lock();
        if state.stopped { Err(TranscriptError::Stopped) } else { Ok(state) }
    }
}

fn read_range(
    file: &File,
    path: &Path,
    len: u64,
    offset: u64,
    max: usize,
) -> Result<Vec<u8>, TranscriptError> {
    let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(max)];
    file.read_exact_at(&mut bytes, offset).map_err(io_at("read", path))?;
    Ok(bytes)
}

fn io_at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TranscriptError {
    move |source| TranscriptError::Io { doing, path: path.to_owned(), source }
}

fn not_found_or(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TranscriptError {
    move |source| {
        if source.kind() == io::ErrorKind::NotFound {
            TranscriptError::NotFound
        } else {
            TranscriptError::Io { doing, path: path.to_owned(), source }
        }
    }
}

fn gone_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
