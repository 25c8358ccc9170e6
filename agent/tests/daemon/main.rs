//! The daemon and a fake coordinator over real streams: what is said in which order, and what happens when the stream
//! is cut, the coordinator sends its agents away, or the agent is stopped or starts again.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on has failed"
)]

mod blobs;
mod coordinator;
mod files;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backoff::backoff::Backoff as _;
use coordinator::{Coordinator, PATIENCE, Plain, Session, welcome};
use orch_agent::boottime::boot_id;
use orch_agent::credentials::Pools;
use orch_agent::credentials::health::Checker;
use orch_agent::credentials::settings::{PoolSettings, Source};
use orch_agent::daemon::status::StatusFile;
use orch_agent::daemon::{Daemon, Identity, Offer, Parts, Runners};
use orch_agent::homes::{ConversationKey, Homes};
use orch_agent::host::HostProbe;
use orch_agent::limits::Broker;
use orch_agent::runner::{AttemptLink, AttemptReport, AttemptSpec, Outcome, RunFuture, Runner, Work};
use orch_agent::session::link::Coordinators;
use orch_agent::session::reconnect::FullJitter;
use orch_agent::spool::file::FileSpool;
use orch_agent::supervisor::segments::SEGMENT_BYTES;
use orch_proto::v1;
use orch_proto::v1::agent_item::Item as Said;
use orch_proto::v1::coordinator_item::Item;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const EPOCH: u64 = 5;

/// Runs until it is stopped.
#[derive(Debug)]
struct Patient;

impl Runner for Patient {
    fn name(&self) -> &'static str {
        "command"
    }

    fn run(&self, _spec: AttemptSpec, mut link: AttemptLink) -> RunFuture<'_> {
        Box::pin(async move {
            let cause = link.stop.wait_for(Option::is_some).await.unwrap().unwrap();
            AttemptReport::stopped(cause)
        })
    }
}

/// A seed that makes the first waits of an agent short, so that tests need not.
fn quick_seed() -> u64 {
    let waits = |seed| {
        let mut policy = FullJitter::new(seed);
        (0..5).filter_map(|_| policy.next_backoff()).sum::<Duration>()
    };
    (0..5_000).min_by_key(|seed| waits(*seed)).unwrap_or_default()
}

/// A running agent with its data in a directory.
struct Agent {
    stop: CancellationToken,
    daemon: JoinSet<()>,
}

impl Agent {
    fn start(data: &Path, coordinators: &[&str]) -> Self {
        Self::seeded(data, coordinators, quick_seed())
    }

    fn seeded(data: &Path, coordinators: &[&str], seed: u64) -> Self {
        Self::with_pools(data, coordinators, seed, Pools::default())
    }

    fn with_pools(data: &Path, coordinators: &[&str], seed: u64, pools: Pools) -> Self {
        let urls: Vec<String> = coordinators.iter().map(|&url| url.to_owned()).collect();
        let (spool, _) = FileSpool::open(&data.join("spool"), &boot_id()).unwrap();
        let parts = Parts {
            identity: Identity { name: "box-1".to_owned(), incarnation: [7; 16], host: "host".to_owned() },
            offer: Offer { slots: 2, ..Offer::default() },
            coordinators: Coordinators::new(&urls, Arc::new(Plain)).unwrap(),
            runners: Runners::new(None, Some(Arc::new(Patient))),
            pools,
            homes: Arc::new(Homes::open(data).unwrap()),
            spool: Box::new(spool),
            host: HostProbe::new(data.to_owned()),
            limits: Broker::default(),
            status: StatusFile::new(Some(data.join("status.json")), "box-1"),
            seed,
        };
        let daemon = Daemon::new(parts);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut running = JoinSet::new();
        running.spawn(async move { daemon.run(stopped).await.unwrap() });
        Self { stop, daemon: running }
    }

    /// Asks it to stop, without waiting.
    fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    async fn ended(mut self) {
        tokio::time::timeout(PATIENCE, self.daemon.join_next())
            .await
            .expect("the agent stops")
            .unwrap()
            .unwrap();
    }

    /// Ends it as a kill would.
    async fn killed(mut self) {
        self.daemon.shutdown().await;
    }
}

#[tokio::test]
async fn pools_are_told_at_hello_and_whenever_they_change() {
    let (data, mut coordinator) = (tempfile::tempdir().unwrap(), Coordinator::start().await);
    let key = data.path().join("key");
    let source = Source::ApiKey(key.clone());
    let workers = ["marie".to_owned()].into();
    let settings = PoolSettings { name: "team".into(), source, workers, base_url: None, gateway: None };
    let pools = Pools::open(&[settings], data.path(), Checker::default()).unwrap();
    let agent = Agent::with_pools(data.path(), &[&coordinator.url], quick_seed(), pools.clone());
    let mut session = coordinator.session().await;
    let told = &session.hello.pools;
    assert_eq!(
        told.iter().map(|pool| (pool.name.as_str(), pool.health())).collect::<Vec<_>>(),
        [("team", v1::PoolHealth::Unspecified)]
    );
    assert_eq!(
        (told[0].kind(), told[0].workers.as_slice()),
        (v1::PoolKind::ApiKey, &["marie".to_owned()][..])
    );
    // A change between Hello and Welcome is not lost.
    pools.check().await;
    session.say([Item::Welcome(welcome(EPOCH))]).await;
    let facts = |said: Said| match said {
        Said::Facts(facts) => facts,
        other => panic!("{other:?}"),
    };
    let unusable = facts(session.next().await);
    assert_eq!(unusable.pools[0].health(), v1::PoolHealth::Unusable);
    assert!(unusable.warnings[0].starts_with("pool team: cannot read the credential file"), "{unusable:?}");
    std::fs::write(&key, "sk-canary").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    pools.check().await;
    let usable = facts(session.next().await);
    assert_eq!((usable.pools[0].health(), usable.warnings.len()), (v1::PoolHealth::Unspecified, 0));
    assert!(!format!("{usable:?}").contains("canary"));
    agent.killed().await;
}

fn id(task: u32) -> Option<v1::AttemptId> {
    Some(v1::AttemptId { run_id: 7, task_index: task, attempt: 1 })
}

fn assign(task: u32, runner: v1::assignment::Runner) -> Item {
    let r#ref = format!("adhoc/7/{task}");
    Item::Assign(v1::Assignment {
        attempt: id(task),
        runner: Some(runner),
        epoch: EPOCH,
        r#ref,
        ..v1::Assignment::default()
    })
}

fn noop(task: u32) -> Item {
    assign(task, v1::assignment::Runner::Noop(v1::NoopTask {}))
}

fn command(task: u32) -> Item {
    assign(task, v1::assignment::Runner::Command(v1::CommandTask::default()))
}

fn recorded(task: u32) -> Item {
    Item::ReportVerdict(v1::ReportVerdict { attempt: id(task), result: v1::ReportResult::Recorded.into() })
}

/// The next report.
async fn report(session: &mut Session) -> (u32, Outcome) {
    match session.next().await {
        Said::Report(report) => (report.attempt.unwrap().task_index, report.outcome()),
        other => panic!("a report was awaited: {other:?}"),
    }
}

fn inventory(session: &Session) -> Vec<(u32, v1::HeldState)> {
    session.hello.inventory.iter().map(|item| (item.attempt.unwrap().task_index, item.state())).collect()
}

/// Waits until the agent no longer lists anything.
async fn until_nothing_is_listed(session: &mut Session) {
    while !session.heartbeat().await.held.is_empty() {}
}

#[tokio::test]
async fn an_assignment_is_accepted_then_reported_and_forgotten_once_it_is_recorded() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(data.path(), &[&coordinator.url]);
    let mut session = coordinator.session().await;
    assert_eq!((session.hello.agent.as_str(), session.hello.slots), ("box-1", 2));
    assert_eq!(session.hello.epoch_seen, 0);
    assert!(session.hello.inventory.is_empty());
    session.say([Item::Welcome(welcome(EPOCH)), noop(1)]).await;
    assert_eq!(session.next().await, Said::Accepted(v1::Accepted { attempt: id(1) }));
    assert_eq!(report(&mut session).await, (1, Outcome::Ok));
    assert_eq!(session.heartbeat().await.held.len(), 1, "it is listed until it is answered");
    session.say([recorded(1)]).await;
    until_nothing_is_listed(&mut session).await;
    agent.ask_to_stop();
    assert_eq!(session.next().await, Said::Draining(v1::Draining {}));
    agent.ended().await;
    let status = std::fs::read_to_string(data.path().join("status.json")).unwrap();
    assert!(status.contains("\"stopped\""), "{status}");
}

#[tokio::test]
async fn after_a_cut_the_agent_comes_back_with_what_it_holds_and_reports_again() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(data.path(), &[&coordinator.url]);
    let mut session = coordinator.welcomed(EPOCH).await;
    session.say([command(1), noop(2)]).await;
    for _ in 0..3 {
        session.next().await;
    }
    drop(session);
    let mut session = coordinator.welcomed(EPOCH + 1).await;
    assert_eq!(session.hello.epoch_seen, EPOCH);
    assert_eq!(inventory(&session), [(1, v1::HeldState::Running), (2, v1::HeldState::Finished)]);
    assert_eq!(report(&mut session).await, (2, Outcome::Ok));
    session.say([recorded(2)]).await;
    while session.heartbeat().await.held.len() > 1 {}
    drop(session);
    let session = coordinator.welcomed(EPOCH + 1).await;
    assert_eq!(inventory(&session), [(1, v1::HeldState::Running)]);
    agent.killed().await;
}

#[tokio::test]
async fn a_coordinator_of_the_past_is_left_and_another_try_is_made() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(data.path(), &[&coordinator.url]);
    drop(coordinator.welcomed(EPOCH).await);
    let former = coordinator.welcomed(EPOCH - 1).await;
    former.left().await;
    let session = coordinator.welcomed(EPOCH).await;
    assert_eq!(session.hello.epoch_seen, EPOCH);
    agent.killed().await;
}

#[tokio::test]
async fn an_agent_that_was_sent_away_comes_back_after_its_part_of_the_spread() {
    let data = tempfile::tempdir().unwrap();
    let spread = Duration::from_secs(2);
    let part = |seed| FullJitter::new(seed).part_of(spread);
    let seed = (0..).find(|seed| part(*seed) > Duration::from_secs(1)).unwrap();
    let part = part(seed);
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::seeded(data.path(), &[&coordinator.url], seed);
    let session = coordinator.welcomed(EPOCH).await;
    let sent = Instant::now();
    let bye =
        v1::GoAway { spread: prost_types::Duration::try_from(spread).ok(), reason: "restart".to_owned() };
    session.say([Item::GoAway(bye)]).await;
    coordinator.session().await;
    assert!(sent.elapsed() >= part, "after {:?}, before {part:?}", sent.elapsed());
    agent.killed().await;
}

#[tokio::test]
async fn coordinators_are_tried_in_turn() {
    let data = tempfile::tempdir().unwrap();
    let (mut one, mut other) = (Coordinator::start().await, Coordinator::start().await);
    let agent = Agent::start(data.path(), &["https://127.0.0.1:1", &one.url, &other.url]);
    // Nobody listens at the first.
    drop(one.welcomed(EPOCH).await);
    drop(other.welcomed(EPOCH).await);
    one.session().await;
    agent.killed().await;
}

#[tokio::test]
async fn a_stopping_agent_ends_its_children_and_waits_until_that_is_recorded() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(data.path(), &[&coordinator.url]);
    let mut session = coordinator.welcomed(EPOCH).await;
    session.say([command(1), noop(2)]).await;
    for _ in 0..3 {
        session.next().await;
    }
    agent.ask_to_stop();
    assert_eq!(session.next().await, Said::Draining(v1::Draining {}));
    assert_eq!(report(&mut session).await, (1, Outcome::LostAgent));
    session.say([noop(3), recorded(2)]).await;
    let rejected = v1::Rejected { attempt: id(3), reason: "the agent is stopping".to_owned() };
    assert_eq!(session.next().await, Said::Rejected(rejected));
    session.say([recorded(1)]).await;
    agent.ended().await;
    session.left().await;
}

#[tokio::test]
async fn a_result_that_was_not_recorded_before_the_stop_is_reported_by_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(data.path(), &[&coordinator.url]);
    let mut session = coordinator.welcomed(EPOCH).await;
    session.say([noop(1), command(2)]).await;
    for _ in 0..3 {
        session.next().await;
    }
    agent.ask_to_stop();
    assert_eq!(session.next().await, Said::Draining(v1::Draining {}));
    assert_eq!(report(&mut session).await, (2, Outcome::LostAgent));
    drop(session);
    agent.ended().await;
    let agent = Agent::start(data.path(), &[&coordinator.url]);
    let mut session = coordinator.welcomed(EPOCH).await;
    assert_eq!(inventory(&session), [(1, v1::HeldState::Finished), (2, v1::HeldState::Finished)]);
    assert_eq!(report(&mut session).await, (1, Outcome::Ok));
    assert_eq!(report(&mut session).await, (2, Outcome::LostAgent));
    session.say([recorded(1), recorded(2)]).await;
    until_nothing_is_listed(&mut session).await;
    agent.ask_to_stop();
    agent.ended().await;
}

#[tokio::test]
async fn after_a_kill_the_lost_attempt_is_reported_and_its_transcript_sent_from_the_disk() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start(data.path(), &[&coordinator.url]);
    let mut session = coordinator.welcomed(EPOCH).await;
    session.say([command(1)]).await;
    session.next().await;
    agent.killed().await;
    drop(session);

    let homes = Homes::open(data.path()).unwrap();
    let dir = homes.conversation(ConversationKey { run: 7, task: 1 }).unwrap().fresh_attempt(1).unwrap();
    drop(homes);
    let first = vec![b'x'; usize::try_from(SEGMENT_BYTES).unwrap()];
    std::fs::write(dir.join("stdout.000000"), &first).unwrap();
    std::fs::write(dir.join("stdout.000001"), b"the last words\n").unwrap();

    let agent = Agent::start(data.path(), &[&coordinator.url]);
    let mut session = coordinator.welcomed(EPOCH).await;
    let Said::Report(lost) = session.next().await else { panic!("no report") };
    assert_eq!((lost.outcome(), lost.transcript_bytes), (Outcome::LostAgent, SEGMENT_BYTES + 15));
    let whole = [first.as_slice(), b"the last words\n"].concat();
    while coordinator.transcript(7, 1, 1) != Some((whole.clone(), true)) {
        session.heartbeat().await;
    }
    while !dir.join("transcript.sent").exists() {
        session.heartbeat().await;
    }
    assert!(!dir.join("stdout.000000").exists(), "whole segments that are durable elsewhere are released");
    agent.killed().await;
    let agent = Agent::start(data.path(), &[&coordinator.url]);
    let mut session = coordinator.welcomed(EPOCH).await;
    assert_eq!(report(&mut session).await, (1, Outcome::LostAgent), "it was not answered");
    agent.killed().await;
}
