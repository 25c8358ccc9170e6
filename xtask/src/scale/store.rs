//! What the data directory takes up after a million tasks have come and gone, against what it holds.
//! Refuses to know what lies where in it.

use std::time::Instant;

use anyhow::Context as _;

use super::stage::{Agent, Coordinator, Stage};
use crate::measure::machine::disk_bytes;
use crate::measure::results::Sample;

/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;
/// What the directory may take up whatever it holds, in MiB.
const SLACK: f64 = 64.0;
/// How many times what it holds it may take up.
const TIMES: f64 = 4.0;

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let coordinator = Coordinator::start(stage)?;
    let _agent = Agent::start(&coordinator, 2, &[], &[])?;
    let (runs, tasks) = (stage.count(100, 3), stage.count(10_000, 300));
    let words = ["noop", "--tasks", &tasks.to_string()].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let start = Instant::now();
    for _ in 0..runs {
        coordinator.bench(&words)?;
        stage.interrupt.check()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    stage.settle();
    let status = coordinator.value(&["admin", "status"])?;
    let live = status["live_bytes"].as_f64().context("admin status tells no live_bytes")? / MIB;
    let data = disk_bytes(&coordinator.data_dir()) as f64 / MIB;
    let figures = [
        ("tasks", f64::from(runs) * f64::from(tasks)),
        ("seconds", seconds),
        ("live_mib", live),
        ("data_mib", data),
        ("times_live", data / live),
        ("of_the_bound", data / TIMES.mul_add(live, SLACK)),
    ];
    Ok(Sample::of(figures, "cargo xtask scale --only store"))
}
