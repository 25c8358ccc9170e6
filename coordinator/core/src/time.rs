//! Time without a clock. A [`Tick`] is for arithmetic and goes on over restarts; a [`Wall`] is for people.
//! Knows no clock; both come in with every event.

use std::ops::{Add, Sub};

/// Milliseconds of coordinator time: continued from the last durable tick, advanced by a boot-time clock.
/// Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub u64);

/// Wall clock, milliseconds since 1970 UTC. May jump; never compared, only shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub i64);

/// Both readings of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Now {
    /// For arithmetic.
    pub tick: Tick,
    /// For people.
    pub wall: Wall,
}

impl Span {
    /// `n` seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Self {
        Self(n * 1_000)
    }

    /// `n` minutes.
    #[must_use]
    pub const fn minutes(n: u64) -> Self {
        Self(n * 60_000)
    }

    /// `n` hours.
    #[must_use]
    pub const fn hours(n: u64) -> Self {
        Self(n * 3_600_000)
    }

    /// `n` days.
    #[must_use]
    pub const fn days(n: u64) -> Self {
        Self(n * 86_400_000)
    }
}

impl Add<Span> for Tick {
    type Output = Self;

    /// Saturates: a deadline too far away is never reached.
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Wall {
    type Output = Self;

    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub_unsigned(span.0))
    }
}

impl Sub for Tick {
    type Output = Span;

    /// Saturates: nothing was before itself.
    fn sub(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}
