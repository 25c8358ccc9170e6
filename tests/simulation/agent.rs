//! An agent of the simulation: its real daemon and session, with a spool on a simulated disk and a runner that plays.
//!
//! A child is a simulated process: it takes simulated time, is stopped when it is told to or when nobody renewed it for
//! too long, and outlives a killed agent, if the seed says so, until that or until the agent's next start ends it.

use crate::coordinator::HEARTBEAT;
use crate::net::{COORDINATOR, Name, PORT};
use crate::trace::{Event, Trace};
use crate::world::Draw;
use orch_agent::boottime::BootMillis;
use orch_agent::credentials::Pools;
use orch_agent::daemon::status::StatusFile;
use orch_agent::daemon::{Daemon, Identity, Offer, Parts, Runners, Supplies};
use orch_agent::homes::Homes;
use orch_agent::host::{HostFigures, HostProbe};
use orch_agent::runner::{
    AttemptKey, AttemptLink, AttemptReport, AttemptSpec, OnLoss, Outcome, RunFuture, Runner, Work,
};
use orch_agent::session::link::Coordinators;
use orch_agent::spool::memory::{MemoryDisk, MemorySpool};
use orch_agent::spool::{Entry, Inventory, Spool, SpoolError, SyncJob};
use orch_agent::supervisor::stop::StopCause;
use orch_agent::workspaces::Workspaces;
use orch_certs::Role;
use orch_proto::v1;
use prost::Message as _;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a child says over this is bulk and travels by the second connection.
const BULK_BYTES: usize = 70 << 10;
/// From the order to stop to the end of a child.
const STOPPING: Duration = Duration::from_millis(300);
/// The spool's disk is synced this long after it was written.
const SYNC_AFTER: Duration = Duration::from_millis(80);

/// A child, as its host sees it.
#[derive(Debug, Clone, Copy)]
struct Child {
    /// When it ends by itself.
    ends: Duration,
    /// When its dead-man switch ends it.
    dead_man: Duration,
    /// Its agent is gone.
    orphan: bool,
}

/// The host of an agent, which outlives the daemon on it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    slots: u32,
    trace: Trace,
    draw: Draw,
    dir: PathBuf,
    disk: MemoryDisk,
    children: Arc<Mutex<BTreeMap<AttemptKey, Child>>>,
    stop: Arc<Mutex<CancellationToken>>,
    /// What becomes of children when the daemon is killed next.
    survive: Arc<Mutex<bool>>,
}

impl Host {
    pub(crate) fn new(name: &str, slots: u32, draw: Draw, trace: Trace, dir: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            slots,
            trace,
            draw,
            dir,
            disk: MemoryDisk::default(),
            children: Arc::default(),
            stop: Arc::default(),
            survive: Arc::default(),
        }
    }

    /// Asks the daemon to stop in order.
    pub(crate) fn stop(&self) {
        lock(&self.stop).cancel();
    }

    /// Says what becomes of children when the daemon is killed next.
    pub(crate) fn let_children_survive(&self, survive: bool) {
        *lock(&self.survive) = survive;
    }

    /// The host lost its power: the daemon on it has been killed.
    /// Says whether anything was lost that was not synced.
    pub(crate) fn lose_power(&self) -> bool {
        self.end_children("the power was lost");
        self.disk.lose_power()
    }

    /// Whether a loss of power now would lose something.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.disk.is_unsynced()
    }

    /// Children that run, and what the spool still owes.
    pub(crate) fn busy(&self) -> (usize, usize) {
        (lock(&self.children).len(), self.disk.inventory().held().len())
    }

    /// Ends orphans whose time has come.
    pub(crate) fn look_at_orphans(&self) {
        let now = self.trace.now();
        let mut children = lock(&self.children);
        let over = |child: &Child| child.orphan && now >= child.ends.min(child.dead_man);
        let ended: Vec<_> = children.iter().filter(|(_, child)| over(child)).map(|(key, _)| *key).collect();
        for key in ended {
            children.remove(&key);
            self.child_ended(key, "as an orphan");
        }
    }

    fn end_children(&self, how: &str) {
        for key in std::mem::take(&mut *lock(&self.children)).into_keys() {
            self.child_ended(key, how);
        }
    }

    fn child_ended(&self, key: AttemptKey, how: &str) {
        self.trace.note(Event::Ended { agent: self.name.clone(), key, how: how.to_owned() });
    }

    /// The daemon, from a start to its end.
    pub(crate) async fn run(self) -> turmoil::Result {
        self.trace.note(Event::Process { host: self.name.clone(), what: "starts" });
        // The sweep of a start.
        self.end_children("by the next agent's start");
        let stop = CancellationToken::new();
        *lock(&self.stop) = stop.clone();
        let figures = HostFigures { cores: self.slots, ..HostFigures::default() };
        let urls = [format!("http://{COORDINATOR}:{PORT}")];
        let homes = Arc::new(Homes::open(&self.dir)?);
        let supplies = Supplies::open(&self.dir, Workspaces::default())?;
        let mut incarnation = [0; 16];
        incarnation[..8].copy_from_slice(&self.draw.next().to_le_bytes());
        let parts = Parts {
            identity: Identity { name: self.name.clone(), incarnation, host: self.name.clone() },
            offer: Offer {
                slots: self.slots,
                capabilities: vec!["program=sim".to_owned()],
                runners: vec!["noop".to_owned(), "command".to_owned()],
                ..Offer::default()
            },
            coordinators: Coordinators::new(&urls, Arc::new(Name::new(Role::Agent, &self.name)))?,
            runners: Runners::new(None, Some(Arc::new(Play(self.clone())))).supplied(supplies, None),
            pools: Pools::default(),
            homes,
            spool: Box::new(SimSpool::open(&self)),
            host: HostProbe::fixed(figures),
            limits: orch_agent::limits::Broker::default(),
            status: StatusFile::new(None, &self.name),
            seed: self.draw.next(),
        };
        Daemon::new(parts).run(stop).await?;
        self.trace.note(Event::Process { host: self.name.clone(), what: "ends" });
        std::future::pending().await
    }
}

/// A spool that tells what is entered into it and whose syncs take a while.
#[derive(Debug)]
struct SimSpool {
    inner: MemorySpool,
    agent: String,
    trace: Trace,
    written: Option<Duration>,
}

impl SimSpool {
    fn open(host: &Host) -> Self {
        let inner = MemorySpool::open(host.disk.clone());
        Self { inner, agent: host.name.clone(), trace: host.trace.clone(), written: None }
    }
}

impl Spool for SimSpool {
    fn append(&mut self, entry: Entry) {
        let agent = self.agent.clone();
        match &entry {
            Entry::Accepted { key, .. } => self.trace.note(Event::Accepted { agent, key: *key }),
            Entry::Finished { key, report } => {
                let outcome =
                    v1::Report::decode(report.as_slice()).map_or(Outcome::Unspecified, |r| r.outcome());
                self.trace.note(Event::Finished { agent, key: *key, outcome });
            }
            Entry::Settled { key } => self.trace.note(Event::Settled { agent, key: *key }),
            _ => {}
        }
        self.inner.append(entry);
        self.written.get_or_insert_with(|| self.trace.now());
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        self.inner.flush()
    }

    fn begin_sync(&mut self) -> Result<Option<SyncJob>, SpoolError> {
        if self.written.is_none_or(|written| self.trace.now() < written + SYNC_AFTER) {
            return Ok(None);
        }
        self.written = None;
        self.inner.begin_sync()
    }

    fn end_sync(&mut self) {
        self.inner.end_sync();
    }

    fn inventory(&self) -> &Inventory {
        self.inner.inventory()
    }
}

/// What a task asks its child to do, by its arguments.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Script {
    /// How long it takes.
    pub(crate) takes: Duration,
    /// Attempts that end with an outcome that is tried again.
    pub(crate) failures: u32,
    /// Every attempt crashes.
    pub(crate) poison: bool,
    /// The answer is bulk.
    pub(crate) bulk: bool,
}

impl Script {
    pub(crate) fn args(self) -> Vec<String> {
        vec![
            self.takes.as_millis().to_string(),
            self.failures.to_string(),
            self.poison.to_string(),
            self.bulk.to_string(),
        ]
    }

    fn read(args: &[String]) -> Self {
        let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok()).unwrap_or(0);
        let word = |at: usize| args.get(at).is_some_and(|arg| arg == "true");
        Self {
            takes: Duration::from_millis(number(0)),
            failures: u32::try_from(number(1)).unwrap_or(0),
            poison: word(2),
            bulk: word(3),
        }
    }
}

/// The answer of an attempt: what is recorded for it must be this.
pub(crate) fn answer(key: AttemptKey, agent: &str, bulk: bool) -> String {
    let mut answer = format!("{key} by {agent}");
    if bulk {
        answer.push_str(&".".repeat(BULK_BYTES));
    }
    answer
}

/// The runner.
#[derive(Debug)]
struct Play(Host);

/// A child from its start to its end, or to the end of the daemon that watches it.
struct Watched<'a> {
    host: &'a Host,
    key: AttemptKey,
    ended: bool,
}

impl Watched<'_> {
    fn end(mut self, how: &str) {
        self.ended = true;
        lock(&self.host.children).remove(&self.key);
        self.host.child_ended(self.key, how);
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The daemon was killed.
        let survives = *lock(&self.host.survive);
        let mut children = lock(&self.host.children);
        if let Some(child) = children.get_mut(&self.key).filter(|_| survives) {
            child.orphan = true;
        } else {
            children.remove(&self.key);
            self.host.child_ended(self.key, "with its agent");
        }
    }
}

impl Play {
    async fn play(&self, spec: AttemptSpec, mut link: AttemptLink) -> AttemptReport {
        let host = &self.0;
        let Work::Command(command) = &spec.work else {
            return AttemptReport::of(Outcome::SpawnFailed, "this runner plays programs only");
        };
        let (script, key) = (Script::read(&command.args), spec.key);
        let began = host.trace.now();
        let ends = began + script.takes;
        let stop_after = spec.limits.stop_after.unwrap_or(HEARTBEAT * 96);
        let mut dead_man = began + stop_after;
        lock(&host.children).insert(key, Child { ends, dead_man, orphan: false });
        let waits = spec.on_loss == OnLoss::Wait;
        host.trace.note(Event::Started { agent: host.name.clone(), key, waits });
        let child = Watched { host, key, ended: false };
        loop {
            let now = host.trace.now();
            if now >= ends {
                break;
            }
            if now >= dead_man {
                child.end("by its dead-man switch");
                return AttemptReport::of(Outcome::LostAgent, "nobody renewed it in time");
            }
            let wait = ends.min(dead_man) - now;
            tokio::select! {
                biased;
                cause = asked_to_stop(&mut link.stop) => {
                    tokio::time::sleep(STOPPING).await;
                    child.end("when it was told to");
                    return cause.map_or_else(
                        || AttemptReport::of(Outcome::LostAgent, "its agent is gone"),
                        AttemptReport::stopped,
                    );
                }
                renewed = link.renewals.changed() => {
                    if renewed.is_ok() && let Some(renewal) = *link.renewals.borrow_and_update() {
                        let sent = Duration::from_millis(renewal.sent.0);
                        dead_man = dead_man.max(sent + renewal.stop_after);
                        if let Some(child) = lock(&host.children).get_mut(&key) {
                            child.dead_man = dead_man;
                        }
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
        child.end("by itself");
        if script.poison {
            return AttemptReport::of(Outcome::Crash, "it does so every time");
        }
        if key.attempt <= script.failures {
            return AttemptReport::of(Outcome::ApiError, "the API was not there");
        }
        let answer = answer(key, &host.name, script.bulk);
        AttemptReport { answer: Some(answer), ..AttemptReport::of(Outcome::Ok, "") }
    }
}

impl Runner for Play {
    fn name(&self) -> &'static str {
        "command"
    }

    fn run(&self, spec: AttemptSpec, link: AttemptLink) -> RunFuture<'_> {
        Box::pin(self.play(spec, link))
    }
}

/// The order to stop; `None` when nobody is left to give it.
async fn asked_to_stop(stop: &mut watch::Receiver<Option<StopCause>>) -> Option<StopCause> {
    stop.wait_for(Option::is_some).await.ok().and_then(|cause| *cause)
}

/// The clock of every agent's host.
pub(crate) fn clock() -> BootMillis {
    let now = turmoil::sim_elapsed().unwrap_or_default();
    BootMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
