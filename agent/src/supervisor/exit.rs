//! What is left of an attempt's processes: one JSON file, written when the tree is empty and never changed.
//! Knows how it ended, not whether that is good.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::stop::StopFact;

/// Name of the file in an attempt's directory.
pub const EXIT_FILE: &str = "exit.json";

/// How the processes of an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitRecord {
    /// Exit code of the child, when it exited.
    pub code: Option<i32>,
    /// Signal that ended the child, when one did.
    pub signal: Option<i32>,
    /// Why the child could not be started, when it could not.
    pub spawn_error: Option<String>,
    /// Set when the attempt was stopped.
    pub stop: Option<StopFact>,
    /// What went wrong in the supervisor itself, for people.
    pub trouble: Option<String>,
    /// From the start of the child to its end, in milliseconds, suspended time included.
    pub duration_ms: u64,
    /// CPU of the whole tree, user and system, in milliseconds.
    pub cpu_ms: u64,
    /// Largest resident memory of the whole tree in bytes, sampled.
    pub peak_memory_bytes: u64,
    /// The limit of that memory, when there was one.
    pub memory_limit_bytes: Option<u64>,
    /// Bytes of standard output.
    pub stdout_len: u64,
    /// Bytes of standard error.
    pub stderr_len: u64,
    /// Result lines seen on standard output.
    pub results: u64,
    /// Processes that were still there after the child and were killed.
    pub left_behind: u32,
    /// Processes that could not be killed.
    pub survivors: u32,
    /// Whether both pipes were read to their end.
    pub drained: bool,
}

impl ExitRecord {
    /// Writes the record into an attempt's directory: whole or not at all, and `durable` where it must outlive a power
    /// loss too.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, dir: &Path, durable: bool) -> io::Result<()> {
        let write = if durable { write_atomically } else { replace };
        write(&dir.join(EXIT_FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Reads the record of an attempt; `None` while there is none. An empty one is none: a power loss left it so.
    ///
    /// # Errors
    /// When the file cannot be read or is not such a record.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(EXIT_FILE)) {
            Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => Ok(None),
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Replaces a private file: a reader sees the old content or the new, even after a power loss.
///
/// # Errors
/// When the file or its directory cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (tmp, file) = beside(path, bytes)?;
    file.sync_all()?;
    fs::rename(&tmp, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Replaces a private file: a reader sees the old content or the new for as long as the host has power. After a power
/// loss the file may be missing, old, or empty.
///
/// # Errors
/// When the file or its directory cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (tmp, _) = beside(path, bytes)?;
    fs::rename(&tmp, path)
}

/// A file with that content beside `path`.
fn beside(path: &Path, bytes: &[u8]) -> io::Result<(PathBuf, File)> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
    file.write_all(bytes)?;
    Ok((tmp, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_missing_one_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ExitRecord::read(dir.path()).unwrap(), None);
        let record = ExitRecord { code: Some(3), drained: true, ..ExitRecord::default() };
        for durable in [true, false] {
            record.write(dir.path(), durable).unwrap();
            assert_eq!(ExitRecord::read(dir.path()).unwrap(), Some(record.clone()));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        }
    }

    #[test]
    fn what_a_power_loss_makes_of_a_record_is_none() {
        let dir = tempfile::tempdir().unwrap();
        for left in [&b""[..], &[0; 512]] {
            fs::write(dir.path().join(EXIT_FILE), left).unwrap();
            assert_eq!(ExitRecord::read(dir.path()).unwrap(), None);
        }
    }

    #[test]
    fn a_record_of_another_version_is_read_as_far_as_it_is_known() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(EXIT_FILE), br#"{"code":0,"weather":"fine"}"#).unwrap();
        assert_eq!(ExitRecord::read(dir.path()).unwrap().unwrap().code, Some(0));
        fs::write(dir.path().join(EXIT_FILE), b"{\"code\":").unwrap();
        assert!(ExitRecord::read(dir.path()).is_err());
    }
}
