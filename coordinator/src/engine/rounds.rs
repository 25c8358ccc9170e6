//! Whether the engine went round as often as it means to.
//! A process that was stopped, or a host that slept, finds every deadline passed and what agents sent meanwhile unread:
//! the silence was its own. Knows when the engine looked last; refuses to know what follows.

use orch_core::time::{Span, Tick};

use super::pulse::LONGEST_SLEEP;

/// Deadlines of a large fleet lie close together: the engine is woken for several at once, at most this much late.
const TOGETHER: Span = Span(50);

/// The rounds of the engine.
#[derive(Debug)]
pub(super) struct Rounds {
    heartbeat: Span,
    looked: Tick,
    passed: Tick,
    inspected: Tick,
}

impl Rounds {
    /// The first round is now. Agents are heard every `heartbeat`.
    pub(super) const fn begin(now: Tick, heartbeat: Span) -> Self {
        Self { heartbeat, looked: now, passed: Tick(0), inspected: now }
    }

    /// When the next round is due, whatever else is. No deadline that an agent could have moved lies between this and a
    /// stall that passes it: each is several heartbeats off.
    pub(super) fn next(&self, now: Tick) -> Tick {
        now + self.longest()
    }

    /// When to wake for a deadline: at once, unless there was one a moment ago.
    pub(super) fn wake_for(&self, deadline: Tick) -> Tick {
        deadline.max(self.passed + TOGETHER.min(Span(self.heartbeat.0 / 100)))
    }

    /// What was due is done.
    pub(super) const fn passed(&mut self, now: Tick) {
        self.passed = now;
    }

    /// Goes round. The time since the last round, when this one is more than a heartbeat late.
    pub(super) fn go(&mut self, now: Tick) -> Option<Span> {
        let away = now - self.looked;
        self.looked = now;
        (away > Self::at_most(self.heartbeat)).then_some(away)
    }

    /// Whether it is time to look at every session: once a round, however often deadlines of many agents wake the engine.
    pub(super) fn inspects(&mut self, now: Tick) -> bool {
        let due = now - self.inspected >= self.longest();
        if due {
            self.inspected = now;
        }
        due
    }

    /// A round that takes longer than this was a stall.
    pub(super) fn at_most(heartbeat: Span) -> Span {
        Span(LONGEST_SLEEP.min(heartbeat).0.saturating_add(heartbeat.0))
    }

    fn longest(&self) -> Span {
        LONGEST_SLEEP.min(self.heartbeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_is_more_than_a_heartbeat_late_was_a_stall() {
        let mut rounds = Rounds::begin(Tick(1_000), Span(200));
        assert_eq!(rounds.next(Tick(1_000)), Tick(1_200));
        assert_eq!(rounds.go(Tick(1_200)), None);
        assert_eq!(rounds.go(Tick(1_600)), None, "a busy host");
        assert_eq!(rounds.go(Tick(2_001)), Some(Span(401)));
        assert_eq!(rounds.go(Tick(2_002)), None, "once");
    }

    #[test]
    fn deadlines_that_follow_each_other_closely_share_a_round() {
        let mut rounds = Rounds::begin(Tick(1_000), Span::seconds(5));
        assert_eq!(rounds.wake_for(Tick(1_010)), Tick(1_010));
        rounds.passed(Tick(1_010));
        assert_eq!(rounds.wake_for(Tick(1_011)), Tick(1_060));
        assert_eq!(rounds.wake_for(Tick(1_070)), Tick(1_070));
    }

    #[test]
    fn sessions_are_looked_at_once_a_round() {
        let mut rounds = Rounds::begin(Tick(1_000), Span(200));
        assert!(!rounds.inspects(Tick(1_199)));
        assert!(rounds.inspects(Tick(1_200)));
        assert!(!rounds.inspects(Tick(1_201)));
        assert!(rounds.inspects(Tick(5_000)));
    }

    #[test]
    fn a_long_heartbeat_does_not_make_rounds_longer_than_the_pulse() {
        let rounds = Rounds::begin(Tick(0), Span::minutes(1));
        assert_eq!(rounds.next(Tick(0)), Tick(0) + LONGEST_SLEEP);
    }
}
