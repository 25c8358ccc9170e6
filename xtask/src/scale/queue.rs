//! Nearly a million queued tasks that nobody may take: how fast runs of them are acknowledged, what another client notices, what they
//! take in memory, whether other tasks are dispatched as fast as before, and how long the coordinator takes to start with them.
//!
//! Knows the order. Refuses to know how a scenario is measured.

use anyhow::Context as _;

use super::Take;
use super::stage::{Agent, Coordinator, Stage};
use crate::measure::machine::resident_mb;
use crate::measure::results::Sample;

/// Runs of the usual size; one that is smaller follows, because the coordinator takes no more than a million tasks, and those
/// of the other client and of the dispatch come on top.
const RUNS: u32 = 9;
/// How often the rate of dispatch is measured; the middle one counts.
const RATES: usize = 5;
/// Slots of the agent, as in the other tables.
const SLOTS: u32 = 2;

pub(super) fn measure(stage: &Stage<'_>, take: &mut Take<'_>) -> anyhow::Result<()> {
    let few = few(stage);
    let few = few.unwrap_or_else(|error| {
        take("dispatch", Err(error));
        f64::NAN
    });
    stage.interrupt.check()?;
    let mut coordinator = match Coordinator::start(stage) {
        Ok(coordinator) => coordinator,
        Err(error) => {
            take("queue", Err(error));
            return stage.interrupt.check();
        }
    };
    take("queue", fill(stage, &coordinator));
    stage.interrupt.check()?;
    if few.is_finite() {
        take("dispatch", many(stage, &coordinator, few));
        stage.interrupt.check()?;
    }
    take("start", starts(stage, &mut coordinator));
    stage.interrupt.check()
}

/// Tasks of one run.
fn tasks(stage: &Stage<'_>) -> u32 {
    stage.count(100_000, 1_000)
}

/// Dispatch with next to nothing queued, on a coordinator of its own.
fn few(stage: &Stage<'_>) -> anyhow::Result<f64> {
    let coordinator = Coordinator::start(stage)?;
    coordinator.bench(&["queue", "--alone", "--keep", "--runs", "1", "--tasks", "1000"])?;
    rate(stage, &coordinator)
}

fn many(stage: &Stage<'_>, coordinator: &Coordinator<'_>, few: f64) -> anyhow::Result<Sample> {
    let many = rate(stage, coordinator)?;
    let figures = [("few_per_s", few), ("many_per_s", many), ("ratio", many / few)];
    Ok(Sample::of(figures, "cargo xtask scale --only queue"))
}

/// Tasks that do nothing in a second, the middle of some runs.
fn rate(stage: &Stage<'_>, coordinator: &Coordinator<'_>) -> anyhow::Result<f64> {
    let _agent = Agent::start(coordinator, SLOTS, &[], &[])?;
    let tasks = stage.count(10_000, 300).to_string();
    let mut rates = Vec::new();
    for _ in 0..RATES {
        let sample = coordinator.bench(&["noop", "--tasks", &tasks])?;
        rates.push(*sample.figures.get("tasks_per_s").context("bench noop told no rate")?);
        stage.interrupt.check()?;
    }
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().context("no rate was measured")
}

/// Fills the queue: one run, one beside another client, all but one, and one beside another client again.
fn fill(stage: &Stage<'_>, coordinator: &Coordinator<'_>) -> anyhow::Result<Sample> {
    let tasks = tasks(stage).to_string();
    let last = stage.count(80_000, 800).to_string();
    stage.settle();
    let idle = resident_mb(coordinator.pid()?);
    let submit = |runs: u32, tasks: &str, beside: bool| {
        let runs = runs.to_string();
        let mut words = vec!["queue", "--keep", "--runs", &runs, "--tasks", tasks];
        words.extend((!beside).then_some("--alone"));
        coordinator.bench(&words)
    };
    let first = submit(1, &tasks, false)?;
    stage.settle();
    let tenth = resident_mb(coordinator.pid()?);
    let beside_few = submit(1, &tasks, true)?;
    let rest = submit(RUNS - 2, &tasks, false)?;
    let beside_many = submit(1, &last, true)?;
    stage.settle();
    let full = resident_mb(coordinator.pid()?);
    let most = |name: &str, of: &[&Sample]| {
        of.iter().filter_map(|sample| sample.figures.get(name)).copied().fold(f64::NAN, f64::max)
    };
    let acknowledged = most("acknowledged_ms", &[&first, &rest]);
    let beside = [&beside_few, &beside_many];
    let figures = [
        ("acknowledged_s", acknowledged / 1e3),
        ("slowest_s", most("acknowledged_max_ms", &[&first, &beside_few, &rest, &beside_many]) / 1e3),
        ("beside_another_s", most("acknowledged_ms", &beside) / 1e3),
        ("others_submit_p50_ms", most("meanwhile.submit_p50_ms", &beside)),
        ("others_submit_p99_ms", most("meanwhile.submit_p99_ms", &beside)),
        ("others_submit_max_ms", most("meanwhile.submit_max_ms", &beside)),
        ("others_lookup_p99_ms", most("meanwhile.lookup_p99_ms", &beside)),
        ("idle_mb", idle),
        ("tenth_above_idle_mb", tenth - idle),
        ("above_idle_mb", full - idle),
    ];
    Ok(Sample::of(figures, "cargo xtask scale --only queue"))
}

/// From the start of the process until it is ready, after a crash and after an end in order.
fn starts(stage: &Stage<'_>, coordinator: &mut Coordinator<'_>) -> anyhow::Result<Sample> {
    coordinator.kill();
    let after_crash = coordinator.start_again()?;
    stage.settle();
    let memory = resident_mb(coordinator.pid()?);
    coordinator.end();
    let after_end = coordinator.start_again()?;
    let queued = coordinator.value(&["status"])?["queued"].as_f64().context("status tells no queue")?;
    let figures = [
        ("after_crash_s", after_crash.as_secs_f64()),
        ("after_end_s", after_end.as_secs_f64()),
        ("memory_mb", memory),
        ("queued", queued),
    ];
    Ok(Sample::of(figures, "cargo xtask scale --only queue"))
}
