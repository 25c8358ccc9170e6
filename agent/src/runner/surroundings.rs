//! What both runners of processes put around a child: the results it is given, and the workspace it is shown. Knows
//! where they go; refuses to know what is in them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use thiserror::Error;

use crate::homes::{HomeError, private_dir};
use crate::inputs::{self, InputError};
use crate::sandbox::Bounds;
use crate::workspaces;

use super::AttemptSpec;

/// Variable of the child that says where its inputs are; not set without any.
pub const INPUTS_VARIABLE: &str = "ORCH_INPUTS";

/// Why they cannot be put there.
#[derive(Debug, Error)]
pub enum SurroundingsError {
    /// The inputs.
    #[error(transparent)]
    Inputs(#[from] InputError),
    /// A directory of the agent.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The workspace.
    #[error("cannot show the workspace in the working directory")]
    Workspace(#[source] io::Error),
}

/// Puts them into the working directory `work`, and adds to the child's environment and bounds what goes with them.
/// What a child left in their place goes into the attempt's own directory. Nothing runs in `work`. Blocks.
///
/// # Errors
/// See [`SurroundingsError`].
pub fn place(
    spec: &AttemptSpec,
    work: &Path,
    attempt_dir: &Path,
    env: &mut BTreeMap<String, String>,
    bounds: &mut Bounds,
) -> Result<(), SurroundingsError> {
    if spec.inputs.is_empty() && spec.workspace.is_none() {
        return Ok(());
    }
    let aside = attempt_dir.join("aside");
    private_dir(&aside)?;
    if !spec.inputs.is_empty() {
        inputs::place(work, &aside, &spec.inputs)?;
        let place = work.join(inputs::DIRECTORY);
        env.insert(INPUTS_VARIABLE.to_owned(), place.to_string_lossy().into_owned());
    }
    if let Some(workspace) = &spec.workspace {
        workspaces::show(work, workspace, &aside).map_err(SurroundingsError::Workspace)?;
        let dir = workspace.dir.to_string_lossy().into_owned();
        env.insert(workspaces::VARIABLE.to_owned(), dir);
        bounds.readable.push(workspace.dir.clone());
    }
    Ok(())
}
