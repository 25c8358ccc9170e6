//! The fleet of the fake: one agent and three workers until a test says otherwise.

use orch_proto::codes::ErrorCode;
use orch_proto::v1::admin_service_server::AdminService;
use orch_proto::v1::*;
use tonic::{Request, Response};

use super::{Fake, Frames, Held};

/// The agents.
pub(in super::super) struct Agents(pub(in super::super) Vec<Agent>);

/// The workers with their definitions.
pub(in super::super) struct Workers(pub(in super::super) Vec<(Worker, WorkerDefinition)>);

/// The coordinator itself.
pub(in super::super) struct Status(pub(in super::super) ClusterStatus);

impl Default for Agents {
    fn default() -> Self {
        Self(vec![Agent {
            name: "box-1".into(),
            state: AgentState::Ready.into(),
            slots: 4,
            slots_used: 2,
            capabilities: vec!["gpu=yes".into(), "workspace=dance".into()],
            running: vec!["release-notes/128/api-notes".into(), "nightly/7/audit".into()],
            version: "0.1.0".into(),
            cli_version: "2.1.197".into(),
            warnings: vec!["no sandbox: bwrap not found".into()],
            ..Agent::default()
        }])
    }
}

impl Default for Workers {
    fn default() -> Self {
        let worker = |name: &str| {
            let definition = WorkerDefinition {
                name: name.into(),
                system_prompt: format!("You are {name}.\n"),
                ..WorkerDefinition::default()
            };
            (Worker { name: name.into(), ..Worker::default() }, definition)
        };
        Self(vec![worker("anga"), worker("fabien"), worker("marie")])
    }
}

impl Default for Status {
    fn default() -> Self {
        Self(ClusterStatus {
            version: "0.1.0".into(),
            epoch: 3,
            uptime: Some(prost_types::Duration { seconds: 532_800, nanos: 0 }),
            queued: 14,
            oldest_wait: Some(prost_types::Duration { seconds: 38, nanos: 0 }),
            running: 11,
            agents: vec![AgentStateCount { state: AgentState::Ready.into(), count: 5 }],
            slots: 18,
            slots_used: 11,
            store_bytes: 1_288_490_189,
            cost_today_micro_usd: 41_200_000,
            attention: vec!["box-7 is unreachable, requeue in 22 s".into()],
            demand: Some(Demand {
                pending_slots: 9,
                limits: 3,
                budgets: 2,
                parked: 1,
                slots: 18,
                free_slots: 7,
                ..Demand::default()
            }),
            ..ClusterStatus::default()
        })
    }
}

impl Held {
    fn agent(&mut self, name: &str) -> Result<&mut Agent, tonic::Status> {
        let found = self.agents.0.iter_mut().find(|agent| agent.name == name);
        found.ok_or_else(|| not_found(format!("there is no agent {name:?}")))
    }
}

fn not_found(message: String) -> tonic::Status {
    refused(ErrorCode::NotFound, message)
}

fn wrong_state(message: String) -> tonic::Status {
    refused(ErrorCode::WrongState, message)
}

pub(super) fn refused(code: ErrorCode, message: String) -> tonic::Status {
    use orch_proto::codes::{CODE_KEY, ERROR_DOMAIN};
    use tonic_types::{ErrorDetails, StatusExt};
    let metadata = std::collections::HashMap::from([(CODE_KEY.to_owned(), code.code().to_owned())]);
    let details = ErrorDetails::with_error_info(code.reason(), ERROR_DOMAIN, metadata);
    tonic::Status::with_error_details(code.status(), message, details)
}

type Answer<T> = Result<Response<T>, tonic::Status>;

#[tonic::async_trait]
impl AdminService for Fake {
    type BackupStream = Frames<BackupResponse>;

    async fn forget_agent(&self, request: Request<ForgetAgentRequest>) -> Answer<ForgetAgentResponse> {
        let name = request.into_inner().name;
        let mut held = self.call("forget")?;
        if held.agent(&name)?.state() != AgentState::Offline {
            return Err(wrong_state(format!("{name} is connected, or holds leases")));
        }
        held.agents.0.retain(|agent| agent.name != name);
        Ok(Response::new(ForgetAgentResponse {}))
    }

    async fn get_storage(&self, _: Request<GetStorageRequest>) -> Answer<GetStorageResponse> {
        let held = self.call("storage")?;
        Ok(Response::new(GetStorageResponse { storage: Some(held.storage.now.clone()) }))
    }

    async fn backup(&self, request: Request<BackupRequest>) -> Answer<Self::BackupStream> {
        let mut held = self.call("backup")?;
        Ok(Response::new(held.storage.copy(request.into_inner().form())))
    }

    async fn restore(&self, request: Request<tonic::Streaming<RestoreRequest>>) -> Answer<RestoreResponse> {
        let mut parts = request.into_inner();
        let (mut header, mut bytes) = (None, Vec::new());
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(restore_request::Part::Header(given)) => header = Some(given),
                Some(restore_request::Part::Data(data)) => {
                    assert!(data.len() <= 256 << 10 && header.is_some());
                    bytes.extend(data);
                }
                None => panic!("an empty part"),
            }
        }
        let mut held = self.call("restore")?;
        let header = header.unwrap();
        let answer = held.storage.take(&header, bytes)?;
        held.status.0.epoch = held.storage.now.epoch;
        if !header.validate_only && std::mem::take(&mut held.storage.answers_lost) {
            return Err(tonic::Status::unavailable("the connection was closed"));
        }
        Ok(Response::new(answer))
    }

    async fn compact_store(&self, _: Request<CompactStoreRequest>) -> Answer<CompactStoreResponse> {
        let mut held = self.call("compact")?;
        let before = held.storage.compact();
        held.status.0.epoch = held.storage.now.epoch;
        Ok(Response::new(CompactStoreResponse { storage: Some(before) }))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        let held = self.call("status")?;
        let event_seq = held.events.last().map_or(0, |event| event.seq);
        let status = ClusterStatus { event_seq, ..held.status.0.clone() };
        Ok(Response::new(GetStatusResponse { status: Some(status) }))
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Answer<ListAgentsResponse> {
        let agents = self.call("agents")?.agents.0.clone();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token: String::new() }))
    }

    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Answer<ListWorkersResponse> {
        let workers = self.call("workers")?.workers.0.iter().map(|(worker, _)| worker.clone()).collect();
        Ok(Response::new(ListWorkersResponse { workers, next_page_token: String::new() }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Answer<GetAgentResponse> {
        let agent = self.call("agent")?.agent(&request.into_inner().name)?.clone();
        Ok(Response::new(GetAgentResponse { agent: Some(agent) }))
    }

    async fn drain_agent(&self, request: Request<DrainAgentRequest>) -> Answer<DrainAgentResponse> {
        let request = request.into_inner();
        let mut held = self.call("drain")?;
        let agent = held.agent(&request.name)?;
        agent.state = AgentState::Draining.into();
        agent.drain_reason =
            if request.reason.is_empty() { "drained by admin/default/ana".into() } else { request.reason };
        Ok(Response::new(DrainAgentResponse { agent: Some(agent.clone()) }))
    }

    async fn resume_agent(&self, request: Request<ResumeAgentRequest>) -> Answer<ResumeAgentResponse> {
        let mut held = self.call("resume")?;
        let agent = held.agent(&request.into_inner().name)?;
        agent.state = AgentState::Ready.into();
        agent.drain_reason.clear();
        agent.quarantine_reason.clear();
        Ok(Response::new(ResumeAgentResponse { agent: Some(agent.clone()) }))
    }

    /// Restoring gives back a hidden key with the value `yes`.
    async fn label_agent(&self, request: Request<LabelAgentRequest>) -> Answer<LabelAgentResponse> {
        let request = request.into_inner();
        let mut held = self.call("label")?;
        let agent = held.agent(&request.name)?;
        let of = |key: &str| format!("{key}=");
        if request.restore {
            let labels = std::mem::take(&mut agent.labels);
            agent.capabilities.retain(|capability| !labels.contains(capability));
            let hidden = std::mem::take(&mut agent.hidden);
            agent.capabilities.extend(hidden.iter().map(|key| format!("{key}=yes")));
        }
        for label in &request.set {
            let key = of(label.split('=').next().unwrap());
            agent.labels.retain(|held| !held.starts_with(&key));
            agent.capabilities.retain(|held| !held.starts_with(&key));
            agent.labels.push(label.clone());
            agent.capabilities.push(label.clone());
        }
        for key in &request.remove {
            let own = !agent.labels.iter().any(|label| label.starts_with(&of(key)));
            agent.labels.retain(|held| !held.starts_with(&of(key)));
            agent.capabilities.retain(|held| !held.starts_with(&of(key)));
            if own {
                agent.hidden.push(key.clone());
            }
        }
        Ok(Response::new(LabelAgentResponse { agent: Some(agent.clone()) }))
    }

    async fn get_worker(&self, request: Request<GetWorkerRequest>) -> Answer<GetWorkerResponse> {
        let name = request.into_inner().name;
        let held = self.call("worker")?;
        let found = held.workers.0.iter().find(|(worker, _)| worker.name == name);
        let (worker, definition) =
            found.cloned().ok_or_else(|| not_found(format!("there is no worker {name:?}")))?;
        Ok(Response::new(GetWorkerResponse { worker: Some(worker), definition: Some(definition) }))
    }

    async fn validate_workers(
        &self,
        request: Request<ValidateWorkersRequest>,
    ) -> Answer<ValidateWorkersResponse> {
        let mut held = self.call("validate")?;
        held.validated = request.into_inner().files;
        let problems = held.problems.clone();
        let workers = if problems.is_empty() {
            held.workers.0.iter().map(|(worker, _)| worker.clone()).collect()
        } else {
            Vec::new()
        };
        Ok(Response::new(ValidateWorkersResponse { problems, workers }))
    }

    async fn reload_workers(&self, _: Request<ReloadWorkersRequest>) -> Answer<ReloadWorkersResponse> {
        let problems = self.call("reload")?.problems.clone();
        let changed = if problems.is_empty() { vec!["anga".into()] } else { Vec::new() };
        Ok(Response::new(ReloadWorkersResponse { problems, changed, ..ReloadWorkersResponse::default() }))
    }
}
