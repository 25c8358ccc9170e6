//! Clients of the simulation: they submit, lose patience and submit again, cancel, retry, and watch. A client is done when
//! everything that it was promised has ended.

use crate::agent::Script;
use crate::coordinator::HEARTBEAT;
use crate::net::Name;
use crate::trace::{Event, Trace};
use crate::world::Draw;
use orch_certs::Role;
use orch_proto::v1::admin_service_client::AdminServiceClient;
use orch_proto::v1::run_service_client::RunServiceClient;
use orch_proto::v1::{self, FailurePolicy, OnLoss, RunState, task_spec};
use prost::Message as _;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often it looks whether a run has ended.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What clients did that counts, over all of them.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) resubmits: AtomicU32,
    pub(crate) doubled: AtomicU32,
    pub(crate) contradictions: AtomicU32,
    pub(crate) cancels: AtomicU32,
    pub(crate) retries: AtomicU32,
    pub(crate) resumed_watches: AtomicU32,
}

/// A client.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) draw: Draw,
    pub(crate) trace: Trace,
    pub(crate) deeds: Arc<Deeds>,
    /// Runs are submitted within this time.
    pub(crate) within: Duration,
    pub(crate) runs: usize,
    pub(crate) done: Arc<AtomicBool>,
    /// Set by a fault: the watch is cut.
    pub(crate) cut: Arc<AtomicBool>,
}

impl Client {
    /// Does everything, then says that it is done and goes on watching.
    pub(crate) async fn run(self) -> turmoil::Result {
        let mut watch = JoinSet::new();
        watch.spawn(self.clone().watch());
        let mut runs = JoinSet::new();
        for number in 0..self.runs {
            let this = Self { draw: self.draw.child(&format!("run {number}")), ..self.clone() };
            runs.spawn(async move { this.one(number).await });
        }
        while let Some(done) = runs.join_next().await {
            done?;
        }
        self.done.store(true, Ordering::Relaxed);
        std::future::pending().await
    }

    fn service(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(Name::new(Role::Client, &self.name).channel())
    }

    /// One run, from its submit to its last end.
    async fn one(&self, number: usize) {
        tokio::time::sleep(self.draw.within(self.within)).await;
        let request = format!("{}-{number}", self.name);
        let spec = self.spec();
        let run = if self.draw.chance(0.25) {
            self.deeds.doubled.fetch_add(1, Ordering::Relaxed);
            // Twice at once, on two connections.
            let (first, second) = tokio::join!(self.submit(&request, &spec), self.submit(&request, &spec));
            if first != second {
                self.trace.note(Event::Acknowledged { request: request.clone(), run: second });
            }
            first
        } else {
            self.submit(&request, &spec).await
        };
        if self.draw.chance(0.2) {
            self.contradict(&request, &spec).await;
        }
        if self.draw.chance(0.2) {
            tokio::time::sleep(self.draw.within(Duration::from_secs(6))).await;
            self.deeds.cancels.fetch_add(1, Ordering::Relaxed);
            self.cancel(&run, &request).await;
        } else if self.draw.chance(0.2) {
            // Again, much later.
            tokio::time::sleep(self.draw.within(Duration::from_secs(10))).await;
            self.deeds.doubled.fetch_add(1, Ordering::Relaxed);
            self.submit(&request, &spec).await;
        }
        if self.ended(&run).await != RunState::Succeeded && self.draw.chance(0.5) {
            self.deeds.retries.fetch_add(1, Ordering::Relaxed);
            self.retry(&run, &request).await;
            self.ended(&run).await;
        }
    }

    /// Submits until it is acknowledged.
    async fn submit(&self, request: &str, spec: &v1::RunSpec) -> String {
        let submit = v1::SubmitRunRequest {
            spec: Some(spec.clone()),
            request_id: request.to_owned(),
            validate_only: false,
        };
        let mut service = self.service();
        let mut tries = 0;
        loop {
            self.trace.note(Event::Submitting { request: request.to_owned(), other: false });
            match patiently(service.submit_run(submit.clone())).await {
                Ok(answer) => {
                    let run = answer.run.unwrap_or_default().r#ref;
                    self.trace.note(Event::Acknowledged { request: request.to_owned(), run: run.clone() });
                    return run;
                }
                Err(status) => self.refused(request, &status),
            }
            tries += 1;
            self.deeds.resubmits.fetch_add(1, Ordering::Relaxed);
            self.pause().await;
            if tries % 2 == 0 {
                // The connection may be one that leads nowhere.
                service = self.service();
            }
        }
    }

    /// Submits something else under the same id, which must be refused.
    async fn contradict(&self, request: &str, spec: &v1::RunSpec) {
        let labels = [("other".to_owned(), "yes".to_owned())].into();
        let submit = v1::SubmitRunRequest {
            spec: Some(v1::RunSpec { labels, ..spec.clone() }),
            request_id: request.to_owned(),
            validate_only: false,
        };
        loop {
            self.trace.note(Event::Submitting { request: request.to_owned(), other: true });
            match patiently(self.service().submit_run(submit.clone())).await {
                Ok(answer) => {
                    let run = format!("{} for another spec", answer.run.unwrap_or_default().r#ref);
                    return self.trace.note(Event::Acknowledged { request: request.to_owned(), run });
                }
                Err(status) if status.code() == Code::AlreadyExists => {
                    self.deeds.contradictions.fetch_add(1, Ordering::Relaxed);
                    return self.refused(request, &status);
                }
                Err(status) => self.refused(request, &status),
            }
            self.pause().await;
        }
    }

    async fn cancel(&self, run: &str, request: &str) {
        let cancel = v1::CancelRunRequest {
            r#ref: run.to_owned(),
            reason: "no longer wanted".to_owned(),
            request_id: format!("{request}-cancel"),
        };
        loop {
            self.trace.note(Event::Steering { what: "cancel", run: run.to_owned() });
            match patiently(self.service().cancel_run(cancel.clone())).await {
                Ok(answer) => return self.steered("cancel", run, answer.cancelled),
                Err(status) if is_final(&status) => return self.refused(request, &status),
                Err(status) => self.refused(request, &status),
            }
            self.pause().await;
        }
    }

    async fn retry(&self, run: &str, request: &str) {
        let retry = v1::RetryRunRequest {
            r#ref: run.to_owned(),
            request_id: format!("{request}-retry"),
            ..v1::RetryRunRequest::default()
        };
        loop {
            self.trace.note(Event::Steering { what: "retry", run: run.to_owned() });
            match patiently(self.service().retry_run(retry.clone())).await {
                Ok(answer) => return self.steered("retry", run, answer.retried),
                Err(status) if is_final(&status) => return self.refused(request, &status),
                Err(status) => self.refused(request, &status),
            }
            self.pause().await;
        }
    }

    fn steered(&self, what: &'static str, run: &str, count: u32) {
        self.trace.note(Event::Steered { what, run: run.to_owned(), count });
    }

    fn refused(&self, request: &str, status: &Status) {
        let code = format!("{:?}", status.code());
        self.trace.note(Event::Refused { request: request.to_owned(), code });
    }

    /// Waits until a run is terminal.
    async fn ended(&self, run: &str) -> RunState {
        let mut service = self.service();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match patiently(service.get_run(v1::GetRunRequest { r#ref: run.to_owned() })).await {
                Ok(answer) => {
                    let state = answer.run.unwrap_or_default().state();
                    if matches!(state, RunState::Succeeded | RunState::Failed | RunState::Cancelled) {
                        return state;
                    }
                }
                Err(_) => service = self.service(),
            }
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(200) + self.draw.within(Duration::from_secs(2))).await;
    }

    /// Watches everything from the first event on, and goes on where it was after every cut.
    async fn watch(self) {
        let mut next = 1;
        loop {
            self.trace.note(Event::Watching { watcher: self.name.clone(), seq: next });
            // How it ended does not matter: it is asked again.
            let _ = self.watch_once(&mut next).await;
            self.deeds.resumed_watches.fetch_add(1, Ordering::Relaxed);
            self.cut.store(false, Ordering::Relaxed);
            self.pause().await;
        }
    }

    async fn watch_once(&self, next: &mut u64) -> Result<(), Status> {
        let request = v1::WatchRunsRequest { from_seq: *next, ..v1::WatchRunsRequest::default() };
        let mut events = patiently(self.service().watch_runs(request)).await?;
        let mut look = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                biased;
                frame = events.message() => {
                    let Some(frame) = frame? else { return Ok(()) };
                    for event in frame.events.iter().filter(|event| event.seq > 0) {
                        let mut hasher = DefaultHasher::new();
                        event.encode_to_vec().hash(&mut hasher);
                        let what = hasher.finish();
                        let watcher = self.name.clone();
                        self.trace.note(Event::Watched { watcher, seq: event.seq, what });
                    }
                    *next = (*next).max(frame.next_seq);
                }
                _ = look.tick() => {
                    if self.cut.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What is to be done: one task, a diamond, a fan-out.
    fn spec(&self) -> v1::RunSpec {
        let draw = &self.draw;
        let mut tasks = match draw.below(4) {
            0 => vec![self.task("only", &[])],
            1 => vec![
                self.task("a", &[]),
                self.task("b", &["a"]),
                self.task("c", &["a"]),
                self.task("d", &["b", "c"]),
            ],
            2 => (0..2 + draw.below(4)).map(|at| self.task(&format!("t{at}"), &[])).collect(),
            _ => {
                let mut tasks = vec![self.task("first", &[])];
                tasks.extend((0..1 + draw.below(3)).map(|at| self.task(&format!("t{at}"), &["first"])));
                tasks
            }
        };
        if draw.chance(0.1) {
            tasks.push(self.noop("nothing"));
        }
        let on_failure = match draw.below(3) {
            0 => FailurePolicy::FailFast,
            1 => FailurePolicy::BestEffort,
            _ => FailurePolicy::Continue,
        };
        v1::RunSpec { name: self.name.clone(), tasks, on_failure: on_failure.into(), ..Default::default() }
    }

    fn task(&self, id: &str, dependencies: &[&str]) -> v1::TaskSpec {
        let draw = &self.draw;
        let long = if draw.chance(0.12) { 15_000 } else { 2_500 };
        let script = Script {
            takes: draw.within(Duration::from_millis(long)),
            failures: if draw.chance(0.2) { 1 + u32::try_from(draw.below(3)).unwrap_or(0) } else { 0 },
            poison: draw.chance(0.04),
            bulk: draw.chance(0.06),
        };
        let on_loss = if draw.chance(0.3) { OnLoss::Wait } else { OnLoss::Fast };
        let command = v1::CommandTask { program: "sim".to_owned(), args: script.args() };
        v1::TaskSpec {
            task_id: id.to_owned(),
            runner: Some(task_spec::Runner::Command(command)),
            dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
            on_loss: on_loss.into(),
            ..Default::default()
        }
    }

    fn noop(&self, id: &str) -> v1::TaskSpec {
        let runner = Some(task_spec::Runner::Noop(v1::NoopTask {}));
        v1::TaskSpec { task_id: id.to_owned(), runner, ..Default::default() }
    }
}

/// Slots in use by agent, as the coordinator counts them.
pub(crate) type SlotsUsed = Arc<Mutex<Option<BTreeMap<String, u32>>>>;

/// Looks at the fleet again and again.
pub(crate) async fn audit(found: SlotsUsed) -> turmoil::Result {
    let connect = || AdminServiceClient::new(Name::new(Role::Client, "auditor").channel());
    let mut admin = connect();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let request = v1::ListAgentsRequest::default();
        let Ok(answer) = patiently(admin.list_agents(request)).await else {
            admin = connect();
            continue;
        };
        let used = answer.agents.into_iter().map(|agent| (agent.name, agent.slots_used)).collect();
        *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(used);
    }
}

async fn patiently<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("patience")),
    }
}

/// Whether asking again cannot help.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition
    )
}
