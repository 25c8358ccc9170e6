//! Time that goes on while a laptop sleeps: `CLOCK_BOOTTIME`, in milliseconds, and the identity of the boot.
//! Refuses to know wall time: deadlines are durations on one host's clock and are never sent to another.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment since the host booted, in milliseconds, suspended time included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootMillis(pub u64);

impl BootMillis {
    /// The current moment.
    #[must_use]
    pub fn now() -> Self {
        #[cfg(feature = "test-util")]
        if let Some(simulated) = SIMULATED.get() {
            return simulated();
        }
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
        Self(seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000))
    }

    /// This moment plus a duration; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(feature = "test-util")]
thread_local! {
    static SIMULATED: std::cell::Cell<Option<fn() -> BootMillis>> = const { std::cell::Cell::new(None) };
}

/// From now on [`BootMillis::now`] is what `clock` says, on this thread: for a simulation.
#[cfg(feature = "test-util")]
pub fn simulate(clock: fn() -> BootMillis) {
    SIMULATED.set(Some(clock));
}

/// The kernel's identity of this boot. A record made under another identity speaks of processes that are
/// certainly dead. Empty when the kernel does not say.
#[must_use]
pub fn boot_id() -> String {
    /// No process outlives its boot, nor does a copy of it.
    static THIS: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    THIS.get_or_init(|| read().trim().to_owned()).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_added_and_never_negative() {
        let start = BootMillis(1_000);
        assert_eq!(start.plus(Duration::from_secs(2)), BootMillis(3_000));
        assert_eq!(BootMillis(3_000).since(start), Duration::from_secs(2));
        assert_eq!(start.since(BootMillis(3_000)), Duration::ZERO);
        assert_eq!(start.plus(Duration::MAX), BootMillis(u64::MAX));
    }

    #[test]
    fn the_clock_runs_and_the_boot_has_a_name() {
        let first = BootMillis::now();
        assert!(BootMillis::now() >= first);
        assert!(!boot_id().is_empty());
    }
}
