//! The credit of one meter in one session with the coordinator. Every amount that was granted is in exactly one place:
//!
//! `granted = free + held + used + returned`
//!
//! Knows sums; refuses to know requests and times. Pure.

use super::amounts::Amounts;

/// Credit of one (pool, class of models, worker).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    granted: Amounts,
    used: Amounts,
    returned: Amounts,
    held: Amounts,
    /// What requests took beyond all that was there. The next grants pay it before anybody else has them.
    debt: Amounts,
}

impl Credit {
    /// Everything that was ever granted in this session.
    #[must_use]
    pub const fn granted(&self) -> Amounts {
        self.granted
    }

    /// Of it: what the API has counted.
    #[must_use]
    pub const fn used(&self) -> Amounts {
        self.used
    }

    /// Of it: what was given back.
    #[must_use]
    pub const fn returned(&self) -> Amounts {
        self.returned
    }

    /// Of it: what requests in flight hold.
    #[must_use]
    pub const fn held(&self) -> Amounts {
        self.held
    }

    /// What was used and not granted yet.
    #[must_use]
    pub const fn debt(&self) -> Amounts {
        self.debt
    }

    /// Of what was granted: what nobody has.
    #[must_use]
    pub fn free(&self) -> Amounts {
        self.granted.minus(self.used).minus(self.returned).minus(self.held)
    }

    /// The coordinator's total. A lower one is of the past. Says whether it is news.
    pub fn grant(&mut self, total: Amounts) -> bool {
        let before = self.granted;
        self.granted = self.granted.max(total);
        self.pay();
        self.granted != before
    }

    /// Sets so much aside, if there is so much.
    pub fn hold(&mut self, need: Amounts) -> bool {
        let enough = self.free().covers(need);
        if enough {
            self.held = self.held.plus(need);
        }
        enough
    }

    /// A request that held so much has taken so much. What it did not take is free again; what it took beyond that is
    /// paid from what is free, and else owed.
    pub fn settle(&mut self, held: Amounts, took: Amounts) {
        self.held = self.held.minus(held);
        self.debt = self.debt.plus(took);
        self.pay();
    }

    fn pay(&mut self) {
        let paid = self.debt.min(self.free());
        self.used = self.used.plus(paid);
        self.debt = self.debt.minus(paid);
    }

    /// Gives back what is free beyond `keep`. Says whether that was anything.
    pub fn give_back(&mut self, keep: Amounts) -> bool {
        let back = self.free().minus(keep);
        self.returned = self.returned.plus(back);
        !back.is_nothing()
    }

    /// What is missing for requests that need `need` together.
    #[must_use]
    pub fn missing(&self, need: Amounts) -> Amounts {
        need.plus(self.debt).minus(self.free())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amounts(most: u64) -> impl Strategy<Value = Amounts> {
        (0..3_u64, 0..most, 0..most, 0..2_u64).prop_map(|(requests, input, output, concurrent)| Amounts {
            requests,
            input,
            output,
            concurrent,
        })
    }

    #[derive(Debug, Clone)]
    enum Op {
        Grant(Amounts),
        Hold(Amounts),
        Settle(usize, Amounts),
        GiveBack(Amounts),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            amounts(900).prop_map(Op::Grant),
            amounts(600).prop_map(Op::Hold),
            (0..4_usize, amounts(800)).prop_map(|(at, took)| Op::Settle(at, took)),
            amounts(50).prop_map(Op::GiveBack),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_was_granted_is_in_exactly_one_place_and_what_was_used_is_never_forgotten(
            ops in prop::collection::vec(op(), 1..60),
        ) {
            let (mut credit, mut flying, mut took_all) = (Credit::default(), Vec::new(), Amounts::default());
            for op in ops {
                match op {
                    Op::Grant(more) => drop(credit.grant(credit.granted().plus(more))),
                    Op::Hold(need) => {
                        let free = credit.free();
                        prop_assert_eq!(credit.hold(need), free.covers(need));
                        if free.covers(need) {
                            flying.push(need);
                        }
                    }
                    Op::Settle(at, took) if at < flying.len() => {
                        credit.settle(flying.swap_remove(at), took);
                        took_all = took_all.plus(took);
                    }
                    Op::Settle(..) => {}
                    Op::GiveBack(keep) => drop(credit.give_back(keep)),
                }
                let places = credit.free().plus(credit.held()).plus(credit.used()).plus(credit.returned());
                prop_assert_eq!(places, credit.granted());
                prop_assert_eq!(credit.used().plus(credit.debt()), took_all);
                let held = flying.iter().fold(Amounts::default(), |sum, held| sum.plus(*held));
                prop_assert_eq!(credit.held(), held);
                // Whoever owes has nothing free of the same kind.
                prop_assert!(credit.debt().min(credit.free()).is_nothing());
            }
        }
    }

    #[test]
    fn a_late_grant_takes_nothing_back_and_a_debt_is_paid_first() {
        let tokens = |input| Amounts { input, ..Amounts::default() };
        let mut credit = Credit::default();
        assert!(credit.grant(tokens(100)) && !credit.grant(tokens(50)));
        assert!(credit.hold(tokens(100)) && !credit.hold(tokens(1)));
        credit.settle(tokens(100), tokens(130));
        assert_eq!((credit.debt(), credit.missing(tokens(10))), (tokens(30), tokens(40)));
        credit.grant(tokens(140));
        assert_eq!((credit.free(), credit.used()), (tokens(10), tokens(130)));
        assert!(credit.give_back(Amounts::default()) && !credit.give_back(Amounts::default()));
        assert_eq!(credit.returned(), tokens(10));
    }
}
