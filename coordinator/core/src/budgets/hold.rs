//! What one attempt may spend, has spent and wants: the reservation of a live attempt, or of one whose bill is open.
//! Knows one attempt; which budgets have room is [`super::admit`]'s.

use crate::budgets::{AccountKey, Allowance, Amount};
use crate::time::Tick;
use std::sync::Arc;

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Hold {
    /// Budgets over it that limit money or tokens, of every mode.
    pub(crate) accounts: Vec<AccountKey>,
    /// Whether one of them stops it by money.
    pub(crate) by_money: bool,
    /// Whether one of them stops it by tokens.
    pub(crate) by_tokens: bool,
    /// The credential pool it is taken to use, or empty.
    pub(crate) pool: Arc<str>,
    /// The most that it may come to by what it was told: durable before it is told.
    pub(crate) promised: Amount,
    /// By requests that ended.
    pub(crate) spent: Amount,
    /// The most that this can become by the requests in flight.
    pub(crate) bound: Amount,
    /// What the waiting request would raise the bound to; zero when none waits.
    pub(crate) wanted: Amount,
    pub(crate) in_flight: u32,
    /// What it was told last. After a restart: what it was promised.
    pub(crate) told: Allowance,
    /// The most that the one request may come to that it was given beyond what there is.
    pub(crate) last: Amount,
    /// The newest `seq` its agent acts by.
    pub(crate) seen: u64,
    /// Its place among those that wait for room.
    pub(crate) waits: Option<u64>,
    /// It ended without a bill: until then that may come, afterwards it counts as spent.
    pub(crate) ended: Option<Tick>,
}

impl Hold {
    /// What it takes of its budgets beyond what is recorded.
    pub(crate) fn reserved(&self) -> Amount {
        self.promised.max(self.bound).max(self.spent)
    }

    /// Whether a budget over it stops it.
    pub(crate) const fn is_limited(&self) -> bool {
        self.by_money || self.by_tokens
    }

    /// Whether it may spend nothing more.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.bound == self.spent
    }

    /// What the last word to it allows, as far as it is limited.
    pub(crate) fn told_amount(&self) -> Amount {
        Amount::new(self.told.micro_usd.unwrap_or(0), self.told.tokens.unwrap_or(0))
    }

    /// The parts of `amount` that are limited.
    pub(crate) fn limited(&self, amount: Amount) -> Amount {
        Amount {
            micro_usd: if self.by_money { amount.micro_usd } else { 0 },
            tokens: if self.by_tokens { amount.tokens } else { 0 },
        }
    }

    /// Whether it was told more than its requests in flight need.
    pub(crate) fn has_unused(&self) -> bool {
        let unused = self.limited(self.told_amount()).minus(self.bound);
        self.ended.is_none() && (!unused.is_zero() || self.told.one_more)
    }

    /// Its agent acts by the newest word: what earlier ones promised beyond that is free, but for the requests that began by
    /// them.
    pub(crate) fn settle_promise(&mut self) {
        let last = if self.told.one_more { self.last } else { Amount::ZERO };
        self.promised = self.limited(self.told_amount().max(last).max(self.bound));
    }

    /// After a restart nobody knows what it was told last: no more than it was promised.
    pub(crate) fn tell_promise(&mut self) {
        if self.told.seq == 0 {
            self.told.micro_usd = self.by_money.then_some(self.promised.micro_usd);
            self.told.tokens = self.by_tokens.then_some(self.promised.tokens);
        }
    }
}
