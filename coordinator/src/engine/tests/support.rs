//! What the engine's tests share: a store that waits, a coordinator that can be killed, and an agent.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use orch_core::config::Config;
use orch_core::event::{AgentHello, Event, FailurePolicy, Report, Target};
use orch_core::ids::{AttemptKey, SessionId, TenantId};
use orch_core::outcome::{Outcome, OutcomeRule, OutcomeRules};
use orch_core::query::{Answer, Query, RunView, StatusView};
use orch_core::time::{Span, Wall};
use orch_core::usage::Usage;
use orch_proto::outcome::OUTCOMES;
use orch_proto::store::v1 as record;
use orch_proto::v1;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::blobs::FileBlobs;
use crate::clock::ManualClock;
use crate::engine::commit::ThreadCommitter;
use crate::engine::{Engine, EngineError, Handle, Outbound, Parts, RecoverError, Recovered};
use crate::metrics::Metrics;
use crate::payloads::Request;
use crate::store::*;
use crate::submission::{CheckedRun, CheckedRunner, CheckedTask};

pub(crate) const TENANT: TenantId = TenantId(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// An answer that has not come yet.
pub(crate) type Later = std::pin::Pin<Box<dyn Future<Output = Option<Answer>>>>;

/// Gives up on what should have come long ago.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A store in memory whose commits wait at a gate.
#[derive(Debug)]
pub(crate) struct GatedStore {
    pub(crate) inner: MemoryStore,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    /// Commits that may pass although it is closed.
    passes: usize,
    waiting: usize,
    /// Keys of each commit that passed, the marker of a clean end not included.
    commits: Vec<u64>,
}

impl GatedStore {
    pub(crate) fn new() -> Arc<Self> {
        Self::on(MemoryStore::new())
    }

    pub(crate) fn on(inner: MemoryStore) -> Arc<Self> {
        Arc::new(Self { inner, gate: Mutex::default(), changed: Condvar::new() })
    }

    pub(crate) fn close(&self) {
        self.gate.lock().unwrap().closed = true;
    }

    pub(crate) fn open(&self) {
        self.gate.lock().unwrap().closed = false;
        self.changed.notify_all();
    }

    pub(crate) fn let_one_pass(&self) {
        self.gate.lock().unwrap().passes += 1;
        self.changed.notify_all();
    }

    pub(crate) async fn commit_waits(&self) {
        eventually("a commit at the gate", || self.gate.lock().unwrap().waiting == 1).await;
    }

    pub(crate) fn commits(&self) -> Vec<u64> {
        self.gate.lock().unwrap().commits.clone()
    }

    pub(crate) fn totals(&self) -> CommitStats {
        self.inner.health().unwrap().totals
    }
}

impl Store for GatedStore {
    fn meta(&self) -> Meta {
        self.inner.meta()
    }

    fn load_with(&self, visit: &mut dyn FnMut(Key, &[u8])) -> Result<LoadReport, LoadError> {
        self.inner.load_with(visit)
    }

    fn begin_epoch(&self, step: EpochStep, tick: u64) -> Result<Meta, CommitError> {
        self.inner.begin_epoch(step, tick)
    }

    fn commit(&self, batch: Batch) -> Result<CommitStats, CommitError> {
        let mut gate = self.gate.lock().unwrap();
        gate.waiting += 1;
        while gate.closed && gate.passes == 0 {
            gate = self.changed.wait(gate).unwrap();
        }
        gate.passes = gate.passes.saturating_sub(1);
        gate.waiting -= 1;
        drop(gate);
        let stats = self.inner.commit(batch)?;
        self.gate.lock().unwrap().commits.push(stats.keys);
        Ok(stats)
    }

    fn mark_clean(&self, expect_epoch: u64, tick: u64) -> Result<(), CommitError> {
        self.inner.mark_clean(expect_epoch, tick)
    }

    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, ReadError> {
        self.inner.get(key)
    }

    fn scan(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Vec<u8>)>, ReadError> {
        self.inner.scan(prefix, after, limit)
    }

    fn export(&self, to: &mut dyn Write) -> Result<TransferReport, ExportError> {
        self.inner.export(to)
    }

    fn import(&self, from: &mut dyn BufRead) -> Result<TransferReport, ImportError> {
        self.inner.import(from)
    }

    fn health(&self) -> Result<Health, ReadError> {
        self.inner.health()
    }
}

/// Blobs in a directory of their own, which goes with them. A restart in the same process finds them still open.
#[derive(Debug)]
pub(crate) struct BlobDir {
    pub(crate) blobs: Arc<FileBlobs>,
    _dir: tempfile::TempDir,
}

impl BlobDir {
    pub(crate) fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        Arc::new(Self { blobs: Arc::new(FileBlobs::open(dir.path()).unwrap()), _dir: dir })
    }
}

/// A coordinator without its edges.
pub(crate) struct Bench {
    pub(crate) handle: Handle,
    pub(crate) store: Arc<GatedStore>,
    pub(crate) clock: ManualClock,
    pub(crate) blobs: Arc<BlobDir>,
    shutdown: CancellationToken,
    running: JoinSet<Result<(), EngineError>>,
}

pub(crate) fn rules() -> OutcomeRules {
    let rule = |number: usize| {
        let row = OUTCOMES.iter().find(|row| row.outcome as usize == number);
        row.map_or_else(OutcomeRule::default, |row| OutcomeRule {
            retryable: row.retryable,
            counts_as_crash: row.counts_as_crash,
            goes_on: row.outcome.may_go_on(),
        })
    };
    OutcomeRules((0..=OUTCOMES.len()).map(rule).collect())
}

pub(crate) fn open(
    store: &Arc<GatedStore>,
    blobs: &BlobDir,
    clock: &ManualClock,
) -> Result<Recovered, RecoverError> {
    Engine::open(Parts {
        store: store.clone(),
        blobs: blobs.blobs.clone(),
        committer: Box::new(ThreadCommitter::spawn(store.clone()).unwrap()),
        clock: Arc::new(clock.clone()),
        config: Config::new(rules()),
        metrics: Arc::new(Metrics::new("test")),
        step: EpochStep::Start,
    })
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::on(GatedStore::new(), BlobDir::new()).await
    }

    pub(crate) async fn on(store: Arc<GatedStore>, blobs: Arc<BlobDir>) -> Self {
        let clock = ManualClock::new(Wall(1_700_000_000_000));
        let Recovered { engine, handle, .. } = open(&store, &blobs, &clock).unwrap();
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        let stop = shutdown.clone();
        running.spawn(async move { engine.run(stop.cancelled()).await });
        let bench = Self { handle, store, clock, blobs, shutdown, running };
        // Whatever the start itself had to say is durable now.
        bench.status().await;
        bench
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) -> Result<(), EngineError> {
        self.shutdown.cancel();
        soon("the end of the engine", self.running.join_next()).await.unwrap().unwrap()
    }

    /// Returns when the engine has ended by itself.
    pub(crate) async fn ended(&mut self) -> Result<(), EngineError> {
        soon("the end of the engine", self.running.join_next()).await.unwrap().unwrap()
    }

    /// Kills it and starts another one on what a crash leaves.
    pub(crate) async fn crash_and_restart(mut self, seed: u64) -> Self {
        self.running.shutdown().await;
        let left = GatedStore::on(self.store.inner.crash(seed));
        self.store.open();
        Self::on(left, Arc::clone(&self.blobs)).await
    }

    pub(crate) async fn prepare(
        &self,
        run: CheckedRun,
        request_id: &str,
    ) -> (orch_core::event::Submit, crate::payloads::SubmitPayload) {
        let request = Request {
            tenant: TENANT,
            submitted_by: Arc::from("client/default/ana"),
            request_id: Arc::from(request_id),
            spec_digest: [1; 32],
            validate_only: false,
        };
        self.handle.preparer().prepare(request, run).await.unwrap()
    }

    /// Submits and does not wait for the answer; the engine has taken the submit when this returns.
    pub(crate) async fn submit_later(&self, run: CheckedRun, request_id: &str) -> Later {
        let (submit, payload) = self.prepare(run, request_id).await;
        let handle = self.handle.clone();
        let mut answer: Later = Box::pin(async move { handle.submit(submit, payload).await.ok() });
        assert!(futures_util::poll!(&mut answer).is_pending());
        // Sessions are opened at once, in turn with everything else.
        let (outbound, _words) = mpsc::channel(1);
        soon("a session", self.handle.open_session(outbound)).await.unwrap();
        answer
    }

    pub(crate) async fn submit(&self, run: CheckedRun, request_id: &str) -> (RunView, bool) {
        let (submit, payload) = self.prepare(run, request_id).await;
        let answer = soon("the answer to a submit", self.handle.submit(submit, payload)).await.unwrap();
        submitted(answer)
    }

    pub(crate) async fn ask(&self, query: Query) -> Answer {
        let asked = move |token| Event::Asked { token, tenant: TENANT, query };
        soon("the answer to a question", self.handle.request(asked)).await.unwrap()
    }

    pub(crate) async fn status(&self) -> StatusView {
        match self.ask(Query::Status).await {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn run(&self, run_ref: &str) -> RunView {
        match self.ask(Query::Run(target(run_ref, None))).await {
            Answer::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    /// An agent whose words are kept up to `room`.
    pub(crate) async fn agent(&self, name: &str, slots: u32, room: usize) -> Agent {
        let (outbound, words) = mpsc::channel(room);
        let session = self.handle.open_session(outbound).await.unwrap();
        let hello = AgentHello {
            session,
            tenant: TENANT,
            name: Arc::from(name),
            incarnation: [1; 16],
            keeps_allowances: true,
            slots,
            capabilities: vec![Arc::from("runner=command"), Arc::from("runner=noop")],
            inventory: Vec::new(),
            conversations: Vec::new(),
            pools: Vec::new(),
        };
        self.handle.apply(Event::AgentJoined(Box::new(hello))).await.unwrap();
        Agent::new(session, words, self.handle.clone())
    }
}

pub(crate) fn submitted(answer: Answer) -> (RunView, bool) {
    match answer {
        Answer::Submitted { run: Some(run), existing, .. } => (run, existing),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn target(run_ref: &str, task: Option<&str>) -> Target {
    let (name, number) = run_ref.split_once('/').unwrap();
    let run = orch_core::event::RunTarget::Ref { name: Arc::from(name), number: number.parse().unwrap() };
    Target { tenant: TENANT, run, task: task.map(Arc::from) }
}

/// The agent's side of a session, as far as the engine sees it.
pub(crate) struct Agent {
    pub(crate) session: SessionId,
    pub(crate) words: mpsc::Receiver<Outbound>,
    handle: Handle,
}

impl Agent {
    pub(crate) const fn new(session: SessionId, words: mpsc::Receiver<Outbound>, handle: Handle) -> Self {
        Self { session, words, handle }
    }

    pub(crate) async fn word(&mut self) -> Outbound {
        soon("a word to the agent", self.words.recv()).await.expect("the session goes on")
    }

    pub(crate) async fn welcome(&mut self) {
        let word = self.word().await;
        assert!(matches!(word, Outbound::Welcome { .. }), "{word:?}");
    }

    pub(crate) async fn grant(&mut self) -> AttemptKey {
        match self.word().await {
            Outbound::Grant { attempt, .. } => attempt,
            other => panic!("{other:?}"),
        }
    }

    /// Accepts and ends an attempt, as a frame of both would.
    pub(crate) async fn finish(&self, attempt: AttemptKey, outcome: Outcome, answer: &str) {
        let accepted = Event::AttemptAccepted { session: self.session, attempt };
        let reported = self.report(attempt, outcome, answer);
        self.handle.apply_all(vec![accepted, reported]).await.unwrap();
    }

    /// Ends an attempt that is accepted already, or was in another life.
    pub(crate) async fn repeat_report(&self, attempt: AttemptKey, outcome: Outcome, answer: &str) {
        self.handle.apply(self.report(attempt, outcome, answer)).await.unwrap();
    }

    fn report(&self, attempt: AttemptKey, outcome: Outcome, answer: &str) -> Event {
        let text = v1::Text { body: Some(v1::text::Body::Inline(answer.to_owned())) };
        let result = record::ResultRecord { answer: Some(text), num_turns: 1, ..Default::default() };
        let report = Report {
            attempt,
            outcome,
            detail: Arc::from(""),
            usage: Usage::default(),
            digest: [2; 32],
            duration: Span(5),
            retry_after: None,
            payload: Arc::from(result.encode_to_vec()),
            pool: "".into(),
            limit: None,
        };
        Event::AttemptReported { session: self.session, report: Box::new(report) }
    }

    pub(crate) async fn heartbeat(&self, seq: u64) {
        let beat = Event::HeartbeatReceived { session: self.session, seq, held: Vec::new(), load_millis: 0 };
        self.handle.apply(beat).await.unwrap();
    }
}

/// A run of `count` tasks that do nothing.
pub(crate) fn noops(count: u32) -> CheckedRun {
    let task = |index| CheckedTask {
        id: format!("t{index}"),
        dependencies: Vec::new(),
        priority: 50,
        timeout_ms: 3_600_000,
        retries: 2,
        requires: ["runner=noop".to_owned()].into(),
        on_loss: v1::OnLoss::Fast,
        agent: None,
        runner: CheckedRunner::Noop,
        after: v1::After::Success,
        role: v1::TaskRole::Work,
        of: None,
        gates: None,
        repairs: 0,
        reviewed: false,
        workspace: String::new(),
        conditions: Vec::new(),
        cache: false,
        expected_cost_micro_usd: None,
    };
    let tasks = (0..count).map(task).collect();
    CheckedRun {
        name: "adhoc".into(),
        labels: BTreeMap::new(),
        tasks,
        context: None,
        policy: FailurePolicy::Continue,
        max_parallel: 0,
        budget: None,
        planning: None,
        workflow: String::new(),
    }
}

/// Tasks whose commands are `bytes` long, each depending on the one before.
pub(crate) fn commands(count: u32, bytes: usize) -> CheckedRun {
    let mut run = noops(count);
    for (index, task) in (0_u32..).zip(&mut run.tasks) {
        let args = vec![format!("{index}-{}", "x".repeat(bytes))];
        task.runner = CheckedRunner::Command(v1::CommandTask { program: "echo".into(), args });
        task.requires = ["runner=command".to_owned()].into();
        task.dependencies = index.checked_sub(1).into_iter().collect();
    }
    run
}
