//! What an agent that restarted finds of its former self: supervisors that still run. It ends them, by pid
//! and start time and never by name, and says which attempts they were.
//! Knows nothing of what becomes of those attempts.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::boottime::boot_id;

use super::super::control::short_path;
use super::super::record::{self, RuntimeRecord};
use super::super::spec::MARK_VARIABLE;
use super::super::stop::{Rung, StopCause};
use super::super::tree;
use super::super::wire::{Command, WIRE_VERSION, spell};

/// A supervisor that was found and is gone now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The attempt, for people.
    pub reference: String,
    /// Directory of the attempt.
    pub attempt_dir: PathBuf,
    /// Whether it still ran when it was found.
    pub was_running: bool,
}

/// Finds the supervisors of the agent whose data lies in `owner`. Those of other agents on the host are left
/// alone.
///
/// # Errors
/// When the directory cannot be listed.
pub fn find(runtime_dir: &Path, owner: &Path) -> io::Result<Vec<RuntimeRecord>> {
    let mut found = record::list(runtime_dir)?;
    found.retain(|note| note.owner == owner);
    Ok(found)
}

/// Ends each of them with its whole tree and takes its files from the runtime directory. Blocks: at most
/// `grace` for one that answers, and as long as its tree can be hunted for one that does not.
#[must_use]
pub fn end_all(runtime_dir: &Path, notes: Vec<RuntimeRecord>, grace: Duration) -> Vec<Leftover> {
    let boot = boot_id();
    notes
        .into_iter()
        .map(|note| {
            let was_running = note.is_alive(&boot);
            if was_running {
                end(runtime_dir, &note, grace);
            }
            if note.boot_id == boot {
                // Also what a supervisor left behind that was itself killed.
                let _ = tree::kill_marked(&format!("{MARK_VARIABLE}={}", note.id), grace);
            }
            record::remove(runtime_dir, &note.id);
            Leftover { reference: note.reference, attempt_dir: note.attempt_dir, was_running }
        })
        .collect()
}

fn end(runtime_dir: &Path, note: &RuntimeRecord, grace: Duration) {
    let held = Pid::from_raw(note.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // One that cannot be asked is not waited for: it may not listen yet, or not any more.
    let is_asked = ask(runtime_dir, &note.id).is_ok();
    let ended = held.as_ref().is_none_or(|process| {
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        let limit = if is_asked { grace } else { Duration::ZERO };
        poll(&mut fds, Timespec::try_from(limit).ok().as_ref()).is_ok_and(|ready| ready > 0)
    });
    if !ended {
        tree::kill_descendants(note.pid, grace, || ());
        // An error means that it is gone.
        let _ = tree::signal_exactly(note.pid, note.start_ticks, Signal::KILL);
    }
}

fn ask(runtime_dir: &Path, id: &str) -> io::Result<()> {
    let (_dir, path) = short_path(runtime_dir, id)?;
    let mut stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(&spell(&Command::Hello { version: WIRE_VERSION }))?;
    stream.write_all(&spell(&Command::Stop { cause: StopCause::AgentStopping, from: Rung::TreeKill }))
}
