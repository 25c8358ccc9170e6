//! Heartbeats of an agent that does nothing, answered where they are read: most of what a large fleet says. Engine and
//! writer are not woken for them.
//!
//! Whatever may be news goes to the engine: anything that is listed, anything after a word that gave the agent something to
//! hold or to stop, a heartbeat that comes late, and everything while the engine does not go round.

use crate::engine::{Handle, Outbound};
use orch_core::ids::SessionId;
use orch_proto::v1;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

/// Whether the agent held nothing when the engine spoke to it last.
#[derive(Debug, Default)]
pub(super) struct Standing(AtomicBool);

impl Standing {
    /// A word to the agent, before it leaves.
    pub(super) fn said(&self, word: &Outbound) {
        match word {
            Outbound::HeartbeatAck { idle, .. } => self.0.store(*idle, Ordering::Release),
            // What it may hold beside its inventory is granted anew, which is said after this.
            Outbound::Welcome { verdicts, .. } => self.0.store(verdicts.is_empty(), Ordering::Release),
            Outbound::Grant { .. }
            | Outbound::Stop { .. }
            | Outbound::ReportVerdict { .. }
            | Outbound::Allowance { .. }
            | Outbound::Close(_) => self.0.store(false, Ordering::Release),
            Outbound::LimitGrant { .. } | Outbound::PoolNotice(_) => {}
        }
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Answers heartbeats that change nothing.
#[derive(Debug)]
pub(super) struct Beats {
    engine: Handle,
    session: SessionId,
    standing: Arc<Standing>,
    /// Whether there are frames to be sent is the writer's to say: it alone keeps the stream open.
    frames: mpsc::WeakSender<Result<v1::CoordinatorMessage, Status>>,
    interval: Duration,
    /// When the agent was heard.
    last: Instant,
}

impl Beats {
    pub(super) fn new(
        engine: Handle,
        session: SessionId,
        standing: Arc<Standing>,
        frames: mpsc::WeakSender<Result<v1::CoordinatorMessage, Status>>,
        interval: Duration,
    ) -> Self {
        Self { engine, session, standing, frames, interval, last: Instant::now() }
    }

    /// Whether a heartbeat was answered. If not, the engine is to.
    pub(super) fn answer(&mut self, beat: &v1::Heartbeat, load_millis: u32) -> bool {
        // One that comes after a silence may be awaited.
        let now = Instant::now();
        let silence = now - std::mem::replace(&mut self.last, now);
        if silence > self.interval * 2 || !beat.held.is_empty() || !self.standing.is_idle() {
            return false;
        }
        let Some(frames) = self.frames.upgrade() else { return false };
        let Ok(place) = frames.try_reserve() else { return false };
        if !self.engine.heard_idle(self.session, load_millis) {
            return false;
        }
        let ack = v1::HeartbeatAck { seq: beat.seq, unknown: Vec::new() };
        let item = v1::CoordinatorItem { item: Some(v1::coordinator_item::Item::HeartbeatAck(ack)) };
        place.send(Ok(v1::CoordinatorMessage { items: vec![item] }));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::support::Bench;
    use orch_core::effect::StopReason;
    use orch_core::ids::{AttemptKey, Epoch, RunId, TaskIndex, TaskKey};

    const INTERVAL: Duration = Duration::from_secs(5);

    fn beat(seq: u64) -> v1::Heartbeat {
        v1::Heartbeat { seq, ..v1::Heartbeat::default() }
    }

    fn ack(idle: bool) -> Outbound {
        Outbound::HeartbeatAck { seq: 1, unknown: Vec::new(), idle }
    }

    #[tokio::test]
    async fn only_what_cannot_be_news_is_answered_without_the_engine() {
        let bench = Bench::start().await;
        let standing = Arc::new(Standing::default());
        let (frames, mut sent) = mpsc::channel(1);
        let mut beats = Beats::new(
            bench.handle.clone(),
            SessionId(1),
            Arc::clone(&standing),
            frames.downgrade(),
            INTERVAL,
        );
        assert!(!beats.answer(&beat(1), 0), "nobody said yet how the agent stands");
        standing.said(&Outbound::Welcome { epoch: Epoch(1), verdicts: Vec::new() });
        assert!(beats.answer(&beat(2), 0));
        assert!(!beats.answer(&beat(3), 0), "the agent does not read: the engine is to find out");
        let answer = sent.recv().await.unwrap().unwrap();
        let expected = v1::HeartbeatAck { seq: 2, unknown: Vec::new() };
        assert_eq!(answer.items[0].item, Some(v1::coordinator_item::Item::HeartbeatAck(expected)));

        let attempt = AttemptKey::new(TaskKey { run: RunId(1), index: TaskIndex(0) }, 1);
        for word in [Outbound::Stop { attempt, reason: StopReason::Fenced }, ack(false)] {
            standing.said(&ack(true));
            assert!(beats.answer(&beat(4), 0));
            drop(sent.recv().await);
            standing.said(&word);
            assert!(!beats.answer(&beat(5), 0), "after {word:?}");
        }
        standing.said(&ack(true));
        let held = v1::HeldAttempt::default();
        assert!(!beats.answer(&v1::Heartbeat { held: vec![held], ..beat(6) }, 0), "it lists something");
        beats.last -= 3 * INTERVAL;
        assert!(!beats.answer(&beat(7), 0), "after a silence");
        assert!(beats.answer(&beat(8), 0));
        drop(frames);
        drop(sent.recv().await);
        assert!(!beats.answer(&beat(9), 0), "the writer is done");
    }
}
