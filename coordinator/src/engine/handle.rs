//! The way to the engine: typed requests, and everything that may be read beside it.
//! Knows the channel and hides it; decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use orch_core::event::{Consultation, Event, Submit, Target};
use orch_core::ids::{AttemptKey, Epoch, RunId, SessionId, Token};
use orch_core::query::Answer;
use orch_core::time::{Span, Wall};
use tokio::sync::{Notify, mpsc, oneshot};

use super::heard::Notes;
use super::pool::BlockingPool;
use super::pulse::Pulse;
use super::release::Outbound;
use crate::blobs::Blobs;
use crate::clock::Ticker;
use crate::events::retention::Trim;
use crate::events::{Activities, EventLog, WatchSource};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::payloads::{Archive, Preparer, ResultReader, SpecReader, SubmitPayload};
use crate::persist::{MAX_PLANNING_BYTES, MAX_RESULT_BYTES};
use crate::store::{ClusterId, Key, Store};

/// Commands that wait for the engine. Full means that senders wait too: a session then stops reading its stream, a
/// call its client. The engine takes up to a round of them at once, so this is two rounds.
pub const INBOX: usize = 2 * super::ROUND;

/// Something for the engine to do.
pub(super) enum Command {
    /// It happened; nobody waits.
    Apply(Vec<Event>),
    /// It happened; somebody waits for the answer.
    Request { event: Box<dyn FnOnce(Token) -> Event + Send>, reply: oneshot::Sender<Answer> },
    /// A run was submitted.
    Submit { submit: Box<Submit>, payload: Box<SubmitPayload>, reply: oneshot::Sender<Answer> },
    /// Somebody looked at payloads; tasks may join a run.
    Consulted { event: Box<Event>, payload: Box<SubmitPayload> },
    /// A person answered a plan; its tasks may join the run.
    DecidePlan {
        event: Box<dyn FnOnce(Token) -> Event + Send>,
        payload: Box<SubmitPayload>,
        reply: oneshot::Sender<Answer>,
    },
    /// An agent's stream was opened.
    OpenSession { outbound: mpsc::Sender<Outbound>, reply: oneshot::Sender<SessionId> },
    /// Somebody named a run.
    Resolve { target: Target, reply: oneshot::Sender<Option<(RunId, bool)>> },
    /// What a running attempt is doing.
    Activity(AttemptActivity),
    /// Event pages have had their time.
    Trim { trim: Trim, reply: oneshot::Sender<()> },
    /// Records that no state knows have had their time.
    Forget { keys: Vec<Key>, reply: oneshot::Sender<()> },
}

/// What a running attempt is doing: shown, not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptActivity {
    /// Which.
    pub attempt: AttemptKey,
    /// For example `Bash cargo test`.
    pub now: String,
    /// Turns so far.
    pub num_turns: u32,
    /// Spent so far in millionths of a US dollar.
    pub cost_micro_usd: u64,
    /// Agent name.
    pub agent: String,
}

/// The engine has stopped; what was asked may or may not have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub struct EngineGone;

/// Why an event was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The engine has stopped.
    #[error(transparent)]
    Gone(#[from] EngineGone),
    /// The payload of a report does not fit its record; its texts belong into blobs.
    #[error("the payload of a report has {bytes} bytes, at most {MAX_RESULT_BYTES} fit its record")]
    PayloadTooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Why a submit was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The engine has stopped. The run may be there or not: ask again under the same request id.
    #[error(transparent)]
    Gone(#[from] EngineGone),
    /// Too little is free on the data disk.
    #[error("the coordinator's disk is nearly full: new runs are refused, results are still recorded")]
    DiskLow,
    /// What is kept of how the run is planned does not fit its record.
    #[error(
        "how the run is planned takes {bytes} bytes, at most {MAX_PLANNING_BYTES} fit: name fewer workers"
    )]
    PlanningTooLong {
        /// Its length.
        bytes: usize,
    },
}

/// The way to the engine. Clones are cheap and mean the same engine.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// What is read without asking the engine.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) epoch: Epoch,
    pub(super) cluster: ClusterId,
    pub(super) store: Arc<dyn Store>,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) readers: BlockingPool,
    pub(super) writers: BlockingPool,
    pub(super) specs: SpecReader,
    pub(super) archive: Archive,
    pub(super) ledger: Ledger,
    pub(super) preparer: Preparer,
    pub(super) log: Arc<EventLog>,
    pub(super) activities: Activities,
    pub(super) pulse: Pulse,
    /// Within this the engine goes round, if it is not held up.
    pub(super) round: Span,
    pub(super) heard: Notes,
    pub(super) ticker: Ticker,
    pub(super) metrics: Arc<Metrics>,
    pub(super) draining: AtomicBool,
    pub(super) disk_low: AtomicBool,
    pub(super) newest_run: Arc<AtomicU64>,
    /// There are questions that only payloads answer.
    pub(super) consult: Arc<Notify>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Apply(_) => "Apply",
            Self::Request { .. } => "Request",
            Self::Submit { .. } => "Submit",
            Self::Consulted { .. } => "Consulted",
            Self::DecidePlan { .. } => "DecidePlan",
            Self::OpenSession { .. } => "OpenSession",
            Self::Resolve { .. } => "Resolve",
            Self::Activity(_) => "Activity",
            Self::Trim { .. } => "Trim",
            Self::Forget { .. } => "Forget",
        })
    }
}

impl Handle {
    pub(super) const fn new(commands: mpsc::Sender<Command>, shared: Arc<Shared>) -> Self {
        Self { commands, shared }
    }

    /// Submits a run whose bulk is already durable. The answer comes when the run is.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, submit: Submit, payload: SubmitPayload) -> Result<Answer, SubmitError> {
        if self.shared.disk_low.load(Ordering::Relaxed) && !submit.validate_only {
            return Err(SubmitError::DiskLow);
        }
        let bytes = submit.shape.settings.len();
        if bytes > MAX_PLANNING_BYTES {
            return Err(SubmitError::PlanningTooLong { bytes });
        }
        let (submit, payload) = (Box::new(submit), Box::new(payload));
        Ok(self.ask(|reply| Command::Submit { submit, payload, reply }).await?)
    }

    /// Asks or demands something. `event` gets the token to be answered.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn request(
        &self,
        event: impl FnOnce(Token) -> Event + Send + 'static,
    ) -> Result<Answer, EngineGone> {
        let event = Box::new(event);
        self.ask(|reply| Command::Request { event, reply }).await
    }

    /// Says what happened; returns when the engine will see it, before it is durable.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn apply(&self, event: Event) -> Result<(), ApplyError> {
        self.apply_all(vec![event]).await
    }

    /// Says what happened, in order, at the cost of one.
    ///
    /// # Errors
    /// [`ApplyError`]; then none of it was taken.
    pub async fn apply_all(&self, events: Vec<Event>) -> Result<(), ApplyError> {
        events.iter().try_for_each(check_payload)?;
        self.commands.send(Command::Apply(events)).await.map_err(|_| EngineGone)?;
        Ok(())
    }

    /// Opens a session whose words go to `outbound`. When that channel is full the agent does not read, and the engine
    /// ends the session by dropping its end.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn open_session(&self, outbound: mpsc::Sender<Outbound>) -> Result<SessionId, EngineGone> {
        self.ask(|reply| Command::OpenSession { outbound, reply }).await
    }

    /// The run that somebody named, and whether it is live; one that is not is in the [`Archive`]. As of everything
    /// that was said before.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn resolve(&self, target: Target) -> Result<Option<(RunId, bool)>, EngineGone> {
        self.ask(|reply| Command::Resolve { target, reply }).await
    }

    /// Shows what an attempt is doing to whoever watches; dropped when nobody does or the engine is busy.
    pub fn publish_activity(&self, activity: AttemptActivity) {
        if self.shared.activities.wanted() {
            // Losing one is what an activity is for.
            let _ = self.commands.try_send(Command::Activity(activity));
        }
    }

    /// Stops granting and submits, for good.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn drain(&self) -> Result<(), EngineGone> {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.commands.send(Command::Apply(vec![Event::DrainStarted])).await.map_err(|_| EngineGone)
    }

    /// Deletes event pages with the next batches; returns when that is durable.
    pub(super) async fn trim(&self, trim: Trim) -> Result<(), EngineGone> {
        self.ask(|reply| Command::Trim { trim, reply }).await
    }

    /// Deletes records that no state knows with the next batches; returns when that was taken.
    pub(crate) async fn forget(&self, keys: Vec<Key>) -> Result<(), EngineGone> {
        self.ask(|reply| Command::Forget { keys, reply }).await
    }

    /// Makes checked runs ready for [`Handle::submit`].
    #[must_use]
    pub fn preparer(&self) -> Preparer {
        self.shared.preparer.clone()
    }

    /// Reads task specs.
    #[must_use]
    pub fn spec_reader(&self) -> SpecReader {
        self.shared.specs.clone()
    }

    /// Reads runs, tasks and results from the store.
    #[must_use]
    pub fn archive(&self) -> Archive {
        self.shared.archive.clone()
    }

    /// Reads what was spent.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger.clone()
    }

    /// Definitions of these workers were replaced: runs that are submitted from now on have the new ones.
    pub fn workers_changed(&self, workers: &[String]) {
        let newest = self.shared.newest_run.load(Ordering::Relaxed);
        let now = self.shared.ticker.now().wall;
        self.shared.ledger.book().definitions_changed(workers, now, newest);
    }

    /// What the wall clock says.
    #[must_use]
    pub fn wall(&self) -> Wall {
        self.shared.ticker.now().wall
    }

    /// Reads results for what comes after them.
    #[must_use]
    pub fn results(&self) -> ResultReader {
        let Shared { store, blobs, specs, readers, .. } = &*self.shared;
        ResultReader::new(Arc::clone(store), Arc::clone(blobs), specs.clone(), readers.clone())
    }

    /// Where watches start.
    #[must_use]
    pub fn watch(&self) -> WatchSource {
        WatchSource::new(Arc::clone(&self.shared.log), self.shared.activities.clone())
    }

    /// Number of the newest durable event.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.shared.log.extent().newest
    }

    /// Whether [`Handle::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Whether engine and committer made progress within [`super::LIVE_WITHIN`].
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.shared.pulse.is_live()
    }

    /// Whether the store takes new runs.
    ///
    /// # Errors
    /// In plain English, why not.
    pub fn can_store(&self) -> Result<(), String> {
        if self.shared.disk_low.load(Ordering::Relaxed) {
            Err(SubmitError::DiskLow.to_string())
        } else {
            Ok(())
        }
    }

    /// Generation of this coordinator.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// Whose data this is.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.shared.cluster
    }

    /// Everything that is counted.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) async fn send(&self, command: Command) -> Result<(), EngineGone> {
        self.commands.send(command).await.map_err(|_| EngineGone)
    }

    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| EngineGone)?;
        answer.await.map_err(|_| EngineGone)
    }
}

/// The payloads that take the place of a recorded result, wherever they come from.
pub(super) fn check_payload(event: &Event) -> Result<(), ApplyError> {
    let payload = if let Event::AttemptReported { report, .. } = event {
        &report.payload
    } else if let Event::Consulted {
        answer:
            Consultation::SendBack { payload, .. }
            | Consultation::Accept { payload: Some(payload) }
            | Consultation::Refuse { payload: Some(payload), .. },
        ..
    } = event
    {
        payload
    } else {
        return Ok(());
    };
    let bytes = payload.len();
    if bytes > MAX_RESULT_BYTES { Err(ApplyError::PayloadTooLong { bytes }) } else { Ok(()) }
}
