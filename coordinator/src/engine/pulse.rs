//! Whether the engine and its committer make progress.
//! Knows when each was last seen to; refuses to know what they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use orch_core::time::Span;

use crate::clock::Clock;

/// Without progress for this long the process is taken for stuck. A disk that is that slow serves nobody.
pub const LIVE_WITHIN: Span = Span::seconds(30);

/// Longest sleep of an engine that has nothing to do, so that its pulse is seen.
pub(super) const LONGEST_SLEEP: Span = Span::seconds(5);

const NO_COMMIT: u64 = u64::MAX;

/// Shared between the engine, which beats, and whoever asks.
#[derive(Debug)]
pub(super) struct Pulse {
    clock: Arc<dyn Clock>,
    beat: AtomicU64,
    commit_since: AtomicU64,
    stopped: AtomicBool,
}

impl Pulse {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let beat = AtomicU64::new(clock.elapsed().0);
        Self { clock, beat, commit_since: AtomicU64::new(NO_COMMIT), stopped: AtomicBool::new(false) }
    }

    /// The engine's loop went round.
    pub(super) fn beat(&self) {
        self.beat.store(self.clock.elapsed().0, Ordering::Relaxed);
    }

    /// A commit started.
    pub(super) fn commit_started(&self) {
        self.commit_since.store(self.clock.elapsed().0, Ordering::Relaxed);
    }

    /// It ended.
    pub(super) fn commit_ended(&self) {
        self.commit_since.store(NO_COMMIT, Ordering::Relaxed);
    }

    /// The engine ended, whyever.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_live(&self) -> bool {
        self.goes_round(LIVE_WITHIN)
    }

    /// Whether both went on within this time.
    pub(super) fn goes_round(&self, within: Span) -> bool {
        let now = self.clock.elapsed().0;
        let recent = |since: u64| now.saturating_sub(since) <= within.0;
        let commit = self.commit_since.load(Ordering::Relaxed);
        !self.stopped.load(Ordering::Relaxed)
            && recent(self.beat.load(Ordering::Relaxed))
            && (commit == NO_COMMIT || recent(commit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use orch_core::time::Wall;

    #[test]
    fn a_stuck_loop_and_a_stuck_commit_are_both_seen() {
        let clock = ManualClock::new(Wall(0));
        let pulse = Pulse::new(Arc::new(clock.clone()));
        clock.advance(LIVE_WITHIN);
        assert!(pulse.is_live());
        clock.advance(Span(1));
        assert!(!pulse.is_live());
        pulse.beat();
        pulse.commit_started();
        clock.advance(Span(LIVE_WITHIN.0 + 1));
        pulse.beat();
        assert!(!pulse.is_live(), "the commit has been stuck");
        pulse.commit_ended();
        assert!(pulse.is_live());
        pulse.stop();
        assert!(!pulse.is_live());
    }
}
