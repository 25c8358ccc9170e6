//! What an agent must know of an attempt that a former process of it started, so that it can go on with it: a small file
//! in the attempt's directory, written before anything of the attempt runs. Knows what was demanded and where things lie;
//! refuses to know how the attempt goes, and holds no secret.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::gates::Tree;
use crate::homes::ConversationKey;
use crate::limits::purse::Allowance;
use crate::supervisor::exit::{replace, write_atomically};

use super::claude::judge::Terms;
use super::claude::observer::Demands;
use super::{AttemptLimits, AttemptSpec, Gates, Workspace};

/// Name of the file.
const FILE: &str = "note.json";

/// What is known of an attempt before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The boot it was started in: after another one nothing of it runs.
    pub boot_id: String,
    /// `name/number/task`.
    pub reference: String,
    /// The conversation it works in.
    pub conversation: ConversationKey,
    /// Its deadlines.
    pub limits: AttemptLimits,
    /// What must hold before a good end counts.
    pub gates: Gates,
    /// What gates are checked on, and what is handed over.
    pub tree: Tree,
    /// The workspace it is shown.
    pub shown: Option<Shown>,
    /// Size of the segments of its output.
    pub segment_bytes: u64,
    /// What runs.
    pub work: WorkNote,
}

/// A workspace as an attempt saw it first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which.
    pub workspace: Workspace,
    /// Its state.
    pub tree: [u8; 32],
}

/// What runs, as far as its runner must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkNote {
    /// A listed program.
    Command,
    /// The Claude Code CLI.
    Claude(Box<ClaudeNote>),
}

/// What the runner of the CLI must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaudeNote {
    /// What is asked of the process.
    pub demands: Demands,
    /// What a verdict depends on.
    pub terms: Terms,
    /// Name of the worker.
    pub worker: String,
    /// The credential pool that the worker asks for; may be none.
    pub pool: String,
    /// Where the CLI keeps its configuration, and a login while it is lent.
    pub config: PathBuf,
    /// What it might spend from the start.
    #[serde(default)]
    pub allowance: Option<Allowance>,
}

impl Shown {
    /// What an attempt is shown, where its state is known.
    #[must_use]
    pub fn of(spec: &AttemptSpec) -> Option<Self> {
        let (workspace, tree) = spec.workspace.clone().zip(spec.tree)?;
        Some(Self { workspace, tree })
    }
}

impl Note {
    /// That of an attempt; `None` when it has none that can be read, so that nothing is known of it.
    #[must_use]
    pub fn read(attempt_dir: &Path) -> Option<Self> {
        let bytes = std::fs::read(attempt_dir.join(FILE)).ok()?;
        match serde_json::from_slice(&bytes) {
            Ok(note) => Some(note),
            Err(error) => {
                tracing::warn!(dir = %attempt_dir.display(), %error, "the note of an attempt cannot be read");
                None
            }
        }
    }

    /// Leaves it. Durable where money is spent, so that what was spent before a power loss is known after it. Of a program
    /// nothing runs then and nothing is owed: without its note it is lost with its host, as it is with one.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, attempt_dir: &Path) -> io::Result<()> {
        let write = match self.work {
            WorkNote::Command => replace,
            WorkNote::Claude(_) => write_atomically,
        };
        write(&attempt_dir.join(FILE), &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_note_is_read_back_without_what_must_not_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Note::read(dir.path()), None);
        let tree = Tree { redact: vec!["sk-canary".to_owned()], tool_calls: 3, ..Tree::default() };
        let note = Note {
            boot_id: "b".to_owned(),
            reference: "a/1/t".to_owned(),
            conversation: ConversationKey { run: 1, task: 2 },
            limits: AttemptLimits { timeout: Some(Duration::from_millis(1_500)), ..AttemptLimits::default() },
            gates: Gates { min_tool_calls: 2, ..Gates::default() },
            tree: tree.clone(),
            shown: Some(Shown {
                workspace: Workspace { name: "dance".to_owned(), dir: "/w".into() },
                tree: [7; 32],
            }),
            segment_bytes: 4,
            work: WorkNote::Command,
        };
        note.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!text.contains("canary"), "{text}");
        let kept = Tree { redact: Vec::new(), ..tree };
        assert_eq!(Note::read(dir.path()), Some(Note { tree: kept, ..note }));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Note::read(dir.path()), None);
    }
}
