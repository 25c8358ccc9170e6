//! How an attempt ended, as runners say it: an outcome, the answer, what it cost. Knows what a stop means for an outcome;
//! refuses to know how an ending was found out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orch_proto::v1::Outcome;

use super::{Collected, GateResult, LONGEST_DETAIL};
use crate::homes::claims::Occupied;
use crate::supervisor::stop::StopCause;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptReport {
    /// Typed ending.
    pub outcome: Outcome,
    /// What happened, in plain English.
    pub detail: String,
    /// The answer.
    pub answer: Option<String>,
    /// The structured answer as JSON.
    pub structured: Option<String>,
    /// Tokens and money.
    pub usage: Usage,
    /// Turns.
    pub num_turns: u32,
    /// CLI session.
    pub session_id: Option<String>,
    /// Exit code of the child, when it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended the child, when one did.
    pub signal: Option<i32>,
    /// CPU of its process tree.
    pub cpu: Duration,
    /// Largest memory of its process tree in bytes.
    pub peak_memory_bytes: u64,
    /// Tools that were denied.
    pub denied_tools: Vec<String>,
    /// From the start of the child to its end.
    pub duration: Duration,
    /// Bytes of its transcript.
    pub transcript_bytes: u64,
    /// Earliest time another attempt makes sense.
    pub retry_after: Option<Duration>,
    /// What was found when gates were checked.
    pub gates: Vec<GateResult>,
    /// What the worker is to be told if it is sent back; with `gate_failed` of a gate.
    pub feedback: Option<String>,
    /// Tool calls, sub-agents' included.
    pub tool_calls: u32,
    /// Nothing was run: an earlier result fits.
    pub reused: bool,
    /// State of the workspace it saw.
    pub tree: Option<[u8; 32]>,
    /// The directory whose files are handed over; set by the runner with `ok` and `gate_failed`.
    pub artifacts_from: Option<PathBuf>,
    /// Its files once they are collected.
    pub artifacts: Option<Collected>,
    /// Keeps others out of that directory until they are.
    pub occupied: Occupied,
    /// Credential pool it used, or empty.
    pub pool: String,
    /// The limit it ran into.
    pub limit: Option<LimitHit>,
    /// Requests that its gateway counted.
    pub api_requests: u32,
}

/// The limit that ended an attempt for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitHit {
    /// Pool name.
    pub pool: String,
    /// The window, or empty.
    pub window: String,
    /// A window is used up: the conversation is to be parked.
    pub exhausted: bool,
}

impl AttemptReport {
    /// A report that consists of an outcome and a reason.
    #[must_use]
    pub fn of(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self {
            outcome,
            detail: shorten(detail.into(), LONGEST_DETAIL),
            answer: None,
            structured: None,
            usage: Usage::default(),
            num_turns: 0,
            session_id: None,
            exit_code: None,
            signal: None,
            cpu: Duration::ZERO,
            peak_memory_bytes: 0,
            denied_tools: Vec::new(),
            duration: Duration::ZERO,
            transcript_bytes: 0,
            retry_after: None,
            gates: Vec::new(),
            feedback: None,
            tool_calls: 0,
            reused: false,
            tree: None,
            pool: String::new(),
            limit: None,
            api_requests: 0,
            artifacts_from: None,
            artifacts: None,
            occupied: Occupied::default(),
        }
    }

    /// The same, which hands over the files of `out` where its outcome lets it: what failed for another reason than a
    /// gate was not finished.
    #[must_use]
    pub fn handing_over(mut self, out: &Path) -> Self {
        let ended = matches!(self.outcome, Outcome::Ok | Outcome::GateFailed);
        self.artifacts_from = (ended && !out.as_os_str().is_empty()).then(|| out.to_owned());
        self
    }

    /// The report of an attempt that was stopped for `cause` before any of it ran.
    #[must_use]
    pub fn stopped(cause: StopCause) -> Self {
        let (outcome, detail) = outcome_of_stop(cause).unwrap_or((Outcome::Cancelled, "it was stopped"));
        Self::of(outcome, detail)
    }
}

/// Tokens and money of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// By model name.
    pub models: BTreeMap<String, ModelUsage>,
    /// Total list price in millionths of a US dollar.
    pub cost_micro_usd: u64,
    /// Whether part of it was estimated because no result was seen.
    pub estimated: bool,
}

/// Tokens and money of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelUsage {
    /// Input tokens that were neither read from nor written to the cache.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Input tokens read from the cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to the cache.
    pub cache_write_tokens: u64,
    /// List price in millionths of a US dollar.
    pub cost_micro_usd: u64,
}

/// Cuts a text to at most `longest` bytes, at a character, and marks the cut.
#[must_use]
pub fn shorten(mut text: String, longest: usize) -> String {
    const MARK: &str = " […]";
    if text.len() > longest {
        let mut end = longest.saturating_sub(MARK.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
    text
}

/// The outcome of an attempt that was stopped for `cause`; `None` when the stop says nothing about the work.
#[must_use]
pub fn outcome_of_stop(cause: StopCause) -> Option<(Outcome, &'static str)> {
    match cause {
        StopCause::Cancelled => Some((Outcome::Cancelled, "it was cancelled")),
        StopCause::Unknown => {
            Some((Outcome::Cancelled, "it was stopped for a reason this agent does not know"))
        }
        StopCause::Fenced => Some((Outcome::Cancelled, "it was no longer this agent's")),
        StopCause::Timeout => Some((Outcome::Timeout, "it passed its time limit")),
        StopCause::Hang => Some((Outcome::Hang, "it said nothing for longer than the silence limit")),
        StopCause::NoFirstEvent => {
            Some((Outcome::Hang, "it said nothing from its start to the end of the start limit"))
        }
        StopCause::ClosedOutput => {
            Some((Outcome::Hang, "it closed its output without a result and did not exit"))
        }
        StopCause::Memory => Some((Outcome::Crash, "it used more memory than an attempt may")),
        StopCause::LostAgent => Some((Outcome::LostAgent, "nobody renewed it in time")),
        StopCause::LimitOutput => Some((Outcome::LimitOutput, "it wrote more than an attempt may")),
        StopCause::AgentOutput => Some((
            Outcome::LimitOutput,
            "the agent's attempts together wrote more than they may, and this one the most",
        )),
        StopCause::Misread => Some((Outcome::SpawnFailed, "the CLI did not take over what it was given")),
        StopCause::TranscriptLost => Some((Outcome::LimitOutput, "its transcript could not be written")),
        StopCause::MaxTurns => Some((Outcome::MaxTurns, "it reached its turn limit")),
        StopCause::Budget => Some((Outcome::Budget, "it reached its budget")),
        StopCause::AgentStopping => Some((Outcome::LostAgent, "the agent stopped while it ran")),
        StopCause::Lingering => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(shorten("short".to_owned(), 10), "short");
        let cut = shorten("ééééééééééé".to_owned(), 12);
        assert!(cut.len() <= 12 && cut.ends_with(" […]"), "{cut}");
        assert_eq!(AttemptReport::of(Outcome::Crash, "x".repeat(9_999)).detail.len(), LONGEST_DETAIL);
    }

    #[test]
    fn every_kind_of_hang_has_its_own_words() {
        let hangs = [StopCause::Hang, StopCause::NoFirstEvent, StopCause::ClosedOutput];
        let told: std::collections::BTreeSet<_> = hangs
            .into_iter()
            .filter_map(outcome_of_stop)
            .map(|(outcome, why)| (outcome.word(), why))
            .collect();
        assert_eq!(told.len(), hangs.len());
        assert!(told.iter().all(|(word, _)| *word == "hang"));
    }

    #[test]
    fn only_lingering_says_nothing_about_the_work() {
        assert_eq!(outcome_of_stop(StopCause::Lingering), None);
        assert_eq!(outcome_of_stop(StopCause::Hang).unwrap().0, Outcome::Hang);
        assert_eq!(outcome_of_stop(StopCause::TranscriptLost).unwrap().0, Outcome::LimitOutput);
    }
}
