//! A coordinator of few words: it holds runs in memory, finishes them while somebody watches, and fails when told to.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::Stream;
use futures_util::stream::{iter, unfold};
use orch_proto::v1::admin_service_server::AdminServiceServer;
use orch_proto::v1::blob_service_server::BlobServiceServer;
use orch_proto::v1::cost_service_server::CostServiceServer;
use orch_proto::v1::run_service_server::{RunService, RunServiceServer};
use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::transcript_service_server::{TranscriptService, TranscriptServiceServer};
use orch_proto::v1::watch_event::Change;
use orch_proto::v1::workflow_service_server::WorkflowServiceServer;
use orch_proto::v1::*;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::client::Client;
use crate::output::words::run_ended;

mod admin;
mod blobs;
pub(super) mod money;
pub(super) mod planned;
pub(super) mod storage;
mod workflows;

/// The fake; clones share what it holds.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Held>>);

#[derive(Default)]
pub(super) struct Held {
    pub(super) runs: Vec<(Run, Vec<Task>)>,
    pub(super) specs: Vec<RunSpec>,
    pub(super) request_ids: Vec<String>,
    /// Failures of the next calls, whatever they ask.
    pub(super) failures: VecDeque<Status>,
    /// Watches to cut after the snapshot.
    pub(super) cuts: u32,
    /// First sequence numbers that watches asked for.
    pub(super) watched_from: Vec<u64>,
    /// How long a watch of everything says nothing at first.
    pub(super) silence: std::time::Duration,
    pub(super) calls: Vec<&'static str>,
    pub(super) transcript: Vec<u8>,
    pub(super) retried: Vec<RetryRunRequest>,
    /// What a watch on everything tells.
    pub(super) events: Vec<WatchEvent>,
    /// Watches on everything may not begin before this number.
    pub(super) expired: u64,
    pub(super) agents: admin::Agents,
    pub(super) workers: admin::Workers,
    pub(super) status: admin::Status,
    pub(super) storage: storage::Kept,
    pub(super) problems: Vec<PromptProblem>,
    /// Names and definitions.
    pub(super) workflows: Vec<(String, String)>,
    pub(super) validated: Vec<PromptFile>,
    /// A plan, and what speaks against it, in place of the usual one.
    pub(super) plan: Option<(String, Vec<String>)>,
    pub(super) decided: Vec<DecidePlanRequest>,
    /// What is said of a task, by its reference, in place of the usual.
    pub(super) explained: HashMap<String, ExplainTaskResponse>,
    /// Files and the runs they belong to.
    pub(super) artifacts: Vec<(String, TaskArtifact)>,
    pub(super) blobs: HashMap<Vec<u8>, Vec<u8>>,
    /// Offsets from which bytes were asked for.
    pub(super) read_from: Vec<u64>,
    pub(super) money: money::Money,
    uploads: HashMap<String, (String, Vec<u8>)>,
}

impl Fake {
    /// Serves on loopback for as long as the set lives.
    pub(super) async fn serve(&self, tasks: &mut JoinSet<()>) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        // Without it every answer waits for an acknowledgement that the client delays.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder()
            .add_service(RunServiceServer::new(self.clone()))
            .add_service(AdminServiceServer::new(self.clone()))
            .add_service(BlobServiceServer::new(self.clone()))
            .add_service(CostServiceServer::new(self.clone()))
            .add_service(WorkflowServiceServer::new(self.clone()))
            .add_service(TranscriptServiceServer::new(self.clone()));
        tasks.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Client::over(Endpoint::from_shared(endpoint.clone()).unwrap().connect_lazy(), &endpoint)
    }

    pub(super) fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    /// The events from a number on, and those that come; cut after the first one as often as was asked for.
    fn everything(&self, from: u64) -> Frames<WatchRunsResponse> {
        let mut held = self.held();
        if from < held.expired {
            let next = WatchRunsResponse { next_seq: held.expired, ..Default::default() };
            let gone = Status::out_of_range(format!("events before {} are kept no longer", held.expired));
            return Box::pin(iter([Ok(next), Err(gone)]));
        }
        if held.cuts > 0 && held.event(from).is_some() {
            held.cuts -= 1;
            let cut = Err(Status::unavailable("the coordinator restarts"));
            return Box::pin(iter(held.event(from).into_iter().chain([cut])));
        }
        let silence = std::mem::take(&mut held.silence);
        drop(held);
        Box::pin(unfold((self.clone(), from, silence), |(fake, from, silence)| async move {
            tokio::time::sleep(silence).await;
            loop {
                let next = fake.held().event(from);
                if let Some(frame) = next {
                    let from = frame.as_ref().map_or(from, |frame| frame.next_seq);
                    return Some((frame, (fake, from, std::time::Duration::ZERO)));
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }))
    }

    fn call(&self, name: &'static str) -> Result<std::sync::MutexGuard<'_, Held>, Status> {
        let mut held = self.held();
        held.calls.push(name);
        match held.failures.pop_front() {
            Some(status) => Err(status),
            None => Ok(held),
        }
    }
}

impl Held {
    fn find(&self, reference: &str) -> Result<usize, Status> {
        if reference == "@last" {
            return self.runs.len().checked_sub(1).ok_or_else(|| Status::not_found("no runs"));
        }
        let run = reference.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        let found = self.runs.iter().position(|(held, _)| held.r#ref == run);
        found.ok_or_else(|| Status::not_found(format!("there is no run {run}")))
    }

    fn submit(&mut self, spec: RunSpec, request_id: String, validate_only: bool) -> SubmitRunResponse {
        let (spec, workflow) = self.called(spec);
        let wants_gpu = |task: &&TaskSpec| task.requires.contains_key("gpu");
        let impossible: Vec<_> = spec
            .tasks
            .iter()
            .filter(wants_gpu)
            .map(|task| Impossible {
                task_id: id_of(task),
                reason: "needs gpu=yes, which no known agent offers".into(),
            })
            .collect();
        if validate_only {
            let estimate = self.money.estimate;
            return SubmitRunResponse { impossible, estimate, ..SubmitRunResponse::default() };
        }
        if let Some(known) = self.request_ids.iter().position(|id| *id == request_id) {
            return SubmitRunResponse {
                run: Some(self.runs[known].0.clone()),
                existing: true,
                impossible,
                estimate: None,
            };
        }
        let name = if spec.name.is_empty() { "adhoc" } else { &spec.name };
        let reference = format!("{name}/{}", self.runs.len() + 1);
        let planned = spec.request.is_some();
        let tasks: Vec<_> = if planned {
            self.request(&reference)
        } else {
            (0..).zip(&spec.tasks).map(|(index, task)| task_of(&reference, index, task)).collect()
        };
        let run = Run {
            r#ref: reference,
            state: if planned { RunState::Planning } else { RunState::Running }.into(),
            planned,
            task_count: u32::try_from(tasks.len()).unwrap(),
            labels: spec.labels.clone(),
            workflow,
            ..Run::default()
        };
        self.runs.push((run.clone(), tasks));
        self.specs.push(spec);
        self.request_ids.push(request_id);
        SubmitRunResponse { run: Some(run), existing: false, impossible, estimate: None }
    }

    /// The first of the events from a number on.
    fn event(&self, from: u64) -> Option<Result<WatchRunsResponse, Status>> {
        let event = self.events.iter().find(|event| event.seq >= from)?.clone();
        Some(Ok(WatchRunsResponse { next_seq: event.seq + 1, events: vec![event], ..Default::default() }))
    }

    /// Finishes a run: tasks that say `fail` time out, those that want a gpu stay queued.
    fn finish(&mut self, at: usize) -> Vec<WatchEvent> {
        if self.runs[at].0.planned {
            return self.advance(at);
        }
        let spec = self.specs[at].clone();
        let (run, tasks) = &mut self.runs[at];
        let mut changes = Vec::new();
        for (task, spec) in tasks.iter_mut().zip(&spec.tasks) {
            if spec.requires.contains_key("gpu") {
                continue;
            }
            let failed = spec.agent == "box-bad"
                || matches!(&spec.runner, Some(Runner::Worker(work)) if work.description == "fail");
            let (state, outcome) = if failed {
                (TaskState::Failed, Outcome::Timeout)
            } else {
                (TaskState::Succeeded, Outcome::Ok)
            };
            task.state = state.into();
            task.outcome = outcome.into();
            task.attempt = 1;
            task.agent = if spec.agent.is_empty() { "box-1".into() } else { spec.agent.clone() };
            task.usage = Some(Usage { cost_micro_usd: 80_000, ..Usage::default() });
            changes.push(Change::Task(TaskChanged {
                task_id: task.task_id.clone(),
                index: task.index,
                state: task.state,
                outcome: task.outcome,
                attempt: 1,
                agent: task.agent.clone(),
                ..TaskChanged::default()
            }));
        }
        if tasks.iter().any(|task| task.state() == TaskState::Queued) {
            return wrap(&run.r#ref, changes);
        }
        let failed = tasks.iter().find(|task| task.state() == TaskState::Failed).map(Task::outcome);
        let state = if failed.is_some() { RunState::Failed } else { RunState::Succeeded };
        run.state = state.into();
        run.outcome = failed.unwrap_or(Outcome::Ok).into();
        changes.push(Change::Run(RunChanged { state: run.state, task_count: run.task_count, usage: None }));
        wrap(&run.r#ref, changes)
    }
}

fn wrap(run: &str, changes: Vec<Change>) -> Vec<WatchEvent> {
    let event = |(seq, change)| WatchEvent { seq, run_ref: run.to_owned(), change: Some(change), time: None };
    (100..).zip(changes).map(event).collect()
}

fn id_of(task: &TaskSpec) -> String {
    if task.task_id.is_empty() { "task".to_owned() } else { task.task_id.clone() }
}

fn task_of(run: &str, index: u32, spec: &TaskSpec) -> Task {
    let (worker, runner) = match &spec.runner {
        Some(Runner::Worker(work)) => (work.worker.clone(), "claude"),
        Some(Runner::Command(_)) => (String::new(), "command"),
        Some(Runner::Noop(_)) | None => (String::new(), "noop"),
    };
    Task {
        r#ref: format!("{run}/{}", id_of(spec)),
        index,
        task_id: id_of(spec),
        state: TaskState::Queued.into(),
        worker,
        runner: runner.into(),
        dependencies: spec.dependencies.clone(),
        answer: Some(Text { body: Some(text::Body::Inline(format!("answer {index}"))) }),
        ..Task::default()
    }
}

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RunService for Fake {
    /// In pages of two, without attempts.
    async fn list_dead_tasks(
        &self,
        request: Request<ListDeadTasksRequest>,
    ) -> Result<Response<ListDeadTasksResponse>, Status> {
        let request = request.into_inner();
        let held = self.call("dead")?;
        let poisoned = |task: &&Task| task.outcome() == Outcome::Poison;
        let lists = |task: &Task| Task { attempts: Vec::new(), ..task.clone() };
        let all: Vec<_> =
            held.runs.iter().rev().flat_map(|(_, tasks)| tasks.iter().filter(poisoned).map(lists)).collect();
        let start: usize = request.page_token.parse().unwrap_or(0);
        let tasks: Vec<_> = all.iter().skip(start).take(2).cloned().collect();
        let next = start + tasks.len();
        let next_page_token = if next < all.len() { next.to_string() } else { String::new() };
        Ok(Response::new(ListDeadTasksResponse { tasks, next_page_token }))
    }

    async fn submit_run(
        &self,
        request: Request<SubmitRunRequest>,
    ) -> Result<Response<SubmitRunResponse>, Status> {
        let SubmitRunRequest { spec, request_id, validate_only } = request.into_inner();
        let mut held = self.call("submit")?;
        Ok(Response::new(held.submit(spec.unwrap(), request_id, validate_only)))
    }

    async fn begin_submission(
        &self,
        request: Request<BeginSubmissionRequest>,
    ) -> Result<Response<BeginSubmissionResponse>, Status> {
        let request = request.into_inner();
        let mut held = self.call("begin")?;
        let upload_id = format!("up-{}", held.uploads.len());
        held.uploads.insert(upload_id.clone(), (request.request_id, Vec::new()));
        Ok(Response::new(BeginSubmissionResponse { upload_id, offset: 0 }))
    }

    async fn append_submission(
        &self,
        request: Request<AppendSubmissionRequest>,
    ) -> Result<Response<AppendSubmissionResponse>, Status> {
        let request = request.into_inner();
        let mut held = self.call("append")?;
        let (_, bytes) = held.uploads.get_mut(&request.upload_id).unwrap();
        assert_eq!(bytes.len() as u64, request.offset);
        assert!(request.data.len() <= 512 << 10);
        bytes.extend(request.data);
        Ok(Response::new(AppendSubmissionResponse { offset: bytes.len() as u64 }))
    }

    async fn seal_submission(
        &self,
        request: Request<SealSubmissionRequest>,
    ) -> Result<Response<SealSubmissionResponse>, Status> {
        let mut held = self.call("seal")?;
        let (request_id, bytes) = held.uploads.remove(&request.into_inner().upload_id).unwrap();
        let submitted = Some(held.submit(RunSpec::decode(bytes.as_slice()).unwrap(), request_id, false));
        Ok(Response::new(SealSubmissionResponse { submitted }))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Result<Response<GetRunResponse>, Status> {
        let held = self.call("get_run")?;
        let at = held.find(&request.into_inner().r#ref)?;
        Ok(Response::new(GetRunResponse { run: Some(held.runs[at].0.clone()) }))
    }

    async fn list_runs(
        &self,
        request: Request<ListRunsRequest>,
    ) -> Result<Response<ListRunsResponse>, Status> {
        let request = request.into_inner();
        let held = self.call("list_runs")?;
        let start: usize = request.page_token.parse().unwrap_or(0);
        let size = usize::try_from(request.page_size).unwrap().min(2);
        let all: Vec<_> = held.runs.iter().rev().map(|(run, _)| run.clone()).collect();
        let runs: Vec<_> = all.iter().skip(start).take(size).cloned().collect();
        let next = start + runs.len();
        let next_page_token = if next < all.len() { next.to_string() } else { String::new() };
        Ok(Response::new(ListRunsResponse { runs, next_page_token }))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let reference = request.into_inner().r#ref;
        let held = self.call("get_task")?;
        let at = held.find(&reference)?;
        let task = held.runs[at].1.iter().find(|task| task.r#ref == reference);
        let task = task.ok_or_else(|| Status::not_found(format!("there is no task {reference}")))?;
        Ok(Response::new(GetTaskResponse { task: Some(task.clone()) }))
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let held = self.call("list_tasks")?;
        let at = held.find(&request.into_inner().r#ref)?;
        Ok(Response::new(ListTasksResponse {
            tasks: held.runs[at].1.clone(),
            next_page_token: String::new(),
        }))
    }

    type WatchRunsStream = Frames<WatchRunsResponse>;

    async fn watch_runs(
        &self,
        request: Request<WatchRunsRequest>,
    ) -> Result<Response<Self::WatchRunsStream>, Status> {
        let request = request.into_inner();
        let mut held = self.call("watch")?;
        held.watched_from.push(request.from_seq);
        if request.r#ref.is_empty() {
            drop(held);
            return Ok(Response::new(self.everything(request.from_seq)));
        }
        let at = held.find(&request.r#ref)?;
        let mut frames = Vec::new();
        if request.from_seq == 0 {
            let (run, tasks) = held.runs[at].clone();
            let snapshot = WatchRunsResponse {
                run: Some(run),
                tasks,
                next_seq: 100,
                snapshot_complete: true,
                ..Default::default()
            };
            frames.push(Ok(snapshot));
        }
        if held.cuts > 0 {
            held.cuts -= 1;
            frames.push(Err(Status::unavailable("the coordinator restarts")));
        } else {
            let events = held.finish(at);
            // A planned run goes through its states one by one.
            let apart = if held.runs[at].0.planned { 1 } else { events.len().max(1) };
            for events in events.chunks(apart) {
                frames.push(Ok(WatchRunsResponse {
                    events: events.to_vec(),
                    next_seq: 200,
                    ..Default::default()
                }));
            }
            if !run_ended(held.runs[at].0.state()) {
                // Something is left that does not move: the stream stays open.
                let open = futures_util::stream::pending();
                return Ok(Response::new(Box::pin(futures_util::StreamExt::chain(iter(frames), open))));
            }
        }
        Ok(Response::new(Box::pin(iter(frames))))
    }

    async fn cancel_run(
        &self,
        request: Request<CancelRunRequest>,
    ) -> Result<Response<CancelRunResponse>, Status> {
        let mut held = self.call("cancel")?;
        let at = held.find(&request.into_inner().r#ref)?;
        held.runs[at].0.state = RunState::Cancelled.into();
        Ok(Response::new(CancelRunResponse { run: Some(held.runs[at].0.clone()), cancelled: 1 }))
    }

    async fn retry_run(
        &self,
        request: Request<RetryRunRequest>,
    ) -> Result<Response<RetryRunResponse>, Status> {
        let request = request.into_inner();
        let mut held = self.call("retry")?;
        let at = held.find(&request.r#ref)?;
        let mut retried = 0;
        if request.dead {
            for task in &mut held.runs[at].1 {
                let named =
                    task.r#ref == request.r#ref || task.r#ref.starts_with(&format!("{}/", request.r#ref));
                if named && task.outcome() == Outcome::Poison {
                    task.state = TaskState::Queued.into();
                    task.outcome = Outcome::Unspecified.into();
                    retried += 1;
                }
            }
        }
        held.retried.push(request);
        Ok(Response::new(RetryRunResponse { run: Some(held.runs[at].0.clone()), retried }))
    }

    async fn explain_task(
        &self,
        request: Request<ExplainTaskRequest>,
    ) -> Result<Response<ExplainTaskResponse>, Status> {
        let reference = request.into_inner().r#ref;
        let held = self.call("explain")?;
        let at = held.find(&reference)?;
        if let Some(explained) = held.explained.get(&reference) {
            return Ok(Response::new(explained.clone()));
        }
        let wants_gpu = held.specs[at].tasks.iter().any(|task| task.requires.contains_key("gpu"));
        Ok(Response::new(ExplainTaskResponse {
            summary: "queued; needs gpu=yes, which no known agent offers".into(),
            reasons: vec![Reason {
                kind: "capability".into(),
                satisfied: false,
                text: "gpu=yes is offered by nobody".into(),
                left: None,
            }],
            impossible: wants_gpu,
            help: "orch-agent --capability gpu=yes".into(),
            ..Default::default()
        }))
    }

    async fn get_plan(&self, request: Request<GetPlanRequest>) -> Result<Response<GetPlanResponse>, Status> {
        let held = self.call("get_plan")?;
        let at = held.find(&request.into_inner().r#ref)?;
        Ok(Response::new(held.plan_of(at)))
    }

    async fn decide_plan(
        &self,
        request: Request<DecidePlanRequest>,
    ) -> Result<Response<DecidePlanResponse>, Status> {
        let request = request.into_inner();
        let mut held = self.call("decide_plan")?;
        let at = held.find(&request.r#ref)?;
        let answer = held.decide(&request, at)?;
        held.decided.push(request);
        Ok(Response::new(answer))
    }

    /// In pages of two.
    async fn list_artifacts(
        &self,
        request: Request<ListArtifactsRequest>,
    ) -> Result<Response<ListArtifactsResponse>, Status> {
        let request = request.into_inner();
        let held = self.call("list_artifacts")?;
        let run = held.runs[held.find(&request.r#ref)?].0.r#ref.clone();
        let task = request.r#ref.strip_prefix(&run).unwrap_or_default().trim_start_matches('/');
        let wanted =
            |(of, file): &&(String, TaskArtifact)| *of == run && (task.is_empty() || file.task_id == task);
        let all: Vec<_> = held.artifacts.iter().filter(wanted).map(|(_, file)| file.clone()).collect();
        let start: usize = request.page_token.parse().unwrap_or(0);
        let artifacts: Vec<_> = all.iter().skip(start).take(2).cloned().collect();
        let next = start + artifacts.len();
        let next_page_token = if next < all.len() { next.to_string() } else { String::new() };
        Ok(Response::new(ListArtifactsResponse { artifacts, next_page_token }))
    }
}

#[tonic::async_trait]
impl TranscriptService for Fake {
    type AppendTranscriptStream = Frames<AppendTranscriptResponse>;

    async fn append_transcript(
        &self,
        _: Request<Streaming<AppendTranscriptRequest>>,
    ) -> Result<Response<Self::AppendTranscriptStream>, Status> {
        Err(Status::unimplemented("agents only"))
    }

    type ReadTranscriptStream = Frames<ReadTranscriptResponse>;

    /// The first read is cut in the middle.
    async fn read_transcript(
        &self,
        request: Request<ReadTranscriptRequest>,
    ) -> Result<Response<Self::ReadTranscriptStream>, Status> {
        let request = request.into_inner();
        let mut held = self.call("transcript")?;
        let from = usize::try_from(request.offset).unwrap();
        let cut = std::mem::take(&mut held.cuts) > 0;
        let to = if cut { held.transcript.len() / 2 } else { held.transcript.len() };
        let data = held.transcript[from..to].to_vec();
        let mut frames = vec![Ok(ReadTranscriptResponse { offset: request.offset, data, attempt: 1 })];
        if cut {
            frames.push(Err(Status::unavailable("the coordinator restarts")));
        }
        Ok(Response::new(Box::pin(iter(frames))))
    }
}
