//! What is known of money without reading the ledger: everything in it is bounded, rebuilt at a start and kept up to date
//! by what becomes durable.
//! Knows who asks for what; each figure has a room beside this one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orch_core::ids::TenantId;
use orch_core::time::Wall;
use orch_proto::store::v1::LedgerEntry;
use orch_proto::v1::{CostEstimate, CostForecast};

use super::drift::Drift;
pub use super::history::EstimateTask;
use super::history::History;
use super::hits::{Broken, Hits};
use super::pace::Pace;
use super::page::money_of;
use super::seed::Seed;
use crate::metrics::Metrics;
use crate::prices::PricesInForce;

/// See the [module](self).
#[derive(Debug)]
pub struct Book {
    known: Mutex<Known>,
    prices: Arc<PricesInForce>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Known {
    history: History,
    hits: Hits,
    drift: Drift,
    pace: Pace,
}

impl Book {
    /// What a start found; figures go to `metrics` from here on.
    pub(crate) fn new(seed: Seed, metrics: Arc<Metrics>) -> Self {
        let (pace, recent) = seed.into_parts();
        let mut known = Known { pace, ..Known::default() };
        for entry in &recent {
            known.history.record(entry);
            if let Some(permille) = known.hits.record(entry) {
                metrics.set_cache_read_ratio(&entry.worker, permille);
            }
        }
        Self { known: Mutex::new(known), prices: Arc::default(), metrics }
    }

    /// The price list in force.
    #[must_use]
    pub const fn prices(&self) -> &Arc<PricesInForce> {
        &self.prices
    }

    /// Takes in what has become durable.
    pub(super) fn record(&self, entries: &[LedgerEntry]) {
        let list = self.prices.current();
        let mut known = self.known();
        for entry in entries {
            self.metrics.billed(entry);
            known.history.record(entry);
            known.pace.add(TenantId(entry.tenant), entry.recorded_ms, money_of(entry).micro_usd);
            for model in known.drift.record(entry, &list.prices) {
                self.metrics.price_differs(&model);
            }
            if let Some(permille) = known.hits.record(entry) {
                self.metrics.set_cache_read_ratio(&entry.worker, permille);
            }
        }
    }

    /// What `tasks` of a run named `name` will cost together, by what earlier ones did; nothing where no task is a
    /// worker's.
    pub fn estimate<'a>(
        &self,
        tenant: TenantId,
        name: &str,
        tasks: impl IntoIterator<Item = EstimateTask<'a>>,
    ) -> Option<CostEstimate> {
        let list = self.prices.current();
        self.known().history.estimate(tenant, name, tasks, &list.prices)
    }

    /// What will be spent, if things go on as they do; nothing where nothing was yet.
    #[must_use]
    pub fn forecast(&self, tenant: TenantId, now: Wall) -> Option<CostForecast> {
        self.known().pace.forecast(tenant, now.0)
    }

    /// The definitions of these workers changed. `last_run` is the newest run: those behind it have the new ones.
    pub fn definitions_changed(&self, workers: &[String], at: Wall, last_run: u64) {
        self.known().hits.changed(workers, at.0, last_run);
    }

    /// Things to be looked at, in plain English, a line each.
    #[must_use]
    pub fn warnings(&self, tenant: TenantId, now: Wall) -> Vec<String> {
        let known = self.known();
        let prices = known.drift.mismatches(now.0).into_iter().map(|mismatch| {
            format!(
                "prices of {} differ from the CLI's by {} %: orchd --prices",
                mismatch.model, mismatch.percent
            )
        });
        let caches = known.hits.broken(tenant).into_iter().map(|broken| told(&broken, now));
        prices.chain(caches).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(broken: &Broken, now: Wall) -> String {
    let Broken { worker, at_ms, before_permille, since_permille } = broken;
    let at = jiff::Timestamp::from_millisecond(*at_ms).unwrap_or_default();
    let today = super::page::day_of(*at_ms) == super::page::day_of(now.0);
    let at = at.strftime(if today { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" });
    let percent = |permille: &u64| (permille + 5) / 10;
    format!(
        "{worker}: {} % of input from cache since its definition changed at {at} ({} % before)",
        percent(since_permille),
        percent(before_permille)
    )
}

#[cfg(test)]
mod tests {
    use super::super::page::entry;
    use super::super::page::tests::{bill, usage};
    use super::*;

    const T: TenantId = TenantId(1);
    /// 2025-11-21 14:03 UTC.
    const AT: i64 = 1_763_683_200_000 + (14 * 60 + 3) * 60_000;

    fn book() -> Book {
        Book::new(Seed::new(Wall(AT)), Arc::new(Metrics::new("test")))
    }

    fn attempt(run: u64, cached: u64, fresh: u64, micro: u64) -> LedgerEntry {
        let mut spent = usage("claude-opus-5", fresh, micro);
        spent.models[0].cache_read = cached;
        entry(&bill(run, 1, spent), Wall(AT)).unwrap()
    }

    #[test]
    fn a_broken_cache_and_a_wrong_price_are_told_in_plain_english() {
        let book = book();
        let before: Vec<_> = (1..=5).map(|run| attempt(run, 710, 290, 3_255)).collect();
        book.record(&before);
        book.definitions_changed(&["marie".to_owned()], Wall(AT), 5);
        let after: Vec<_> = (6..=10).map(|run| attempt(run, 120, 880, 8_860)).collect();
        book.record(&after);
        assert_eq!(
            book.warnings(T, Wall(AT)),
            ["marie: 12 % of input from cache since its definition changed at 14:03 UTC (71 % before)"]
        );
        let dear = attempt(11, 0, 1_000_000, 11_403_333);
        book.record(&[dear]);
        let warnings = book.warnings(T, Wall(AT + 86_400_000));
        assert!(warnings[0].contains("at 2025-11-21 14:03 UTC"), "{warnings:?}");
        let warnings = book.warnings(T, Wall(AT));
        assert_eq!(warnings[0], "prices of claude-opus-5 differ from the CLI's by 12 %: orchd --prices");
        let text = book.metrics.encode().unwrap();
        for line in [
            "orch_price_mismatch_total{model=\"claude-opus-5\"} 1",
            "orch_cache_read_ratio{worker=\"marie\"} ",
            "orch_tokens_total{model=\"claude-opus-5\",type=\"cache_read\"} 4150",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} is missing in\n{text}");
        }
    }
}
