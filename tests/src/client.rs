//! A gRPC client of a test fleet, and short words for what tests do with it.

use crate::wait::until_async;
use orch_certs::{ClientTls, TlsFiles, dial::Connector};
use orch_proto::v1::admin_service_client::AdminServiceClient;
use orch_proto::v1::run_service_client::RunServiceClient;
use orch_proto::v1::{self, RunState, task_spec::Runner};
use std::sync::Arc;
use std::time::SystemTime;
use tonic::transport::{Channel, Endpoint};

/// A connected client.
#[derive(Debug, Clone)]
pub struct Client {
    /// Runs.
    pub runs: RunServiceClient<Channel>,
    /// The fleet.
    pub admin: AdminServiceClient<Channel>,
    /// The channel, for other services.
    pub channel: Channel,
}

impl Client {
    /// Connects to `address` (`host:port`) with the given files.
    ///
    /// # Panics
    /// When the files are unusable.
    pub async fn connect(address: &str, files: &TlsFiles) -> Self {
        let channel = channel(address, files);
        Self {
            runs: RunServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Submits and returns the run.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit(&mut self, spec: v1::RunSpec) -> v1::Run {
        self.submit_with_id(spec, "").await
    }

    /// Submits under a request id.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit_with_id(&mut self, spec: v1::RunSpec, request_id: &str) -> v1::Run {
        let request =
            v1::SubmitRunRequest { spec: Some(spec), request_id: request_id.into(), validate_only: false };
        let answer = self.runs.submit_run(request).await.expect("the submit is accepted").into_inner();
        answer.run.expect("a run")
    }

    /// The run as it is now.
    ///
    /// # Panics
    /// When there is none.
    pub async fn run(&mut self, run_ref: &str) -> v1::Run {
        let request = v1::GetRunRequest { r#ref: run_ref.into() };
        self.runs.get_run(request).await.expect("the run is there").into_inner().run.expect("a run")
    }

    /// Every task of a run, with answers.
    ///
    /// # Panics
    /// When there is no such run.
    pub async fn tasks(&mut self, run_ref: &str) -> Vec<v1::Task> {
        let mut tasks = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListTasksRequest {
                r#ref: run_ref.into(),
                page_size: 1_000,
                page_token,
                with_answers: true,
                ..Default::default()
            };
            let page = self.runs.list_tasks(request).await.expect("a page of tasks").into_inner();
            tasks.extend(page.tasks);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return tasks;
            }
        }
    }

    /// Waits until a run is terminal.
    pub async fn finished(&mut self, run_ref: &str) -> v1::Run {
        let client = self.clone();
        until_async("the run to finish", || {
            let mut client = client.clone();
            async move {
                let request = v1::GetRunRequest { r#ref: run_ref.into() };
                let run = client.runs.get_run(request).await.ok()?.into_inner().run?;
                is_terminal(run.state()).then_some(run)
            }
        })
        .await
    }

    /// The only task of a run once it has ended; with `parked` once it is parked, whereupon the run is cancelled.
    ///
    /// # Panics
    /// When it does not come so far, or there is no such run.
    pub async fn settled(&mut self, run_ref: &str, parked: bool) -> v1::Task {
        if !parked {
            self.finished(run_ref).await;
            return self.tasks(run_ref).await.remove(0);
        }
        let client = self.clone();
        until_async("the task to be parked", || {
            let mut client = client.clone();
            async move {
                let task = client.tasks(run_ref).await.pop()?;
                matches!(task.state(), v1::TaskState::Parked).then_some(()).or_else(|| {
                    // Whatever else it became it stays, and is compared as it is.
                    matches!(task.state(), v1::TaskState::Failed | v1::TaskState::Succeeded).then_some(())
                })
            }
        })
        .await;
        let task = self.tasks(run_ref).await.remove(0);
        let request = v1::CancelRunRequest { r#ref: run_ref.into(), ..Default::default() };
        if task.state() == v1::TaskState::Parked {
            self.runs.cancel_run(request).await.expect("cancelled");
            self.finished(run_ref).await;
        }
        task
    }

    /// Waits until a task is in `state`.
    pub async fn task_in(&mut self, task_ref: &str, state: v1::TaskState) -> v1::Task {
        let client = self.clone();
        until_async("the task's state", || {
            let mut client = client.clone();
            async move {
                let request = v1::GetTaskRequest { r#ref: task_ref.into() };
                let task = client.runs.get_task(request).await.ok()?.into_inner().task?;
                (task.state() == state).then_some(task)
            }
        })
        .await
    }
}

/// A channel to `address`, made lazily so that a coordinator may still be starting.
///
/// # Panics
/// When the files are unusable.
#[must_use]
pub fn channel(address: &str, files: &TlsFiles) -> Channel {
    let tls = ClientTls::load(files.clone(), SystemTime::now()).expect("client certificate");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("address");
    endpoint.connect_with_connector_lazy(Connector::new(Arc::new(tls)))
}

/// The same with room for so many bytes that nobody has read yet, in place of megabytes: a reader that stops reading is felt
/// at the other end at once.
///
/// # Panics
/// When the files are unusable.
#[must_use]
pub fn narrow_channel(address: &str, files: &TlsFiles, window: u32) -> Channel {
    let tls = ClientTls::load(files.clone(), SystemTime::now()).expect("client certificate");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("address");
    let endpoint = endpoint.initial_stream_window_size(window).initial_connection_window_size(window);
    endpoint.connect_with_connector_lazy(Connector::new(Arc::new(tls)))
}

/// Whether nothing follows.
#[must_use]
pub const fn is_terminal(state: RunState) -> bool {
    matches!(state, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
}

/// The inline answer of a task.
#[must_use]
pub fn answer(task: &v1::Task) -> &str {
    match task.answer.as_ref().and_then(|text| text.body.as_ref()) {
        Some(v1::text::Body::Inline(text)) => text,
        Some(v1::text::Body::Blob(_)) | None => "",
    }
}

/// A task that does nothing.
#[must_use]
pub fn noop(id: &str) -> v1::TaskSpec {
    task(id, Runner::Noop(v1::NoopTask {}))
}

/// A task that runs a program.
#[must_use]
pub fn command(id: &str, program: &str, args: &[&str]) -> v1::TaskSpec {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    task(id, Runner::Command(v1::CommandTask { program: program.into(), args }))
}

/// A task for a worker.
#[must_use]
pub fn worker(id: &str, worker: &str, description: &str) -> v1::TaskSpec {
    let task_for =
        v1::WorkerTask { worker: worker.into(), description: description.into(), ..Default::default() };
    task(id, Runner::Worker(task_for))
}

fn task(id: &str, runner: Runner) -> v1::TaskSpec {
    v1::TaskSpec { task_id: id.into(), runner: Some(runner), ..Default::default() }
}

/// The same task after others.
#[must_use]
pub fn after(mut task: v1::TaskSpec, dependencies: &[&str]) -> v1::TaskSpec {
    task.dependencies = dependencies.iter().map(|&name| name.to_owned()).collect();
    task
}

/// A run of `tasks`.
#[must_use]
pub fn run(tasks: Vec<v1::TaskSpec>) -> v1::RunSpec {
    v1::RunSpec { tasks, ..Default::default() }
}
