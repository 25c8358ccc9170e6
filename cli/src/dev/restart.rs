//! Whether and when a daemon that ended is started again. Pure: who died how often is data.

use std::time::Duration;

/// Starts in a row that did not reach readiness, after which starting again is no longer tried.
const HOPELESS: u32 = 5;
/// Wait after the first such start; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// What is known of a daemon's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Times it was started again.
    pub(super) restarts: u32,
    /// Starts in a row that did not reach readiness.
    failed_starts: u32,
}

/// What to do about a daemon that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Start it again after this wait.
    Restart(Duration),
    /// It will not come up.
    GiveUp,
}

impl History {
    /// It is ready: whatever went wrong before is over. A daemon may be killed any number of times.
    pub(super) fn became_ready(&mut self) {
        self.failed_starts = 0;
    }

    /// It ended, ready or not.
    pub(super) fn ended(&mut self, was_ready: bool) -> Decision {
        if was_ready {
            self.restarts += 1;
            return Decision::Restart(Duration::ZERO);
        }
        self.failed_starts += 1;
        if self.failed_starts >= HOPELESS {
            return Decision::GiveUp;
        }
        self.restarts += 1;
        let wait = FIRST_WAIT.saturating_mul(1 << (self.failed_starts - 1));
        Decision::Restart(wait.min(LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_was_ready_comes_back_at_once_however_often_it_is_killed() {
        let mut history = History::default();
        for _ in 0..100 {
            history.became_ready();
            assert_eq!(history.ended(true), Decision::Restart(Duration::ZERO));
        }
        assert_eq!(history.restarts, 100);
    }

    #[test]
    fn one_that_never_gets_ready_is_given_up_after_growing_waits() {
        let mut history = History::default();
        let waits: Vec<_> = (0..5).map(|_| history.ended(false)).collect();
        let restart = |millis| Decision::Restart(Duration::from_millis(millis));
        assert_eq!(waits, [restart(250), restart(500), restart(1000), restart(2000), Decision::GiveUp]);
    }

    #[test]
    fn readiness_ends_the_count_of_failed_starts() {
        let mut history = History::default();
        for _ in 0..4 {
            history.ended(false);
        }
        history.became_ready();
        assert_eq!(history.ended(false), Decision::Restart(FIRST_WAIT));
    }
}
