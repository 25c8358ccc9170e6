//! Deterministic simulation: the real engine, services, sessions and daemons on a simulated network, clock and disk.
//! A seed decides everything that happens; the same seed gives the same trace.
//!
//! Each seed has a process of its own. Tokio draws the order of its `select!` from a hash seed, which is interposed, and
//! from a counter of the process, which only an unstable build could set: in a fresh process it is always the same.
//!
//! Not simulated: TLS, processes and their output (the runner plays them), files of blobs (real ones in a temporary
//! directory, which a kill does not touch), threads (there is one), and loss of single bytes within a connection.
//!
//! | Variable | Meaning |
//! |---|---|
//! | `ORCH_TORTURE_SEEDS` | how many seeds are run (200) |
//! | `ORCH_TORTURE_FIRST_SEED` | the first of them (1) |
//! | `ORCH_SIM_SEED` | the one seed that `one_seed_alone` runs, its trace printed |
//! | `ORCH_SIM_BRIEF` | set: only its end is printed, for the program that started it |

#![expect(
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on has failed, and looks at few of many kinds"
)]

mod agent;
mod check;
mod client;
mod coordinator;
mod disk;
mod entropy;
mod faults;
mod net;
mod trace;
mod twin;
mod world;

use faults::{DEEDS, Fired, kinds};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use world::Ran;

/// Seeds without a wish.
const SEEDS: u64 = 200;
/// Stack of a simulation: futures of a debug build are large.
const STACK: usize = 16 << 20;
/// What the line begins with that tells the end of a seed.
const RESULT: &str = "simulated: ";
/// Last lines of a seed that broke off.
const LAST_LINES: usize = 12;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|value| value.parse().ok())
}

fn again(seed: u64) -> String {
    format!(
        "reproduce it with: ORCH_SIM_SEED={seed} cargo test -p orch-tests --test simulation one_seed_alone -- --nocapture"
    )
}

/// Runs a seed in a process of its own.
fn run(seed: u64) -> Ran {
    let mut program = Command::new(std::env::current_exe().expect("this program"));
    let program = program
        .args(["--exact", "one_seed_alone", "--nocapture"])
        .env("ORCH_SIM_SEED", seed.to_string())
        .env("ORCH_SIM_BRIEF", "1")
        .output()
        .expect("another process");
    let said = String::from_utf8_lossy(&program.stdout);
    // The test runner's own words may stand before it on the line.
    let result = said.lines().find_map(|line| line.split_once(RESULT)).map(|(_, result)| result);
    result.and_then(|result| serde_json::from_str(result).ok()).unwrap_or_else(|| {
        let told = String::from_utf8_lossy(&program.stderr);
        let mut last: Vec<_> = told.lines().rev().take(LAST_LINES).collect();
        last.reverse();
        Ran::broken_off(seed, format!("it broke off: {}", last.join(" | ")))
    })
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_and_everything_ends() {
    let (first, count) =
        (number("ORCH_TORTURE_FIRST_SEED").unwrap_or(1), number("ORCH_TORTURE_SEEDS").unwrap_or(SEEDS));
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let ran = run(seed);
                    all.lock().expect("no thread panics with it").push(ran);
                }
            });
        }
    });
    let all = all.into_inner().expect("no thread panicked");
    let mut fired = Fired::new();
    for (what, times) in all.iter().flat_map(|ran| &ran.fired) {
        *fired.entry(what.clone()).or_default() += times;
    }
    let failed: Vec<_> = all.iter().filter(|ran| !ran.violations.is_empty()).collect();
    println!(
        "{count} seeds from {first} in {:.1} s: {} s simulated, {} events, {} failed",
        began.elapsed().as_secs_f64(),
        all.iter().map(|ran| ran.millis).sum::<u64>() / 1_000,
        all.iter().map(|ran| ran.events).sum::<usize>(),
        failed.len()
    );
    for (what, times) in &fired {
        println!("  {times:>6} {what}");
    }
    let mut problems = String::new();
    for Ran { seed, violations, .. } in &failed {
        problems += &format!("\nseed {seed}:\n  {}\n  {}", violations.join("\n  "), again(*seed));
    }
    assert!(failed.is_empty(), "{} of {count} seeds failed{problems}", failed.len());
    // A few seeds cannot have everything.
    if count >= SEEDS {
        let missing: Vec<_> =
            kinds().chain(DEEDS).filter(|what| fired.get(*what).is_none_or(|times| *times == 0)).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_in_every_process() {
    for seed in [3, 7, 11] {
        let ran = [run(seed), run(seed), run(seed)].map(|ran| (ran.hash, ran.events, ran.violations));
        assert!(ran[0].1 > 0 && ran.iter().all(|other| *other == ran[0]), "seed {seed} differs: {ran:?}");
    }
    assert_ne!(run(3).hash, run(7).hash, "seeds decide");
}

#[test]
fn one_seed_alone() {
    let Some(seed) = number("ORCH_SIM_SEED") else { return };
    let brief = std::env::var_os("ORCH_SIM_BRIEF").is_some();
    coordinator::prepare();
    // A fresh thread: the randomness of the standard library is per thread.
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || world::run(seed, !brief));
    let ran = thread.expect("a thread").join().expect("the simulation does not break off");
    if brief {
        return println!("{RESULT}{}", serde_json::to_string(&ran).expect("plain data"));
    }
    println!(
        "seed {seed}: {} events in {:.1} s simulated, hash {:016x}",
        ran.events,
        std::time::Duration::from_millis(ran.millis).as_secs_f64(),
        ran.hash
    );
    assert!(ran.violations.is_empty(), "seed {seed}:\n  {}", ran.violations.join("\n  "));
}
