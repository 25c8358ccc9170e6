//! How long a request is in tokens at most, by its length; how much of it the API likely has in its cache, because it was
//! sent lately; and what it likely took where nobody saw. What counts comes with the answer. A bound is the same for the
//! same length, so that whoever reserves can learn how far answers stay below it.
//! Knows lengths and hashes; refuses to know texts.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::question::{Beginning, Question};
use super::wire::Tokens;

/// Bytes of one token at least: English and code have three to five, dense texts two.
const FEWEST_BYTES_OF_TOKEN: u64 = 2;

/// What the API adds to every request, in tokens.
const FIXED: u64 = 64;

/// Shorter ones say nothing about the next one's ratio.
const TELLING_WEIGHT: u64 = 1_000;

/// The API keeps a beginning for five minutes after its last use.
const KEPT: Duration = Duration::from_secs(270);

/// Most beginnings remembered: conversations of an attempt and its sub-agents, a few each.
const MOST_BEGINNINGS: usize = 256;

/// Tokens per 1,000,000 bytes, and output of the answers so far.
#[derive(Debug, Clone, Copy, Default)]
struct Learned {
    per_million: u64,
    answers: u64,
    output: u64,
}

/// What answers taught.
#[derive(Debug, Default)]
pub struct Warmth {
    models: BTreeMap<String, Learned>,
    sent: VecDeque<(Beginning, Instant)>,
}

impl Warmth {
    /// Most input tokens of a request.
    #[must_use]
    pub const fn bound(question: &Question) -> u64 {
        (question.weight / FEWEST_BYTES_OF_TOKEN).saturating_add(FIXED)
    }

    /// How much of [its bound](Self::bound) the cache likely holds.
    #[must_use]
    pub fn likely_cached(&self, question: &Question, now: Instant) -> u64 {
        if !question.caches {
            return 0;
        }
        let is_kept = |beginning: &&Beginning| {
            let mut sent = self.sent.iter();
            sent.any(|(known, at)| known.hash == beginning.hash && now.duration_since(*at) < KEPT)
        };
        let longest = question.beginnings.iter().rev().find(is_kept);
        longest.map_or(0, |beginning| beginning.weight / FEWEST_BYTES_OF_TOKEN)
    }

    /// Input and output that a request likely had whose answer nobody saw.
    #[must_use]
    pub fn guess(&self, question: &Question) -> Tokens {
        let learned = self.models.get(&question.model).copied().unwrap_or_default();
        let input = match learned.per_million {
            0 => question.weight / (2 * FEWEST_BYTES_OF_TOKEN),
            per_million => scaled(question.weight, per_million),
        };
        let output = learned.output.checked_div(learned.answers).unwrap_or_default();
        Tokens { input, output: output.min(question.max_tokens), ..Tokens::default() }
    }

    /// The input of a request became known.
    pub fn began(&mut self, question: &Question, tokens: Tokens, now: Instant) {
        let input = tokens.input.saturating_add(tokens.cache_read).saturating_add(tokens.cache_write);
        let learned = self.models.entry(question.model.clone()).or_default();
        if question.weight >= TELLING_WEIGHT && input > 0 {
            let told = u64::try_from(u128::from(input) * 1_000_000 / u128::from(question.weight));
            // A dense text is followed by more of its kind; it is forgotten slowly.
            let faded = learned.per_million - learned.per_million / 16;
            learned.per_million = told.unwrap_or(u64::MAX).max(faded);
        }
        let is_kept = question.caches && tokens.cache_read + tokens.cache_write > 0;
        if let Some(whole) = question.beginnings.last().filter(|_| is_kept) {
            self.sent.retain(|(known, at)| known.hash != whole.hash && now.duration_since(*at) < KEPT);
            if self.sent.len() >= MOST_BEGINNINGS {
                self.sent.pop_front();
            }
            self.sent.push_back((*whole, now));
        }
    }

    /// The output of a request became known.
    pub fn ended(&mut self, model: &str, output: u64) {
        let learned = self.models.entry(model.to_owned()).or_default();
        learned.answers += 1;
        learned.output = learned.output.saturating_add(output);
    }
}

fn scaled(weight: u64, per_million: u64) -> u64 {
    let tokens = (u128::from(weight) * u128::from(per_million)).div_ceil(1_000_000);
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(weight: u64, beginnings: &[(u64, u64)]) -> Question {
        let beginnings = beginnings.iter().map(|(hash, weight)| Beginning { hash: *hash, weight: *weight });
        Question {
            model: "m".to_owned(),
            weight,
            max_tokens: 1_000,
            beginnings: beginnings.collect(),
            caches: true,
            ..Question::default()
        }
    }

    fn input(input: u64) -> Tokens {
        Tokens { input, ..Tokens::default() }
    }

    #[test]
    fn what_was_sent_lately_and_kept_is_likely_cached() {
        let (mut warmth, now) = (Warmth::default(), Instant::now());
        let first = question(8_000, &[(1, 6_000), (2, 8_000)]);
        assert_eq!((Warmth::bound(&first), warmth.likely_cached(&first, now)), (4_064, 0));
        let next = question(9_000, &[(1, 6_000), (2, 8_000), (3, 8_500), (4, 9_000)]);
        warmth.began(&first, input(2_000), now);
        assert_eq!(warmth.likely_cached(&next, now), 0, "nothing was written");
        warmth.began(&first, Tokens { cache_write: 1_900, ..input(100) }, now);
        assert_eq!((Warmth::bound(&next), warmth.likely_cached(&next, now)), (4_564, 4_000));
        assert_eq!(warmth.likely_cached(&next, now + KEPT), 0);
        assert_eq!(warmth.likely_cached(&Question { caches: false, ..next }, now), 0);
    }

    #[test]
    fn an_unseen_answer_is_guessed_from_those_that_were_seen() {
        let mut warmth = Warmth::default();
        assert_eq!(warmth.guess(&question(4_000, &[])), input(1_000));
        warmth.began(&question(4_000, &[]), input(2_000), Instant::now());
        warmth.ended("m", 100);
        warmth.ended("m", 300);
        assert_eq!(warmth.guess(&question(8_000, &[])), Tokens { output: 200, ..input(4_000) });
    }
}
