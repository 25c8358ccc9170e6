//! When a call to the coordinator is tried again: full jitter through the `backoff` crate's [`Backoff`] trait, never
//! earlier than a `google.rpc.RetryInfo` asks. The only file of this crate that names `backoff`.
//!
//! For calls that may be repeated: those that only read, and those that carry a request id.

use std::time::Duration;

use backoff::backoff::Backoff;
use rand::Rng;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt;

use crate::failure::status::is_temporary;

/// Longest delay that a server may ask for; beyond it, the caller decides when to come back.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// Bounds of a policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Upper bound of the first delay; it doubles with every further one.
    pub(crate) base: Duration,
    /// Upper bound of every delay.
    pub(crate) cap: Duration,
    /// Calls in total, the first included.
    pub(crate) tries: u32,
}

/// For one call: gives up after about 3 s, for somebody is waiting.
pub(crate) const CALL: Limits =
    Limits { base: Duration::from_millis(200), cap: Duration::from_millis(1600), tries: 5 };

/// For following a run that is known to exist: about 5 min, so that a restart of the coordinator passes unnoticed.
pub(crate) const FOLLOW: Limits =
    Limits { base: Duration::from_millis(250), cap: Duration::from_secs(5), tries: 120 };

/// A seeded policy of full jitter: each delay is drawn from zero to a bound that doubles up to a cap.
#[derive(Debug)]
pub(crate) struct FullJitter<R> {
    limits: Limits,
    tried: u32,
    random: R,
}

impl<R: Rng> FullJitter<R> {
    /// A policy before its first try.
    pub(crate) fn new(limits: Limits, random: R) -> Self {
        Self { limits, tried: 1, random }
    }
}

impl<R: Rng> Backoff for FullJitter<R> {
    fn reset(&mut self) {
        self.tried = 1;
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        if self.tried >= self.limits.tries {
            return None;
        }
        let doubled = self.limits.base.saturating_mul(1_u32.checked_shl(self.tried - 1).unwrap_or(u32::MAX));
        self.tried += 1;
        Some(self.random.random_range(Duration::ZERO..=doubled.min(self.limits.cap)))
    }
}

/// The last failure of a call that was given up.
#[derive(Debug)]
pub(crate) struct GaveUp {
    pub(crate) status: Status,
    pub(crate) tries: u32,
    pub(crate) elapsed: Duration,
}

/// How long to wait before the next try, or `None` to give up.
pub(crate) fn delay(policy: &mut impl Backoff, status: &Status) -> Option<Duration> {
    if !is_temporary(status) {
        return None;
    }
    let asked = status.get_error_details().retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
    if asked > LONGEST_ASKED {
        return None;
    }
    Some(policy.next_backoff()?.max(asked))
}

/// Calls until it succeeds, fails for good, or the policy ends.
pub(crate) async fn retrying<T>(
    mut policy: impl Backoff,
    mut call: impl AsyncFnMut() -> Result<T, Status>,
) -> Result<T, GaveUp> {
    let start = Instant::now();
    let mut tries = 1;
    loop {
        let status = match call().await {
            Ok(value) => return Ok(value),
            Err(status) => status,
        };
        let Some(wait) = delay(&mut policy, &status) else {
            return Err(GaveUp { status, tries, elapsed: start.elapsed() });
        };
        tracing::debug!(code = ?status.code(), message = status.message(), ?wait, "trying again");
        tokio::time::sleep(wait).await;
        tries += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    fn policy(limits: Limits) -> FullJitter<StdRng> {
        FullJitter::new(limits, StdRng::seed_from_u64(7))
    }

    #[test]
    fn delays_stay_below_a_doubling_bound_and_end() {
        let limits = Limits { base: Duration::from_millis(100), cap: Duration::from_millis(300), tries: 6 };
        let mut policy = policy(limits);
        for bound in [100, 200, 300, 300, 300] {
            assert!(policy.next_backoff().unwrap() <= Duration::from_millis(bound));
        }
        assert_eq!(policy.next_backoff(), None);
        policy.reset();
        assert!(policy.next_backoff().is_some());
    }

    #[test]
    fn a_server_s_delay_is_honoured() {
        let asked = |seconds| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(seconds)));
            Status::with_error_details(Code::Unavailable, "draining", details)
        };
        assert_eq!(delay(&mut policy(CALL), &asked(9)), Some(Duration::from_secs(9)));
        assert_eq!(delay(&mut policy(CALL), &asked(3600)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeated_until_it_succeeds() {
        let calls = Cell::new(0);
        let outcome = retrying(policy(CALL), async || {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Err(Status::unavailable("not yet")) } else { Ok(calls.get()) }
        });
        assert_eq!(outcome.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_final_and_outages_end_after_the_last_try() {
        let refused =
            retrying(policy(CALL), async || Err::<(), _>(Status::not_found("no"))).await.unwrap_err();
        assert_eq!(refused.tries, 1);
        let away =
            retrying(policy(CALL), async || Err::<(), _>(Status::unavailable("no"))).await.unwrap_err();
        assert_eq!(away.tries, CALL.tries);
    }
}
