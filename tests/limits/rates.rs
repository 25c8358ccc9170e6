//! Many tasks, many agents, two keys, and limits that are enforced: nobody is refused who need not be, and what is allowed is
//! used. Then the same with limits that nobody was told, or was told wrongly.

use crate::stage::{CLASS, HEARTBEAT, Stage, counted, figures, refused, table};
use orch_proto::v1::RunState;
use orch_standin::api::{CacheRules, Entry, Latency, Limit, Rates, Setup};
use orch_tests::budget::budget;
use std::time::Duration;

const POOLS: [&str; 2] = ["north", "south"];
/// Most time a row may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Of all that is used, so much falls within the time in which work certainly waits.
const BUSY: f64 = 0.85;

/// A bucket with less than so many seconds' worth counts as used up.
const USED_UP_S: f64 = 0.5;

/// With so many tasks a run is long enough to hold it to what was asked for: 95 % of the allowed rate where limits are known;
/// 85 %, and one refusal in a hundred, where they must be learned.
const FULL: u64 = 200;
const FULL_MISLED: u64 = 100;

/// Rows of rates take turns: each measures how fast this machine is let go, not how fast it is.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A load and how it is limited.
struct Load {
    tasks: u64,
    agents: u64,
    slots: &'static str,
    /// What the API enforces, for each key.
    rates: Rates,
    /// How much a full bucket of the API's holds. At first it is empty.
    burst: Duration,
    headers: bool,
    /// What the operator wrote; empty: nothing.
    told: String,
}

/// What came of it.
struct Came {
    requests: usize,
    refused: usize,
    /// Of these, so many came when the first refusal of their key should have been known everywhere.
    knocked: usize,
    /// Part of the scarcest bucket that was used while work waited, of both keys.
    used: f64,
    took: Duration,
}

/// The limits of a key: input is what is scarce.
fn rates(input: u64) -> Rates {
    Rates { requests: Some(2_000), input: Some(input), output: Some(400_000) }
}

fn told(input: u64) -> String {
    POOLS.map(|pool| table(pool, 2_000, input, 400_000)).concat()
}

fn setup(load: &Load) -> Setup {
    let limit = |pool: &&str| Limit {
        burst: load.burst,
        first: Duration::ZERO,
        headers: load.headers,
        ..Limit::of(pool, load.rates)
    };
    let latency = Latency { first_byte: Duration::from_millis(20), tokens_per_second: Some(5_000) };
    Setup { limits: POOLS.iter().map(limit).collect(), cache: Some(CacheRules::default()), latency }
}

async fn play(load: &Load) -> Came {
    let _turn = TURN.lock().await;
    let mut stage = Stage::set(&load.told, setup(load), &POOLS).await;
    for agent in 0..load.agents {
        let pool = POOLS[usize::try_from(agent).expect("few") % POOLS.len()];
        stage.spawn_agent(&format!("box-{agent}"), pool, &["--slots", load.slots]);
    }
    for agent in 0..load.agents {
        stage.fleet.wait_connected(&format!("box-{agent}"));
    }
    let directives: Vec<String> = (0..load.tasks)
        .map(|_| r#"[[api {"calls":6,"input":3000,"output":60,"grow":1500}]]"#.to_owned())
        .collect();
    let began = std::time::Instant::now();
    let submitted = stage.submit(&directives).await;
    let run = stage.ended(&submitted.r#ref, PATIENCE).await;
    assert_eq!(run.state(), RunState::Succeeded, "{:?}", run.counts);
    let took = began.elapsed();
    let entries = stage.api.entries();
    let tasks = stage.client.tasks(&submitted.r#ref).await;
    assert!(tasks.iter().all(|task| task.attempt == 1), "a limit is no failure");
    let scarce = load.rates.input.expect("input is limited") as f64 / 60.0;
    let used = POOLS.map(|pool| used(&stage.entries(pool), scarce));
    Came {
        requests: entries.len(),
        refused: refused(&entries),
        knocked: POOLS.iter().map(|pool| knocked(&stage.entries(pool))).sum(),
        used: used.iter().sum::<f64>() / POOLS.len() as f64,
        took,
    }
}

/// Part of what a key had, `a_second` input tokens and what had gathered before, that its requests used: from when what had
/// gathered while processes started was used up until nearly all was used, since after that less and less waits. If it was
/// not used up before half of the work was done, from the first request on.
fn used(entries: &[Entry], a_second: f64) -> f64 {
    let served = |entry: &&Entry| entry.status == 200 && entry.model.contains(CLASS);
    let taken: Vec<&Entry> = entries.iter().filter(served).collect();
    let total = taken.iter().map(|entry| counted(entry)).sum::<u64>() as f64;
    let mut sum = 0.0;
    let sums = taken.iter().map(|entry| {
        sum += counted(entry) as f64;
        sum
    });
    let sums: Vec<f64> = sums.collect();
    let left = |at: usize| taken[at].input_left.map_or(0.0, |left| (left as f64).max(0.0));
    let early = sums.iter().take_while(|sum| **sum < total / 2.0).count();
    let from = (0..early).find(|at| left(*at) < a_second * USED_UP_S).unwrap_or(0);
    let until = sums.iter().position(|sum| *sum >= total * BUSY).unwrap_or(from).max(from);
    let time = taken[until].came.saturating_sub(taken[from].came).as_secs_f64();
    (sums[until] - sums[from]) / (left(from) + a_second * time).max(1.0)
}

/// Refusals of a key that came later than two heartbeats after its first: what was under way by then could not know.
fn knocked(entries: &[Entry]) -> usize {
    let refusals = || entries.iter().filter(|entry| entry.status == 429).map(|entry| entry.came);
    let Some(first) = refusals().min() else { return 0 };
    refusals().filter(|came| *came > first + HEARTBEAT * 2).count()
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

fn line(load: &Load, came: &Came) -> String {
    format!(
        "{} tasks, {} agents, {} keys: {} requests, {} answered 429 ({}), {} of them late; {} of the allowed rate used; took {:.1?}",
        load.tasks,
        load.agents,
        POOLS.len(),
        came.requests,
        came.refused,
        percent(came.refused as f64 / came.requests as f64),
        came.knocked,
        percent(came.used),
        came.took
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_known_limits_nobody_is_refused_and_what_is_allowed_is_used() {
    let input = budget("ORCH_LIMITS_INPUT_PER_MINUTE", 900_000);
    let load = Load {
        tasks: budget("ORCH_LIMITS_TASKS", 50),
        agents: 10,
        slots: "4",
        rates: rates(input),
        burst: Duration::from_secs(60),
        headers: true,
        told: told(input),
    };
    let came = play(&load).await;
    figures("known limits", &line(&load, &came));
    assert_eq!(came.refused, 0);
    // In a short run the beginning weighs more: processes start, and nobody waits yet.
    let least = if load.tasks >= FULL { 0.95 } else { 0.80 };
    assert!(came.used >= least, "{}", percent(came.used));
}

/// Limits that are unknown or wrong: the load of a row.
fn misled(told: String, headers: bool) -> Load {
    let tasks = budget("ORCH_LIMITS_MISLED_TASKS", 24);
    let burst = Duration::from_secs(4);
    Load { tasks, agents: 4, slots: "4", rates: rates(600_000), burst, headers, told }
}

fn holds(row: &str, load: &Load, came: &Came) {
    figures(row, &line(load, came));
    // In a short run the beginning weighs more: what was sent before the first refusal of a key could teach is more than one in
    // a hundred there.
    let percent_of_all = came.requests / 100;
    let (counted, most, least) = if load.tasks >= FULL_MISLED {
        (came.refused, percent_of_all, 0.85)
    } else {
        (came.knocked, percent_of_all.max(POOLS.len()), 0.70)
    };
    assert!(
        counted <= most,
        "{} of {} were refused, {} of them when it was known",
        came.refused,
        came.requests,
        came.knocked
    );
    assert!(came.used >= least, "{}", percent(came.used));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_nobody_was_told_are_learned_from_headers() {
    let load = misled(String::new(), true);
    let came = play(&load).await;
    holds("unknown limits", &load, &came);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_were_told_twice_too_high_are_corrected_by_headers() {
    let load = misled(told(1_200_000), true);
    let came = play(&load).await;
    holds("limits told twice too high", &load, &came);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_were_told_twice_too_low_are_corrected_by_headers() {
    let load = misled(told(300_000), true);
    let came = play(&load).await;
    holds("limits told twice too low", &load, &came);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_limits_and_headers_refusals_alone_teach_and_everything_ends_well() {
    let load = misled(String::new(), false);
    let came = play(&load).await;
    figures("unknown limits, no headers", &line(&load, &came));
}
