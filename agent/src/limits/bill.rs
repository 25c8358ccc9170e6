//! What an attempt has cost, by what its gateway counted: exact for every request whose end was seen, an estimate for the
//! rest. Knows the ledger in the attempt's directory and list prices; refuses to know what the CLI said.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use orch_proto::prices::Prices;

use super::desk::{Tally, cost};
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
        let guess = Tokens { cache_write: fresh, cache_read: ask.likely_cached, ..Tokens::default() };
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
    fn what_ended_is_exact_and_what_was_cut_is_marked_and_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let tokens = Tokens { input: 10, output: 50, cache_read: 30_000, cache_write: 2_000 };
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
        assert_eq!(
            of(Path::new("/nonexistent"), &Tally::default(), &Prices::default()).unwrap(),
            Bill::default()
        );
    }
}
