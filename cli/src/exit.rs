//! The exit codes of `orchctl`, and which one a run, a task or a refused call earns.
//! Knows the numbers; the row of each outcome stands in [`orch_proto::outcome`], that of each error in
//! [`orch_proto::codes`].

use orch_proto::v1::{Outcome, Run, RunState, Task, TaskState};
use tonic::Code;

/// Done; of a command that follows a run: it succeeded.
pub(crate) const DONE: u8 = 0;
/// The run or task failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage.
pub(crate) const USAGE: u8 = 2;
/// Not found.
pub(crate) const NOT_FOUND: u8 = 3;
/// Not authenticated, not allowed, or a bad certificate.
pub(crate) const NOT_ALLOWED: u8 = 4;
/// The coordinator cannot be reached.
pub(crate) const UNREACHABLE: u8 = 5;
/// Conflict, or wrong state.
pub(crate) const CONFLICT: u8 = 6;
/// Over a budget, quota or rate.
pub(crate) const LIMIT: u8 = 7;
/// Of several things asked for, some failed.
pub(crate) const SOME_FAILED: u8 = 8;
/// Cancelled.
pub(crate) const CANCELLED: u8 = 9;
/// Accepted, but no known agent can ever run it.
pub(crate) const IMPOSSIBLE: u8 = 10;
/// A bug in `orchctl` or the coordinator.
pub(crate) const BUG: u8 = 70;
/// `--timeout` passed; the work goes on.
pub(crate) const TIMED_OUT: u8 = 124;
/// Interrupted; the work goes on.
pub(crate) const INTERRUPTED: u8 = 130;

/// The exit code of a status that carries no code of ours.
pub(crate) fn of_code(code: Code) -> u8 {
    match code {
        Code::Ok => DONE,
        Code::InvalidArgument => USAGE,
        Code::NotFound => NOT_FOUND,
        Code::Unauthenticated | Code::PermissionDenied => NOT_ALLOWED,
        Code::Unavailable => UNREACHABLE,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted | Code::OutOfRange => CONFLICT,
        Code::ResourceExhausted => LIMIT,
        Code::DeadlineExceeded => TIMED_OUT,
        Code::Cancelled => INTERRUPTED,
        Code::Unknown | Code::Internal | Code::Unimplemented | Code::DataLoss => BUG,
    }
}

/// The exit code of an outcome; of none, that of a failure.
pub(crate) fn of_outcome(outcome: Outcome) -> u8 {
    outcome.row().map_or(FAILED, |row| row.exit_code)
}

/// The exit code of a terminal run. A failed one takes the row of the outcome that decided it; a coordinator that
/// names none leaves it to the task that failed first.
pub(crate) fn of_run<'a>(run: &Run, tasks: impl IntoIterator<Item = &'a Task>) -> u8 {
    match run.state() {
        RunState::Succeeded => DONE,
        RunState::Cancelled => CANCELLED,
        RunState::Failed if run.outcome() != Outcome::Unspecified => of_outcome(run.outcome()),
        RunState::Failed => first_failure(tasks).map_or(FAILED, of_outcome),
        RunState::Unspecified
        | RunState::Planning
        | RunState::WaitingApproval
        | RunState::Running
        | RunState::Synthesizing => FAILED,
    }
}

/// The exit code of a terminal task.
pub(crate) fn of_task(task: &Task) -> u8 {
    match task.state() {
        TaskState::Succeeded => DONE,
        TaskState::Cancelled => CANCELLED,
        TaskState::Failed
        | TaskState::Skipped
        | TaskState::Unspecified
        | TaskState::Blocked
        | TaskState::Queued
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked => of_outcome(task.outcome()),
    }
}

/// The outcome of the task that ended first among those that failed of themselves.
fn first_failure<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Option<Outcome> {
    let ended = |task: &Task| task.finished_at.map(|at| (at.seconds, at.nanos));
    tasks
        .into_iter()
        .filter(|task| task.state() == TaskState::Failed)
        .min_by_key(|task| (ended(task).is_none(), ended(task), task.index))
        .map(Task::outcome)
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn failed(index: u32, seconds: i64, outcome: Outcome) -> Task {
        Task {
            index,
            state: TaskState::Failed.into(),
            outcome: outcome.into(),
            finished_at: Some(Timestamp { seconds, nanos: 0 }),
            ..Task::default()
        }
    }

    fn run(state: RunState, outcome: Outcome) -> Run {
        Run { state: state.into(), outcome: outcome.into(), ..Run::default() }
    }

    #[test]
    fn a_run_exits_by_the_outcome_that_decided_it() {
        let none = Vec::new();
        assert_eq!(of_run(&run(RunState::Succeeded, Outcome::Unspecified), &none), DONE);
        assert_eq!(of_run(&run(RunState::Cancelled, Outcome::Cancelled), &none), CANCELLED);
        assert_eq!(of_run(&run(RunState::Failed, Outcome::Budget), &none), 9);
        assert_eq!(of_run(&run(RunState::Failed, Outcome::Timeout), &none), FAILED);
    }

    #[test]
    fn without_a_decisive_outcome_the_first_failure_in_time_counts() {
        let skipped =
            Task { state: TaskState::Skipped.into(), outcome: Outcome::Skipped.into(), ..Task::default() };
        let tasks = [skipped, failed(1, 20, Outcome::Crash), failed(2, 10, Outcome::Budget)];
        assert_eq!(of_run(&run(RunState::Failed, Outcome::Unspecified), &tasks), CANCELLED);
        assert_eq!(of_run(&run(RunState::Failed, Outcome::Unspecified), &[]), FAILED);
    }

    #[test]
    fn every_status_has_its_documented_code() {
        let table = [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::PermissionDenied, 4),
            (Code::Unauthenticated, 4),
            (Code::Unavailable, 5),
            (Code::FailedPrecondition, 6),
            (Code::ResourceExhausted, 7),
            (Code::Internal, 70),
            (Code::DeadlineExceeded, 124),
        ];
        for (code, exit) in table {
            assert_eq!(of_code(code), exit, "{code:?}");
        }
    }

    #[test]
    fn the_exit_code_of_every_error_agrees_with_its_status() {
        use orch_proto::codes::ErrorCode;
        for code in ErrorCode::ALL {
            // Four rows say more than their status: a plan that cannot be placed, a broken protocol, damaged bytes, a
            // damaged copy.
            let exact = !matches!(
                code,
                ErrorCode::Impossible
                    | ErrorCode::ProtocolViolation
                    | ErrorCode::DigestMismatch
                    | ErrorCode::CopyDamaged
            );
            assert!(!exact || code.exit_code() == of_code(code.status()), "{}", code.code());
        }
    }
}
