//! Texts that must not be shown: a wrapper without a telling Debug, and the reading of files that hold them.
//! Knows no service that takes them.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use thiserror::Error;

/// A secret text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that hands it over.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why a file with a credential cannot be used.
#[derive(Debug, Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read the credential file {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Everybody on the host can read it.
    #[error("the credential file {path} is open to everybody (mode {mode:o}): chmod 600 {path}", path = path.display())]
    WorldReadable {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another user can change it.
    #[error("the credential file {path} belongs to another user: chown {user} {path}", path = path.display())]
    NotOurs {
        /// Which file.
        path: PathBuf,
        /// Number of the agent's user.
        user: u32,
    },
    /// It is a pipe, a device or a directory.
    #[error("the credential file {} is no plain file: put the credential into one, mode 600", path.display())]
    NotPlain {
        /// Which file.
        path: PathBuf,
    },
    /// It holds too much.
    #[error("the credential file {} has more than {most} bytes", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// How much it may hold.
        most: usize,
    },
    /// It holds no key.
    #[error("the credential file {} is empty or has more than one line", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
}

/// Longest key or token, in bytes.
const LONGEST_KEY: usize = 16 * 1024;

/// Reads a file that others may not read and that belongs to this user or to root.
///
/// # Errors
/// See [`SecretError`].
pub fn read_private(path: &Path, most: usize) -> Result<Vec<u8>, SecretError> {
    let io = |source| SecretError::Io { path: path.to_owned(), source };
    // A pipe without a writer would hold up whoever opens it for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
    // Of what was opened, not of the name: nobody can change it in between.
    let found = file.metadata().map_err(io)?;
    if !found.is_file() {
        return Err(SecretError::NotPlain { path: path.to_owned() });
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(SecretError::WorldReadable { path: path.to_owned(), mode });
    }
    let user = geteuid().as_raw();
    if found.uid() != user && found.uid() != 0 {
        return Err(SecretError::NotOurs { path: path.to_owned(), user });
    }
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > most {
        return Err(SecretError::TooLong { path: path.to_owned(), most });
    }
    Ok(bytes)
}

/// Reads a key: the one line of a file that others may not read.
///
/// # Errors
/// See [`SecretError`].
pub fn read_key_file(path: &Path) -> Result<Secret, SecretError> {
    let no_key = || SecretError::NoKey { path: path.to_owned() };
    let text = String::from_utf8(read_private(path, LONGEST_KEY)?).map_err(|_| no_key())?;
    let key = text.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(no_key());
    }
    Ok(Secret::new(key))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_key_is_read_and_never_shown() {
        let (_dir, path) = file("sk-canary\n", 0o600);
        let key = read_key_file(&path).unwrap();
        assert_eq!(key.reveal(), "sk-canary");
        assert_eq!(format!("{key:?}"), "Secret");
    }

    #[test]
    fn an_open_an_empty_and_a_missing_file_are_refused() {
        let (_dir, path) = file("sk-canary", 0o644);
        let error = read_key_file(&path).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("is open to everybody (mode 644): chmod 600 {}", path.display())),
            "{error}"
        );
        let (_dir, path) = file(" \n", 0o600);
        assert!(matches!(read_key_file(&path), Err(SecretError::NoKey { .. })));
        let (_dir, path) = file("two lines\nhere\n", 0o600);
        assert!(matches!(read_key_file(&path), Err(SecretError::NoKey { .. })));
        assert!(matches!(read_key_file(Path::new("/nonexistent")), Err(SecretError::Io { .. })));
        let (_dir, path) = file(&"x".repeat(LONGEST_KEY + 1), 0o600);
        assert!(matches!(read_key_file(&path), Err(SecretError::TooLong { .. })));
    }
    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, mode) = (dir.path().join("pipe"), rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(matches!(read_key_file(&pipe), Err(SecretError::NotPlain { .. })));
        assert!(matches!(read_key_file(dir.path()), Err(SecretError::NotPlain { .. })));
    }
}
