//! A run whose tasks are reported at a pace, first with nobody watching and then with many watchers: what they cost it, and
//! whether each of them ends up knowing what became of every task. The pace is kept by an agent that this program plays, so
//! that the same work is done at the same speed both times.

use std::time::Duration;

use orch_proto::v1::watch_event::Change;
use orch_proto::v1::{RunState, TaskSpec, TaskState, WatchRunsRequest, WatchRunsResponse};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::played::{self, Authority, CAPABILITY, Offer};
use super::submit::connected;
use super::{Bench, Place, Progress, noop, print, process, round, spec, submit_run};
use crate::client::Client;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::words::run_ended;
use crate::refs::Reference;

/// Tasks without a word about them: ten seconds at the usual pace.
const TASKS: u32 = 10_000;
/// Slots of the agent that keeps the pace: what it reports between two rounds of grants, several times over.
const SLOTS: u32 = 256;
/// How long watchers may take to hear the end after it came.
const HEAR_LIMIT: Duration = Duration::from_secs(60);
/// Tasks of a run at most.
const MOST_TASKS: usize = 100_000;
/// How often it is asked whether the run ended.
const POLL: Duration = Duration::from_millis(20);

/// A paced run with and without watchers.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WatchReport {
    pub(super) scenario: &'static str,
    pub(super) tasks: u32,
    pub(super) watchers: u32,
    /// Connections that the watchers share; as many as watchers unless that was asked for.
    pub(super) connections: u32,
    /// Tasks a second that the played agent reports.
    pub(super) pace_per_s: u32,
    /// From the first report until the run was seen to have ended, with nobody watching.
    pub(super) alone_seconds: f64,
    /// The same with watchers.
    pub(super) watched_seconds: f64,
    /// The second by the first.
    pub(super) slowdown_ratio: f64,
    /// From the end of the run until the last watcher knew it.
    pub(super) last_heard_ms: f64,
    /// Every watcher saw every task and the run end as they did.
    pub(super) final_states_equal: bool,
    #[serde(flatten)]
    pub(super) place: Place,
}

impl WatchReport {
    pub(super) fn lines(&self) -> Vec<String> {
        let equal = if self.final_states_equal { "all knew" } else { "not all knew" };
        vec![
            format!(
                "{} tasks at {} a second: {:.2} s alone, {:.2} s with {} watchers over {} connections, {:+.1} %",
                self.tasks,
                self.pace_per_s,
                self.alone_seconds,
                self.watched_seconds,
                self.watchers,
                self.connections,
                (self.slowdown_ratio - 1.0) * 100.0
            ),
            format!(
                "the last watcher heard of the end {:.0} ms after it; {equal} how every task ended",
                self.last_heard_ms
            ),
        ]
    }
}

pub(super) async fn run(bench: &Bench<'_>) -> Outcome {
    let place = Place::of(&bench.client).await?;
    let authority = Authority::open(bench)?;
    process::open_many_files();
    let seat = authority.agent(1)?;
    let name = seat.name.clone();
    let offer = Offer {
        slots: SLOTS,
        runners: vec!["noop".to_owned()],
        capabilities: vec![format!("{CAPABILITY}={}", authority.tag())],
    };
    bench.session.when_left("the agent bench-…-1 stays behind as offline: orchctl agents remove NAME");
    let agent = seat.join(offer).await?;
    let (pace, paced) = watch::channel(0);
    let (stop, stopped) = watch::channel(false);
    let mut playing = JoinSet::new();
    playing.spawn(agent.hold(paced, stopped));
    let measured = measure(bench, authority.tag(), &pace).await;
    // Whoever is gone needs no word.
    let _ = stop.send(true);
    let held = playing.join_all().await;
    if played::forget(bench, vec![name.clone()]).await > 0 {
        bench.out().note(&format!("agent {name} stays behind as offline"));
    }
    let (alone, watched) = measured?;
    if held.iter().any(|left| !left.told) {
        return Err(Failure::new(exit::FAILED, "the session of the agent that kept the pace was lost"));
    }
    let report = WatchReport {
        scenario: "watch",
        tasks: bench.tasks(TASKS),
        watchers: bench.args.watchers,
        connections: if bench.args.one_connection { 1 } else { bench.args.watchers },
        pace_per_s: bench.args.pace,
        alone_seconds: round(alone.took.as_secs_f64()),
        watched_seconds: round(watched.took.as_secs_f64()),
        slowdown_ratio: round(watched.took.as_secs_f64() / alone.took.as_secs_f64()),
        last_heard_ms: super::millis(watched.last_heard),
        final_states_equal: watched.equal,
        place,
    };
    print(bench.out(), &report, "", &report.place, &report.lines())?;
    if report.final_states_equal {
        return Ok(exit::DONE);
    }
    Err(Failure::new(exit::FAILED, "watchers ended with other states than the run"))
}

async fn measure(bench: &Bench<'_>, tag: &str, pace: &watch::Sender<u32>) -> Outcome<(Timed, Timed)> {
    let alone = timed(bench, tag, pace, Vec::new()).await?;
    let count = bench.args.watchers;
    let clients = match bench.args.one_connection {
        true => vec![bench.client.clone(); count as usize],
        false => connected(bench, count).await?,
    };
    Ok((alone, timed(bench, tag, pace, clients).await?))
}

/// A paced run.
struct Timed {
    took: Duration,
    last_heard: Duration,
    equal: bool,
}

/// One run: it is submitted, everybody watches, then the agent begins to report.
async fn timed(
    bench: &Bench<'_>,
    tag: &str,
    pace: &watch::Sender<u32>,
    watchers: Vec<Client>,
) -> Outcome<Timed> {
    let tasks = bench.tasks(TASKS);
    let kind = || TaskSpec { requires: [(CAPABILITY.to_owned(), tag.to_owned())].into(), ..noop::task() };
    let reference = submit_run(&bench.client, spec(tasks, kind)).await?.r#ref;
    let count = watchers.len();
    // Each says once that it watches: there is room for all.
    let (here, mut present) = mpsc::channel(count.max(1));
    let mut watching = JoinSet::new();
    for client in watchers {
        watching.spawn(follow(client, reference.clone(), here.clone()));
    }
    drop(here);
    for _ in 0..count {
        if present.recv().await.is_none() {
            break;
        }
    }
    let start = Instant::now();
    pace.send_replace(bench.args.pace);
    let run = Reference::parse(&reference)?;
    let mut progress = Progress::new(bench.out());
    let run = loop {
        let run = bench.client.run(&run).await?;
        if run_ended(run.state()) {
            break run;
        }
        progress.tell(|| format!("{} of {tasks}, {count} watchers", super::done(&run)));
        tokio::time::sleep(POLL).await;
    };
    let took = start.elapsed();
    pace.send_replace(0);
    let mut equal = super::done(&run) == tasks;
    let heard = tokio::time::timeout(HEAR_LIMIT, async {
        while let Some(seen) = watching.join_next().await {
            let seen = seen.map_err(|error| Failure::new(exit::BUG, "a watcher ended").cause(error))??;
            equal &= seen.is_whole(tasks, run.state());
        }
        Ok::<(), Failure>(())
    });
    match heard.await {
        Ok(heard) => heard?,
        Err(_) => equal = false,
    }
    Ok(Timed { took, last_heard: start.elapsed() - took, equal })
}

/// What a watcher knows.
#[derive(Default)]
struct Seen {
    run: RunState,
    /// By the number in the id: hundreds of watchers share the cores with what they watch, and cost it little.
    tasks: Vec<TaskState>,
}

impl Seen {
    fn note(&mut self, frame: WatchRunsResponse) {
        if let Some(run) = &frame.run {
            self.run = run.state();
        }
        for task in frame.tasks {
            self.set(&task.task_id, task.state());
        }
        for event in frame.events {
            match event.change {
                Some(Change::Run(changed)) => self.run = changed.state(),
                Some(Change::Task(changed)) => {
                    self.set(&changed.task_id, changed.state());
                }
                Some(Change::Agent(_) | Change::Activity(_) | Change::Budget(_)) | None => {}
            }
        }
    }

    fn set(&mut self, id: &str, state: TaskState) {
        let number = id.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
        // Nobody submitted any other.
        let Some(number) = number.filter(|number| *number < MOST_TASKS) else { return };
        if self.tasks.len() <= number {
            self.tasks.resize(number + 1, TaskState::Unspecified);
        }
        if let Some(known) = self.tasks.get_mut(number) {
            *known = state;
        }
    }

    /// Whether it saw so many tasks succeed, and the run end like that.
    fn is_whole(&self, tasks: u32, run: RunState) -> bool {
        let succeeded = self.tasks.iter().filter(|state| **state == TaskState::Succeeded).count();
        self.run == run && succeeded == tasks as usize
    }
}

/// Watches a run until its end; says when it knows what there is.
async fn follow(client: Client, reference: String, here: mpsc::Sender<()>) -> Outcome<Seen> {
    let request = WatchRunsRequest { r#ref: reference, until_terminal: true, ..WatchRunsRequest::default() };
    let opened = client.runs().watch_runs(request).await;
    let mut stream = opened.map_err(|status| Failure::from_status(&status))?.into_inner();
    let mut seen = Seen::default();
    let mut here = Some(here);
    loop {
        let frame = stream.message().await.map_err(|status| Failure::from_status(&status))?;
        let Some(frame) = frame else { return Ok(seen) };
        let complete = frame.snapshot_complete;
        seen.note(frame);
        if complete && let Some(here) = here.take() {
            let _ = here.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_proto::v1::{RunChanged, Task, TaskChanged, WatchEvent};

    #[test]
    fn a_watcher_that_missed_a_task_or_the_end_is_found_out() {
        let task = |id: &str, state: TaskState| Task {
            task_id: id.to_owned(),
            state: state.into(),
            ..Task::default()
        };
        let changed = |id: &str| TaskChanged {
            task_id: id.to_owned(),
            state: TaskState::Succeeded.into(),
            ..TaskChanged::default()
        };
        let event = |change: Change| WatchEvent { change: Some(change), ..WatchEvent::default() };
        let mut seen = Seen::default();
        seen.note(WatchRunsResponse {
            tasks: vec![task("n0", TaskState::Succeeded), task("n1", TaskState::Queued)],
            ..WatchRunsResponse::default()
        });
        let ended = RunChanged { state: RunState::Succeeded.into(), ..RunChanged::default() };
        seen.note(WatchRunsResponse {
            events: vec![event(Change::Run(ended))],
            ..WatchRunsResponse::default()
        });
        assert!(!seen.is_whole(2, RunState::Succeeded), "one is still queued");
        let last = event(Change::Task(changed("n1")));
        seen.note(WatchRunsResponse { events: vec![last], ..WatchRunsResponse::default() });
        assert!(seen.is_whole(2, RunState::Succeeded));
        assert!(!seen.is_whole(2, RunState::Failed));
    }
}
