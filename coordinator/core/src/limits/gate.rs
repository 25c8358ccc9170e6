//! How a pool stands, for one class of models or for all: what the API said last, and how fast to go after that.
//! Knows signals and times; refuses to know buckets and agents.
//!
//! A throttle passes by itself: a pause, then half the pace, then more by a little every second. A window that is used up
//! is closed until it is reset. An API that fails several times in a row is asked by one at a time until it answers.

use crate::limits::bucket::FULL_PACE;
use crate::limits::{LimitSignal, PoolState, SignalKind};
use crate::time::{Span, Tick};
use std::sync::Arc;

/// A pause that nobody gave a length, and the longest: what is longer is no throttle.
const PAUSE: Span = Span::seconds(2);
const LONGEST_PAUSE: Span = Span::seconds(60);
/// A window whose end nobody told.
const UNTOLD_WINDOW: Span = Span::minutes(1);
/// Signals of one burst: requests that were under way when the first came.
const BURST: Span = Span::seconds(2);
/// Failures in a row, over all agents, that close the circuit.
const FAILURES: u32 = 5;
/// Failures further apart are none in a row.
const FAILURES_APART: Span = Span::minutes(1);
/// First pause between two who try whether the API is back, and the longest.
const PROBE: Span = Span::seconds(5);
const LONGEST_PROBE: Span = Span::minutes(1);

/// How a pool stands for one class of models, or for all.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Gate {
    pub(crate) state: PoolState,
    /// When that changes; for a failing one: when the next may try.
    pub(crate) until: Option<Tick>,
    pub(crate) window: Arc<str>,
    pub(crate) detail: Arc<str>,
    failures: u32,
    failed: Tick,
    probe: Span,
}

/// What a signal means beyond the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing new.
    Nothing,
    /// Everybody goes slower.
    Slower,
    /// Nobody starts anything.
    Closed,
}

impl Gate {
    /// Takes a signal over. `longest` is the longest wait that is believed.
    pub(crate) fn signal(&mut self, signal: &LimitSignal, now: Tick, longest: Span) -> Meaning {
        match signal.kind {
            SignalKind::Throttled => {
                // Whoever is shut out of a window hears 429 as well.
                if self.state == PoolState::Exhausted {
                    return Meaning::Nothing;
                }
                let pause = signal.retry_after.map_or(PAUSE, |after| after.min(LONGEST_PAUSE));
                let until = now + Span(pause.0.max(1));
                if self.state != PoolState::Throttled || self.until.is_none_or(|before| before < until) {
                    self.until = Some(until);
                }
                self.state = PoolState::Throttled;
                self.note(signal);
                Meaning::Slower
            }
            SignalKind::Exhausted => {
                let wait = signal.retry_after.unwrap_or(UNTOLD_WINDOW).min(longest);
                let until = now + Span(wait.0.max(1));
                let before = self.until.filter(|_| self.state == PoolState::Exhausted);
                self.until = Some(before.map_or(until, |before| before.max(until)));
                self.state = PoolState::Exhausted;
                self.note(signal);
                Meaning::Closed
            }
            SignalKind::Failing => self.failing(signal, now),
            SignalKind::Recovered => {
                self.failures = 0;
                if self.state == PoolState::Failing {
                    self.open();
                }
                Meaning::Nothing
            }
        }
    }

    fn note(&mut self, signal: &LimitSignal) {
        self.window = Arc::clone(&signal.window);
        self.detail = Arc::clone(&signal.detail);
    }

    fn failing(&mut self, signal: &LimitSignal, now: Tick) -> Meaning {
        let in_a_row = now - self.failed <= FAILURES_APART || self.state == PoolState::Failing;
        self.failures = if in_a_row { self.failures.saturating_add(1) } else { 1 };
        self.failed = now;
        if self.state == PoolState::Exhausted || self.failures < FAILURES {
            return Meaning::Nothing;
        }
        if self.state != PoolState::Failing {
            self.probe = PROBE;
            self.until = Some(now + self.probe);
        }
        self.state = PoolState::Failing;
        self.note(signal);
        Meaning::Closed
    }

    /// Somebody tries whether the API is back: the next one only after a longer pause.
    pub(crate) fn probed(&mut self, now: Tick) {
        self.probe = Span(self.probe.0.saturating_mul(2).clamp(PROBE.0, LONGEST_PROBE.0));
        self.until = Some(now + self.probe);
    }

    /// Whether somebody may try now.
    pub(crate) fn may_probe(&self, now: Tick) -> bool {
        self.state == PoolState::Failing && self.until.is_none_or(|until| until <= now)
    }

    /// Opens it when its time is over. Says whether it did.
    pub(crate) fn expire(&mut self, now: Tick) -> bool {
        let over = self.until.is_some_and(|until| until <= now);
        let passes = matches!(self.state, PoolState::Throttled | PoolState::Exhausted);
        if over && passes {
            self.open();
        }
        over && passes
    }

    fn open(&mut self) {
        self.state = PoolState::Open;
        self.until = None;
        self.window = Arc::default();
        self.detail = Arc::default();
    }

    /// How bad it is: of two gates the worse one holds.
    pub(crate) const fn severity(&self) -> u8 {
        match self.state {
            PoolState::Open => 0,
            PoolState::Throttled => 1,
            PoolState::Failing => 2,
            PoolState::Exhausted => 3,
        }
    }
}

/// How fast a class of models is used, in thousandths of its limits: halved by a throttle, then more every second, quickly
/// up to what was nearly too much the last time and slowly above.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Pace {
    permille: u32,
    knee: u32,
    most: u32,
    /// Signals before this belong to the burst that was heard.
    deaf_until: Tick,
    certain: bool,
    at: Tick,
}

/// Slowest pace.
const SLOWEST: u32 = 50;
/// More each second below the knee.
const QUICK: u32 = 50;
/// More each second above it, where the limit is known, and where it is guessed.
const SLOW: u32 = 10;
const GROPING: u32 = 4;
/// How far a guess may be exceeded.
const MOST_GUESSED: u32 = 8_000;

impl Pace {
    pub(crate) const fn new(now: Tick) -> Self {
        Self {
            permille: FULL_PACE,
            knee: FULL_PACE,
            most: FULL_PACE,
            deaf_until: Tick(0),
            certain: true,
            at: now,
        }
    }

    pub(crate) const fn permille(&self) -> u32 {
        self.permille
    }

    /// Goes slower, unless this is of a burst that was heard. `until` is the end of the pause. Says whether it did.
    /// A limit that the API told is `certain`, and soon used to the full again.
    pub(crate) fn halve(&mut self, now: Tick, until: Tick, certain: bool) -> bool {
        if now < self.deaf_until {
            return false;
        }
        self.ramp(now);
        self.deaf_until = until.max(now) + BURST;
        let half = (self.permille / 2).max(SLOWEST);
        let guessed = self.most > FULL_PACE;
        self.certain = certain;
        self.knee = match (guessed, certain) {
            (true, _) => half,
            (false, true) => self.permille / 10 * 9,
            (false, false) => self.permille / 4 * 3,
        };
        self.permille = half;
        self.at = until.max(now);
        true
    }

    /// The limit is a guess now: the pace may rise above it.
    pub(crate) fn grope(&mut self, now: Tick, until: Tick) {
        self.most = MOST_GUESSED;
        self.certain = false;
        self.permille = FULL_PACE;
        self.knee = FULL_PACE;
        self.deaf_until = until.max(now) + BURST;
        self.at = until.max(now);
    }

    /// The limit is known now, and the pace is full.
    pub(crate) fn know(&mut self, now: Tick) {
        self.most = FULL_PACE;
        self.permille = FULL_PACE;
        self.knee = FULL_PACE;
        self.at = self.at.max(now);
    }

    /// Goes faster by as much as time has passed.
    pub(crate) fn ramp(&mut self, now: Tick) {
        while self.permille < self.most && self.at + Span::seconds(1) <= now {
            self.at = self.at + Span::seconds(1);
            let (quick, slow) = if self.certain { (QUICK, SLOW) } else { (QUICK / 2, GROPING) };
            let step = if self.permille < self.knee { quick } else { slow };
            self.permille = (self.permille + step).min(self.most);
        }
        if self.permille >= self.most {
            self.at = self.at.max(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Tick = Tick(1_000_000);
    const LONGEST: Span = Span::days(8);

    fn signal(kind: SignalKind, retry_after: Option<u64>) -> LimitSignal {
        LimitSignal {
            pool: "team".into(),
            model_class: "".into(),
            kind,
            retry_after: retry_after.map(Span::seconds),
            window: "five_hour".into(),
            detail: "so it said".into(),
        }
    }

    #[test]
    fn a_throttle_passes_and_a_window_that_is_used_up_is_not_mistaken_for_one() {
        let mut gate = Gate::default();
        assert_eq!(gate.signal(&signal(SignalKind::Throttled, Some(3)), START, LONGEST), Meaning::Slower);
        assert!(gate.severity() < 2 && !gate.expire(START + Span(2_999)) && gate.expire(START + Span(3_000)));
        gate.signal(&signal(SignalKind::Exhausted, Some(3_600)), START, LONGEST);
        assert!(gate.severity() > 1);
        assert_eq!(gate.signal(&signal(SignalKind::Throttled, Some(1)), START, LONGEST), Meaning::Nothing);
        assert!(!gate.expire(START + Span::minutes(59)) && gate.expire(START + Span::minutes(60)));
        assert!(gate.window.is_empty());
    }

    #[test]
    fn five_failures_in_a_row_close_it_and_an_answer_opens_it() {
        let mut gate = Gate::default();
        for _ in 0..4 {
            assert_eq!(gate.signal(&signal(SignalKind::Failing, None), START, LONGEST), Meaning::Nothing);
        }
        gate.signal(&signal(SignalKind::Recovered, None), START, LONGEST);
        for _ in 0..4 {
            gate.signal(&signal(SignalKind::Failing, None), START, LONGEST);
        }
        assert!(gate.severity() < 2, "they were not in a row");
        assert_eq!(gate.signal(&signal(SignalKind::Failing, None), START, LONGEST), Meaning::Closed);
        assert!(!gate.may_probe(START) && gate.may_probe(START + Span::seconds(5)));
        gate.probed(START + Span::seconds(5));
        assert!(!gate.may_probe(START + Span::seconds(14)) && gate.may_probe(START + Span::seconds(15)));
        assert!(!gate.expire(START + Span::hours(1)), "only an answer opens it");
        gate.signal(&signal(SignalKind::Recovered, None), START, LONGEST);
        assert_eq!(gate.state, PoolState::Open);
    }

    #[test]
    fn a_burst_halves_the_pace_once_and_it_rises_quickly_to_where_it_was_and_slowly_above() {
        let mut pace = Pace::new(START);
        assert!(
            pace.halve(START, START + Span::seconds(1), true) && !pace.halve(START + Span(10), START, true)
        );
        assert_eq!(pace.permille(), 500);
        pace.ramp(START + Span::seconds(9));
        assert_eq!(pace.permille(), 900);
        pace.ramp(START + Span::seconds(11));
        assert_eq!(pace.permille(), 920);
        pace.ramp(START + Span::minutes(1));
        assert_eq!(pace.permille(), 1_000);
    }
}
