//! A run written as JSON, read into a specification, with errors that show the place: file, line, column, the line
//! itself, and what may have been meant. Pure: text in, specification or diagnostics out.
//!
//! | Module | Holds |
//! |---|---|
//! | [`json`] | a reader that keeps the place of every value |
//! | [`fields`] | the fields of a run and of a task, their types and their limits |
//! | [`graph`] | ids and dependencies: duplicates, dangling ones, cycles |
//! | [`diagnostic`] | errors as text |
//! | [`workflow`], [`shape`] | workflows as files, and whether one fits the published schema |

use orch_proto::codes::ErrorCode;
use orch_proto::v1::RunSpec;

use crate::failure::Failure;

pub(crate) mod diagnostic;
mod fields;
mod graph;
mod json;
mod shape;
pub(crate) mod workflow;

use diagnostic::Diagnostic;
#[cfg(test)]
pub(crate) use fields::{RUN_FIELDS, TASK_FIELDS};

/// Most tasks of a run, from the wire's documentation.
const MAX_TASKS: usize = 100_000;

/// Reads a run from bytes; `name` stands for them in messages. Its context files have their names only: reading them
/// is [`crate::context_files`]'s.
///
/// # Errors
/// Everything that is wrong with it, not only the first thing; exit code 2.
pub(crate) fn read(name: &str, bytes: &[u8]) -> Result<RunSpec, Failure> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let valid = String::from_utf8_lossy(&bytes[..at]);
            let problem =
                Diagnostic::new(ErrorCode::MalformedJson, at..at, "the file is not UTF-8 from here on");
            return Err(diagnostic::failure(name, &valid, vec![problem]));
        }
    };
    check(text).map_err(|problems| diagnostic::failure(name, text, problems))
}

/// Reads a run from text.
fn check(text: &str) -> Result<RunSpec, Vec<Diagnostic>> {
    let document = json::read(text).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let draft = fields::run(text, &document, &mut problems);
    graph::check(&draft.tasks, &mut problems);
    if problems.is_empty() {
        let fields::Draft { spec, tasks } = draft;
        return Ok(RunSpec { tasks: tasks.into_iter().map(|task| task.spec).collect(), ..spec });
    }
    problems.sort_by_key(|problem| problem.span.start);
    Err(problems)
}

#[cfg(test)]
mod tests;
