//! The reading half of a session: what an agent says becomes events, in order.
//! Knows the items of a frame; decides nothing. What cannot be read ends the session with the reason.

use crate::engine::{ApplyError, AttemptActivity, Handle};
use crate::presence::{Seat, printable};
use crate::rpc::convert::attempt_key;
use crate::rpc::gone;
use crate::rpc::session::beats::Beats;
use crate::rpc::session::intake::LimitIntake;
use crate::rpc::session::{Ending, ReportIntake};
use crate::rpc::status::{from_decoder, refuse};
use orch_core::event::{Event, HeldAttempt};
use orch_core::ids::{AttemptKey, SessionId, TenantId};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::sync::Arc;
use tonic::{Status, Streaming};

/// The reading half.
#[derive(Debug)]
pub(super) struct SessionReader {
    pub(super) engine: Handle,
    pub(super) session: SessionId,
    pub(super) agent: String,
    pub(super) seat: Arc<Seat>,
    pub(super) reports: ReportIntake,
    pub(super) intake: LimitIntake,
    pub(super) tenant: TenantId,
    pub(super) beats: Beats,
}

impl SessionReader {
    /// Reads until either side ends the session. `first` is what came in one frame with the Hello.
    pub(super) async fn run(
        &mut self,
        first: Vec<v1::AgentItem>,
        inbound: &mut Streaming<v1::AgentMessage>,
        ending: &Ending,
    ) {
        let why = tokio::select! {
            why = ending.wait() => why,
            why = self.read(first, inbound) => why,
        };
        let reason = why.as_ref().map_or("the agent ended it", |status| status.message()).to_owned();
        ending.end(why);
        tracing::info!(agent = self.agent, session = self.session.0, reason, "session ended");
        // An engine that has stopped needs no news.
        let _ = self.engine.apply(Event::SessionEnded { session: self.session }).await;
    }

    /// Reads to the end; `None` when the agent ended the stream in order.
    async fn read(
        &mut self,
        first: Vec<v1::AgentItem>,
        inbound: &mut Streaming<v1::AgentMessage>,
    ) -> Option<Status> {
        let mut items = first;
        loop {
            if let Err(why) = self.take(items).await {
                return Some(why);
            }
            items = match inbound.message().await {
                Ok(Some(frame)) => frame.items,
                Ok(None) => return None,
                Err(status) => return Some(from_decoder(status)),
            };
        }
    }

    /// Turns the items of a frame into events, in order.
    async fn take(&mut self, items: Vec<v1::AgentItem>) -> Result<(), Status> {
        let mut events = Vec::with_capacity(items.len());
        for item in items {
            // An item this version does not know is a newer agent's; it is passed over.
            let Some(item) = item.item else { continue };
            events.extend(self.event(item).await?);
        }
        if events.is_empty() {
            return Ok(());
        }
        self.engine.apply_all(events).await.map_err(|error| match error {
            ApplyError::Gone(_) => gone(),
            ApplyError::PayloadTooLong { .. } => refuse(ErrorCode::TooLarge, error.to_string()),
        })
    }

    /// What the core is told of an item; nothing of what decides nothing.
    async fn event(&mut self, item: v1::agent_item::Item) -> Result<Option<Event>, Status> {
        use v1::agent_item::Item;
        let session = self.session;
        match item {
            Item::Hello(_) => Err(violation("a second Hello on one stream")),
            Item::Heartbeat(heartbeat) => Ok(self.heartbeat(heartbeat)),
            Item::Accepted(accepted) => {
                Ok(Some(Event::AttemptAccepted { session, attempt: named(accepted.attempt.as_ref())? }))
            }
            Item::Rejected(rejected) => {
                let attempt = named(rejected.attempt.as_ref())?;
                let reason = Arc::from(printable(&rejected.reason));
                Ok(Some(Event::AttemptRejected { session, attempt, reason }))
            }
            Item::Report(report) => {
                // Large, and an agent that does nothing would have room for it as long as its session lasts.
                let report = Box::pin(self.reports.take(self.tenant, report)).await?;
                Ok(Some(Event::AttemptReported { session, report: Box::new(report) }))
            }
            Item::Draining(v1::Draining {}) => Ok(Some(Event::AgentDraining { session })),
            Item::Facts(facts) => {
                self.seat.learnt(&facts);
                self.intake.facts(&facts)
            }
            Item::Limits(report) => self.intake.report(&report),
            Item::LimitSignal(signal) => {
                let event = self.intake.signal(&signal)?;
                if let Some(Event::LimitSignalled { signal, .. }) = &event {
                    self.engine.metrics().limit_signalled(signal);
                }
                Ok(event)
            }
            Item::Spending(spending) => self.intake.spending(&spending),
            Item::Warmed(warmed) => self.intake.warmed(&warmed),
        }
    }

    fn heartbeat(&mut self, mut heartbeat: v1::Heartbeat) -> Option<Event> {
        let load_millis = heartbeat.host.as_ref().map_or(0, |host| host.load_millis);
        self.seat.heard(heartbeat.host.take());
        if self.beats.answer(&heartbeat, load_millis) {
            return None;
        }
        let held = heartbeat.held.iter().filter_map(|held| {
            let attempt = attempt_key(held.attempt.as_ref())?;
            if !held.now.is_empty() {
                self.engine.publish_activity(AttemptActivity {
                    attempt,
                    now: printable(&held.now),
                    num_turns: held.num_turns,
                    cost_micro_usd: held.cost_micro_usd,
                    agent: self.agent.clone(),
                });
            }
            Some(HeldAttempt { attempt, num_turns: held.num_turns, cost_micro_usd: held.cost_micro_usd })
        });
        Some(Event::HeartbeatReceived {
            session: self.session,
            seq: heartbeat.seq,
            held: held.collect(),
            load_millis,
        })
    }
}

fn named(attempt: Option<&v1::AttemptId>) -> Result<AttemptKey, Status> {
    attempt_key(attempt).ok_or_else(|| violation("an item names no attempt"))
}

fn violation(what: &str) -> Status {
    refuse(ErrorCode::ProtocolViolation, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader takes as long as its session lasts.
    fn bytes<F>(
        _: impl FnOnce(
            &'static mut SessionReader,
            Vec<v1::AgentItem>,
            &'static mut Streaming<v1::AgentMessage>,
            &'static Ending,
        ) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_reader_that_waits_is_small() {
        let bytes = bytes(SessionReader::run);
        assert!(bytes <= 3_072, "{bytes} bytes for each of thousands of agents");
    }
}
