//! A watch: a snapshot if wanted, then events in order, without gap or repetition, until the reader has enough.
//! Knows the event log and the wire. A slow reader reads later from the log, and one that stops reading is sent away; it
//! holds nobody up.

mod wire;

use crate::engine::Handle;
use crate::events::{ActivityReader, PageSlice, Subscription, WatchError, WatchSource};
use crate::metrics::Metrics;
use crate::rpc::lookup::Lookup;
use crate::rpc::status::{internal, refuse, refuse_until};
pub use crate::rpc::watch::wire::{Frame, WatchDoor};
use crate::rpc::{gone, stopping};
use orch_core::event::Target;
use orch_core::ids::{TaskIndex, TenantId};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, RunState, WatchEvent, WatchRunsResponse, watch_event::Change};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Tasks of a snapshot in one frame.
const SNAPSHOT_TASKS: usize = 500;
/// A reader that takes no frame for so long has its watch ended: an open one costs memory, and a place, for nothing. It
/// goes on from where it was as soon as it reads again.
const READ_LIMIT: Duration = Duration::from_secs(20);
/// When one that was ended may ask again.
const COME_BACK: Duration = Duration::from_secs(1);

/// Pages of events in one frame: some hundred kilobytes at most, well below the longest message.
const FRAME_PAGES: usize = 64;
/// Every other watch puts the next frame of one off by this, so that all of them together are sent some 5,000 a second and no
/// crowd of watchers slows what it looks at. Nothing is left out: what happens meanwhile comes in one frame, and what happens
/// after a while of silence comes at once.
const APART: Duration = Duration::from_micros(200);

/// Frames to a watcher.
pub type Frames = mpsc::Sender<Result<Frame, Status>>;

/// One watch.
#[derive(Debug)]
pub struct Watch {
    /// The engine.
    pub engine: Handle,
    /// Finds runs and tasks.
    pub lookup: Lookup,
    /// Whose events.
    pub tenant: TenantId,
    /// The run; `None` for everything.
    pub target: Option<Target>,
    /// First sequence wanted; 0 for a snapshot and what follows.
    pub from_seq: u64,
    /// End with the run, at its first end: a retry that makes it go on is for another watch.
    pub until_terminal: bool,
    /// Also show what tasks are doing.
    pub with_activity: bool,
    /// Set when the coordinator drains.
    pub draining: CancellationToken,
}

/// Why a watch is over.
enum End {
    /// The reader went away, or has all it asked for.
    Done,
    /// The reader is told.
    Tell(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Tell(status)
    }
}

/// The run that is watched, as it was found.
struct Subject {
    /// Names it, also when the caller said `@last`.
    target: Target,
    run: v1::Run,
}

/// What of the log the reader is to see.
struct Wanted {
    tenant: u32,
    run_ref: Option<String>,
    /// End with the event that ends the run.
    until_terminal: bool,
    /// End behind this sequence: the run had ended when it was the newest.
    last: Option<u64>,
}

impl Watch {
    /// Serves the watch to its end.
    pub async fn run(self, frames: Frames) {
        let _counted = Counted::open(self.engine.metrics());
        // Kept free for the last word, which a reader that is behind must find after everything else: without it, a
        // watch that was ended looks like one that came to its end.
        let Ok(last_word) = frames.clone().reserve_owned().await else { return };
        if let Err(End::Tell(status)) = self.serve(&frames).await {
            last_word.send(Err(status));
        }
    }

    async fn serve(&self, frames: &Frames) -> Result<(), End> {
        let source = self.engine.watch();
        // Before anything is looked up: what happens in between is then told rather than missed.
        let subscribed = source.subscribe(self.from_seq);
        let activities = self.with_activity.then(|| source.activities());
        let subject = self.subject().await?;
        let subscription = match subscribed {
            Ok(subscription) => subscription,
            Err(error) => return self.refuse(&error, &source, subject, frames).await,
        };
        let run = subject.as_ref().map(|subject| &subject.run);
        let ended = run.is_some_and(|run| is_terminal(run.state()));
        let wanted = Wanted {
            tenant: self.tenant.0,
            run_ref: run.map(|run| run.r#ref.clone()),
            until_terminal: self.until_terminal && run.is_some(),
            // The event that ended it is among those up to here, or was told long ago.
            last: (ended && self.until_terminal).then(|| source.newest()),
        };
        if let (Some(subject), 0) = (subject, self.from_seq) {
            self.snapshot(subject, subscription.next_seq(), frames).await?;
            if ended && self.until_terminal {
                return Ok(());
            }
        }
        self.follow(subscription, activities, &wanted, frames).await
    }

    async fn subject(&self) -> Result<Option<Subject>, Status> {
        let Some(target) = &self.target else { return Ok(None) };
        let target = self.lookup.pin(target).await?;
        let run = self.lookup.run(&target).await?;
        Ok(Some(Subject { target, run }))
    }

    /// Refuses a sequence that cannot be read. What has expired is made up for by a snapshot and the new sequence.
    async fn refuse(
        &self,
        error: &WatchError,
        source: &WatchSource,
        subject: Option<Subject>,
        frames: &Frames,
    ) -> Result<(), End> {
        if matches!(error, WatchError::Expired { .. } | WatchError::Ahead { .. }) {
            let next_seq = source.newest() + 1;
            match subject {
                Some(subject) => self.snapshot(subject, next_seq, frames).await?,
                None => send(frames, WatchRunsResponse { next_seq, ..Default::default() }).await?,
            }
        }
        Err(End::Tell(watch_status(error)))
    }

    async fn snapshot(&self, subject: Subject, next_seq: u64, frames: &Frames) -> Result<(), End> {
        let mut run = Some(subject.run);
        let mut from = Some(TaskIndex(0));
        while let Some(index) = from {
            let page = self.lookup.tasks(&subject.target, index, SNAPSHOT_TASKS, &[], false).await?;
            from = page.next;
            let frame = WatchRunsResponse {
                run: run.take(),
                tasks: page.tasks,
                next_seq,
                snapshot_complete: from.is_none(),
                events: Vec::new(),
            };
            send(frames, frame).await?;
        }
        Ok(())
    }

    async fn follow(
        &self,
        mut subscription: Subscription,
        mut activities: Option<ActivityReader>,
        wanted: &Wanted,
        frames: &Frames,
    ) -> Result<(), End> {
        while wanted.last.is_none_or(|last| subscription.next_seq() <= last) {
            let frame = tokio::select! {
                biased;
                page = subscription.next() => {
                    let page = page.map_err(|error| watch_status(&error))?;
                    wanted.of_pages(page, &mut subscription)
                }
                activity = next_activity(&mut activities) => {
                    activity.and_then(|activity| wanted.of_activity(activity, subscription.next_seq()))
                }
                () = frames.closed() => return Err(End::Done),
                () = self.draining.cancelled() => return Err(End::Tell(stopping())),
            };
            let Some((frame, ended)) = frame else { continue };
            send(frames, frame).await?;
            if wanted.until_terminal && ended {
                return Ok(());
            }
            let rest = rest(self.engine.metrics().watches());
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
        }
        Ok(())
    }
}

impl Wanted {
    fn takes(&self, event: &WatchEvent, tenant: u32) -> bool {
        tenant == self.tenant && self.run_ref.as_ref().is_none_or(|run_ref| event.run_ref == *run_ref)
    }

    /// What is wanted of a page and of those that follow it by now, and whether it ends the run.
    fn of_pages(&self, first: PageSlice, subscription: &mut Subscription) -> Option<(Frame, bool)> {
        let (mut events, mut ended) = (Vec::new(), false);
        let (mut page, mut pages) = (Some(first), 0);
        while let Some(slice) = page {
            let wanted = |event: &WatchEvent, tenant| {
                let wanted = self.takes(event, tenant);
                ended |= wanted && ends_a_run(event);
                wanted
            };
            slice.encoded(wanted, &mut events);
            pages += 1;
            // What comes after the end is for another watch.
            let enough = self.until_terminal && ended || pages >= FRAME_PAGES;
            let last = self.last.is_some_and(|last| subscription.next_seq() > last);
            page = if enough || last { None } else { subscription.more() };
        }
        let next_seq = subscription.next_seq();
        (!events.is_empty()).then_some((Frame::Events { events, next_seq }, ended))
    }

    fn of_activity(&self, (tenant, event): (u32, WatchEvent), next_seq: u64) -> Option<(Frame, bool)> {
        self.takes(&event, tenant).then(|| {
            let frame = WatchRunsResponse { events: vec![event], next_seq, ..Default::default() };
            (frame.into(), false)
        })
    }
}

async fn send(frames: &Frames, frame: impl Into<Frame>) -> Result<(), End> {
    match tokio::time::timeout(READ_LIMIT, frames.send(Ok(frame.into()))).await {
        Ok(sent) => sent.map_err(|_| End::Done),
        Err(_) => Err(End::Tell(refuse_until(
            ErrorCode::Overloaded,
            format!(
                "the watch was not read for {} s and was ended; go on from the last next_seq",
                READ_LIMIT.as_secs()
            ),
            COME_BACK,
        ))),
    }
}

/// How long a watch waits after a frame, of so many that are open.
fn rest(watches: u32) -> Duration {
    APART * watches.saturating_sub(1)
}

/// The next activity; never, without a reader.
async fn next_activity(activities: &mut Option<ActivityReader>) -> Option<(u32, WatchEvent)> {
    let Some(reader) = activities else { return std::future::pending().await };
    match reader.next().await {
        Some(activity) => Some((activity.tenant, activity.event.clone())),
        None => {
            *activities = None;
            None
        }
    }
}

/// A watch that is counted as long as it lasts.
struct Counted(Arc<Metrics>);

impl Counted {
    fn open(metrics: Arc<Metrics>) -> Self {
        metrics.watch_opened();
        Self(metrics)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.watch_closed();
    }
}

fn ends_a_run(event: &WatchEvent) -> bool {
    matches!(&event.change, Some(Change::Run(changed)) if is_terminal(changed.state()))
}

/// Whether nothing follows but a retry.
#[must_use]
pub const fn is_terminal(state: RunState) -> bool {
    matches!(state, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
}

fn watch_status(error: &WatchError) -> Status {
    match error {
        WatchError::Expired { .. } | WatchError::Ahead { .. } => {
            refuse(ErrorCode::EventsExpired, error.to_string())
        }
        WatchError::Stopped => gone(),
        WatchError::Read(_) | WatchError::Broken(_) | WatchError::Page(_) => {
            internal("cannot read the event log", error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_watchers_gets_fewer_frames_and_one_alone_every_one() {
        assert_eq!([0, 1].map(rest), [Duration::ZERO; 2]);
        assert_eq!(rest(501), Duration::from_millis(100));
    }
}
