//! Taking over a supervisor that a former process of this agent started: finding out whether it lives, connecting to it,
//! and hearing where things stand. Knows no task; what is done with the output is for a runner.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::timeout;

use super::super::record::RuntimeRecord;
use super::super::wire::{Command, Event, Status, WIRE_VERSION, is_spoken};
use super::process::Process;
use super::{LOG_FILE, Launcher, Supervised};

/// A supervisor answers within milliseconds; one that is just emptying a process tree takes as long as that is hunted.
const GREETING_LIMIT: Duration = Duration::from_secs(30);

/// A supervisor of an attempt that a former process of the agent started; or its absence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Identity of the supervisor.
    pub id: String,
    /// Directory of the attempt.
    pub attempt_dir: PathBuf,
    /// Pid and start time of one that lives; absent when it is gone.
    pub process: Option<(i32, u64)>,
}

impl Survivor {
    /// The one that left this note.
    #[must_use]
    pub fn of(note: &RuntimeRecord) -> Self {
        Self {
            id: note.id.clone(),
            attempt_dir: note.attempt_dir.clone(),
            process: Some((note.pid, note.start_ticks)),
        }
    }
}

/// Whether the attempt in this directory has a supervisor, which may be about to leave its note or about to end. Also one
/// that a former agent had just begun to start when it died.
///
/// # Errors
/// When that cannot be found out.
pub fn is_attended(attempt_dir: &Path) -> io::Result<bool> {
    let log = match File::open(attempt_dir.join(LOG_FILE)) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&log, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether a supervisor was ever started for the attempt in this directory.
#[must_use]
pub fn was_attended(attempt_dir: &Path) -> bool {
    attempt_dir.join(LOG_FILE).exists()
}

impl Launcher {
    /// Takes over a supervisor. Also gives where it stands, when it lives and says so; one that lives and does not answer,
    /// or speaks another language, is ended with everything below it.
    pub async fn adopt(&self, survivor: &Survivor) -> (Supervised, Option<Status>) {
        let process =
            survivor.process.map_or(Process::Gone, |(pid, start_ticks)| Process::hold(pid, start_ticks));
        process.wake();
        let mut supervised = Supervised {
            launcher: self.clone(),
            id: survivor.id.clone(),
            attempt_dir: survivor.attempt_dir.clone(),
            supervisor_pid: survivor.process.map(|(pid, _)| pid).unwrap_or_default(),
            child_pid: 0,
            process,
            connection: None,
        };
        if matches!(supervised.process, Process::Gone) {
            return (supervised, None);
        }
        supervised.connection = self.connect(&survivor.id).await.ok();
        let status = match timeout(GREETING_LIMIT, supervised.greet()).await {
            Ok(Ok(status)) => status,
            Ok(Err(version)) => {
                tracing::error!(
                    supervisor = survivor.id,
                    version,
                    known = WIRE_VERSION,
                    "a supervisor speaks another language and is ended"
                );
                supervised.give_up().await;
                None
            }
            Err(_) => {
                tracing::error!(supervisor = survivor.id, "a supervisor does not answer and is ended");
                supervised.give_up().await;
                None
            }
        };
        supervised.child_pid = status.as_ref().and_then(|status| status.child).unwrap_or_default();
        (supervised, status)
    }
}

impl Supervised {
    /// Hears where things stand; `None` from one that has just ended. The first status may be older than what the former
    /// agent said last, so it asks once more: commands are obeyed in order.
    ///
    /// # Errors
    /// The version of a supervisor that cannot be spoken with.
    async fn greet(&mut self) -> Result<Option<Status>, u32> {
        self.send(&Command::Hello { version: WIRE_VERSION }).await;
        let mut is_asked = false;
        while let Some(event) = self.next_event().await {
            match event {
                Event::Hello { version, .. } if !is_spoken(version) => return Err(version),
                Event::Status(status) if is_asked => return Ok(Some(status)),
                Event::Status(_) => {
                    is_asked = true;
                    self.send(&Command::Status).await;
                }
                // Its record is on the disk.
                Event::Ended(_) => return Ok(None),
                Event::Hello { .. }
                | Event::Progress { .. }
                | Event::Stopping(_)
                | Event::StdinClosed
                | Event::Unknown => {}
            }
        }
        Ok(None)
    }

    async fn give_up(&mut self) {
        self.connection = None;
        let (launcher, id) = (self.launcher.clone(), self.id.clone());
        launcher.give_up(&self.process, &id).await;
    }
}
