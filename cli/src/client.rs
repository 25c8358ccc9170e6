//! The coordinator as commands see it: one connected client whose calls are retried, bounded and told as failures.
//! Knows the wire; refuses to print and to decide what a person wants.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use orch_certs::dial::Connector;
use orch_certs::{ClientTls, TlsError};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::admin_service_client::AdminServiceClient;
use orch_proto::v1::run_service_client::RunServiceClient;
use orch_proto::v1::{self};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::refs::Reference;
use crate::retry::{self, FullJitter, GaveUp, Limits};

mod admin;
mod artifacts;
pub(crate) mod bulk;
pub(crate) mod events;
mod money;
pub(crate) mod plan;
pub(crate) mod storage;
pub(crate) mod submission;
pub(crate) mod transcript;
mod workflows;

/// Longest wait for the answer to one call; streams are bounded by keep-alive instead.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How often a silent connection is probed: a coordinator that vanished without a word is noticed within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Largest message taken: above the wire's 1 MiB, with room for its framing.
const MAX_MESSAGE: usize = 4 << 20;
/// Entries asked for at a time.
const PAGE: i32 = 1000;

/// A client of one coordinator. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    endpoint: Arc<str>,
}

impl Client {
    /// Reads the certificates. The connection is made by the first call.
    ///
    /// # Errors
    /// Certificate files that cannot be used.
    pub(crate) fn new(context: &Context) -> Outcome<Self> {
        let tls = tls(context, SystemTime::now())?;
        let endpoint = Endpoint::from_shared(context.endpoint.clone())
            .map_err(|error| {
                Failure::usage(format!("the endpoint {:?} is not a URL", context.endpoint)).chain(&error)
            })?
            .user_agent(concat!("orchctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| {
                Failure::new(crate::exit::BUG, "the user agent is not a header value").chain(&error)
            })?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector_lazy(Connector::new(tls));
        Ok(Self::over(channel, &context.endpoint))
    }

    /// A client over a channel made elsewhere.
    pub(crate) fn over(channel: Channel, endpoint: &str) -> Self {
        Self { channel, endpoint: endpoint.into() }
    }

    /// The connection, for stubs that are made elsewhere.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The stub of `RunService`.
    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The stub of `AdminService`.
    fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Makes a call that may be repeated, until it succeeds or a person has waited long enough.
    pub(crate) async fn call<T>(&self, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Outcome<T> {
        let bounded = async || match tokio::time::timeout(CALL_LIMIT, call()).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::unavailable(format!("no answer within {} s", CALL_LIMIT.as_secs()))),
        };
        retry::retrying(policy(retry::CALL), bounded).await.map_err(|error| self.gave_up(&error))
    }

    /// What to tell about a call that was given up.
    pub(crate) fn gave_up(&self, error: &GaveUp) -> Failure {
        Failure::from_status(&error.status).toward(&self.endpoint, error.tries, error.elapsed.as_secs_f64())
    }

    /// The run behind a reference, with `@last` resolved.
    pub(crate) async fn run(&self, reference: &Reference) -> Outcome<v1::Run> {
        let request = v1::GetRunRequest { r#ref: reference.run.clone() };
        let answer = self.call(async || self.runs().get_run(request.clone()).await).await?;
        answer.run.ok_or_else(|| incomplete("GetRun"))
    }

    /// The reference with `@last` replaced by the run it stands for.
    pub(crate) async fn resolve(&self, reference: &str) -> Outcome<Reference> {
        let reference = Reference::parse(reference)?;
        if !reference.is_relative() {
            return Ok(reference);
        }
        Ok(Reference { run: self.run(&reference).await?.r#ref, task: reference.task })
    }

    /// One task with its answer and attempts. A run of one task stands for it.
    pub(crate) async fn task(&self, reference: &str) -> Outcome<v1::Task> {
        let request = v1::GetTaskRequest { r#ref: reference.to_owned() };
        let answer = self.call(async || self.runs().get_task(request.clone()).await).await?;
        answer.task.ok_or_else(|| incomplete("GetTask"))
    }

    /// The tasks of a run in order, at most `limit`.
    pub(crate) async fn tasks(&self, query: &TaskQuery<'_>) -> Outcome<Vec<v1::Task>> {
        let mut request = v1::ListTasksRequest {
            r#ref: query.run.to_owned(),
            page_size: page_size(query.limit),
            states: query.states.iter().map(|state| (*state).into()).collect(),
            with_answers: query.with_answers,
            ..v1::ListTasksRequest::default()
        };
        let mut tasks = Vec::new();
        loop {
            let page = self.call(async || self.runs().list_tasks(request.clone()).await).await?;
            tasks.extend(page.tasks);
            if page.next_page_token.is_empty() || tasks.len() >= query.limit {
                tasks.truncate(query.limit);
                return Ok(tasks);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Runs, newest first, at most `limit`; the flag says whether there are more.
    pub(crate) async fn list_runs(
        &self,
        states: &[v1::RunState],
        name: &str,
        limit: usize,
    ) -> Outcome<(Vec<v1::Run>, bool)> {
        let mut request = v1::ListRunsRequest {
            page_size: page_size(limit),
            states: states.iter().map(|state| (*state).into()).collect(),
            name: name.to_owned(),
            ..v1::ListRunsRequest::default()
        };
        let mut runs = Vec::new();
        loop {
            let page = self.call(async || self.runs().list_runs(request.clone()).await).await?;
            runs.extend(page.runs);
            if page.next_page_token.is_empty() || runs.len() >= limit {
                let more = runs.len() > limit || !page.next_page_token.is_empty();
                runs.truncate(limit);
                return Ok((runs, more));
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Cancels a run or task. The request id makes repeating it harmless.
    pub(crate) async fn cancel(&self, reference: &str, reason: &str) -> Outcome<v1::CancelRunResponse> {
        let request = v1::CancelRunRequest {
            r#ref: reference.to_owned(),
            reason: reason.to_owned(),
            request_id: new_request_id(),
        };
        self.call(async || self.runs().cancel_run(request.clone()).await).await
    }

    /// Queues again what the request says. A request id of its own makes repeating it harmless.
    pub(crate) async fn retry(&self, request: v1::RetryRunRequest) -> Outcome<v1::RetryRunResponse> {
        let request = v1::RetryRunRequest { request_id: new_request_id(), ..request };
        self.call(async || self.runs().retry_run(request.clone()).await).await
    }

    /// Dead letters, of the newest run first, at most `limit`; the flag says whether there are more.
    pub(crate) async fn dead_tasks(&self, limit: usize) -> Outcome<(Vec<v1::Task>, bool)> {
        let mut request =
            v1::ListDeadTasksRequest { page_size: page_size(limit), ..v1::ListDeadTasksRequest::default() };
        let mut tasks = Vec::new();
        loop {
            let page = self.call(async || self.runs().list_dead_tasks(request.clone()).await).await?;
            tasks.extend(page.tasks);
            if page.next_page_token.is_empty() || tasks.len() >= limit {
                let more = tasks.len() > limit || !page.next_page_token.is_empty();
                tasks.truncate(limit);
                return Ok((tasks, more));
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Why a task is where it is.
    pub(crate) async fn explain(&self, reference: &str) -> Outcome<v1::ExplainTaskResponse> {
        let request = v1::ExplainTaskRequest { r#ref: reference.to_owned() };
        self.call(async || self.runs().explain_task(request.clone()).await).await
    }

    /// The coordinator in one message.
    pub(crate) async fn status(&self) -> Outcome<v1::ClusterStatus> {
        let answer = self.call(async || self.admin().get_status(v1::GetStatusRequest {}).await).await?;
        answer.status.ok_or_else(|| incomplete("GetStatus"))
    }

    /// All agents by name.
    pub(crate) async fn agents(&self) -> Outcome<Vec<v1::Agent>> {
        let mut request = v1::ListAgentsRequest { page_size: PAGE, ..v1::ListAgentsRequest::default() };
        let mut agents = Vec::new();
        loop {
            let page = self.call(async || self.admin().list_agents(request.clone()).await).await?;
            agents.extend(page.agents);
            if page.next_page_token.is_empty() {
                return Ok(agents);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// All workers by name.
    pub(crate) async fn workers(&self) -> Outcome<Vec<v1::Worker>> {
        let mut request = v1::ListWorkersRequest { page_size: PAGE, ..v1::ListWorkersRequest::default() };
        let mut workers = Vec::new();
        loop {
            let page = self.call(async || self.admin().list_workers(request.clone()).await).await?;
            workers.extend(page.workers);
            if page.next_page_token.is_empty() {
                return Ok(workers);
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// Which tasks of a run are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskQuery<'a> {
    /// The run.
    pub(crate) run: &'a str,
    /// Only these states; none means all.
    pub(crate) states: &'a [v1::TaskState],
    /// At most so many.
    pub(crate) limit: usize,
    /// Whether answers are wanted.
    pub(crate) with_answers: bool,
}

impl<'a> TaskQuery<'a> {
    /// All tasks of a run, without answers.
    pub(crate) fn all(run: &'a str) -> Self {
        Self { run, states: &[], limit: usize::MAX, with_answers: false }
    }
}

/// A policy with randomness of its own.
pub(crate) fn policy(limits: Limits) -> FullJitter<StdRng> {
    FullJitter::new(limits, StdRng::from_os_rng())
}

/// An idempotency key for a command that was given none: it makes the command's own retries safe.
pub(crate) fn new_request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// An answer that lacks what it is for.
pub(crate) fn incomplete(call: &str) -> Failure {
    Failure::coded(ErrorCode::Internal, format!("the coordinator's answer to {call} is incomplete"))
}

fn page_size(limit: usize) -> i32 {
    i32::try_from(limit).map_or(PAGE, |limit| limit.clamp(1, PAGE))
}

/// The certificates of a context, read and checked.
pub(crate) fn tls(context: &Context, now: SystemTime) -> Outcome<Arc<ClientTls>> {
    let tls = ClientTls::load(context.tls.clone(), now).map_err(|error| tls_failure(&error))?;
    Ok(Arc::new(tls))
}

fn tls_failure(error: &TlsError) -> Failure {
    use orch_certs::files::FileError;
    let code = match error {
        TlsError::File(FileError::KeyPermissions { .. }) => ErrorCode::KeyPermissions,
        TlsError::File(FileError::Read { .. } | FileError::Write { .. } | FileError::NotPem { .. }) => {
            ErrorCode::NoCertificate
        }
        TlsError::Unparsable { .. }
        | TlsError::Identity { .. }
        | TlsError::WrongRole { .. }
        | TlsError::KeyMismatch { .. }
        | TlsError::Unusable { .. } => ErrorCode::InvalidIdentity,
        TlsError::Expired { .. } | TlsError::NotYetValid { .. } => ErrorCode::UntrustedCertificate,
    };
    let failure = Failure::coded(code, error.to_string());
    match std::error::Error::source(error) {
        Some(source) => failure.chain(source),
        None => failure,
    }
}
