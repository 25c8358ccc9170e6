//! What executes an attempt, seen from outside: a specification in, a report out, and a link for what
//! happens in between. Plain data of the agent's own; no wire message and no process appears here.
//!
//! | Runner | What it is |
//! |---|---|
//! | [`claude`] | the Claude Code CLI under a supervisor: the product |
//! | [`command`] | a listed program under a supervisor; off unless the agent lists programs |
//! | [`noop`] | nothing, in process; for benchmarks and health checks |
//! | [`publish`] | copies files into a workspace, in process |

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

pub use orch_proto::v1::Outcome;

use crate::homes::ConversationKey;
use crate::limits::purse::Allowance;
use crate::supervisor::client::Survivor;
use crate::supervisor::stop::StopCause;

pub use self::adopted::Adopted;
pub use self::note::Shown;
pub use self::report::{AttemptReport, LimitHit, ModelUsage, Usage, outcome_of_stop, shorten};

pub use self::material::{
    Collected, Content, GateCommand, GateKind, GateResult, Gates, Input, InputFile, LONGEST_FEEDBACK,
    LONGEST_GATE_LOG, PublishContent, PublishItem, PublishWork, Reuse, Workspace,
};

mod adopted;
pub mod claude;
pub mod command;
pub mod environment;
pub mod limits;
pub mod material;
pub mod noop;
pub mod note;
pub mod program;
pub mod publish;
mod report;
pub mod share;
pub mod supervised;
pub mod surroundings;
pub mod waiting;

/// Longest answer text a report carries, in bytes. A longer one is cut at a character and the detail says so;
/// the transcript has all of it.
pub const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Longest structured answer, in bytes.
pub const LONGEST_STRUCTURED: usize = 256 * 1024;

/// Longest detail of a report, in bytes.
pub const LONGEST_DETAIL: usize = 4 * 1024;

/// A future that a runner returns.
pub type RunFuture<'a> = Pin<Box<dyn Future<Output = AttemptReport> + Send + 'a>>;

/// Executes attempts of one kind.
pub trait Runner: Send + Sync + fmt::Debug {
    /// The word agents offer it under: `claude`, `command`, `noop`.
    fn name(&self) -> &'static str;

    /// Runs one attempt to its end. Never fails: what goes wrong is an outcome. Nothing of the attempt runs
    /// any more when the future is done; dropping it earlier leaves the end to the dead-man switch.
    fn run(&self, spec: AttemptSpec, link: AttemptLink) -> RunFuture<'_>;

    /// Goes on with an attempt that a former process of the agent started, whether its supervisor still lives or not:
    /// the report is that of an attempt that was never left alone. What only one attempt may hold is taken before this
    /// returns; it blocks as long as that takes. `None` when what lies in the directory does not tell enough.
    fn adopt(&self, _key: AttemptKey, _survivor: Survivor, _link: AttemptLink) -> Option<Adopted> {
        None
    }
}

/// One execution of a task: the fence token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// Coordinator's number of the run.
    pub run: u64,
    /// Index of the task within the run.
    pub task: u32,
    /// Attempt number, from 1.
    pub attempt: u32,
}

impl AttemptKey {
    /// The span of everything that is logged about it: fields `run`, `task` and `attempt`. Of the highest level, so
    /// that the fields are there whatever the log filter lets through.
    #[must_use]
    pub fn span(self) -> tracing::Span {
        tracing::error_span!("attempt", run = self.run, task = self.task, attempt = self.attempt)
    }
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.run, self.task, self.attempt)
    }
}

/// What is to be run, and its limits.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptSpec {
    /// Which attempt.
    pub key: AttemptKey,
    /// `name/number/task`, for people and for the child.
    pub reference: String,
    /// What executes it.
    pub work: Work,
    /// Deadlines.
    pub limits: AttemptLimits,
    /// What becomes of it when the coordinator is out of reach. The supervisor stops it after `stop_after`
    /// in both cases; the coordinator waits for that only in one.
    pub on_loss: OnLoss,
    /// Further variables for the child. Names that could change how programs are found, linked or
    /// configured are refused.
    pub env: BTreeMap<String, String>,
    /// Results of the tasks it depends on, in the order of their index.
    pub inputs: Vec<Input>,
    /// The workspace it is shown.
    pub workspace: Option<Workspace>,
    /// State of that workspace, where it is known.
    pub tree: Option<[u8; 32]>,
    /// What must hold before a good end counts as `ok`.
    pub gates: Gates,
    /// Earlier results of the same work, newest first.
    pub reuse: Vec<Reuse>,
}

/// What executes an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// The Claude Code CLI.
    Claude(Box<ClaudeWork>),
    /// A program.
    Command(CommandWork),
    /// Nothing.
    Noop,
    /// Files to be copied into a workspace.
    Publish(PublishWork),
}

/// Work for the Claude Code CLI.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaudeWork {
    /// The persona.
    pub worker: WorkerSettings,
    /// What to do.
    pub prompt: Prompt,
    /// CLI session of the conversation: the same for every attempt of it.
    pub session: Uuid,
    /// JSON Schema of the answer.
    pub output_schema: Option<String>,
    /// Ceiling in millionths of a US dollar. Zero is a budget already spent.
    pub budget_micro_usd: Option<u64>,
    /// Most turns of the main thread, over all lines.
    pub max_turns: Option<u32>,
    /// Whether a denied tool makes the attempt fail with `permission_denied`. Otherwise it is reported only.
    pub denial_fails: bool,
    /// What is said in the conversation in place of the prompt where it is still kept, and after the prompt where not.
    pub feedback: Option<String>,
    /// What ended the attempt before this one, in plain English, where it may have been in the middle of its work: it is
    /// said in the conversation in place of the prompt where that is still kept.
    pub interrupted: Option<String>,
    /// The task whose conversation this one continues, when not its own.
    pub conversation: Option<ConversationKey>,
    /// What it may spend from the start, where a budget over more than its task applies.
    pub allowance: Option<Allowance>,
}

/// A worker as far as the CLI must know it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerSettings {
    /// Name.
    pub name: String,
    /// Model name or alias.
    pub model: String,
    /// System prompt.
    pub system_prompt: String,
    /// Context files of the run, rendered; follow the system prompt. Empty means none.
    pub context_files: String,
    /// Exact set of built-in tools; empty means none.
    pub tools: Vec<String>,
    /// Permission rules that allow.
    pub allowed_tools: Vec<String>,
    /// Permission rules that deny.
    pub disallowed_tools: Vec<String>,
    /// Permission mode of the CLI; empty means `dontAsk`.
    pub permission_mode: String,
    /// Sub-agents as the JSON object of `--agents`; empty means none.
    pub subagents_json: String,
    /// Setting sources of the working directory that the CLI may read: `project`, `local`. Empty means none.
    pub setting_sources: Vec<String>,
    /// Settings of the worker's own, a JSON object; empty means none.
    pub settings_json: String,
    /// Tool servers of the worker's own, a JSON object; empty means none. No others are started.
    pub mcp_config_json: String,
    /// Credential pool; empty: the agent's own mapping decides.
    pub pool: String,
    /// Models that take over where its own is overloaded or not there, in order, separated by commas; empty means none.
    pub fallback_model: String,
}

/// A prompt: in memory, or in a file of the agent.
#[derive(Clone, PartialEq, Eq)]
pub enum Prompt {
    /// The text.
    Text(String),
    /// A UTF-8 file.
    File(PathBuf),
}

impl fmt::Debug for Prompt {
    /// Never shows the text: prompts do not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Prompt({} bytes)", text.len()),
            Self::File(path) => write!(f, "Prompt({})", path.display()),
        }
    }
}

/// A program and its arguments; never a shell line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandWork {
    /// Program as the agent lists it.
    pub program: String,
    /// Arguments.
    pub args: Vec<String>,
}

/// Deadlines of an attempt. Absent ones are not enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AttemptLimits {
    /// Longest life.
    pub timeout: Option<Duration>,
    /// Longest silence of the child.
    pub silence: Option<Duration>,
    /// Longest life without an acknowledged renewal.
    pub stop_after: Option<Duration>,
}

/// What happens to an attempt whose agent is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLoss {
    /// The coordinator requeues soon.
    #[default]
    Fast,
    /// The coordinator requeues only when the old child is certainly dead.
    Wait,
}

/// The two ends of what happens while an attempt runs. Each channel holds only the latest value, so none can
/// fill up and none can be missed for good.
#[derive(Debug)]
pub struct AttemptLink {
    /// What the attempt is doing.
    pub live: watch::Sender<Live>,
    /// The latest acknowledged renewal.
    pub renewals: watch::Receiver<Option<Renewal>>,
    /// Set when the attempt is to stop.
    pub stop: watch::Receiver<Option<StopCause>>,
}

/// The agent's ends of an [`AttemptLink`].
#[derive(Debug)]
pub struct AttemptHandle {
    /// What the attempt is doing.
    pub live: watch::Receiver<Live>,
    /// Where acknowledged renewals go.
    pub renewals: watch::Sender<Option<Renewal>>,
    /// Where a stop is asked for.
    pub stop: watch::Sender<Option<StopCause>>,
}

/// Makes both ends.
#[must_use]
pub fn link() -> (AttemptHandle, AttemptLink) {
    let (live_in, live) = watch::channel(Live::default());
    let (renewals, renewals_out) = watch::channel(None);
    let (stop, stop_out) = watch::channel(None);
    (
        AttemptHandle { live, renewals, stop },
        AttemptLink { live: live_in, renewals: renewals_out, stop: stop_out },
    )
}

/// An acknowledged renewal: the attempt may go on for `stop_after`, counted from `sent`, when the heartbeat
/// left that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// When the heartbeat was sent.
    pub sent: crate::boottime::BootMillis,
    /// How long the attempt may go on from then.
    pub stop_after: Duration,
}

/// What an attempt is doing, for heartbeats and for whoever sends its transcript.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Live {
    /// In plain English, at most 120 characters, without control characters.
    pub now: String,
    /// Turns so far.
    pub num_turns: u32,
    /// Spent so far in millionths of a US dollar, estimated until a result is there.
    pub cost_micro_usd: u64,
    /// Root of its process tree; absent without one.
    pub supervisor_pid: Option<i32>,
    /// Where its output lies; absent without one.
    pub attempt_dir: Option<PathBuf>,
    /// Bytes of its transcript so far.
    pub transcript_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_never_shown() {
        let prompt = Prompt::Text("the secret plan".to_owned());
        assert_eq!(format!("{prompt:?}"), "Prompt(15 bytes)");
    }
}
