//! When to dial again: full jitter over a doubling limit. The one module that knows the `backoff` crate.
//! Knows no socket; randomness comes from a seed.

use backoff::backoff::Backoff;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::time::Duration;

/// First limit.
const BASE: Duration = Duration::from_secs(1);
/// Largest limit.
const CAP: Duration = Duration::from_secs(60);
/// Largest limit while an attempt is held that the coordinator would soon give to somebody else.
const CAP_WHILE_HOLDING: Duration = Duration::from_secs(5);
/// A session that lived this long was healthy: the next failure starts from the base again.
pub const HEALTHY: Duration = Duration::from_secs(60);

/// Full jitter: a random time below a limit that doubles with every failure.
#[derive(Debug)]
pub struct FullJitter {
    rng: StdRng,
    limit: Duration,
    /// Whether the agent holds work that others wait for, and was not told to go away.
    pub holding: bool,
}

impl FullJitter {
    /// A policy whose randomness comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), limit: BASE, holding: false }
    }

    /// A random part of `spread`, for an agent that was told to come back later.
    pub fn part_of(&mut self, spread: Duration) -> Duration {
        self.rng.random_range(Duration::ZERO..=spread)
    }
}

impl Backoff for FullJitter {
    fn next_backoff(&mut self) -> Option<Duration> {
        let cap = if self.holding { CAP_WHILE_HOLDING } else { CAP };
        let limit = self.limit.min(cap);
        self.limit = (self.limit * 2).min(CAP);
        Some(self.part_of(limit))
    }

    fn reset(&mut self) {
        self.limit = BASE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(policy: &mut FullJitter, count: usize) -> Vec<Duration> {
        (0..count).filter_map(|_| policy.next_backoff()).collect()
    }

    #[test]
    fn waits_grow_to_the_cap_and_never_past_it() {
        let mut policy = FullJitter::new(1);
        for (at, wait) in waits(&mut policy, 50).into_iter().enumerate() {
            let limit = (BASE * 2_u32.saturating_pow(u32::try_from(at).unwrap().min(10))).min(CAP);
            assert!(wait <= limit, "{at}: {wait:?} above {limit:?}");
        }
        let mut later = waits(&mut policy, 200);
        later.sort();
        assert!(later[150] > Duration::from_secs(30), "the jitter uses the whole range");
        policy.reset();
        assert!(policy.next_backoff().unwrap() <= BASE);
    }

    #[test]
    fn an_agent_that_holds_work_comes_back_within_seconds() {
        let mut policy = FullJitter::new(2);
        policy.holding = true;
        assert!(waits(&mut policy, 100).into_iter().all(|wait| wait <= CAP_WHILE_HOLDING));
    }

    #[test]
    fn two_agents_do_not_march_in_step() {
        assert_ne!(waits(&mut FullJitter::new(3), 5), waits(&mut FullJitter::new(4), 5));
    }
}
