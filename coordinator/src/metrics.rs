//! Everything the coordinator counts, for Prometheus.
//! Knows names, help texts and label values, all of them bounded; refuses to know where the figures come from.
//!
//! Every series that can be named beforehand exists from the start with value 0, so that a rate over it is right from
//! the first increment.

mod budgets;
mod labels;
mod limits;
mod money;

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orch_core::budgets::BudgetView;
use orch_core::limits::{LimitSignal, PoolView};
use orch_core::outcome::Outcome;
use orch_core::query::StatusView;
use orch_core::time::Wall;
use orch_proto::outcome::OUTCOMES;
use orch_proto::store::v1::LedgerEntry;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use self::budgets::BudgetFigures;
use self::labels::{ByOutcome, ByState, Rpc, RpcMethod};
use self::limits::LimitFigures;
use self::money::Money;
use crate::rpc::convert;
use crate::store::{CommitStats, Health};

type FloatGauge = Gauge<f64, AtomicU64>;
type FloatCounter = Counter<f64, AtomicU64>;

/// The registry and everything in it. One for the process; counting is lock-free but for the first sight of a label.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tasks: Family<ByState, Gauge>,
    oldest_wait: FloatGauge,
    impossible: Gauge,
    pending_slots: Gauge,
    dead: Gauge,
    runs: Gauge,
    agents: Family<ByState, Gauge>,
    slots: Family<ByState, Gauge>,
    grants: Counter,
    attempts: Family<ByOutcome, Counter>,
    ended: Family<ByState, Counter>,
    run_time: Histogram,
    wait_time: Histogram,
    certificate_expiry: Gauge,
    money: Money,
    limits: LimitFigures,
    budgets: BudgetFigures,
    commit_events: Histogram,
    commit_keys: Histogram,
    commit_time: Histogram,
    syncs: Counter,
    store_bytes: Gauge,
    store_live_bytes: Gauge,
    disk_free: FloatGauge,
    disk_free_bytes: Gauge,
    events_seq: Gauge,
    sessions: Gauge,
    sessions_dropped: Counter,
    watchers: Gauge,
    rpcs: Family<Rpc, Counter>,
    rpc_time: Family<RpcMethod, Histogram, fn() -> Histogram>,
}

/// States of tasks that are not at their end, as the core counts them.
const LIVE: [&str; 5] = ["queued", "blocked", "running", "waiting_retry", "parked"];
const ENDED: [&str; 4] = ["succeeded", "failed", "cancelled", "skipped"];
const AGENTS: [&str; 5] = ["ready", "draining", "unreachable", "offline", "quarantined"];

impl Metrics {
    /// Everything registered, everything 0. `version` is that of the build.
    #[must_use]
    pub fn new(version: &str) -> Self {
        let metrics = Self::unregistered();
        let registry = metrics.register(version);
        metrics.zero();
        Self { registry, ..metrics }
    }

    fn unregistered() -> Self {
        Self {
            registry: Registry::default(),
            tasks: Family::default(),
            oldest_wait: FloatGauge::default(),
            impossible: Gauge::default(),
            pending_slots: Gauge::default(),
            dead: Gauge::default(),
            runs: Gauge::default(),
            agents: Family::default(),
            slots: Family::default(),
            grants: Counter::default(),
            attempts: Family::default(),
            ended: Family::default(),
            wait_time: Histogram::new([0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0]),
            certificate_expiry: Gauge::default(),
            run_time: Histogram::new([0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 14_400.0]),
            money: Money::default(),
            limits: LimitFigures::default(),
            budgets: BudgetFigures::default(),
            commit_events: Histogram::new(powers(4.0, 8)),
            commit_keys: Histogram::new(powers(4.0, 8)),
            commit_time: Histogram::new(latencies()),
            syncs: Counter::default(),
            store_bytes: Gauge::default(),
            store_live_bytes: Gauge::default(),
            disk_free: FloatGauge::default(),
            disk_free_bytes: Gauge::default(),
            events_seq: Gauge::default(),
            sessions: Gauge::default(),
            sessions_dropped: Counter::default(),
            watchers: Gauge::default(),
            rpcs: Family::default(),
            rpc_time: Family::new_with_constructor(|| Histogram::new(latencies())),
        }
    }

    fn register(&self, version: &str) -> Registry {
        let mut all = Registry::with_prefix("orch");
        let build = Info::new(vec![("version", version.to_owned())]);
        all.register("build", "Version of the coordinator", build);
        all.register("tasks", "Tasks that are not at their end, by state", self.tasks.clone());
        all.register(
            "tasks_impossible",
            "Queued tasks that no known agent could run",
            self.impossible.clone(),
        );
        let help =
            "Ready tasks that another slot would start: not those that wait for limits, budgets or one agent";
        all.register("pending_slots", help, self.pending_slots.clone());
        let help = "Tasks that ended as poison and were not tried again since";
        all.register("tasks_dead", help, self.dead.clone());
        all.register_with_unit(
            "task_oldest_wait",
            "How long the oldest ready task has waited",
            Unit::Seconds,
            self.oldest_wait.clone(),
        );
        all.register("runs_active", "Runs that are not at their end", self.runs.clone());
        all.register("agents", "Known agents by state", self.agents.clone());
        all.register("agent_slots", "Slots of connected agents by state", self.slots.clone());
        all.register("task_grants", "Attempts granted to agents", self.grants.clone());
        all.register("task_attempts", "Attempts that ended, by outcome", self.attempts.clone());
        all.register("task_ends", "Tasks that came to their end, by state", self.ended.clone());
        let help = "Time of an attempt from its grant to its recorded end";
        all.register_with_unit("task_run", help, Unit::Seconds, self.run_time.clone());
        let help = "From the moment a task was ready to its grant";
        all.register_with_unit("task_wait", help, Unit::Seconds, self.wait_time.clone());
        let help = "End of the coordinator's certificate, in seconds since 1970";
        all.register_with_unit("certificate_expiry", help, Unit::Seconds, self.certificate_expiry.clone());
        self.money.register(&mut all);
        self.limits.register(&mut all);
        self.budgets.register(&mut all);
        self.register_store(&mut all);
        all.register("sessions", "Open agent sessions", self.sessions.clone());
        let help = "Agent sessions ended because the agent did not read";
        all.register("sessions_dropped", help, self.sessions_dropped.clone());
        all.register("stream_clients", "Open watches", self.watchers.clone());
        all.register("rpc_requests", "Answered calls by method and status code", self.rpcs.clone());
        let help = "Time to answer a call; for streams, to open it";
        all.register_with_unit("rpc", help, Unit::Seconds, self.rpc_time.clone());
        all
    }

    fn register_store(&self, all: &mut Registry) {
        all.register("commit_events", "Events that shared a commit", self.commit_events.clone());
        all.register("commit_keys", "Keys of a commit", self.commit_keys.clone());
        let help = "Time of a commit: write and sync";
        all.register_with_unit("store_flush", help, Unit::Seconds, self.commit_time.clone());
        all.register("store_syncs", "Waits for the disk", self.syncs.clone());
        all.register_with_unit("store", "Size of the store's files", Unit::Bytes, self.store_bytes.clone());
        let help = "Upper bound of the live records in the store";
        all.register_with_unit("store_live", help, Unit::Bytes, self.store_live_bytes.clone());
        all.register_with_unit(
            "disk_free",
            "Free share of the data disk",
            Unit::Ratios,
            self.disk_free.clone(),
        );
        let help = "Free bytes of the data disk";
        all.register_with_unit("disk_free", help, Unit::Bytes, self.disk_free_bytes.clone());
        all.register("events_seq", "Number of the newest durable event", self.events_seq.clone());
    }

    fn zero(&self) {
        for state in LIVE {
            drop(self.tasks.get_or_create(&ByState { state }));
        }
        for state in ENDED {
            drop(self.ended.get_or_create(&ByState { state }));
        }
        for state in AGENTS {
            drop(self.agents.get_or_create(&ByState { state }));
        }
        for state in ["used", "free"] {
            drop(self.slots.get_or_create(&ByState { state }));
        }
        for row in &OUTCOMES {
            drop(self.attempts.get_or_create(&ByOutcome { outcome: row.word }));
        }
        self.limits.set_tasks(&StatusView::default());
    }

    /// Takes over what a look at the state showed.
    pub fn set_status(&self, status: &StatusView) {
        let tasks = [status.queued, status.blocked, status.running, status.waiting_retry, status.parked];
        for (state, count) in LIVE.into_iter().zip(tasks) {
            self.tasks.get_or_create(&ByState { state }).set(signed(count));
        }
        for (state, count) in AGENTS.into_iter().zip(status.agents) {
            self.agents.get_or_create(&ByState { state }).set(count.into());
        }
        let free = status.slots.saturating_sub(status.slots_used);
        self.slots.get_or_create(&ByState { state: "used" }).set(status.slots_used.into());
        self.slots.get_or_create(&ByState { state: "free" }).set(free.into());
        self.oldest_wait.set(status.oldest_wait.map_or(0.0, |wait| seconds(wait.0)));
        self.impossible.set(signed(status.impossible));
        self.pending_slots.set(signed(status.demand.pending_slots));
        self.dead.set(signed(status.dead));
        self.runs.set(signed(status.active_runs));
        self.limits.set_tasks(status);
    }

    /// Takes over how credential pools stand: all of them.
    pub fn set_pools(&self, pools: &[PoolView]) {
        self.limits.set(pools);
    }

    /// Takes over how standing budgets stand: all of them.
    pub fn set_budgets(&self, budgets: &[BudgetView]) {
        self.budgets.set(budgets);
    }

    /// Counts what an agent told of a pool.
    pub fn limit_signalled(&self, signal: &LimitSignal) {
        self.limits.signalled(&signal.pool, signal.kind);
    }

    /// Takes over what the store says of itself.
    pub fn set_store(&self, health: &Health) {
        self.store_bytes.set(signed(health.bytes_on_disk));
        self.store_live_bytes.set(signed(health.live_bytes));
        self.disk_free.set(f64::from(health.free_disk_percent) / 100.0);
        self.disk_free_bytes.set(signed(health.free_disk_bytes));
    }

    /// Counts a commit of `events` events.
    pub fn committed(&self, events: usize, stats: CommitStats, took: Duration) {
        self.commit_events.observe(events as f64);
        self.commit_keys.observe(stats.keys as f64);
        self.commit_time.observe(took.as_secs_f64());
        self.syncs.inc_by(stats.syncs);
    }

    /// Notes the number of the newest durable event.
    pub fn set_events_seq(&self, newest: u64) {
        self.events_seq.set(signed(newest));
    }

    /// Counts a grant that left.
    pub fn granted(&self) {
        self.grants.inc();
    }

    /// Counts an attempt that ended, `millis` after its grant.
    pub fn attempt_ended(&self, outcome: Outcome, millis: Option<u64>) {
        let word = convert::outcome_to_wire(outcome).word();
        self.attempts.get_or_create(&ByOutcome { outcome: word }).inc();
        if let Some(millis) = millis {
            self.run_time.observe(seconds(millis));
        }
    }

    /// Counts a grant of a task that was ready for `millis`.
    pub fn task_waited(&self, millis: u64) {
        self.wait_time.observe(seconds(millis));
    }

    /// Takes the end of the certificate in use.
    pub fn set_certificate(&self, ends: Option<SystemTime>) {
        let since = ends.and_then(|ends| ends.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        self.certificate_expiry.set(signed(since.as_secs()));
    }

    /// Counts a task that came to its end; other states are not counted.
    pub fn task_ended(&self, state: &str) {
        if let Some(state) = ENDED.into_iter().find(|ended| *ended == state) {
            self.ended.get_or_create(&ByState { state }).inc();
        }
    }

    /// Counts what was spent on the day of `at`; nothing when that day is over. A start hands in what it found.
    pub fn spent_today(&self, micro_usd: u64, at: Wall) {
        self.money.on_day(micro_usd.into(), at);
    }

    /// What was spent on the last day that something was counted on, even 0.
    #[must_use]
    pub fn cost_today_micro_usd(&self) -> u64 {
        self.money.today()
    }

    /// Counts an entry of the ledger that became durable.
    pub fn billed(&self, entry: &LedgerEntry) {
        self.money.billed(entry);
    }

    /// Counts an attempt whose cost by our price list is not what the CLI said.
    pub fn price_differs(&self, model: &str) {
        self.money.price_differs(model);
    }

    /// Share of a worker's newest input that came from the prompt cache, in thousandths.
    pub fn set_cache_read_ratio(&self, worker: &str, permille: u64) {
        self.money.set_cache_read_ratio(worker, permille);
    }

    /// Size of the store's files, as of the last look.
    #[must_use]
    pub fn store_bytes(&self) -> u64 {
        u64::try_from(self.store_bytes.get()).unwrap_or(0)
    }

    /// Bytes free where the store lies, as of the last look.
    #[must_use]
    pub fn disk_free_bytes(&self) -> u64 {
        u64::try_from(self.disk_free_bytes.get()).unwrap_or(0)
    }

    /// The number of open sessions changed.
    pub fn set_sessions(&self, open: usize) {
        self.sessions.set(signed(open as u64));
    }

    /// Counts a session that was ended because its agent did not read.
    pub fn session_dropped(&self) {
        self.sessions_dropped.inc();
    }

    /// A watch opened.
    pub fn watch_opened(&self) {
        self.watchers.inc();
    }

    /// Open watches.
    #[must_use]
    pub fn watches(&self) -> u32 {
        u32::try_from(self.watchers.get()).unwrap_or(0)
    }

    /// A watch closed.
    pub fn watch_closed(&self) {
        self.watchers.dec();
    }

    /// Counts an answered call. `method` is a name from our own services, never what a caller sent; `code` a gRPC one.
    pub fn rpc_answered(&self, method: &'static str, code: &'static str, took: Duration) {
        self.rpcs.get_or_create(&Rpc { method, code }).inc();
        self.rpc_time.get_or_create(&RpcMethod { method }).observe(took.as_secs_f64());
    }

    /// Makes the series of a method, so that it is there before its first call.
    pub fn rpc_known(&self, method: &'static str) {
        drop(self.rpcs.get_or_create(&Rpc { method, code: "OK" }));
        drop(self.rpc_time.get_or_create(&RpcMethod { method }));
    }

    /// All of it in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}

fn powers(base: f64, count: i32) -> impl Iterator<Item = f64> {
    (0..count).map(move |power| base.powi(power))
}

/// 0.1 ms to 10 s: below the first a disk does not answer, above the last nobody waits.
fn latencies() -> [f64; 14] {
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0]
}

#[cfg(test)]
mod tests;
