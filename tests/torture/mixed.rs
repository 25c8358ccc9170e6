//! A little of everything: random faults on every link and kills of the coordinator over a mixed load, then peace. Everything
//! ends, the history breaks no promise, and every kind of fault fired.

use crate::load::{Submitters, all_ended, count, fenced_by, holds, whole_history};
use orch_certs::Role;
use orch_proto::v1::{self, OnLoss};
use orch_tests::budget::{budget, figures, seed};
use orch_tests::client::{Client, after, command, run, worker};
use orch_tests::faults::proxy::{Proxy, schedule::torment};
use orch_tests::fleet::Fleet;
use orch_tests::history::{Event, REQUEST_LABEL};
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const ROW: &str = "mixed";
const AGENTS: [&str; 2] = ["box-1", "box-2"];
/// A link of its own fails so often, for a third of that.
const FLAP: Duration = Duration::from_secs(3);
/// Between two kills of the coordinator.
const KILL_EVERY_MS: std::ops::RangeInclusive<u64> = 3_000..=6_000;
/// Everything has ended so long after the last fault.
const PATIENCE: Duration = Duration::from_secs(240);

/// Work of every kind, in runs of their own.
fn mixed(number: u64, request: &str) -> v1::RunSpec {
    let mut sleeps = command("sleep", "sleep", &["0.3"]);
    sleeps.on_loss = if number.is_multiple_of(3) { OnLoss::Wait } else { OnLoss::Fast }.into();
    let says = worker("say", "anga", "[[sleep {\"ms\":200}]] [[text {\"text\":\"said\"}]]");
    let last = after(command("last", "true", &[]), &["sleep", "say"]);
    let labels = [(REQUEST_LABEL.to_owned(), request.to_owned())].into();
    v1::RunSpec { name: "mixed".into(), labels, ..run(vec![sleeps, says, last]) }
}

/// Submits mixed runs until told to stop, and returns what was acknowledged.
async fn submit_mixed(mut client: Client, stop: Arc<AtomicBool>) -> Vec<Event> {
    let mut told = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let request = format!("mixed-{number}");
        loop {
            let submit = v1::SubmitRunRequest {
                spec: Some(mixed(number, &request)),
                request_id: request.clone(),
                validate_only: false,
            };
            let answer = tokio::time::timeout(Duration::from_secs(3), client.runs.submit_run(submit)).await;
            if let Ok(Ok(answer)) = answer {
                let run = answer.into_inner().run.expect("a run").r#ref;
                told.push(Event::Acknowledged { request, run });
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    told
}

/// Cuts everything off for a third of the time.
async fn flap(proxy: &Proxy, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        tokio::time::sleep(FLAP * 2 / 3).await;
        proxy.partition();
        tokio::time::sleep(FLAP / 3).await;
        proxy.heal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_for_a_while_everything_ends_and_nothing_is_lost_or_doubled() {
    let time = Duration::from_secs(budget("ORCH_TORTURE_MIXED_SECONDS", 20));
    let seed = seed(ROW);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "400ms");
    let grpc = fleet.ports().grpc.clone();
    let proxies =
        [Proxy::start(&grpc).await, Proxy::start(&grpc).await, Proxy::start(&grpc).await].map(Arc::new);
    for (agent, proxy) in AGENTS.iter().zip(&proxies) {
        fleet.route(agent, &proxy.address());
        fleet.agent(agent, &["--slots", "4", "--allow-command", "sleep", "--allow-command", "true"]);
    }
    let files = fleet.certificate(Role::Client, "ana");
    let through = proxies[2].address();
    let submitters = Submitters::start(5, &through, &files, fleet.dir()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut mixing = JoinSet::new();
    mixing.spawn(submit_mixed(Client::connect(&through, &files).await, Arc::clone(&stop)));

    let mut faults = JoinSet::new();
    let [first, second, clients] = proxies.clone();
    faults.spawn(async move { torment(&first, seed, time).await });
    faults.spawn(async move { flap(&second, time).await });
    faults.spawn(async move { torment(&clients, seed.wrapping_add(1), time).await });
    let (began, mut kills) = (Instant::now(), 0);
    while began.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(rng.random_range(KILL_EVERY_MS))).await;
        fleet.kill_coordinator();
        fleet.start_coordinator();
        kills += 1;
    }
    faults.join_all().await;

    stop.store(true, Ordering::Relaxed);
    let mut told = submitters.stop().await;
    told.extend(mixing.join_next().await.expect("a submitter").expect("joined"));
    let acknowledged = count(&told, |event| matches!(event, Event::Acknowledged { .. }));
    let mut client = fleet.client().await;
    let drained = all_ended(&mut client, PATIENCE).await;
    let history = whole_history(&mut client, told).await;
    holds(&history);
    for agent in AGENTS {
        let dir = fleet.agent_dir(agent);
        until("every process of every attempt to be gone", || at_home_in(&dir).is_empty().then_some(()));
        until("every supervisor to be gone", || supervisors_in(&dir).is_empty().then_some(()));
    }

    let mut fired = BTreeMap::from([("kill", kills)]);
    for (kind, count) in proxies.iter().flat_map(|proxy| proxy.counts().fired()) {
        *fired.entry(kind).or_default() += count;
    }
    let fenced: usize = AGENTS.iter().map(|agent| fenced_by(&fleet, agent)).sum();
    let outcomes = outcomes(&history);
    figures(
        ROW,
        &format!(
            "{time:?} of faults {fired:?}: {acknowledged} acknowledged, {} attempts given up, {fenced} reports fenced, tasks ended \
             {outcomes:?}; all ended {drained:?} after the last fault; 0 violations",
            count(&history, |event| matches!(event, Event::Ended { .. })),
        ),
    );
    assert!(fired.values().all(|count| *count > 0), "a kind of fault never fired: {fired:?}");
}

/// How many tasks ended how.
fn outcomes(history: &[Event]) -> BTreeMap<&str, usize> {
    let mut outcomes = BTreeMap::new();
    for event in history {
        if let Event::Recorded { outcome, .. } = event {
            *outcomes.entry(outcome.as_str()).or_default() += 1;
        }
    }
    outcomes
}
