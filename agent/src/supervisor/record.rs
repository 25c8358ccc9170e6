//! The note a supervisor leaves beside its socket, so that an agent which restarted finds it: who it is, by
//! pid and start time within one boot, and whose it is. Knows no protocol.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::gateway::talk::socket_path as gateway_path;
use crate::procfs;

use super::control::socket_path;
use super::exit::replace;

/// A running supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeRecord {
    /// Its identity; names its files and marks its processes.
    pub id: String,
    /// Its pid.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
    /// The boot these belong to.
    pub boot_id: String,
    /// Data directory of the agent that started it.
    pub owner: PathBuf,
    /// The attempt, for people.
    pub reference: String,
    /// Directory of the attempt.
    pub attempt_dir: PathBuf,
}

impl RuntimeRecord {
    /// Leaves the note. It speaks of this boot only, so it need not outlive the host's power.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, runtime_dir: &Path) -> io::Result<()> {
        replace(&path(runtime_dir, &self.id), &serde_json::to_vec(self)?)
    }

    /// The note of supervisor `id`; `None` where there is none, or something that is no note.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn read(runtime_dir: &Path, id: &str) -> io::Result<Option<Self>> {
        match fs::read(path(runtime_dir, id)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether that very process still runs.
    #[must_use]
    pub fn is_alive(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id
            && procfs::read_stat(self.pid)
                .is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_zombie())
    }
}

/// Takes a supervisor's note and sockets away.
pub fn remove(runtime_dir: &Path, id: &str) {
    // All may be gone already; a stale note is recognised by its pid and start time.
    let _ = fs::remove_file(path(runtime_dir, id));
    let _ = fs::remove_file(socket_path(runtime_dir, id));
    let _ = fs::remove_file(gateway_path(runtime_dir, id));
}

/// All notes in a directory. Files that are no notes are passed over.
///
/// # Errors
/// When the directory exists and cannot be listed.
pub fn list(runtime_dir: &Path) -> io::Result<Vec<RuntimeRecord>> {
    let entries = match fs::read_dir(runtime_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found: Vec<RuntimeRecord> = Vec::new();
    for entry in entries {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "json") {
            found.extend(fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()));
        }
    }
    found.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}

fn path(runtime_dir: &Path, id: &str) -> PathBuf {
    runtime_dir.join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, pid: i32, start_ticks: u64) -> RuntimeRecord {
        RuntimeRecord {
            id: id.to_owned(),
            pid,
            start_ticks,
            boot_id: "b".to_owned(),
            owner: PathBuf::from("/data"),
            reference: "adhoc/1/main".to_owned(),
            attempt_dir: PathBuf::from("/data/x"),
        }
    }

    #[test]
    fn notes_are_found_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(list(&dir.path().join("missing")).unwrap(), []);
        record("b2", 1, 1).write(dir.path()).unwrap();
        record("a1", 1, 1).write(dir.path()).unwrap();
        fs::write(dir.path().join("x.json"), b"{").unwrap();
        fs::write(dir.path().join("y.sock"), b"").unwrap();
        let ids: Vec<String> = list(dir.path()).unwrap().into_iter().map(|note| note.id).collect();
        assert_eq!(ids, ["a1", "b2"]);
        remove(dir.path(), "a1");
        assert_eq!(list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_process_is_known_by_pid_and_start_time_within_a_boot() {
        let me = i32::try_from(std::process::id()).unwrap();
        let start = procfs::read_stat(me).unwrap().start_ticks;
        assert!(record("a", me, start).is_alive("b"));
        assert!(!record("a", me, start + 1).is_alive("b"));
        assert!(!record("a", me, start).is_alive("another boot"));
    }
}
