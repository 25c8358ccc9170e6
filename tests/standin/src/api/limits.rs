//! Knows token buckets: what a key has left for a class of models, when a request is refused and for how long, and the
//! headers that say so. Pure: the time is an argument. Refuses to know what a request is.

use std::collections::HashMap;
use std::time::Duration;

use super::setup::Limit;

/// The buckets of every key and class.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// When limits were set: buckets that nobody has used yet fill from then on.
    pub(super) since: Duration,
    of: HashMap<(u64, &'static str), [Bucket; 3]>,
}

/// The three that a key has for a class, as they are told.
const KINDS: [&str; 3] = ["requests", "input-tokens", "output-tokens"];

/// What is left, as of a time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Duration,
}

/// A limit as it bears on one bucket.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Amounts a minute.
    a_minute: f64,
    capacity: f64,
    first: f64,
}

impl Rule {
    fn of(limit: &Limit) -> [Option<Self>; 3] {
        let (minutes, first) = (limit.burst.as_secs_f64() / 60.0, limit.first.as_secs_f64() / 60.0);
        let rule = |rate: Option<u64>| {
            rate.map(|rate| Self {
                a_minute: rate as f64,
                capacity: (rate as f64 * minutes).max(1.0),
                first: rate as f64 * first,
            })
        };
        [rule(limit.rates.requests), rule(limit.rates.input), rule(limit.rates.output)]
    }

    /// How long until a bucket at `level` has `wanted`.
    fn wait(&self, level: f64, wanted: f64) -> Duration {
        let seconds = (wanted - level) * 60.0 / self.a_minute.max(1e-9);
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::from_secs(3_600))
    }
}

impl Buckets {
    /// Takes what a request with so much counted input needs, or says how long it must wait. A request that no full bucket
    /// would do for needs a full one. Output is taken when it was given ([`Buckets::gave`]); a request is refused while
    /// more was given than there was.
    pub(super) fn admit(
        &mut self,
        limit: &Limit,
        owner: (u64, &'static str),
        input: u64,
        now: Duration,
    ) -> Result<(), Duration> {
        let rules = Rule::of(limit);
        let buckets = self.filled(limit, owner, now);
        let taken = [1.0, input as f64, 0.0];
        let mut wait = Duration::ZERO;
        for ((rule, bucket), taken) in rules.iter().zip(&buckets).zip(taken) {
            if let Some(rule) = rule {
                wait = wait.max(rule.wait(bucket.level, taken.min(rule.capacity)));
            }
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        let all = self.of.entry(owner).or_insert(buckets);
        for (bucket, taken) in all.iter_mut().zip(taken) {
            bucket.level -= taken;
        }
        Ok(())
    }

    /// So many output tokens were given.
    pub(super) fn gave(&mut self, limit: &Limit, owner: (u64, &'static str), output: u64, now: Duration) {
        self.filled(limit, owner, now);
        if let Some(buckets) = self.of.get_mut(&owner) {
            buckets[2].level -= output as f64;
        }
    }

    /// Input tokens that are left.
    pub(super) fn input_left(
        &mut self,
        limit: &Limit,
        owner: (u64, &'static str),
        now: Duration,
    ) -> Option<i64> {
        let left = self.filled(limit, owner, now)[1].level;
        limit.rates.input.map(|_| left as i64)
    }

    /// The buckets as they are now.
    fn filled(&mut self, limit: &Limit, owner: (u64, &'static str), now: Duration) -> [Bucket; 3] {
        let rules = Rule::of(limit);
        let first =
            rules.map(|rule| Bucket { level: rule.map_or(0.0, |rule| rule.first), at: self.since.min(now) });
        let buckets = self.of.entry(owner).or_insert(first);
        for (rule, bucket) in rules.iter().zip(buckets.iter_mut()) {
            let minutes = now.saturating_sub(bucket.at).as_secs_f64() / 60.0;
            if let Some(rule) = rule {
                bucket.level = (bucket.level + minutes * rule.a_minute).min(rule.capacity);
            }
            bucket.at = now;
        }
        *buckets
    }

    /// What is told with every answer; `wall` is the time of day at `now`.
    pub(super) fn headers(
        &mut self,
        limit: &Limit,
        owner: (u64, &'static str),
        now: Duration,
        wall: jiff::Timestamp,
    ) -> Vec<(String, String)> {
        if !limit.headers {
            return Vec::new();
        }
        let buckets = self.filled(limit, owner, now);
        let mut told = Vec::new();
        for (at, ((kind, rule), bucket)) in KINDS.iter().zip(Rule::of(limit)).zip(buckets).enumerate() {
            let Some(rule) = rule else { continue };
            let unit = if at == 0 { 1 } else { limit.rounded_to.max(1) };
            let left = (bucket.level.max(0.0) as u64 + unit / 2) / unit * unit;
            let full = rule.wait(bucket.level, rule.capacity);
            let reset = wall.checked_add(jiff::SignedDuration::try_from(full).unwrap_or_default());
            let name = |what: &str| format!("anthropic-ratelimit-{kind}-{what}");
            told.push((name("limit"), (rule.a_minute as u64).to_string()));
            told.push((name("remaining"), left.to_string()));
            told.push((name("reset"), reset.unwrap_or(wall).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Buckets;
    use crate::api::setup::{Limit, Rates};

    const ME: (u64, &str) = (1, "opus");

    fn limit(requests: u64, input: u64, output: u64) -> Limit {
        let rates = Rates { requests: Some(requests), input: Some(input), output: Some(output) };
        Limit::of("north", rates)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_bucket_holds_a_minute_and_fills_evenly() {
        let (mut buckets, limit) = (Buckets::default(), limit(60, 1_000_000, 1_000_000));
        for _ in 0..60 {
            assert_eq!(buckets.admit(&limit, ME, 1, at(0)), Ok(()));
        }
        assert_eq!(buckets.admit(&limit, ME, 1, at(0)), Err(at(1)));
        assert_eq!(buckets.admit(&limit, (2, "opus"), 1, at(0)), Ok(()), "another key");
        assert_eq!(buckets.admit(&limit, (1, "haiku"), 1, at(0)), Ok(()), "another class");
        assert_eq!(buckets.admit(&limit, ME, 1, at(1)), Ok(()));
        assert!(buckets.admit(&limit, ME, 1, at(1)).is_err());
    }

    #[test]
    fn input_is_taken_at_once_and_output_when_it_was_given() {
        let (mut buckets, limit) = (Buckets::default(), limit(1_000, 6_000, 600));
        assert_eq!(buckets.admit(&limit, ME, 4_000, at(0)), Ok(()));
        assert_eq!(buckets.admit(&limit, ME, 4_000, at(0)), Err(at(20)));
        buckets.gave(&limit, ME, 900, at(0));
        assert_eq!(buckets.admit(&limit, ME, 1, at(0)), Err(at(30)), "300 more than there were");
        assert_eq!(buckets.admit(&limit, ME, 1, at(30)), Ok(()));
        assert_eq!(
            buckets.admit(&limit, ME, 9_000, at(60)),
            Ok(()),
            "more than a full bucket needs a full one"
        );
    }

    #[test]
    fn a_bucket_nobody_has_used_fills_since_limits_were_set() {
        let mut buckets = Buckets { since: at(10), ..Buckets::default() };
        let limit = Limit { first: Duration::ZERO, ..limit(60, 600, 600) };
        assert_eq!(buckets.input_left(&limit, ME, at(12)), Some(20));
        assert_eq!(buckets.admit(&limit, ME, 20, at(12)), Ok(()));
        assert_eq!(buckets.input_left(&limit, ME, at(12)), Some(0));
    }

    #[test]
    fn headers_tell_the_rate_what_is_left_in_thousands_and_when_it_is_full() {
        let (mut buckets, limit) = (Buckets::default(), limit(60, 60_000, 6_000));
        buckets.admit(&limit, ME, 10_400, at(0)).unwrap();
        let wall = "2026-11-21T10:00:00Z".parse().unwrap();
        let told = buckets.headers(&limit, ME, at(0), wall);
        let value =
            |name: &str| told.iter().find(|(key, _)| key.ends_with(name)).map(|(_, value)| value.as_str());
        assert_eq!(value("requests-remaining"), Some("59"));
        assert_eq!(value("input-tokens-limit"), Some("60000"));
        assert_eq!(value("input-tokens-remaining"), Some("50000"));
        assert_eq!(value("input-tokens-reset"), Some("2026-11-21T10:00:10Z"));
        let silent = Limit { headers: false, ..limit };
        assert!(buckets.headers(&silent, ME, at(0), wall).is_empty());
    }
}
