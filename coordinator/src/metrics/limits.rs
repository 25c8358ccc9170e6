//! How credential pools stand, as series.
//! Knows names and labels; pools are named by people, so that only so many of them become labels.

use super::{FloatGauge, signed};
use orch_core::limits::{PoolState, PoolView, SignalKind};
use orch_core::query::StatusView;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Pools named in series; what comes after them is added up as `other`.
const MAX_POOLS: usize = 64;
/// Where those go.
const OTHER: &str = "other";
/// States of pools.
const STATES: [(PoolState, &str); 4] = [
    (PoolState::Open, "open"),
    (PoolState::Throttled, "throttled"),
    (PoolState::Exhausted, "exhausted"),
    (PoolState::Failing, "failing"),
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPool {
    pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPoolAndUnit {
    pool: String,
    unit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPoolAndState {
    pool: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

/// The series of pools.
#[derive(Debug, Default)]
pub(super) struct LimitFigures {
    waiting: Family<ByPool, Gauge>,
    used: Family<ByPoolAndUnit, FloatGauge>,
    state: Family<ByPoolAndState, Gauge>,
    parked: Family<ByPool, Gauge>,
    throttled: Family<ByPool, Counter>,
    tasks: Family<ByReason, Gauge>,
    /// Pools that are labels.
    named: Mutex<BTreeSet<String>>,
}

/// What is shown of one label.
#[derive(Debug, Default)]
struct Row {
    waiting: u64,
    parked: u64,
    state: usize,
    used: BTreeMap<&'static str, f64>,
}

impl LimitFigures {
    pub(super) fn register(&self, all: &mut Registry) {
        let help = "Requests that wait for credit of a rate limit, by pool";
        all.register("limit_waiting", help, self.waiting.clone());
        let help = "Part of a rate limit used in the last minute, of the fullest class of models";
        all.register("limit_used_ratio", help, self.used.clone());
        all.register("pool_state", "1 for the state that a credential pool is in", self.state.clone());
        let help = "Conversations that wait until a used-up window of their pool is reset";
        all.register("pool_parked", help, self.parked.clone());
        all.register("limit_throttled", "Throttles that agents told of, by pool", self.throttled.clone());
        let help = "Ready tasks by what they wait for; only those that wait for a slot want more agents";
        all.register("tasks_waiting", help, self.tasks.clone());
    }

    /// Takes over how pools stand; one that is gone goes from the series too, but for its counters.
    pub(super) fn set(&self, pools: &[PoolView]) {
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        let before: Vec<String>;
        {
            let mut named = self.named();
            before = named.iter().cloned().collect();
            for pool in pools {
                let label = bounded(&mut named, &pool.pool);
                rows.entry(label).or_default().add(pool);
            }
            let gone = |label: &String| !rows.contains_key(label);
            named.retain(|label| !gone(label) || self.throttled.get(&by(label)).is_some());
        }
        for (pool, row) in &rows {
            self.waiting.get_or_create(&by(pool)).set(signed(row.waiting));
            self.parked.get_or_create(&by(pool)).set(signed(row.parked));
            for (at, (_, state)) in STATES.iter().enumerate() {
                let labels = ByPoolAndState { pool: pool.clone(), state };
                self.state.get_or_create(&labels).set((at == row.state).into());
            }
            for unit in UNITS.map(|(_, label)| label) {
                let labels = ByPoolAndUnit { pool: pool.clone(), unit };
                match row.used.get(unit) {
                    Some(used) => drop(self.used.get_or_create(&labels).set(*used)),
                    None => drop(self.used.remove(&labels)),
                }
            }
        }
        for pool in before.iter().map(String::as_str).chain([OTHER]).filter(|pool| !rows.contains_key(*pool))
        {
            self.remove(pool);
        }
    }

    /// Takes over what ready tasks wait for.
    pub(super) fn set_tasks(&self, status: &StatusView) {
        let demand = &status.demand;
        for (reason, count) in [
            ("slot", demand.pending_slots),
            ("limit", demand.limits),
            ("budget", demand.budgets),
            ("agent", demand.pinned),
            ("capability", demand.impossible),
        ] {
            self.tasks.get_or_create(&ByReason { reason }).set(signed(count));
        }
    }

    /// Counts what an agent told of a pool.
    pub(super) fn signalled(&self, pool: &str, kind: SignalKind) {
        if kind == SignalKind::Throttled {
            let label = bounded(&mut self.named(), pool);
            self.throttled.get_or_create(&by(&label)).inc();
        }
    }

    fn remove(&self, pool: &str) {
        self.waiting.remove(&by(pool));
        self.parked.remove(&by(pool));
        for (_, state) in STATES {
            self.state.remove(&ByPoolAndState { pool: pool.to_owned(), state });
        }
        for (_, unit) in UNITS {
            self.used.remove(&ByPoolAndUnit { pool: pool.to_owned(), unit });
        }
    }

    fn named(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Units as the core calls them, and as labels.
const UNITS: [(&str, &str); 3] =
    [("requests", "requests"), ("input tokens", "input_tokens"), ("output tokens", "output_tokens")];

impl Row {
    fn add(&mut self, pool: &PoolView) {
        self.waiting += u64::from(pool.waiting);
        self.parked += u64::from(pool.parked);
        // Of several pools under one label the one that stands worst.
        let state = STATES.iter().position(|(state, _)| *state == pool.state).unwrap_or(0);
        self.state = self.state.max(state);
        // The share of a worker is its own; how full the pool is, the whole says.
        for bucket in pool.buckets.iter().filter(|bucket| bucket.worker.is_empty() && bucket.limit > 0) {
            let Some((_, unit)) = UNITS.iter().find(|(name, _)| *name == bucket.unit) else { continue };
            let used = bucket.used as f64 / bucket.limit as f64;
            let fullest = self.used.entry(unit).or_default();
            *fullest = fullest.max(used);
        }
    }
}

fn by(pool: &str) -> ByPool {
    ByPool { pool: pool.to_owned() }
}

fn bounded(named: &mut BTreeSet<String>, pool: &str) -> String {
    if named.contains(pool) {
        return pool.to_owned();
    }
    if named.len() == MAX_POOLS {
        return OTHER.to_owned();
    }
    named.insert(pool.to_owned());
    pool.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use orch_core::limits::{BucketView, LimitSignal};
    use orch_core::query::DemandView;

    fn view(pool: &str, state: PoolState) -> PoolView {
        let bucket = |class: &str, worker: &str, used| BucketView {
            model_class: class.into(),
            worker: worker.into(),
            unit: "input tokens",
            limit: 100,
            free: 0,
            leased: 0,
            used,
            source: "configured",
            pace_permille: 1_000,
        };
        PoolView {
            share_permille: 1_000,
            pool: pool.into(),
            state,
            left: None,
            detail: String::new(),
            buckets: vec![bucket("opus", "", 50), bucket("haiku", "", 25), bucket("opus", "marie", 99)],
            agents: Vec::new(),
            waiting: 3,
            in_flight: 0,
            max_in_flight: 0,
            parked: 2,
            warnings: Vec::new(),
            throttled: 0,
        }
    }

    fn throttled(metrics: &Metrics, pool: &str) {
        metrics.limit_signalled(&LimitSignal {
            pool: pool.into(),
            model_class: "".into(),
            kind: SignalKind::Throttled,
            retry_after: None,
            window: "".into(),
            detail: "".into(),
        });
    }

    #[test]
    fn a_pool_shows_how_it_stands_and_goes_when_it_is_gone() {
        let metrics = Metrics::new("0");
        metrics.set_pools(&[view("main", PoolState::Throttled)]);
        throttled(&metrics, "main");
        let text = metrics.encode().unwrap();
        for line in [
            "orch_limit_waiting{pool=\"main\"} 3",
            "orch_limit_used_ratio{pool=\"main\",unit=\"input_tokens\"} 0.5",
            "orch_pool_state{pool=\"main\",state=\"throttled\"} 1",
            "orch_pool_state{pool=\"main\",state=\"open\"} 0",
            "orch_pool_parked{pool=\"main\"} 2",
            "orch_limit_throttled_total{pool=\"main\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        metrics.set_pools(&[]);
        let text = metrics.encode().unwrap();
        assert!(!text.contains("orch_pool_state{") && !text.contains("orch_limit_waiting{"), "{text}");
        assert!(text.contains("orch_limit_throttled_total{pool=\"main\"} 1"), "a counter stays");
    }

    #[test]
    fn only_so_many_pools_become_labels_and_the_rest_is_added_up() {
        let metrics = Metrics::new("0");
        let pools: Vec<PoolView> =
            (0..=MAX_POOLS + 1).map(|at| view(&format!("p{at:03}"), PoolState::Open)).collect();
        metrics.set_pools(&pools);
        throttled(&metrics, "another");
        let text = metrics.encode().unwrap();
        assert_eq!(text.matches("orch_limit_waiting{").count(), MAX_POOLS + 1);
        assert!(text.contains("orch_limit_waiting{pool=\"other\"} 6"), "{text}");
        assert!(text.contains("orch_limit_throttled_total{pool=\"other\"} 1"), "{text}");
    }

    #[test]
    fn tasks_that_wait_for_a_limit_are_no_demand_for_slots() {
        let metrics = Metrics::new("0");
        let demand = DemandView { pending_slots: 2, limits: 7, budgets: 5, ..DemandView::default() };
        metrics.set_status(&StatusView { queued: 14, demand, ..StatusView::default() });
        let text = metrics.encode().unwrap();
        assert!(text.contains("orch_pending_slots 2\n"), "{text}");
        assert!(text.contains("orch_tasks_waiting{reason=\"budget\"} 5"), "{text}");
        assert!(text.contains("orch_tasks_waiting{reason=\"slot\"} 2"), "{text}");
        assert!(text.contains("orch_tasks_waiting{reason=\"limit\"} 7"), "{text}");
    }
}
