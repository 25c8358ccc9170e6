//! What one attempt has spent and may spend: the budget of its task, which the agent keeps by itself, and the allowance
//! that the coordinator gives it out of budgets over more than one task. Pure.
//!
//! A request may start if everything that was spent, the most that those in flight can cost and the most that it can cost
//! itself are within the limit; or alone, while anything is left: a limit is passed by one request at most.

use crate::runner::shorten;
use serde::{Deserialize, Serialize};

/// What the coordinator says an attempt may spend. The default is: whatever it likes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allowance {
    /// Requests may start as long as their bound stays within this, in millionths of a US dollar.
    pub micro_usd: Option<u64>,
    /// The same in tokens.
    pub tokens: Option<u64>,
    /// One request may start whatever it costs, if no other of the attempt is in flight.
    pub one_more: bool,
    /// Nothing more will be given.
    pub spent: bool,
    /// Which budget that is, for people.
    pub detail: String,
    /// Rises with everything that is said of one attempt.
    pub seq: u64,
}

/// Money and tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spend {
    /// Millionths of a US dollar.
    pub micro_usd: u64,
    /// Tokens of every kind.
    pub tokens: u64,
}

impl Spend {
    /// The sum; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            micro_usd: self.micro_usd.saturating_add(other.micro_usd),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            micro_usd: self.micro_usd.saturating_sub(other.micro_usd),
            tokens: self.tokens.saturating_sub(other.tokens),
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It may go.
    Go,
    /// Not yet: others of the attempt are in flight, or the coordinator has to be asked.
    Wait {
        /// The coordinator has to be asked.
        ask: bool,
    },
    /// Never: the budget that is named is spent.
    Spent(String),
}

/// The purse of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purse {
    /// Ceiling of the task's own, in millionths of a US dollar.
    own_micro_usd: Option<u64>,
    allowance: Option<Allowance>,
    spent: Spend,
    /// The most that requests in flight can cost.
    flying: Spend,
    in_flight: u32,
    estimated: bool,
    /// What the next waiting request would raise the bound to.
    wanted: Spend,
    /// The dearest call so far; for attempts whose requests nobody asks about beforehand.
    dearest: Spend,
}

/// Longest name of a budget that is passed on, in bytes.
const LONGEST_DETAIL: usize = 300;

/// What the next call of an attempt without a gateway is taken to cost before any was seen: a tenth of a dollar, and the
/// tokens of a large first request.
const FIRST_CALL: Spend = Spend { micro_usd: 100_000, tokens: 30_000 };

impl Purse {
    /// A purse for an attempt whose task has a ceiling of its own and that was given an allowance.
    #[must_use]
    pub fn new(own_micro_usd: Option<u64>, allowance: Option<Allowance>) -> Self {
        Self { own_micro_usd, allowance, ..Self::default() }
    }

    /// What the coordinator says now; what it said before that is not heeded any more.
    pub fn allow(&mut self, allowance: Allowance) {
        if self.allowance.as_ref().is_none_or(|newest| allowance.seq > newest.seq) {
            self.allowance = Some(allowance);
        }
    }

    /// Number of the newest allowance; 0 without one.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.allowance.as_ref().map_or(0, |allowance| allowance.seq)
    }

    /// Whether the coordinator counts what the attempt spends.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.allowance.is_some()
    }

    /// Whether a request that can cost `worst` may start. One that may counts as in flight from now on.
    pub fn admit(&mut self, worst: Spend) -> Admission {
        let bound = self.bound().plus(worst);
        let is_alone = self.in_flight == 0;
        if let Some(own) = self.own_micro_usd {
            if self.spent.micro_usd >= own {
                return Admission::Spent(format!(
                    "budget of the task: {} of {}",
                    usd(self.spent.micro_usd),
                    usd(own)
                ));
            }
            if bound.micro_usd > own && !is_alone {
                return Admission::Wait { ask: false };
            }
        }
        if let Some(allowance) = &mut self.allowance {
            if allowance.spent {
                return Admission::Spent(shorten(allowance.detail.clone(), LONGEST_DETAIL));
            }
            if !is_within(allowance, bound) {
                if !(allowance.one_more && is_alone) {
                    self.wanted = bound;
                    return Admission::Wait { ask: true };
                }
                // It is given once.
                allowance.one_more = false;
            }
        }
        self.fly(worst);
        Admission::Go
    }

    /// A request is in flight that was let go before.
    pub fn fly(&mut self, worst: Spend) {
        self.wanted = Spend::default();
        self.flying = self.flying.plus(worst);
        self.in_flight += 1;
    }

    /// A request that could cost `worst` is over; what it cost is told by [`Self::spend`].
    pub fn land(&mut self, worst: Spend) {
        self.flying = self.flying.minus(worst);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// No request waits for the coordinator any more.
    pub fn want_nothing(&mut self) {
        self.wanted = Spend::default();
    }

    /// Everything spent so far. Never less than before: what a bill says less than an estimate was spent nevertheless, as
    /// far as anybody was told.
    pub fn spend(&mut self, total: Spend, estimated: bool) {
        self.dearest = Spend {
            micro_usd: self.dearest.micro_usd.max(total.micro_usd.saturating_sub(self.spent.micro_usd)),
            tokens: self.dearest.tokens.max(total.tokens.saturating_sub(self.spent.tokens)),
        };
        self.spent = total;
        self.estimated = estimated;
    }

    /// For an attempt whose requests nobody asks about: whether it may go on. It always counts as having one request in
    /// flight, as dear as the dearest so far.
    pub fn goes_on(&mut self) -> Admission {
        let seen = self.dearest != Spend::default();
        self.flying = if seen { self.dearest } else { FIRST_CALL };
        self.in_flight = 1;
        let bound = self.bound();
        let Some(allowance) = &self.allowance else { return Admission::Go };
        if is_within(allowance, bound) {
            self.wanted = Spend::default();
            return Admission::Go;
        }
        if allowance.spent && !is_within(allowance, self.spent.plus(Spend { micro_usd: 1, tokens: 1 })) {
            return Admission::Spent(shorten(allowance.detail.clone(), LONGEST_DETAIL));
        }
        self.wanted = bound;
        Admission::Wait { ask: !allowance.spent }
    }

    /// Spent by requests that ended.
    #[must_use]
    pub const fn spent(&self) -> Spend {
        self.spent
    }

    /// The most that can become.
    #[must_use]
    pub const fn bound(&self) -> Spend {
        self.spent.plus(self.flying)
    }

    /// What the next waiting request would raise that to; nothing when none waits.
    #[must_use]
    pub const fn wanted(&self) -> Spend {
        self.wanted
    }

    /// Requests in flight.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether part of what was spent is estimated.
    #[must_use]
    pub const fn is_estimated(&self) -> bool {
        self.estimated
    }
}

fn is_within(allowance: &Allowance, bound: Spend) -> bool {
    allowance.micro_usd.is_none_or(|most| bound.micro_usd <= most)
        && allowance.tokens.is_none_or(|most| bound.tokens <= most)
}

/// Millionths of a dollar as dollars, to the cent where that is exact.
#[must_use]
pub fn usd(micro_usd: u64) -> String {
    let (whole, part) = (micro_usd / 1_000_000, micro_usd % 1_000_000);
    if part % 10_000 == 0 {
        format!("${whole}.{:02}", part / 10_000)
    } else {
        format!("${whole}.{:04}", part / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn cost(micro_usd: u64) -> Spend {
        Spend { micro_usd, tokens: micro_usd }
    }

    fn allowance(micro_usd: u64) -> Allowance {
        Allowance { micro_usd: Some(micro_usd), ..Allowance::default() }
    }

    #[test]
    fn within_an_allowance_requests_go_and_beyond_it_the_coordinator_is_asked() {
        let mut purse = Purse::new(None, Some(allowance(100)));
        assert_eq!(purse.admit(cost(60)), Admission::Go);
        assert_eq!(purse.admit(cost(60)), Admission::Wait { ask: true });
        assert_eq!((purse.bound(), purse.wanted()), (cost(60), cost(120)));
        purse.land(cost(60));
        purse.spend(cost(20), false);
        assert_eq!(purse.admit(cost(60)), Admission::Go);
        assert_eq!(purse.wanted(), Spend::default());
    }

    #[test]
    fn the_last_of_a_budget_lets_one_request_go_alone() {
        let mut purse = Purse::new(None, Some(Allowance { one_more: true, ..allowance(100) }));
        assert_eq!(purse.admit(cost(90)), Admission::Go);
        assert_eq!(purse.admit(cost(90)), Admission::Wait { ask: true }, "not beside another");
        purse.land(cost(90));
        purse.spend(cost(80), false);
        assert_eq!(purse.admit(cost(90)), Admission::Go);
        purse.land(cost(90));
        purse.spend(cost(170), false);
        assert_eq!(purse.admit(cost(1)), Admission::Wait { ask: true }, "only once");
        let spent = Allowance { spent: true, detail: "budget of run a/1".to_owned(), ..allowance(100) };
        purse.allow(spent.clone());
        assert_eq!(
            purse.admit(cost(1)),
            Admission::Wait { ask: true },
            "what was said before counts no more"
        );
        purse.allow(Allowance { seq: 1, ..spent });
        assert_eq!(purse.admit(cost(1)), Admission::Spent("budget of run a/1".to_owned()));
    }

    #[test]
    fn tokens_are_limited_as_money_is() {
        let limit = Allowance { tokens: Some(10), ..Allowance::default() };
        let mut purse = Purse::new(None, Some(limit));
        let request = Spend { micro_usd: 9_000_000, tokens: 8 };
        assert_eq!(purse.admit(request), Admission::Go);
        assert_eq!(purse.admit(Spend { micro_usd: 1, tokens: 3 }), Admission::Wait { ask: true });
    }

    #[test]
    fn an_attempt_without_a_gateway_goes_on_until_what_it_has_spent_is_all() {
        let mut purse = Purse::new(None, Some(allowance(250_000)));
        assert_eq!(purse.goes_on(), Admission::Go);
        purse.spend(cost(120_000), true);
        assert_eq!(purse.goes_on(), Admission::Go);
        purse.spend(cost(200_000), true);
        assert_eq!((purse.goes_on(), purse.wanted()), (Admission::Wait { ask: true }, cost(320_000)));
        purse.allow(Allowance { spent: true, detail: "b".to_owned(), seq: 1, ..allowance(250_000) });
        assert_eq!(purse.goes_on(), Admission::Wait { ask: false }, "something is left");
        purse.spend(cost(250_000), true);
        assert_eq!(purse.goes_on(), Admission::Spent("b".to_owned()));
        assert_eq!(Purse::default().goes_on(), Admission::Go);
    }

    #[test]
    fn money_is_shown_to_the_cent_where_that_is_exact() {
        assert_eq!([usd(5_000_000), usd(12_345)], ["$5.00", "$0.0123"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The rule of hard budgets: passed by one request at most, whatever they cost within their bounds.
        #[test]
        fn a_budget_is_passed_by_one_request_at_most(
            own in 0..1_000_u64,
            requests in prop::collection::vec((1..400_u64, 0..=100_u64, any::<bool>()), 1..60),
        ) {
            let mut purse = Purse::new(Some(own), None);
            let (mut flying, mut spent, mut last) = (Vec::new(), 0, 0);
            for (worst, percent, wait) in requests {
                if wait && let Some((worst, takes)) = flying.pop() {
                    purse.land(cost(worst));
                    spent += takes;
                    purse.spend(cost(spent), false);
                }
                if purse.admit(cost(worst)) == Admission::Go {
                    flying.push((worst, worst * percent / 100));
                    last = last.max(worst);
                }
            }
            let all = spent + flying.iter().map(|(_, takes)| takes).sum::<u64>();
            prop_assert!(all <= own + last, "{all} of {own}, the dearest {last}");
        }
    }
}
