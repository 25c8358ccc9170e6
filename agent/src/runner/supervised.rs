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
use crate::supervisor::client::{End, Launcher, StartError, Supervised, Survivor};
use crate::supervisor::segments::{self, Channel};
use crate::supervisor::spec::{Limits, Secrets, SuperviseSpec};
use crate::supervisor::stop::{Rung, StopCause};
use crate::supervisor::wire::{Event, Status};

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
    /// Bytes of its standard output.
    pub stdout_len: u64,
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
    let place = (spec.attempt_dir.clone(), spec.limits.segment_bytes);
    Ok(Follower::new(supervised, place, seat, watcher).see_through(None, link).await)
}

/// Goes on with a child that a former process of the agent started, to its end. Its output is read from the beginning, so
/// that `watcher` knows what it would know; what was said to the child before is not said again.
pub async fn adopt(
    launcher: &Launcher,
    survivor: &Survivor,
    segment_bytes: u64,
    seat: Seat,
    link: &mut AttemptLink,
    watcher: &mut dyn Watcher,
) -> Ended {
    let (supervised, status) = launcher.adopt(survivor).await;
    let place = (survivor.attempt_dir.clone(), segment_bytes);
    let mut follower = Follower::new(supervised, place, seat, watcher);
    follower.read = beginning(&survivor.attempt_dir, segment_bytes).await;
    follower.see_through(status, link).await
}

/// Fills a report with what the end of the processes says.
#[must_use]
pub fn with_end(mut report: AttemptReport, ended: &Ended) -> AttemptReport {
    report.transcript_bytes = ended.stdout_len;
    match &ended.end {
        End::Recorded(record) => {
            report.exit_code = record.code;
            report.signal = record.signal;
            report.cpu = Duration::from_millis(record.cpu_ms);
            report.peak_memory_bytes = record.peak_memory_bytes;
            report.duration = Duration::from_millis(record.duration_ms);
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

impl<'a> Follower<'a> {
    fn new(
        supervised: Supervised,
        (dir, segment_bytes): (PathBuf, u64),
        seat: Seat,
        watcher: &'a mut dyn Watcher,
    ) -> Self {
        Self { dir, segment_bytes, read: 0, written: [0; 2], let_go: [0; 2], seat, supervised, watcher }
    }

    /// Follows the child to its end. `status` is that of a supervisor that is taken over.
    async fn see_through(mut self, status: Option<Status>, link: &mut AttemptLink) -> Ended {
        let is_transcript = self.watcher.is_transcript();
        let pid = self.supervised.supervisor_pid();
        link.live.send_modify(|live| {
            live.supervisor_pid = Some(pid).filter(|pid| *pid > 0);
            if is_transcript {
                live.attempt_dir = Some(self.dir.clone());
            }
        });
        link.stop.mark_changed();
        let follow = async {
            if let Some(status) = status {
                self.resume(&status, &link.live).await;
            }
            self.follow(link).await;
        };
        // Whoever understands the output reads what a model and its tools wrote. A mistake in it must not leave a child
        // that nobody watches.
        if AssertUnwindSafe(follow).catch_unwind().await.is_err() {
            return Ended { end: self.break_off().await, stderr: String::new(), stdout_len: 0 };
        }
        self.conclude(is_transcript, link).await
    }

    /// What was written between the last word and the end, and the end itself.
    async fn conclude(self, is_transcript: bool, link: &AttemptLink) -> Ended {
        let Self { dir, segment_bytes, mut read, supervised, watcher, .. } = self;
        let end = supervised.finish().await;
        let (stdout_len, stderr_len, stop) = match &end {
            End::Recorded(record) => (record.stdout_len, record.stderr_len, record.stop),
            // Nobody says how much there is, so all that is there counts.
            End::Lost { .. } => (length(&dir, segment_bytes).await, 0, None),
        };
        if is_transcript {
            let mut take = |bytes: &[u8]| drop(watcher.stdout(bytes));
            if let Some(stop) = stop {
                let before = stop.stdout_len.min(stdout_len);
                read_on(&dir, segment_bytes, &mut read, before, &mut take).await;
                watcher.stopping();
            }
            let mut take = |bytes: &[u8]| drop(watcher.stdout(bytes));
            read_on(&dir, segment_bytes, &mut read, stdout_len, &mut take).await;
            if read < stdout_len {
                // What an earlier part says may not be the last word.
                let detail = format!("{} bytes of its output cannot be read", stdout_len - read);
                return Ended { end: End::Lost { detail }, stderr: String::new(), stdout_len };
            }
            link.live.send_modify(|live| {
                watcher.describe(live);
                live.transcript_bytes = stdout_len;
            });
        }
        if stderr_len == 0 {
            return Ended { end, stderr: String::new(), stdout_len };
        }
        let tail = spawn_blocking(move || {
            segments::tail(&dir, Channel::Stderr, segment_bytes, stderr_len, STDERR_TAIL)
        });
        let stderr = String::from_utf8_lossy(&tail.await.unwrap_or_default()).into_owned();
        Ended { end, stderr, stdout_len }
    }

    /// Comes to where the former agent was, and does what that one no longer did.
    async fn resume(&mut self, status: &Status, live: &watch::Sender<Live>) {
        self.written = [status.stdout_len, status.stderr_len];
        self.seat.wrote(status.stdout_len.saturating_add(status.stderr_len));
        if !self.watcher.is_transcript() {
            return;
        }
        let mut actions = Vec::new();
        if let Some(stop) = status.stop {
            actions.extend(self.read_to(stop.stdout_len.min(status.stdout_len)).await);
            self.watcher.stopping();
        }
        actions.extend(self.read_to(status.stdout_len).await);
        // The same output asks for the same lines in the same order.
        let mut said = status.said.unwrap_or(u64::MAX);
        for action in actions {
            match action {
                Action::Say(_) if said > 0 => said -= 1,
                Action::Stop(_) if status.stop.is_some() => {}
                Action::CloseInput if status.stdin_closed => {}
                action @ (Action::Say(_) | Action::Stop(_) | Action::CloseInput) => self.act(action).await,
            }
        }
        live.send_modify(|live| self.watcher.describe(live));
    }

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
        for action in self.read_to(len).await {
            self.act(action).await;
        }
    }

    async fn read_to(&mut self, len: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        let watcher = &mut *self.watcher;
        read_on(&self.dir, self.segment_bytes, &mut self.read, len, &mut |bytes| {
            actions.extend(watcher.stdout(bytes));
        })
        .await;
        actions
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Say(line) => self.supervised.say(line).await,
            Action::CloseInput => self.supervised.close_input().await,
            Action::Stop(cause) => self.supervised.stop(cause, Rung::Interrupt).await,
        }
    }
}

/// Where what is left of a transcript begins.
async fn beginning(dir: &Path, segment_bytes: u64) -> u64 {
    measured(dir, move |dir| segments::beginning(dir, Channel::Stdout, segment_bytes)).await
}

/// How much of a transcript there is.
async fn length(dir: &Path, segment_bytes: u64) -> u64 {
    measured(dir, move |dir| segments::length(dir, Channel::Stdout, segment_bytes)).await
}

async fn measured(dir: &Path, look: impl FnOnce(&Path) -> io::Result<u64> + Send + 'static) -> u64 {
    let dir = dir.to_owned();
    let measured = spawn_blocking(move || look(&dir)).await;
    measured.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
        tracing::warn!(%error, "a transcript cannot be measured");
        0
    })
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
