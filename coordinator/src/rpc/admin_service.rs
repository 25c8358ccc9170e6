//! The fleet and the coordinator, for people. Adapters: parse, ask, convert.

use crate::engine::Handle;
use crate::events::WatchSource;
use crate::presence::Registry;
use crate::rpc::auth::Caller;
use crate::rpc::convert;
use crate::rpc::paging::{NamePage, page_size};
use crate::rpc::{ask, unexpected};
use crate::workers::WorkersInForce;
use orch_core::query::{AgentView, Answer, Query, StatusView};
use orch_proto::v1::admin_service_server::AdminService;
use orch_proto::v1::{
    Agent, AgentState, AgentStateCount, ClusterStatus, GetStatusRequest, GetStatusResponse,
    ListAgentsRequest, ListAgentsResponse, ListWorkersRequest, ListWorkersResponse,
};
use std::sync::Arc;
use std::time::Instant;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug, Clone)]
pub struct Admin {
    engine: Handle,
    registry: Arc<Registry>,
    workers: Arc<WorkersInForce>,
    events: WatchSource,
    started: Instant,
}

impl Admin {
    /// Serves what `engine`, `registry` and `workers` know. `started` is when the coordinator did.
    #[must_use]
    pub fn new(
        engine: Handle,
        registry: Arc<Registry>,
        workers: Arc<WorkersInForce>,
        started: Instant,
    ) -> Self {
        let events = engine.watch();
        Self { engine, registry, workers, events, started }
    }

    fn cluster_status(&self, view: &StatusView) -> ClusterStatus {
        let states = [AgentState::Ready, AgentState::Draining, AgentState::Unreachable, AgentState::Offline];
        let agents = states.iter().zip(view.agents).filter(|(_, count)| *count > 0);
        ClusterStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: hex::encode(self.engine.cluster().0),
            epoch: self.engine.epoch().0,
            uptime: prost_types::Duration::try_from(self.started.elapsed()).ok(),
            queued: view.queued,
            blocked: view.blocked,
            running: view.running,
            waiting_retry: view.waiting_retry,
            oldest_wait: view.oldest_wait.map(convert::duration),
            active_runs: view.active_runs,
            agents: agents.map(|(state, count)| AgentStateCount { state: (*state).into(), count }).collect(),
            slots: view.slots,
            slots_used: view.slots_used,
            store_bytes: self.engine.metrics().store_bytes(),
            draining: view.draining,
            event_seq: self.events.newest(),
            cost_today_micro_usd: self.engine.metrics().cost_today_micro_usd(),
            attention: self.attention(view),
            ..ClusterStatus::default()
        }
    }

    /// An agent with what it says about itself.
    fn agent(&self, view: &AgentView) -> Agent {
        let presence = self.registry.of(&view.name);
        Agent {
            version: presence.version,
            cli_version: presence.cli_version,
            host_name: presence.host_name,
            runners: presence.runners,
            warnings: presence.warnings,
            host: presence.host,
            ..convert::agent(view)
        }
    }

    fn attention(&self, view: &StatusView) -> Vec<String> {
        let [ready, draining, unreachable, _] = view.agents;
        let mut lines = Vec::new();
        if unreachable > 0 {
            lines.push(format!(
                "{unreachable} of {} agents unreachable: orchctl agents",
                ready + draining + unreachable
            ));
        }
        if view.impossible > 0 {
            lines.push(format!(
                "{} queued tasks need what no known agent offers: orchctl explain REF",
                view.impossible
            ));
        }
        if view.queued > 0 && ready == 0 {
            lines.push("tasks are queued and no agent is ready".to_owned());
        }
        lines.extend(self.engine.can_store().err());
        lines
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let caller = Caller::of(&request)?;
        let Answer::Status(view) = ask(&self.engine, caller.tenant, Query::Status).await? else {
            return Err(unexpected());
        };
        Ok(Response::new(GetStatusResponse { status: Some(self.cluster_status(&view)) }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let ListAgentsRequest { page_size: size, page_token } = request.into_inner();
        let limit = page_size(size)?;
        let after = NamePage::parse("agents", &page_token)?;
        let query = Query::Agents { after: after.map(Arc::from), limit: limit + 1 };
        let Answer::Agents(mut views) = ask(&self.engine, caller.tenant, query).await? else {
            return Err(unexpected());
        };
        let more = views.len() > limit;
        views.truncate(limit);
        let last = views.last().filter(|_| more).map(|view| &*view.name);
        let next_page_token = NamePage::token("agents", last);
        let agents = views.iter().map(|view| self.agent(view)).collect();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let ListWorkersRequest { page_size: size, page_token } = request.into_inner();
        let limit = page_size(size)?;
        let after = NamePage::parse("workers", &page_token)?.unwrap_or_default();
        let mut workers = self.workers.list(&after, limit + 1);
        let more = workers.len() > limit;
        workers.truncate(limit);
        let last = workers.last().filter(|_| more).map(|worker| worker.name.as_str());
        let next_page_token = NamePage::token("workers", last);
        Ok(Response::new(ListWorkersResponse { workers, next_page_token }))
    }

    async fn get_agent(
        &self,
        _request: Request<orch_proto::v1::GetAgentRequest>,
    ) -> Result<Response<orch_proto::v1::GetAgentResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn drain_agent(
        &self,
        _request: Request<orch_proto::v1::DrainAgentRequest>,
    ) -> Result<Response<orch_proto::v1::DrainAgentResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn resume_agent(
        &self,
        _request: Request<orch_proto::v1::ResumeAgentRequest>,
    ) -> Result<Response<orch_proto::v1::ResumeAgentResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn label_agent(
        &self,
        _request: Request<orch_proto::v1::LabelAgentRequest>,
    ) -> Result<Response<orch_proto::v1::LabelAgentResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn get_worker(
        &self,
        _request: Request<orch_proto::v1::GetWorkerRequest>,
    ) -> Result<Response<orch_proto::v1::GetWorkerResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn validate_workers(
        &self,
        _request: Request<orch_proto::v1::ValidateWorkersRequest>,
    ) -> Result<Response<orch_proto::v1::ValidateWorkersResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn reload_workers(
        &self,
        _request: Request<orch_proto::v1::ReloadWorkersRequest>,
    ) -> Result<Response<orch_proto::v1::ReloadWorkersResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}
