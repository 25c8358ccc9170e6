//! What a request takes of a rate limit. Knows sums; refuses to know whose.

use orch_proto::v1;

/// Requests, tokens, and requests at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Requests.
    pub requests: u64,
    /// Input tokens that count: those read from the cache do not.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Requests at a time; given back when a request ends.
    pub concurrent: u64,
}

impl Amounts {
    /// Of each the result of `join`.
    fn zip(self, other: Self, join: fn(u64, u64) -> u64) -> Self {
        Self {
            requests: join(self.requests, other.requests),
            input: join(self.input, other.input),
            output: join(self.output, other.output),
            concurrent: join(self.concurrent, other.concurrent),
        }
    }

    /// The sum; saturates.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// What is left of it; nothing less than zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// Of each the larger.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    /// Of each the smaller.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        self.zip(other, u64::min)
    }

    /// Whether there is enough of each.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other.minus(self) == Self::default()
    }

    /// Whether there is nothing of any.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl From<v1::Amounts> for Amounts {
    fn from(wire: v1::Amounts) -> Self {
        Self {
            requests: wire.requests,
            input: wire.input_tokens,
            output: wire.output_tokens,
            concurrent: wire.concurrent,
        }
    }
}

impl From<Amounts> for v1::Amounts {
    fn from(amounts: Amounts) -> Self {
        Self {
            requests: amounts.requests,
            input_tokens: amounts.input,
            output_tokens: amounts.output,
            concurrent: amounts.concurrent,
        }
    }
}
