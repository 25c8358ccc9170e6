//! Limits of credential pools over a real coordinator: what one agent says reaches the others, what is used up starts
//! nothing, and what was interrupted goes on when it opens again. Agents are played by hand; how limits hold under load is
//! told by the suite of limits.

use orch_proto::PROTOCOL_MAX;
use orch_proto::v1::{self, agent_item::Item, coordinator_item};
use orch_tests::client::{run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wire::{HandAgent, hello};
use std::time::{Duration, Instant};

/// Slow enough that agents played by hand may be silent for a moment.
const HEARTBEAT: &str = "2s";
/// The window of these tests.
const WINDOW: Duration = Duration::from_secs(3);

/// A coordinator with a file of limits.
fn limited(limits: &str) -> Fleet {
    let parent = std::env::temp_dir();
    let mut fleet = Fleet::idle_in(&parent, orch_tests::binaries!(), HEARTBEAT, "info", &[]);
    let file = fleet.dir().join("limits.toml");
    std::fs::write(&file, limits).expect("a file of limits");
    let ended = fleet.launch_coordinator(&[("ORCH_LIMITS", file.to_str().expect("a path"))]);
    assert!(ended.is_none(), "the coordinator ended:\n{}", fleet.coordinator_log());
    fleet
}

fn pool(name: &str) -> v1::Pool {
    v1::Pool {
        name: name.into(),
        kind: v1::PoolKind::ApiKey.into(),
        health: v1::PoolHealth::Ready.into(),
        gateway: true,
        fingerprint: name.bytes().cycle().take(8).collect(),
        ..v1::Pool::default()
    }
}

/// An agent that runs workers with the credential of one pool, and has heard its Welcome.
async fn join(fleet: &Fleet, name: &str, of: &str) -> (HandAgent, v1::Welcome) {
    let hello = v1::Hello {
        protocol_max: PROTOCOL_MAX,
        runners: vec!["claude".into()],
        pools: vec![pool(of)],
        ..hello(name)
    };
    let mut agent = HandAgent::join(fleet, hello).await.expect("a session");
    let welcome = agent.until(|item| {
        let coordinator_item::Item::Welcome(welcome) = item else { return None };
        Some(welcome.clone())
    });
    let welcome = welcome.await.expect("a Welcome");
    (agent, welcome)
}

fn wants(requests: u64) -> Item {
    let meter = v1::MeterId { pool: "main".into(), model_class: "sonnet".into(), worker: "marie".into() };
    let amounts = |requests, concurrent| Some(v1::Amounts { requests, concurrent, ..v1::Amounts::default() });
    Item::Limits(v1::LimitReport {
        meter: Some(meter),
        wanted: amounts(requests, requests),
        waiting: u32::try_from(requests).unwrap_or(u32::MAX),
        ..v1::LimitReport::default()
    })
}

fn signal(kind: v1::LimitSignalKind, wait: Duration) -> Item {
    Item::LimitSignal(v1::LimitSignal {
        pool: "main".into(),
        kind: kind.into(),
        retry_after: prost_types::Duration::try_from(wait).ok(),
        window: "five_hour".into(),
        detail: "the API said so".into(),
        ..v1::LimitSignal::default()
    })
}

/// The next notice of a pool in this state.
async fn told(agent: &mut HandAgent, state: v1::PoolState) -> v1::PoolNotice {
    let notice = agent.until(|item| {
        let coordinator_item::Item::PoolNotice(notice) = item else { return None };
        (notice.state() == state).then(|| notice.clone())
    });
    notice.await.expect("a notice")
}

async fn granted(agent: &mut HandAgent) -> v1::Amounts {
    let grant = agent.until(|item| {
        let coordinator_item::Item::LimitGrant(grant) = item else { return None };
        grant.granted
    });
    grant.await.expect("credit")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credit_of_a_configured_pool_is_lent_as_fast_as_its_bucket_fills_and_no_faster() {
    let begun = Instant::now();
    let fleet = limited("[pools.main]\nrequests_per_minute = 600\n");
    let (mut one, welcome) = join(&fleet, "box-1", "main").await;
    assert_eq!(welcome.protocol, PROTOCOL_MAX);
    assert!(welcome.prices.iter().any(|price| price.model_class == "opus"), "{:?}", welcome.prices);
    let metered = welcome.pools.iter().any(|notice| notice.pool == "main" && notice.metered);
    assert!(metered, "requests of a pool with limits need credit from the first: {:?}", welcome.pools);
    let (mut other, _) = join(&fleet, "box-2", "main").await;
    one.say(wants(40)).await;
    other.say(wants(40)).await;
    // 10 a second, for both together, from an empty bucket.
    let (mut first, mut second) = (0, 0);
    while first + second < 20 {
        tokio::select! {
            amounts = granted(&mut one) => first = amounts.requests,
            amounts = granted(&mut other) => second = amounts.requests,
        }
        let most = begun.elapsed().as_secs() * 10 + 10;
        assert!(first + second <= most, "{first} and {second} lent within {:?}", begun.elapsed());
    }
    assert!(first > 0 && second > 0, "they take turns: {first} and {second}");
    let shown = limits(&fleet).await;
    let bucket = shown.buckets.iter().find(|bucket| bucket.unit == "requests" && bucket.worker.is_empty());
    let bucket = bucket.expect("a bucket");
    assert_eq!(
        (bucket.limit, bucket.source.as_str(), shown.agents.len()),
        (600, "configured", 2),
        "{shown:?}"
    );
    assert!(bucket.leased >= 20, "{bucket:?}");
}

/// The pool `main`, as people see it.
async fn limits(fleet: &Fleet) -> v1::PoolLimits {
    let files = fleet.certificate(orch_certs::Role::Client, "ana");
    let channel = orch_tests::client::channel(&fleet.ports().grpc, &files);
    let mut costs = v1::cost_service_client::CostServiceClient::new(channel);
    let request = v1::GetLimitsRequest { pool: "main".into() };
    costs.get_limits(request).await.expect("limits").into_inner().pools.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_tells_one_agent_reaches_the_others_within_a_heartbeat() {
    let fleet = limited("[pools.main]\nrequests_per_minute = 600\n");
    let (one, _) = join(&fleet, "box-1", "main").await;
    let (mut other, _) = join(&fleet, "box-2", "main").await;
    let said = Instant::now();
    one.say(signal(v1::LimitSignalKind::Throttled, Duration::from_secs(1))).await;
    let notice = told(&mut other, v1::PoolState::Throttled).await;
    let took = said.elapsed();
    assert_eq!(notice.pool, "main");
    assert!(notice.left.is_some(), "{notice:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    told(&mut other, v1::PoolState::Open).await;
}

/// The task's assignment is taken over, and ends at the limit.
async fn runs_into_the_limit(agent: &mut HandAgent) -> v1::AttemptId {
    let attempt = agent.assignment().await.expect("an assignment").attempt.expect("named");
    agent.say(Item::Accepted(v1::Accepted { attempt: Some(attempt) })).await;
    agent.say(signal(v1::LimitSignalKind::Exhausted, WINDOW)).await;
    agent
        .say(Item::Report(v1::Report {
            attempt: Some(attempt),
            outcome: v1::Outcome::RateLimited.into(),
            detail: "five_hour is used up".into(),
            digest: vec![7; 32],
            pool: "main".into(),
            limit: Some(v1::LimitHit { pool: "main".into(), window: "five_hour".into(), exhausted: true }),
            retry_after: prost_types::Duration::try_from(WINDOW).ok(),
            ..v1::Report::default()
        }))
        .await;
    attempt
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_up_window_parks_the_conversation_starts_nothing_and_goes_on_when_it_is_reset() {
    let fleet = limited("[pools.main]\nrequests_per_minute = 600\n");
    let (mut agent, _) = join(&fleet, "box-1", "main").await;
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![worker("t", "marie", "evaluate")])).await;
    let task = format!("{}/t", submitted.r#ref);
    let closed = Instant::now();
    let first = runs_into_the_limit(&mut agent).await;
    client.task_in(&task, v1::TaskState::Parked).await;
    let waiting = client.submit(run(vec![worker("later", "marie", "another")])).await;
    for (reference, what) in [(task.clone(), "parked"), (format!("{}/later", waiting.r#ref), "queued")] {
        let request = v1::ExplainTaskRequest { r#ref: reference };
        let why = client.runs.explain_task(request).await.expect("explained").into_inner();
        let told = why.reasons.iter().any(|reason| {
            reason.kind == "limit" && reason.text.contains("main") && reason.text.contains("five_hour")
        });
        assert!(told, "{what}: {:?}", why.reasons);
    }
    let shown = limits(&fleet).await;
    assert_eq!((shown.state(), shown.parked), (v1::PoolState::Exhausted, 1), "{shown:?}");
    assert!(shown.until.is_some(), "{shown:?}");

    let mut again = agent.assignment().await.expect("an assignment");
    let opened = closed.elapsed();
    assert!(opened >= WINDOW - Duration::from_millis(100), "something started after {opened:?}");
    if again.attempt.map(|attempt| attempt.run_id) != Some(first.run_id) {
        again = agent.assignment().await.expect("the other one");
    }
    let attempt = again.attempt.expect("named");
    assert_eq!((attempt.run_id, attempt.attempt), (first.run_id, 2));
    let Some(v1::assignment::Runner::Claude(claude)) = again.runner else { panic!("{again:?}") };
    assert!(claude.interrupted.contains("five_hour"), "it goes on where it was: {:?}", claude.interrupted);
    let failures = client.tasks(&submitted.r#ref).await.remove(0);
    assert_ne!(failures.state(), v1::TaskState::Failed, "{failures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_one_pool_is_used_up_work_goes_to_an_agent_with_another() {
    let fleet = limited("[pools.main]\nrequests_per_minute = 600\n");
    let (mut one, _) = join(&fleet, "box-1", "main").await;
    one.say(signal(v1::LimitSignalKind::Exhausted, Duration::from_secs(600))).await;
    told(&mut one, v1::PoolState::Exhausted).await;
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![worker("t", "marie", "evaluate")])).await;
    let (mut other, _) = join(&fleet, "box-2", "night").await;
    let assignment = other.assignment().await.expect("an assignment");
    assert_eq!(assignment.r#ref, format!("{}/t", submitted.r#ref));
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!((task.attempt, task.agent.as_str()), (1, "box-2"), "{task:?}");
}
