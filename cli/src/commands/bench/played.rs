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
    self, AgentItem, AgentMessage, AttemptId, CoordinatorMessage, agent_item, coordinator_item,
};
use orch_proto::{PROTOCOL_MAX, PROTOCOL_MIN};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::Bench;
use crate::authority::{ca_failure, ensure_leaf};
use crate::client;
use crate::exit;
use crate::failure::{Failure, Outcome};

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
        Ok(Seat { name, files, endpoint: self.endpoint.clone() })
    }
}

fn no_authority(place: &str) -> Failure {
    let why = format!("agents need certificates, and {place} holds no authority that could make them");
    Failure::new(exit::FAILED, why).help(
        "--certs DIR names the directory that orchctl init made; orchctl dev keeps one beside its context",
    )
}

/// A name and a certificate.
pub(super) struct Seat {
    pub(super) name: String,
    files: TlsFiles,
    endpoint: String,
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
    slots: u32,
    /// Welcome, and whatever came with it.
    first: Vec<coordinator_item::Item>,
}

impl Seat {
    /// Dials, says Hello and waits to be welcomed.
    pub(super) async fn join(self, offer: Offer) -> Outcome<Played> {
        let Self { name, files, endpoint } = self;
        let broken = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(exit::UNREACHABLE, format!("agent {name} cannot join")).chain(error)
        };
        let tls = ClientTls::load(files, SystemTime::now()).map_err(|error| broken(&error))?;
        let endpoint = Endpoint::from_shared(endpoint).map_err(|error| broken(&error))?;
        let (frames, outbound) = mpsc::channel(FRAMES);
        let hello = v1::Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            agent: name.clone(),
            incarnation: rand::random::<[u8; 16]>().to_vec(),
            slots: offer.slots,
            capabilities: offer.capabilities,
            runners: offer.runners,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..v1::Hello::default()
        };
        drop(frames.try_send(frame(vec![agent_item::Item::Hello(hello)])));
        let start = Instant::now();
        let opened = tokio::time::timeout(WELCOME_LIMIT, async {
            let channel = endpoint.connect_with_connector(Connector::new(Arc::new(tls))).await;
            let channel = channel.map_err(|error| broken(&error))?;
            let outbound =
                stream::unfold(outbound, |mut from| async move { Some((from.recv().await?, from)) });
            let answers = AgentServiceClient::new(channel).session(outbound.boxed()).await;
            let mut answers = answers.map_err(|status| Failure::from_status(&status))?.into_inner();
            let first = answers.message().await.map_err(|status| Failure::from_status(&status))?;
            Ok::<_, Failure>((answers, first))
        });
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
            slots: offer.slots,
            first,
        })
    }
}

/// How fast a paced agent reports; 0 lets tasks wait.
pub(super) type Pace = watch::Receiver<u32>;

impl Played {
    /// Keeps the session until it is told to stop, sending heartbeats and reporting what it is given at its pace. Says
    /// whether the session held.
    pub(super) async fn hold(mut self, pace: Pace, mut stop: watch::Receiver<bool>) -> bool {
        let mut desk = Desk::default();
        for item in std::mem::take(&mut self.first) {
            desk.take(item);
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
                () = told_to_stop(&mut stop) => return true,
                _ = beat.tick() => {
                    let beat = desk.beat(self.slots);
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
#[derive(Default)]
struct Desk {
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
            coordinator_item::Item::Welcome(_)
            | coordinator_item::Item::HeartbeatAck(_)
            | coordinator_item::Item::ReportVerdict(_)
            | coordinator_item::Item::GoAway(_)
            | coordinator_item::Item::LimitGrant(_)
            | coordinator_item::Item::PoolNotice(_)
            | coordinator_item::Item::Allowance(_) => None,
        }
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
