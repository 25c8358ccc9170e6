//! The coordinator is killed again and again, while it serves and while it starts, under clients that never stop: what was
//! acknowledged is there, once, and ends.

use crate::load::{Submitters, all_ended, count, holds, whole_history};
use orch_certs::Role;
use orch_tests::budget::{budget, figures, percentile, seed};
use orch_tests::fleet::Fleet;
use orch_tests::history::Event;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::time::{Duration, Instant};

const ROW: &str = "kills";
const SUBMITTERS: usize = 20;
/// Agents are away for as long as the coordinator is, and their attempts must not be lost for that.
const HEARTBEAT: &str = "1s";
/// When it is killed, counted from when it is ready.
const SERVES_MS: std::ops::RangeInclusive<u64> = 5..=500;
/// Of so many kills one hits a coordinator that is starting.
const START_UP_EVERY: u64 = 4;
/// Everything that was acknowledged has ended so long after the last kill.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_under_kills_is_there_once_and_ends() {
    let (kills, wanted) = (budget("ORCH_TORTURE_KILLS", 10), budget("ORCH_TORTURE_ACKNOWLEDGED", 200));
    let mut rng = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), HEARTBEAT);
    fleet.agent("box-1", &["--slots", "8"]);
    fleet.agent("box-2", &["--slots", "8"]);
    let files = fleet.certificate(Role::Client, "ana");
    let submitters = Submitters::start(SUBMITTERS, &fleet.ports().grpc, &files, fleet.dir()).await;

    let mut opens = Vec::new();
    let mut starting = 0;
    let mut killed = 0;
    while killed < kills || submitters.count() < wanted {
        killed += 1;
        if killed % START_UP_EVERY == 2 {
            fleet.kill_coordinator();
            starting += u32::from(kill_while_starting(&mut fleet, &mut rng, &opens));
        } else {
            tokio::time::sleep(Duration::from_millis(rng.random_range(SERVES_MS))).await;
            fleet.kill_coordinator();
        }
        let began = Instant::now();
        // Fails if it does not open its store.
        fleet.start_coordinator();
        opens.push(began.elapsed());
    }

    let acknowledged = submitters.count();
    let resent = submitters.resent.load(std::sync::atomic::Ordering::Relaxed);
    let told = submitters.stop().await;
    let mut client = fleet.client().await;
    let drained = all_ended(&mut client, PATIENCE).await;
    let history = whole_history(&mut client, told).await;
    holds(&history);
    let stored = count(&history, |event| matches!(event, Event::Stored { .. }));
    let recorded = count(&history, |event| matches!(event, Event::Recorded { .. }));
    figures(
        ROW,
        &format!(
            "{killed} kills while it served, {starting} more while it started, {SUBMITTERS} submitters, {acknowledged} \
             acknowledged, {resent} sent again; {stored} runs and {recorded} results stored; 0 lost, 0 doubled, 0 failed \
             opens; to open: p50 {:?}, worst {:?}; drained in {drained:?}",
            percentile(&opens, 50),
            percentile(&opens, 100),
        ),
    );
    assert!(acknowledged > 0 && resent > 0, "kills under load, not beside it");
    assert!(starting > 0 || kills < 2, "no kill hit a start");
}

/// Starts the coordinator and kills it at a random point of its start. Whether it was not ready yet.
fn kill_while_starting(fleet: &mut Fleet, rng: &mut StdRng, opens: &[Duration]) -> bool {
    let usual = opens.last().copied().unwrap_or(Duration::from_millis(200));
    fleet.spawn_coordinator(&[]);
    // The length of the start is what is tested: a random part of what the last one took.
    std::thread::sleep(usual.mul_f64(rng.random_range(0.02..0.8)));
    let early = !fleet.coordinator_is_ready();
    fleet.kill_coordinator();
    early
}
