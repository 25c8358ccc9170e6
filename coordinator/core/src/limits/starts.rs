//! How many attempts of a pool may be started a minute: evenly, with a twelfth of a minute's at once at most.
//! Knows times; refuses to know what is started.

use crate::time::Tick;

const MINUTE_MICROS: u64 = 60_000_000;
/// Part of a minute's starts that may come at once, as a divisor.
const AT_ONCE: u64 = 12;

/// The pace of starts of a pool.
#[derive(Debug, Default, Hash)]
pub(crate) struct Starts {
    limit: Option<u32>,
    /// When the latest one would have come if all came evenly, in microseconds.
    evenly: u64,
}

impl Starts {
    /// Another limit a minute, or none.
    pub(crate) fn limit(&mut self, limit: Option<u32>) {
        self.limit = limit.map(|limit| limit.max(1));
    }

    fn gap(limit: u32) -> u64 {
        MINUTE_MICROS.div_ceil(u64::from(limit))
    }

    /// When another may be started, if not now.
    pub(crate) fn wait(&self, now: Tick) -> Option<Tick> {
        let limit = self.limit?;
        let ahead = Self::gap(limit).saturating_mul((u64::from(limit) / AT_ONCE).max(1) - 1);
        let from = Tick(self.evenly.saturating_sub(ahead).div_ceil(1_000));
        (from > now).then_some(from)
    }

    /// One was started.
    pub(crate) fn note(&mut self, now: Tick) {
        if let Some(limit) = self.limit {
            self.evenly = self.evenly.max(now.0.saturating_mul(1_000)).saturating_add(Self::gap(limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_come_at_once_and_no_more_a_minute_than_it_says() {
        let mut starts = Starts::default();
        assert_eq!(starts.wait(Tick(0)), None);
        starts.limit(Some(60));
        let (mut now, mut times) = (Tick(1_000_000), Vec::new());
        while times.len() < 65 {
            match starts.wait(now) {
                None => {
                    starts.note(now);
                    times.push(now.0);
                }
                Some(at) => now = at,
            }
        }
        let at_once = times.iter().filter(|at| **at == times[0]).count();
        assert_eq!(at_once, 5);
        assert!(times[64] - times[0] >= 60_000, "{}", times[64] - times[0]);
    }
}
