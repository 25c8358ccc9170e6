//! How much requests of one meter turn out to take, so that not too much is set aside for the next. Knows averages;
//! refuses to know limits. Pure.

use super::amounts::Amounts;
use crate::gateway::wire::{Ask, Tokens};

/// Tokens of a request for each of the bound by its length, before any was seen: no more than the bound.
const FIRST_RATIO: f64 = 1.0;
/// Output tokens of a request, before any was seen.
const FIRST_OUTPUT: f64 = 1_000.0;
/// Weight of what was seen last.
const WEIGHT: f64 = 0.1;
/// Deviations above the average that are set aside: what is missed has to be asked for afterwards.
const DEVIATIONS: f64 = 2.0;

/// An average and how far what is seen lies from it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Average {
    mean: f64,
    deviation: f64,
    seen: bool,
}

impl Average {
    const fn beginning_at(mean: f64) -> Self {
        Self { mean, deviation: 0.0, seen: false }
    }

    fn see(&mut self, value: f64) {
        if self.seen {
            let away = (value - self.mean).abs();
            self.mean += (value - self.mean) * WEIGHT;
            self.deviation += (away - self.deviation) * WEIGHT;
        } else {
            // One says little of the next.
            *self = Self { mean: value, deviation: value / 4.0, seen: true };
        }
    }

    fn upper(&self) -> f64 {
        self.mean + DEVIATIONS * self.deviation
    }
}

/// What was learned of one meter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    ratio: Average,
    output: Average,
}

impl Default for Learned {
    fn default() -> Self {
        Self { ratio: Average::beginning_at(FIRST_RATIO), output: Average::beginning_at(FIRST_OUTPUT) }
    }
}

impl Learned {
    /// What is to be set aside for a request. Its share that was likely read from the cache is free.
    #[must_use]
    pub fn need(&self, ask: &Ask) -> Amounts {
        let bound = ask.input_bound.saturating_sub(ask.likely_cached);
        Amounts {
            requests: 1,
            input: part(bound, self.ratio.upper().min(1.0)),
            output: whole(self.output.upper()).min(ask.output_bound.max(1)),
            concurrent: 1,
        }
    }

    /// Input tokens a request had, of every kind.
    pub fn had_input(&mut self, ask: &Ask, tokens: Tokens) {
        let all = tokens.input + tokens.cache_read + tokens.cache_write;
        if ask.input_bound > 0 && all > 0 {
            self.ratio.see(float(all) / float(ask.input_bound));
        }
    }

    /// Output tokens a request had.
    pub fn had_output(&mut self, output: u64) {
        if output > 0 {
            self.output.see(float(output));
        }
    }
}

/// What the API counts of an answer against the rate of input.
#[must_use]
pub const fn counted_input(tokens: Tokens) -> u64 {
    tokens.input.saturating_add(tokens.cache_write)
}

fn part(of: u64, ratio: f64) -> u64 {
    whole(float(of) * ratio)
}

const fn float(value: u64) -> f64 {
    value as f64
}

fn whole(value: f64) -> u64 {
    value.ceil().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(input_bound: u64, likely_cached: u64, output_bound: u64) -> Ask {
        Ask { request: 1, input_bound, likely_cached, output_bound, ..Ask::default() }
    }

    #[test]
    fn what_is_set_aside_comes_to_lie_little_above_what_is_taken() {
        let mut learned = Learned::default();
        assert_eq!(learned.need(&ask(10_000, 0, 32_000)).input, 10_000);
        for _ in 0..50 {
            learned.had_input(
                &ask(10_000, 0, 0),
                Tokens { input: 2_000, cache_write: 500, ..Tokens::default() },
            );
            learned.had_output(300);
        }
        let need = learned.need(&ask(10_000, 0, 32_000));
        assert!((2_500..2_700).contains(&need.input), "{need:?}");
        assert!((300..330).contains(&need.output), "{need:?}");
        assert!(learned.need(&ask(10_000, 8_000, 32_000)).input < 600, "the cache is free");
        assert_eq!(learned.need(&ask(10_000, 0, 64)).output, 64, "never above what it may write");
        for _ in 0..20 {
            learned.had_output(6_000);
        }
        assert!(learned.need(&ask(10_000, 0, 32_000)).output > 6_000);
    }
}
