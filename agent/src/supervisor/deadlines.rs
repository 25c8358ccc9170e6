//! The dead-man switch, as arithmetic: when an attempt ends because of its deadline, its silence, or because
//! nobody renewed it. Reads no clock and stops nothing.

use std::time::Duration;

use crate::boottime::BootMillis;

use super::stop::StopCause;

/// The three deadlines of an attempt. An absent one never fires.
#[derive(Debug, Clone)]
pub struct Deadlines {
    attempt_at: Option<BootMillis>,
    silence: Option<Duration>,
    last_output: BootMillis,
    renewed_until: Option<BootMillis>,
}

impl Deadlines {
    /// Starts all three at `now`.
    #[must_use]
    pub fn new(
        now: BootMillis,
        attempt: Option<Duration>,
        silence: Option<Duration>,
        stop_after: Option<Duration>,
    ) -> Self {
        Self {
            attempt_at: attempt.map(|limit| now.plus(limit)),
            silence,
            last_output: now,
            renewed_until: stop_after.map(|limit| now.plus(limit)),
        }
    }

    /// The child wrote something.
    pub fn heard(&mut self, now: BootMillis) {
        self.last_output = self.last_output.max(now);
    }

    /// The coordinator acknowledged a renewal: the attempt may go on for `stop_after` from `now`.
    /// A renewal never shortens an earlier one, so late and reordered ones do no harm.
    pub fn renewed(&mut self, now: BootMillis, stop_after: Duration) {
        let until = now.plus(stop_after);
        self.renewed_until = Some(self.renewed_until.map_or(until, |old| old.max(until)));
    }

    /// The child waits for input or for its end, so its silence means nothing any more.
    pub fn silence_no_longer_counts(&mut self) {
        self.silence = None;
    }

    /// The deadline that has passed. Of several the one that passed first.
    #[must_use]
    pub fn passed(&self, now: BootMillis) -> Option<StopCause> {
        self.list()
            .into_iter()
            .flatten()
            .filter(|(at, _)| *at <= now)
            .min_by_key(|(at, _)| *at)
            .map(|(_, cause)| cause)
    }

    /// The next moment at which [`Self::passed`] may answer differently.
    #[must_use]
    pub fn next(&self) -> Option<BootMillis> {
        self.list().into_iter().flatten().map(|(at, _)| at).min()
    }

    fn list(&self) -> [Option<(BootMillis, StopCause)>; 3] {
        [
            self.attempt_at.map(|at| (at, StopCause::Timeout)),
            self.silence.map(|limit| (self.last_output.plus(limit), StopCause::Hang)),
            self.renewed_until.map(|at| (at, StopCause::LostAgent)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn at(seconds: u64) -> BootMillis {
        BootMillis(seconds * 1_000)
    }

    #[test]
    fn each_deadline_fires_with_its_own_cause() {
        assert_eq!(Deadlines::new(at(0), Some(S(5)), None, None).passed(at(5)), Some(StopCause::Timeout));
        assert_eq!(Deadlines::new(at(0), None, Some(S(5)), None).passed(at(5)), Some(StopCause::Hang));
        assert_eq!(Deadlines::new(at(0), None, None, Some(S(5))).passed(at(5)), Some(StopCause::LostAgent));
        assert_eq!(Deadlines::new(at(0), None, None, None).passed(at(u64::MAX / 1_000)), None);
    }

    #[test]
    fn output_puts_off_the_silence_limit_only() {
        let mut deadlines = Deadlines::new(at(0), Some(S(20)), Some(S(5)), None);
        deadlines.heard(at(4));
        assert_eq!(deadlines.passed(at(8)), None);
        assert_eq!(deadlines.next(), Some(at(9)));
        assert_eq!(deadlines.passed(at(9)), Some(StopCause::Hang));
        deadlines.heard(at(19));
        assert_eq!(deadlines.passed(at(20)), Some(StopCause::Timeout));
    }

    #[test]
    fn a_renewal_extends_and_never_shortens() {
        let mut deadlines = Deadlines::new(at(0), None, None, Some(S(10)));
        deadlines.renewed(at(5), S(10));
        assert_eq!(deadlines.next(), Some(at(15)));
        deadlines.renewed(at(6), S(1));
        assert_eq!(deadlines.next(), Some(at(15)));
        assert_eq!(deadlines.passed(at(14)), None);
    }

    #[test]
    fn after_a_long_sleep_the_deadline_that_passed_first_is_named() {
        let deadlines = Deadlines::new(at(0), Some(S(30)), Some(S(20)), Some(S(10)));
        assert_eq!(deadlines.passed(at(3_600)), Some(StopCause::LostAgent));
    }
}
