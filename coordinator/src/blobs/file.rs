//! Blobs as files in a local directory.
//!
//! ```text
//! <blobs>/<tenant>/<2 hex>/<64 hex>     a blob, by its digest
//! <blobs>/<tenant>/packs/<32 hex>       a pack
//! <blobs>/tmp/                          under way; emptied when opened
//! <blobs>/lock                          held by the one process that uses it
//! ```
//!
//! A file gets its name only when it is complete and synced, and its name is synced before anybody hears of it. One
//! process at a time may use a directory, because opening it empties `tmp`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::pack::PackWriter;
use super::{
    Blob, BlobError, BlobLocation, Blobs, Digest, Kept, Listed, OpenBlobsError, Pack, Stored, Swept, Upload,
    UploadError, sweep,
};
use crate::store::Tenant;
use crate::store::dir::{self, DirLock};
use crate::store::hold::Holds;

/// Blobs as files in a local directory, one per digest and one per pack.
#[derive(Debug)]
pub struct FileBlobs {
    files: Arc<Files>,
    _lock: DirLock,
}

/// The directory, shared with uploads and packs under way.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    /// Held while a file gets its name or loses it, so that a sweep cannot remove what was just stored again.
    names: Mutex<()>,
    holds: Arc<Holds>,
    syncs: AtomicU64,
}

impl FileBlobs {
    /// The blobs in `root`, which is made if need be. Uploads that were under way are discarded.
    ///
    /// # Errors
    /// [`OpenBlobsError::Locked`] while another process uses the directory.
    pub fn open(root: &Path) -> Result<Self, OpenBlobsError> {
        dir::create_private(root).map_err(io_at("create", root))?;
        let lock = DirLock::take(root)?;
        let tmp = root.join("tmp");
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(io_at("empty", &tmp))?;
        }
        dir::create_private(&tmp).map_err(io_at("create", &tmp))?;
        let files = Files {
            root: root.to_owned(),
            names: Mutex::new(()),
            holds: Arc::default(),
            syncs: AtomicU64::new(0),
        };
        Ok(Self { files: Arc::new(files), _lock: lock })
    }

    /// What keeps sweeps from removing anything.
    pub fn holds(&self) -> &Arc<Holds> {
        &self.files.holds
    }

    /// Every blob and pack that is there, in no particular order, with its length.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn list(&self) -> Result<Vec<Listed>, BlobError> {
        sweep::list(&self.files)
    }

    /// Opens a whole file: a pack as one, not the payloads in it.
    ///
    /// # Errors
    /// [`BlobError::Io`], also when it is not there.
    pub fn open_whole(&self, tenant: Tenant, kept: &Kept) -> Result<File, BlobError> {
        let path = self.files.path(tenant, kept);
        File::open(&path).map_err(io_at("open", &path))
    }

    /// Where the file of a blob or pack is, or would be.
    pub fn path_of(&self, tenant: Tenant, kept: &Kept) -> PathBuf {
        self.files.path(tenant, kept)
    }

    /// Waits for the disk since this was opened, for metrics and tests.
    pub fn syncs(&self) -> u64 {
        self.files.syncs.load(Ordering::Relaxed)
    }
}

impl Blobs for FileBlobs {
    fn put(&self, tenant: Tenant, bytes: &[u8]) -> Result<Stored, BlobError> {
        let stored = Stored::alone(Digest::of(bytes), bytes.len() as u64);
        let path = self.files.path(tenant, &Kept::Blob(stored.digest));
        if !self.files.keep_existing(&path, stored.len)? {
            let mut temp = self.files.temp()?;
            temp.write_all(bytes).map_err(io_at("write", temp.path()))?;
            self.files.publish(temp, &path)?;
        }
        Ok(stored)
    }

    fn find(&self, tenant: Tenant, digest: &Digest, len: u64) -> Result<Option<Stored>, BlobError> {
        let path = self.files.path(tenant, &Kept::Blob(*digest));
        Ok(self.files.keep_existing(&path, len)?.then(|| Stored::alone(*digest, len)))
    }

    fn keep(&self, tenant: Tenant, location: &BlobLocation) -> Result<Option<u64>, BlobError> {
        let path = self.files.path(tenant, &location.kept());
        let _names = self.files.lock_names();
        let file_len = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_at("look up", &path)(error)),
        };
        touch(&path).map_err(io_at("touch", &path))?;
        Ok(location.stretch(file_len).map(|(_, len)| len))
    }

    fn begin(&self, tenant: Tenant, limit: u64) -> Result<Box<dyn Upload>, BlobError> {
        let temp = self.files.temp()?;
        let files = self.files.clone();
        Ok(Box::new(FileUpload { files, tenant, limit, temp, received: 0, hasher: Sha256::new() }))
    }

    fn begin_pack(&self, tenant: Tenant) -> Result<Box<dyn Pack>, BlobError> {
        Ok(Box::new(PackWriter::begin(self.files.clone(), tenant)?))
    }

    fn open(&self, tenant: Tenant, location: &BlobLocation) -> Result<Box<dyn Blob>, BlobError> {
        let path = self.files.path(tenant, &location.kept());
        let file = File::open(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                BlobError::NotFound { location: location.clone() }
            } else {
                io_at("open", &path)(error)
            }
        })?;
        let file_len = file.metadata().map_err(io_at("measure", &path))?.len();
        let stretch = location.stretch(file_len);
        let (start, len) = stretch.ok_or_else(|| BlobError::Damaged { location: location.clone() })?;
        Ok(Box::new(FileBlob { file, path, start, len }))
    }

    fn sweep(
        &self,
        min_age: Duration,
        now: SystemTime,
        is_referenced: &mut dyn FnMut(Tenant, &Kept) -> bool,
    ) -> Result<Swept, BlobError> {
        sweep::sweep(&self.files, min_age, now, is_referenced)
    }
}

impl BlobLocation {
    /// The file that it is in.
    const fn kept(&self) -> Kept {
        match self {
            Self::Blob(digest) => Kept::Blob(*digest),
            Self::Pack { pack, .. } => Kept::Pack(*pack),
        }
    }

    /// First byte and length in a file of `file_len` bytes; `None` when it points outside.
    fn stretch(&self, file_len: u64) -> Option<(u64, u64)> {
        let (start, len) = match self {
            Self::Blob(_) => (0, file_len),
            Self::Pack { offset, len, .. } => (*offset, *len),
        };
        start.checked_add(len).filter(|end| *end <= file_len).map(|_| (start, len))
    }
}

impl Stored {
    fn alone(digest: Digest, len: u64) -> Self {
        Self { digest, len, location: BlobLocation::Blob(digest) }
    }
}

/// Where a file is, below the directory of all blobs.
pub(crate) fn relative(tenant: Tenant, kept: &Kept) -> PathBuf {
    let tenant = PathBuf::from(tenant.to_string());
    match kept {
        Kept::Pack(pack) => tenant.join("packs").join(pack.to_string()),
        Kept::Blob(digest) => {
            let name = digest.to_string();
            tenant.join(name.get(..2).unwrap_or_default()).join(name)
        }
    }
}

impl Files {
    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, tenant: Tenant, kept: &Kept) -> PathBuf {
        self.root.join(relative(tenant, kept))
    }

    /// A file without a lasting name. It vanishes when dropped.
    pub(super) fn temp(&self) -> Result<NamedTempFile, BlobError> {
        let tmp = self.root.join("tmp");
        NamedTempFile::new_in(&tmp).map_err(io_at("create a file in", &tmp))
    }

    pub(super) fn lock_names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the same bytes are there already. They then count as stored now, so no sweep takes them for old.
    pub(super) fn keep_existing(&self, path: &Path, len: u64) -> Result<bool, BlobError> {
        {
            let _names = self.lock_names();
            match fs::metadata(path) {
                Ok(meta) if meta.len() == len => touch(path).map_err(io_at("touch", path))?,
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(io_at("look up", path)(error)),
            }
        }
        // Whoever stored it may not have come as far as this yet.
        self.sync_names(path)?;
        Ok(true)
    }

    /// Gives a complete file its lasting name.
    pub(super) fn publish(&self, temp: NamedTempFile, path: &Path) -> Result<(), BlobError> {
        crate::failpoint::failpoint!("blobs::before_sync", io).map_err(io_at("sync", path))?;
        self.sync_file(temp.as_file()).map_err(io_at("sync", temp.path()))?;
        crate::failpoint::failpoint!("blobs::before_rename", io).map_err(io_at("name", path))?;
        {
            let _names = self.lock_names();
            if let Some(parent) = path.parent() {
                dir::create_private(parent).map_err(io_at("create", parent))?;
            }
            temp.persist(path).map_err(|error| io_at("name", path)(error.error))?;
        }
        crate::failpoint::failpoint!("blobs::after_rename");
        self.sync_names(path)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        if crate::failpoint::failpoint!("blobs::skip_sync", skip) {
            return Ok(());
        }
        file.sync_all()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync_names(&self, path: &Path) -> Result<(), BlobError> {
        let parent = path.parent().unwrap_or(&self.root);
        dir::sync_dir(parent).map_err(io_at("sync", parent))
    }
}

fn touch(path: &Path) -> io::Result<()> {
    let nsec = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps { last_access: nsec(UTIME_OMIT), last_modification: nsec(UTIME_NOW) };
    let flags = rustix::fs::AtFlags::empty();
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)?)
}

pub(super) fn io_at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { doing, path, source }
}

#[derive(Debug)]
struct FileUpload {
    files: Arc<Files>,
    tenant: Tenant,
    limit: u64,
    temp: NamedTempFile,
    received: u64,
    hasher: Sha256,
}

impl Upload for FileUpload {
    fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, UploadError> {
        let received = self.received;
        if offset > received {
            return Err(UploadError::Gap { offset, received });
        }
        let known = usize::try_from(received - offset).unwrap_or(usize::MAX);
        let Some(new) = bytes.get(known..) else { return Ok(received) };
        let end = received.saturating_add(new.len() as u64);
        if end > self.limit {
            return Err(UploadError::TooLarge { limit: self.limit });
        }
        // At the offset, so that a piece which failed half-way is simply written again.
        self.temp.as_file().write_all_at(new, received).map_err(io_at("write", self.temp.path()))?;
        self.hasher.update(new);
        self.received = end;
        Ok(end)
    }

    fn received(&self) -> u64 {
        self.received
    }

    fn finish(self: Box<Self>, expected: &Digest) -> Result<Stored, UploadError> {
        let Self { files, tenant, temp, received, hasher, .. } = *self;
        crate::failpoint::failpoint!("blobs::before_finish");
        let actual = Digest(hasher.finalize().into());
        if actual != *expected {
            return Err(UploadError::Digest { expected: *expected, actual });
        }
        let path = files.path(tenant, &Kept::Blob(actual));
        if !files.keep_existing(&path, received)? {
            // A failed piece may have left bytes behind the last one that counted.
            temp.as_file().set_len(received).map_err(io_at("cut", temp.path()))?;
            files.publish(temp, &path)?;
        }
        Ok(Stored::alone(actual, received))
    }
}

#[derive(Debug)]
struct FileBlob {
    file: File,
    path: PathBuf,
    start: u64,
    len: u64,
}

impl Blob for FileBlob {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, max: usize) -> Result<Vec<u8>, BlobError> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(max)];
        let at = self.start.saturating_add(offset);
        self.file.read_exact_at(&mut bytes, at).map_err(io_at("read", &self.path))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
