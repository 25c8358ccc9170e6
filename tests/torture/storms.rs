//! Ten thousand of something at once: what becomes of it, and what others feel of it meanwhile.

use crate::load::{Prober, Submitters, all_ended, all_runs, events_until, holds, memory};
use orch_certs::Role;
use orch_proto::v1::agent_item::Item;
use orch_proto::v1::{self, HeldState, Outcome, ReportResult, RunState, coordinator_item};
use orch_tests::budget::{budget, figures, percentile};
use orch_tests::client::{Client, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::history::{Event, recorded_by};
use orch_tests::wait::until_async;
use orch_tests::wire::{HandAgent, hello};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const ROW: &str = "storms";
/// What only the agents of a storm offer.
const STORM: (&str, &str) = ("storm", "yes");
/// What a storm may cost the coordinator in memory, for ten thousand tasks.
const MEMORY_CAP: u64 = 256 << 20;
/// Reports under way: no more may be unanswered.
const WINDOW: usize = 500;
/// Runs that are cancelled one by one, each so manieth of the tasks of the large run.
const SMALL_RUNS: u64 = 10;

/// How many tasks a storm has.
fn size() -> u64 {
    budget("ORCH_TORTURE_STORM", 2_000)
}

fn stormy(tasks: u64) -> v1::RunSpec {
    let task = |at: u64| {
        let mut task = noop(&format!("t{at}"));
        task.requires.insert(STORM.0.into(), STORM.1.into());
        task.on_loss = v1::OnLoss::Fast.into();
        task
    };
    v1::RunSpec { name: "storm".into(), ..run((0..tasks).map(task).collect()) }
}

/// Submits whatever fits no single message.
async fn submit_big(client: &mut Client, spec: v1::RunSpec) -> v1::Run {
    use prost::Message as _;
    let bytes = spec.encode_to_vec();
    let begin = v1::BeginSubmissionRequest {
        request_id: "storm".into(),
        size: bytes.len() as u64,
        digest: <sha2::Sha256 as sha2::Digest>::digest(&bytes).to_vec(),
        validate_only: false,
    };
    let upload_id = client.runs.begin_submission(begin).await.expect("begun").into_inner().upload_id;
    for (at, chunk) in bytes.chunks(512 << 10).enumerate() {
        let offset = (at * (512 << 10)) as u64;
        let append =
            v1::AppendSubmissionRequest { upload_id: upload_id.clone(), offset, data: chunk.to_vec() };
        client.runs.append_submission(append).await.expect("appended");
    }
    let seal = v1::SealSubmissionRequest { upload_id };
    let sealed = client.runs.seal_submission(seal).await.expect("sealed").into_inner();
    sealed.submitted.and_then(|submitted| submitted.run).expect("a run")
}

/// What others felt without and beside a storm, in words.
fn felt(alone: &[Duration], beside: &[Duration]) -> String {
    format!(
        "others' submit p99 {:?} of {} beside it, {:?} of {} without",
        percentile(beside, 99),
        beside.len(),
        percentile(alone, 99),
        alone.len()
    )
}

/// Submits of somebody else for two seconds, with nothing beside them.
async fn calm(fleet: &Fleet) -> Vec<Duration> {
    let prober = Prober::start(fleet).await;
    // The length of the measurement, not a wait.
    tokio::time::sleep(Duration::from_secs(2)).await;
    prober.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_cancels_ends_everything_and_others_go_on() {
    let tasks = size();
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "2s");
    fleet.agent("box-1", &["--slots", "8"]);
    let mut client = fleet.client().await;
    let alone = calm(&fleet).await;
    let large = submit_big(&mut client, stormy(tasks)).await;
    let mut small = Vec::new();
    for _ in 0..tasks / SMALL_RUNS {
        small.push(client.submit(stormy(1)).await.r#ref);
    }
    let before = memory(fleet.coordinator().id());
    let prober = Prober::start(&fleet).await;
    let began = Instant::now();
    let mut cancels = JoinSet::new();
    for run_ref in [large.r#ref.clone()].into_iter().chain(small) {
        let mut client = client.clone();
        cancels.spawn(async move {
            let request = v1::CancelRunRequest { r#ref: run_ref, ..Default::default() };
            let answer = client.runs.cancel_run(request).await.expect("cancelled").into_inner();
            u64::from(answer.cancelled)
        });
    }
    let cancelled: u64 = cancels.join_all().await.into_iter().sum();
    let took = began.elapsed();
    let beside = prober.stop().await;
    assert_eq!(cancelled, tasks + tasks / SMALL_RUNS);
    assert_eq!(client.run(&large.r#ref).await.state(), RunState::Cancelled);
    all_ended(&mut client, Duration::from_secs(60)).await;
    let more = memory(fleet.coordinator().id()).saturating_sub(before);
    figures(
        ROW,
        &format!(
            "{cancelled} tasks of {} runs cancelled in {took:?}; {}; {} MiB more",
            1 + tasks / SMALL_RUNS,
            felt(&alone, &beside),
            more >> 20
        ),
    );
    assert!(more <= MEMORY_CAP, "{more}");
}

/// An agent of the storm, played by hand.
fn storm_agent(tasks: u64) -> v1::Hello {
    v1::Hello {
        slots: u32::try_from(tasks).expect("few enough"),
        capabilities: vec![format!("{}={}", STORM.0, STORM.1)],
        ..hello("storm-1")
    }
}

/// An agent that is played by hand and holds thousands of attempts.
struct Holder {
    agent: HandAgent,
    held: Vec<v1::AttemptId>,
    beats: u64,
}

/// What it hears.
enum Word {
    Assigned(v1::AttemptId),
    Answered(ReportResult),
}

impl Holder {
    async fn join(fleet: &Fleet, hello: v1::Hello) -> Self {
        Self { agent: HandAgent::join(fleet, hello).await.expect("a session"), held: Vec::new(), beats: 0 }
    }

    async fn hear(&mut self) -> Word {
        let word = self.agent.until(|item| match item {
            coordinator_item::Item::Assign(assignment) => assignment.attempt.map(Word::Assigned),
            coordinator_item::Item::ReportVerdict(verdict) => Some(Word::Answered(verdict.result())),
            coordinator_item::Item::Welcome(_)
            | coordinator_item::Item::HeartbeatAck(_)
            | coordinator_item::Item::Stop(_)
            | coordinator_item::Item::LimitGrant(_)
            | coordinator_item::Item::PoolNotice(_)
            | coordinator_item::Item::Allowance(_)
            | coordinator_item::Item::GoAway(_) => None,
        });
        word.await.expect("the session goes on")
    }

    async fn accept(&mut self, attempt: v1::AttemptId) {
        self.agent.say(Item::Accepted(v1::Accepted { attempt: Some(attempt) })).await;
        self.held.push(attempt);
        // Whoever is long silent about what it holds loses it.
        if self.held.len().is_multiple_of(WINDOW) {
            self.beat().await;
        }
    }

    async fn beat(&mut self) {
        self.beats += 1;
        let held =
            |attempt: &v1::AttemptId| v1::HeldAttempt { attempt: Some(*attempt), ..Default::default() };
        let held = self.held.iter().map(held).collect();
        self.agent.say(Item::Heartbeat(v1::Heartbeat { seq: self.beats, held, ..Default::default() })).await;
    }

    /// Takes what it is given, until it holds `tasks` attempts.
    async fn take(&mut self, tasks: u64) -> Vec<v1::AttemptId> {
        while (self.held.len() as u64) < tasks {
            if let Word::Assigned(attempt) = self.hear().await {
                self.accept(attempt).await;
            }
        }
        self.beat().await;
        self.held.clone()
    }

    /// Reports attempts as done, a window at a time, and takes what it is given meanwhile. Every answer must be this one.
    async fn report(&mut self, attempts: &[v1::AttemptId], expected: ReportResult) -> usize {
        for window in attempts.chunks(WINDOW) {
            for attempt in window {
                let report = v1::Report {
                    attempt: Some(*attempt),
                    outcome: Outcome::Ok.into(),
                    digest: vec![1; 32],
                    ..Default::default()
                };
                self.agent.say(Item::Report(report)).await;
            }
            let mut open = window.len();
            while open > 0 {
                match self.hear().await {
                    Word::Assigned(attempt) => self.accept(attempt).await,
                    Word::Answered(result) => {
                        assert_eq!(result, expected);
                        open -= 1;
                    }
                }
            }
            self.beat().await;
        }
        attempts.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_requeues_after_a_partition_ends_with_one_result_each_and_others_go_on() {
    let tasks = size();
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "2s");
    fleet.agent("box-1", &["--slots", "8"]);
    let mut client = fleet.client().await;
    let alone = calm(&fleet).await;
    let before = memory(fleet.coordinator().id());
    let mut agent = Holder::join(&fleet, storm_agent(tasks)).await;
    let storm = submit_big(&mut client, stormy(tasks)).await;
    let first = agent.take(tasks).await;
    until_async("every attempt to run", || {
        let mut client = client.clone();
        let run_ref = storm.r#ref.clone();
        async move { (in_state(&client.run(&run_ref).await, v1::TaskState::Running) == tasks).then_some(()) }
    })
    .await;

    // Gone without a word; five heartbeats later all of it is given up.
    drop(agent);
    let prober = Prober::start(&fleet).await;
    let began = Instant::now();
    until_async("everything to be given up", || {
        let mut client = client.clone();
        let run_ref = storm.r#ref.clone();
        async move { (in_state(&client.run(&run_ref).await, v1::TaskState::Running) == 0).then_some(()) }
    })
    .await;
    let lost = began.elapsed();
    // The link heals: the same agent with the same attempts, all of them stale by now, and their results.
    let held = |attempt: &v1::AttemptId| v1::InventoryItem {
        attempt: Some(*attempt),
        state: HeldState::Finished.into(),
    };
    let again = v1::Hello { inventory: first.iter().map(held).collect(), ..storm_agent(tasks) };
    let mut agent = Holder::join(&fleet, again).await;
    let fenced = agent.report(&first, ReportResult::Fenced).await;
    let second = agent.take(tasks).await;
    let recorded = agent.report(&second, ReportResult::Recorded).await;
    assert_eq!(client.finished(&storm.r#ref).await.state(), RunState::Succeeded);
    let took = began.elapsed();
    let beside = prober.stop().await;
    let more = memory(fleet.coordinator().id()).saturating_sub(before);

    let events = recorded_by(&events_until(&mut client, 1, &storm.r#ref).await);
    holds(&events);
    let of_storm = |event: &&Event| matches!(event, Event::Recorded { task, attempt: 2, .. } if task.starts_with("storm/"));
    assert_eq!(events.iter().filter(of_storm).count() as u64, tasks);
    let distinct: BTreeSet<_> = second.iter().map(|attempt| attempt.task_index).collect();
    assert_eq!(distinct.len() as u64, tasks, "each task once");
    figures(
        ROW,
        &format!(
            "{tasks} attempts given up {lost:?} after the cut, granted again and done after {took:?}; {fenced} stale results fenced, \
             {recorded} recorded; {}; {} MiB more",
            felt(&alone, &beside),
            more >> 20
        ),
    );
    assert!(more <= MEMORY_CAP, "{more}");
}

fn in_state(run: &v1::Run, state: v1::TaskState) -> u64 {
    let counts = run.counts.iter().filter(|count| count.state() == state);
    counts.map(|count| u64::from(count.count)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_submits_is_taken_or_refused_and_others_go_on() {
    let seconds = budget("ORCH_TORTURE_FLOOD_SECONDS", 4);
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "2s");
    fleet.agent("box-1", &["--slots", "8"]);
    let mut client = fleet.client().await;
    let alone = calm(&fleet).await;
    let before = memory(fleet.coordinator().id());
    let files = fleet.certificate(Role::Client, "mallory");
    let flood = Submitters::start(40, &fleet.ports().grpc, &files, fleet.dir()).await;
    let prober = Prober::start(&fleet).await;
    // The length of the flood, not a wait.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let beside = prober.stop().await;
    let acknowledged = flood.count();
    let told = flood.stop().await;
    all_ended(&mut client, Duration::from_secs(600)).await;
    let more = memory(fleet.coordinator().id()).saturating_sub(before);
    let stored: BTreeSet<_> = all_runs(&mut client).await.into_iter().map(|run| run.r#ref).collect();
    for event in &told {
        if let Event::Acknowledged { run, .. } = event {
            assert!(stored.contains(run), "{run} was acknowledged and is not there");
        }
    }
    figures(
        ROW,
        &format!(
            "40 submitters for {seconds} s: {acknowledged} acknowledged, 0 lost; {}; {} MiB more",
            felt(&alone, &beside),
            more >> 20
        ),
    );
    assert!(more <= MEMORY_CAP, "{more}");
}
