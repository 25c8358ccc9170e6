//! One run of many tasks that start `true`, supervision included, beside what this machine can start and wait for at all.
//! The limit is measured before and after the run, on as many threads as there are slots, and the mean is taken: a machine
//! that does other things as well is as slow for the one as for the other.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{Agent, AgentState, CommandTask, TaskSpec};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Bench, Place, print, process, round, spec};
use crate::exit;
use crate::failure::{Failure, Outcome};

/// Tasks without a word about them.
const TASKS: u32 = 2_000;
/// What is started.
const PROGRAM: &str = "true";
/// How long the limit is measured, each time.
const LIMIT_TIME: Duration = Duration::from_millis(1_500);
/// Most threads that measure it: more slots than that are no one machine's.
const MOST_THREADS: u32 = 256;

/// One run of many tasks that start a program.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SpawnReport {
    pub(super) scenario: &'static str,
    pub(super) tasks: u32,
    pub(super) succeeded: u32,
    pub(super) tasks_per_s: f64,
    pub(super) seconds: f64,
    /// What this machine starts and waits for at all, on as many threads as the agents have slots.
    pub(super) spawn_limit_per_s: f64,
    /// Part of that; absent where an agent is on another machine.
    pub(super) share_of_limit: Option<f64>,
    /// Slots of the agents that may start the program.
    pub(super) spawn_slots: u32,
    #[serde(flatten)]
    pub(super) place: Place,
}

impl SpawnReport {
    pub(super) fn lines(&self) -> Vec<String> {
        let share = match self.share_of_limit {
            Some(share) => format!("{:.0} % of", share * 100.0),
            None => "agents are on other machines, so do not compare with".to_owned(),
        };
        vec![
            format!(
                "{} tasks that start `{PROGRAM}`, one run, {} slots: {:.0} tasks/s ({:.2} s)",
                self.tasks, self.spawn_slots, self.tasks_per_s, self.seconds
            ),
            format!(
                "{share} the {:.0} a second that this machine starts and waits for at all",
                self.spawn_limit_per_s
            ),
        ]
    }
}

fn task() -> TaskSpec {
    let command = CommandTask { program: PROGRAM.to_owned(), args: Vec::new() };
    TaskSpec { runner: Some(Runner::Command(command)), ..TaskSpec::default() }
}

pub(super) async fn run(bench: &Bench<'_>) -> Outcome {
    let place = Place::with_slots(&bench.client).await?;
    let agents = able(bench.client.agents().await?)?;
    let slots: u32 = agents.iter().map(|agent| agent.slots).sum();
    let host = process::host_name();
    let here = agents.iter().all(|agent| agent.host_name == host);
    let before = limit(slots).await?;
    let through = bench.through(spec(bench.tasks(TASKS), task)).await?;
    let limit = round(f64::midpoint(before, limit(slots).await?));
    let report = SpawnReport {
        scenario: "spawn",
        tasks: through.tasks,
        succeeded: through.succeeded(),
        tasks_per_s: through.tasks_per_s(),
        seconds: round(through.took.as_secs_f64()),
        spawn_limit_per_s: limit,
        share_of_limit: here.then(|| round(through.tasks_per_s() / limit)),
        spawn_slots: slots,
        place,
    };
    print(bench.out(), &report, &through.run.r#ref, &report.place, &report.lines())?;
    through.whole()
}

/// The agents that may start the program.
fn able(mut agents: Vec<Agent>) -> Outcome<Vec<Agent>> {
    let offer = format!("program={PROGRAM}");
    agents.retain(|agent| agent.state() == AgentState::Ready && agent.capabilities.contains(&offer));
    if agents.is_empty() {
        let why = format!("no agent that takes work may start `{PROGRAM}`, so there is nothing to measure");
        return Err(Failure::new(exit::FAILED, why).help(format!(
            "allow it: orchctl dev --allow-command {PROGRAM}, or orch-agent --allow-command {PROGRAM}"
        )));
    }
    Ok(agents)
}

/// Programs that this machine starts and waits for in a second.
async fn limit(threads: u32) -> Outcome<f64> {
    let program = found().ok_or_else(|| {
        Failure::new(exit::FAILED, format!("there is no `{PROGRAM}` on the PATH to measure the limit with"))
    })?;
    let start = Instant::now();
    let mut working = JoinSet::new();
    for _ in 0..threads.clamp(1, MOST_THREADS) {
        let program = program.clone();
        working.spawn_blocking(move || {
            let mut count = 0_u32;
            while start.elapsed() < LIMIT_TIME {
                Command::new(&program).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
                count += 1;
            }
            Ok::<_, std::io::Error>(count)
        });
    }
    let mut started = 0;
    while let Some(count) = working.join_next().await {
        let count = count.map_err(|error| Failure::new(exit::BUG, "a thread ended").cause(error))?;
        started += count.map_err(|error| {
            Failure::new(exit::FAILED, format!("cannot start {}", program.display())).cause(error)
        })?;
    }
    Ok(f64::from(started) / start.elapsed().as_secs_f64())
}

fn found() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_agent_may_start_the_program_it_says_how_to_allow_it() {
        let agent = |state: AgentState, offers: &str| Agent {
            state: state.into(),
            capabilities: vec![offers.to_owned()],
            ..Agent::default()
        };
        let failure = able(vec![
            agent(AgentState::Ready, "program=false"),
            agent(AgentState::Draining, "program=true"),
        ])
        .unwrap_err();
        assert!(failure.text(false).contains("--allow-command true"), "{}", failure.text(false));
        assert_eq!(able(vec![agent(AgentState::Ready, "program=true")]).unwrap().len(), 1);
    }
}
