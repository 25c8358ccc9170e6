//! Running this very program again: a held descriptor of the executable, so that an upgrade which replaces
//! the file cannot start a supervisor of another version under a daemon of this one.
//! Knows no subcommand.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// The executable to start again.
#[derive(Debug)]
pub enum SelfExe {
    /// The file this process was started from, held open.
    Held(File),
    /// A named program; for tests, whose own executable has no hidden subcommands.
    Named(PathBuf),
}

impl SelfExe {
    /// Holds the executable of this process.
    ///
    /// # Errors
    /// When `/proc` is not mounted or may not be read.
    pub fn hold() -> io::Result<Self> {
        File::open("/proc/self/exe").map(Self::Held)
    }

    /// The path to execute. It is valid in this process and in a child of it that has not executed yet:
    /// the descriptor closes only with the `execve` that used it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Held(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            Self::Named(path) => path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_program_can_still_be_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("program");
        std::fs::copy("/bin/true", &copy).unwrap();
        let held = SelfExe::Held(File::open(&copy).unwrap());
        std::fs::remove_file(&copy).unwrap();
        let status = loop {
            match std::process::Command::new(held.path()).status() {
                // Another test that forks at this moment may still hold the copy open for writing.
                Err(busy) if busy.kind() == io::ErrorKind::ExecutableFileBusy => {}
                other => break other.unwrap(),
            }
        };
        assert!(status.success());
    }

    #[test]
    fn the_held_program_is_this_one() {
        let held = SelfExe::hold().unwrap();
        assert_eq!(std::fs::canonicalize(held.path()).unwrap(), std::env::current_exe().unwrap());
    }
}
