//! The data directory: where things lie, who may read them, who holds it, how much room is left.
//!
//! ```text
//! <data>/store/lock         held by the one process that may write; names its pid
//! <data>/store/journal.0    the newest commits, in turns with journal.1
//! <data>/store/sled/        the storage engine's own files, which has the others
//! <data>/store/anchor       the number of the last commit
//! <data>/store/aside/       index snapshots that were found damaged
//! <data>/blobs/             see crate::blobs; has a lock of its own
//! <data>/transcripts/       see crate::transcripts
//! ```
//!
//! Directories are 0700 and files 0600 whatever the umask says. A new name is durable only when its directory was
//! synced, so the helpers here do that; what lies inside a file is its writer's business.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PRIVATE_DIR: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// The data directory of one coordinator.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// The data directory at `root`, made with its rooms where they do not exist yet.
    ///
    /// # Errors
    /// The operating system's, naming no path: the caller knows it.
    pub fn open(root: &Path) -> io::Result<Self> {
        create_private(root)?;
        let dir = Self { root: root.to_owned() };
        for room in [dir.store(), dir.blobs(), dir.transcripts()] {
            create_private(&room)?;
            fs::set_permissions(&room, Permissions::from_mode(PRIVATE_DIR))?;
        }
        Ok(dir)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// For [`super::SledStore::open`].
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// For [`crate::blobs::FileBlobs::open`].
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// For [`crate::transcripts::Transcripts::open`].
    pub fn transcripts(&self) -> PathBuf {
        self.root.join("transcripts")
    }

    /// How full the file system is.
    ///
    /// # Errors
    /// The operating system's.
    pub fn disk_space(&self) -> io::Result<DiskSpace> {
        DiskSpace::of(&self.root)
    }
}

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// What it holds in all.
    pub total: u64,
    /// What an ordinary user may still write.
    pub available: u64,
}

impl DiskSpace {
    /// Of the file system that holds `path`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        let block = stat.f_frsize;
        let total = stat.f_blocks.saturating_mul(block);
        Ok(Self { total, available: stat.f_bavail.saturating_mul(block) })
    }

    /// Free share in whole percent, rounded down; 100 where the file system has no size of its own.
    pub fn free_percent(self) -> u8 {
        let percent = (u128::from(self.available) * 100).checked_div(u128::from(self.total)).unwrap_or(100);
        u8::try_from(percent.min(100)).unwrap_or(100)
    }

    /// Whether new work is to be refused; see [`super::REFUSE_SUBMITS_BELOW_FREE_PERCENT`].
    pub fn is_low(self) -> bool {
        let share = self.total / 100 * super::REFUSE_SUBMITS_BELOW_FREE_PERCENT;
        self.available < share.min(super::ENOUGH_FREE_BYTES)
    }
}

/// The right to write to a directory, held until dropped. The kernel gives it back when the process dies.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl Drop for DirLock {
    /// To close the file is not enough: a process that another thread starts has a copy of it until its program begins.
    fn drop(&mut self) {
        // One that cannot be given back ends with the last copy.
        let _ = self.file.unlock();
    }
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by {}; two coordinators must not share a data directory", dir.display(), Holder(*.pid))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other process, where it left its number.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error("cannot lock {}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

impl DirLock {
    /// Takes the lock of `dir`, which must exist.
    ///
    /// # Errors
    /// [`LockError::InUse`] with the pid of the holder, or [`LockError::Io`].
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let refused = |source| LockError::Io { dir: dir.to_owned(), source };
        let opened = private_file().read(true).create(true).truncate(false).open(dir.join("lock"));
        let mut file = opened.map_err(refused)?;
        match file.try_lock() {
            Ok(()) => note_pid(&mut file).map_err(refused)?,
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::InUse { dir: dir.to_owned(), pid: pid_in(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        Ok(Self { file })
    }
}

fn note_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The holder writes its pid right after locking, so for a moment there may be none.
fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Options for a file only its owner may open, for writing.
pub(crate) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(PRIVATE_FILE);
    options
}

/// Makes a directory and those above it, 0700 and durable. One that exists is left as it is.
pub(crate) fn create_private(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent =
        dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    create_private(parent)?;
    match DirBuilder::new().mode(PRIVATE_DIR).create(dir) {
        Ok(()) => sync_dir(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Takes everything in `dir` away from other users, for files that somebody else's code created.
pub(crate) fn restrict(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(PRIVATE_DIR))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            restrict(&entry.path())?;
        } else {
            fs::set_permissions(entry.path(), Permissions::from_mode(PRIVATE_FILE))?;
        }
    }
    Ok(())
}

/// What the files in and below `dir` take up on disk. A file that vanishes meanwhile counts nothing.
pub(crate) fn disk_usage(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes += disk_usage(&entry.path())?,
            Ok(meta) => bytes += meta.blocks() * 512,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_data_directory_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let loose = temp.path().join("data/blobs");
        fs::create_dir_all(&loose).unwrap();
        fs::set_permissions(&loose, Permissions::from_mode(0o755)).unwrap();
        let data = DataDir::open(&temp.path().join("data")).unwrap();
        for room in [data.store(), data.blobs(), data.transcripts()] {
            assert_eq!(mode(&room), 0o700, "{}", room.display());
        }
        let fresh = DataDir::open(&temp.path().join("new/data")).unwrap();
        assert_eq!(mode(fresh.root()), 0o700);
    }

    #[test]
    fn a_disk_is_low_below_a_twentieth_or_two_gibibytes_whichever_is_less() {
        const GIB: u64 = 1 << 30;
        let low = |total, available| DiskSpace { total, available }.is_low();
        assert!(low(10 * GIB, GIB / 2 - 1024) && !low(10 * GIB, GIB / 2));
        assert!(low(400 * GIB, 2 * GIB - 1) && !low(400 * GIB, 2 * GIB));
        assert!(!low(0, 0), "a file system without a size of its own");
    }

    #[test]
    fn a_second_holder_is_told_the_pid_of_the_first() {
        let temp = tempfile::tempdir().unwrap();
        let held = DirLock::take(temp.path()).unwrap();
        let error = DirLock::take(temp.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        assert_eq!(mode(&temp.path().join("lock")), 0o600);
        // As a process has it that is about to begin.
        let copy = held.file.try_clone().unwrap();
        drop(held);
        DirLock::take(temp.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn free_space_is_a_share_of_the_whole() {
        let space = |total, available| DiskSpace { total, available };
        assert_eq!(space(200, 100).free_percent(), 50);
        assert_eq!(space(0, 0).free_percent(), 100);
        assert!(space(1000, 49).is_low());
        assert!(!space(1000, 50).is_low());
        assert!(DiskSpace::of(Path::new("/")).unwrap().total > 0);
    }
}
