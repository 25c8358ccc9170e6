//! What a supervisor is told at its start, on its standard input: what to supervise, and the secrets. It is read once, so
//! none of it touches a disk. Knows no task and no model; the same for every runner that starts a process.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::gateway::spec::{GatewaySecrets, GatewaySpec};

use super::ladder::LadderPlan;
use super::segments::SEGMENT_BYTES;

/// Version of what is said. A supervisor is started by the very program that says it, so there is only one.
pub const SPEC_VERSION: u32 = 1;

/// Most that a supervisor reads, in bytes: more than the kernel lets a child have of arguments and environment, and the
/// secrets.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// What they mostly are at most: they need not be copied as they come.
const MOSTLY_BYTES: usize = 16 * 1024;

/// Name of the variable that marks every process of an attempt; its value is the supervisor's id.
pub const MARK_VARIABLE: &str = "ORCH_SUPERVISOR";

/// The child and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuperviseSpec {
    /// [`SPEC_VERSION`].
    pub version: u32,
    /// Identity of the supervisor, unique on the host: letters and digits only. Names its socket.
    pub id: String,
    /// Whose supervisor it is: the agent's data directory. A restarted agent ends only its own.
    pub owner: PathBuf,
    /// The attempt, for people.
    pub reference: String,
    /// Directory of sockets; private.
    pub runtime_dir: PathBuf,
    /// Directory of the attempt: segments and exit record; private.
    pub attempt_dir: PathBuf,
    /// Program, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment but for the secrets.
    pub env: BTreeMap<String, String>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// What its input is.
    pub input: Input,
    /// How it is asked to stop.
    pub ladder: LadderPlan,
    /// Its limits.
    pub limits: Limits,
    /// What confines it; absent: nothing but its own user.
    #[serde(default)]
    pub sandbox: Option<crate::sandbox::Plan>,
    /// Whether its end is recorded so that it outlives a power loss, because money was spent on it. Anything else is begun
    /// anew after one, whatever is known of its end: what it wrote is not known to be on the disk either.
    pub durable: bool,
    /// What stands between it and the API; absent: nothing. The child's `ANTHROPIC_BASE_URL` and `ANTHROPIC_API_KEY` are set
    /// where there is one.
    #[serde(default)]
    pub gateway: Option<GatewaySpec>,
}

/// What the child's standard input is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Closed from the start.
    Closed,
    /// A conversation in lines: the file is written first, then lines come from the agent. A result line
    /// ends a turn; with nothing more to say the input is closed.
    Conversation {
        /// What to say first.
        first: PathBuf,
    },
}

/// Limits of an attempt, in milliseconds and bytes. An absent one is not enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest life of the attempt.
    pub attempt_ms: Option<u64>,
    /// Longest wait for the first byte of standard output.
    pub start_ms: Option<u64>,
    /// Longest time without output and without another sign of life; see [`super::life`].
    pub silence_ms: Option<u64>,
    /// Directory in which a growing file is a sign of life: the session files of the child.
    pub life_dir: Option<PathBuf>,
    /// Longest life without a renewal.
    pub stop_after_ms: Option<u64>,
    /// Most bytes of standard output and standard error together.
    pub output_bytes: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// How long after a result line the input stays open for the agent to speak. Also without an agent, so that one that
    /// restarts meanwhile can say what it has to say.
    pub result_idle_ms: u64,
    /// How long a child may take to exit once its input is closed after a result, or once it has closed its output
    /// in the middle of a conversation.
    pub linger_ms: u64,
    /// Most resident memory of the whole tree, sampled twice a second.
    pub memory_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempt_ms: None,
            start_ms: None,
            silence_ms: None,
            life_dir: None,
            stop_after_ms: None,
            output_bytes: 1024 * 1024 * 1024,
            segment_bytes: SEGMENT_BYTES,
            result_idle_ms: 10_000,
            linger_ms: 10_000,
            memory_bytes: None,
        }
    }
}

/// What must not be on a disk, on a command line or in a log.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Variables for the child.
    pub env: BTreeMap<String, String>,
    /// Texts to overwrite in its output, besides the values of `env` that are listed here too.
    pub redact: Vec<String>,
    /// A login file that the child may renew: tokens that appear in it are overwritten as well. An absolute path.
    #[serde(default)]
    pub login: Option<PathBuf>,
    /// For the gateway, where there is one.
    #[serde(default)]
    pub gateway: Option<GatewaySecrets>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} variables, {} texts)", self.env.len(), self.redact.len())
    }
}

/// Why a supervisor could not learn what to do.
#[derive(Debug, Error)]
pub enum SpecError {
    /// The pipe cannot be read.
    #[error("cannot read the supervisor's input")]
    Read(#[source] io::Error),
    /// It is not what it should be.
    #[error("the supervisor's input is malformed")]
    Malformed(#[source] serde_json::Error),
    /// Another version said it.
    #[error("the input has version {found}, this program knows {SPEC_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The id would not be a file name.
    #[error("the supervisor id is not made of letters and digits")]
    Id,
}

/// What is said: both parts, in this order.
///
/// # Errors
/// When a path in it is not UTF-8.
pub fn spell_orders(spec: &SuperviseSpec, secrets: &Secrets) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&(spec, secrets))?)
}

/// Reads what is said up to the end of `input`, and checks it.
///
/// # Errors
/// See [`SpecError`].
pub fn read_orders(input: impl Read) -> Result<(SuperviseSpec, Secrets), SpecError> {
    let mut bytes = Vec::with_capacity(MOSTLY_BYTES);
    input.take(MOST_BYTES).read_to_end(&mut bytes).map_err(SpecError::Read)?;
    let (spec, secrets): (SuperviseSpec, Secrets) =
        serde_json::from_slice(&bytes).map_err(SpecError::Malformed)?;
    if spec.version != SPEC_VERSION {
        return Err(SpecError::Version { found: spec.version });
    }
    if !is_id(&spec.id) {
        return Err(SpecError::Id);
    }
    Ok((spec, secrets))
}

/// Whether `id` can name a supervisor.
#[must_use]
pub fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secrets = Secrets {
            env: BTreeMap::from([("ANTHROPIC_API_KEY".to_owned(), "sk-canary".to_owned())]),
            redact: vec!["sk-canary".to_owned()],
            login: Some(PathBuf::from("/home/.claude/login")),
            gateway: Some(GatewaySecrets { token: "canary".to_owned(), key: "canary".to_owned() }),
        };
        assert!(!format!("{secrets:?}").contains("canary"));
        let bytes = serde_json::to_vec(&secrets).unwrap();
        assert_eq!(serde_json::from_slice::<Secrets>(&bytes).unwrap(), secrets);
    }

    #[test]
    fn an_id_is_a_plain_file_name() {
        assert!(is_id("a1B2"));
        for bad in ["", "../x", "a/b", "a.b", "a b", &"x".repeat(65)] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn malformed_input_is_refused_with_its_name() {
        let error = read_orders(&b"[{"[..]).unwrap_err();
        assert_eq!(error.to_string(), "the supervisor's input is malformed");
    }
}
