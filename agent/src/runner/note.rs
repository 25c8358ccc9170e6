//! What an agent must know of an attempt whose end it did not see, because a former process of it did: a small file in
//! the attempt's directory. Knows what was demanded; refuses to know how the attempt went.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::supervisor::exit::write_atomically;

use super::{AttemptReport, Outcome};

/// Name of the file.
const FILE: &str = "note.json";

/// What was demanded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    /// A denied tool fails it.
    pub(super) denial_fails: bool,
    /// Gates are to be checked.
    pub(super) gated: bool,
    /// What it hands over; empty: nothing.
    pub(super) out: PathBuf,
}

impl Note {
    /// That of an attempt. One that has none never started.
    pub(super) fn read(attempt_dir: &Path) -> Self {
        let bytes = std::fs::read(attempt_dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Leaves it.
    pub(super) fn write(&self, attempt_dir: &Path) -> io::Result<()> {
        write_atomically(&attempt_dir.join(FILE), &serde_json::to_vec(self)?)
    }
}

/// What becomes of a good end whose gates the former process did not get through: unchecked it counts for nothing, and
/// what was checked is not known. Another attempt resumes the conversation, which has its answer already.
pub(super) fn unchecked(mut report: AttemptReport) -> AttemptReport {
    if report.outcome == Outcome::Ok {
        report.outcome = Outcome::LostAgent;
        "the agent restarted before its gates were checked".clone_into(&mut report.detail);
        report.structured = None;
        report.artifacts_from = None;
    }
    report
}
