//! The agent itself: one task that holds the attempts, keeps the session and lets nothing get lost between them.
//! Knows when things happen; how an attempt is run is a runner's, how bytes travel is the session's.
//!
//! ```text
//!             ┌────────── daemon ──────────┐
//! session ──▶ │ inbox ─▶ table ─▶ runners  │──▶ supervisors
//!         ◀── │ outbox ◀─ spool ◀─ reports │
//!             └────────────────────────────┘
//! ```

mod facts;
mod inbox;
mod left;
mod meter;
mod outbox;
mod phase;
mod start;
pub mod status;
mod stopping;
mod supply;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;

use crate::adoption::Found;
use crate::boottime::BootMillis;
use crate::credentials::Pools;
use crate::daemon::facts::FactsWatch;
use crate::daemon::meter::Meter;
use crate::daemon::outbox::Outbox;
use crate::daemon::phase::{Happened, Leave, Phase};
use crate::daemon::status::{Connection, StatusFile};
use crate::daemon::stopping::{Stopping, next_order};
use crate::daemon::table::{Finish, Table};
use crate::daemon::upkeep::Upkeep;
use crate::homes::{ConversationKey, Homes};
use crate::host::HostProbe;
use crate::limits::Broker;
use crate::runner::{AttemptKey, AttemptReport};
use crate::session::convert;
use crate::session::link::Coordinators;
use crate::session::reconnect::FullJitter;
use crate::spool::{Spool, SpoolError};
use crate::supervisor::stop::StopCause;
use orch_proto::v1;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

pub use self::start::{Identity, Offer, Runners};
pub use self::stopping::Order;
pub use self::supply::Supplies;

/// Intervals without an answer to a heartbeat after which the coordinator is taken for gone: as many as it takes the agent
/// for gone after. The connection may look well: pings are answered by whatever stands next, heartbeats by the coordinator
/// alone. Counted in heartbeats, so that an agent that was itself away hears what was said meanwhile before it leaves.
const UNANSWERED_HEARTBEATS: u32 = 3;
/// And for at least this long, for heartbeats that follow each other quickly: a busy host may be late by that much.
const SHORTEST_SILENCE: Duration = Duration::from_secs(1);
/// Unanswered heartbeats that are remembered: those of [`SHORTEST_SILENCE`] and many more at any sensible interval.
const HEARTBEATS_KEPT: usize = 256;
/// How long a stopping agent waits for its children to end and their reports to be recorded: the whole stop ladder of a
/// child that heeds nothing, and a little for the coordinator.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How often a stopping agent looks whether it is done.
const STOP_POLL: Duration = Duration::from_millis(50);
/// How long the end of the session may take after that.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// Interval until Welcome says another.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(5);
/// No heartbeats follow each other faster than this.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);
/// Limit until Welcome says another.
const FIRST_STOP_AFTER: Duration = Duration::from_secs(480);
/// Conversations that Hello names at most, the latest ones: it must fit into one message.
const CONVERSATIONS_NAMED: usize = 4_096;

/// Everything a daemon is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who it is.
    pub identity: Identity,
    /// What it offers.
    pub offer: Offer,
    /// Where the coordinator is.
    pub coordinators: Coordinators,
    /// What executes attempts.
    pub runners: Runners,
    /// Credential pools, to be told of.
    pub pools: Pools,
    /// Directories of conversations.
    pub homes: Arc<Homes>,
    /// Accepts and reports that outlive the process.
    pub spool: Box<dyn Spool>,
    /// Figures of the host.
    pub host: HostProbe,
    /// Limits and money of all attempts.
    pub limits: Broker,
    /// Where the state is announced.
    pub status: StatusFile,
    /// Seed of the reconnect policy.
    pub seed: u64,
}

/// The running daemon.
#[derive(Debug)]
pub struct Daemon {
    identity: Identity,
    offer: Offer,
    facts: FactsWatch,
    coordinators: Coordinators,
    runners: Runners,
    homes: Arc<Homes>,
    limits: Broker,
    meter: Meter,
    upkeep: Upkeep,
    status: StatusFile,
    policy: FullJitter,
    table: Table,
    outbox: Outbox,
    /// Where frames go; `None` until Welcome, so also the mark of a session that may be used.
    outbound: Option<mpsc::Sender<v1::AgentMessage>>,
    running: JoinSet<(AttemptKey, AttemptReport)>,
    /// At most one sync of the spool.
    syncs: JoinSet<std::io::Result<()>>,
    terms: Terms,
    heartbeat: Interval,
    /// Heartbeats that were not answered, with the time of each.
    heartbeats: VecDeque<(u64, BootMillis)>,
    /// When the last Hello was made: what Welcome confirms, it confirms as of then.
    hello_at: BootMillis,
    /// Whether the last coordinator asked the agent to leave, and none has welcomed it since.
    sent_away: bool,
    /// How far a stop is, once there is one.
    stopping: Option<Stopping>,
}

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The disk did not take a sync of the spool.
    #[error("cannot sync the spool")]
    Sync(#[source] std::io::Error),
}

/// What the coordinator said about itself.
#[derive(Debug, Clone)]
struct Terms {
    epoch: u64,
    cluster: Vec<u8>,
    stop_after: Duration,
    protocol: u32,
    next_heartbeat: u64,
}

impl Daemon {
    /// A daemon that holds what its spool says it holds, and that finds nothing of a former process running. Blocks for a
    /// moment, and must be called within a runtime.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self::resume(parts, Found::default())
    }

    /// The same, which goes on with what was found of a former process. Slots, claims and parts of what is shared are
    /// taken for it before anything else can start.
    #[must_use]
    pub fn resume(parts: Parts, mut former: Found) -> Self {
        let Parts { identity, offer, coordinators, runners, pools, homes, spool, host, limits, status, seed } =
            parts;
        let (table, going_on) =
            Table::new(spool, offer.slots, |key, held| left::left(key, held, &mut former, &runners, &homes));
        let (epoch, cluster) = table.coordinator();
        let supplies = runners.supplies();
        if let Some(supplies) = supplies {
            supplies.kept().sweep(&table.finished_keys());
        }
        let mut outbox = Outbox::new(supplies.map(|supplies| supplies.kept().clone()));
        let workspaces = supplies.map(|supplies| supplies.workspaces().clone()).unwrap_or_default();
        for (key, live) in left::transcripts(&homes, |key| !table.is_under_way(key)) {
            outbox.follow(key, live);
        }
        let mut running = JoinSet::new();
        for attempt in going_on {
            if let Some(live) = table.live(attempt.key) {
                outbox.follow(attempt.key, live);
            }
            running.spawn(attempt.run);
        }
        Self {
            table,
            identity,
            offer,
            facts: FactsWatch::new(pools, workspaces),
            coordinators,
            runners,
            limits,
            meter: Meter::new(host),
            upkeep: Upkeep::new(Arc::clone(&homes)),
            homes,
            status,
            policy: FullJitter::new(seed),
            outbox,
            outbound: None,
            running,
            syncs: JoinSet::new(),
            terms: Terms { epoch, cluster, stop_after: FIRST_STOP_AFTER, protocol: 1, next_heartbeat: 0 },
            heartbeat: heartbeat_every(FIRST_HEARTBEAT),
            heartbeats: VecDeque::new(),
            hello_at: BootMillis::now(),
            sent_away: false,
            stopping: None,
        }
    }

    /// Runs until `stop`, then ends its children and returns.
    ///
    /// # Errors
    /// When the spool fails: a report that cannot be kept must not be promised.
    pub async fn run(self, stop: CancellationToken) -> Result<(), DaemonError> {
        let (give, orders) = watch::channel(None);
        let pass_on = async {
            stop.cancelled().await;
            give.send_replace(Some(Order::End));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = self.run_until(orders) => ended,
            () = pass_on => Ok(()),
        }
    }

    /// Runs until it is ordered to stop, and has.
    ///
    /// # Errors
    /// See [`Self::run`].
    pub async fn run_until(mut self, mut orders: watch::Receiver<Option<Order>>) -> Result<(), DaemonError> {
        orders.mark_changed();
        // What was judged at the start is kept before it is offered.
        self.table.flush()?;
        let mut phase = self.dial();
        self.announce(Connection::Connecting);
        loop {
            if self.is_done() {
                return self.depart(phase).await;
            }
            tokio::select! {
                order = next_order(&mut orders) => self.obey(order),
                happened = phase.next() => phase = self.session_event(phase, happened),
                Some(done) = self.running.join_next(), if !self.running.is_empty() => self.attempt_done(done),
                bulk = self.outbox.next_bulk() => self.bulk_done(bulk),
                permit = room(self.outbound.clone()), if self.outbox.has_items() => self.outbox.flush(permit),
                _ = self.heartbeat.tick(), if self.outbound.is_some() => self.send_heartbeat(),
                looked = self.meter.next() => self.meter.done(looked),
                step = self.upkeep.next() => self.keep_up(step),
                () = self.limits.due(), if !self.outbox.has_items() => self.say_limits(),
                () = self.facts.changed(), if self.outbound.is_some() => {
                    let facts = self.facts.now(&self.offer.warnings, &self.offer.cli_version);
                    self.outbox.push(v1::agent_item::Item::Facts(facts));
                }
                Some(synced) = self.syncs.join_next(), if !self.syncs.is_empty() => self.sync_done(synced)?,
                () = tokio::time::sleep(STOP_POLL), if self.stopping.is_some() => {}
            }
            if let Some(why) = self.is_unheard() {
                phase = self.session_down(&phase, Leave::Lost(why.to_owned()));
            }
            self.start_waiting();
            // Before anything is said of what has just happened: the next turn of the loop is the first that sends.
            self.table.flush()?;
            self.begin_sync()?;
            self.outbox.let_go(&self.table);
        }
    }

    fn dial(&mut self) -> Phase {
        self.hello_at = BootMillis::now();
        let hello = self.hello();
        Phase::dial_now(&mut self.coordinators, hello)
    }

    fn session_event(&mut self, phase: Phase, happened: Happened) -> Phase {
        let (phase, frame) = match happened {
            Happened::TimeToDial => return self.dial(),
            Happened::Down(why) => return self.session_down(&phase, Leave::Lost(why)),
            Happened::Opened(link) => Phase::up(*link),
            Happened::Frame(frame) => (phase, frame),
        };
        let ways = if self.outbound.is_none() { phase.ways() } else { None };
        match self.take_frame(ways, frame) {
            Ok(()) => phase,
            Err(leave) => self.session_down(&phase, leave),
        }
    }

    /// The session is over; dials again after a while.
    fn session_down(&mut self, phase: &Phase, leave: Leave) -> Phase {
        match &leave {
            Leave::SentAway { why, spread } => {
                tracing::info!(why, ?spread, "the coordinator sends its agents away")
            }
            Leave::Lost(why) => tracing::warn!(why, "the session is down"),
        }
        self.announce(Connection::Connecting);
        self.outbound = None;
        self.outbox.session_down();
        self.limits.session_down();
        self.heartbeats.clear();
        self.sent_away |= matches!(leave, Leave::SentAway { .. });
        // Also what has ended and is not recorded would be given to somebody else. A coordinator that sends its agents
        // away comes back with a grace for all they hold.
        self.policy.holding = !self.sent_away && !self.table.is_empty();
        Phase::wait(&mut self.policy, phase.lived(), &leave)
    }

    /// Why the session is of no use, though the connection looks well.
    fn is_unheard(&self) -> Option<&'static str> {
        let are_many = self.heartbeats.len() > UNANSWERED_HEARTBEATS as usize;
        let silence = SHORTEST_SILENCE.max(self.heartbeat.period() * UNANSWERED_HEARTBEATS);
        let oldest = self.heartbeats.front().filter(|_| are_many);
        if oldest.is_some_and(|(_, sent)| BootMillis::now().since(*sent) >= silence) {
            return Some("the coordinator answers no heartbeat");
        }
        self.outbox.is_overflowing().then_some("the coordinator does not read what is said")
    }

    /// Announces where the agent is; while it stops it is stopping, wherever it is.
    fn announce(&self, connection: Connection) {
        self.status.write(if self.stopping.is_some() { Connection::Stopping } else { connection });
    }

    /// An attempt ended: its report is kept before it is sent.
    fn attempt_done(&mut self, done: Result<(AttemptKey, AttemptReport), JoinError>) {
        let (key, report) = match done {
            Ok(done) => done,
            // A runner that panics is a report; this is only an end of the whole runtime.
            Err(error) => return tracing::error!(%error, "a task of the agent broke off"),
        };
        let _span = key.span().entered();
        let report = convert::report(key, report);
        tracing::info!(outcome = report.outcome().word(), detail = report.detail, "attempt ended");
        let was_clearing = self.table.is_clearing();
        match self.table.finished(key, report) {
            Finish::Owed => self.outbox.report(key, &self.table),
            Finish::GivenUp if was_clearing && !self.table.is_clearing() => self.forget_former_cluster(),
            Finish::GivenUp => {
                let conversation = ConversationKey { run: key.run, task: key.task };
                if !self.table.conversations().contains(&conversation)
                    && let Err(error) = self.homes.forget(conversation)
                {
                    tracing::warn!(%error, "cannot forget a conversation of another cluster");
                }
            }
        }
    }

    /// Forgets what another cluster's attempts left, but for those that still run.
    fn forget_former_cluster(&mut self) {
        self.upkeep.forget_all(&self.table.conversations());
        if let Some(supplies) = self.runners.supplies() {
            self.upkeep.remove(supplies.discard_kept());
        }
    }

    /// Something of the bulk connection ended.
    fn bulk_done(&mut self, done: outbox::BulkDone) {
        let Some(key) = self.outbox.bulk_done(done, &self.table) else { return };
        let _span = key.span().entered();
        tracing::error!("the files of an attempt were lost before they were stored: it counts as lost");
        self.table.lose(key);
        self.outbox.report(key, &self.table);
    }

    /// Starts what was accepted and waited for a slot. Nothing begins without a session: its prompt could not be
    /// fetched, and the coordinator may be about to give it to somebody else.
    fn start_waiting(&mut self) {
        if self.outbound.is_none() || self.stopping.is_some() {
            return;
        }
        while let Some(assigned) = self.table.next_to_start() {
            let terms = start::Terms {
                stop_after: self.terms.stop_after,
                cluster: self.terms.cluster.clone(),
                bulk: self.outbox.bulk_client(),
            };
            let (handle, attempt) = self.runners.start(assigned, terms);
            self.outbox.follow(attempt.key, handle.live.clone());
            self.table.started(attempt.key, handle);
            self.running.spawn(attempt.run);
        }
    }

    fn keep_up(&mut self, step: upkeep::Step) {
        let mut in_use = self.table.conversations();
        in_use.append(&mut self.outbox.conversations());
        self.upkeep.take(step, in_use);
    }

    fn begin_sync(&mut self) -> Result<(), DaemonError> {
        if let Some(job) = self.table.begin_sync()? {
            crate::blocking::start(&mut self.syncs, move || job.run());
        }
        Ok(())
    }

    fn sync_done(&mut self, synced: Result<std::io::Result<()>, JoinError>) -> Result<(), DaemonError> {
        self.table.end_sync();
        synced
            .map_err(|error| DaemonError::Sync(std::io::Error::other(error)))?
            .map_err(DaemonError::Sync)?;
        self.begin_sync()
    }

    /// What became of credit and money, and the end of attempts that have no more of it.
    fn say_limits(&mut self) {
        let said = self.limits.say();
        for key in said.stops {
            key.span().in_scope(|| tracing::info!("the budget of an attempt is spent: it is stopped"));
            self.stop_attempt(key, StopCause::Budget);
        }
        for item in said.items {
            self.outbox.push(item);
        }
    }

    fn send_heartbeat(&mut self) {
        self.limits.heartbeat();
        let seq = self.terms.next_heartbeat;
        self.terms.next_heartbeat += 1;
        if self.heartbeats.len() == HEARTBEATS_KEPT {
            // The oldest stays: it tells since when nothing was answered.
            self.heartbeats.remove(1);
        }
        self.heartbeats.push_back((seq, BootMillis::now()));
        self.outbox.push_heartbeat(v1::Heartbeat {
            seq,
            held: self.table.listed(&self.meter),
            free_slots: self.table.free_slots(),
            host: Some(convert::host_figures(self.meter.host())),
        });
        self.meter.look(self.table.supervisors());
    }

    fn hello(&mut self) -> v1::AgentMessage {
        let conversations = self.homes.kept().unwrap_or_default();
        let latest = conversations.into_iter().rev().take(CONVERSATIONS_NAMED);
        let facts = self.facts.now(&self.offer.warnings, &self.offer.cli_version);
        let hello = v1::Hello {
            warnings: facts.warnings,
            pools: facts.pools,
            epoch_seen: self.terms.epoch,
            cluster_seen: self.terms.cluster.clone(),
            inventory: self.table.inventory(),
            conversations: latest
                .map(|kept| v1::KeptConversation { run_id: kept.run, task_index: kept.task })
                .collect(),
            ..self.identity.hello(&self.offer)
        };
        let item = v1::AgentItem { item: Some(v1::agent_item::Item::Hello(hello)) };
        v1::AgentMessage { items: vec![item] }
    }
}

/// Room for one frame; never, without a session.
async fn room(outbound: Option<mpsc::Sender<v1::AgentMessage>>) -> mpsc::OwnedPermit<v1::AgentMessage> {
    match outbound {
        Some(outbound) => match outbound.reserve_owned().await {
            Ok(permit) => permit,
            // The stream is gone; reading from it will say so.
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn heartbeat_every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period.max(SHORTEST_HEARTBEAT));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
