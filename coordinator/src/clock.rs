//! Time, as the engine is given it: a clock that only goes forward, also while the host sleeps, and one for people.
//! Knows nothing of ticks that survive a restart beyond adding the one it was told to continue from.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orch_core::time::{Now, Span, Tick, Wall};
use tokio::sync::watch;

/// Longest single wait of [`SystemClock::sleep`]. The runtime's timer stands still while the host is suspended, the clock
/// does not: waking at least this often bounds how late a deadline is noticed after a resume.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// A wait that [`Clock::sleep`] hands out.
pub type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Where the engine's time comes from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since some moment before this process asked first. Counts on while the host is suspended, never goes
    /// back.
    fn elapsed(&self) -> Span;

    /// Milliseconds since 1970 UTC, for people. May jump.
    fn wall(&self) -> Wall;

    /// Returns after `span`, or earlier: whoever waits looks at [`Clock::elapsed`] again.
    fn sleep(&self, span: Span) -> Sleep<'_>;
}

/// The clocks of the host.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn elapsed(&self) -> Span {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let millis = u64::try_from(time.tv_nsec / 1_000_000).unwrap_or(0);
        Span(seconds.saturating_mul(1_000).saturating_add(millis))
    }

    fn wall(&self) -> Wall {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Wall(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn sleep(&self, span: Span) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(Duration::from_millis(span.0).min(LONGEST_NAP)))
    }
}

/// A clock that a test moves by hand.
#[derive(Debug, Clone)]
pub struct ManualClock {
    elapsed: Arc<watch::Sender<Span>>,
    wall_offset: i64,
}

impl ManualClock {
    /// A clock that stands at 0, while people read `wall`.
    #[must_use]
    pub fn new(wall: Wall) -> Self {
        Self { elapsed: Arc::new(watch::Sender::new(Span(0))), wall_offset: wall.0 }
    }

    /// Moves both clocks on and wakes whoever waited for that.
    pub fn advance(&self, span: Span) {
        self.elapsed.send_modify(|elapsed| elapsed.0 = elapsed.0.saturating_add(span.0));
    }
}

impl Clock for ManualClock {
    fn elapsed(&self) -> Span {
        *self.elapsed.borrow()
    }

    fn wall(&self) -> Wall {
        Wall(self.wall_offset.saturating_add_unsigned(self.elapsed().0))
    }

    fn sleep(&self, span: Span) -> Sleep<'_> {
        let mut elapsed = self.elapsed.subscribe();
        let until = Span(elapsed.borrow().0.saturating_add(span.0));
        Box::pin(async move {
            // The sender is held by `self`, so waiting cannot fail while somebody waits.
            let _ = elapsed.wait_for(|elapsed| *elapsed >= until).await;
        })
    }
}

/// Coordinator time: the last durable tick, continued.
#[derive(Debug, Clone)]
pub struct Ticker {
    clock: Arc<dyn Clock>,
    base: Tick,
    origin: Span,
}

impl Ticker {
    /// Continues from `base`, which is now.
    #[must_use]
    pub fn continue_from(base: Tick, clock: Arc<dyn Clock>) -> Self {
        let origin = clock.elapsed();
        Self { clock, base, origin }
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Now {
        let gone = Span(self.clock.elapsed().0.saturating_sub(self.origin.0));
        Now { tick: self.base + gone, wall: self.clock.wall() }
    }

    /// Returns at `tick`, or earlier: whoever waits looks at [`Ticker::now`] again.
    pub async fn sleep_until(&self, tick: Tick) {
        let wait = tick - self.now().tick;
        if wait.0 > 0 {
            self.clock.sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_continue_from_the_durable_one() {
        let clock = ManualClock::new(Wall(1_000));
        clock.advance(Span(50));
        let ticker = Ticker::continue_from(Tick(7_000), Arc::new(clock.clone()));
        assert_eq!(ticker.now(), Now { tick: Tick(7_000), wall: Wall(1_050) });
        clock.advance(Span(5));
        assert_eq!(ticker.now(), Now { tick: Tick(7_005), wall: Wall(1_055) });
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let first = SystemClock.elapsed();
        assert!(SystemClock.elapsed() >= first);
        assert!(SystemClock.wall() > Wall(1_700_000_000_000));
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_clock_is_moved() {
        let clock = ManualClock::new(Wall(0));
        let ticker = Ticker::continue_from(Tick(0), Arc::new(clock.clone()));
        let mut sleep = Box::pin(ticker.sleep_until(Tick(10)));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        clock.advance(Span(9));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        clock.advance(Span(1));
        sleep.await;
        ticker.sleep_until(Tick(3)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_sleep_of_the_system_clock_is_cut_into_naps() {
        let start = tokio::time::Instant::now();
        SystemClock.sleep(Span::hours(1)).await;
        assert!(start.elapsed() <= Duration::from_secs(2));
    }
}
