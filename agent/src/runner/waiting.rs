//! An attempt that waits before its child is started, for a credential that another one uses. There is no supervisor
//! yet, so what its dead-man switch would do is done here. Knows the link; refuses to know what is waited for.

use std::time::Duration;

use tokio::sync::watch;

use crate::boottime::BootMillis;
use crate::supervisor::stop::StopCause;

use super::{AttemptLimits, AttemptLink};

/// Clocks are compared this often at least: a timer stands still while the host sleeps, the deadlines do not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Waits for `wanted`. A stop, a missing renewal, or a wait longer than the attempt itself may take ends it at once.
/// What is waited for does not count as time of the attempt.
///
/// # Errors
/// Why the attempt is over.
pub async fn wait_for<T>(
    wanted: impl Future<Output = T>,
    link: &mut AttemptLink,
    limits: &AttemptLimits,
) -> Result<T, StopCause> {
    let began = BootMillis::now();
    tokio::pin!(wanted);
    loop {
        if let Some(cause) = *link.stop.borrow() {
            return Err(cause);
        }
        let now = BootMillis::now();
        let left_to_wait = limits.timeout.map(|limit| limit.saturating_sub(now.since(began)));
        let left_to_live = left_to_live(link, limits, began, now);
        if left_to_wait.is_some_and(|left| left.is_zero()) {
            return Err(StopCause::Timeout);
        }
        if left_to_live.is_some_and(|left| left.is_zero()) {
            return Err(StopCause::LostAgent);
        }
        let next = [left_to_wait, left_to_live].into_iter().flatten().fold(LOOK_EVERY, Duration::min);
        tokio::select! {
            biased;
            () = told(&mut link.stop) => {}
            wanted = &mut wanted => return Ok(wanted),
            () = tokio::time::sleep(next) => {}
        }
    }
}

/// How long an attempt that was accepted at `began` may go on from `now` without another renewal; `None`: for ever.
#[must_use]
pub fn left_to_live(
    link: &AttemptLink,
    limits: &AttemptLimits,
    began: BootMillis,
    now: BootMillis,
) -> Option<Duration> {
    let first = began.plus(limits.stop_after?);
    let renewed = link.renewals.borrow().map(|renewal| renewal.sent.plus(renewal.stop_after));
    Some(renewed.map_or(first, |renewed| renewed.max(first)).since(now))
}

/// Waits for a stop; for ever once nobody can order one.
async fn told(stop: &mut watch::Receiver<Option<StopCause>>) {
    if stop.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::super::{Renewal, link};
    use super::*;

    fn limits(timeout: Option<u64>, stop_after: Option<u64>) -> AttemptLimits {
        AttemptLimits {
            timeout: timeout.map(Duration::from_millis),
            silence: None,
            stop_after: stop_after.map(Duration::from_millis),
        }
    }

    #[tokio::test]
    async fn what_is_there_is_had_and_a_stop_goes_first() {
        let (handle, mut link) = link();
        assert_eq!(wait_for(async { 7 }, &mut link, &limits(None, None)).await, Ok(7));
        handle.stop.send_replace(Some(StopCause::Cancelled));
        let stopped = wait_for(async { 7 }, &mut link, &limits(None, None)).await;
        assert_eq!(stopped, Err(StopCause::Cancelled));
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait_at_once() {
        let (handle, mut link) = link();
        let none = limits(None, None);
        let waiting = wait_for(pending::<()>(), &mut link, &none);
        let (ended, ()) = tokio::join!(waiting, async {
            handle.stop.send_replace(Some(StopCause::Fenced));
        });
        assert_eq!(ended, Err(StopCause::Fenced));
    }

    #[tokio::test]
    async fn without_renewals_and_beyond_its_limit_it_is_over() {
        let (_handle, mut link) = link();
        let lost = wait_for(pending::<()>(), &mut link, &limits(None, Some(20))).await;
        assert_eq!(lost, Err(StopCause::LostAgent));
        let late = wait_for(pending::<()>(), &mut link, &limits(Some(20), None)).await;
        assert_eq!(late, Err(StopCause::Timeout));
    }

    #[test]
    fn a_renewal_is_counted_from_when_its_heartbeat_was_sent_and_never_shortens() {
        let (handle, link) = link();
        let at = |ms| BootMillis(ms);
        let left = |now| left_to_live(&link, &limits(None, Some(100)), at(1_000), at(now));
        assert_eq!(left(1_040), Some(Duration::from_millis(60)));
        handle
            .renewals
            .send_replace(Some(Renewal { sent: at(1_030), stop_after: Duration::from_millis(50) }));
        assert_eq!(left(1_040), Some(Duration::from_millis(60)));
        handle
            .renewals
            .send_replace(Some(Renewal { sent: at(1_100), stop_after: Duration::from_millis(50) }));
        assert_eq!(left(1_120), Some(Duration::from_millis(30)));
        assert_eq!(left(1_200), Some(Duration::ZERO));
        assert_eq!(left_to_live(&link, &limits(None, None), at(0), at(9)), None);
    }
}
