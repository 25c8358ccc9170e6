//! `bench`: what this installation does with tasks that do nothing, or next to nothing. It measures the coordinator, the
//! agents and the way between them as they stand, over mTLS and with everything durable; nothing of what a model would take.
//!
//! | Module | Measures |
//! |---|---|
//! | [`noop`] | one run of many tasks that do nothing |
//! | [`spawn`] | one run of many tasks that start `true`, beside what this machine can start at all |
//! | [`latency`] | one task after the other |
//! | [`submit`] | runs of one task, submitted by many clients at once |
//! | [`agents`] | agents that do nothing, held from here |
//! | [`watch`] | a paced run, with and without watchers |
//! | [`queue`] | runs that stay queued, and what another client notices of their submits |
//! | [`calls`] | every harmless call, on a fleet at work |
//! | [`played`] | sessions of agents that this program plays |
//! | [`staffed`] | a run of which every task lies with such an agent |
//! | [`line`] | connections of clients that are to take little of the machine |

use std::time::Duration;

use orch_proto::v1::{self, Run, RunSpec, TaskSpec, TaskState};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::shown;
use crate::args::Format;
use crate::args::work::{BenchArgs, Scenario};
use crate::client::submission::Submission;
use crate::client::{Client, incomplete, new_request_id};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::words::run_ended;
use crate::refs::Reference;
use crate::session::Session;

mod agents;
mod calls;
mod latency;
mod line;
mod noop;
mod played;
mod process;
mod queue;
mod spawn;
mod staffed;
mod submit;
mod watch;

pub(crate) use agents::AgentsReport;
pub(crate) use calls::CallsReport;
pub(crate) use latency::LatencyReport;
pub(crate) use noop::NoopReport;
pub(crate) use queue::QueueReport;
pub(crate) use spawn::SpawnReport;
pub(crate) use submit::SubmitReport;
pub(crate) use watch::WatchReport;

/// How often the count is asked for: rare enough not to be what is measured, and the error of the time.
const POLL: Duration = Duration::from_millis(10);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);

/// `orchctl bench`.
pub(crate) async fn run(session: &Session, args: BenchArgs) -> Outcome {
    let scenario = args.what.or(args.scenario).unwrap_or(Scenario::Noop);
    let bench = Bench { session, client: session.client()?, args };
    match scenario {
        Scenario::Noop => noop::run(&bench).await,
        Scenario::Spawn => spawn::run(&bench).await,
        Scenario::Latency => latency::run(&bench).await,
        Scenario::Submit => submit::run(&bench).await,
        Scenario::Agents => Box::pin(agents::run(&bench)).await,
        Scenario::Watch => Box::pin(watch::run(&bench)).await,
        Scenario::Queue => Box::pin(queue::run(&bench)).await,
        Scenario::Calls => Box::pin(calls::run(&bench)).await,
    }
}

/// What every scenario needs.
struct Bench<'a> {
    session: &'a Session,
    client: Client,
    args: BenchArgs,
}

impl Bench<'_> {
    fn out(&self) -> &Out {
        &self.session.out
    }

    fn tasks(&self, usual: u32) -> u32 {
        self.args.tasks.unwrap_or(usual)
    }

    /// Submits a run and waits until it ended.
    async fn through(&self, spec: RunSpec) -> Outcome<Through> {
        let tasks = u32::try_from(spec.tasks.len()).unwrap_or(u32::MAX);
        let mut progress = Progress::new(self.out());
        let start = Instant::now();
        let run = submit_run(&self.client, spec).await?;
        let acknowledged = start.elapsed();
        let reference = Reference::parse(&run.r#ref)?;
        loop {
            let run = self.client.run(&reference).await?;
            if run_ended(run.state()) {
                return Ok(Through { took: start.elapsed(), acknowledged, tasks, run });
            }
            progress.tell(|| format!("{} of {tasks}", done(&run)));
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A run that ended.
struct Through {
    run: Run,
    tasks: u32,
    acknowledged: Duration,
    /// From before the submit until it was seen to have ended.
    took: Duration,
}

impl Through {
    fn succeeded(&self) -> u32 {
        done(&self.run)
    }

    fn tasks_per_s(&self) -> f64 {
        round(f64::from(self.tasks) / self.took.as_secs_f64())
    }

    /// A run in which not everything succeeded measured something else.
    fn whole(&self) -> Outcome {
        let (succeeded, tasks) = (self.succeeded(), self.tasks);
        if succeeded == tasks {
            return Ok(exit::DONE);
        }
        Err(Failure::new(exit::FAILED, format!("only {succeeded} of {tasks} tasks succeeded"))
            .help(format!("orchctl ls {} --state failed", self.run.r#ref)))
    }
}

/// How far it is, on stderr, for a person who looks at it.
struct Progress<'a> {
    out: &'a Out,
    since: Instant,
    told: Instant,
}

impl<'a> Progress<'a> {
    fn new(out: &'a Out) -> Self {
        let now = Instant::now();
        Self { out, since: now, told: now }
    }

    fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.told.elapsed() >= TELL && self.out.stderr().is_terminal() {
            self.told = Instant::now();
            self.out.hint(&format!("{} after {:.0} s", text(), self.since.elapsed().as_secs_f64()));
        }
    }

    /// Waits for `work` and tells meanwhile what `text` says.
    async fn during<T>(&mut self, work: impl Future<Output = T>, text: impl Fn() -> String) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(TELL) => self.tell(&text),
            }
        }
    }
}

/// What is measured, and what else the figures depend on.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Place {
    coordinator_version: String,
    client_version: String,
    /// Agents that take work, all their slots together, and those of them that were free.
    agents: usize,
    slots: u32,
    free_slots: u32,
    /// Cores of the machine that asks, and its load of the last minute before it began.
    client_cores: usize,
    load_average: Option<f64>,
    /// Everything that was acknowledged was on disk.
    durable: bool,
}

impl Place {
    async fn of(client: &Client) -> Outcome<Self> {
        let status = client.status().await?;
        let ready = status.agents.iter().filter(|count| count.state() == v1::AgentState::Ready);
        let free_slots = match &status.demand {
            Some(demand) => demand.free_slots,
            None => status.slots.saturating_sub(status.slots_used),
        };
        Ok(Self {
            agents: ready.map(|count| count.count as usize).sum(),
            slots: status.slots,
            free_slots,
            client_cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_average: process::load_average(),
            coordinator_version: status.version,
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            durable: true,
        })
    }

    /// The same where there must be somebody to run a task.
    async fn with_slots(client: &Client) -> Outcome<Self> {
        let place = Self::of(client).await?;
        if place.slots == 0 {
            return Err(Failure::new(exit::FAILED, "there is no agent with slots to measure")
                .help("orchctl agents says who is there; orchctl dev starts a fleet on this machine"));
        }
        Ok(place)
    }

    fn sentence(&self) -> String {
        let load = self.load_average.map_or_else(String::new, |load| format!(", load {load:.2} before"));
        format!(
            "coordinator {}, client {}, {} agents, {} slots ({} free at the start), everything durable; this machine has {} \
             cores{load}, shared with whatever else runs on it",
            self.coordinator_version,
            self.client_version,
            self.agents,
            self.slots,
            self.free_slots,
            self.client_cores,
        )
    }
}

/// Prints a report. There is no one name where there is no one run.
fn print<T: Serialize + JsonSchema>(
    out: &Out,
    report: &T,
    run: &str,
    place: &Place,
    lines: &[String],
) -> Outcome<()> {
    if out.format == Format::Name && run.is_empty() {
        return Ok(());
    }
    shown::one(out, report, run, || {
        lines.iter().try_for_each(|line| out.line(line))?;
        out.line(&place.sentence())
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Percentiles {
    /// In milliseconds, by nearest rank; zeros of nothing.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| Self::ranked(&times, percent);
        Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }

    /// The same of one percentage.
    fn at(times: &[Duration], percent: usize) -> f64 {
        let mut times = times.to_vec();
        times.sort_unstable();
        Self::ranked(&times, percent)
    }

    fn ranked(sorted: &[Duration], percent: usize) -> f64 {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(0.0, |time| millis(*time))
    }

    fn line(&self, name: &str) -> String {
        format!(
            "{name}  p50 {:.2} ms  p90 {:.2} ms  p99 {:.2} ms  max {:.2} ms",
            self.p50, self.p90, self.p99, self.max
        )
    }
}

async fn submit_run(client: &Client, spec: RunSpec) -> Outcome<Run> {
    let submission = Submission { spec, request_id: new_request_id(), validate_only: false };
    client.submit(submission).await?.run.ok_or_else(|| incomplete("SubmitRun"))
}

/// A run of so many tasks of one kind.
fn spec(tasks: u32, kind: impl Fn() -> TaskSpec) -> RunSpec {
    let task = |number| TaskSpec { task_id: format!("n{number}"), ..kind() };
    RunSpec { name: "bench".to_owned(), tasks: (0..tasks).map(task).collect(), ..RunSpec::default() }
}

fn done(run: &Run) -> u32 {
    run.counts.iter().filter(|count| count.state() == TaskState::Succeeded).map(|count| count.count).sum()
}

fn millis(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1e3)
}

/// To the thousandth: more is noise.
fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests;
