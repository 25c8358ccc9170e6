//! `bench`: what this installation does with tasks that do nothing. It measures the coordinator, the agents and the
//! way between them as they stand, over mTLS and with every result durable; nothing of what a model would take.

use std::time::Duration;

use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::watch_event::Change;
use orch_proto::v1::{NoopTask, Run, RunSpec, TaskSpec, TaskState, WatchRunsResponse};
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

/// Tasks of the noop scenario.
const NOOP_TASKS: u32 = 20_000;
/// Tasks of the latency scenario.
const LATENCY_TASKS: u32 = 1_000;
/// Single tasks before the measured ones, so that connections are warm.
const WARM_UP: u32 = 20;
/// How often the count is asked for: rare enough not to be what is measured, and the error of the time.
const POLL: Duration = Duration::from_millis(25);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);

/// `orchctl bench`.
pub(crate) async fn run(session: &Session, args: BenchArgs) -> Outcome {
    let client = session.client()?;
    let place = Place::of(&client).await?;
    match args.scenario {
        Scenario::Noop => noop(&session.out, &client, place, args.tasks.unwrap_or(NOOP_TASKS)).await,
        Scenario::Latency => latency(&session.out, &client, place, args.tasks.unwrap_or(LATENCY_TASKS)).await,
    }
}

/// What is measured.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Place {
    coordinator_version: String,
    agents: usize,
    slots: u32,
    client_cores: usize,
}

impl Place {
    async fn of(client: &Client) -> Outcome<Self> {
        let status = client.status().await?;
        if status.slots == 0 {
            return Err(Failure::new(exit::FAILED, "there is no agent with slots to measure"));
        }
        let agents =
            client.agents().await?.iter().filter(|agent| agent.runners.iter().any(|r| r == "noop")).count();
        let client_cores = std::thread::available_parallelism().map_or(0, usize::from);
        Ok(Self { coordinator_version: status.version, agents, slots: status.slots, client_cores })
    }

    fn sentence(&self) -> String {
        format!(
            "coordinator {}, {} agents, {} slots; this machine has {} cores, shared with whatever else runs on it",
            self.coordinator_version, self.agents, self.slots, self.client_cores
        )
    }
}

/// One run of many tasks.
#[derive(Serialize, JsonSchema)]
pub(crate) struct NoopReport {
    scenario: &'static str,
    tasks: u32,
    succeeded: u32,
    seconds: f64,
    tasks_per_second: f64,
    submit_seconds: f64,
    #[serde(flatten)]
    place: Place,
}

impl NoopReport {
    fn print(&self, out: &Out, run: &str) -> Outcome<()> {
        shown::one(out, self, run, || {
            out.line(&format!(
                "{} tasks that do nothing, one run: {:.0} tasks/s ({:.2} s from submit to the last result on disk; \
                 the submit was acknowledged after {:.3} s)",
                self.tasks, self.tasks_per_second, self.seconds, self.submit_seconds
            ))?;
            out.line(&self.place.sentence())
        })
    }
}

/// One run of many tasks: from before the submit until every result is recorded.
async fn noop(out: &Out, client: &Client, place: Place, tasks: u32) -> Outcome {
    let start = Instant::now();
    let run = submit(client, spec(tasks)).await?;
    let submitted = start.elapsed();
    let reference = Reference::parse(&run.r#ref)?;
    let mut told = Instant::now();
    let run = loop {
        let run = client.run(&reference).await?;
        if run_ended(run.state()) {
            break run;
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            out.hint(&format!("{} of {tasks} after {:.0} s", done(&run), start.elapsed().as_secs_f64()));
        }
        tokio::time::sleep(POLL).await;
    };
    let seconds = start.elapsed().as_secs_f64();
    let report = NoopReport {
        scenario: "noop",
        tasks,
        succeeded: done(&run),
        seconds: round(seconds),
        tasks_per_second: round(f64::from(tasks) / seconds),
        submit_seconds: round(submitted.as_secs_f64()),
        place,
    };
    report.print(out, &run.r#ref)?;
    if report.succeeded == tasks { Ok(exit::DONE) } else { Err(not_all(&run, report.succeeded, tasks)) }
}

/// One task after the other.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LatencyReport {
    scenario: &'static str,
    tasks: u32,
    /// From before the submit until a watcher saw the result.
    result_ms: Percentiles,
    /// From before the submit until it was acknowledged.
    submit_ms: Percentiles,
    #[serde(flatten)]
    place: Place,
}

impl LatencyReport {
    /// There are as many runs as tasks: it has no name.
    fn print(&self, out: &Out) -> Outcome<()> {
        let line = |name: &str, times: &Percentiles| {
            format!(
                "{name}  p50 {:.2} ms  p90 {:.2} ms  p99 {:.2} ms  max {:.2} ms",
                times.p50, times.p90, times.p99, times.max
            )
        };
        if out.format == Format::Name {
            return Ok(());
        }
        shown::one(out, self, "", || {
            out.line(&format!(
                "{} tasks that do nothing, one after the other ({WARM_UP} more before, to warm up)",
                self.tasks
            ))?;
            out.line(&line("submit to result at a watcher", &self.result_ms))?;
            out.line(&line("submit to acknowledgement    ", &self.submit_ms))?;
            out.line(&self.place.sentence())
        })
    }
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Percentiles {
    /// By nearest rank; zeros of nothing.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| round(time.as_secs_f64() * 1e3))
        };
        Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
}

/// One task after the other: from before the submit until a watcher sees the result.
async fn latency(out: &Out, client: &Client, place: Place, tasks: u32) -> Outcome {
    let mut events = client.events_from_now().await?;
    let (mut results, mut submits) = (Vec::new(), Vec::new());
    let mut told = Instant::now();
    for number in 0..WARM_UP + tasks {
        let start = Instant::now();
        let run = submit(client, spec(1)).await?;
        let submitted = start.elapsed();
        loop {
            let frame = events.message().await.map_err(|status| Failure::from_status(&status))?;
            let Some(frame) = frame else {
                return Err(Failure::new(exit::UNREACHABLE, "the coordinator ended the watch"));
            };
            if ends(&frame, &run.r#ref) {
                break;
            }
        }
        if number >= WARM_UP {
            results.push(start.elapsed());
            submits.push(submitted);
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            out.hint(&format!("{number} of {}", WARM_UP + tasks));
        }
    }
    let report = LatencyReport {
        scenario: "latency",
        tasks,
        result_ms: Percentiles::of(results),
        submit_ms: Percentiles::of(submits),
        place,
    };
    report.print(out)?;
    Ok(exit::DONE)
}

async fn submit(client: &Client, spec: RunSpec) -> Outcome<Run> {
    let submission = Submission { spec, request_id: new_request_id(), validate_only: false };
    client.submit(submission).await?.run.ok_or_else(|| incomplete("SubmitRun"))
}

fn spec(tasks: u32) -> RunSpec {
    let task = |number| TaskSpec {
        task_id: format!("n{number}"),
        runner: Some(Runner::Noop(NoopTask {})),
        ..TaskSpec::default()
    };
    RunSpec { name: "bench".to_owned(), tasks: (0..tasks).map(task).collect(), ..RunSpec::default() }
}

fn done(run: &Run) -> u32 {
    run.counts.iter().filter(|count| count.state() == TaskState::Succeeded).map(|count| count.count).sum()
}

fn ends(frame: &WatchRunsResponse, run: &str) -> bool {
    frame.events.iter().any(|event| {
        event.run_ref == run
            && matches!(&event.change, Some(Change::Run(changed)) if run_ended(changed.state()))
    })
}

fn not_all(run: &Run, succeeded: u32, tasks: u32) -> Failure {
    Failure::new(exit::FAILED, format!("only {succeeded} of {tasks} tasks succeeded"))
        .help(format!("orchctl ls {} --state failed", run.r#ref))
}

/// To the thousandth: more is noise.
fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::args::OutputFormat;
    use crate::output::testing;
    use crate::settings::Settings;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(Percentiles::of(times), Percentiles { p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 });
        assert_eq!(Percentiles::of(vec![Duration::from_millis(3)]).p99, 3.0);
        assert_eq!(Percentiles::of(Vec::new()).p50, 0.0);
    }

    #[test]
    fn every_look_of_the_reports_is_as_it_was() {
        let place = Place { coordinator_version: "0.1.0".into(), agents: 2, slots: 8, client_cores: 4 };
        let noop = NoopReport {
            scenario: "noop",
            tasks: 20_000,
            succeeded: 20_000,
            seconds: 1.25,
            tasks_per_second: 16_000.0,
            submit_seconds: 0.041,
            place: place.clone(),
        };
        let times = || Percentiles { p50: 4.1, p90: 5.25, p99: 9.0, max: 31.5 };
        let latency = LatencyReport {
            scenario: "latency",
            tasks: 1_000,
            result_ms: times(),
            submit_ms: times(),
            place,
        };
        let mut text = String::new();
        for output in OutputFormat::value_variants() {
            let settings = Settings { output: *output, ..Settings::default() };
            let (out, stdout, _) = testing::with(&settings, testing::Look::default());
            noop.print(&out, "bench/7").unwrap();
            latency.print(&out).unwrap();
            text.push_str(&format!("──── -o {output:?}\n{}", stdout.text()));
        }
        insta::assert_snapshot!("bench", text);
    }
}
