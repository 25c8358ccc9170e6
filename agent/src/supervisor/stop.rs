//! Why and where an attempt was stopped. Knows no process and no outcome table: the judge of a runner turns
//! a cause into an outcome.

use serde::{Deserialize, Serialize};

/// Why an attempt was stopped before it ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// Somebody cancelled the task.
    Cancelled,
    /// The attempt is no longer this agent's; its report would be fenced.
    Fenced,
    /// The attempt passed its deadline.
    Timeout,
    /// Nothing was heard from the child for longer than the silence limit.
    Hang,
    /// Nothing came on the child's standard output within the start limit.
    NoFirstEvent,
    /// The child closed its standard output before it had a result, and lived on.
    ClosedOutput,
    /// The tree used more memory than an attempt may.
    Memory,
    /// Nobody renewed the attempt: the agent lost the coordinator, or the supervisor lost the agent.
    LostAgent,
    /// The child wrote more than an attempt may.
    LimitOutput,
    /// All attempts of the agent together wrote more than they may, and this one the most.
    AgentOutput,
    /// The transcript could not be written, for example because the disk is full.
    TranscriptLost,
    /// The turn limit was reached.
    MaxTurns,
    /// A budget stopped the work.
    Budget,
    /// The child did not take over what it was given.
    Misread,
    /// The agent stops or restarts.
    AgentStopping,
    /// The result was there, yet the child did not exit. Says nothing about the work.
    Lingering,
    /// A cause that a newer agent knows; treated as cancelled.
    #[serde(other)]
    Unknown,
}

/// The first rung of the ladder to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// An `interrupt` control request on the child's input: the child reports and may go on living.
    Interrupt,
    /// SIGINT to the child's pid.
    Int,
    /// SIGTERM to the child's pid.
    Term,
    /// The whole process tree is killed.
    TreeKill,
}

/// That an attempt was stopped, and how far its output was at that moment. A result line that ended at or
/// before `stdout_len` was written before the stop and stands on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopFact {
    /// Why. The first cause is kept; later ones only climb the ladder faster.
    pub cause: StopCause,
    /// Bytes of standard output written when the stop was decided.
    pub stdout_len: u64,
    /// The highest rung that was used.
    pub rung: Rung,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_a_newer_agent_is_still_a_stop() {
        assert_eq!(serde_json::from_str::<StopCause>("\"sunspots\"").unwrap(), StopCause::Unknown);
        assert_eq!(serde_json::to_string(&StopCause::LostAgent).unwrap(), "\"lost_agent\"");
    }
}
