//! Whether a request may start: the rule for budgets that stop.
//!
//! A request may start when what was spent, the bounds of everything in flight and its own bound stay within the limit
//! of every budget over it; or when nothing else that counts against a budget it does not fit is in flight or may start,
//! and something of that is left. So at most one request passes the end of a budget, however many attempts share it.
//!
//! Knows sums; refuses to know attempts, agents and time.

use crate::budgets::{Amount, BudgetLimit};

/// A budget that stops, without the attempt in question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    pub(crate) limit: BudgetLimit,
    /// By attempts that ended.
    pub(crate) recorded: Amount,
    /// Held for other attempts.
    pub(crate) reserved: Amount,
    /// Of that: already spent by them.
    pub(crate) spent: Amount,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is room.
    Fits,
    /// One request may start, whatever it costs. The attempt may come to so much by what is left.
    Last(Amount),
    /// Not now.
    Waits,
}

impl Side {
    /// What is left for one attempt, its own spending included; [`u64::MAX`] for what is not limited.
    pub(crate) fn room(&self) -> Amount {
        let taken = self.recorded.plus(self.reserved);
        let left =
            |limit: Option<u64>, taken: u64| limit.map_or(u64::MAX, |limit| limit.saturating_sub(taken));
        Amount {
            micro_usd: left(self.limit.micro_usd, taken.micro_usd),
            tokens: left(self.limit.tokens, taken.tokens),
        }
    }

    fn fits(&self, wanted: Amount) -> bool {
        let room = self.room();
        wanted.micro_usd <= room.micro_usd && wanted.tokens <= room.tokens
    }

    /// Whether others may spend more of it than they have: they have requests in flight, or may start some.
    fn is_busy(&self) -> bool {
        let open = self.reserved.minus(self.spent);
        self.limit.micro_usd.is_some() && open.micro_usd > 0 || self.limit.tokens.is_some() && open.tokens > 0
    }
}

/// Judges a request that would raise the bound of an attempt from `own` to `wanted`. `idle` says that it has no other in
/// flight.
pub(crate) fn judge(sides: &[Side], own: Amount, wanted: Amount, idle: bool) -> Verdict {
    let mut least = Amount::new(u64::MAX, u64::MAX);
    let mut all_fit = true;
    for side in sides {
        let room = side.room();
        least = least.min(room);
        if side.fits(wanted) {
            continue;
        }
        all_fit = false;
        let left = own.micro_usd < room.micro_usd && own.tokens < room.tokens;
        if !idle || !left || side.is_busy() {
            return Verdict::Waits;
        }
    }
    if all_fit { Verdict::Fits } else { Verdict::Last(least) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(limit: u64, recorded: u64, reserved: u64, spent: u64) -> Side {
        let money = |micro_usd| Amount::new(micro_usd, 0);
        Side {
            limit: BudgetLimit { micro_usd: Some(limit), ..BudgetLimit::default() },
            recorded: money(recorded),
            reserved: money(reserved),
            spent: money(spent),
        }
    }

    fn usd(micro_usd: u64) -> Amount {
        Amount::new(micro_usd, 0)
    }

    #[test]
    fn what_stays_within_every_limit_fits() {
        let sides = [side(100, 40, 30, 10), side(1_000, 0, 0, 0)];
        assert_eq!(judge(&sides, usd(10), usd(30), false), Verdict::Fits);
        assert_eq!(judge(&sides, usd(10), usd(31), false), Verdict::Waits, "others may spend 20 more");
    }

    #[test]
    fn the_last_request_starts_only_when_nothing_else_may_spend_and_something_is_left() {
        let last = |sides: &[Side], own, idle| judge(sides, usd(own), usd(500), idle);
        assert_eq!(last(&[side(100, 40, 30, 30)], 10, true), Verdict::Last(Amount::new(30, u64::MAX)));
        assert_eq!(last(&[side(100, 40, 30, 29)], 10, true), Verdict::Waits, "another may spend 1 more");
        assert_eq!(last(&[side(100, 40, 30, 30)], 10, false), Verdict::Waits, "it has one in flight");
        assert_eq!(last(&[side(100, 40, 30, 30)], 30, true), Verdict::Waits, "nothing is left");
    }

    #[test]
    fn a_budget_that_is_fit_may_be_used_by_others_while_the_last_of_another_is() {
        let sides = [side(100, 90, 0, 0), side(1_000, 0, 50, 0)];
        assert_eq!(judge(&sides, usd(0), usd(20), true), Verdict::Last(Amount::new(10, u64::MAX)));
    }

    #[test]
    fn tokens_and_money_stop_each_for_itself() {
        let mut both = side(100, 0, 0, 0);
        both.limit.tokens = Some(1_000);
        assert_eq!(judge(&[both], Amount::ZERO, Amount::new(100, 1_000), true), Verdict::Fits);
        let last = judge(&[both], Amount::new(10, 999), Amount::new(20, 1_001), true);
        assert_eq!(last, Verdict::Last(Amount::new(100, 1_000)));
        assert_eq!(judge(&[both], Amount::new(10, 1_000), Amount::new(20, 1_001), true), Verdict::Waits);
    }
}
