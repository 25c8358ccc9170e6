//! Money and tokens together, added and compared part by part.
//! Knows arithmetic that saturates; refuses to know what is limited.

use crate::budgets::Spent;
use crate::usage::Usage;

/// Money and tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Amount {
    /// Millionths of a US dollar.
    pub(crate) micro_usd: u64,
    /// Tokens of every kind.
    pub(crate) tokens: u64,
}

impl Amount {
    pub(crate) const ZERO: Self = Self { micro_usd: 0, tokens: 0 };

    pub(crate) const fn new(micro_usd: u64, tokens: u64) -> Self {
        Self { micro_usd, tokens }
    }

    /// The money and the tokens of a usage.
    pub(crate) fn of(usage: &Usage) -> Self {
        let tokens = usage.models.iter().fold(0_u64, |sum, row| {
            let input = row.input.saturating_add(row.cache_read).saturating_add(row.cache_write);
            sum.saturating_add(input).saturating_add(row.output)
        });
        Self { micro_usd: usage.cost_micro_usd, tokens }
    }

    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            micro_usd: self.micro_usd.saturating_add(other.micro_usd),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    pub(crate) const fn minus(self, other: Self) -> Self {
        Self {
            micro_usd: self.micro_usd.saturating_sub(other.micro_usd),
            tokens: self.tokens.saturating_sub(other.tokens),
        }
    }

    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { micro_usd: self.micro_usd.max(other.micro_usd), tokens: self.tokens.max(other.tokens) }
    }

    /// The smaller of each.
    pub(crate) fn min(self, other: Self) -> Self {
        Self { micro_usd: self.micro_usd.min(other.micro_usd), tokens: self.tokens.min(other.tokens) }
    }

    pub(crate) const fn is_zero(self) -> bool {
        self.micro_usd == 0 && self.tokens == 0
    }
}

impl From<Amount> for Spent {
    fn from(Amount { micro_usd, tokens }: Amount) -> Self {
        Self { micro_usd, tokens, runs: 0 }
    }
}

impl From<Spent> for Amount {
    fn from(spent: Spent) -> Self {
        Self { micro_usd: spent.micro_usd, tokens: spent.tokens }
    }
}
