//! Following a run, or everything: one stream of events that survives cuts and restarts of the coordinator.
//! Knows sequence numbers; refuses to know what an event means.

use std::pin::Pin;

use orch_proto::v1::{Run, WatchRunsRequest, WatchRunsResponse, watch_event::Change};
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::{Client, policy};
use crate::failure::Outcome;
use crate::output::words::run_ended;
use crate::retry::{self, FullJitter, GaveUp};

/// What a watch yields.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Snapshot or events.
    Update(Box<WatchRunsResponse>),
    /// The connection is lost; it is tried again. Told once per outage.
    Lost(String),
    /// What was asked for is kept no longer; the watch goes on with what comes now.
    Expired(String),
}

/// A watch on one run or on everything.
pub(crate) struct Watch {
    client: Client,
    request: WatchRunsRequest,
    stream: Option<Streaming<WatchRunsResponse>>,
    /// Kept across calls of `next`: whoever drops its future must not make the call start over.
    opening: Option<Opening>,
    policy: FullJitter<rand::rngs::StdRng>,
    outage: Option<Outage>,
    /// Kept here rather than slept through at once: whoever drops the future must not shorten the wait.
    not_before: Option<Instant>,
    /// The run is terminal: the end of the stream is the end of the story.
    ended: bool,
    /// Sequence number that the open stream was asked for.
    asked: u64,
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<WatchRunsResponse>, Status>> + Send>>;

struct Outage {
    since: Instant,
    tries: u32,
}

impl Client {
    /// A bare stream of everything from now on: when this returns, nothing that follows is missed. It is not mended
    /// when it breaks.
    pub(crate) async fn events_from_now(&self) -> Outcome<Streaming<WatchRunsResponse>> {
        self.call(async || self.runs().watch_runs(WatchRunsRequest::default()).await).await
    }

    /// Watches a run until it is terminal, or with an empty reference everything for ever.
    pub(crate) fn watch(&self, run: &str, with_activity: bool) -> Watch {
        self.watch_request(WatchRunsRequest {
            r#ref: run.to_owned(),
            from_seq: 0,
            until_terminal: !run.is_empty(),
            with_activity,
        })
    }

    /// Watches everything for ever, from a sequence number on; a cut loses nothing.
    pub(crate) fn watch_all(&self, from_seq: u64) -> Watch {
        self.watch_request(WatchRunsRequest { from_seq, ..WatchRunsRequest::default() })
    }

    fn watch_request(&self, request: WatchRunsRequest) -> Watch {
        Watch {
            client: self.clone(),
            asked: request.from_seq,
            request,
            stream: None,
            opening: None,
            policy: policy(retry::CALL),
            outage: None,
            not_before: None,
            ended: false,
        }
    }
}

impl Watch {
    /// The next frame; `None` once the run is terminal and everything was told.
    ///
    /// Dropping the future between frames loses nothing.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Frame>> {
        loop {
            match self.read().await {
                Ok(Some(frame)) => {
                    self.note(&frame);
                    return Ok(Some(Frame::Update(Box::new(frame))));
                }
                Ok(None) if self.ended => return Ok(None),
                Ok(None) => {
                    if let Some(frame) =
                        self.lost(Status::unavailable("the coordinator ended the stream")).await?
                    {
                        return Ok(Some(frame));
                    }
                }
                Err(status) => {
                    if let Some(frame) = self.lost(status).await? {
                        return Ok(Some(frame));
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Option<WatchRunsResponse>, Status> {
        if let Some(moment) = self.not_before {
            tokio::time::sleep_until(moment).await;
            self.not_before = None;
        }
        if let Some(stream) = &mut self.stream {
            return stream.message().await;
        }
        self.asked = self.request.from_seq;
        let opening = self.opening.get_or_insert_with(|| {
            let (mut runs, request) = (self.client.runs(), self.request.clone());
            Box::pin(async move { Ok(runs.watch_runs(request).await?.into_inner()) })
        });
        let opened = opening.await;
        self.opening = None;
        self.stream.insert(opened?).message().await
    }

    fn note(&mut self, frame: &WatchRunsResponse) {
        if frame.next_seq > 0 {
            self.request.from_seq = frame.next_seq;
        }
        if !self.request.r#ref.is_empty() {
            // A retry makes a finished run go on: the last word counts.
            let changed = frame.events.iter().rev().find_map(|event| match &event.change {
                Some(Change::Run(run)) => Some(run.state()),
                Some(Change::Task(_) | Change::Agent(_) | Change::Activity(_) | Change::Budget(_)) | None => {
                    None
                }
            });
            let last = changed.or_else(|| frame.run.as_ref().map(Run::state));
            self.ended = last.map_or(self.ended, run_ended);
        }
        // From here on the run is known to exist, and a restart of the coordinator is worth waiting for.
        self.policy = policy(retry::FOLLOW);
        self.outage = None;
    }

    /// Waits before the next try. Says so the first time of an outage.
    async fn lost(&mut self, status: Status) -> Outcome<Option<Frame>> {
        self.stream = None;
        if status.code() == Code::OutOfRange {
            // The events are gone; of a run, the snapshot says how things stand.
            let everything = self.request.r#ref.is_empty();
            let told = self.request.from_seq > self.asked;
            if !(everything && told) {
                self.request.from_seq = 0;
            }
            return Ok(everything.then(|| Frame::Expired(status.message().to_owned())));
        }
        let first = self.outage.is_none();
        let outage = self.outage.get_or_insert_with(|| Outage { since: Instant::now(), tries: 0 });
        outage.tries += 1;
        let Some(wait) = retry::delay(&mut self.policy, &status) else {
            let gave_up = GaveUp { status, tries: outage.tries, elapsed: outage.since.elapsed() };
            return Err(self.client.gave_up(&gave_up));
        };
        self.not_before = Some(Instant::now() + wait);
        let known = self.request.from_seq > 0;
        Ok((first && known).then(|| Frame::Lost(status.message().to_owned())))
    }
}
