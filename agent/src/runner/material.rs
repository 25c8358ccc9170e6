//! What an attempt is given besides its work, and what it hands back besides its answer: plain data of the agent's
//! own. Knows no wire message, and nothing of how any of it is fetched, checked or stored.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A workspace of this agent: shown to the child read-only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workspace {
    /// Name, `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    /// The directory, absolute and without links.
    pub dir: PathBuf,
}

/// The result of a task that this one depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Input {
    /// The task's id: a name that is safe as a directory's.
    pub id: String,
    /// `name/number/task`.
    pub reference: String,
    /// How it ended, as a word: `succeeded`, `failed`, `skipped`, `cancelled`.
    pub state: String,
    /// How it ended, typed, as a word.
    pub outcome: String,
    /// Why it did not succeed, in plain English; empty when it did.
    pub detail: String,
    /// Worker name; empty for other runners.
    pub worker: String,
    /// Its summary; may be empty.
    pub summary: String,
    /// The whole answer.
    pub answer: Option<Content>,
    /// The whole structured answer as JSON.
    pub structured: Option<Content>,
    /// Its files.
    pub artifacts: Vec<InputFile>,
    /// What it published, beneath its workspace.
    pub published: Vec<String>,
}

/// Bytes of an input: in memory, or in a file of the agent that may be moved away.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// The text.
    Text(String),
    /// A file.
    File {
        /// Where it is.
        file: PathBuf,
        /// Its length in bytes.
        size: u64,
    },
}

impl std::fmt::Debug for Content {
    /// Never shows the text: answers do not belong into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Content({} bytes)", text.len()),
            Self::File { file, size } => write!(f, "Content({}, {size} bytes)", file.display()),
        }
    }
}

impl Content {
    /// Length in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

/// A file of an input, fetched and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Path beneath the task's `artifacts/`, with `/`; safe.
    pub path: String,
    /// Where the agent put it; it may be moved away.
    pub file: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// What must hold before an attempt that ended well counts as `ok`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Gates {
    /// Least number of tool calls, sub-agents' included; 0 means none.
    pub min_tool_calls: u32,
    /// Paths or globs beneath `out/`; each must match a file that is not empty.
    pub required_artifacts: Vec<String>,
    /// Programs that must exit with 0.
    pub commands: Vec<GateCommand>,
}

impl Gates {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.min_tool_calls == 0 && self.required_artifacts.is_empty() && self.commands.is_empty()
    }
}

/// A program that must exit with 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GateCommand {
    /// Program.
    pub program: String,
    /// Arguments, passed as they are.
    pub args: Vec<String>,
    /// Time limit; absent: the default.
    pub timeout: Option<Duration>,
    /// Directory beneath `work/`; empty: `work/` itself.
    pub dir: String,
}

/// What was found when one gate was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateResult {
    /// `activity`, `artifact` or `command`.
    pub kind: GateKind,
    /// What was checked, for people.
    pub name: String,
    /// Whether it held.
    pub passed: bool,
    /// What was seen, at most [`LONGEST_GATE_LOG`] bytes.
    pub log: String,
    /// How long it took.
    pub duration: Duration,
}

/// Longest log of a gate, in bytes.
pub const LONGEST_GATE_LOG: usize = 4 * 1024;

/// Longest feedback of a report, in bytes.
pub const LONGEST_FEEDBACK: usize = 64 * 1024;

/// What a gate looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateKind {
    /// How much the worker did.
    Activity,
    /// What it handed over.
    Artifact,
    /// What a program says.
    Command,
}

impl GateKind {
    /// The word on the wire and to people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Activity => "activity",
            Self::Artifact => "artifact",
            Self::Command => "command",
        }
    }
}

/// An earlier result of the same work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reuse {
    /// Ref of the task it is from.
    pub reference: String,
    /// State of the workspace it saw; absent without one.
    pub tree: Option<[u8; 32]>,
}

/// Files to be copied into a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishWork {
    /// The workspace's name.
    pub workspace: String,
    /// The files, fetched and checked.
    pub files: Vec<PublishItem>,
    /// The cluster whose task this is: run numbers of two clusters mean different things.
    pub cluster: Vec<u8>,
}

/// A file to be copied into a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishItem {
    /// Path beneath the workspace.
    pub to: String,
    /// Path beneath `out/` under which the task handed it over; empty when that is not known.
    pub artifact: String,
    /// The bytes in a file of the agent; absent when the task handed over no such file.
    pub content: Option<PublishContent>,
    /// Replaces what is there; otherwise a file with other content fails a gate.
    pub replace: bool,
}

/// Bytes to be published, in a file of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishContent {
    /// Where they are.
    pub file: PathBuf,
    /// Their length.
    pub size: u64,
    /// Their SHA-256.
    pub digest: [u8; 32],
}

/// The files that an attempt handed over, collected and kept until they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// An encoded manifest, in the directory they are kept in.
    pub manifest: Vec<u8>,
    /// Number of files.
    pub count: u32,
    /// Their bytes together.
    pub bytes: u64,
}

impl Collected {
    /// SHA-256 of the manifest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.manifest).into()
    }
}
