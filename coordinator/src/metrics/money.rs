//! Tokens and money, as counted for Prometheus.
//! Knows entries of the ledger and bounded label values; refuses to be exact where a counter cannot be: one that was too
//! high, as an estimate may be, does not fall.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use orch_core::time::Wall;
use orch_proto::store::v1::LedgerEntry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::{ByModel, ByModelAndType, ByWorker};
use super::{FloatCounter, FloatGauge};
use crate::ledger::money_of;

/// Models named in series; what comes after them is counted as `other`.
pub(super) const MAX_MODELS: usize = 50;
/// Workers named in series; those that come after them have none.
const MAX_WORKERS: usize = 100;
/// Longest name in a series.
pub(super) const MAX_NAME_BYTES: usize = 64;
/// Money of which no model is known, as of an attempt that was lost.
const UNKNOWN: &str = "unknown";

const MILLIS_A_DAY: i64 = 86_400_000;

/// Everything that is counted of money.
#[derive(Debug, Default)]
pub(super) struct Money {
    cost: Family<ByModel, FloatCounter>,
    tokens: Family<ByModelAndType, Counter>,
    mismatches: Family<ByModel, Counter>,
    cache_read: Family<ByWorker, FloatGauge>,
    models: Mutex<BTreeSet<String>>,
    workers: Mutex<BTreeSet<String>>,
    today: Mutex<Today>,
}

/// What was spent on one day, UTC.
#[derive(Debug, Default)]
struct Today {
    day: i64,
    micro_usd: i128,
}

impl Money {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register("cost_usd", "List price of recorded attempts, by model", self.cost.clone());
        all.register("tokens", "Tokens of recorded attempts, by model and type", self.tokens.clone());
        let help = "Attempts whose cost by our price list is not what the CLI says, by model";
        all.register("price_mismatch", help, self.mismatches.clone());
        let help = "Share of the input of a worker's newest attempts that came from the prompt cache";
        all.register("cache_read_ratio", help, self.cache_read.clone());
    }

    /// Adds to what was spent on the day of `at`, unless that day is over.
    pub(super) fn on_day(&self, micro_usd: i128, at: Wall) {
        let day = at.0.div_euclid(MILLIS_A_DAY);
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if day > today.day {
            *today = Today { day, micro_usd: 0 };
        }
        if day == today.day {
            today.micro_usd += micro_usd;
        }
    }

    pub(super) fn today(&self) -> u64 {
        let today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        u64::try_from(today.micro_usd.max(0)).unwrap_or(u64::MAX)
    }

    /// Counts an entry. What is taken back was counted before, as money of no known model: only what goes beyond it is
    /// added, so that the sum over all models is right whenever the estimate was not too high.
    pub(super) fn billed(&self, entry: &LedgerEntry) {
        self.on_day(money_of(entry).micro_usd, Wall(entry.recorded_ms));
        let Some(usage) = &entry.usage else { return };
        let mut counted_before = entry.taken_back_micro_usd;
        for row in &usage.models {
            let model = bounded(&self.models, &row.model, MAX_MODELS).unwrap_or_else(|| "other".to_owned());
            let more = row.cost_micro_usd.saturating_sub(counted_before);
            counted_before = counted_before.saturating_sub(row.cost_micro_usd);
            self.cost.get_or_create(&ByModel { model: model.clone() }).inc_by(more as f64 / 1e6);
            let types = [
                ("input", row.input_tokens),
                ("output", row.output_tokens),
                ("cache_read", row.cache_read_tokens),
                ("cache_write", row.cache_write_tokens),
            ];
            for (r#type, tokens) in types {
                self.tokens.get_or_create(&ByModelAndType { model: model.clone(), r#type }).inc_by(tokens);
            }
        }
        if usage.models.is_empty() && usage.cost_micro_usd > counted_before {
            let more = (usage.cost_micro_usd - counted_before) as f64 / 1e6;
            self.cost.get_or_create(&ByModel { model: UNKNOWN.to_owned() }).inc_by(more);
        }
    }

    pub(super) fn price_differs(&self, model: &str) {
        let model = bounded(&self.models, model, MAX_MODELS).unwrap_or_else(|| "other".to_owned());
        self.mismatches.get_or_create(&ByModel { model }).inc();
    }

    pub(super) fn set_cache_read_ratio(&self, worker: &str, permille: u64) {
        if let Some(worker) = bounded(&self.workers, worker, MAX_WORKERS) {
            self.cache_read.get_or_create(&ByWorker { worker }).set(permille as f64 / 1_000.0);
        }
    }
}

/// Agents say such names: only so many become series.
fn bounded(known: &Mutex<BTreeSet<String>>, name: &str, most: usize) -> Option<String> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    let plain = name.len() <= MAX_NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !known.contains(name) {
        if !plain || known.len() == most {
            return None;
        }
        known.insert(name.to_owned());
    }
    Some(name.to_owned())
}
