//! How a credential pool stands, for all its models or for one class of them: what the coordinator says of it, and what the
//! API told an attempt of this agent, which counts before the coordinator has answered. Pure; times are arguments.

use crate::boottime::BootMillis;
use orch_proto::v1::PoolState;
use std::time::Duration;

/// A pause after a throttle that named no time; doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// And the longest of those.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a window that names no end is taken to be used up.
const UNNAMED_WINDOW: Duration = Duration::from_secs(300);
/// Requests at a time from which on a pool is no longer slowed down after a throttle.
const NO_LONGER_SLOW: f64 = 256.0;

/// How a pool stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    state: PoolState,
    /// Until then; for ever, until somebody says otherwise, where absent.
    until: Option<BootMillis>,
    window: String,
    detail: String,
    /// Whether requests need credit.
    metered: bool,
    /// Throttles or failures in a row.
    strikes: u32,
    /// Since when the API fails, where it does.
    failing_since: Option<BootMillis>,
    /// Requests at a time after a throttle, where no credit says how fast it may go.
    pace: Option<f64>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            state: PoolState::Open,
            until: None,
            window: String::new(),
            detail: String::new(),
            metered: false,
            strikes: 0,
            failing_since: None,
            pace: None,
        }
    }
}

/// What may be done with a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// It may go, as credit allows.
    Open,
    /// One at a time may go.
    Probe,
    /// None may go yet.
    Held,
    /// None may go for long: those that wait are to end.
    Shut,
}

impl Standing {
    /// What the coordinator says now. It knows more than one agent does.
    pub fn told(
        &mut self,
        state: PoolState,
        left: Option<Duration>,
        window: &str,
        metered: bool,
        now: BootMillis,
    ) {
        let until = left.map(|left| now.plus(left));
        // The pace after a throttle is the coordinator's, where it gives credit.
        let pace = self.pace.filter(|_| !metered);
        let strikes = if state == PoolState::Open { 0 } else { self.strikes };
        let failing_since = (state == PoolState::Failing).then_some(self.failing_since().unwrap_or(now));
        let (window, detail) = (window.to_owned(), String::new());
        *self = Self { state, until, window, detail, metered, strikes, failing_since, pace };
    }

    /// A coordinator that begins a session does not name it: it knows of nothing. What the API told this agent for a time
    /// stays for that time.
    pub fn unlisted(&mut self) {
        self.metered = false;
        if self.until.is_none() {
            self.state = PoolState::Open;
        }
    }

    /// The API said that it is asked too fast. `in_flight` requests were going on.
    pub fn throttled(&mut self, retry_after: Option<Duration>, in_flight: usize, now: BootMillis) {
        if self.gate(now) == Gate::Shut {
            return;
        }
        let again = self.state == PoolState::Throttled && self.until.is_some_and(|until| until > now);
        if !again {
            // Once for each burst: those that were in flight together fail together.
            self.strikes = self.strikes.saturating_add(1);
            let half = in_flight as f64 / 2.0;
            self.pace = Some(self.pace.map_or(half, |pace| pace.min(half)).max(1.0));
        }
        let pause = retry_after.unwrap_or_else(|| doubled(FIRST_PAUSE, self.strikes));
        let until = now.plus(pause);
        self.state = PoolState::Throttled;
        self.until = Some(self.until.filter(|before| again && *before > until).unwrap_or(until));
    }

    /// The API said that a window is used up.
    pub fn exhausted(&mut self, retry_after: Option<Duration>, window: &str, detail: &str, now: BootMillis) {
        self.state = PoolState::Exhausted;
        self.until = Some(now.plus(retry_after.unwrap_or(UNNAMED_WINDOW)));
        window.clone_into(&mut self.window);
        detail.clone_into(&mut self.detail);
    }

    /// The API failed.
    pub fn failed(&mut self, retry_after: Option<Duration>, now: BootMillis) {
        if self.gate(now) == Gate::Shut {
            return;
        }
        self.strikes = self.strikes.saturating_add(1);
        self.failing_since = Some(self.failing_since().unwrap_or(now));
        self.state = PoolState::Failing;
        // Until then none, afterwards one at a time.
        let pause = retry_after.unwrap_or_else(|| doubled(FIRST_PAUSE / 2, self.strikes));
        self.until = Some(now.plus(pause));
    }

    /// A request was answered. Says whether the API had failed before.
    pub fn answered(&mut self) -> bool {
        if let Some(pace) = &mut self.pace {
            *pace += 1.0 / pace.max(1.0);
            if *pace >= NO_LONGER_SLOW {
                self.pace = None;
            }
        }
        if self.state != PoolState::Failing {
            return false;
        }
        (self.state, self.until, self.strikes) = (PoolState::Open, None, 0);
        true
    }

    /// What may be done now.
    #[must_use]
    pub fn gate(&self, now: BootMillis) -> Gate {
        let waits = self.until.is_none_or(|until| until > now);
        match self.state {
            PoolState::Throttled if waits => Gate::Held,
            PoolState::Exhausted if waits => Gate::Shut,
            PoolState::Failing if waits && self.until.is_some() => Gate::Held,
            PoolState::Failing => Gate::Probe,
            PoolState::Open | PoolState::Unspecified | PoolState::Throttled | PoolState::Exhausted => {
                Gate::Open
            }
        }
    }

    /// When that changes by itself, if it lies ahead.
    #[must_use]
    pub fn changes_at(&self, now: BootMillis) -> Option<BootMillis> {
        self.until.filter(|until| *until > now && self.state != PoolState::Open)
    }

    /// Since when the API fails, as long as it does.
    #[must_use]
    pub fn failing_since(&self) -> Option<BootMillis> {
        self.failing_since.filter(|_| self.state == PoolState::Failing)
    }

    /// How long it is used up, and which window.
    #[must_use]
    pub fn left(&self, now: BootMillis) -> (Duration, &str) {
        (self.until.map_or(UNNAMED_WINDOW, |until| until.since(now)), &self.window)
    }

    /// Whether requests need credit.
    #[must_use]
    pub const fn is_metered(&self) -> bool {
        self.metered
    }

    /// Most requests at a time where nobody gives credit; `None` for any number.
    #[must_use]
    pub fn pace(&self) -> Option<usize> {
        self.pace.map(|pace| pace as usize)
    }
}

fn doubled(first: Duration, strikes: u32) -> Duration {
    first.saturating_mul(1 << strikes.saturating_sub(1).min(10)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> BootMillis {
        BootMillis(ms)
    }

    #[test]
    fn a_throttle_pauses_and_then_lets_half_as_many_go_and_ever_more() {
        let mut pool = Standing::default();
        pool.throttled(Some(Duration::from_secs(2)), 8, at(0));
        pool.throttled(Some(Duration::from_secs(1)), 8, at(10));
        assert_eq!((pool.gate(at(1_999)), pool.gate(at(2_000))), (Gate::Held, Gate::Open));
        assert_eq!(pool.pace(), Some(4), "one burst counts once");
        for _ in 0..9 {
            pool.answered();
        }
        assert_eq!(pool.pace(), Some(5));
        assert_eq!(pool.changes_at(at(5)), Some(at(2_000)));
        pool.throttled(None, 5, at(3_000));
        assert_eq!(pool.gate(at(4_999)), Gate::Held, "the second pause is longer");
        assert_eq!(pool.gate(at(5_000)), Gate::Open);
    }

    #[test]
    fn a_window_is_not_opened_by_what_was_said_of_the_rate_and_reopens_by_itself() {
        let mut pool = Standing::default();
        pool.exhausted(Some(Duration::from_secs(5)), "five_hour", "", at(0));
        pool.throttled(None, 1, at(1));
        pool.failed(None, at(1));
        pool.answered();
        assert_eq!((pool.gate(at(4_999)), pool.gate(at(5_000))), (Gate::Shut, Gate::Open));
        assert_eq!(pool.left(at(2_000)), (Duration::from_secs(3), "five_hour"));
        pool.exhausted(None, "", "", at(9_000));
        pool.told(PoolState::Open, None, "", true, at(9_001));
        assert!(pool.gate(at(9_001)) == Gate::Open && pool.is_metered());
    }

    #[test]
    fn an_api_that_fails_is_tried_by_one_request_and_one_answer_opens_it() {
        let mut pool = Standing::default();
        pool.failed(None, at(0));
        assert_eq!((pool.gate(at(499)), pool.gate(at(500))), (Gate::Held, Gate::Probe));
        pool.failed(None, at(600));
        assert_eq!(pool.gate(at(1_500)), Gate::Held);
        assert!(pool.answered() && !pool.answered());
        assert_eq!(pool.gate(at(1_500)), Gate::Open);
        pool.told(PoolState::Failing, None, "", true, at(0));
        assert_eq!(pool.gate(at(0)), Gate::Probe, "the coordinator's credit is the probe");
    }
}
