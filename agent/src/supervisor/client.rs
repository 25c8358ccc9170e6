//! The agent's side: starting a supervisor, talking to it, and learning how it ended. Knows no task; what to
//! say to a child and what its output means is for a runner.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::boottime::boot_id;
use crate::reexec::SelfExe;

use super::control::short_path;
use super::exit::ExitRecord;
use super::record::{self, RuntimeRecord};
use super::run::Announcement;
use super::segments::Channel;
use super::spec::{MARK_VARIABLE, Secrets, SuperviseSpec, spell_orders};
use super::stop::{Rung, StopCause};
use super::tree;
use super::wire::{Command, Event, WIRE_VERSION, parse, spell};

use self::forks::ForkServer;
use self::process::Process;

mod adopt;
mod forks;
pub mod leftovers;
mod process;

pub use self::adopt::{Survivor, is_attended, was_attended};

/// Errors of a supervisor, and the lock that says that it lives.
const LOG_FILE: &str = "supervisor.log";

/// A supervisor is ready within milliseconds; a host that is swapping takes seconds.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Between the last line of a supervisor and its exit lies nothing that waits.
const EXIT_LIMIT: Duration = Duration::from_secs(20);

/// How long the tree of a supervisor that is gone is hunted.
const HUNT_LIMIT: Duration = Duration::from_secs(10);

/// Starts supervisors.
#[derive(Debug, Clone)]
pub struct Launcher {
    forks: Arc<ForkServer>,
    runtime_dir: PathBuf,
    owner: PathBuf,
}

/// Why an attempt has no supervisor.
#[derive(Debug, Error)]
pub enum StartError {
    /// The attempt runs already.
    #[error("the attempt already has a supervisor with pid {pid}")]
    AlreadyRunning {
        /// Its pid.
        pid: i32,
    },
    /// Something on this host is in the way.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The supervisor said why it could not start.
    #[error("the supervisor failed: {0}")]
    Refused(String),
    /// It said nothing in time.
    #[error("the supervisor was not ready within {} s", START_LIMIT.as_secs())]
    Silent,
}

/// How a supervised attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The supervisor saw it through.
    Recorded(Box<ExitRecord>),
    /// The supervisor itself was lost; what was left of the tree was hunted by its mark.
    Lost {
        /// What is known, for people.
        detail: String,
    },
}

impl Launcher {
    /// Supervisors of the agent whose data lies in `owner`, with sockets in `runtime_dir`, which is made
    /// private.
    ///
    /// # Errors
    /// When the directory cannot be made or is not this user's.
    pub fn new(exe: SelfExe, runtime_dir: PathBuf, owner: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&runtime_dir)?;
        std::fs::set_permissions(&runtime_dir, std::fs::Permissions::from_mode(0o700))?;
        let forks = Arc::new(ForkServer::new(exe, owner.clone()));
        Ok(Self { forks, runtime_dir, owner })
    }

    /// The program that has the hidden subcommands, for this process to start.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.forks.program()
    }

    /// Directory of sockets.
    #[must_use]
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// The agent the supervisors belong to.
    #[must_use]
    pub fn owner(&self) -> &Path {
        &self.owner
    }

    /// Starts the supervisor of `spec`, connected to this agent. What it is told passes through a pipe and touches neither a disk
    /// nor a command line.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing of the attempt runs then.
    pub async fn start(&self, spec: &SuperviseSpec, secrets: &Secrets) -> Result<Supervised, StartError> {
        self.refuse_running(&spec.id)?;
        record::remove(&self.runtime_dir, &spec.id);
        let orders =
            spell_orders(spec, secrets).map_err(|source| io_error("say what is to be supervised", source))?;
        crate::failpoint::failpoint!("runner::before_start");
        let Ends { stdin, stdout, connection } = self.fork(&spec.attempt_dir).await?;
        crate::failpoint::failpoint!("runner::after_start");
        let mut process = Process::Gone;
        let told = timeout(START_LIMIT, introduce(stdin, stdout, &orders, &mut process)).await;
        let (pid, child_pid) = match told {
            Ok(Ok((pid, Announcement::Ready { child }))) => (pid, child),
            Ok(Ok((_, Announcement::Failed { error }))) => return Err(StartError::Refused(error)),
            Ok(Ok((_, Announcement::Started { .. }))) => {
                let twice = io::Error::other("it said twice that it was started");
                return Err(io_error("hear from the supervisor", twice));
            }
            Ok(Err(source)) => return Err(io_error("hear from the supervisor", source)),
            Err(_) => {
                self.give_up(&process, &spec.id).await;
                return Err(StartError::Silent);
            }
        };
        let mut supervised = Supervised {
            launcher: self.clone(),
            id: spec.id.clone(),
            attempt_dir: spec.attempt_dir.clone(),
            supervisor_pid: pid,
            child_pid,
            process,
            connection: Some(connection),
        };
        supervised.send(&Command::Hello { version: WIRE_VERSION }).await;
        Ok(supervised)
    }

    /// Refuses an id whose supervisor runs: it is that of this very attempt. Any other note is stale.
    ///
    /// # Errors
    /// [`StartError::AlreadyRunning`], or that its note cannot be read.
    pub fn refuse_running(&self, id: &str) -> Result<(), StartError> {
        let note = RuntimeRecord::read(&self.runtime_dir, id)
            .map_err(|source| io_error("look for the attempt's supervisor", source))?;
        match note.filter(|note| note.id == id && note.is_alive(&boot_id())) {
            Some(note) => Err(StartError::AlreadyRunning { pid: note.pid }),
            None => Ok(()),
        }
    }

    /// Has a supervisor made that knows nothing yet: it is told where it is told to listen, and answers there.
    async fn fork(&self, attempt_dir: &Path) -> Result<Ends, StartError> {
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(attempt_dir.join(LOG_FILE))
            .map_err(|source| io_error("open the supervisor's log", source))?;
        // Held as long as the supervisor lives, which keeps this file for its errors: a lock that is taken says so also in
        // the moment before the supervisor has left its note.
        flock(&log, FlockOperation::NonBlockingLockExclusive)
            .map_err(|source| io_error("lock the supervisor's log", source.into()))?;
        self.hand_over(log).await.map_err(|source| io_error("start the supervisor", source))
    }

    async fn hand_over(&self, log: File) -> io::Result<Ends> {
        let ((their_stdin, stdin), (stdout, their_stdout)) = (io::pipe()?, io::pipe()?);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ends = Ends {
            stdin: Sender::from_owned_fd(stdin.into())?,
            stdout: Receiver::from_owned_fd(stdout.into())?,
            connection: Connection::of(UnixStream::from_std(ours)?),
        };
        let handed = [their_stdin.as_fd(), their_stdout.as_fd(), log.as_fd(), theirs.as_fd()];
        self.forks.fork(handed).await?;
        Ok(ends)
    }

    /// To a supervisor that another agent made.
    async fn connect(&self, id: &str) -> io::Result<Connection> {
        let (_dir, path) = short_path(&self.runtime_dir, id)?;
        UnixStream::connect(path).await.map(Connection::of)
    }

    /// Ends a supervisor that does not answer, and everything below it.
    async fn give_up(&self, process: &Process, id: &str) {
        let pid = process.pid();
        let mark = format!("{MARK_VARIABLE}={id}");
        let hunt = move || {
            if let Some(pid) = pid {
                tree::kill_descendants(pid, HUNT_LIMIT, || ());
            }
        };
        // A panic there would be a bug; the kill below still ends the supervisor and with it the child.
        let _ = tokio::task::spawn_blocking(hunt).await;
        process.kill().await;
        let _ = tokio::task::spawn_blocking(move || tree::kill_marked(&mark, HUNT_LIMIT)).await;
        record::remove(&self.runtime_dir, id);
    }
}

/// This side of what a supervisor is handed.
struct Ends {
    stdin: Sender,
    stdout: Receiver,
    connection: Connection,
}

fn io_error(what: &'static str, source: io::Error) -> StartError {
    StartError::Io { what, source }
}

/// Hears who the supervisor is, which from then on is `process`, tells it what to do, and hears what came of it.
async fn introduce(
    mut stdin: Sender,
    stdout: Receiver,
    orders: &[u8],
    process: &mut Process,
) -> io::Result<(i32, Announcement)> {
    let mut words = BufReader::new(stdout).lines();
    let pid = match hear(&mut words).await? {
        Announcement::Started { pid, start_ticks } => {
            *process = Process::hold(pid, start_ticks);
            pid
        }
        said @ (Announcement::Ready { .. } | Announcement::Failed { .. }) => return Ok((0, said)),
    };
    stdin.write_all(orders).await?;
    drop(stdin);
    Ok((pid, hear(&mut words).await?))
}

async fn hear(words: &mut Lines<BufReader<Receiver>>) -> io::Result<Announcement> {
    let line = words.next_line().await?.ok_or_else(|| {
        io::Error::other("it ended without a word; see supervisor.log in the attempt's directory")
    })?;
    Ok(serde_json::from_str(&line)?)
}

/// A running supervisor and the connection to it. Dropping it stops nothing: the dead-man switch does.
#[derive(Debug)]
pub struct Supervised {
    launcher: Launcher,
    id: String,
    attempt_dir: PathBuf,
    supervisor_pid: i32,
    child_pid: i32,
    process: Process,
    /// Absent when the attempt was over before a later agent could make it.
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    reader: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Connection {
    fn of(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader).lines(), writer }
    }
}

impl Supervised {
    /// Pid of the supervisor: root of the attempt's process tree.
    #[must_use]
    pub fn supervisor_pid(&self) -> i32 {
        self.supervisor_pid
    }

    /// Pid of the child; 0 when that is not known.
    #[must_use]
    pub fn child_pid(&self) -> i32 {
        self.child_pid
    }

    /// What the supervisor says next; `None` when it says no more. Cancel safe.
    pub async fn next_event(&mut self) -> Option<Event> {
        loop {
            let line = self.connection.as_mut()?.reader.next_line().await.ok()??;
            match parse(line.as_bytes()) {
                Ok(Event::Unknown) => {}
                Ok(event) => return Some(event),
                Err(error) => tracing::warn!(supervisor = self.id, %error, "a supervisor said nonsense"),
            }
        }
    }

    /// Passes on an acknowledged renewal. Wakes a supervisor that somebody stopped: its child would write no more and pass
    /// every deadline.
    pub async fn renew(&mut self, stop_after: Duration) {
        self.process.wake();
        let stop_after_ms = u64::try_from(stop_after.as_millis()).unwrap_or(u64::MAX);
        self.send(&Command::Renew { stop_after_ms }).await;
    }

    /// Says a line to the child.
    pub async fn say(&mut self, line: String) {
        self.send(&Command::Stdin { line }).await;
    }

    /// Closes the child's input.
    pub async fn close_input(&mut self) {
        self.send(&Command::CloseStdin).await;
    }

    /// Says that a segment is kept elsewhere. The supervisor deletes it unless it is still being written.
    pub async fn acknowledge(&mut self, channel: Channel, segment: u64) {
        self.send(&Command::Ack { channel, segment }).await;
    }

    /// Asks for the end, also of a supervisor that somebody stopped.
    pub async fn stop(&mut self, cause: StopCause, from: Rung) {
        self.process.wake();
        self.send(&Command::Stop { cause, from }).await;
    }

    /// Sends a command. One that cannot be sent any more is dropped: the supervisor has ended or will end the
    /// attempt by itself, and [`Self::finish`] tells how.
    async fn send(&mut self, command: &Command) {
        let Some(connection) = &mut self.connection else { return };
        if let Err(error) = connection.writer.write_all(&spell(command)).await {
            tracing::debug!(supervisor = self.id, %error, "a command did not reach its supervisor");
        }
    }

    /// Waits for the supervisor's exit and reads its record. To be called after [`Self::next_event`] has
    /// answered `None`, or a supervisor that has more to say will be ended.
    pub async fn finish(self) -> End {
        let was_gone = matches!(self.process, Process::Gone);
        let in_time = timeout(EXIT_LIMIT, self.process.wait()).await.is_ok();
        if !in_time {
            self.launcher.give_up(&self.process, &self.id).await;
        }
        match ExitRecord::read(&self.attempt_dir) {
            Ok(Some(record)) => End::Recorded(Box::new(record)),
            Ok(None) => {
                self.launcher.give_up(&self.process, &self.id).await;
                let how = match (was_gone, in_time) {
                    (true, _) => "it ended while the agent was away",
                    (false, true) => "it ended without leaving word",
                    (false, false) => "it did not answer",
                };
                End::Lost { detail: format!("the supervisor was lost: {how}") }
            }
            Err(error) => End::Lost { detail: format!("the exit record cannot be read: {error}") },
        }
    }
}
