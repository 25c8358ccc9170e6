//! Gates of a task: which of them can be checked at all, and who checks them.
//! Knows their limits; refuses to know how one is checked, which is the agent's, and what a review says.

use super::runner::check_command;
use super::{CheckedRunner, SpecError, paths, rules};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;

/// Times a task may be sent back when its gates say nothing.
const DEFAULT_REPAIRS: u32 = 1;
const MAX_REPAIRS: u32 = 10;
const MAX_COMMANDS: usize = 16;
const MAX_ARTIFACTS: usize = 64;
const MAX_TOOL_CALLS: u32 = 1_000_000;
const MAX_TIMEOUT_MS: u64 = 3_600_000;
/// Paths, programs and arguments of all gates of a task together: they rest in its spec, thirty to a page.
pub(super) const MAX_GATES_BYTES: usize = 32 << 10;
/// What a reviewer is told to look at.
pub(super) const MAX_INSTRUCTIONS_BYTES: usize = 64 << 10;

/// Gates that can be checked.
#[derive(Debug, Default)]
pub(super) struct CheckedGates {
    /// Those that the agent checks.
    pub(super) on_agent: Option<v1::Gates>,
    /// The one that is a task of its own.
    pub(super) review: Option<v1::Review>,
    /// Times the task may be sent back.
    pub(super) repairs: u32,
}

/// Checks the gates of the task at `field`.
pub(super) fn check(
    field: &str,
    gates: Option<v1::Gates>,
    runner: &CheckedRunner,
) -> Result<CheckedGates, SpecError> {
    let Some(mut gates) = gates else { return Ok(CheckedGates::default()) };
    let field = format!("{field}.gates");
    let review = gates.review.take();
    let repairs = gates.repairs.take().unwrap_or(DEFAULT_REPAIRS);
    if repairs > MAX_REPAIRS {
        let message = format!("{repairs}; at most {MAX_REPAIRS}");
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.repairs"), message));
    }
    let on_agent = gates != v1::Gates::default();
    if !on_agent && review.is_none() {
        return Ok(CheckedGates::default());
    }
    check_possible(&field, &gates, runner)?;
    check_artifacts(&field, &gates.required_artifacts)?;
    check_commands(&field, &gates.commands)?;
    check_bytes(&field, &gates)?;
    if let Some(review) = &review {
        check_review(&field, review)?;
    }
    // A program would do the same again.
    let repairs = if matches!(runner, CheckedRunner::Worker(_)) { repairs } else { 0 };
    Ok(CheckedGates { on_agent: on_agent.then_some(gates), review, repairs })
}

fn check_possible(field: &str, gates: &v1::Gates, runner: &CheckedRunner) -> Result<(), SpecError> {
    let refuse = |field: String, message: String| Err(SpecError::new(ErrorCode::InvalidGate, field, message));
    match runner {
        CheckedRunner::Noop | CheckedRunner::Publish(_) => {
            refuse(field.to_owned(), "a task that does nothing has nothing to check".to_owned())
        }
        CheckedRunner::Command(_) if gates.min_tool_calls > 0 => {
            refuse(format!("{field}.min_tool_calls"), "a program makes no tool calls".to_owned())
        }
        CheckedRunner::Worker(_) | CheckedRunner::Command(_) if gates.min_tool_calls > MAX_TOOL_CALLS => {
            let message = format!("{}; at most {MAX_TOOL_CALLS}", gates.min_tool_calls);
            refuse(format!("{field}.min_tool_calls"), message)
        }
        CheckedRunner::Worker(_) | CheckedRunner::Command(_) => Ok(()),
    }
}

fn check_artifacts(field: &str, artifacts: &[String]) -> Result<(), SpecError> {
    let field = format!("{field}.required_artifacts");
    if artifacts.len() > MAX_ARTIFACTS {
        let message = format!("{} paths; at most {MAX_ARTIFACTS}", artifacts.len());
        return Err(SpecError::new(ErrorCode::TooLarge, field, message));
    }
    for (at, glob) in artifacts.iter().enumerate() {
        paths::check_glob(glob).map_err(|problem| {
            let message = format!("`{}` {problem}", rules::shown(glob));
            SpecError::new(ErrorCode::InvalidGate, format!("{field}[{at}]"), message)
        })?;
    }
    Ok(())
}

fn check_commands(field: &str, commands: &[v1::GateCommand]) -> Result<(), SpecError> {
    if commands.len() > MAX_COMMANDS {
        let message = format!("{} programs; at most {MAX_COMMANDS}", commands.len());
        return Err(SpecError::new(ErrorCode::TooLarge, format!("{field}.commands"), message));
    }
    for (at, command) in commands.iter().enumerate() {
        let field = format!("{field}.commands[{at}]");
        check_command(&field, &command.program, &command.args)?;
        let allowed = |timeout| rules::millis(timeout).is_some_and(|ms| (1..=MAX_TIMEOUT_MS).contains(&ms));
        if command.timeout.is_some_and(|timeout| !allowed(timeout)) {
            let message = "between 1 ms and 1 hour";
            return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.timeout"), message));
        }
        if !command.dir.is_empty() {
            paths::check_path(&command.dir).map_err(|problem| {
                let message = format!("`{}` {problem}", rules::shown(&command.dir));
                SpecError::new(ErrorCode::InvalidGate, format!("{field}.dir"), message)
            })?;
        }
    }
    Ok(())
}

fn check_bytes(field: &str, gates: &v1::Gates) -> Result<(), SpecError> {
    let artifacts: usize = gates.required_artifacts.iter().map(|path| path.len() + 4).sum();
    let command = |command: &v1::GateCommand| {
        let args = command.args.iter().map(|arg| arg.len() + 4).sum::<usize>();
        command.program.len() + command.dir.len() + args + 32
    };
    let bytes = artifacts + gates.commands.iter().map(command).sum::<usize>();
    if bytes > MAX_GATES_BYTES {
        let message =
            format!("{bytes} bytes of paths and commands together; at most {MAX_GATES_BYTES}: use a script");
        return Err(SpecError::new(ErrorCode::TooLarge, field, message));
    }
    Ok(())
}

/// Its worker and model are checked with the task that it becomes.
fn check_review(field: &str, review: &v1::Review) -> Result<(), SpecError> {
    let bytes = review.instructions.len();
    if bytes > MAX_INSTRUCTIONS_BYTES {
        let message = format!("{bytes} bytes; at most {MAX_INSTRUCTIONS_BYTES}");
        return Err(SpecError::new(ErrorCode::TooLarge, format!("{field}.review.instructions"), message));
    }
    Ok(())
}
