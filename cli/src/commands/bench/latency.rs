//! One task after the other: from before the submit until a watcher sees the result.

use orch_proto::v1::WatchRunsResponse;
use orch_proto::v1::watch_event::Change;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::{Bench, Percentiles, Place, Progress, noop, print, spec, submit_run};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::words::run_ended;

/// Tasks without a word about them.
const TASKS: u32 = 1_000;
/// Single tasks before the measured ones, so that connections are warm.
const WARM_UP: u32 = 20;

/// One task after the other.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LatencyReport {
    scenario: &'static str,
    tasks: u32,
    /// From before the submit until a watcher saw the result.
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// From before the submit until it was acknowledged.
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    #[serde(flatten)]
    pub(super) place: Place,
    #[serde(skip)]
    times: [Percentiles; 2],
}

impl LatencyReport {
    pub(super) fn new(tasks: u32, results: Percentiles, acks: Percentiles, place: Place) -> Self {
        Self {
            scenario: "latency",
            tasks,
            p50_ms: results.p50,
            p90_ms: results.p90,
            p99_ms: results.p99,
            max_ms: results.max,
            ack_p50_ms: acks.p50,
            ack_p99_ms: acks.p99,
            place,
            times: [results, acks],
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let [results, acks] = &self.times;
        vec![
            format!(
                "{} tasks that do nothing, one after the other ({WARM_UP} more before, to warm up)",
                self.tasks
            ),
            results.line("submit to result at a watcher"),
            acks.line("submit to acknowledgement    "),
        ]
    }
}

pub(super) async fn run(bench: &Bench<'_>) -> Outcome {
    let place = Place::with_slots(&bench.client).await?;
    let tasks = bench.tasks(TASKS);
    let mut events = bench.client.events_from_now().await?;
    let (mut results, mut acks) = (Vec::new(), Vec::new());
    let mut progress = Progress::new(bench.out());
    for number in 0..WARM_UP + tasks {
        let start = Instant::now();
        let run = submit_run(&bench.client, spec(1, noop::task)).await?;
        let acknowledged = start.elapsed();
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
            acks.push(acknowledged);
        }
        progress.tell(|| format!("{number} of {}", WARM_UP + tasks));
    }
    let report = LatencyReport::new(tasks, Percentiles::of(results), Percentiles::of(acks), place);
    print(bench.out(), &report, "", &report.place, &report.lines())?;
    Ok(exit::DONE)
}

/// Whether it tells that the run ended.
pub(super) fn ends(frame: &WatchRunsResponse, run: &str) -> bool {
    frame.events.iter().any(|event| {
        event.run_ref == run
            && matches!(&event.change, Some(Change::Run(changed)) if run_ended(changed.state()))
    })
}
