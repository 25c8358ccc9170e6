//! Runs of many distinct tasks that nobody may take: how long each is waited for until it is acknowledged, and what another
//! client notices of it, which submits and looks up runs of one task all the while.
//! Refuses to know how the coordinator keeps them.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{CommandTask, GetRunRequest, RunSpec, SubmitRunRequest, TaskSpec};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::played::CAPABILITY;
use super::submit::connected;
use super::{Bench, Percentiles, Place, Progress, print, round, staffed, submit_run};
use crate::client::{Client, incomplete, new_request_id};
use crate::exit;
use crate::failure::{Failure, Outcome};

/// Tasks of a run without a word about them.
const TASKS: u32 = 100_000;
/// What makes a task distinct.
const BODY_BYTES: usize = 200;
/// Runs that are cancelled at a time.
const TOGETHER: usize = 16;

/// Runs of many tasks that stay queued.
#[derive(Serialize, JsonSchema)]
pub(crate) struct QueueReport {
    pub(super) scenario: &'static str,
    /// Tasks of each run.
    pub(super) tasks: u32,
    pub(super) runs: u32,
    /// From before a submit until it was acknowledged: the middle one of them, and the longest.
    pub(super) acknowledged_ms: f64,
    pub(super) acknowledged_max_ms: f64,
    pub(super) seconds: f64,
    /// What another client did meanwhile; absent where there was none.
    pub(super) meanwhile: Option<Meanwhile>,
    #[serde(flatten)]
    pub(super) place: Place,
}

/// Calls of another client, one after the other.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Meanwhile {
    pub(super) submits: usize,
    pub(super) submit_p50_ms: f64,
    pub(super) submit_p99_ms: f64,
    pub(super) submit_max_ms: f64,
    /// Of a run that was just submitted.
    pub(super) lookup_p50_ms: f64,
    pub(super) lookup_p99_ms: f64,
}

impl QueueReport {
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} runs of {} tasks that nobody may take: acknowledged after {:.0} ms, the slowest after {:.0} ms",
            self.runs, self.tasks, self.acknowledged_ms, self.acknowledged_max_ms
        )];
        if let Some(other) = &self.meanwhile {
            lines.push(format!(
                "another client meanwhile, {} runs of one task: submit p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; look-up p50 \
                 {:.2} ms, p99 {:.2} ms",
                other.submits,
                other.submit_p50_ms,
                other.submit_p99_ms,
                other.submit_max_ms,
                other.lookup_p50_ms,
                other.lookup_p99_ms
            ));
        }
        lines
    }
}

pub(super) async fn run(bench: &Bench<'_>) -> Outcome {
    let place = Place::of(&bench.client).await?;
    let (tasks, runs) = (bench.tasks(TASKS), bench.args.runs);
    // No agent offers it, so that nobody takes a task.
    let tag = format!("{:08x}", rand::random::<u32>());
    if bench.args.keep {
        bench.session.when_left("what was submitted stays queued: orchctl ls --state running");
    }
    let (stop, stopped) = watch::channel(false);
    let mut others = JoinSet::new();
    if !bench.args.alone {
        for client in connected(bench, 1).await? {
            others.spawn(lone_calls(client, tag.clone(), stopped.clone()));
        }
    }
    let mut progress = Progress::new(bench.out());
    let start = Instant::now();
    let (mut refs, mut took) = (Vec::new(), Vec::new());
    for number in 0..runs {
        let spec = many(tasks, number, &tag);
        let start = Instant::now();
        let submitted =
            progress.during(submit_run(&bench.client, spec), || format!("{number} of {runs} runs"));
        refs.push(submitted.await?.r#ref);
        took.push(start.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    // Whoever is gone needs no word.
    let _ = stop.send(true);
    let mut meanwhile = None;
    while let Some(calls) = others.join_next().await {
        let calls = calls.map_err(|error| Failure::new(exit::BUG, "a client ended").cause(error))??;
        refs.extend(calls.refs.iter().cloned());
        meanwhile = Some(calls.figures());
    }
    if !bench.args.keep {
        cancel(bench, refs).await?;
    }
    let figures = Percentiles::of(took);
    let report = QueueReport {
        scenario: "queue",
        tasks,
        runs,
        acknowledged_ms: figures.p50,
        acknowledged_max_ms: figures.max,
        seconds: round(seconds),
        meanwhile,
        place,
    };
    print(bench.out(), &report, "", &report.place, &report.lines())?;
    Ok(exit::DONE)
}

/// A run of so many tasks, each with an argument of its own.
fn many(tasks: u32, run: u32, tag: &str) -> RunSpec {
    let task = |number: u32| {
        let body = format!("{:.<BODY_BYTES$}", format!("{run}.{number}"));
        let command = CommandTask { program: "true".to_owned(), args: vec![body] };
        TaskSpec {
            task_id: format!("n{number}"),
            runner: Some(Runner::Command(command)),
            requires: [(CAPABILITY.to_owned(), tag.to_owned())].into(),
            ..TaskSpec::default()
        }
    };
    RunSpec { name: "bench".to_owned(), tasks: (0..tasks).map(task).collect(), ..RunSpec::default() }
}

/// What the other client saw.
#[derive(Default)]
struct Calls {
    refs: Vec<String>,
    submits: Vec<Duration>,
    lookups: Vec<Duration>,
}

impl Calls {
    fn figures(self) -> Meanwhile {
        let submits = self.submits.len();
        let (submit, lookup) = (Percentiles::of(self.submits), Percentiles::of(self.lookups));
        Meanwhile {
            submits,
            submit_p50_ms: submit.p50,
            submit_p99_ms: submit.p99,
            submit_max_ms: submit.max,
            lookup_p50_ms: lookup.p50,
            lookup_p99_ms: lookup.p99,
        }
    }
}

/// Submits a run of one task and looks at it, again and again.
async fn lone_calls(client: Client, tag: String, stop: watch::Receiver<bool>) -> Outcome<Calls> {
    let mut calls = Calls::default();
    while !*stop.borrow() {
        let start = Instant::now();
        let spec = Some(super::spec(1, || staffed::task(&tag)));
        let request = SubmitRunRequest { spec, request_id: new_request_id(), validate_only: false };
        // Not tried again: a refusal is no fast call.
        let answer =
            client.runs().submit_run(request).await.map_err(|status| Failure::from_status(&status))?;
        calls.submits.push(start.elapsed());
        let run = answer.into_inner().run.ok_or_else(|| incomplete("SubmitRun"))?.r#ref;
        let start = Instant::now();
        let request = GetRunRequest { r#ref: run.clone() };
        client.runs().get_run(request).await.map_err(|status| Failure::from_status(&status))?;
        calls.lookups.push(start.elapsed());
        calls.refs.push(run);
    }
    Ok(calls)
}

async fn cancel(bench: &Bench<'_>, refs: Vec<String>) -> Outcome<()> {
    let cancelled = stream::iter(refs)
        .map(|run| async move { bench.client.cancel(&run, "the measurement is over").await.map(drop) });
    let mut cancelled = std::pin::pin!(cancelled.buffer_unordered(TOGETHER));
    while let Some(done) = cancelled.next().await {
        done?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_a_run_are_distinct_and_of_their_size() {
        let run = many(3, 1, "tag");
        let body = |task: &TaskSpec| match &task.runner {
            Some(Runner::Command(command)) => command.args[0].clone(),
            _ => panic!("no command"),
        };
        let bodies: std::collections::BTreeSet<_> = run.tasks.iter().map(body).collect();
        assert_eq!(bodies.len(), 3);
        assert!(bodies.iter().all(|body| body.len() == BODY_BYTES));
        assert!(run.tasks.iter().all(|task| task.requires[CAPABILITY] == "tag"));
    }
}
