//! What stands between an attempt and the host: which layers this host offers, and the plan of one attempt.
//! Knows paths and layers; refuses to know the CLI, the coordinator and whose credential a file holds.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What one attempt may touch. Everything else of the host is readable at most, what belongs to the agent not even that.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Directories it may write: its home, work and out.
    pub writable: Vec<PathBuf>,
    /// Files and directories below hidden places that it may read: what it is given, its program.
    pub readable: Vec<PathBuf>,
}

/// How the supervisor confines a child; part of its specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {}

/// What this host offers, found out once at the start of the agent.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {}

impl Sandbox {
    /// Names of the layers in force, such as `mount-namespace`.
    #[must_use]
    pub fn layers(&self) -> Vec<String> {
        Vec::new()
    }

    /// One line for people for each layer that is missing, and why.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        Vec::new()
    }

    /// The plan of an attempt; `None` where no layer is to be had and the operator allows that.
    #[must_use]
    pub fn plan(&self, bounds: Bounds) -> Option<Plan> {
        let _ = bounds;
        None
    }
}
