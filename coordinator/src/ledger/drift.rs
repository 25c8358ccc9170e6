//! Whether our price list says what the CLI reckons.
//! Knows sums by model and day; refuses to correct anything: what the CLI said is what was spent.

use std::collections::BTreeMap;

use orch_proto::prices::{Prices, WEB_SEARCH_MICRO_USD};
use orch_proto::store::v1::LedgerEntry;
use orch_proto::v1::ModelUsage;

use super::page::day_of;
use crate::persist::fit::OTHER;

/// Difference that is told of, in thousandths.
const TELL_PERMILLE: u128 = 10;
/// Differences up to this, in millionths of a US dollar, are roundings.
const ROUNDING: u64 = 10;
/// Models that are looked at.
const MAX_MODELS: usize = 50;

#[derive(Debug, Default)]
struct Sums {
    day: u32,
    ours: u64,
    theirs: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Drift {
    models: BTreeMap<String, Sums>,
}

/// Sums of a day that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) model: String,
    pub(super) percent: u64,
}

/// What of a row's money our list explains: a report does not say how long what was written to the cache lives there, nor
/// how often the API searched the web.
fn explained(row: &ModelUsage, prices: &Prices) -> u64 {
    let (short, long) = (prices.cost(row), prices.cost_with(row, row.cache_write_tokens));
    let theirs = row.cost_micro_usd;
    let searches = |ours: u64| {
        let beyond = theirs.saturating_sub(ours) % WEB_SEARCH_MICRO_USD;
        theirs > ours + ROUNDING && beyond.min(WEB_SEARCH_MICRO_USD - beyond) <= ROUNDING
    };
    if (short..=long).contains(&theirs) || searches(short) || searches(long) {
        return theirs;
    }
    if theirs > long { long } else { short }
}

fn differ(ours: u64, theirs: u64) -> bool {
    let difference = ours.abs_diff(theirs);
    difference > ROUNDING && u128::from(difference) * 1_000 > u128::from(theirs) * TELL_PERMILLE
}

impl Drift {
    /// Compares what an attempt is said to have cost with what its tokens cost by `prices`. The models that differ.
    pub(super) fn record(&mut self, entry: &LedgerEntry, prices: &Prices) -> Vec<String> {
        let mut found = Vec::new();
        let day = day_of(entry.recorded_ms);
        let exact = entry.usage.as_ref().filter(|usage| !usage.estimated);
        for row in exact.map_or(&[][..], |usage| &usage.models) {
            let known = self.models.contains_key(&row.model);
            // A row that stands for several models has no price.
            if row.model == OTHER || (!known && self.models.len() == MAX_MODELS) {
                continue;
            }
            let ours = explained(row, prices);
            let sums = self.models.entry(row.model.clone()).or_default();
            if sums.day != day {
                *sums = Sums { day, ..Sums::default() };
            }
            sums.ours = sums.ours.saturating_add(ours);
            sums.theirs = sums.theirs.saturating_add(row.cost_micro_usd);
            if differ(ours, row.cost_micro_usd) {
                found.push(row.model.clone());
            }
        }
        found
    }

    /// The models whose sums of the day of `now` differ.
    pub(super) fn mismatches(&self, now: i64) -> Vec<Mismatch> {
        let today = self.models.iter().filter(|(_, sums)| sums.day == day_of(now));
        let differing = today.filter(|(_, sums)| differ(sums.ours, sums.theirs));
        let mismatch = |(model, sums): (&String, &Sums)| {
            let percent = u128::from(sums.ours.abs_diff(sums.theirs)) * 100 / u128::from(sums.theirs.max(1));
            Mismatch { model: model.clone(), percent: u64::try_from(percent).unwrap_or(u64::MAX).max(1) }
        };
        differing.map(mismatch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::entry;
    use super::super::page::tests::{bill, usage};
    use super::*;
    use orch_core::time::Wall;
    use orch_core::usage::Usage;

    #[test]
    fn a_difference_above_one_percent_is_counted_and_told_once_a_model_and_day() {
        let (mut drift, prices) = (Drift::default(), Prices::default());
        // 1,000,000 in and 200,000 out of Opus are 10 dollars.
        let of = |micro| entry(&bill(1, 1, usage("claude-opus-5", 1_000_000, micro)), Wall(1)).unwrap();
        assert_eq!(drift.record(&of(10_000_000), &prices), [""; 0]);
        assert_eq!(drift.record(&of(10_091_234), &prices), [""; 0]);
        assert_eq!(drift.mismatches(1), []);
        for _ in 0..20 {
            assert_eq!(drift.record(&of(11_363_636), &prices), ["claude-opus-5"]);
        }
        assert_eq!(drift.mismatches(1), [Mismatch { model: "claude-opus-5".to_owned(), percent: 11 }]);
        assert_eq!(drift.mismatches(86_400_000), [], "another day");
    }

    #[test]
    fn web_searches_and_caches_of_an_hour_are_no_difference() {
        let (mut drift, prices) = (Drift::default(), Prices::default());
        let mut of = |write: u64, micro: u64| {
            let mut spent = usage("claude-opus-5", 1_000, micro);
            spent.models[0].cache_write = write;
            drift.record(&entry(&bill(1, 1, spent), Wall(1)).unwrap(), &prices)
        };
        // 5,000 in, 5,000 out; 1,000 written cost 6,250 for 5 minutes and 10,000 for an hour.
        for (write, micro) in
            [(0, 10_000), (0, 40_000), (1_000, 16_250), (1_000, 20_000), (1_000, 17_000), (1_000, 30_000)]
        {
            assert_eq!(of(write, micro), [""; 0], "{write} {micro}");
        }
        assert_eq!(of(0, 13_000), ["claude-opus-5"]);
        assert_eq!(of(1_000, 9_000), ["claude-opus-5"]);
    }

    #[test]
    fn estimates_and_roundings_are_not_compared_and_memory_is_bounded() {
        let (mut drift, prices) = (Drift::default(), Prices::default());
        let guess = Usage { estimated: true, ..usage("claude-opus-5", 1_000_000, 1) };
        drift.record(&entry(&bill(1, 1, guess), Wall(1)).unwrap(), &prices);
        // A token that costs 5 millionths, said to cost 9.
        drift.record(&entry(&bill(1, 1, usage("claude-opus-5", 1, 9)), Wall(1)).unwrap(), &prices);
        assert_eq!(drift.mismatches(1), []);
        for index in 0..100 {
            let one = usage(&format!("m{index}"), 1, 5);
            drift.record(&entry(&bill(1, 1, one), Wall(1)).unwrap(), &prices);
        }
        assert_eq!(drift.models.len(), MAX_MODELS);
    }
}
