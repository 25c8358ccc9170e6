//! States and outcomes as glyph, word and colour. A state is always readable without colour.
//! Knows appearances only.

use anstyle::{AnsiColor, Style};
use orch_proto::v1::{AgentState, RunState, TaskState};

use crate::args::parse::word;

/// Bold.
pub(crate) const BOLD: Style = Style::new().bold();
/// For what matters less.
pub(crate) const DIM: Style = Style::new().dimmed();
/// For what went well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// For what went wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// For what wants attention.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// For what is under way.
pub(crate) const BUSY: Style = AnsiColor::Cyan.on_default();

/// Glyph and colour of a task state.
pub(crate) fn task_look(state: TaskState) -> (&'static str, Style) {
    match state {
        TaskState::Unspecified | TaskState::Blocked | TaskState::Queued => ("○", DIM),
        TaskState::Leased | TaskState::Running | TaskState::Verifying => ("●", BUSY),
        TaskState::WaitingRetry | TaskState::Parked => ("↻", WARN),
        TaskState::Succeeded => ("✔", GOOD),
        TaskState::Failed => ("✗", BAD),
        TaskState::Cancelled => ("■", WARN),
        TaskState::Skipped => ("-", DIM),
    }
}

/// Glyph and colour of a run state.
pub(crate) fn run_look(state: RunState) -> (&'static str, Style) {
    match state {
        RunState::Unspecified => ("○", DIM),
        RunState::Planning | RunState::Running | RunState::Synthesizing => ("●", BUSY),
        RunState::WaitingApproval => ("?", WARN),
        RunState::Succeeded => ("✔", GOOD),
        RunState::Failed => ("✗", BAD),
        RunState::Cancelled => ("■", WARN),
    }
}

/// Word and colour of an agent state.
pub(crate) fn agent_look(state: AgentState) -> (String, Style) {
    let style = match state {
        AgentState::Ready => GOOD,
        AgentState::Draining | AgentState::Unreachable | AgentState::Quarantined => WARN,
        AgentState::Unspecified | AgentState::Offline => DIM,
    };
    (word(state.as_str_name(), "AGENT_STATE_"), style)
}

/// Whether a run has ended.
pub(crate) fn run_ended(state: RunState) -> bool {
    match state {
        RunState::Succeeded | RunState::Failed | RunState::Cancelled => true,
        RunState::Unspecified
        | RunState::Planning
        | RunState::WaitingApproval
        | RunState::Running
        | RunState::Synthesizing => false,
    }
}

/// Whether a task has ended.
pub(crate) fn task_ended(state: TaskState) -> bool {
    match state {
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Skipped => true,
        TaskState::Unspecified
        | TaskState::Blocked
        | TaskState::Queued
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked => false,
    }
}

/// Whether a task occupies an agent or will go on of itself: it may not be called impossible.
pub(crate) fn task_moves(state: TaskState) -> bool {
    match state {
        TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked => true,
        TaskState::Unspecified
        | TaskState::Blocked
        | TaskState::Queued
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Skipped => false,
    }
}
