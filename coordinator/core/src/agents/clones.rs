//! Two processes that use one identity push each other off the stream again and again. Found out here.
//! Knows incarnations and ticks only.

use crate::time::{Span, Tick};
use std::collections::VecDeque;

/// Times one pair may displace each other within the window.
const DISPLACEMENTS: usize = 3;

/// Who pushed whom off, lately.
///
/// Only a pair that displaces each other counts: an agent that restarts often has a new incarnation each time.
#[derive(Debug, Default, Hash)]
pub(crate) struct Clones {
    /// The pair, smaller first, oldest displacement first.
    recent: VecDeque<(Tick, [u8; 16], [u8; 16])>,
    refused_until: Tick,
}

impl Clones {
    /// Notes that `new` pushed `old` off. True when both must go.
    pub(crate) fn displaced(&mut self, old: [u8; 16], new: [u8; 16], now: Tick, window: Span) -> bool {
        if old == new {
            return false;
        }
        let pair = (old.min(new), old.max(new));
        self.recent.retain(|(at, _, _)| *at + window > now);
        self.recent.push_back((now, pair.0, pair.1));
        let often = self.recent.iter().filter(|(_, low, high)| (*low, *high) == pair).count();
        if often < DISPLACEMENTS {
            return false;
        }
        self.recent.clear();
        self.refused_until = now + window;
        true
    }

    /// Whether nobody of that identity may join yet.
    pub(crate) fn refuses(&self, now: Tick) -> bool {
        now < self.refused_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Span = Span::seconds(60);

    fn at(seconds: u64) -> Tick {
        Tick(0) + Span::seconds(seconds)
    }

    #[test]
    fn a_pair_that_displaces_each_other_three_times_in_a_minute_is_refused_for_a_minute() {
        let mut clones = Clones::default();
        assert!(!clones.displaced([1; 16], [2; 16], at(1), WINDOW));
        assert!(!clones.displaced([2; 16], [1; 16], at(2), WINDOW));
        assert!(clones.displaced([1; 16], [2; 16], at(3), WINDOW));
        assert!(clones.refuses(at(62)));
        assert!(!clones.refuses(at(63)));
    }

    #[test]
    fn restarts_and_reconnects_are_no_clones() {
        let mut clones = Clones::default();
        assert!((1..9).all(|n| !clones.displaced([n; 16], [n + 1; 16], at(u64::from(n)), WINDOW)));
        assert!((1..9).all(|n| !clones.displaced([1; 16], [1; 16], at(n), WINDOW)));
    }

    #[test]
    fn slow_changes_are_no_clones() {
        let mut clones = Clones::default();
        assert!((0..9).all(|n| !clones.displaced([1; 16], [2; 16], at(n * 40), WINDOW)));
    }
}
