//! The fleet and the coordinator, for people. Adapters: parse, ask, convert.

use crate::engine::Handle;
use crate::events::WatchSource;
use crate::presence::Registry;
use crate::rpc::auth::Caller;
use crate::rpc::convert;
use crate::rpc::operators::{self, Order};
use crate::rpc::paging::{NamePage, page_size};
use crate::rpc::storage::StorageDesk;
use crate::rpc::{answered, ask, blocking, gone, unexpected, worker_admin};
use crate::workers::PromptReloads;
use orch_certs::ServerTls;
use orch_core::event::Event;
use orch_core::ids::TenantId;
use orch_core::limits::{PoolState, PoolView};
use orch_core::query::{AgentStateView, AgentView, Answer, Query, StatusView};
use orch_proto::v1::admin_service_server::AdminService;
use orch_proto::v1::{
    self, Agent, AgentState, AgentStateCount, ClusterStatus, Demand, GetStatusRequest, GetStatusResponse,
    ListAgentsRequest, ListAgentsResponse, ListWorkersRequest, ListWorkersResponse,
};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tonic::{Request, Response, Status};

/// People are told this long before the coordinator's certificate ends.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 86_400);
/// Agents in use twice that the status names.
const MAX_CLONE_LINES: usize = 5;
/// Pools that the status names one by one.
const MAX_POOL_LINES: usize = 5;

/// The service.
#[derive(Debug, Clone)]
pub struct Admin {
    engine: Handle,
    registry: Arc<Registry>,
    workers: Arc<PromptReloads>,
    tls: Arc<ServerTls>,
    events: WatchSource,
    started: Instant,
    storage: StorageDesk,
}

/// What the service needs.
#[derive(Debug)]
pub struct AdminParts {
    /// The engine.
    pub engine: Handle,
    /// What agents say about themselves.
    pub registry: Arc<Registry>,
    /// Workers in force, and how they are read again.
    pub workers: Arc<PromptReloads>,
    /// For the dates of the coordinator's own certificate.
    pub tls: Arc<ServerTls>,
    /// When the coordinator started.
    pub started: Instant,
}

impl Admin {
    /// Serves what its parts know.
    #[must_use]
    pub fn new(parts: AdminParts) -> Self {
        let AdminParts { engine, registry, workers, tls, started } = parts;
        let events = engine.watch();
        let storage = StorageDesk::default();
        Self { engine, registry, workers, tls, events, started, storage }
    }

    /// With a data directory, of which copies can be made.
    #[must_use]
    pub fn with_storage(self, storage: StorageDesk) -> Self {
        Self { storage, ..self }
    }

    fn cluster_status(&self, view: &StatusView) -> ClusterStatus {
        // In the order of `StatusView::agents`.
        let states = [
            AgentState::Ready,
            AgentState::Draining,
            AgentState::Unreachable,
            AgentState::Offline,
            AgentState::Quarantined,
        ];
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
            now: Some(prost_types::Timestamp::from(SystemTime::now())),
            certificate_expires: self.tls.expires().map(prost_types::Timestamp::from),
            disk_free_bytes: self.engine.metrics().disk_free_bytes(),
            demand: Some(demand(view)),
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
            isolation: presence.isolation,
            pools: presence.pools,
            ..convert::agent(view)
        }
    }

    /// Has an order carried out; the agent afterwards.
    async fn order(&self, by: &Caller, order: Order) -> Result<Agent, Status> {
        let Order { event, audit } = order;
        let view = agent_of(answered(self.engine.request(event).await)?)?;
        audited(by, &audit);
        Ok(self.agent(&view))
    }

    fn attention(&self, view: &StatusView) -> Vec<String> {
        let [ready, draining, unreachable, _, quarantined] = view.agents;
        let mut lines = Vec::new();
        if unreachable > 0 {
            lines.push(format!(
                "{unreachable} of {} agents unreachable: orchctl agents",
                ready + draining + unreachable + quarantined
            ));
        }
        if quarantined > 0 {
            lines.push(format!(
                "{quarantined} agents get no work because too much crashed there: orchctl agents, then \
                 orchctl agents resume NAME"
            ));
        }
        for agent in view.cloned.iter().take(MAX_CLONE_LINES) {
            lines.push(format!(
                "two processes use the certificate of agent {agent}, and both are refused for now: stop one of them"
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
        lines.extend(self.storage.attention());
        lines.extend(self.registry.was_ahead().map(|(agent, epoch)| {
            format!(
                "agent {agent} has obeyed epoch {epoch} of this cluster, later than this coordinator: stop the other one, \
                 or put a copy in place with orchctl admin restore (E0314)"
            )
        }));
        lines.extend(self.certificate_line(SystemTime::now()));
        lines
    }

    /// What to say of the coordinator's own certificate at `now`.
    fn certificate_line(&self, now: SystemTime) -> Option<String> {
        let left = self.tls.expires()?.duration_since(now).unwrap_or_default();
        let days = left.as_secs() / 86_400;
        let todo = "issue a new one with orchctl certs issue, then send orchd SIGHUP";
        (left < CERTIFICATE_WARNING).then(|| match days {
            0 => format!("the coordinator's certificate expires within a day: {todo}"),
            days => format!("the coordinator's certificate expires in {days} days: {todo}"),
        })
    }

    /// Pools that are closed, or of which something is odd.
    async fn limit_lines(&self, tenant: TenantId) -> Result<Vec<String>, Status> {
        let Answer::Limits(views) = ask(&self.engine, tenant, Query::Limits(None)).await? else {
            return Err(unexpected());
        };
        Ok(views.iter().filter_map(limit_line).take(MAX_POOL_LINES).collect())
    }

    /// Pools that nobody can use, of agents that are there.
    async fn pool_lines(&self, tenant: TenantId) -> Result<Vec<String>, Status> {
        let mut lines = Vec::new();
        for (agent, pool) in self.registry.bad_pools() {
            if lines.len() == MAX_POOL_LINES {
                lines.push("more pools cannot be used: orchctl agents show NAME".to_owned());
                break;
            }
            let query = Query::Agent(Arc::from(agent.as_str()));
            let asked = self.engine.request(move |token| Event::Asked { token, tenant, query }).await;
            // One that was refused when it joined is known here and not there.
            let Answer::Agent(view) = asked.map_err(|_| gone())? else { continue };
            let there = [AgentStateView::Ready, AgentStateView::Draining, AgentStateView::Quarantined];
            if there.contains(&view.state) {
                lines.push(pool_line(&agent, &pool));
            }
        }
        Ok(lines)
    }
}

/// What tasks wait for.
fn demand(view: &StatusView) -> Demand {
    Demand {
        pending_slots: view.demand.pending_slots,
        limits: view.demand.limits,
        budgets: view.demand.budgets,
        pinned: view.demand.pinned,
        impossible: view.demand.impossible,
        parked: view.parked,
        slots: view.demand.slots,
        free_slots: view.demand.free_slots,
    }
}

/// What keeps a pool from being used as it could.
fn limit_line(view: &PoolView) -> Option<String> {
    let pool = &view.pool;
    if let Some(warning) = view.warnings.first() {
        return Some(format!("pool {pool}: {warning}: orchctl limits {pool}"));
    }
    let parked = match view.parked {
        0 => String::new(),
        1 => "; 1 conversation is parked until then".to_owned(),
        more => format!("; {more} conversations are parked until then"),
    };
    match view.state {
        PoolState::Exhausted | PoolState::Failing => {
            Some(format!("pool {pool}: {}{parked}: orchctl limits {pool}", view.detail))
        }
        PoolState::Open | PoolState::Throttled => None,
    }
}

/// What a person changed, for the log. A store of such lines comes with a later issue.
fn audited(by: &Caller, what: &str) {
    tracing::info!(target: "audit", by = by.label(), "{what}");
}

fn pool_line(agent: &str, pool: &v1::Pool) -> String {
    let what = match pool.health() {
        v1::PoolHealth::SignedOut => "is signed out",
        v1::PoolHealth::Unusable | v1::PoolHealth::Ready | v1::PoolHealth::Unspecified => "cannot be used",
    };
    let detail = if pool.detail.is_empty() { String::new() } else { format!(": {}", pool.detail) };
    format!("pool {} of agent {agent} {what}{detail}", pool.name)
}

/// The agent of an answer that must be one.
fn agent_of(answer: Answer) -> Result<AgentView, Status> {
    if let Answer::Agent(view) = answer { Ok(view) } else { Err(unexpected()) }
}

#[tonic::async_trait]
impl AdminService for Admin {
    type BackupStream = crate::rpc::storage::Copy;

    async fn forget_agent(
        &self,
        request: Request<v1::ForgetAgentRequest>,
    ) -> Result<Response<v1::ForgetAgentResponse>, Status> {
        let caller = Caller::of(&request)?;
        let Order { event, audit } = operators::forget(&caller, request.get_ref())?;
        let Answer::Forgotten = answered(self.engine.request(event).await)? else { return Err(unexpected()) };
        self.registry.forget(&request.get_ref().name);
        audited(&caller, &audit);
        Ok(Response::new(v1::ForgetAgentResponse {}))
    }

    async fn get_storage(
        &self,
        request: Request<v1::GetStorageRequest>,
    ) -> Result<Response<v1::GetStorageResponse>, Status> {
        let _caller = Caller::of(&request)?;
        Ok(Response::new(v1::GetStorageResponse { storage: Some(self.storage.storage().await?) }))
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let caller = Caller::of(&request)?;
        let copy = self.storage.backup(request.get_ref().form())?;
        audited(&caller, "make a copy of the data");
        Ok(Response::new(copy))
    }

    async fn restore(
        &self,
        request: Request<tonic::Streaming<v1::RestoreRequest>>,
    ) -> Result<Response<v1::RestoreResponse>, Status> {
        Ok(Response::new(self.storage.restore(request).await?))
    }

    async fn compact_store(
        &self,
        request: Request<v1::CompactStoreRequest>,
    ) -> Result<Response<v1::CompactStoreResponse>, Status> {
        let caller = Caller::of(&request)?;
        let storage = Some(self.storage.compact(&caller).await?);
        Ok(Response::new(v1::CompactStoreResponse { storage }))
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let caller = Caller::of(&request)?;
        let Answer::Status(view) = ask(&self.engine, caller.tenant, Query::Status).await? else {
            return Err(unexpected());
        };
        let mut status = self.cluster_status(&view);
        status.attention.extend(self.pool_lines(caller.tenant).await?);
        status.attention.extend(self.limit_lines(caller.tenant).await?);
        Ok(Response::new(GetStatusResponse { status: Some(status) }))
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
        let mut workers = self.workers.in_force().list(&after, limit + 1);
        let more = workers.len() > limit;
        workers.truncate(limit);
        let last = workers.last().filter(|_| more).map(|worker| worker.name.as_str());
        let next_page_token = NamePage::token("workers", last);
        Ok(Response::new(ListWorkersResponse { workers, next_page_token }))
    }

    async fn get_agent(
        &self,
        request: Request<v1::GetAgentRequest>,
    ) -> Result<Response<v1::GetAgentResponse>, Status> {
        let caller = Caller::of(&request)?;
        let name = operators::agent_name(&request.get_ref().name)?;
        let view = agent_of(ask(&self.engine, caller.tenant, Query::Agent(name)).await?)?;
        Ok(Response::new(v1::GetAgentResponse { agent: Some(self.agent(&view)) }))
    }

    async fn drain_agent(
        &self,
        request: Request<v1::DrainAgentRequest>,
    ) -> Result<Response<v1::DrainAgentResponse>, Status> {
        let caller = Caller::of(&request)?;
        let order = operators::drain(&caller, request.get_ref())?;
        let agent = Some(self.order(&caller, order).await?);
        Ok(Response::new(v1::DrainAgentResponse { agent }))
    }

    async fn resume_agent(
        &self,
        request: Request<v1::ResumeAgentRequest>,
    ) -> Result<Response<v1::ResumeAgentResponse>, Status> {
        let caller = Caller::of(&request)?;
        let order = operators::resume(&caller, request.get_ref())?;
        let agent = Some(self.order(&caller, order).await?);
        Ok(Response::new(v1::ResumeAgentResponse { agent }))
    }

    async fn label_agent(
        &self,
        request: Request<v1::LabelAgentRequest>,
    ) -> Result<Response<v1::LabelAgentResponse>, Status> {
        let caller = Caller::of(&request)?;
        let order = operators::label(&caller, request.into_inner())?;
        let agent = Some(self.order(&caller, order).await?);
        Ok(Response::new(v1::LabelAgentResponse { agent }))
    }

    async fn get_worker(
        &self,
        request: Request<v1::GetWorkerRequest>,
    ) -> Result<Response<v1::GetWorkerResponse>, Status> {
        let response = worker_admin::get(self.workers.in_force(), &request.get_ref().name)?;
        Ok(Response::new(response))
    }

    async fn validate_workers(
        &self,
        request: Request<v1::ValidateWorkersRequest>,
    ) -> Result<Response<v1::ValidateWorkersResponse>, Status> {
        let (in_force, files) = (Arc::clone(self.workers.in_force()), request.into_inner().files);
        Ok(Response::new(blocking(move || worker_admin::validate(&in_force, files)).await??))
    }

    async fn reload_workers(
        &self,
        request: Request<v1::ReloadWorkersRequest>,
    ) -> Result<Response<v1::ReloadWorkersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let workers = Arc::clone(&self.workers);
        let response = blocking(move || worker_admin::reload(&workers)).await?;
        self.engine.workers_changed(&response.changed);
        audited(&caller, &format!("reload workers, {} mistakes", response.problems.len()));
        Ok(Response::new(response))
    }
}

#[cfg(test)]
mod tests;
