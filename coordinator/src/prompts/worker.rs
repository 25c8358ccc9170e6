//! A resolved worker: everything an agent needs to run it, and its stored form.
//!
//! Knows the shape of a definition, its canonical bytes and its digest. Refuses to know where the definition
//! came from: two files with different names and one meaning have one digest. A run pins the digest at
//! submit, so a changed prompt never reaches a run that is already on its way.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The format of the stored definition. Raised when a field is added or changes its meaning.
const FORMAT: u32 = 4;

/// A named persona, ready to be run: its fields are arguments of the CLI or limits of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    pub(super) format: u32,
    /// Its name, `[a-z][a-z0-9-]{0,62}`.
    pub name: String,
    /// What it is for, in one line: read by people and by the planner.
    pub description: String,
    /// `--model`: a tier alias of the CLI or a full model id.
    pub model: String,
    /// `--fallback-model`, in order: models that step in while that one is overloaded or gone. May be empty (no flag).
    pub fallback: Vec<String>,
    /// The whole system prompt, templates and context files included, for `--system-prompt-file`. Ends with a line feed.
    pub system_prompt: String,
    /// `--tools`: the exact set of built-in tools offered to it and its sub-agents, sorted. Empty means the
    /// flag with an empty value, which offers none; it does not mean leaving the flag out.
    pub tools: Vec<String>,
    /// `--allowedTools`: permission rules, one argument each, sorted. May be empty (no flag).
    pub allowed_tools: Vec<String>,
    /// `--disallowedTools`: permission rules, one argument each, sorted. May be empty (no flag).
    pub disallowed_tools: Vec<String>,
    /// `--permission-mode`.
    pub permission_mode: PermissionMode,
    /// Model turns of the main thread over the whole attempt, counted by the agent. `None`: its own limit.
    pub max_turns: Option<u32>,
    /// `--max-budget-usd` in millionths of a US dollar; counts sub-agents. `None`: no limit of the worker.
    pub budget_micro_usd: Option<u64>,
    /// Longest attempt in milliseconds. `None`: the coordinator's default.
    pub timeout_ms: Option<u64>,
    /// Capabilities its tasks require of an agent, in addition to what the task itself requires.
    pub requires: BTreeMap<String, String>,
    /// What happens to an attempt whose agent is lost.
    pub on_loss: OnLoss,
    /// What a denied tool does to an attempt that is otherwise `ok`.
    pub on_denial: OnDenial,
    /// Its sub-agents by name; see [`Self::agents_json`].
    pub agents: BTreeMap<String, SubAgent>,
    /// Names of its context files, in the order in which they stand in the system prompt.
    pub context_files: Vec<String>,
    /// Credential pool an agent must have and use for it. `None`: the agent's own mapping decides.
    pub pool: Option<String>,
    /// `--setting-sources`: `local`, `project`, sorted. Empty, the default, means none: nothing of the working directory
    /// is run or read as settings.
    pub setting_sources: Vec<String>,
    /// `--settings`, a JSON object.
    pub settings_json: Option<String>,
    /// `--mcp-config`, a JSON object. `None`: no tool server is started.
    pub mcp_config_json: Option<String>,
}

/// One of a worker's sub-agents, in the shape `--agents` wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SubAgent {
    /// When to use it: read by the worker's model.
    pub description: String,
    /// Its system prompt.
    pub prompt: String,
    /// Its tools, sorted: a subset of the worker's.
    pub tools: Vec<String>,
    /// A tier alias, a full model id, or `inherit`.
    pub model: String,
    /// Its turn limit, enforced by the CLI. Always set: the CLI's own limit does not bound sub-agents.
    pub max_turns: u32,
}

/// The CLI's permission modes that a worker may have. `bypassPermissions` is left out: it takes away what the
/// tool lists state, and the CLI refuses it as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PermissionMode {
    /// Edits within the working directories are granted; the rest needs a rule.
    AcceptEdits,
    /// The CLI's own classifier decides.
    Auto,
    /// What would be asked is refused, since nobody can be asked.
    Default,
    /// Everything without a rule is refused, reading within the working directories excepted.
    DontAsk,
    /// Read only; the CLI tells the model to plan.
    Plan,
}

impl PermissionMode {
    /// All modes, in order of the CLI's words for them.
    pub const ALL: [Self; 5] = [Self::AcceptEdits, Self::Auto, Self::Default, Self::DontAsk, Self::Plan];

    /// The value of `--permission-mode`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AcceptEdits => "acceptEdits",
            Self::Auto => "auto",
            Self::Default => "default",
            Self::DontAsk => "dontAsk",
            Self::Plan => "plan",
        }
    }
}

/// When an attempt may be given to another agent after its own was lost (DESIGN: `on_loss`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLoss {
    /// Soon: the task's effects reach the world only through its recorded result.
    Fast,
    /// Only once the old child is certainly dead: the task has effects of its own.
    Wait,
}

/// What becomes of an attempt whose model was denied a tool and answered without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDenial {
    /// It counts, and the denial is shown.
    Warn,
    /// It ends as `permission_denied`: its answer rests on something that was not done.
    Fail,
}

/// The SHA-256 of a worker's stored definition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerDigest([u8; 32]);

impl WorkerDigest {
    /// The 32 bytes, as stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of a stored definition, to check bytes against the digest they were asked by.
    #[must_use]
    pub fn of(definition: &[u8]) -> Self {
        Self(Sha256::digest(definition).into())
    }
}

impl From<[u8; 32]> for WorkerDigest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for WorkerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for WorkerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerDigest({self})")
    }
}

impl Worker {
    pub(super) const FORMAT: u32 = FORMAT;

    /// The value of `--agents`: one JSON object with sorted names, at most
    /// [`MAX_AGENTS_JSON_BYTES`](super::MAX_AGENTS_JSON_BYTES). `None` without sub-agents: no flag.
    #[must_use]
    pub fn agents_json(&self) -> Option<String> {
        (!self.agents.is_empty()).then(|| String::from_utf8_lossy(&canonical(&self.agents)).into_owned())
    }

    /// The stored form: JSON without blanks, fields in declaration order, maps and lists sorted. Equal
    /// workers give equal bytes.
    #[must_use]
    pub fn to_definition_bytes(&self) -> Vec<u8> {
        canonical(self)
    }

    /// Reads the stored form back.
    ///
    /// # Errors
    /// The bytes are not a definition, or one of a newer format.
    pub fn from_definition_bytes(bytes: &[u8]) -> Result<Self, DefinitionError> {
        #[derive(Deserialize)]
        struct Envelope {
            format: u32,
        }
        let Envelope { format: found } = serde_json::from_slice(bytes).map_err(DefinitionError::Malformed)?;
        if found != FORMAT {
            return Err(DefinitionError::UnknownFormat { found, known: FORMAT });
        }
        serde_json::from_slice(bytes).map_err(DefinitionError::Malformed)
    }

    /// The digest under which the definition is stored and pinned.
    #[must_use]
    pub fn digest(&self) -> WorkerDigest {
        WorkerDigest::of(&self.to_definition_bytes())
    }
}

fn canonical<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "strings, integers and string-keyed maps always serialise, and a Vec always takes them"
    )]
    serde_json::to_vec(value).expect("plain data serialises")
}

/// Stored bytes that are not a worker definition of this format.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DefinitionError {
    /// Not JSON of the expected shape.
    #[error("the stored worker definition cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// Written by another release.
    #[error("the stored worker definition has format {found}; this release reads {known}")]
    UnknownFormat {
        /// The format of the bytes.
        found: u32,
        /// The format this release reads.
        known: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Worker {
        let helper = SubAgent {
            description: "helps".into(),
            prompt: "Help.\n".into(),
            tools: vec!["Read".into()],
            model: "haiku".into(),
            max_turns: 20,
        };
        Worker {
            format: FORMAT,
            name: "one".into(),
            description: "does one thing".into(),
            model: "sonnet".into(),
            fallback: vec!["haiku".into()],
            system_prompt: "Do it.\n".into(),
            tools: vec!["Agent".into(), "Read".into()],
            allowed_tools: vec![],
            disallowed_tools: vec![],
            permission_mode: PermissionMode::DontAsk,
            max_turns: Some(3),
            budget_micro_usd: Some(1_500_000),
            timeout_ms: None,
            requires: BTreeMap::from([("gpu".into(), "yes".into())]),
            on_loss: OnLoss::Fast,
            on_denial: OnDenial::Warn,
            agents: BTreeMap::from([("zoe".into(), helper.clone()), ("abe".into(), helper)]),
            context_files: vec!["terms.md".into()],
            pool: None,
            setting_sources: vec![],
            settings_json: None,
            mcp_config_json: None,
        }
    }

    #[test]
    fn the_stored_form_reads_back_to_the_same_worker_and_the_same_bytes() {
        let bytes = worker().to_definition_bytes();
        let back = Worker::from_definition_bytes(&bytes).unwrap();
        assert_eq!(back, worker());
        assert_eq!(back.to_definition_bytes(), bytes);
        assert_eq!(back.digest(), WorkerDigest::of(&bytes));
    }

    #[test]
    fn the_agents_flag_has_the_clis_keys_in_a_fixed_order() {
        let helper =
            r#"{"description":"helps","prompt":"Help.\n","tools":["Read"],"model":"haiku","maxTurns":20}"#;
        assert_eq!(worker().agents_json().unwrap(), format!(r#"{{"abe":{helper},"zoe":{helper}}}"#));
        assert_eq!(Worker { agents: BTreeMap::new(), ..worker() }.agents_json(), None);
    }

    #[test]
    fn the_digest_covers_every_field() {
        let base = worker().digest();
        let changed = [
            Worker { name: "two".into(), ..worker() },
            Worker { description: "x".into(), ..worker() },
            Worker { model: "opus".into(), ..worker() },
            Worker { fallback: vec![], ..worker() },
            Worker { system_prompt: "Do it!\n".into(), ..worker() },
            Worker { tools: vec![], ..worker() },
            Worker { allowed_tools: vec!["Bash".into()], ..worker() },
            Worker { disallowed_tools: vec!["Bash".into()], ..worker() },
            Worker { permission_mode: PermissionMode::Plan, ..worker() },
            Worker { max_turns: None, ..worker() },
            Worker { budget_micro_usd: None, ..worker() },
            Worker { timeout_ms: Some(1), ..worker() },
            Worker { requires: BTreeMap::new(), ..worker() },
            Worker { on_loss: OnLoss::Wait, ..worker() },
            Worker { on_denial: OnDenial::Fail, ..worker() },
            Worker { agents: BTreeMap::new(), ..worker() },
            Worker { context_files: vec![], ..worker() },
            Worker { pool: Some("studio".into()), ..worker() },
            Worker { setting_sources: vec!["project".into()], ..worker() },
            Worker { settings_json: Some("{}".into()), ..worker() },
            Worker { mcp_config_json: Some("{}".into()), ..worker() },
        ];
        for other in changed {
            assert_ne!(other.digest(), base, "{other:?}");
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], b"{}", b"[]", b"{\"format\":4}", b"\xff"] {
            assert!(
                matches!(Worker::from_definition_bytes(bytes), Err(DefinitionError::Malformed(_))),
                "{bytes:?}"
            );
        }
        let newer = br#"{"format":5,"name":"from the future"}"#;
        assert!(matches!(
            Worker::from_definition_bytes(newer),
            Err(DefinitionError::UnknownFormat { found: 5, known: FORMAT })
        ));
        let text = String::from_utf8(worker().to_definition_bytes()).unwrap();
        let extended = text.replacen("\"name\"", "\"extra\":1,\"name\"", 1);
        assert!(matches!(
            Worker::from_definition_bytes(extended.as_bytes()),
            Err(DefinitionError::Malformed(_))
        ));
    }

    #[test]
    fn permission_modes_are_stored_by_the_clis_word() {
        for mode in PermissionMode::ALL {
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{}\"", mode.as_str()));
        }
    }
}
