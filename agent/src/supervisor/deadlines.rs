//! The dead-man switch, as arithmetic: when an attempt ends because of its deadline, because it never began to speak,
//! because of its silence, or because nobody renewed it. Reads no clock and stops nothing.

use std::time::Duration;

use crate::boottime::BootMillis;

use super::stop::StopCause;

/// How long each may last; an absent one never fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Longest life.
    pub attempt: Option<Duration>,
    /// Longest wait for the first byte of standard output.
    pub start: Option<Duration>,
    /// Longest time without output and without any other sign of life.
    pub silence: Option<Duration>,
    /// Longest life without a renewal.
    pub stop_after: Option<Duration>,
}

/// The deadlines of an attempt.
#[derive(Debug, Clone)]
pub struct Deadlines {
    attempt_at: Option<BootMillis>,
    start: Option<Duration>,
    start_at: Option<BootMillis>,
    silence: Option<Duration>,
    last_life: BootMillis,
    renewed_until: Option<BootMillis>,
}

impl Deadlines {
    /// Starts all of them at `now`.
    #[must_use]
    pub fn new(now: BootMillis, allowed: Allowed) -> Self {
        let at = |limit: Option<Duration>| limit.map(|limit| now.plus(limit));
        Self {
            attempt_at: at(allowed.attempt),
            start: allowed.start,
            start_at: at(allowed.start),
            silence: allowed.silence,
            last_life: now,
            renewed_until: at(allowed.stop_after),
        }
    }

    /// The child wrote something, or showed otherwise that it is at work.
    pub fn alive(&mut self, now: BootMillis) {
        self.last_life = self.last_life.max(now);
    }

    /// The child waits for something that is held back from it here: neither silence nor a late beginning is its own.
    pub fn held(&mut self, now: BootMillis) {
        self.alive(now);
        if let (Some(at), Some(start)) = (self.start_at, self.start) {
            self.start_at = Some(at.max(now.plus(start)));
        }
    }

    /// The child wrote on its standard output: it has begun.
    pub fn begun(&mut self) {
        self.start_at = None;
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
        self.start_at = None;
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

    fn list(&self) -> [Option<(BootMillis, StopCause)>; 4] {
        [
            self.attempt_at.map(|at| (at, StopCause::Timeout)),
            self.start_at.map(|at| (at, StopCause::NoFirstEvent)),
            self.silence.map(|limit| (self.last_life.plus(limit), StopCause::Hang)),
            self.renewed_until.map(|at| (at, StopCause::LostAgent)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    const NONE: Allowed = Allowed { attempt: None, start: None, silence: None, stop_after: None };

    fn at(seconds: u64) -> BootMillis {
        BootMillis(seconds * 1_000)
    }

    #[test]
    fn each_deadline_fires_with_its_own_cause() {
        for (allowed, cause) in [
            (Allowed { attempt: Some(S(5)), ..NONE }, StopCause::Timeout),
            (Allowed { start: Some(S(5)), ..NONE }, StopCause::NoFirstEvent),
            (Allowed { silence: Some(S(5)), ..NONE }, StopCause::Hang),
            (Allowed { stop_after: Some(S(5)), ..NONE }, StopCause::LostAgent),
        ] {
            let deadlines = Deadlines::new(at(0), allowed);
            assert_eq!((deadlines.passed(BootMillis(4_999)), deadlines.passed(at(5))), (None, Some(cause)));
        }
        assert_eq!(Deadlines::new(at(0), NONE).passed(at(u64::MAX / 1_000)), None);
    }

    #[test]
    fn life_puts_off_the_silence_limit_only() {
        let allowed = Allowed { attempt: Some(S(20)), silence: Some(S(5)), ..NONE };
        let mut deadlines = Deadlines::new(at(0), allowed);
        deadlines.alive(at(4));
        assert_eq!(deadlines.passed(at(8)), None);
        assert_eq!(deadlines.next(), Some(at(9)));
        assert_eq!(deadlines.passed(at(9)), Some(StopCause::Hang));
        deadlines.alive(at(19));
        assert_eq!(deadlines.passed(at(20)), Some(StopCause::Timeout));
    }

    #[test]
    fn only_standard_output_is_a_beginning() {
        let mut deadlines = Deadlines::new(at(0), Allowed { start: Some(S(5)), ..NONE });
        deadlines.alive(at(4));
        assert_eq!(deadlines.passed(at(5)), Some(StopCause::NoFirstEvent));
        deadlines.begun();
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn what_is_held_back_is_neither_silence_nor_a_late_beginning_and_the_attempt_ends_all_the_same() {
        let allowed =
            Allowed { attempt: Some(S(20)), start: Some(S(5)), silence: Some(S(7)), stop_after: None };
        let mut deadlines = Deadlines::new(at(0), allowed);
        deadlines.held(at(4));
        assert_eq!(deadlines.next(), Some(at(9)));
        deadlines.begun();
        deadlines.held(at(8));
        assert_eq!(deadlines.next(), Some(at(15)));
        deadlines.held(at(18));
        assert_eq!(deadlines.passed(at(20)), Some(StopCause::Timeout));
    }

    #[test]
    fn a_renewal_extends_and_never_shortens() {
        let mut deadlines = Deadlines::new(at(0), Allowed { stop_after: Some(S(10)), ..NONE });
        deadlines.renewed(at(5), S(10));
        assert_eq!(deadlines.next(), Some(at(15)));
        deadlines.renewed(at(6), S(1));
        assert_eq!(deadlines.next(), Some(at(15)));
        assert_eq!(deadlines.passed(at(14)), None);
    }

    #[test]
    fn after_a_long_sleep_the_deadline_that_passed_first_is_named() {
        let allowed =
            Allowed { attempt: Some(S(30)), silence: Some(S(20)), stop_after: Some(S(10)), start: None };
        assert_eq!(Deadlines::new(at(0), allowed).passed(at(3_600)), Some(StopCause::LostAgent));
    }
}
