//! The coordinator, its agents and workers, and explanations, as `-o json` prints them.

use std::collections::BTreeMap;

use orch_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;

use super::operate::PoolView;
use super::some;
use crate::args::parse::{task_state_word, word};
use crate::output::figures::{rfc3339, seconds, usd};

/// An agent.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AgentView {
    name: String,
    state: String,
    slots: u32,
    slots_used: u32,
    /// Each `key=value`; a key may come several times.
    capabilities: Vec<String>,
    runners: Vec<String>,
    running: Vec<String>,
    version: String,
    cli_version: Option<String>,
    last_seen: Option<String>,
    host_name: String,
    host: Option<HostView>,
    warnings: Vec<String>,
    detail: Option<String>,
    /// Layers that stand between attempts and the host.
    isolation: Vec<String>,
    pools: Vec<PoolView>,
    /// Capabilities that an operator added; also in `capabilities`.
    labels: Vec<String>,
    /// Keys of the agent's own capabilities that an operator hides.
    hidden: Vec<String>,
    drain_reason: Option<String>,
    quarantine_reason: Option<String>,
}

impl From<&v1::Agent> for AgentView {
    fn from(agent: &v1::Agent) -> Self {
        Self {
            name: agent.name.clone(),
            state: word(agent.state().as_str_name(), "AGENT_STATE_"),
            slots: agent.slots,
            slots_used: agent.slots_used,
            capabilities: agent.capabilities.clone(),
            runners: agent.runners.clone(),
            running: agent.running.clone(),
            version: agent.version.clone(),
            cli_version: some(&agent.cli_version),
            last_seen: rfc3339(agent.last_seen),
            host_name: agent.host_name.clone(),
            host: agent.host.as_ref().map(HostView::from),
            warnings: agent.warnings.clone(),
            detail: some(&agent.detail),
            isolation: agent.isolation.clone(),
            pools: agent.pools.iter().map(PoolView::from).collect(),
            labels: agent.labels.clone(),
            hidden: agent.hidden.clone(),
            drain_reason: some(&agent.drain_reason),
            quarantine_reason: some(&agent.quarantine_reason),
        }
    }
}

/// Figures of a host.
#[derive(Debug, Serialize, JsonSchema)]
struct HostView {
    cores: u32,
    load: f64,
    memory_bytes: u64,
    memory_available_bytes: u64,
    disk_free_bytes: u64,
}

impl From<&v1::HostFigures> for HostView {
    fn from(host: &v1::HostFigures) -> Self {
        Self {
            cores: host.cores,
            load: f64::from(host.load_millis) / 1e3,
            memory_bytes: host.memory_bytes,
            memory_available_bytes: host.memory_available_bytes,
            disk_free_bytes: host.disk_free_bytes,
        }
    }
}

/// The coordinator.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StatusView {
    version: String,
    cluster_id: String,
    epoch: u64,
    uptime: Option<f64>,
    draining: bool,
    queued: u64,
    blocked: u64,
    running: u64,
    waiting_retry: u64,
    oldest_wait: Option<f64>,
    active_runs: u64,
    agents: BTreeMap<String, u32>,
    slots: u32,
    slots_used: u32,
    store_bytes: u64,
    event_seq: u64,
    cost_today_usd: f64,
    now: Option<String>,
    certificate_expires: Option<String>,
    disk_free_bytes: u64,
    attention: Vec<String>,
    workers: Vec<WorkerView>,
}

impl StatusView {
    /// The status with the workers on offer.
    pub(crate) fn new(status: &v1::ClusterStatus, workers: &[v1::Worker]) -> Self {
        Self {
            version: status.version.clone(),
            cluster_id: status.cluster_id.clone(),
            epoch: status.epoch,
            uptime: seconds(status.uptime),
            draining: status.draining,
            queued: status.queued,
            blocked: status.blocked,
            running: status.running,
            waiting_retry: status.waiting_retry,
            oldest_wait: seconds(status.oldest_wait),
            active_runs: status.active_runs,
            agents: status
                .agents
                .iter()
                .map(|c| (word(c.state().as_str_name(), "AGENT_STATE_"), c.count))
                .collect(),
            slots: status.slots,
            slots_used: status.slots_used,
            store_bytes: status.store_bytes,
            event_seq: status.event_seq,
            cost_today_usd: usd(status.cost_today_micro_usd),
            now: rfc3339(status.now),
            certificate_expires: rfc3339(status.certificate_expires),
            disk_free_bytes: status.disk_free_bytes,
            attention: status.attention.clone(),
            workers: workers.iter().map(WorkerView::from).collect(),
        }
    }
}

/// A worker.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WorkerView {
    name: String,
    description: String,
    model: String,
    requires: BTreeMap<String, String>,
    subagents: Vec<String>,
    /// Where it was read: `built in`, or the file.
    source: Option<String>,
    context_files: Vec<String>,
    digest: Option<String>,
}

impl From<&v1::Worker> for WorkerView {
    fn from(worker: &v1::Worker) -> Self {
        Self {
            name: worker.name.clone(),
            description: worker.description.clone(),
            model: worker.model.clone(),
            requires: worker.requires.clone(),
            subagents: worker.subagents.clone(),
            source: some(&worker.source),
            context_files: worker.context_files.clone(),
            digest: some(&worker.digest),
        }
    }
}

/// Why a task is where it is.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ExplainView {
    #[serde(rename = "ref")]
    reference: String,
    state: Option<String>,
    since: Option<f64>,
    summary: String,
    impossible: bool,
    /// When it is tried again, or goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<String>,
    /// Credential pool of its latest attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    reasons: Vec<ReasonView>,
    help: Option<String>,
}

impl From<&v1::ExplainTaskResponse> for ExplainView {
    fn from(explained: &v1::ExplainTaskResponse) -> Self {
        Self {
            reference: explained.task.as_ref().map(|task| task.r#ref.clone()).unwrap_or_default(),
            state: explained.task.as_ref().map(|task| task_state_word(task.state())),
            since: seconds(explained.since),
            summary: explained.summary.clone(),
            impossible: explained.impossible,
            retry_at: explained.task.as_ref().and_then(|task| rfc3339(task.retry_at)),
            pool: explained.task.as_ref().and_then(|task| some(&task.pool)),
            reasons: explained.reasons.iter().map(ReasonView::from).collect(),
            help: some(&explained.help),
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize, JsonSchema)]
struct ReasonView {
    kind: String,
    satisfied: bool,
    text: String,
}

impl From<&v1::Reason> for ReasonView {
    fn from(reason: &v1::Reason) -> Self {
        Self { kind: reason.kind.clone(), satisfied: reason.satisfied, text: reason.text.clone() }
    }
}
