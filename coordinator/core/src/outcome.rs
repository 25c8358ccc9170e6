//! How attempts end, as numbers, and what follows from each, as data handed in by the driver.
//! The words, sentences and exit codes stand in `orch-proto`; the core knows only what it decides by.

/// An ending. The numbers are those of the wire; a test of the coordinator compares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome(pub u8);

impl Outcome {
    /// The work was done.
    pub const OK: Self = Self(1);
    /// The work was done, but does not hold: a check, a gate or a review says so.
    pub const GATE_FAILED: Self = Self(2);
    /// The answer is not of the form that was asked for; of a plan: it cannot be carried out.
    pub const SCHEMA_INVALID: Self = Self(3);
    /// The API or a subscription window limited the credential.
    pub const RATE_LIMITED: Self = Self(6);
    /// A budget stopped the work.
    pub const BUDGET: Self = Self(7);
    /// The child ended without a result.
    pub const CRASH: Self = Self(15);
    /// The agent was lost.
    pub const LOST_AGENT: Self = Self(16);
    /// Somebody asked for the end.
    pub const CANCELLED: Self = Self(17);
    /// It took down too many attempts.
    pub const POISON: Self = Self(18);
    /// The child could not be started.
    pub const SPAWN_FAILED: Self = Self(19);
    /// Never run, because a dependency did not succeed.
    pub const SKIPPED: Self = Self(20);
}

/// The decision columns of one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OutcomeRule {
    /// Another attempt may be made while retries are left.
    pub retryable: bool,
    /// Counts towards poison.
    pub counts_as_crash: bool,
    /// The next attempt may go on in the conversation that this one left.
    pub goes_on: bool,
}

/// The decision columns of all outcomes, by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct OutcomeRules(pub Vec<OutcomeRule>);

impl OutcomeRules {
    /// The rule of an outcome; unknown ones are neither retried nor counted.
    #[must_use]
    pub fn rule(&self, outcome: Outcome) -> OutcomeRule {
        self.0.get(usize::from(outcome.0)).copied().unwrap_or_default()
    }
}
