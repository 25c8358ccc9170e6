//! Agents that this program plays: real sessions over mTLS, each with a certificate of its own from the authority of the
//! installation, without a host behind them. Some do nothing; one takes tasks that do nothing and reports them at a pace.
//!
//! Knows the agent protocol as far as such agents need it. They are forgotten again when a measurement is over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream;
use orch_certs::dial::Connector;
use orch_certs::{Ca, ClientTls, Role, TlsFiles};
use orch_proto::v1::agent_service_client::AgentServiceClient;
use orch_proto::v1::{
    self, AgentItem, AgentMessage, AttemptId, CoordinatorMessage, HeldState, InventoryItem, Verdict,
    agent_item, coordinator_item,
};
use orch_proto::{PROTOCOL_MAX, PROTOCOL_MIN};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::{Bench, Progress};
use crate::authority::{ca_failure, ensure_leaf};
use crate::client;
use crate::exit;
use crate::failure::{Failure, Outcome};

/// What played agents offer, and tasks ask for that no other agent is to take.
pub(super) const CAPABILITY: &str = "bench";
/// Frames on their way to the coordinator: more than an agent says between two looks of the connection.
const FRAMES: usize = 64;
/// Longest wait for the first frame of a session.
const WELCOME_LIMIT: Duration = Duration::from_secs(60);
/// How often the paced agent reports.
const STEP: Duration = Duration::from_millis(10);
/// Agents that are forgotten together.
const TOGETHER: usize = 16;
/// How long an agent that left may take to be away.
const AWAY_LIMIT: Duration = Duration::from_secs(10);

/// Where certificates of agents come from.
pub(super) struct Authority {
    ca: Ca,
    tenant: String,
    endpoint: String,
    /// Certificates of the agents, and their keys; gone when this is.
    dir: tempfile::TempDir,
    /// In the names of the agents, so that two measurements do not meet.
    tag: String,
}

impl Authority {
    /// The authority in `--certs`, else beside the certificates of the context.
    pub(super) fn open(bench: &Bench<'_>) -> Outcome<Self> {
        let context = bench.session.context()?;
        let beside = context.tls.ca.parent().map(Path::to_path_buf);
        let Some(from) = bench.args.certs.clone().or(beside) else {
            return Err(no_authority("--certs names none"));
        };
        let ca = Ca::open(&from).map_err(|error| {
            no_authority(&from.display().to_string()).and_help(ca_failure(&error).message().to_owned())
        })?;
        let tls = client::tls(&context, SystemTime::now())?;
        let dir = tempfile::tempdir().map_err(|error| {
            Failure::new(exit::FAILED, "cannot make a directory for certificates").cause(error)
        })?;
        let tag = format!("{:08x}", rand::random::<u32>());
        Ok(Self { ca, tenant: tls.identity().tenant().to_owned(), endpoint: context.endpoint, dir, tag })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What a capability is called that only agents of this measurement offer.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// An agent that may join: its certificate is made, nobody was dialled.
    pub(super) fn agent(&self, number: u32) -> Outcome<Seat> {
        let name = format!("bench-{}-{number}", self.tag);
        let dir: PathBuf = self.dir.path().join(number.to_string());
        let (_, files) =
            ensure_leaf(&self.ca, &dir, Role::Agent, &self.tenant, &name, &[], SystemTime::now())?;
        Ok(Seat { name, files, endpoint: self.endpoint.clone(), incarnation: rand::random() })
    }
}

fn no_authority(place: &str) -> Failure {
    let why = format!("agents need certificates, and {place} holds no authority that could make them");
    Failure::new(exit::FAILED, why).help(
        "--certs DIR names the directory that orchctl init made; orchctl dev keeps one beside its context",
    )
}

/// A name and a certificate.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) name: String,
    files: TlsFiles,
    endpoint: String,
    /// One process of this agent, however often it dials.
    incarnation: [u8; 16],
}

/// What an agent offers.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer {
    pub(super) slots: u32,
    pub(super) runners: Vec<String>,
    pub(super) capabilities: Vec<String>,
}

/// A session that was welcomed.
pub(super) struct Played {
    /// From before the dial until the coordinator's first word.
    pub(super) welcome: Duration,
    frames: mpsc::Sender<AgentMessage>,
    answers: Streaming<CoordinatorMessage>,
    heartbeat: Duration,
    seat: Seat,
    offer: Offer,
    desk: Desk,
    /// Welcome, and whatever came with it.
    first: Vec<coordinator_item::Item>,
}

/// An agent whose session is over, with what it holds.
pub(super) struct Left {
    /// It was told to leave, and did not lose its session.
    pub(super) told: bool,
    seat: Seat,
    offer: Offer,
    desk: Desk,
}

impl Left {
    /// Whether it holds attempts.
    pub(super) fn holds(&self) -> bool {
        !self.desk.held.is_empty()
    }

    /// Dials again, as the same process, and says what it holds.
    pub(super) async fn join_again(&self) -> Outcome<Played> {
        self.seat.clone().enter(self.offer.clone(), self.desk.clone()).await
    }
}

impl Seat {
    /// Dials, says Hello and waits to be welcomed.
    pub(super) async fn join(self, offer: Offer) -> Outcome<Played> {
        self.enter(offer, Desk::default()).await
    }

    async fn enter(self, offer: Offer, desk: Desk) -> Outcome<Played> {
        let Self { name, files, endpoint, .. } = self.clone();
        let tls = ClientTls::load(files, SystemTime::now()).map_err(|error| cannot_join(&name, &error))?;
        let endpoint = Endpoint::from_shared(endpoint).map_err(|error| cannot_join(&name, &error))?;
        let (frames, outbound) = mpsc::channel(FRAMES);
        let hello = v1::Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            agent: name.clone(),
            incarnation: self.incarnation.to_vec(),
            epoch_seen: desk.epoch,
            cluster_seen: desk.cluster.clone(),
            inventory: desk.inventory(),
            slots: offer.slots,
            capabilities: offer.capabilities.clone(),
            runners: offer.runners.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..v1::Hello::default()
        };
        drop(frames.try_send(frame(vec![agent_item::Item::Hello(hello)])));
        let start = Instant::now();
        let opened = tokio::time::timeout(WELCOME_LIMIT, open(name.clone(), endpoint, tls, outbound));
        let silent = |_| Failure::new(exit::TIMED_OUT, format!("agent {name} was not welcomed in time"));
        let (answers, first) = opened.await.map_err(silent)??;
        let first: Vec<_> =
            first.into_iter().flat_map(|message| message.items).filter_map(|item| item.item).collect();
        let Some(coordinator_item::Item::Welcome(welcome)) = first.first() else {
            return Err(Failure::new(exit::FAILED, format!("agent {name} was not welcomed")));
        };
        let heartbeat = welcome.heartbeat_interval.and_then(|interval| interval.try_into().ok());
        Ok(Played {
            welcome: start.elapsed(),
            frames,
            answers,
            heartbeat: heartbeat.unwrap_or(Duration::from_secs(5)),
            seat: self,
            offer,
            desk,
            first,
        })
    }
}

/// Opens a session and waits for its first frame.
async fn open(
    name: String,
    endpoint: Endpoint,
    tls: ClientTls,
    outbound: mpsc::Receiver<AgentMessage>,
) -> Outcome<(Streaming<CoordinatorMessage>, Option<CoordinatorMessage>)> {
    let channel = endpoint.connect_with_connector(Connector::new(Arc::new(tls))).await;
    let channel = channel.map_err(|error| cannot_join(&name, &error))?;
    let outbound = stream::unfold(outbound, |mut from| async move { Some((from.recv().await?, from)) });
    let answers = AgentServiceClient::new(channel).session(outbound.boxed()).await;
    let mut answers = answers.map_err(|status| Failure::from_status(&status))?.into_inner();
    let first = answers.message().await.map_err(|status| Failure::from_status(&status))?;
    Ok((answers, first))
}

fn cannot_join(name: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(exit::UNREACHABLE, format!("agent {name} cannot join")).chain(error)
}

/// Has everybody join, so many at a time.
pub(super) async fn join_all(
    seats: Vec<Seat>,
    offer: &Offer,
    at_once: u32,
    progress: &mut Progress<'_>,
) -> Outcome<Vec<Played>> {
    let count = seats.len();
    let joining = seats.into_iter().map(|seat| seat.join(offer.clone()));
    let mut joining = stream::iter(joining).buffer_unordered(at_once as usize);
    let mut agents = Vec::new();
    while let Some(joined) = joining.next().await {
        agents.push(joined?);
        progress.tell(|| format!("{} of {count} agents joined", agents.len()));
    }
    Ok(agents)
}

/// How fast a paced agent reports; 0 lets tasks wait.
pub(super) type Pace = watch::Receiver<u32>;

impl Played {
    /// Keeps the session until it is told to stop, sending heartbeats and reporting what it is given at its pace.
    pub(super) async fn hold(mut self, pace: Pace, mut stop: watch::Receiver<bool>) -> Left {
        let mut desk = std::mem::take(&mut self.desk);
        let told = self.serve(&mut desk, pace, &mut stop).await;
        Left { told, seat: self.seat, offer: self.offer, desk }
    }

    /// Whether it ended because it was told to.
    async fn serve(&mut self, desk: &mut Desk, mut pace: Pace, stop: &mut watch::Receiver<bool>) -> bool {
        let said: Vec<_> =
            std::mem::take(&mut self.first).into_iter().filter_map(|item| desk.take(item)).collect();
        if !said.is_empty() && self.frames.send(frame(said)).await.is_err() {
            return false;
        }
        // Spread, as those of agents are that did not join at once.
        let first = Instant::now() + self.heartbeat.mul_f64(rand::random::<f64>());
        let mut beat = tokio::time::interval_at(first, self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = tokio::time::interval(STEP);
        step.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut since = Instant::now();
        loop {
            let working = !desk.held.is_empty() && *pace.borrow() > 0;
            tokio::select! {
                () = told_to_stop(stop) => return true,
                // Or it would begin to work with its next heartbeat.
                Ok(()) = pace.changed() => since = Instant::now(),
                _ = beat.tick() => {
                    let beat = desk.beat(self.offer.slots);
                    if self.frames.send(frame(vec![beat])).await.is_err() { return false; }
                }
                _ = step.tick(), if working => {
                    let due = desk.due(*pace.borrow(), since.elapsed());
                    since = Instant::now();
                    if !due.is_empty() && self.frames.send(frame(due)).await.is_err() { return false; }
                }
                message = self.answers.message() => {
                    let Ok(Some(message)) = message else { return false };
                    if desk.held.is_empty() { since = Instant::now(); }
                    let said: Vec<_> =
                        message.items.into_iter().filter_map(|item| desk.take(item.item?)).collect();
                    if !said.is_empty() && self.frames.send(frame(said)).await.is_err() { return false; }
                }
            }
        }
    }
}

/// Returns when it is told, or nobody is left to tell.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// What an agent holds.
#[derive(Clone, Default)]
struct Desk {
    /// Of the coordinator that was heard last.
    epoch: u64,
    cluster: Vec<u8>,
    held: std::collections::VecDeque<AttemptId>,
    beats: u64,
    /// Part of a task that is due already.
    owed: f64,
}

impl Desk {
    /// Takes a word of the coordinator, and says what is to be answered.
    fn take(&mut self, item: coordinator_item::Item) -> Option<agent_item::Item> {
        match item {
            coordinator_item::Item::Assign(assignment) => {
                self.held.extend(assignment.attempt);
                Some(agent_item::Item::Accepted(v1::Accepted { attempt: assignment.attempt }))
            }
            coordinator_item::Item::Stop(stop) => {
                self.held.retain(|held| Some(*held) != stop.attempt);
                let reason = "the measurement is over".to_owned();
                Some(agent_item::Item::Rejected(v1::Rejected { attempt: stop.attempt, reason }))
            }
            coordinator_item::Item::Welcome(welcome) => {
                (self.epoch, self.cluster) = (welcome.epoch, welcome.cluster_id);
                for verdict in welcome.verdicts.iter().filter(|verdict| verdict.verdict() == Verdict::Cancel)
                {
                    self.held.retain(|held| Some(*held) != verdict.attempt);
                }
                None
            }
            coordinator_item::Item::HeartbeatAck(ack) => {
                self.held.retain(|held| !ack.unknown.contains(held));
                None
            }
            coordinator_item::Item::ReportVerdict(_)
            | coordinator_item::Item::GoAway(_)
            | coordinator_item::Item::LimitGrant(_)
            | coordinator_item::Item::PoolNotice(_)
            | coordinator_item::Item::Allowance(_) => None,
        }
    }

    /// What it holds, as Hello says it.
    fn inventory(&self) -> Vec<InventoryItem> {
        let item =
            |held: &AttemptId| InventoryItem { attempt: Some(*held), state: HeldState::Running.into() };
        self.held.iter().map(item).collect()
    }

    fn beat(&mut self, slots: u32) -> agent_item::Item {
        self.beats += 1;
        let held = self
            .held
            .iter()
            .map(|attempt| v1::HeldAttempt { attempt: Some(*attempt), ..v1::HeldAttempt::default() });
        let used = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        agent_item::Item::Heartbeat(v1::Heartbeat {
            seq: self.beats,
            held: held.collect(),
            free_slots: slots.saturating_sub(used),
            host: None,
        })
    }

    /// Reports of what is done after `passed` at so many a second.
    fn due(&mut self, pace: u32, passed: Duration) -> Vec<agent_item::Item> {
        self.owed += f64::from(pace) * passed.as_secs_f64();
        let mut due = Vec::new();
        while self.owed >= 1.0 {
            let Some(attempt) = self.held.pop_front() else {
                // An agent that had nothing to do does not work faster afterwards.
                self.owed = 0.0;
                break;
            };
            self.owed -= 1.0;
            due.push(agent_item::Item::Report(v1::Report {
                attempt: Some(attempt),
                outcome: v1::Outcome::Ok.into(),
                digest: vec![1; 32],
                ..v1::Report::default()
            }));
        }
        due
    }
}

fn frame(items: Vec<agent_item::Item>) -> AgentMessage {
    AgentMessage { items: items.into_iter().map(|item| AgentItem { item: Some(item) }).collect() }
}

/// Has the coordinator forget agents that left. Returns how many it still knows.
pub(super) async fn forget(bench: &Bench<'_>, names: Vec<String>) -> usize {
    let forgotten = stream::iter(names).map(|name| async move {
        let deadline = Instant::now() + AWAY_LIMIT;
        loop {
            match bench.client.forget(&name).await {
                Ok(()) => return true,
                Err(failure) if failure.exit_code() == exit::NOT_FOUND => return true,
                Err(_) if Instant::now() < deadline => tokio::time::sleep(STEP * 10).await,
                Err(_) => return false,
            }
        }
    });
    forgotten.buffer_unordered(TOGETHER).filter(|gone| std::future::ready(!gone)).count().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_dials_again_says_what_it_holds_and_drops_what_it_is_told_to() {
        let mut desk = Desk::default();
        for number in 1..=3 {
            desk.take(assigned(number));
        }
        assert_eq!(desk.inventory().len(), 3);
        let cancelled =
            v1::InventoryVerdict { attempt: desk.held.front().copied(), verdict: Verdict::Cancel.into() };
        let welcome = v1::Welcome { epoch: 7, verdicts: vec![cancelled], ..v1::Welcome::default() };
        desk.take(coordinator_item::Item::Welcome(welcome));
        assert_eq!((desk.inventory().len(), desk.epoch), (2, 7));
        let unknown = desk.held.front().copied().into_iter().collect();
        desk.take(coordinator_item::Item::HeartbeatAck(v1::HeartbeatAck { seq: 1, unknown }));
        assert_eq!(desk.inventory().len(), 1);
    }

    fn assigned(number: u64) -> coordinator_item::Item {
        let attempt = Some(AttemptId { run_id: number, ..AttemptId::default() });
        coordinator_item::Item::Assign(v1::Assignment { attempt, ..v1::Assignment::default() })
    }

    #[test]
    fn a_paced_agent_reports_what_is_due_in_order_and_catches_nothing_up() {
        let mut desk = Desk::default();
        for number in 1..=5 {
            assert!(matches!(desk.take(assigned(number)), Some(agent_item::Item::Accepted(_))));
        }
        let reported = |due: Vec<agent_item::Item>| due.len();
        assert_eq!(reported(desk.due(100, Duration::from_millis(15))), 1);
        assert_eq!(reported(desk.due(100, Duration::from_millis(5))), 1, "half a task is remembered");
        let agent_item::Item::Heartbeat(beat) = desk.beat(8) else { panic!("no heartbeat") };
        assert_eq!((beat.held.len(), beat.free_slots), (3, 5));
        assert_eq!(reported(desk.due(1_000, Duration::from_secs(1))), 3);
        desk.take(assigned(6));
        assert_eq!(reported(desk.due(1, Duration::from_millis(1))), 0, "idle time is not work");
    }
}
