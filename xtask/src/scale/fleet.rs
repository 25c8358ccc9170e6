//! Many agents: held idle, and coming back from crashes of the coordinator. They are played by `orchctl bench agents`; this
//! restarts the coordinator under them. Refuses to know what an agent says.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::stage::{Coordinator, Stage};
use crate::measure::process::Daemon;
use crate::measure::results::Sample;

/// Crashes of the coordinator.
const CRASHES: u32 = 2;
/// The longest that agents are held for all crashes together.
const HELD: Duration = Duration::from_secs(150);
/// What the client has beyond that: to make certificates, and to have agents forgotten.
const AROUND: Duration = Duration::from_secs(120);

/// Idle agents, held.
pub(super) fn hold(stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let coordinator = Coordinator::start(stage)?;
    stage.settle();
    let agents = stage.count(10_000, 20).to_string();
    let hold = if stage.quick { "1s" } else { "15s" };
    coordinator.bench(&["agents", "--agents", &agents, "--hold", hold])
}

/// Agents that hold a task each, while the coordinator crashes.
pub(super) fn storm(stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let mut coordinator = Coordinator::start(stage)?;
    let agents = stage.count(1_000, 20);
    let (count, crashes) = (agents.to_string(), CRASHES.to_string());
    let hold = format!("{}s", HELD.as_secs());
    let words =
        ["agents", "--agents", &count, "--at-once", &count, "--reconnects", &crashes, "--hold", &hold];
    let command = coordinator.bench_aside(&words);
    let printed = coordinator.dir().join("bench.json");
    let mut client = Daemon::start(command, &printed, Signal::TERM)?;
    let all = u64::from(agents);
    for _ in 0..CRASHES {
        // All of them hold their task, and are welcome.
        coordinator.wait_for("every agent is connected and works", |status| {
            status["agents"]["ready"].as_u64() == Some(all) && status["running"].as_u64() == Some(all)
        })?;
        client.check()?;
        coordinator.kill();
        coordinator.start_again()?;
    }
    stage.interrupt.wait("the agents are measured", HELD + AROUND, || Ok(client.check().is_err()))?;
    Sample::read(&last_value(&printed), "cargo xtask scale --only storm")
}

/// The value among what a client said.
fn last_value(said: &Path) -> String {
    let text = std::fs::read_to_string(said).unwrap_or_default();
    text.lines().rev().find(|line| line.starts_with('{')).unwrap_or(&text).to_owned()
}
