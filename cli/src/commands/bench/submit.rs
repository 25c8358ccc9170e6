//! Runs of one task that does nothing, submitted by many clients at once, each waiting for its acknowledgement before the
//! next. Agents that take work run the tasks meanwhile, on the same machine where they are: whoever wants the submits alone
//! drains them first, and the report says how many slots there were.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orch_proto::v1::SubmitRunRequest;
use orch_proto::v1::run_service_client::RunServiceClient;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::line::{Way, lines};
use super::{Bench, Percentiles, Place, Progress, noop, print, round, spec};
use crate::client::{Client, new_request_id};
use crate::exit;
use crate::failure::{Failure, Outcome};

/// Submits without a word about them.
const TASKS: u32 = 20_000;

/// Many submits at once.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SubmitReport {
    pub(super) scenario: &'static str,
    pub(super) tasks: u32,
    pub(super) clients: u32,
    /// Connections that the clients share; as many as clients unless that was asked for.
    pub(super) connections: u32,
    pub(super) submits_per_s: f64,
    pub(super) seconds: f64,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    #[serde(flatten)]
    pub(super) place: Place,
}

impl SubmitReport {
    pub(super) fn lines(&self) -> Vec<String> {
        let times = Percentiles { p50: self.p50_ms, p90: self.p90_ms, p99: self.p99_ms, max: self.max_ms };
        vec![
            format!(
                "{} runs of one task that does nothing, submitted by {} clients over {} connections: {:.0} submits/s ({:.2} s)",
                self.tasks, self.clients, self.connections, self.submits_per_s, self.seconds
            ),
            times.line("submit to acknowledgement"),
        ]
    }
}

pub(super) async fn run(bench: &Bench<'_>) -> Outcome {
    let place = Place::of(&bench.client).await?;
    let (tasks, clients) = (bench.tasks(TASKS), bench.args.clients);
    let connections = if bench.args.one_connection { 1 } else { clients };
    let left = Arc::new(AtomicU32::new(tasks));
    let ready = Arc::new(Barrier::new(clients as usize + 1));
    let mut working = JoinSet::new();
    if connections == 1 {
        for _ in 0..clients {
            working.spawn(submits(bench.client.channel(), Arc::clone(&ready), Arc::clone(&left)));
        }
    } else {
        for line in lines(bench, clients).await? {
            working.spawn(submits(line, Arc::clone(&ready), Arc::clone(&left)));
        }
    }
    ready.wait().await;
    let start = Instant::now();
    let mut progress = Progress::new(bench.out());
    let all = progress
        .during(joined(&mut working), || format!("{} of {tasks}", tasks - left.load(Ordering::Relaxed)));
    let times = all.await?;
    let seconds = start.elapsed().as_secs_f64();
    let figures = Percentiles::of(times);
    let report = SubmitReport {
        scenario: "submit",
        tasks,
        clients,
        connections,
        submits_per_s: round(f64::from(tasks) / seconds),
        seconds: round(seconds),
        p50_ms: figures.p50,
        p90_ms: figures.p90,
        p99_ms: figures.p99,
        max_ms: figures.max,
        place,
    };
    print(bench.out(), &report, "", &report.place, &report.lines())?;
    Ok(exit::DONE)
}

/// So many clients, each with a channel of its own that is open.
pub(super) async fn connected(bench: &Bench<'_>, count: u32) -> Outcome<Vec<Client>> {
    let context = bench.session.context()?;
    let mut clients = Vec::new();
    for _ in 0..count {
        let client = Client::new(&context)?;
        client.status().await?;
        clients.push(client);
    }
    Ok(clients)
}

/// Submits until nothing is left, once all are ready, and says how long each took.
async fn submits(way: impl Way, ready: Arc<Barrier>, left: Arc<AtomicU32>) -> Outcome<Vec<Duration>> {
    let mut runs = RunServiceClient::new(way);
    ready.wait().await;
    let mut times = Vec::new();
    let one_less = |count: u32| count.checked_sub(1);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
        let start = Instant::now();
        let spec = Some(spec(1, noop::task));
        let request = SubmitRunRequest { spec, request_id: new_request_id(), validate_only: false };
        // Not tried again: a refusal is no fast submit.
        runs.submit_run(request).await.map_err(|status| Failure::from_status(&status))?;
        times.push(start.elapsed());
    }
    Ok(times)
}

/// What all of them found; the first failure ends the others.
async fn joined<T: 'static>(working: &mut JoinSet<Outcome<Vec<T>>>) -> Outcome<Vec<T>> {
    let mut all = Vec::new();
    while let Some(found) = working.join_next().await {
        all.extend(found.map_err(|error| Failure::new(exit::BUG, "a client ended").cause(error))??);
    }
    Ok(all)
}
