//! What an attempt has cost, by what its gateway counted: exact for every request whose end was seen, an estimate for the
//! rest. Knows the ledger in the attempt's directory and list prices; refuses to know what the CLI said.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use orch_proto::prices::Prices;

use super::desk::{Tally, cost, written};
use crate::gateway::ledger;
use crate::gateway::wire::{Ask, ModelTotal, Tokens};
use crate::runner::{ModelUsage, Usage};

/// The bill of one process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bill {
    /// Tokens and money.
    pub usage: Usage,
    /// Requests.
    pub requests: u32,
}

/// The bill of the attempt in `attempt_dir`. Blocks.
///
/// # Errors
/// When the ledger cannot be read.
pub fn of(attempt_dir: &Path, tally: &Tally, prices: &Prices) -> io::Result<Bill> {
    let (mut totals, mut seen) = (BTreeMap::new(), BTreeSet::new());
    ledger::entries(attempt_dir, |entry| {
        seen.insert(entry.request);
        ledger::count(&mut totals, &entry);
    })?;
    // Whoever wrote the ledger was killed: what was in flight then is known here alone.
    let cut = tally.cut.iter().filter(|(ask, _)| !seen.contains(&ask.request));
    Ok(sum(totals.values(), cut, prices))
}

fn sum<'a>(
    totals: impl Iterator<Item = &'a ModelTotal>,
    cut: impl Iterator<Item = &'a (Ask, Option<Tokens>)>,
    prices: &Prices,
) -> Bill {
    let mut bill = Bill::default();
    for total in totals {
        bill.add(&total.model, total.tokens, prices);
        bill.requests = bill.requests.saturating_add(u32::try_from(total.requests).unwrap_or(u32::MAX));
        bill.usage.estimated |= total.estimated_requests > 0;
    }
    for (ask, begun) in cut {
        let fresh = ask.input_bound.saturating_sub(ask.likely_cached);
        let guess = Tokens { cache_read: ask.likely_cached, ..written(fresh, ask.for_an_hour) };
        bill.add(&ask.model, begun.unwrap_or(guess), prices);
        bill.requests = bill.requests.saturating_add(1);
        bill.usage.estimated = true;
    }
    bill
}

impl Bill {
    fn add(&mut self, model: &str, tokens: Tokens, prices: &Prices) {
        // What the API refused cost nothing, and is no use of the model.
        if tokens == Tokens::default() {
            return;
        }
        let micro_usd = cost(prices, model, tokens).micro_usd;
        let row: &mut ModelUsage = self.usage.models.entry(model.to_owned()).or_default();
        row.input_tokens = row.input_tokens.saturating_add(tokens.input);
        row.output_tokens = row.output_tokens.saturating_add(tokens.output);
        row.cache_read_tokens = row.cache_read_tokens.saturating_add(tokens.cache_read);
        row.cache_write_tokens = row.cache_write_tokens.saturating_add(tokens.cache_write);
        row.cost_micro_usd = row.cost_micro_usd.saturating_add(micro_usd);
        self.usage.cost_micro_usd = self.usage.cost_micro_usd.saturating_add(micro_usd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::ledger::{Entry, Ledger};

    #[test]
    fn what_is_cached_for_an_hour_and_searched_costs_what_the_list_says() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let add = |ledger: &mut Ledger, request, cache_write_1h, searches| {
            let tokens = Tokens {
                input: 1_013,
                output: 2_017,
                cache_read: 30_011,
                cache_write: 4_001,
                cache_write_1h,
                searches,
            };
            let model = "claude-opus-4-8".to_owned();
            ledger.add(&Entry { request, model, tokens, status: 200, ..Entry::default() }).unwrap();
            of(dir.path(), &Tally::default(), &Prices::default()).unwrap().usage.cost_micro_usd
        };
        // By hand: 1,013 x 5 + 2,017 x 25 + 30,011 x 0.5 = 70,495.5 millionths of a dollar, and 4,001 x 6.25 = 25,006.25
        // for five minutes or 4,001 x 10 = 40,010 for an hour.
        assert_eq!(add(&mut ledger, 1, 0, 0), 95_502);
        // Both requests: 140,991 + 25,006.25 + 40,010.
        assert_eq!(add(&mut ledger, 2, 4_001, 0), 206_007);
        // A third with 1,000 of the 4,001 for an hour (10,000 + 3,001 x 6.25 = 28,756.25) and three searches.
        assert_eq!(add(&mut ledger, 3, 1_000, 3), 206_007 + 70_496 + 28_756 + 30_000);
    }

    #[test]
    fn what_ended_is_exact_and_what_was_cut_is_marked_and_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let tokens =
            Tokens { input: 10, output: 50, cache_read: 30_000, cache_write: 2_000, ..Tokens::default() };
        let model = "claude-opus-4-8".to_owned();
        let entry = Entry { request: 1, model: model.clone(), tokens, status: 200, ..Entry::default() };
        ledger.add(&entry).unwrap();
        ledger.add(&Entry { request: 2, status: 429, tokens: Tokens::default(), ..entry }).unwrap();
        let ask = |request| Ask { request, model: model.clone(), ..Ask::default() };
        let heard = Tally { cut: vec![(ask(1), Some(tokens))], ..Tally::default() };
        let bill = of(dir.path(), &heard, &Prices::default()).unwrap();
        assert_eq!((bill.usage.cost_micro_usd, bill.usage.estimated, bill.requests), (28_800, false, 2));
        let begun = Tokens { input: 1_000, ..Tokens::default() };
        let killed = Tally { cut: vec![(ask(3), Some(begun))], ..Tally::default() };
        let bill = of(dir.path(), &killed, &Prices::default()).unwrap();
        assert_eq!((bill.usage.cost_micro_usd, bill.usage.estimated, bill.requests), (33_800, true, 3));
        assert_eq!(bill.usage.models[&model].input_tokens, 1_010);
        // What was cut and said nothing: everything sent was written, for an hour as it was asked: 1,000 x 10 $/M.
        let silent = Ask { input_bound: 1_000, for_an_hour: true, ..ask(4) };
        let killed = Tally { cut: vec![(silent, None)], ..Tally::default() };
        assert_eq!(
            of(dir.path(), &killed, &Prices::default()).unwrap().usage.cost_micro_usd,
            28_800 + 10_000
        );
        assert_eq!(
            of(Path::new("/nonexistent"), &Tally::default(), &Prices::default()).unwrap(),
            Bill::default()
        );
    }
}
