//! What a task is given of the tasks it depends on: files in its working directory, and a section of its prompt that
//! names them. The section is a pure function of the inputs, so that equal inputs make equal prompts.
//! Knows what was fetched; refuses to know from where.
//!
//! ```text
//! work/inputs/TASK/result.md     the whole answer
//!                 /result.json   the whole structured answer
//!                 /summary.md    the summary, where it is not in the prompt and there is no answer
//!                 /artifacts/…   the files it handed over
//!            /index.md           the whole section, where it does not fit the prompt
//! ```
//!
//! The working directory belongs to the child, which may have left anything there: every step goes through handles and
//! follows no link.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmod, openat, renameat, unlinkat};
use thiserror::Error;

use crate::beneath::{self, create_file, kind, look, make_dir, open_root};
use crate::homes::sweep::remove_tree;
use crate::runner::{Content, Input};

pub mod section;

pub use self::section::section;

/// Name of the directory in the working directory.
pub const DIRECTORY: &str = "inputs";

/// Longest id of a task, in bytes.
const LONGEST_ID: usize = 128;

/// Why inputs cannot be given.
#[derive(Debug, Error)]
pub enum InputError {
    /// An id that is no name of a directory.
    #[error("the input {0:?} has no name that can be a directory's")]
    Id(String),
    /// A path that leads elsewhere.
    #[error("the file {path:?} of the input {id} {why}")]
    Path {
        /// The task.
        id: String,
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk.
    #[error("cannot write the inputs into the working directory")]
    Io(#[from] io::Error),
}

/// Writes `inputs` into the working directory `work`, in place of what a former attempt was given. What stands there is
/// put aside into `aside`, a directory of the attempt that the child is not shown. Files are moved, not copied. Without
/// any input nothing changes. Nothing of the conversation runs. Blocks.
///
/// # Errors
/// See [`InputError`].
pub fn place(work: &Path, aside: &Path, inputs: &[Input]) -> Result<(), InputError> {
    if inputs.is_empty() {
        return Ok(());
    }
    check(inputs)?;
    let work = open_root(work)?;
    if look(&work, DIRECTORY.as_ref())?.is_some() {
        set_aside(&work, DIRECTORY.as_ref(), aside)?;
    }
    let root = new_dir(&work, DIRECTORY)?;
    let inline = section::inlined(inputs);
    for (input, inline) in inputs.iter().zip(inline) {
        place_one(&root, input, inline)?;
    }
    if let Some(index) = section::index(inputs) {
        write(&root, "index.md", index.as_bytes())?;
    }
    Ok(())
}

/// Whether ids and paths are what they must be.
///
/// # Errors
/// Names the first that is not.
pub fn check(inputs: &[Input]) -> Result<(), InputError> {
    for input in inputs {
        if !is_name(&input.id) {
            return Err(InputError::Id(input.id.chars().take(LONGEST_ID).collect()));
        }
        for file in &input.artifacts {
            beneath::parts(&file.path).map_err(|why| InputError::Path {
                id: input.id.clone(),
                path: file.path.chars().take(LONGEST_ID).collect(),
                why,
            })?;
        }
    }
    Ok(())
}

/// Whether a task's id can be the name of a directory. It begins with no dot, so it is neither `.` nor `..`.
#[must_use]
pub fn is_name(id: &str) -> bool {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'@');
    (1..=LONGEST_ID).contains(&id.len())
        && !id.starts_with(['.', '-'])
        // It would stand where the index is.
        && id != "index.md"
        && id.bytes().all(is_plain)
}

fn place_one(root: impl AsFd, input: &Input, summary_inline: bool) -> io::Result<()> {
    let dir = new_dir(root, &input.id)?;
    let contents = [("result.md", &input.answer), ("result.json", &input.structured)];
    for (name, content) in contents {
        match content {
            Some(Content::Text(text)) => write(&dir, name, text.as_bytes())?,
            Some(Content::File { file, .. }) => renameat(CWD, file, &dir, name)?,
            None => {}
        }
    }
    if section::needs_summary_file(input, summary_inline) {
        write(&dir, "summary.md", input.summary.as_bytes())?;
    }
    if input.artifacts.is_empty() {
        return Ok(());
    }
    let files = new_dir(&dir, "artifacts")?;
    for file in &input.artifacts {
        let parts = beneath::parts(&file.path).map_err(io::Error::other)?;
        let Some((name, dirs)) = parts.split_last() else { continue };
        let mut at = files.try_clone()?;
        for dir in dirs {
            at = make_dir(&at, OsStr::new(dir), 0o700)?;
        }
        if file.executable {
            fs::set_permissions(&file.file, fs::Permissions::from_mode(0o700))?;
        }
        // Its own copy: what the child does to it changes nothing of what others get.
        renameat(CWD, &file.file, &at, *name)?;
    }
    Ok(())
}

fn new_dir(parent: impl AsFd, name: &str) -> io::Result<std::os::fd::OwnedFd> {
    if look(&parent, name.as_ref())?.is_some() {
        let message = format!("two inputs have the name {name}, or something made it meanwhile");
        return Err(io::Error::other(message));
    }
    make_dir(parent, OsStr::new(name), 0o700)
}

fn write(dir: impl AsFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    create_file(dir, OsStr::new(name), 0o600)?.write_all(bytes)
}

/// Takes `name` out of `parent`, whatever it is: a directory goes through `aside`, a directory of the same file system
/// that nobody else writes, because a child can make one that is not removed where it is.
pub(crate) fn set_aside(parent: impl AsFd, name: &OsStr, aside: &Path) -> io::Result<()> {
    let Some(found) = look(&parent, name)? else { return Ok(()) };
    if kind(&found) != FileType::Directory {
        return Ok(unlinkat(&parent, name, AtFlags::empty())?);
    }
    // One that its owner may not write cannot be given another parent.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(&parent, name, flags, Mode::empty())?;
    chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)?;
    let place = tempfile::Builder::new().prefix("former-").tempdir_in(aside)?;
    let former = place.path().join("it");
    renameat(&parent, name, CWD, &former)?;
    remove_tree(&former)?;
    fs::remove_dir(place.keep())
}

#[cfg(test)]
mod tests;
