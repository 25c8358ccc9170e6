//! What one CLI process has cost. The figures of a `result` are cumulative within the process, so the last
//! one is the bill; what came after it is estimated from message ids seen since. A resumed conversation is a
//! new process and starts at nothing. Knows list prices roughly, for estimates only.

use std::collections::BTreeMap;

use super::super::{ModelUsage, Usage};
use super::event::{Assistant, ResultLine};

/// Bytes of text that make a token, on the safe side.
const BYTES_PER_TOKEN: u64 = 3;

/// The bill of one process.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    billed: Option<(u64, BTreeMap<String, ModelUsage>)>,
    /// Messages since the last bill, by message id.
    since: BTreeMap<String, Unbilled>,
    /// What they cost and how many tokens they have, kept up to date: both are asked for with every event.
    since_micro_usd: u64,
    since_tokens: u64,
    /// Some message read from the cache or wrote to it.
    cached: bool,
    /// The dearest message so far.
    dearest_micro_usd: u64,
}

#[derive(Debug, Clone, Default)]
struct Unbilled {
    model: String,
    usage: ModelUsage,
    written: u64,
}

impl Ledger {
    /// Notes a block of a message. Blocks of one message share its id and its tokens.
    pub fn message(&mut self, said: &Assistant) {
        if said.synthetic || said.message_id.is_empty() {
            return;
        }
        let entry = self.since.entry(said.message_id.clone()).or_default();
        let before = entry.estimate();
        entry.model.clone_from(&said.model);
        entry.usage = said.usage;
        entry.written = entry.written.saturating_add(said.written);
        let after = entry.estimate();
        let replaced = |sum: u64, before: u64, after: u64| sum.saturating_sub(before).saturating_add(after);
        self.since_micro_usd = replaced(self.since_micro_usd, before.cost_micro_usd, after.cost_micro_usd);
        self.since_tokens = replaced(self.since_tokens, tokens(&before), tokens(&after));
        self.dearest_micro_usd = self.dearest_micro_usd.max(after.cost_micro_usd);
        self.cached |= after.cache_read_tokens > 0 || after.cache_write_tokens > 0;
    }

    /// Notes a bill. One without figures, as from a CLI that could not start its turn, bills nothing new.
    pub fn result(&mut self, result: &ResultLine) {
        if let Some(cost) = result.cost_micro_usd {
            self.billed = Some((cost, result.models.clone()));
            self.since.clear();
            self.since_micro_usd = 0;
            self.since_tokens = 0;
        }
    }

    /// Whether a bill tells of everything that was seen.
    #[must_use]
    pub fn is_billed(&self) -> bool {
        self.billed.is_some() && self.since.is_empty()
    }

    /// Whether some answer was read from the prompt cache or written to it.
    #[must_use]
    pub const fn has_cached(&self) -> bool {
        self.cached
    }

    /// Tokens of every kind so far, estimated where there is no bill yet.
    #[must_use]
    pub fn spent_tokens(&self) -> u64 {
        let billed = self.billed.iter().flat_map(|(_, models)| models.values()).map(tokens);
        billed.fold(self.since_tokens, u64::saturating_add)
    }

    /// What was spent so far, in millionths of a US dollar, estimated where there is no bill yet.
    #[must_use]
    pub fn spent_micro_usd(&self) -> u64 {
        self.billed.as_ref().map_or(0, |(cost, _)| *cost).saturating_add(self.since_micro_usd)
    }

    /// Whether so much more than `budget` was spent that the CLI cannot have kept it: it may overshoot by one call, and
    /// an estimate may be a quarter too high.
    #[must_use]
    pub fn is_far_beyond(&self, budget_micro_usd: u64) -> bool {
        let tolerated = budget_micro_usd.saturating_add(budget_micro_usd / 4);
        self.spent_micro_usd() > tolerated.saturating_add(self.dearest_micro_usd)
    }

    /// The total. `open` says that a turn was going on at the end, which may have cost what nobody saw.
    #[must_use]
    pub fn total(&self, open: bool) -> Usage {
        let (mut cost_micro_usd, mut models) = self.billed.clone().unwrap_or_default();
        for unbilled in self.since.values() {
            let usage = unbilled.estimate();
            cost_micro_usd = cost_micro_usd.saturating_add(usage.cost_micro_usd);
            add(models.entry(unbilled.model.clone()).or_default(), &usage);
        }
        Usage { models, cost_micro_usd, estimated: open || !self.since.is_empty() }
    }
}

impl Unbilled {
    fn estimate(&self) -> ModelUsage {
        let mut usage = self.usage;
        usage.output_tokens = usage.output_tokens.max(self.written / BYTES_PER_TOKEN);
        usage.cost_micro_usd = list_price(&self.model, &usage);
        usage
    }
}

const fn tokens(usage: &ModelUsage) -> u64 {
    usage
        .input_tokens
        .saturating_add(usage.output_tokens)
        .saturating_add(usage.cache_read_tokens)
        .saturating_add(usage.cache_write_tokens)
}

fn add(sum: &mut ModelUsage, usage: &ModelUsage) {
    sum.input_tokens = sum.input_tokens.saturating_add(usage.input_tokens);
    sum.output_tokens = sum.output_tokens.saturating_add(usage.output_tokens);
    sum.cache_read_tokens = sum.cache_read_tokens.saturating_add(usage.cache_read_tokens);
    sum.cache_write_tokens = sum.cache_write_tokens.saturating_add(usage.cache_write_tokens);
    sum.cost_micro_usd = sum.cost_micro_usd.saturating_add(usage.cost_micro_usd);
}

/// Input and output price in US dollars per million tokens, which is millionths of a dollar per token. The
/// CLI prices names it does not know like Opus; so does this.
fn prices(model: &str) -> (u64, u64) {
    if model.contains("haiku") {
        (1, 5)
    } else if model.contains("sonnet") {
        (3, 15)
    } else if model.contains("fable") {
        (10, 50)
    } else {
        (5, 25)
    }
}

/// A cache write costs 1.25 and a cache read 0.1 of an input token.
fn list_price(model: &str, usage: &ModelUsage) -> u64 {
    let (input, output) = prices(model);
    let twentieths = usage
        .input_tokens
        .saturating_mul(20)
        .saturating_add(usage.cache_write_tokens.saturating_mul(25))
        .saturating_add(usage.cache_read_tokens.saturating_mul(2));
    (twentieths.saturating_mul(input) / 20).saturating_add(usage.output_tokens.saturating_mul(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(id: &str, model: &str, written: u64) -> Assistant {
        Assistant {
            message_id: id.to_owned(),
            model: model.to_owned(),
            written,
            usage: ModelUsage { input_tokens: 100, output_tokens: 1, ..ModelUsage::default() },
            ..Assistant::default()
        }
    }

    fn bill(cost: u64) -> ResultLine {
        ResultLine { cost_micro_usd: Some(cost), ..ResultLine::default() }
    }

    #[test]
    fn list_prices_are_those_the_cli_was_seen_to_use() {
        let cached = ModelUsage {
            input_tokens: 10,
            output_tokens: 50,
            cache_read_tokens: 30_000,
            cache_write_tokens: 2_000,
            cost_micro_usd: 0,
        };
        assert_eq!(list_price("claude-opus-4-8[1m]", &cached), 28_800);
        let small = ModelUsage { input_tokens: 100, output_tokens: 20, ..ModelUsage::default() };
        for (model, cost) in [
            ("claude-sonnet-5", 600),
            ("claude-haiku-4-5-20251001", 200),
            ("claude-fable-5", 2_000),
            ("my-custom-model", 1_000),
        ] {
            assert_eq!(list_price(model, &small), cost, "{model}");
        }
    }

    #[test]
    fn the_last_bill_counts_and_earlier_ones_are_in_it() {
        let mut ledger = Ledger::default();
        ledger.message(&block("a", "claude-sonnet-5", 30));
        ledger.result(&bill(1_000));
        ledger.message(&block("b", "claude-sonnet-5", 30));
        ledger.result(&bill(2_500));
        assert_eq!(ledger.total(false), Usage { cost_micro_usd: 2_500, ..Usage::default() });
    }

    #[test]
    fn without_a_bill_each_message_is_estimated_once() {
        let mut ledger = Ledger::default();
        ledger.message(&block("a", "claude-sonnet-5", 30));
        ledger.message(&block("a", "claude-sonnet-5", 60));
        ledger.message(&block("b", "claude-haiku-4-5", 0));
        let total = ledger.total(true);
        assert!(total.estimated);
        assert_eq!(total.models["claude-sonnet-5"].output_tokens, 30);
        assert_eq!(total.cost_micro_usd, (300 + 30 * 15) + (100 + 5));
    }

    #[test]
    fn what_came_after_the_last_bill_is_added_and_marked() {
        let mut ledger = Ledger::default();
        ledger.result(&bill(1_000));
        ledger.message(&block("b", "claude-haiku-4-5", 0));
        assert_eq!((ledger.total(false).cost_micro_usd, ledger.total(false).estimated), (1_105, true));
    }

    #[test]
    fn the_running_sum_is_the_total() {
        let mut ledger = Ledger::default();
        ledger.result(&bill(1_000));
        for (id, written) in [("a", 30), ("b", 0), ("a", 600), ("c", 9_000)] {
            ledger.message(&block(id, "claude-sonnet-5", written));
            let total = ledger.total(false);
            assert_eq!(ledger.spent_micro_usd(), total.cost_micro_usd, "{id}");
            assert_eq!(ledger.spent_tokens(), total.models.values().map(tokens).sum::<u64>(), "{id}");
            assert!(!ledger.is_billed() && !ledger.has_cached());
        }
        ledger.result(&bill(50_000));
        assert_eq!((ledger.spent_micro_usd(), ledger.spent_tokens(), ledger.is_billed()), (50_000, 0, true));
    }

    #[test]
    fn a_budget_is_far_exceeded_only_beyond_its_tolerance_and_one_call() {
        let mut ledger = Ledger::default();
        for (id, far) in [("a", false), ("b", false), ("c", false), ("d", true)] {
            // 315 millionths each.
            ledger.message(&block(id, "claude-sonnet-5", 0));
            assert_eq!(ledger.is_far_beyond(600), far, "{id}");
        }
        assert!(!Ledger::default().is_far_beyond(0));
    }

    #[test]
    fn a_turn_that_was_cut_off_before_any_message_is_marked() {
        assert!(Ledger::default().total(true).estimated);
        assert!(!Ledger::default().total(false).estimated);
    }
}
