//! What the runners of processes share: starting the supervisor, following the child's output as it grows,
//! passing on renewals and stops, and waiting for the end. Knows no CLI; a [`Watcher`] understands the output.

use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::boottime::BootMillis;
use crate::supervisor::client::{End, Launcher, StartError, Supervised};
use crate::supervisor::exit::ExitRecord;
use crate::supervisor::segments::{self, Channel, SEGMENT_BYTES};
use crate::supervisor::spec::{Limits, Secrets, SuperviseSpec};
use crate::supervisor::stop::{Rung, StopCause};
use crate::supervisor::wire::Event;

use super::limits::AgentLimits;
use super::share::Seat;
use super::{AttemptKey, AttemptLimits, AttemptLink, AttemptReport, Live, Outcome};

/// Read at once while following.
const FOLLOW_BYTES: usize = 256 * 1024;

/// How much of standard error is kept for a person.
const STDERR_TAIL: u64 = 8 * 1024;

/// Something a watcher wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Say this line to the child.
    Say(String),
    /// Nothing more will be said.
    CloseInput,
    /// End the attempt.
    Stop(StopCause),
}

/// Understands a child's standard output.
pub trait Watcher: Send {
    /// Takes the next bytes and says what to do.
    fn stdout(&mut self, bytes: &[u8]) -> Vec<Action>;

    /// The attempt is being stopped.
    fn stopping(&mut self);

    /// Fills in what the child is doing.
    fn describe(&self, live: &mut Live);

    /// Whether the child's output is the attempt's transcript: followed, sent and kept. Otherwise nobody reads it while
    /// it grows, and only its end stays on the disk.
    fn is_transcript(&self) -> bool {
        true
    }
}

/// A child that ended, and the last of its standard error.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub end: End,
    /// For a person.
    pub stderr: String,
}

/// The supervisor's id for an attempt of the agent whose data lies in `owner`: the same for the same attempt,
/// so that it cannot be started twice, and another for every other agent on the host.
#[must_use]
pub fn supervisor_id(owner: &Path, key: AttemptKey) -> String {
    let mut hash = Sha256::new();
    hash.update(owner.as_os_str().as_encoded_bytes());
    hash.update([0]);
    hash.update(key.run.to_be_bytes());
    hash.update(key.task.to_be_bytes());
    hash.update(key.attempt.to_be_bytes());
    let digest = hash.finalize();
    hex::encode(digest.get(..10).unwrap_or_default())
}

/// The supervisor's limits for an attempt's and its agent's. A plain program may begin to speak when it likes, so the
/// start limit is for whoever knows what is run.
#[must_use]
pub fn limits(limits: &AttemptLimits, agent: &AgentLimits) -> Limits {
    let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Limits {
        attempt_ms: limits.timeout.map(millis),
        silence_ms: limits.silence.map(millis),
        stop_after_ms: limits.stop_after.map(millis),
        linger_ms: millis(agent.linger),
        memory_bytes: agent.memory_bytes,
        output_bytes: agent.output_bytes,
        ..Limits::default()
    }
}

/// Runs a child to its end. `seat` is its part of what all attempts may write.
///
/// # Errors
/// When no supervisor could be started; nothing runs then.
pub async fn run(
    launcher: &Launcher,
    spec: &SuperviseSpec,
    secrets: &Secrets,
    seat: Seat,
    link: &mut AttemptLink,
    watcher: &mut dyn Watcher,
) -> Result<Ended, StartError> {
    let supervised = launcher.start(spec, secrets).await?;
    let is_transcript = watcher.is_transcript();
    let mut follower = Follower {
        dir: spec.attempt_dir.clone(),
        segment_bytes: spec.limits.segment_bytes,
        read: 0,
        written: [0; 2],
        let_go: [0; 2],
        seat,
        supervised,
        watcher,
    };
    link.live.send_modify(|live| {
        live.supervisor_pid = Some(follower.supervised.supervisor_pid());
        if is_transcript {
            live.attempt_dir = Some(spec.attempt_dir.clone());
        }
    });
    link.stop.mark_changed();
    // Whoever understands the output reads what a model and its tools wrote. A mistake in it must not leave a child
    // that nobody watches.
    if AssertUnwindSafe(follower.follow(link)).catch_unwind().await.is_err() {
        return Ok(Ended { end: follower.break_off().await, stderr: String::new() });
    }
    let end = follower.supervised.finish().await;
    if let End::Recorded(record) = &end {
        let (dir, len) = (spec.attempt_dir.clone(), record.stderr_len);
        let segment_bytes = spec.limits.segment_bytes;
        if is_transcript {
            // What was written between the last word and the end.
            read_on(&dir, segment_bytes, &mut follower.read, record.stdout_len, &mut |bytes| {
                follower.watcher.stdout(bytes);
            })
            .await;
            link.live.send_modify(|live| {
                follower.watcher.describe(live);
                live.transcript_bytes = record.stdout_len;
            });
        }
        let tail =
            spawn_blocking(move || segments::tail(&dir, Channel::Stderr, segment_bytes, len, STDERR_TAIL));
        let stderr = String::from_utf8_lossy(&tail.await.unwrap_or_default()).into_owned();
        return Ok(Ended { end, stderr });
    }
    Ok(Ended { end, stderr: String::new() })
}

/// How a child ended that a former process of the agent started, by what its supervisor left in the attempt's
/// directory; its standard output is handed to `take`. `None` when there is no record of its end, or not all of the
/// output that the record speaks of.
#[must_use]
pub fn left(attempt_dir: &Path, take: impl FnMut(&[u8])) -> Option<Ended> {
    let found = ExitRecord::read(attempt_dir).and_then(|record| {
        let Some(record) = record else { return Ok(None) };
        segments::replay(attempt_dir, Channel::Stdout, SEGMENT_BYTES, record.stdout_len, take)?;
        Ok(Some(record))
    });
    let record = found.unwrap_or_else(|error| {
        tracing::warn!(dir = %attempt_dir.display(), %error, "what an attempt left cannot be read");
        None
    })?;
    let tail = segments::tail(attempt_dir, Channel::Stderr, SEGMENT_BYTES, record.stderr_len, STDERR_TAIL);
    let stderr = String::from_utf8_lossy(&tail).into_owned();
    Some(Ended { end: End::Recorded(Box::new(record)), stderr })
}

/// Fills a report with what the end of the processes says.
#[must_use]
pub fn with_end(mut report: AttemptReport, end: &End) -> AttemptReport {
    match end {
        End::Recorded(record) => {
            report.exit_code = record.code;
            report.signal = record.signal;
            report.cpu = Duration::from_millis(record.cpu_ms);
            report.peak_memory_bytes = record.peak_memory_bytes;
            report.duration = Duration::from_millis(record.duration_ms);
            report.transcript_bytes = record.stdout_len;
        }
        End::Lost { detail } => {
            report.outcome = Outcome::Crash;
            report.detail.clone_from(detail);
        }
    }
    report
}

struct Follower<'a> {
    dir: PathBuf,
    segment_bytes: u64,
    read: u64,
    /// Bytes of standard output and standard error.
    written: [u64; 2],
    /// Segments of both that are not needed any more.
    let_go: [u64; 2],
    seat: Seat,
    supervised: Supervised,
    watcher: &'a mut dyn Watcher,
}

impl Follower<'_> {
    async fn follow(&mut self, link: &mut AttemptLink) {
        loop {
            tokio::select! {
                event = self.supervised.next_event() => match event {
                    Some(event) => self.heed(event, &link.live).await,
                    None => return,
                },
                () = changed(&mut link.renewals) => {
                    let renewal = *link.renewals.borrow_and_update();
                    if let Some(renewal) = renewal {
                        let passed = BootMillis::now().since(renewal.sent);
                        self.supervised.renew(renewal.stop_after.saturating_sub(passed)).await;
                    }
                }
                () = changed(&mut link.stop) => {
                    let cause = *link.stop.borrow_and_update();
                    if let Some(cause) = cause {
                        self.watcher.stopping();
                        self.supervised.stop(cause, Rung::Interrupt).await;
                    }
                }
                // Nothing gentler: a child that floods would go on while it is asked.
                () = self.seat.over() => {
                    self.watcher.stopping();
                    self.supervised.stop(StopCause::AgentOutput, Rung::TreeKill).await;
                }
            }
        }
    }

    /// Ends the child after a mistake in this agent.
    async fn break_off(mut self) -> End {
        self.supervised.stop(StopCause::AgentStopping, Rung::TreeKill).await;
        while self.supervised.next_event().await.is_some() {}
        self.supervised.finish().await;
        End::Lost {
            detail: "the agent could not follow its output, which is a mistake in the agent".to_owned(),
        }
    }

    async fn heed(&mut self, event: Event, live: &watch::Sender<Live>) {
        self.count(&event);
        if !self.watcher.is_transcript() {
            if let Event::Progress { channel, len } = event {
                self.keep_the_end(channel, len).await;
            }
            return;
        }
        match event {
            Event::Progress { channel: Channel::Stdout, len } => self.catch_up(len).await,
            Event::Status(status) => self.catch_up(status.stdout_len).await,
            Event::Ended(record) => self.catch_up(record.stdout_len).await,
            Event::Stopping(_) => self.watcher.stopping(),
            Event::Progress { channel: Channel::Stderr, .. }
            | Event::Hello { .. }
            | Event::StdinClosed
            | Event::Unknown => return,
        }
        live.send_modify(|live| self.watcher.describe(live));
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Progress { channel: Channel::Stdout, len } => self.written[0] = *len,
            Event::Progress { channel: Channel::Stderr, len } => self.written[1] = *len,
            Event::Hello { .. }
            | Event::Status(_)
            | Event::Stopping(_)
            | Event::StdinClosed
            | Event::Ended(_)
            | Event::Unknown => return,
        }
        self.seat.wrote(self.written[0].saturating_add(self.written[1]));
    }

    /// Lets go of all segments but the last two, so that the end is there whole wherever it falls.
    async fn keep_the_end(&mut self, channel: Channel, len: u64) {
        let at = match channel {
            Channel::Stdout => 0,
            Channel::Stderr => 1,
        };
        let whole = len / self.segment_bytes.max(1);
        while self.let_go[at] + 1 < whole {
            self.supervised.acknowledge(channel, self.let_go[at]).await;
            self.let_go[at] += 1;
        }
    }

    async fn catch_up(&mut self, len: u64) {
        let mut actions = Vec::new();
        let watcher = &mut *self.watcher;
        read_on(&self.dir, self.segment_bytes, &mut self.read, len, &mut |bytes| {
            actions.extend(watcher.stdout(bytes));
        })
        .await;
        for action in actions {
            match action {
                Action::Say(line) => self.supervised.say(line).await,
                Action::CloseInput => self.supervised.close_input().await,
                Action::Stop(cause) => self.supervised.stop(cause, Rung::Interrupt).await,
            }
        }
    }
}

/// Reads a stream on from `read` to `len`. What cannot be read is logged and left: the judge then sees less.
async fn read_on(
    dir: &Path,
    segment_bytes: u64,
    read: &mut u64,
    len: u64,
    take: &mut (dyn FnMut(&[u8]) + Send),
) {
    while *read < len {
        let (dir, offset) = (dir.to_owned(), *read);
        let piece = spawn_blocking(move || {
            let mut buffer = vec![0; FOLLOW_BYTES];
            let filled = segments::read_at(&dir, Channel::Stdout, segment_bytes, offset, &mut buffer)?;
            buffer.truncate(filled);
            io::Result::Ok(buffer)
        });
        match piece.await.map_err(io::Error::other).flatten() {
            Ok(bytes) if !bytes.is_empty() => {
                *read += bytes.len() as u64;
                take(&bytes);
            }
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "a transcript cannot be followed");
                return;
            }
        }
    }
}

/// Waits for a new value; for ever once nobody can send one.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_for_the_same_attempt_of_the_same_agent_only() {
        let key = AttemptKey { run: 7, task: 1, attempt: 2 };
        let id = supervisor_id(Path::new("/data"), key);
        assert!(crate::supervisor::spec::is_id(&id));
        assert_eq!(id, supervisor_id(Path::new("/data"), key));
        assert_ne!(id, supervisor_id(Path::new("/data2"), key));
        assert_ne!(id, supervisor_id(Path::new("/data"), AttemptKey { attempt: 3, ..key }));
    }
}
