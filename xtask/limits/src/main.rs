//! What this machine can do at best, measured in the same run as orch and its peers: one line of JSON on stdout.
//!
//! Knows the plainest form of each step that every queue must take: a durable write, a round trip, a process, a call.
//! Refuses to know what anybody builds of them. Usage: `xtask-limits DIRECTORY [DIVISOR]`; every count is divided by DIVISOR.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

mod disk;
mod rpc;
mod spawn;
mod wire;

/// How often each step is taken.
#[derive(Debug, Clone, Copy)]
struct Counts {
    syncs: usize,
    trips: usize,
    processes: usize,
    calls: usize,
}

impl Counts {
    /// Together some ten seconds on two cores; at least 64 of each, so that every caller at once has one.
    fn divided(by: usize) -> Self {
        let part = |count: usize| (count / by.max(1)).max(64);
        Self { syncs: part(2_000), trips: part(20_000), processes: part(2_000), calls: part(20_000) }
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(dir) = arguments.next() else { bail!("usage: xtask-limits DIRECTORY [DIVISOR]") };
    let divisor = arguments.next().map_or(Ok(1), |text| text.parse()).context("DIVISOR is a number")?;
    let dir = tempfile::tempdir_in(&dir).with_context(|| format!("cannot make a directory in {dir}"))?;
    let found = measure(dir.path(), Counts::divided(divisor))?;
    say(&found);
    Ok(())
}

fn measure(dir: &Path, counts: Counts) -> anyhow::Result<Value> {
    Ok(json!({
        "fdatasync": times(disk::appends(dir, counts.syncs)?),
        "loopback": times(wire::round_trips(counts.trips)?),
        "spawn_1": { "per_s": spawn::rate(counts.processes, 1)? },
        "spawn_2": { "per_s": spawn::rate(counts.processes * 2, 2)? },
        "rpc": rpc::measure(dir, counts.calls)?,
    }))
}

/// Percentiles by nearest rank in microseconds, and how many there would be in a second one after the other.
fn times(mut took: Vec<Duration>) -> Value {
    took.sort_unstable();
    let at = |percent: usize| {
        let rank = (took.len() * percent).div_ceil(100).max(1);
        took.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    let all: Duration = took.iter().sum();
    json!({ "p50_us": at(50), "p99_us": at(99), "per_s": per_second(took.len(), all) })
}

/// So many in so long.
fn per_second(count: usize, took: Duration) -> f64 {
    // No count here is near the 2^32 from which this would lose digits.
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64().max(f64::EPSILON)
}

/// Runs `step` so often and says how long each took.
fn timed(count: usize, mut step: impl FnMut() -> std::io::Result<()>) -> std::io::Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        step()?;
        took.push(start.elapsed());
    }
    Ok(took)
}

/// The one place that prints.
#[expect(clippy::print_stdout, reason = "a command line tool for developers")]
fn say(found: &Value) {
    println!("{found}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let counts = Counts { syncs: 2, trips: 2, processes: 2, calls: 64 };
        let found = measure(dir.path(), counts).unwrap();
        for path in [
            "/fdatasync/p50_us",
            "/loopback/p99_us",
            "/spawn_1/per_s",
            "/spawn_2/per_s",
            "/rpc/unary_1/p50_us",
            "/rpc/unary_64/per_s",
            "/rpc/bidi/p50_us",
            "/rpc/bidi_pipelined/per_s",
            "/rpc/connect/p50_us",
        ] {
            let value = found.pointer(path).and_then(Value::as_f64);
            assert!(value.is_some_and(|value| value > 0.0), "{path} in {found}");
        }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let found = times((1..=100).rev().map(Duration::from_micros).collect());
        assert_eq!((found["p50_us"].as_f64(), found["p99_us"].as_f64()), (Some(50.0), Some(99.0)));
    }
}
