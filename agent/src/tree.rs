//! The state of a workspace as one digest: two equal ones mean that a task would read the same. It covers paths, kinds,
//! the right to execute, contents and where links lead; not owners, times and what git keeps for itself. Of `.git` only
//! `HEAD`, `packed-refs` and `refs/` count: they say which commits there are, the rest says how they are stored.
//!
//! A file that looks as it did at the last time is not read again: device, inode, size, both times. One that was changed
//! within the last seconds before it was read is read again, because a second change could look the same.
//! Knows files; refuses to know what the digest decides.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Stat, fstat, readlinkat};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::artifacts::{length, same};
use crate::beneath::{Found, Go, Reach, WalkError, kind, open_file, open_root, walk};

/// How long a file must have rested before it was read for its digest to be believed later: longer than the coarsest
/// time stamps of the file systems in use.
const REST: Duration = Duration::from_secs(3);
/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// Most nested directories of a workspace that are looked into.
const DEEPEST: usize = 64;
/// How often a file is read that changes meanwhile.
const READS: u32 = 3;

/// How large a workspace may be for its state to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// Entries of any kind.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { entries: 50_000, bytes: 1 << 30 }
    }
}

/// Why the state is not known: then no earlier result is used.
#[derive(Debug, Error)]
pub enum TreeError {
    /// More than is looked at.
    #[error("the workspace is too large for its state to be known: {0}")]
    TooLarge(&'static str),
    /// Part of it cannot be read.
    #[error("{0:?} in the workspace cannot be read")]
    Closed(OsString),
    /// Somebody writes.
    #[error("{0:?} in the workspace changes while it is read")]
    Changing(OsString),
    /// The workspace itself.
    #[error("the workspace cannot be read")]
    Io(#[from] io::Error),
}

/// Digests of files that were read, by workspace. Copies share it.
#[derive(Debug, Clone, Default)]
pub struct TreeCache(Arc<Mutex<BTreeMap<PathBuf, Files>>>);

/// What was read last, by path.
type Files = BTreeMap<OsString, Seen>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    looks: Looks,
    digest: [u8; 32],
}

/// What tells whether a file is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Looks {
    dev: u64,
    ino: u64,
    size: i64,
    changed: (i64, i64),
    written: (i64, i64),
}

impl TreeCache {
    /// The state of the workspace at `dir` at `now`. Blocks while it reads what changed since the last time; whoever asks
    /// for the same meanwhile waits, and then reads nothing twice.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn digest(&self, dir: &Path, limits: TreeLimits, now: SystemTime) -> Result<[u8; 32], TreeError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let former = known.remove(dir).unwrap_or_default();
        let root = open_root(dir)?;
        let mut scan = Scan { limits, now, former, files: Files::new(), bytes: 0, hash: Sha256::new() };
        let reach = Reach { entries: limits.entries, depth: DEEPEST };
        let walked = walk(&root, reach, &mut |found| scan.see(found));
        let Scan { files, hash, .. } = scan;
        known.insert(dir.to_owned(), files);
        walked.map_err(|error| match error {
            WalkError::Stopped(error) => error,
            WalkError::TooMany => TreeError::TooLarge("too many files"),
            WalkError::TooDeep(_) => TreeError::TooLarge("too many directories in each other"),
            WalkError::Io(error) => error.into(),
        })?;
        Ok(hash.finalize().into())
    }
}

struct Scan {
    limits: TreeLimits,
    now: SystemTime,
    former: Files,
    files: Files,
    bytes: u64,
    hash: Sha256,
}

impl Scan {
    fn see(&mut self, found: &Found<'_>) -> Result<Go, TreeError> {
        if is_of_git(found.path.as_bytes()) {
            return Ok(Go::Past);
        }
        let closed = || TreeError::Closed(found.path.to_owned());
        match kind(found.stat) {
            FileType::Directory if found.closed => return Err(closed()),
            FileType::Directory => self.entry(found, b'd', &[]),
            FileType::RegularFile => {
                self.bytes = self.bytes.saturating_add(length(found.stat));
                if self.bytes > self.limits.bytes {
                    return Err(TreeError::TooLarge("too many bytes"));
                }
                let digest = self.file(found)?;
                let mode = if found.stat.st_mode & 0o100 == 0 { b'f' } else { b'x' };
                self.entry(found, mode, &digest);
            }
            FileType::Symlink => {
                let leads = readlinkat(found.parent, found.name, Vec::new()).map_err(|_| closed())?;
                self.entry(found, b'l', leads.to_bytes());
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => self.entry(found, b'o', &[]),
        }
        Ok(Go::On)
    }

    /// Each part after its length, so that no two trees read the same.
    fn entry(&mut self, found: &Found<'_>, kind: u8, content: &[u8]) {
        for part in [found.path.as_bytes(), &[kind], content] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
    }

    fn file(&mut self, found: &Found<'_>) -> Result<[u8; 32], TreeError> {
        let looks = Looks::of(found.stat);
        let known = self.former.get(found.path).filter(|seen| seen.looks == looks).map(|seen| seen.digest);
        let (looks, digest) = match known {
            Some(digest) => (looks, digest),
            None => read(found)?,
        };
        if self.rested(&looks) {
            self.files.insert(found.path.to_owned(), Seen { looks, digest });
        }
        Ok(digest)
    }

    fn rested(&self, looks: &Looks) -> bool {
        let at = |(seconds, nanos): (i64, i64)| {
            let nanos = u32::try_from(nanos).unwrap_or(0);
            u64::try_from(seconds).map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::new(seconds, nanos))
        };
        let last = at(looks.changed).max(at(looks.written));
        // One of the future has no age.
        self.now.duration_since(last).is_ok_and(|age| age >= REST)
    }
}

fn read(found: &Found<'_>) -> Result<(Looks, [u8; 32]), TreeError> {
    for _ in 0..READS {
        let opened = open_file(found.parent, found.name);
        let (mut file, before) = opened.map_err(|_| TreeError::Closed(found.path.to_owned()))?;
        let mut hash = Sha256::new();
        let (mut chunk, mut size) = (vec![0; CHUNK], 0_u64);
        // It must not grow beyond what was counted.
        let mut content = io::Read::by_ref(&mut file).take(length(&before).saturating_add(1));
        loop {
            let read = content.read(&mut chunk)?;
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            hash.update(bytes);
            size += bytes.len() as u64;
        }
        let after = fstat(&file).map_err(io::Error::from)?;
        if size == length(&after) && same(&before, &after) {
            return Ok((Looks::of(&after), hash.finalize().into()));
        }
    }
    Err(TreeError::Changing(found.path.to_owned()))
}

impl Looks {
    fn of(stat: &Stat) -> Self {
        let nanos = |nanos| i64::try_from(nanos).unwrap_or(0);
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size,
            changed: (stat.st_ctime, nanos(stat.st_ctime_nsec)),
            written: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
        }
    }
}

/// Whether a path is git's own business: within a `.git`, but not one of the places that say which commits there are.
fn is_of_git(path: &[u8]) -> bool {
    const COUNT: [&[u8]; 3] = [b"HEAD", b"packed-refs", b"refs"];
    let mut parts = path.split(|byte| *byte == b'/');
    parts.any(|part| part == b".git") && parts.next().is_some_and(|first| !COUNT.contains(&first))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const LATER: Duration = Duration::from_secs(60);

    fn state(cache: &TreeCache, dir: &Path) -> [u8; 32] {
        cache.digest(dir, TreeLimits::default(), SystemTime::now() + LATER).unwrap()
    }

    fn fresh(dir: &Path) -> [u8; 32] {
        state(&TreeCache::default(), dir)
    }

    fn studio() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("students/emma")).unwrap();
        fs::write(dir.path().join("students/emma/profile.md"), "Emma").unwrap();
        fs::write(dir.path().join("class.md"), "Hip-hop").unwrap();
        dir
    }

    #[test]
    fn equal_trees_are_equal_wherever_and_whenever_they_were_made() {
        let (one, other) = (studio(), studio());
        assert_eq!(fresh(one.path()), fresh(other.path()));
        fs::set_permissions(one.path().join("class.md"), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fresh(one.path()), fresh(other.path()), "who may read it is nothing a task reads");
    }

    #[test]
    fn every_change_that_can_be_read_changes_the_state() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 8] = [
            ("content", |dir| fs::write(dir.join("class.md"), "Hip-Hop").unwrap()),
            ("name", |dir| fs::rename(dir.join("class.md"), dir.join("klass.md")).unwrap()),
            ("place", |dir| fs::rename(dir.join("class.md"), dir.join("students/class.md")).unwrap()),
            ("directory", |dir| fs::create_dir(dir.join("empty")).unwrap()),
            ("execute", |dir| {
                fs::set_permissions(dir.join("class.md"), Permissions::from_mode(0o755)).unwrap()
            }),
            ("link", |dir| symlink("class.md", dir.join("link")).unwrap()),
            ("kind", |dir| {
                fs::remove_file(dir.join("class.md")).unwrap();
                symlink("Hip-hop", dir.join("class.md")).unwrap();
            }),
            ("end", |dir| fs::remove_file(dir.join("students/emma/profile.md")).unwrap()),
        ];
        let before = fresh(studio().path());
        for (what, change) in changes {
            let (dir, cache) = (studio(), TreeCache::default());
            assert_eq!(state(&cache, dir.path()), before);
            change(dir.path());
            assert_ne!(state(&cache, dir.path()), before, "{what}");
            assert_eq!(
                state(&cache, dir.path()),
                fresh(dir.path()),
                "{what}: what was read before plays no part"
            );
        }
    }

    #[test]
    fn of_git_only_which_commits_there_are_counts() {
        let dir = studio();
        fs::create_dir_all(dir.path().join(".git/refs/heads")).unwrap();
        fs::create_dir_all(dir.path().join(".git/objects/aa")).unwrap();
        fs::write(dir.path().join(".git/HEAD"), "ref: refs/heads/main").unwrap();
        let before = fresh(dir.path());
        fs::write(dir.path().join(".git/index"), "x").unwrap();
        fs::write(dir.path().join(".git/objects/aa/bb"), "x").unwrap();
        assert_eq!(fresh(dir.path()), before);
        fs::write(dir.path().join(".git/refs/heads/main"), "1234").unwrap();
        assert_ne!(fresh(dir.path()), before);
        for (path, is) in [
            (".git", false),
            ("a/.git/HEAD", false),
            (".git/x", true),
            ("a/.git/index", true),
            (".gitx/x", false),
        ] {
            assert_eq!(is_of_git(path.as_bytes()), is, "{path}");
        }
    }

    #[test]
    fn a_file_that_rested_is_not_read_again_and_one_that_did_not_is() {
        let (dir, cache) = (studio(), TreeCache::default());
        let known = |cache: &TreeCache| cache.0.lock().unwrap()[dir.path()].len();
        cache.digest(dir.path(), TreeLimits::default(), SystemTime::now()).unwrap();
        assert_eq!(known(&cache), 0, "they were written just now");
        let before = state(&cache, dir.path());
        assert_eq!(known(&cache), 2);
        // What is remembered is believed: a wrong digest in the memory is seen in the result.
        for seen in cache.0.lock().unwrap().get_mut(dir.path()).unwrap().values_mut() {
            seen.digest = [7; 32];
        }
        assert_ne!(state(&cache, dir.path()), before);
    }

    #[test]
    fn what_is_too_large_or_closed_has_no_state() {
        let dir = studio();
        let of = |limits| TreeCache::default().digest(dir.path(), limits, SystemTime::now());
        assert!(matches!(of(TreeLimits { entries: 3, bytes: 99 }), Err(TreeError::TooLarge(_))));
        assert!(matches!(of(TreeLimits { entries: 9, bytes: 10 }), Err(TreeError::TooLarge(_))));
        assert!(of(TreeLimits { entries: 9, bytes: 11 }).is_ok());
        File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(of(TreeLimits::default()), Err(TreeError::TooLarge(_))));
        assert!(
            TreeCache::default()
                .digest(Path::new("/nonexistent"), TreeLimits::default(), SystemTime::now())
                .is_err()
        );
    }
}
