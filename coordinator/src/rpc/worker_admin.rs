//! Workers, for people: one shown, files checked, prompts read again.
//! Knows the wire; what makes a worker is [`crate::prompts`]'.

use crate::presence::harmless;
use crate::prompts::{CatalogueError, CatalogueProblem};
use crate::rpc::status::{refuse_field, refuse_helped};
use crate::submission::Workers as _;
use crate::workers::{PromptReloads, WorkersInForce};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use tonic::Status;

/// Files of one check together.
const MAX_FILES_BYTES: usize = 900 << 10;
/// Most files of one check.
const MAX_FILES: usize = 1_000;
/// Mistakes of one answer: whoever mended these finds the rest.
const MAX_PROBLEMS: usize = 200;
/// Longest text of a mistake.
const MAX_TEXT: usize = 1_000;

/// A worker with its definition in force.
///
/// # Errors
/// `NOT_FOUND` with the nearest name.
pub fn get(workers: &WorkersInForce, name: &str) -> Result<v1::GetWorkerResponse, Status> {
    if let Some((worker, definition)) = workers.show(name) {
        return Ok(v1::GetWorkerResponse { worker: Some(worker), definition: Some(definition) });
    }
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    let meant = workers.nearest(name).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    let message = format!("there is no worker `{shown}`{meant}");
    Err(refuse_helped(ErrorCode::NotFound, message, "orchctl workers list"))
}

/// Checks files as a last layer over what is in force. Blocks for as long as that takes; touches no disk.
///
/// # Errors
/// When there is too much of them. Mistakes in them are an answer.
pub fn validate(
    workers: &WorkersInForce,
    files: Vec<v1::PromptFile>,
) -> Result<v1::ValidateWorkersResponse, Status> {
    let bytes: usize = files.iter().map(|file| file.path.len() + file.content.len()).sum();
    if bytes > MAX_FILES_BYTES || files.len() > MAX_FILES {
        let message = format!(
            "{} files of {bytes} bytes; at most {MAX_FILES} of {MAX_FILES_BYTES} together",
            files.len()
        );
        return Err(refuse_field(ErrorCode::TooLarge, "files", message));
    }
    let files = files.into_iter().map(|file| (file.path, file.content));
    Ok(match workers.with_layer(files) {
        Ok(workers) => v1::ValidateWorkersResponse { problems: Vec::new(), workers },
        Err(error) => v1::ValidateWorkersResponse { problems: problems(&error), workers: Vec::new() },
    })
}

/// Reads the prompts again. Blocks on the file system.
pub fn reload(workers: &PromptReloads) -> v1::ReloadWorkersResponse {
    match workers.reload() {
        Ok(changes) => v1::ReloadWorkersResponse {
            problems: Vec::new(),
            changed: changes.changed,
            added: changes.added,
            removed: changes.removed,
        },
        Err(error) => {
            v1::ReloadWorkersResponse { problems: problems(&error), ..v1::ReloadWorkersResponse::default() }
        }
    }
}

fn problems(error: &CatalogueError) -> Vec<v1::PromptProblem> {
    error.problems.iter().take(MAX_PROBLEMS).map(problem).collect()
}

fn problem(problem: &CatalogueProblem) -> v1::PromptProblem {
    let place = problem.place();
    v1::PromptProblem {
        path: harmless(place.path, MAX_TEXT),
        line: place.at.map_or(0, |at| at.line),
        column: place.at.map_or(0, |at| at.column),
        message: harmless(&problem.message(), MAX_TEXT),
        help: harmless(&problem.help().unwrap_or_default(), MAX_TEXT),
        code: String::new(),
    }
}
