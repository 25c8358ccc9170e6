//! Agents that do nothing, held from here: how long each waits to be welcomed, what it costs the coordinator in memory, and
//! what its heartbeats cost in processor time. They offer no runner, so no task comes to them, and are forgotten afterwards.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::reconnect::Reconnected;
use super::played::{self, Authority, Offer, Played};
use super::process::{self, Process};
use super::{Bench, Percentiles, Place, Progress, print, round, staffed};
use crate::exit;
use crate::failure::{Failure, Outcome};

pub(super) mod reconnect;

/// What whoever leaves in the middle should know.
const LEFT: &str = "agents named bench-… stay behind as offline: orchctl agents remove NAME";

/// Agents that do nothing.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AgentsReport {
    pub(super) scenario: &'static str,
    /// Agents that were held at the end.
    pub(super) held: u32,
    /// Sessions that ended meanwhile.
    pub(super) lost: u32,
    /// Those that joined at a time.
    pub(super) at_once: u32,
    /// From before the dial until the coordinator's first word.
    pub(super) welcome_p50_ms: f64,
    pub(super) welcome_p99_ms: f64,
    pub(super) welcome_max_ms: f64,
    /// From the first dial until all were welcomed.
    pub(super) joined_seconds: f64,
    /// How long they were held after that.
    pub(super) held_seconds: f64,
    /// Resident memory of the coordinator above what it was before; absent where it is on another machine.
    pub(super) bytes_per_agent: Option<u64>,
    /// Processor time of the coordinator while they were held, in percent of a core for 1,000 agents.
    pub(super) cpu_percent_per_1000: Option<f64>,
    /// How they came back from restarts of the coordinator; absent where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reconnected: Option<Reconnected>,
    #[serde(flatten)]
    pub(super) place: Place,
}

impl AgentsReport {
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{} idle agents joined in {:.2} s, {} at a time, and were held for {:.0} s; {} were lost",
                self.held + self.lost,
                self.joined_seconds,
                self.at_once,
                self.held_seconds,
                self.lost
            ),
            format!(
                "dial to welcome  p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms",
                self.welcome_p50_ms, self.welcome_p99_ms, self.welcome_max_ms
            ),
        ];
        if let Some(reconnected) = &self.reconnected {
            lines.push(reconnected.line());
            return lines;
        }
        match (self.bytes_per_agent, self.cpu_percent_per_1000) {
            (Some(bytes), Some(cpu)) => lines.push(format!(
                "coordinator: {:.1} kB of memory an agent, {cpu:.2} % of a core for 1,000 agents",
                bytes as f64 / 1e3
            )),
            _ => lines.push("the coordinator's memory is not to be seen from here".to_owned()),
        }
        lines
    }
}

pub(super) async fn run(bench: &Bench<'_>) -> Outcome {
    let place = Place::of(&bench.client).await?;
    let (count, at_once) = (bench.args.agents, bench.args.at_once);
    let authority = Authority::open(bench)?;
    process::open_many_files();
    bench.session.when_left(LEFT);
    let mut progress = Progress::new(bench.out());
    let mut seats = Vec::new();
    for number in 1..=count {
        seats.push(authority.agent(number)?);
        progress.tell(|| format!("{number} of {count} certificates"));
    }
    let names: Vec<String> = seats.iter().map(|seat| seat.name.clone()).collect();
    let coordinator = Process::listening_at(authority.endpoint());
    let before = coordinator.and_then(Process::memory);
    let start = tokio::time::Instant::now();
    // Those that are not to come back hold nothing: they offer no runner, so that no task comes to their slots.
    let offer = match bench.args.reconnects {
        0 => Offer { slots: 1, ..Offer::default() },
        _ => staffed::offer(authority.tag()),
    };
    let joined = played::join_all(seats, &offer, at_once, &mut progress).await;
    let joined_seconds = start.elapsed().as_secs_f64();
    let measured = match joined {
        Ok(agents) => held(bench, authority.tag(), agents, coordinator, &mut progress).await,
        Err(failure) => Err(failure),
    };
    let left = played::forget(bench, names).await;
    if left > 0 {
        bench.out().note(&format!("{left} agents named bench-{}-… stay behind as offline", authority.tag()));
    }
    let held = measured?;
    let figures = Percentiles::of(held.welcomes);
    let memory = before.zip(held.memory).map(|(before, after)| after.saturating_sub(before));
    let report = AgentsReport {
        scenario: "agents",
        held: count - held.lost,
        lost: held.lost,
        at_once,
        welcome_p50_ms: figures.p50,
        welcome_p99_ms: figures.p99,
        welcome_max_ms: figures.max,
        joined_seconds: round(joined_seconds),
        held_seconds: round(held.seconds),
        bytes_per_agent: memory.map(|bytes| bytes / u64::from(count)),
        cpu_percent_per_1000: held.cpu.map(|share| round(share * 100.0 * 1_000.0 / f64::from(count))),
        reconnected: held.reconnected,
        place,
    };
    print(bench.out(), &report, "", &report.place, &report.lines())?;
    let leases_lost = report.reconnected.as_ref().map_or(0, |reconnected| reconnected.leases_lost);
    if leases_lost > 0 {
        return Err(Failure::new(exit::FAILED, format!("{leases_lost} leases were lost")));
    }
    if report.lost > 0 {
        return Err(Failure::new(exit::FAILED, format!("{} of {count} sessions did not hold", report.lost)));
    }
    Ok(exit::DONE)
}

/// Holds them, with or without restarts of the coordinator.
async fn held(
    bench: &Bench<'_>,
    tag: &str,
    agents: Vec<Played>,
    coordinator: Option<Process>,
    progress: &mut Progress<'_>,
) -> Outcome<Held> {
    if bench.args.reconnects == 0 {
        return Ok(hold_all(agents, bench.args.hold, coordinator, progress).await);
    }
    let welcomes = agents.iter().map(|agent| agent.welcome).collect();
    let start = tokio::time::Instant::now();
    let reconnected = reconnect::measure(bench, tag, agents, progress).await?;
    Ok(Held {
        welcomes,
        lost: reconnected.missing,
        memory: None,
        cpu: None,
        seconds: start.elapsed().as_secs_f64(),
        reconnected: Some(reconnected),
    })
}

/// What was seen while they were held.
struct Held {
    welcomes: Vec<Duration>,
    lost: u32,
    memory: Option<u64>,
    /// Of a core.
    cpu: Option<f64>,
    seconds: f64,
    reconnected: Option<Reconnected>,
}

async fn hold_all(
    agents: Vec<Played>,
    hold: Duration,
    coordinator: Option<Process>,
    progress: &mut Progress<'_>,
) -> Held {
    let welcomes = agents.iter().map(|agent| agent.welcome).collect();
    let (stop, stopped) = watch::channel(false);
    let (_, idle) = watch::channel(0);
    let mut holding = JoinSet::new();
    for agent in agents {
        holding.spawn(agent.hold(idle.clone(), stopped.clone()));
    }
    let cpu_before = coordinator.and_then(Process::cpu_seconds);
    progress.during(tokio::time::sleep(hold), || "held".to_owned()).await;
    let cpu_after = coordinator.and_then(Process::cpu_seconds);
    let memory = coordinator.and_then(Process::memory);
    // Whoever is gone needs no word.
    let _ = stop.send(true);
    let held = holding.join_all().await;
    let cpu = cpu_before.zip(cpu_after).map(|(before, after)| (after - before) / hold.as_secs_f64());
    let lost = held.iter().filter(|left| !left.told).count();
    Held {
        welcomes,
        lost: u32::try_from(lost).unwrap_or(u32::MAX),
        memory,
        cpu,
        seconds: hold.as_secs_f64(),
        reconnected: None,
    }
}
