//! Texts that must not be shown: a wrapper without a telling Debug, and the reading of key files.
//! Knows no service that takes them.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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

/// Why a key file cannot be used.
#[derive(Debug, Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read the key file {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Everybody on the host can read it.
    #[error("the key file {} is open to everybody (mode {mode:o}); chmod 600 it", path.display())]
    WorldReadable {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds no key.
    #[error("the key file {} is empty or has more than one line", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
}

/// Reads a key: the one line of a file that others may not read.
///
/// # Errors
/// See [`SecretError`].
pub fn read_key_file(path: &Path) -> Result<Secret, SecretError> {
    let io = |source| SecretError::Io { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(SecretError::WorldReadable { path: path.to_owned(), mode });
    }
    let text = fs::read_to_string(path).map_err(io)?;
    let key = text.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(SecretError::NoKey { path: path.to_owned() });
    }
    Ok(Secret::new(key))
}

#[cfg(test)]
mod tests {
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
        assert!(error.ends_with("is open to everybody (mode 644); chmod 600 it"), "{error}");
        let (_dir, path) = file(" \n", 0o600);
        assert!(matches!(read_key_file(&path), Err(SecretError::NoKey { .. })));
        let (_dir, path) = file("two lines\nhere\n", 0o600);
        assert!(matches!(read_key_file(&path), Err(SecretError::NoKey { .. })));
        assert!(matches!(read_key_file(Path::new("/nonexistent")), Err(SecretError::Io { .. })));
    }
}
