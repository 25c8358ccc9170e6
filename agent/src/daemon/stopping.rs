//! How an agent stops: running, then draining or ending, then stopped, and never backwards. Knows orders and limits;
//! refuses to know signals and settings.
//!
//! | Order | What runs | What waits | The coordinator hears |
//! |---|---|---|---|
//! | leave | goes on under its supervisors | is begun by the next process of the agent | nothing: the agent comes back |
//! | drain | is finished, within a limit; then as below | is given back | that it takes nothing more |
//! | end | is ended | is reported as lost, which counts as no crash | the same |

use super::{Daemon, DaemonError, FAREWELL_LIMIT, STOP_LIMIT};
use crate::daemon::phase::Phase;
use crate::daemon::status::Connection;
use crate::session::convert;
use crate::supervisor::stop::StopCause;
use orch_proto::v1;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The first protocol in which an attempt that was accepted can be given back.
const GIVES_BACK: u32 = 2;

/// An order to stop, in ascending severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Go at once; whatever runs goes on under its supervisor until the agent is back, or its dead-man switch bites.
    Leave,
    /// Finish what runs, within this time.
    Drain {
        /// How long; what runs then is ended.
        within: Duration,
    },
    /// End what runs.
    End,
}

/// How far a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    /// The agent goes at once.
    Leaving,
    /// What runs is finished until then.
    Draining(Instant),
    /// What runs is being ended; given up then.
    Ending(Instant),
}

/// The next order; never, once nobody can give one.
pub(super) async fn next_order(orders: &mut watch::Receiver<Option<Order>>) -> Order {
    loop {
        if orders.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let order = *orders.borrow_and_update();
        if let Some(order) = order {
            return order;
        }
    }
}

impl Daemon {
    /// Carries an order out. One that would be a step back changes nothing.
    pub(super) fn obey(&mut self, order: Order) {
        match (order, self.stopping) {
            (Order::Leave, None) => {
                tracing::info!("leaving: what runs goes on until the agent is back");
                self.stopping = Some(Stopping::Leaving);
            }
            (Order::Drain { within }, None) => self.begin_drain(within),
            (Order::End, None | Some(Stopping::Draining(_))) => self.begin_end(),
            (Order::Leave | Order::Drain { .. }, Some(_))
            | (Order::End, Some(Stopping::Leaving | Stopping::Ending(_))) => {}
        }
    }

    fn begin_drain(&mut self, within: Duration) {
        tracing::info!(?within, "draining: what runs is finished, and nothing more is taken");
        self.stopping = Some(Stopping::Draining(Instant::now() + within));
        self.announce(Connection::Stopping);
        self.outbox.push(v1::agent_item::Item::Draining(v1::Draining {}));
        for key in self.table.waiting_keys() {
            // An older coordinator, or none, hears of it as lost, which counts as no crash of an agent that leaves.
            if self.outbound.is_some() && self.terms.protocol >= GIVES_BACK && self.table.give_back(key) {
                self.reject(Some(convert::attempt_id(key)), "the agent is draining".to_owned());
            } else if self.table.stop(key, StopCause::AgentStopping) {
                self.outbox.report(key, &self.table);
            }
        }
    }

    fn begin_end(&mut self) {
        tracing::info!("stopping: children are ended and their reports sent");
        let was_draining = self.stopping.is_some();
        self.stopping = Some(Stopping::Ending(Instant::now() + STOP_LIMIT));
        self.announce(Connection::Stopping);
        if !was_draining {
            self.outbox.push(v1::agent_item::Item::Draining(v1::Draining {}));
        }
        for key in self.table.stop_all(StopCause::AgentStopping) {
            self.outbox.report(key, &self.table);
        }
    }

    /// Whether nothing is left to be done, or no time for it. What was not recorded is kept for the next start.
    pub(super) fn is_done(&mut self) -> bool {
        let late = match self.stopping {
            None => return false,
            Some(Stopping::Leaving) => return true,
            Some(Stopping::Draining(until)) if Instant::now() >= until => {
                tracing::warn!("what runs was not finished in time");
                self.begin_end();
                false
            }
            Some(Stopping::Draining(_)) => false,
            Some(Stopping::Ending(give_up)) => Instant::now() >= give_up,
        };
        let silent = self.table.is_empty() && !self.outbox.has_items() && !self.outbox.has_transcripts();
        late || (self.running.is_empty() && (silent || self.outbound.is_none()))
    }

    /// Goes: what is known is kept, and the session is closed in order.
    ///
    /// # Errors
    /// When the spool fails.
    pub(super) async fn depart(mut self, phase: Phase) -> Result<(), DaemonError> {
        if self.stopping == Some(Stopping::Leaving) {
            // What has ended by now has: a publication would be made once more.
            while let Some(done) = self.running.try_join_next() {
                self.attempt_done(done);
            }
            // From here on nobody in this process starts or reports anything.
            self.running.shutdown().await;
            self.table.put_back();
            self.table.flush()?;
            self.sync_all().await?;
        }
        self.outbound = None;
        phase.close(FAREWELL_LIMIT).await;
        self.status.write(Connection::Stopped);
        Ok(())
    }

    /// Waits until the disk has all of the spool.
    async fn sync_all(&mut self) -> Result<(), DaemonError> {
        while let Some(synced) = self.syncs.join_next().await {
            self.sync_done(synced)?;
        }
        let mut last = JoinSet::new();
        if let Some(job) = self.table.begin_sync()? {
            crate::blocking::start(&mut last, move || job.run());
        }
        while let Some(synced) = last.join_next().await {
            self.table.end_sync();
            synced
                .map_err(|error| DaemonError::Sync(std::io::Error::other(error)))?
                .map_err(DaemonError::Sync)?;
        }
        Ok(())
    }
}
