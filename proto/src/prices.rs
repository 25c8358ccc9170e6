//! List prices of models, dated, and the class of models that share a rate limit.
//! Knows names and numbers; who pays, and what a request costs in the end, is known elsewhere: the CLI's own figures
//! hold where a result was seen.

use crate::v1::{ModelPrice, ModelUsage};

/// A web search that a model makes at the API's side, in millionths of a US dollar. Reports do not count them: they are
/// in the money that the CLI names, and in no token.
pub const WEB_SEARCH_MICRO_USD: u64 = 10_000;

/// The day of which the built-in list is.
pub const PRICES_AS_OF: &str = "2026-11-20";

/// Built-in rows: beginning of the name, class, and millionths of a US dollar for a million tokens of input, output,
/// cache read, cache write. The empty beginning is what the CLI takes for names it does not know. A test compares every
/// row with what the CLI itself reckoned.
const BUILT_IN: [(&str, &str, u64, u64, u64, u64); 7] = [
    ("claude-fable", "fable", 10_000_000, 50_000_000, 1_000_000, 12_500_000),
    ("claude-opus", "opus", 5_000_000, 25_000_000, 500_000, 6_250_000),
    ("claude-sonnet", "sonnet", 3_000_000, 15_000_000, 300_000, 3_750_000),
    ("claude-haiku", "haiku", 1_000_000, 5_000_000, 100_000, 1_250_000),
    ("claude-3-5-haiku", "haiku", 800_000, 4_000_000, 80_000, 1_000_000),
    ("claude-3-5-sonnet", "sonnet", 3_000_000, 15_000_000, 300_000, 3_750_000),
    ("", "other", 5_000_000, 25_000_000, 500_000, 6_250_000),
];

/// A price list.
#[derive(Debug, Clone, PartialEq)]
pub struct Prices {
    rows: Vec<ModelPrice>,
}

impl Default for Prices {
    fn default() -> Self {
        let rows =
            BUILT_IN.iter().map(|(prefix, class, input, output, cache_read, cache_write)| ModelPrice {
                prefix: (*prefix).to_owned(),
                model_class: (*class).to_owned(),
                input: *input,
                output: *output,
                cache_read: *cache_read,
                cache_write: *cache_write,
            });
        Self { rows: rows.collect() }
    }
}

impl Prices {
    /// A list of these rows; what none of them fits has the built-in prices.
    #[must_use]
    pub fn new(mut rows: Vec<ModelPrice>) -> Self {
        let built_in = Self::default().rows;
        rows.extend(built_in.into_iter().filter(|row| !row.prefix.is_empty()));
        rows.extend(Self::default().rows.into_iter().filter(|row| row.prefix.is_empty()));
        Self { rows }
    }

    /// The rows, as they are sent to agents.
    #[must_use]
    pub fn rows(&self) -> &[ModelPrice] {
        &self.rows
    }

    /// The row of a model: the longest beginning that fits, the first of equals.
    #[must_use]
    pub fn of(&self, model: &str) -> &ModelPrice {
        let fits = self.rows.iter().filter(|row| model.starts_with(&row.prefix));
        // `max_by_key` gives the last of equals, and what was added comes first.
        let best = fits.rev().max_by_key(|row| row.prefix.len());
        best.unwrap_or(&self.rows[0])
    }

    /// The class of a model, for limits. The alias `opus` is of the same class as `claude-opus-4-8[1m]`.
    #[must_use]
    pub fn class_of<'a>(&'a self, model: &'a str) -> &'a str {
        let alias = self.rows.iter().find(|row| row.model_class == model);
        alias.map_or_else(|| self.of(model).model_class.as_str(), |row| row.model_class.as_str())
    }

    /// What so many tokens cost at list price, in millionths of a US dollar, rounded to the nearest. What was written to
    /// the cache is taken to live there for 5 minutes.
    #[must_use]
    pub fn cost(&self, usage: &ModelUsage) -> u64 {
        self.cost_with(usage, 0)
    }

    /// The same, where `for_an_hour` of the tokens written to the cache live there for an hour, as those of a
    /// subscription login do: they cost twice the input, not input and a quarter.
    #[must_use]
    pub fn cost_with(&self, usage: &ModelUsage, for_an_hour: u64) -> u64 {
        let row = self.of(&usage.model);
        let for_an_hour = for_an_hour.min(usage.cache_write_tokens);
        // Twice the input is 8/5 of input and a quarter.
        let long = u128::from(for_an_hour) * u128::from(row.cache_write) * 8 / 5;
        let parts = [
            (usage.input_tokens, row.input),
            (usage.output_tokens, row.output),
            (usage.cache_read_tokens, row.cache_read),
            (usage.cache_write_tokens - for_an_hour, row.cache_write),
        ];
        let sum: u128 = parts.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(*price)).sum();
        u64::try_from((sum + long + 500_000) / 1_000_000).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cli_said_of_cached_tokens_is_what_they_cost_here() {
        let usage = ModelUsage {
            model: "claude-opus-4-8[1m]".to_owned(),
            input_tokens: 10,
            output_tokens: 50,
            cache_read_tokens: 30_000,
            cache_write_tokens: 2_000,
            cost_micro_usd: 0,
        };
        assert_eq!(Prices::default().cost(&usage), 28_800);
    }

    #[test]
    fn the_longest_beginning_counts_and_unknown_names_have_a_price() {
        let dear = ModelPrice { prefix: "claude-opus-9".to_owned(), input: 9, ..ModelPrice::default() };
        let prices = Prices::new(vec![dear]);
        assert_eq!(prices.of("claude-opus-9-1").input, 9);
        assert_eq!(prices.of("claude-opus-4-8").input, 5_000_000);
        assert_eq!(prices.of("somebody-elses").model_class, "other");
        assert_eq!(prices.class_of("sonnet"), "sonnet");
        assert_eq!(prices.class_of("claude-sonnet-5"), "sonnet");
    }

    /// A row of `prices/observed.tsv`.
    struct Observed {
        usage: ModelUsage,
        for_an_hour: u64,
        searches: u64,
        micro_usd: f64,
    }

    fn observed() -> Vec<Observed> {
        let lines = include_str!("prices/observed.tsv").lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let fields: Vec<_> = line.split('\t').collect();
                let [model, counts @ .., usd] = fields.as_slice() else { panic!("{line}") };
                let counts: Vec<u64> = counts.iter().map(|count| count.parse().unwrap()).collect();
                let [input_tokens, output_tokens, cache_read_tokens, short, for_an_hour, searches] =
                    counts[..]
                else {
                    panic!("{line}")
                };
                let usage = ModelUsage {
                    model: (*model).to_owned(),
                    input_tokens,
                    output_tokens,
                    cache_read_tokens,
                    cache_write_tokens: short + for_an_hour,
                    cost_micro_usd: 0,
                };
                Observed { usage, for_an_hour, searches, micro_usd: usd.parse::<f64>().unwrap() * 1e6 }
            })
            .collect()
    }

    #[test]
    fn a_dated_price_list_says_what_the_cli_reckoned() {
        let prices = Prices::default();
        for row in observed() {
            let ours = prices.cost_with(&row.usage, row.for_an_hour) + row.searches * WEB_SEARCH_MICRO_USD;
            assert!(
                (ours as f64 - row.micro_usd).abs() <= 0.51,
                "{:?}: {ours}, {}",
                row.usage,
                row.micro_usd
            );
        }
    }

    #[test]
    fn every_built_in_row_was_compared_with_the_cli_cache_included() {
        let prices = Prices::default();
        for row in prices.rows() {
            let compared = observed().into_iter().filter(|seen| prices.of(&seen.usage.model) == row);
            let cached =
                compared.filter(|seen| seen.usage.cache_read_tokens > 0 && seen.usage.cache_write_tokens > 0);
            assert!(cached.count() > 0, "{}", row.prefix);
        }
    }
}
