//! Runs: submit, show, watch, steer. Adapters: parse into a domain request, ask, convert the answer.

use crate::engine::Handle;
use crate::payloads::archive::RunFilter;
use crate::rpc::auth::Caller;
use crate::rpc::cost_service::budgets::change_run;
use crate::rpc::explain::explain;
use crate::rpc::lookup::{Lookup, archive_status, no_such_run};
use crate::rpc::paging::{NumberPage, page_size};
use crate::rpc::plan_service::Plans;
use crate::rpc::refs::{parse_ref, parse_run_ref};
use crate::rpc::status::refuse_field;
use crate::rpc::submit::{Submitter, check_request_id};
use crate::rpc::uploads::{UploadHeader, Uploads};
use crate::rpc::watch::{Frame, Watch};
use crate::rpc::{answered, artifacts, blocking, convert, dead, gone, unexpected};
use futures_core::Stream;
use orch_core::event::{Event, Target};
use orch_core::ids::{RunId, TaskIndex, Token};
use orch_core::query::{Answer, Refusal};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::run_service_server::RunService;
use orch_proto::v1::{self, SubmitRunRequest, SubmitRunResponse};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

/// Longest reason of a cancel.
const MAX_REASON: usize = 1_024;
/// Uploads being opened and submitted at a time: each takes several times its 256 MiB meanwhile.
const MAX_SEALING: usize = 2;
/// Frames between a watch and HTTP/2, one of them for its last word: a watcher that does not read stops its own watch and
/// nothing else.
const WATCH_FRAMES: usize = 5;

/// The service.
#[derive(Debug, Clone)]
pub struct Runs {
    parts: Arc<RunParts>,
    sealing: Arc<Semaphore>,
}

/// What the service needs.
#[derive(Debug)]
pub struct RunParts {
    /// The engine.
    pub engine: Handle,
    /// Finds runs and tasks.
    pub lookup: Lookup,
    /// Takes runs in.
    pub submitter: Submitter,
    /// Shows and decides plans.
    pub plans: Plans,
    /// Open uploads.
    pub uploads: Uploads,
    /// Makes ids of uploads.
    pub fresh_id: fn() -> String,
    /// Watches run here.
    pub tasks: TaskTracker,
    /// Set when the coordinator drains.
    pub draining: CancellationToken,
}

impl Runs {
    /// Serves runs.
    #[must_use]
    pub fn new(parts: RunParts) -> Self {
        Self { parts: Arc::new(parts), sealing: Arc::new(Semaphore::new(MAX_SEALING)) }
    }

    /// Begins a watch.
    ///
    /// # Errors
    /// A reference that cannot be one.
    pub fn watch(
        &self,
        request: Request<v1::WatchRunsRequest>,
    ) -> Result<Response<ReceiverStream<Result<Frame, Status>>>, Status> {
        let caller = Caller::of(&request)?;
        let v1::WatchRunsRequest { r#ref, from_seq, until_terminal, with_activity } = request.into_inner();
        let target = if r#ref.is_empty() { None } else { Some(parse_ref(&r#ref, &caller)?) };
        let watch = Watch {
            engine: self.parts.engine.clone(),
            lookup: self.parts.lookup.clone(),
            tenant: caller.tenant,
            target,
            from_seq,
            until_terminal,
            with_activity,
            draining: self.parts.draining.clone(),
        };
        let (frames, stream) = mpsc::channel(WATCH_FRAMES);
        self.parts.tasks.spawn(watch.run(frames).in_current_span());
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn seal(&self, caller: &Caller, upload_id: &str) -> Result<SubmitRunResponse, Status> {
        let _turn = self.sealing.acquire().await.map_err(|_| gone())?;
        let sealed = self.parts.uploads.seal(&caller.label(), upload_id)?;
        let (header, spec) = blocking(move || sealed.open()).await??;
        let UploadHeader { request_id, validate_only, .. } = header;
        let submit = SubmitRunRequest { spec: Some(spec), request_id, validate_only };
        self.parts.submitter.submit(caller, submit).await
    }

    /// Changes a run. A finished one may have left the state and is taken back first.
    async fn change(
        &self,
        target: &Target,
        event: impl FnOnce(Token) -> Event + Clone + Send + 'static,
    ) -> Result<(v1::Run, u32), Status> {
        let mut answer = self.parts.engine.request(event.clone()).await;
        if matches!(answer, Ok(Answer::Refused(Refusal::RunNotLive))) {
            recall(&self.parts.engine, target).await?;
            answer = self.parts.engine.request(event).await;
        }
        let answer = answered(answer)?;
        // A run that was tried again before may have left the state since: the store has all of it.
        if let Answer::Retried { run, count, existing: true } = &answer {
            let named = parse_run_ref(target.tenant, &run.run_ref)?;
            return Ok((self.parts.lookup.run(&named).await?, *count));
        }
        let (Answer::Cancelled { run, count } | Answer::Retried { run, count, .. }) = answer else {
            return Err(unexpected());
        };
        Ok((convert::run(&run), count))
    }
}

/// Takes a finished run back into the state.
///
/// # Errors
/// `NOT_FOUND`, and what the store says.
pub(crate) async fn recall(engine: &Handle, target: &Target) -> Result<(), Status> {
    let found = engine.resolve(target.clone()).await.map_err(|_| gone())?;
    let (run, _) = found.ok_or_else(|| no_such_run(target))?;
    let recalled = engine.archive().recall(target.tenant, run).await;
    if let Some(recalled) = recalled.map_err(|error| archive_status(&error))? {
        engine.apply(Event::RunRecalled(Box::new(recalled))).await.map_err(|_| gone())?;
    }
    Ok(())
}

#[tonic::async_trait]
impl RunService for Runs {
    async fn submit_run(
        &self,
        request: Request<SubmitRunRequest>,
    ) -> Result<Response<SubmitRunResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.parts.submitter.submit(&caller, request.into_inner()).await?))
    }

    async fn begin_submission(
        &self,
        request: Request<v1::BeginSubmissionRequest>,
    ) -> Result<Response<v1::BeginSubmissionResponse>, Status> {
        let owner = Caller::of(&request)?.label();
        let v1::BeginSubmissionRequest { request_id, size, digest, validate_only } = request.into_inner();
        check_request_id(&request_id)?;
        if request_id.is_empty() {
            return Err(refuse_field(ErrorCode::InvalidRequestId, "request_id", "an upload needs one"));
        }
        let header = UploadHeader { owner, request_id, size, digest, validate_only };
        let (upload_id, offset) =
            self.parts.uploads.begin(header, (self.parts.fresh_id)(), Instant::now())?;
        Ok(Response::new(v1::BeginSubmissionResponse { upload_id, offset }))
    }

    async fn append_submission(
        &self,
        request: Request<v1::AppendSubmissionRequest>,
    ) -> Result<Response<v1::AppendSubmissionResponse>, Status> {
        let owner = Caller::of(&request)?.label();
        let v1::AppendSubmissionRequest { upload_id, offset, data } = request.into_inner();
        let offset = self.parts.uploads.append(&owner, &upload_id, offset, &data, Instant::now())?;
        Ok(Response::new(v1::AppendSubmissionResponse { offset }))
    }

    async fn seal_submission(
        &self,
        request: Request<v1::SealSubmissionRequest>,
    ) -> Result<Response<v1::SealSubmissionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let submitted = Some(self.seal(&caller, &request.get_ref().upload_id).await?);
        Ok(Response::new(v1::SealSubmissionResponse { submitted }))
    }

    async fn get_run(
        &self,
        request: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::GetRunResponse>, Status> {
        let target = parse_ref(&request.get_ref().r#ref, &Caller::of(&request)?)?;
        let run = Some(self.parts.lookup.run(&target).await?);
        Ok(Response::new(v1::GetRunResponse { run }))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let v1::ListRunsRequest { page_size: size, page_token, states, name } = request.into_inner();
        let below = RunId(NumberPage::parse("runs", &page_token)?.unwrap_or(u64::MAX));
        check_states(&states, |state| v1::RunState::try_from(state).is_ok())?;
        let filter = RunFilter { states, name };
        let page = self.parts.lookup.runs(caller.tenant, below, page_size(size)?, filter).await?;
        let next_page_token = NumberPage::token("runs", page.below.map(|below| below.0));
        Ok(Response::new(v1::ListRunsResponse { runs: page.runs, next_page_token }))
    }

    async fn get_task(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::GetTaskResponse>, Status> {
        let target = parse_ref(&request.get_ref().r#ref, &Caller::of(&request)?)?;
        let task = Some(self.parts.lookup.task(&target).await?);
        Ok(Response::new(v1::GetTaskResponse { task }))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let target = parse_ref(&request.r#ref, &caller)?;
        let from = NumberPage::parse("tasks", &request.page_token)?.unwrap_or(0);
        let from = TaskIndex(u32::try_from(from).unwrap_or(u32::MAX));
        check_states(&request.states, |state| v1::TaskState::try_from(state).is_ok())?;
        let states: Vec<v1::TaskState> =
            request.states.iter().filter_map(|state| v1::TaskState::try_from(*state).ok()).collect();
        let limit = page_size(request.page_size)?;
        let page = self.parts.lookup.tasks(&target, from, limit, &states, request.with_answers).await?;
        let next_page_token = NumberPage::token("tasks", page.next.map(|next| u64::from(next.0)));
        Ok(Response::new(v1::ListTasksResponse { tasks: page.tasks, next_page_token }))
    }

    type WatchRunsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchRunsResponse, Status>> + Send>>;

    /// For whoever calls it without a [`crate::rpc::watch::WatchDoor`], which writes frames as they are.
    async fn watch_runs(
        &self,
        request: Request<v1::WatchRunsRequest>,
    ) -> Result<Response<Self::WatchRunsStream>, Status> {
        let frames = self.watch(request)?.into_inner();
        Ok(Response::new(Box::pin(frames.map(|frame| frame?.into_message()))))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let target = parse_ref(&request.get_ref().r#ref, &Caller::of(&request)?)?;
        let v1::CancelRunRequest { reason, request_id, .. } = request.into_inner();
        check_request_id(&request_id)?;
        if reason.len() > MAX_REASON {
            return Err(refuse_field(ErrorCode::TooLarge, "reason", format!("at most {MAX_REASON} bytes")));
        }
        let (named, reason) = (target.clone(), Arc::from(reason));
        let event = move |token| Event::CancelRequested { token, target: named, reason };
        let (run, cancelled) = self.change(&target, event).await?;
        Ok(Response::new(v1::CancelRunResponse { run: Some(run), cancelled }))
    }

    async fn retry_run(
        &self,
        request: Request<v1::RetryRunRequest>,
    ) -> Result<Response<v1::RetryRunResponse>, Status> {
        let caller = Caller::of(&request)?;
        let target = parse_ref(&request.get_ref().r#ref, &caller)?;
        let request = request.into_inner();
        check_request_id(&request.request_id)?;
        if !request.from.is_empty() && target.task.is_some() {
            let message = "goes with the reference of a run, without a task";
            return Err(refuse_field(ErrorCode::InvalidField, "from", message));
        }
        if request.dead && (request.force || !request.from.is_empty()) {
            let message = "goes neither with force nor with from: it is about tasks that ended";
            return Err(refuse_field(ErrorCode::InvalidField, "dead", message));
        }
        let digest = retry_digest(&request);
        if let Some(limit) = &request.budget {
            let run = Target { task: None, ..target.clone() };
            change_run(&self.parts.engine, &caller, run, Some(limit)).await?;
        }
        let v1::RetryRunRequest { force, request_id, from, dead, .. } = request;
        let (named, request_id) = (target.clone(), Arc::from(request_id));
        let from = (!from.is_empty()).then(|| Arc::from(from));
        let event = move |token| {
            let target = named;
            Event::RetryRequested { token, target, force, from, dead, request_id, digest }
        };
        let (run, retried) = self.change(&target, event).await?;
        Ok(Response::new(v1::RetryRunResponse { run: Some(run), retried }))
    }

    async fn explain_task(
        &self,
        request: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        let target = parse_ref(&request.get_ref().r#ref, &Caller::of(&request)?)?;
        Ok(Response::new(explain(&self.parts.engine, &self.parts.lookup, &target).await?))
    }

    async fn list_dead_tasks(
        &self,
        request: Request<v1::ListDeadTasksRequest>,
    ) -> Result<Response<v1::ListDeadTasksResponse>, Status> {
        let caller = Caller::of(&request)?;
        let RunParts { engine, lookup, .. } = &*self.parts;
        Ok(Response::new(dead::list(engine, lookup, caller.tenant, request.get_ref()).await?))
    }

    async fn get_plan(
        &self,
        request: Request<v1::GetPlanRequest>,
    ) -> Result<Response<v1::GetPlanResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.parts.plans.show(&caller, request.into_inner()).await?))
    }

    async fn decide_plan(
        &self,
        request: Request<v1::DecidePlanRequest>,
    ) -> Result<Response<v1::DecidePlanResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.parts.plans.decide(&caller, request.into_inner()).await?))
    }

    async fn list_artifacts(
        &self,
        request: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let RunParts { engine, lookup, .. } = &*self.parts;
        let listed = artifacts::list(lookup, &engine.results(), &caller, request.into_inner()).await?;
        Ok(Response::new(listed))
    }
}

/// What tells a repetition of a retry from another request under the same id. Over the request as it came: `@last` means
/// another run later, and the repetition is about the first all the same.
fn retry_digest(request: &v1::RetryRunRequest) -> [u8; 32] {
    let body = v1::RetryRunRequest { request_id: String::new(), ..request.clone() };
    let mut digest = Sha256::new_with_prefix(b"orch.v1.RetryRunRequest\0");
    digest.update(body.encode_to_vec());
    digest.finalize().into()
}

fn check_states(states: &[i32], known: impl Fn(i32) -> bool) -> Result<(), Status> {
    match states.iter().find(|state| !known(**state) || **state == 0) {
        Some(state) => Err(refuse_field(ErrorCode::InvalidField, "states", format!("{state} is no state"))),
        None => Ok(()),
    }
}
