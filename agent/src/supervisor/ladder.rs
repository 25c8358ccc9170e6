//! The stop ladder, as arithmetic: interrupt, SIGINT, SIGTERM, tree kill, with a wait after each rung.
//! Reads no clock and sends no signal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::boottime::BootMillis;

use super::stop::Rung;

/// How a child is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LadderPlan {
    /// The line that asks the child to interrupt itself. Absent: the child understands none.
    pub interrupt_line: Option<String>,
    /// Whether SIGINT is a request the child understands.
    pub int: bool,
    /// How long to wait after a rung before the next, in milliseconds.
    pub step_ms: u64,
}

impl LadderPlan {
    /// Ladder of the Claude CLI: every rung, because only an interrupt or SIGINT ends its tools and brings a
    /// result (SIGTERM ends the CLI without one).
    #[must_use]
    pub fn claude(interrupt_line: String) -> Self {
        Self { interrupt_line: Some(interrupt_line), int: true, step_ms: DEFAULT_STEP_MS }
    }

    /// Ladder of any other program: SIGTERM, then the tree.
    #[must_use]
    pub fn program() -> Self {
        Self { interrupt_line: None, int: false, step_ms: DEFAULT_STEP_MS }
    }

    fn offers(&self, rung: Rung) -> bool {
        match rung {
            Rung::Interrupt => self.interrupt_line.is_some(),
            Rung::Int => self.int,
            Rung::Term | Rung::TreeKill => true,
        }
    }
}

/// A CLI that is asked to stop answers within a quarter of a second; a loaded host takes a few.
pub const DEFAULT_STEP_MS: u64 = 4_000;

/// A ladder being climbed.
#[derive(Debug, Clone)]
pub struct Ladder {
    plan: LadderPlan,
    climbed: Option<(Rung, BootMillis)>,
}

impl Ladder {
    /// A ladder nobody stands on.
    #[must_use]
    pub fn new(plan: LadderPlan) -> Self {
        Self { plan, climbed: None }
    }

    /// Asks for a stop that begins at `from`. Returns the rung to act on; `None` when the ladder is already
    /// at or above it.
    pub fn begin(&mut self, now: BootMillis, from: Rung) -> Option<Rung> {
        let first = self.first_offered(from);
        match self.climbed {
            Some((rung, _)) if rung >= first => None,
            Some(_) | None => self.stand_on(now, first),
        }
    }

    /// The next rung to act on, once the wait after the current one is over. The last rung is repeated:
    /// a tree that could not be killed at once is tried again.
    pub fn climb(&mut self, now: BootMillis) -> Option<Rung> {
        if self.next_at()? > now {
            return None;
        }
        let (rung, _) = self.climbed?;
        let above = match rung {
            Rung::Interrupt => Rung::Int,
            Rung::Int => Rung::Term,
            Rung::Term | Rung::TreeKill => Rung::TreeKill,
        };
        let next = self.first_offered(above);
        self.stand_on(now, next)
    }

    /// When [`Self::climb`] has something to do.
    #[must_use]
    pub fn next_at(&self) -> Option<BootMillis> {
        self.climbed.map(|(_, since)| since.plus(Duration::from_millis(self.plan.step_ms)))
    }

    /// The rung reached so far.
    #[must_use]
    pub fn rung(&self) -> Option<Rung> {
        self.climbed.map(|(rung, _)| rung)
    }

    /// The line of the first rung.
    #[must_use]
    pub fn interrupt_line(&self) -> Option<&str> {
        self.plan.interrupt_line.as_deref()
    }

    fn first_offered(&self, from: Rung) -> Rung {
        [Rung::Interrupt, Rung::Int, Rung::Term]
            .into_iter()
            .find(|rung| *rung >= from && self.plan.offers(*rung))
            .unwrap_or(Rung::TreeKill)
    }

    fn stand_on(&mut self, now: BootMillis, rung: Rung) -> Option<Rung> {
        self.climbed = Some((rung, now));
        Some(rung)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn climb_all(mut ladder: Ladder, from: Rung) -> Vec<Rung> {
        let mut rungs: Vec<Rung> = ladder.begin(BootMillis(0), from).into_iter().collect();
        while rungs.last() != Some(&Rung::TreeKill) {
            let at = ladder.next_at().unwrap();
            assert_eq!(ladder.climb(BootMillis(at.0 - 1)), None);
            rungs.extend(ladder.climb(at));
        }
        rungs
    }

    #[test]
    fn the_claude_ladder_uses_every_rung_in_order() {
        let ladder = Ladder::new(LadderPlan::claude("{}".to_owned()));
        assert_eq!(
            climb_all(ladder, Rung::Interrupt),
            [Rung::Interrupt, Rung::Int, Rung::Term, Rung::TreeKill]
        );
    }

    #[test]
    fn a_program_is_terminated_then_killed() {
        assert_eq!(
            climb_all(Ladder::new(LadderPlan::program()), Rung::Interrupt),
            [Rung::Term, Rung::TreeKill]
        );
    }

    #[test]
    fn a_stronger_stop_jumps_ahead_and_a_weaker_one_changes_nothing() {
        let mut ladder = Ladder::new(LadderPlan::claude("{}".to_owned()));
        assert_eq!(ladder.begin(BootMillis(0), Rung::Interrupt), Some(Rung::Interrupt));
        assert_eq!(ladder.begin(BootMillis(1), Rung::Interrupt), None);
        assert_eq!(ladder.begin(BootMillis(1), Rung::TreeKill), Some(Rung::TreeKill));
        assert_eq!(ladder.begin(BootMillis(2), Rung::Int), None);
        assert_eq!(ladder.rung(), Some(Rung::TreeKill));
    }

    #[test]
    fn the_last_rung_is_repeated_until_nothing_is_left() {
        let mut ladder = Ladder::new(LadderPlan::program());
        ladder.begin(BootMillis(0), Rung::TreeKill);
        assert_eq!(ladder.climb(BootMillis(DEFAULT_STEP_MS)), Some(Rung::TreeKill));
        assert_eq!(ladder.climb(BootMillis(2 * DEFAULT_STEP_MS)), Some(Rung::TreeKill));
    }
}
