//! Copies files into a workspace, each whole or not at all, and exactly once: beneath the workspace's directory, through
//! handles, over no link. All targets are looked at before the first is written.
//! Knows a directory, files and a [`journal`]; refuses to know tasks beyond a name for them.
//!
//! The steps of one file, each durable before the next, so that a crash between any two is understood afterwards:
//!
//! ```text
//! journal: preparing ─▶ .orch-… written ─▶ journal: ready ─▶ renamed ─▶ journal: done
//!          remove it                       is it still there? remove it, else done
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, RenameFlags, fsync, renameat, renameat_with, unlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::artifacts::length;
use crate::beneath::{create_file, kind, look, make_dir, open_dir, open_file, open_root, parts};
use crate::runner::{PublishContent, PublishItem, Workspace};

use self::journal::{Journal, Key, State};

pub mod journal;

/// How names of files that are not finished begin. Nothing is published under such a name.
pub const UNFINISHED: &str = ".orch-";

/// Names that hold what programs execute or obey: nobody publishes there.
const OFF_LIMITS: [&str; 2] = [".git", ".claude"];

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Why a publication did not happen.
#[derive(Debug, Error)]
pub enum PublishError {
    /// It must not: what a person has to decide.
    #[error("{0}")]
    Refused(String),
    /// The workspace or the journal cannot be used.
    #[error("cannot publish {to}: {what}")]
    Io {
        /// Where to.
        to: String,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Files written now.
    pub written: usize,
    /// Files that were there already, or were written by a former attempt.
    pub already: usize,
}

/// Whose publication it is: attempts of one task are one.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The cluster.
    pub cluster: &'a [u8],
    /// Number of the run.
    pub run: u64,
    /// Index of the task.
    pub task: u32,
    /// Attempt: two agents may publish into one directory for two attempts of a task, of which one is given up.
    pub attempt: u32,
}

/// Publishes `files` into `workspace`. Blocks.
///
/// # Errors
/// See [`PublishError`]. Files before the one that failed may have been written; what is wrong with any target is told
/// before the first is.
pub fn publish(
    workspace: &Workspace,
    files: &[PublishItem],
    owner: Owner<'_>,
    journal: &Journal,
) -> Result<Published, PublishError> {
    let root = open_root(&workspace.dir).map_err(failed("", "open the workspace"))?;
    let mut todo = Vec::new();
    let mut published = Published::default();
    for file in files {
        let target = Target::of(file)?;
        let key = Key::of(owner, &workspace.name, &file.to, &target.content.digest);
        journal.settle(&key, &workspace.name, &root).map_err(failed(&file.to, "read the journal"))?;
        if journal.state(&key).map_err(failed(&file.to, "read the journal"))? == Some(State::Done)
            || target.look(&root)? == There::Equal
        {
            published.already += 1;
        } else {
            todo.push((target, key));
        }
    }
    for (target, key) in todo {
        if target.write(&root, &workspace.name, journal, (&key, owner.attempt))? {
            published.written += 1;
        } else {
            published.already += 1;
        }
    }
    Ok(published)
}

/// One file and where it goes, checked.
#[derive(Debug)]
struct Target<'a> {
    to: &'a str,
    dirs: Vec<&'a str>,
    name: &'a str,
    content: &'a PublishContent,
    replace: bool,
}

/// What stands at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Equal,
    Other,
}

impl<'a> Target<'a> {
    fn of(file: &'a PublishItem) -> Result<Self, PublishError> {
        let PublishItem { to, artifact, content, replace } = file;
        let mut dirs = parts(to).map_err(|why| {
            let to: String = to.chars().take(200).flat_map(char::escape_debug).collect();
            PublishError::Refused(format!("cannot publish as {to:?}: the path {why}"))
        })?;
        let off_limits = |part: &&str| {
            let part = part.to_ascii_lowercase();
            OFF_LIMITS.contains(&part.as_str()) || part.starts_with(UNFINISHED)
        };
        if let Some(part) = dirs.iter().find(|part| off_limits(part)) {
            let message = format!("cannot publish as {to}: nothing is published as or beneath `{part}`");
            return Err(PublishError::Refused(message));
        }
        let Some(content) = content else {
            let of = if artifact.is_empty() { String::new() } else { format!(" out/{artifact}") };
            let message =
                format!("the task handed over no file{of} to be published as {to}; have it write that file");
            return Err(PublishError::Refused(message));
        };
        let name = dirs.pop().unwrap_or_default();
        Ok(Self { to, dirs, name, content, replace: *replace })
    }

    /// What stands there, and whether it may be published.
    fn look(&self, root: &OwnedFd) -> Result<There, PublishError> {
        let Some(dir) = self.dir(root, false)? else { return Ok(There::Nothing) };
        let there = self.compare(&dir)?;
        if there == There::Other && !self.replace {
            return Err(self.exists());
        }
        Ok(there)
    }

    fn exists(&self) -> PublishError {
        PublishError::Refused(format!(
            "{} exists in the workspace with other content; publish with `replace: true` to replace it, or move it away",
            self.to
        ))
    }

    fn compare(&self, dir: &OwnedFd) -> Result<There, PublishError> {
        let name = OsStr::new(self.name);
        let Some(found) = look(dir, name).map_err(failed(self.to, "look at what is there"))? else {
            return Ok(There::Nothing);
        };
        if kind(&found) != FileType::RegularFile {
            let what = if kind(&found) == FileType::Symlink { "a link" } else { "no plain file" };
            let message =
                format!("cannot publish {}: {what} of that name is in the workspace; move it away", self.to);
            return Err(PublishError::Refused(message));
        }
        if length(&found) != self.content.size {
            return Ok(There::Other);
        }
        let equal = open_file(dir, name)
            .and_then(|(file, _)| hash(file, self.content.size))
            .map_err(failed(self.to, "read what is there"))?
            == self.content.digest;
        Ok(if equal { There::Equal } else { There::Other })
    }

    /// The directory it goes to; `None` when it is not there and must not be made.
    fn dir(&self, root: &OwnedFd, make: bool) -> Result<Option<OwnedFd>, PublishError> {
        let mut at = root.try_clone().map_err(failed(self.to, "open the workspace"))?;
        for part in &self.dirs {
            let name = OsStr::new(part);
            let next = if make {
                let next = make_dir(&at, name, 0o755);
                if next.is_ok() {
                    fsync(&at).map_err(|error| failed(self.to, "make its directory")(error.into()))?;
                }
                next
            } else {
                open_dir(&at, name)
            };
            at = match next {
                Ok(next) => next,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
                Err(error) if is_no_directory(&error) => {
                    let message = format!(
                        "cannot publish {}: `{part}` in the workspace is a link or no directory; nothing is written \
                         through it",
                        self.to
                    );
                    return Err(PublishError::Refused(message));
                }
                Err(error) => return Err(failed(self.to, "open its directory")(error)),
            };
        }
        Ok(Some(at))
    }

    /// Writes it. `false`: somebody else wrote the same meanwhile.
    fn write(
        &self,
        root: &OwnedFd,
        workspace: &str,
        journal: &Journal,
        (key, attempt): (&Key, u32),
    ) -> Result<bool, PublishError> {
        let dir = self.dir(root, true)?;
        let dir = dir.ok_or_else(|| failed(self.to, "make its directory")(io::ErrorKind::NotFound.into()))?;
        let unfinished = key.unfinished(attempt);
        let note = |state| {
            journal
                .note(key, state, (workspace, self.to), attempt)
                .map_err(failed(self.to, "write the journal"))
        };
        note(State::Preparing)?;
        self.fill(&dir, &unfinished)?;
        note(State::Ready)?;
        let renamed = if self.replace {
            renameat(&dir, &*unfinished, &dir, self.name)
        } else {
            no_replace(&dir, &unfinished, self.name)
        };
        match renamed {
            Ok(()) => {}
            Err(error) => {
                // It never was anybody's; the start of the agent would remove it as well.
                let _ = unlinkat(&dir, &*unfinished, AtFlags::empty());
                journal.forget(key).map_err(failed(self.to, "write the journal"))?;
                if error != Errno::EXIST {
                    return Err(failed(self.to, "put it in its place")(error.into()));
                }
                // Between the look and now somebody was faster.
                return match self.compare(&dir)? {
                    There::Equal => Ok(false),
                    There::Other | There::Nothing => Err(self.exists()),
                };
            }
        }
        fsync(&dir).map_err(|error| failed(self.to, "sync its directory")(error.into()))?;
        note(State::Done)?;
        Ok(true)
    }

    /// Writes the bytes under a name that nobody reads.
    fn fill(&self, dir: &OwnedFd, unfinished: &str) -> Result<(), PublishError> {
        let write = || -> io::Result<()> {
            match unlinkat(dir, unfinished, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let mut from = File::open(&self.content.file)?;
            let mut to = create_file(dir, OsStr::new(unfinished), 0o644)?;
            let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
            loop {
                let read = from.read(&mut chunk)?;
                let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
                hash.update(bytes);
                to.write_all(bytes)?;
            }
            if hash.finalize().as_slice() != self.content.digest {
                return Err(io::Error::other("the fetched bytes changed on this disk"));
            }
            to.sync_all()?;
            Ok(fsync(dir)?)
        };
        write().map_err(|error| {
            let _ = unlinkat(dir, unfinished, AtFlags::empty());
            failed(self.to, "write it")(error)
        })
    }
}

/// Renames, but over nothing. A file system that cannot promise that gets a link and loses the old name: the same.
fn no_replace(dir: impl AsFd, from: &str, to: &str) -> Result<(), Errno> {
    match renameat_with(&dir, from, &dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(&dir, from, &dir, to, AtFlags::empty())?;
            unlinkat(&dir, from, AtFlags::empty())
        }
        done => done,
    }
}

fn hash(file: File, size: u64) -> io::Result<[u8; 32]> {
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    let mut file = file.take(size.saturating_add(1));
    loop {
        let read = file.read(&mut chunk)?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
    }
    Ok(hash.finalize().into())
}

fn is_no_directory(error: &io::Error) -> bool {
    [Errno::LOOP, Errno::NOTDIR].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn failed(to: &str, what: &'static str) -> impl FnOnce(io::Error) -> PublishError {
    let to = to.to_owned();
    move |source| PublishError::Io { to, what, source }
}

/// Removes what a crash left unfinished at `to` in the workspace at `dir`, and says whether it was there.
fn remove_unfinished(root: &OwnedFd, to: &str, unfinished: &str) -> io::Result<bool> {
    let Ok(mut dirs) = parts(to) else { return Ok(false) };
    dirs.pop();
    let mut at = root.try_clone()?;
    for part in dirs {
        at = match open_dir(&at, OsStr::new(part)) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_directory(&error) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
    }
    match unlinkat(&at, unfinished, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A durable directory entry.
fn sync_dir(dir: &Path) -> io::Result<()> {
    Ok(fsync(rustix::fs::openat(
        CWD,
        dir,
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?)?)
}

#[cfg(test)]
mod tests;
