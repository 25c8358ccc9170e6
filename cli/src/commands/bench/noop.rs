//! One run of many tasks that do nothing: from before the submit until every result is recorded.

use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{NoopTask, TaskSpec};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Bench, Place, millis, print, round, spec};
use crate::failure::Outcome;

/// Tasks without a word about them.
const TASKS: u32 = 20_000;

/// One run of many tasks.
#[derive(Serialize, JsonSchema)]
pub(crate) struct NoopReport {
    pub(super) scenario: &'static str,
    pub(super) tasks: u32,
    pub(super) succeeded: u32,
    pub(super) tasks_per_s: f64,
    /// From before the submit until the last result is on disk.
    pub(super) seconds: f64,
    /// From before the submit until it was acknowledged.
    pub(super) acknowledged_ms: f64,
    #[serde(flatten)]
    pub(super) place: Place,
}

impl NoopReport {
    pub(super) fn lines(&self) -> Vec<String> {
        vec![format!(
            "{} tasks that do nothing, one run: {:.0} tasks/s ({:.2} s from submit to the last result on disk; the submit was \
             acknowledged after {:.1} ms)",
            self.tasks, self.tasks_per_s, self.seconds, self.acknowledged_ms
        )]
    }
}

/// A task that does nothing.
pub(super) fn task() -> TaskSpec {
    TaskSpec { runner: Some(Runner::Noop(NoopTask {})), ..TaskSpec::default() }
}

pub(super) async fn run(bench: &Bench<'_>) -> Outcome {
    let place = Place::with_slots(&bench.client).await?;
    let through = bench.through(spec(bench.tasks(TASKS), task)).await?;
    let report = NoopReport {
        scenario: "noop",
        tasks: through.tasks,
        succeeded: through.succeeded(),
        tasks_per_s: through.tasks_per_s(),
        seconds: round(through.took.as_secs_f64()),
        acknowledged_ms: millis(through.acknowledged),
        place,
    };
    print(bench.out(), &report, &through.run.r#ref, &report.place, &report.lines())?;
    through.whole()
}
