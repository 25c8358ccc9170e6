//! The parts put together: services from what they lean on, the engine from the store and the settings.

use crate::blobs::Blobs;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::director::{Director, DirectorParts};
use crate::engine::commit::ThreadCommitter;
use crate::engine::{Engine, Handle, Parts, Recovered};
use crate::metrics::Metrics;
use crate::presence::Registry;
use crate::prices::PricesInForce;
use crate::rpc::admin_service::{Admin, AdminParts};
use crate::rpc::assign::Cluster;
use crate::rpc::blob_service::Blobber;
use crate::rpc::cost_service::{CostParts, Costs};
use crate::rpc::lookup::Lookup;
use crate::rpc::plan_service::Plans;
use crate::rpc::run_service::{RunParts, Runs};
use crate::rpc::server::{Agents, Services};
use crate::rpc::session::{ReportIntake, SessionParts, Timing};
use crate::rpc::submit::{SubmitParts, Submitter};
use crate::rpc::transcript_service::Scribe;
use crate::rpc::uploads::Uploads;
use crate::rpc::workflow_service::Flows;
use crate::store::{EpochStep, Store};
use crate::transcripts::Transcripts;
use crate::workers::PromptReloads;
use anyhow::Context as _;
use orch_certs::ServerTls;
use orch_core::outcome::{OutcomeRule, OutcomeRules};
use orch_core::time::Span;
use orch_proto::outcome::OUTCOMES;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::pb::health_server::{Health, HealthServer};

/// Agents stop their children after this many heartbeats without an acknowledgement: 8 minutes at 5 seconds, below
/// the 120 after which the core requeues a task that says `wait`.
const STOP_AFTER_HEARTBEATS: u32 = 96;
/// Agents come back within a random part of this.
const GO_AWAY_SPREAD: Duration = Duration::from_secs(2);

/// What services lean on.
#[derive(Debug)]
pub struct Wiring<'a> {
    /// Settings.
    pub config: &'a Config,
    /// The engine.
    pub handle: &'a Handle,
    /// Bulk bytes.
    pub blobs: &'a Arc<dyn Blobs>,
    /// Transcripts.
    pub transcripts: &'a Arc<Transcripts>,
    /// Workers in force.
    pub prompts: Arc<PromptReloads>,
    /// List prices in force.
    pub prices: Arc<PricesInForce>,
    /// Certificates, to be told of.
    pub tls: Arc<ServerTls>,
    /// Streams and the tasks behind them.
    pub streams: &'a TaskTracker,
    /// Set when the coordinator drains.
    pub draining: &'a CancellationToken,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// When the process began, for people.
    pub started: Instant,
}

impl Wiring<'_> {
    /// Every service of the gRPC port.
    #[must_use]
    pub fn services<H: Health>(self, health: HealthServer<H>) -> Services<H> {
        let clock = Arc::clone(&self.clock);
        self.handle.preparer().with_prices(Arc::clone(&self.prices));
        let lookup = Lookup::new(self.handle.clone(), Arc::clone(&clock));
        let submitter = Submitter::new(SubmitParts {
            engine: self.handle.clone(),
            workers: Arc::clone(self.prompts.in_force()),
            lookup: lookup.clone(),
            blobs: Arc::clone(self.blobs),
            clock: Arc::clone(&clock),
        });
        let registry = Arc::new(Registry::default());
        let agents = Agents::new(self.sessions(&registry));
        let runs = Runs::new(RunParts {
            engine: self.handle.clone(),
            lookup: lookup.clone(),
            submitter,
            plans: Plans::new(self.handle.clone(), lookup.clone(), Arc::clone(self.prompts.in_force())),
            uploads: Uploads::default(),
            fresh_id: || uuid::Uuid::now_v7().simple().to_string(),
            tasks: self.streams.clone(),
            draining: self.draining.clone(),
        });
        let (transcripts, streams) = (Arc::clone(self.transcripts), self.streams.clone());
        Services {
            runs,
            flows: Flows::new(Arc::clone(self.prompts.in_force()), clock),
            blobs: Blobber::new(Arc::clone(self.blobs), self.handle.clone(), self.streams.clone()),
            transcripts: Scribe::new(transcripts, lookup, self.handle.clone(), streams),
            agents,
            costs: Costs::new(CostParts { engine: self.handle.clone(), registry: Arc::clone(&registry) }),
            admin: Admin::new(AdminParts {
                engine: self.handle.clone(),
                registry,
                workers: self.prompts,
                tls: self.tls,
                started: self.started,
            }),
            health,
        }
    }

    /// What answers the questions that only payloads answer.
    #[must_use]
    pub fn director(&self) -> Director {
        Director::new(DirectorParts {
            engine: self.handle.clone(),
            workers: Arc::clone(self.prompts.in_force()),
            blobs: Arc::clone(self.blobs),
            clock: Arc::clone(&self.clock),
            stop: self.draining.clone(),
        })
    }

    fn sessions(&self, registry: &Arc<Registry>) -> SessionParts {
        let heartbeat = self.config.heartbeat_interval;
        SessionParts {
            engine: self.handle.clone(),
            cluster: Cluster {
                id: self.handle.cluster().0,
                epoch: self.handle.epoch().0,
                silence_limit: self.config.silence_limit,
            },
            timing: Timing {
                heartbeat,
                stop_after: heartbeat * STOP_AFTER_HEARTBEATS,
                spread: GO_AWAY_SPREAD,
            },
            registry: Arc::clone(registry),
            reports: ReportIntake::new(Arc::clone(self.blobs), self.handle.results()),
            prices: Arc::clone(&self.prices),
            tasks: self.streams.clone(),
            draining: self.draining.clone(),
        }
    }
}

/// Recovers the state from the store. Blocks.
pub(super) fn recover(
    config: &Config,
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<Recovered> {
    let parts = Parts {
        committer: Box::new(ThreadCommitter::spawn(Arc::clone(&store))?),
        store,
        blobs,
        clock: Arc::new(SystemClock),
        config: core_config(config),
        metrics,
        step: EpochStep::Start,
    };
    Engine::open(parts).context("cannot recover the store")
}

/// The settings that the core decides by.
#[must_use]
pub fn core_config(config: &Config) -> orch_core::config::Config {
    let mut core =
        orch_core::config::Config::new(outcome_rules()).with_heartbeat(span(config.heartbeat_interval));
    core.keep_runs = span(config.keep.runs);
    core.keep_requests = span(config.keep.request_ids);
    core.max_tasks = config.max_tasks;
    core.max_tenant_tasks = config.max_tenant_tasks;
    core
}

/// A length of time as the core counts it.
pub(super) fn span(length: Duration) -> Span {
    Span(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

/// The decision columns of the outcome table, as the core takes them.
fn outcome_rules() -> OutcomeRules {
    let mut rules = vec![OutcomeRule::default(); OUTCOMES.len() + 1];
    for row in &OUTCOMES {
        let at = usize::try_from(i32::from(row.outcome)).unwrap_or(0);
        if let Some(rule) = rules.get_mut(at) {
            *rule = OutcomeRule {
                retryable: row.retryable,
                counts_as_crash: row.counts_as_crash,
                goes_on: row.outcome.may_go_on(),
            };
        }
    }
    OutcomeRules(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;
    use orch_core::outcome::Outcome;

    #[test]
    fn the_core_decides_by_the_settings_and_the_outcome_table() {
        let day = Duration::from_secs(86_400);
        let flags = Flags { keep_runs: Some(day), keep_request_ids: Some(2 * day), ..Flags::default() };
        let core = core_config(&Config::resolve(flags).unwrap());
        assert_eq!((core.keep_runs, core.keep_requests), (Span::days(1), Span::days(2)));
        assert_eq!(core.heartbeat, Span::seconds(5));
        for row in &OUTCOMES {
            let at = usize::try_from(i32::from(row.outcome)).unwrap();
            assert_eq!(core.outcomes.0[at].retryable, row.retryable, "{:?}", row.outcome);
        }
        assert!(!core.outcomes.0[usize::from(Outcome::OK.0)].retryable);
    }
}
