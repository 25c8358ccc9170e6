//! The agent daemon: its memory when idle, that of its supervisors, and how much of its slots' time is work.
//! Refuses to know what its tasks do.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::stage::{Agent, Coordinator, Stage};
use crate::measure::machine::{resident_mb, running, share_mb};
use crate::measure::orchctl::recorded_after;
use crate::measure::results::Sample;

/// The name of a supervisor's process.
const SUPERVISE: &str = "orch-supervise";
/// How often it is asked whether a run ended.
const LOOK: Duration = Duration::from_millis(20);
/// Longest wait for a run.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// An idle agent, and one with a supervisor in every slot.
pub(super) fn memory(stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let slots = stage.count(100, 5);
    let coordinator = Coordinator::start(stage)?;
    let agent = Agent::start(&coordinator, slots, &["sleep"], &[])?;
    stage.settle();
    let idle = resident_mb(agent.pid());
    let run = submit(&coordinator, slots, "600")?;
    coordinator.wait_for("every task runs", |status| status["running"].as_u64() == Some(u64::from(slots)))?;
    stage.settle();
    let supervisors = running(SUPERVISE, agent.dir());
    let shares: f64 = supervisors.iter().map(|pid| share_mb(*pid)).sum();
    let busy = resident_mb(agent.pid());
    coordinator.ask(&["cancel", "--yes", &run])?;
    wait_for_end(stage, &coordinator, &run)?;
    ensure!(!supervisors.is_empty(), "no supervisor was found below {}", agent.dir().display());
    let figures = [
        ("idle_mb", idle),
        ("busy_mb", busy),
        ("supervisors", supervisors.len() as f64),
        ("supervisors_pss_mb", shares),
    ];
    let program = if stage.orch_agent.is_some() { "orch-agent" } else { "orchctl __agent" };
    Ok(Sample::of(figures, format!("cargo xtask scale --only agent, of {program}")))
}

/// What of the slots' time the tasks themselves take, and how many slots the coordinator says are in use while work waits: with
/// tasks about as long as a run of the real CLI, and with short ones, which show what starting and reaping costs.
pub(super) fn slots(stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let (long, leased) = sleeps(stage, stage.count(100, 8), 0.7)?;
    let (short, _) = sleeps(stage, stage.count(400, 20), 0.1)?;
    let figures = [("busy_share", long), ("short_busy_share", short)];
    // With few tasks none waits when it is looked.
    let figures = figures.into_iter().chain(leased.map(|leased| ("leased_share", leased)));
    Ok(Sample::of(figures, "cargo xtask scale --only slots"))
}

/// Four slots and many times as many tasks: the tasks' share of the slots' time, and the share of the slots that is leased
/// while work waits, if some waited.
fn sleeps(stage: &Stage<'_>, tasks: u32, seconds: f64) -> anyhow::Result<(f64, Option<f64>)> {
    const SLOTS: u32 = 4;
    let coordinator = Coordinator::start(stage)?;
    let _agent = Agent::start(&coordinator, SLOTS, &["sleep"], &[])?;
    stage.settle();
    let run = submit(&coordinator, tasks, &seconds.to_string())?;
    let mut used = Vec::new();
    stage.interrupt.wait("the run ends", RUN_LIMIT, || {
        let status = coordinator.value(&["status"])?;
        if status["queued"].as_u64().unwrap_or_default() > 0 {
            // What was sent ahead counts as used, and is no more than full.
            used.push((status["slots_used"].as_f64().unwrap_or_default() / f64::from(SLOTS)).min(1.0));
        }
        Ok(status["active_runs"].as_u64() == Some(0))
    })?;
    let shown = coordinator.value(&["status", &run])?;
    let succeeded = shown["tasks_by_state"]["succeeded"].as_u64();
    ensure!(succeeded == Some(u64::from(tasks)), "not every task of {run} succeeded");
    let wall = recorded_after(&shown).context("the run tells no times")?;
    let leased = (!used.is_empty()).then(|| used.iter().sum::<f64>() / used.len() as f64);
    Ok((f64::from(tasks) * seconds / (f64::from(SLOTS) * wall), leased))
}

/// Submits a run of so many sleeps and gives its name.
fn submit(coordinator: &Coordinator<'_>, tasks: u32, seconds: &str) -> anyhow::Result<String> {
    let file = write_run(coordinator, tasks, seconds)?;
    Ok(coordinator.ask(&["submit", "-o", "name", "--file", &file])?.trim().to_owned())
}

fn write_run(coordinator: &Coordinator<'_>, tasks: u32, seconds: &str) -> anyhow::Result<String> {
    let task = |number: u32| json!({"task_id": format!("n{number}"), "runner": "command", "program": "sleep", "args": [seconds]});
    let run = json!({"name": "scale", "tasks": (0..tasks).map(task).collect::<Vec<_>>()});
    let path = coordinator.dir().join("run.json");
    std::fs::write(&path, serde_json::to_vec(&run)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

fn wait_for_end(stage: &Stage<'_>, coordinator: &Coordinator<'_>, run: &str) -> anyhow::Result<()> {
    stage.interrupt.wait(&format!("{run} ends"), RUN_LIMIT, || {
        std::thread::sleep(LOOK);
        Ok(coordinator.value(&["status"])?["active_runs"].as_u64() == Some(0))
    })
}
