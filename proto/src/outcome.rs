//! The one table of endings: what each outcome means for retries, crash counts, exit codes and people.
//! Knows no state and no runner; the coordinator hands its decision columns to the core as data.

use crate::v1::Outcome;

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutcomeRow {
    /// The outcome.
    pub outcome: Outcome,
    /// The word in JSON, logs and documentation.
    pub word: &'static str,
    /// Whether another attempt may be made while retries are left.
    pub retryable: bool,
    /// Whether it counts towards poison: attempts that took their agent or child down.
    pub counts_as_crash: bool,
    /// Whether the credential pool of the attempt should pause.
    pub pauses_pool: bool,
    /// Exit code of `orchctl run` and of `--wait`.
    pub exit_code: u8,
    /// What happened, in plain English.
    pub sentence: &'static str,
    /// What to do next.
    pub remedy: &'static str,
}

const fn row(
    outcome: Outcome,
    word: &'static str,
    (retryable, counts_as_crash, pauses_pool): (bool, bool, bool),
    exit_code: u8,
    sentence: &'static str,
    remedy: &'static str,
) -> OutcomeRow {
    OutcomeRow { outcome, word, retryable, counts_as_crash, pauses_pool, exit_code, sentence, remedy }
}

const STOP: (bool, bool, bool) = (false, false, false);
const RETRY: (bool, bool, bool) = (true, false, false);
const CRASH: (bool, bool, bool) = (true, true, false);
const PAUSE_RETRY: (bool, bool, bool) = (true, false, true);
const PAUSE_STOP: (bool, bool, bool) = (false, false, true);

/// Every outcome but `UNSPECIFIED`, in the order of the enumeration.
pub const OUTCOMES: [OutcomeRow; 20] = [
    row(Outcome::Ok, "ok", STOP, 0, "the work was done", "nothing to do"),
    row(
        Outcome::GateFailed,
        "gate_failed",
        STOP,
        1,
        "a check did not pass",
        "read the detail and the transcript, then `orchctl retry REF`",
    ),
    row(
        Outcome::SchemaInvalid,
        "schema_invalid",
        STOP,
        1,
        "the answer does not fit its schema",
        "loosen the schema or say in the prompt what it wants",
    ),
    row(
        Outcome::PermissionDenied,
        "permission_denied",
        STOP,
        1,
        "a tool that the task needed was denied",
        "allow the tool in the worker's file, or ask for less",
    ),
    row(Outcome::Refused, "refused", STOP, 1, "the model refused", "rephrase the request"),
    row(
        Outcome::RateLimited,
        "rate_limited",
        PAUSE_RETRY,
        1,
        "the credential hit a rate limit or a usage window",
        "wait for the reset, or use another credential",
    ),
    row(
        Outcome::Budget,
        "budget",
        STOP,
        9,
        "a budget stopped it",
        "`orchctl retry REF --budget AMOUNT`, or raise its own `budget_usd` and submit again",
    ),
    row(
        Outcome::MaxTurns,
        "max_turns",
        STOP,
        1,
        "the turn limit was reached",
        "raise max_turns, or split the task",
    ),
    row(
        Outcome::LimitOutput,
        "limit_output",
        STOP,
        1,
        "it wrote more than an attempt may",
        "ask for less output, or split the task",
    ),
    row(
        Outcome::Hang,
        "hang",
        RETRY,
        1,
        "the child lived on without a sign of work",
        "read the end of the transcript with `orchctl logs REF`",
    ),
    row(
        Outcome::Timeout,
        "timeout",
        STOP,
        1,
        "the attempt passed its time limit",
        "raise --task-timeout, or split the task",
    ),
    row(
        Outcome::Auth,
        "auth",
        PAUSE_STOP,
        1,
        "the credential was missing or not accepted",
        "`orchctl doctor` names the pool; mend its file, or sign in with `orch-agent login --pool P`",
    ),
    row(
        Outcome::ModelUnavailable,
        "model_unavailable",
        STOP,
        1,
        "the model does not exist or is not offered to this credential",
        "name another model in the worker's file or the task",
    ),
    row(
        Outcome::ApiError,
        "api_error",
        RETRY,
        1,
        "the API failed",
        "try again later with `orchctl retry REF`",
    ),
    row(
        Outcome::Crash,
        "crash",
        CRASH,
        1,
        "the child ended without a result",
        "read the end of the transcript with `orchctl logs REF`",
    ),
    row(
        Outcome::LostAgent,
        "lost_agent",
        CRASH,
        1,
        "the agent was lost while it ran",
        "look at the host with `orchctl agents`",
    ),
    row(Outcome::Cancelled, "cancelled", STOP, 9, "it was cancelled", "`orchctl retry REF` runs it again"),
    row(
        Outcome::Poison,
        "poison",
        STOP,
        1,
        "it took down too many attempts and is not tried again",
        "find the cause in the transcripts, then `orchctl retry --dead REF`",
    ),
    row(
        Outcome::SpawnFailed,
        "spawn_failed",
        RETRY,
        1,
        "the child could not be started",
        "check the agent: is the CLI installed, is the disk full?",
    ),
    row(
        Outcome::Skipped,
        "skipped",
        STOP,
        1,
        "not run, because a dependency did not succeed",
        "`orchctl retry REF` once the dependency succeeds",
    ),
];

impl Outcome {
    /// The row of this outcome; `None` for `Unspecified`.
    #[must_use]
    pub fn row(self) -> Option<&'static OutcomeRow> {
        OUTCOMES.iter().find(|row| row.outcome == self)
    }

    /// Whether another attempt may go on in the conversation that this ending left, where its agent keeps that: the work
    /// was cut off, and what it cost so far need not be paid twice.
    ///
    /// Not where the conversation came to its own end and that is the trouble: what was refused, denied or does not fit
    /// would be so again, and what a check found wrong is told as feedback. Whoever asks for another try after a limit
    /// (budget, turns, output, time) wants the rest of the work and not all of it again; a cancel is taken back in the
    /// same way.
    #[must_use]
    pub const fn may_go_on(self) -> bool {
        match self {
            Self::RateLimited
            | Self::Budget
            | Self::MaxTurns
            | Self::LimitOutput
            | Self::Hang
            | Self::Timeout
            | Self::Auth
            | Self::ModelUnavailable
            | Self::ApiError
            | Self::Crash
            | Self::LostAgent
            | Self::Cancelled => true,
            Self::Unspecified
            | Self::Ok
            | Self::GateFailed
            | Self::SchemaInvalid
            | Self::PermissionDenied
            | Self::Refused
            | Self::Poison
            | Self::SpawnFailed
            | Self::Skipped => false,
        }
    }

    /// The word of this outcome; empty for `Unspecified`.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.row().map_or("", |row| row.word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_one_row_in_order() {
        for (index, row) in OUTCOMES.iter().enumerate() {
            assert_eq!(row.outcome as usize, index + 1, "{}", row.word);
            assert_eq!(row.outcome.as_str_name().to_lowercase(), format!("outcome_{}", row.word));
        }
        assert!(Outcome::try_from(OUTCOMES.len() as i32 + 1).is_err(), "an outcome has no row");
    }

    #[test]
    fn only_ok_exits_zero() {
        assert!(OUTCOMES.iter().all(|row| (row.exit_code == 0) == (row.outcome == Outcome::Ok)));
    }
}
