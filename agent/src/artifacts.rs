//! The files that an attempt hands over: everything plain beneath its `out/`, copied aside and hashed once nothing of it
//! runs any more, so that what is stored later is what was there at the end. Two walks: the first looks at sizes, so that
//! too much is told before any of it is read.
//! Knows directories; refuses to know where the files go. Nothing is synced: a power loss before they are stored loses
//! the attempt, which is then made again.
//!
//! ```text
//! KEEP/<sha-256>   the bytes, once however often they came
//!     /manifest    an encoded list of the files, written last
//! ```

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use orch_proto::v1;
use prost::Message as _;
use rustix::fs::{FileType, Stat, fstat};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::beneath::{self, DEEPEST, Found, Go, LONGEST_PATH, Reach, WalkError, open_file, open_root, walk};
use crate::homes::sweep::disk_usage;
use crate::runner::limits::show_size;
use crate::runner::{AttemptKey, Collected};

/// Name of the list in the directory of what is kept.
const MANIFEST: &str = "manifest";
/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// How often a file is read that changes meanwhile.
const READS: u32 = 3;
/// Entries that are named in a report; the others are counted.
const NAMED: usize = 8;

/// How much an attempt may hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactLimits {
    /// Files.
    pub files: usize,
    /// Entries of any kind.
    pub entries: usize,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Default for ArtifactLimits {
    fn default() -> Self {
        Self { files: 10_000, entries: 20_000, file_bytes: 1 << 30, bytes: 4 << 30 }
    }
}

/// What was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gathered {
    /// The files; `None` when there is none.
    pub files: Option<Collected>,
    /// What was left out, for people; empty when nothing was.
    pub left_out: String,
}

/// Why nothing was taken over.
#[derive(Debug, Error)]
pub enum CollectError {
    /// More than an attempt may hand over.
    #[error("it handed over too much beneath out/: {0}")]
    TooMuch(String),
    /// Something still writes.
    #[error("the file {0} changed whenever it was read: something of the attempt still writes it")]
    Changing(String),
    /// Too much is kept already.
    #[error(
        "the files beneath out/ cannot be kept: {0} of others wait on this agent for the coordinator to store them"
    )]
    NoRoom(String),
    /// The disk.
    #[error("the files beneath out/ cannot be kept")]
    Io(#[from] io::Error),
}

/// Copies the files beneath `out` into `keep`, a directory that is made anew. Blocks as long as that takes. When it
/// fails nothing is kept.
///
/// # Errors
/// See [`CollectError`].
pub fn collect(out: &Path, keep: &Path, limits: ArtifactLimits) -> Result<Gathered, CollectError> {
    clear(keep)?;
    let root = match open_root(out) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Gathered::default()),
        Err(error) => return Err(error.into()),
    };
    let mut survey = Survey { limits, ..Survey::default() };
    walk(&root, survey.reach(), &mut |found| survey.see(found)).map_err(|error| too_much(error, limits))?;
    if survey.files == 0 {
        return Ok(Gathered { files: None, left_out: survey.left_out() });
    }
    DirBuilder::new().recursive(true).mode(0o700).create(keep)?;
    let gathered = gather(root, keep, limits);
    if gathered.is_err() {
        // The reason it failed counts, not that of the tidying up; a restart does it again.
        let _ = clear(keep);
    }
    gathered
}

/// Removes what is kept in `keep`, which may be nothing.
///
/// # Errors
/// When it cannot be removed.
pub fn clear(keep: &Path) -> io::Result<()> {
    match fs::remove_dir_all(keep) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where the files of attempts are kept until they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept(PathBuf);

impl Kept {
    /// Keeps them beneath `dir`.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Those of one attempt.
    #[must_use]
    pub fn of(&self, key: AttemptKey) -> PathBuf {
        self.0.join(format!("{}-{}-{}", key.run, key.task, key.attempt))
    }

    /// Bytes of disk that all of them take. Blocks as long as the look takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        disk_usage(&self.0)
    }

    /// The directories of attempts.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Removes everything but what belongs to `needed`. Blocks as long as that takes.
    pub fn sweep(&self, needed: &[AttemptKey]) {
        let needed: Vec<PathBuf> = needed.iter().map(|key| self.of(*key)).collect();
        for path in self.dirs() {
            if !needed.contains(&path)
                && let Err(error) = fs::remove_dir_all(&path)
            {
                tracing::warn!(path = %path.display(), %error, "files that are not needed any more cannot be removed");
            }
        }
    }
}

/// The manifest in `keep` and the files it lists.
///
/// # Errors
/// When it is not there or damaged.
pub fn kept(keep: &Path) -> io::Result<v1::Manifest> {
    v1::Manifest::decode(fs::read(keep.join(MANIFEST))?.as_slice()).map_err(io::Error::other)
}

/// The file with these bytes in `keep`.
#[must_use]
pub fn kept_file(keep: &Path, digest: &[u8]) -> PathBuf {
    keep.join(hex::encode(digest))
}

/// What the first walk sees.
#[derive(Debug, Default)]
struct Survey {
    limits: ArtifactLimits,
    files: usize,
    bytes: u64,
    named: Vec<String>,
    others: usize,
}

impl Survey {
    fn reach(&self) -> Reach {
        // The last part of a path is its file's.
        Reach { entries: self.limits.entries, depth: DEEPEST - 1 }
    }

    fn see(&mut self, found: &Found<'_>) -> Result<Go, CollectError> {
        match takes(found) {
            Err(why) => {
                self.leave_out(found.path, why);
                return Ok(Go::Past);
            }
            Ok(None) => return Ok(Go::On),
            Ok(Some(path)) if path.len() > LONGEST_PATH => {
                return Err(CollectError::TooMuch(format!(
                    "the path of a file is longer than {LONGEST_PATH} bytes"
                )));
            }
            Ok(Some(_)) => {}
        }
        self.files += 1;
        if self.files > self.limits.files {
            return Err(CollectError::TooMuch(format!("more than {} files", self.limits.files)));
        }
        let size = length(found.stat);
        if size > self.limits.file_bytes {
            let (name, most) = (shown(found.path), show_size(self.limits.file_bytes));
            let message = format!("{name} has {}; a file may have {most}", show_size(size));
            return Err(CollectError::TooMuch(message));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            let most = show_size(self.limits.bytes);
            return Err(CollectError::TooMuch(format!("its files together have more than {most}")));
        }
        Ok(Go::On)
    }

    fn leave_out(&mut self, path: &OsStr, why: &str) {
        if self.named.len() < NAMED {
            self.named.push(format!("{} ({why})", shown(path)));
        } else {
            self.others += 1;
        }
    }

    fn left_out(&self) -> String {
        if self.named.is_empty() {
            return String::new();
        }
        let more = if self.others > 0 { format!(" and {} more", self.others) } else { String::new() };
        format!("left out of what it handed over: {}{more}", self.named.join(", "))
    }
}

/// The path of a file that is taken, `None` for a directory that is looked into, or why it is left out.
fn takes<'a>(found: &Found<'a>) -> Result<Option<&'a str>, &'static str> {
    let named = |path: &'a OsStr| {
        let path = path.to_str().ok_or("its name is not UTF-8")?;
        if path.chars().any(char::is_control) { Err("its name holds control characters") } else { Ok(path) }
    };
    match beneath::kind(found.stat) {
        FileType::Directory if found.closed => Err("a directory that cannot be opened"),
        FileType::Directory => named(found.path).map(|_| None),
        FileType::RegularFile => named(found.path).map(Some),
        FileType::Symlink => Err("a link"),
        FileType::Fifo => Err("a pipe"),
        FileType::Socket => Err("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => Err("a device"),
    }
}

fn gather(root: impl AsFd, keep: &Path, limits: ArtifactLimits) -> Result<Gathered, CollectError> {
    // What has changed since the first walk counts as it is now.
    let mut survey = Survey { limits, ..Survey::default() };
    let (mut manifest, mut bytes) = (v1::Manifest::default(), 0_u64);
    let mut take = |found: &Found<'_>| -> Result<Go, CollectError> {
        let go = survey.see(found)?;
        let Ok(Some(path)) = takes(found) else { return Ok(go) };
        let Some(mut one) = copy(found, keep, limits.file_bytes)? else {
            survey.leave_out(found.path, "cannot be opened");
            return Ok(go);
        };
        path.clone_into(&mut one.path);
        bytes = bytes.saturating_add(one.blob.as_ref().map_or(0, |blob| blob.size));
        manifest.artifacts.push(one);
        Ok(go)
    };
    walk(root, Survey { limits, ..Survey::default() }.reach(), &mut take)
        .map_err(|error| too_much(error, limits))?;
    if bytes > limits.bytes {
        let message = format!("its files together have more than {}", show_size(limits.bytes));
        return Err(CollectError::TooMuch(message));
    }
    // By path as a whole: a walk gives `a/b` before `a.b`.
    manifest.artifacts.sort_by(|one, other| one.path.cmp(&other.path));
    let left_out = survey.left_out();
    if manifest.artifacts.is_empty() {
        clear(keep)?;
        return Ok(Gathered { files: None, left_out });
    }
    let encoded = manifest.encode_to_vec();
    crate::failpoint::failpoint!("artifacts::before_manifest");
    private_file(&keep.join(MANIFEST))?.write_all(&encoded)?;
    crate::failpoint::failpoint!("artifacts::after_manifest");
    let count = u32::try_from(manifest.artifacts.len()).unwrap_or(u32::MAX);
    Ok(Gathered { files: Some(Collected { manifest: encoded, count, bytes }), left_out })
}

/// Copies one file aside, again where it changed meanwhile. `None`: it cannot be opened.
fn copy(found: &Found<'_>, keep: &Path, most: u64) -> Result<Option<v1::Artifact>, CollectError> {
    let part = keep.join("part");
    for _ in 0..READS {
        let Ok((mut file, before)) = open_file(found.parent, found.name) else { return Ok(None) };
        if length(&before) > most {
            return Err(CollectError::TooMuch(format!("{} grew while it was read", shown(found.path))));
        }
        let (digest, size) = copy_bytes(&mut file, &part, length(&before))?;
        let after = fstat(&file).map_err(io::Error::from)?;
        if size == length(&after) && same(&before, &after) {
            fs::rename(&part, kept_file(keep, &digest))?;
            let blob = v1::BlobRef { digest: digest.to_vec(), size, location: String::new() };
            return Ok(Some(v1::Artifact {
                path: String::new(),
                blob: Some(blob),
                executable: after.st_mode & 0o100 != 0,
            }));
        }
        fs::remove_file(&part)?;
    }
    Err(CollectError::Changing(shown(found.path)))
}

/// Copies at most one byte more than is expected.
fn copy_bytes(from: &mut File, to: &Path, expected: u64) -> io::Result<([u8; 32], u64)> {
    let mut to = private_file(to)?;
    let (mut hash, mut size) = (Sha256::new(), 0_u64);
    let mut chunk = vec![0; CHUNK];
    let mut from = from.take(expected.saturating_add(1));
    loop {
        let read = from.read(&mut chunk)?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        to.write_all(bytes)?;
        size += bytes.len() as u64;
    }
    Ok((hash.finalize().into(), size))
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Whether nobody wrote between two looks.
pub(crate) fn same(before: &Stat, after: &Stat) -> bool {
    let of =
        |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
    of(before) == of(after)
}

/// Bytes of a file.
pub(crate) fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(u64::MAX)
}

/// A path for people: no control character, and not endless.
fn shown(path: &OsStr) -> String {
    let plain: String = path.to_string_lossy().chars().take(120).flat_map(char::escape_debug).collect();
    format!("out/{plain}")
}

fn too_much(error: WalkError<CollectError>, limits: ArtifactLimits) -> CollectError {
    match error {
        WalkError::Stopped(error) => error,
        WalkError::TooMany => CollectError::TooMuch(format!("more than {} entries", limits.entries)),
        WalkError::TooDeep(path) => {
            CollectError::TooMuch(format!("{} is deeper than {DEEPEST} directories", shown(&path)))
        }
        WalkError::Io(error) => CollectError::Io(error),
    }
}

#[cfg(test)]
mod tests;
