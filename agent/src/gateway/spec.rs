//! What a gateway is told at its start: a part of what its supervisor is told, and the part of the secrets that is for it.
//! Knows where the API is; refuses to know pools and the CLI.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest time a request of the CLI is held before it is answered 429 with `retry-after: 1`, so that it asks again.
/// The CLI waits 300 s for the beginning of an answer, whatever a larger `API_TIMEOUT_MS` says (observed: 2.1.197); what is
/// left of that is for the API. A smaller `API_TIMEOUT_MS` must stay above this. Every hold that runs out costs the
/// CLI one of its retries (`CLAUDE_CODE_MAX_RETRIES`: 10, at most 15), each with a wait of its own of up to 38 s.
pub const LONGEST_HOLD: Duration = Duration::from_secs(240);

/// How long an API that fails is asked by an attempt before the CLI is told not to ask again. By itself, asking the API
/// directly, it gives up after 181 s (observed: 2.1.197, ten retries); with a pause of up to 38 s before the request that is told,
/// and what an agent holds each for, an attempt ends between 150 and 200 s after the first failure.
pub const LONGEST_FAILURE: Duration = Duration::from_secs(150);

/// A gateway, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySpec {
    /// Where the API is: `https://HOST` or, for stand-ins, `http://HOST:PORT`; a path is put before that of requests.
    pub upstream: String,
    /// Where exchanges are recorded; absent: they are not.
    #[serde(default)]
    pub record_dir: Option<PathBuf>,
    /// See [`LONGEST_HOLD`], in milliseconds.
    #[serde(default = "longest_hold_ms")]
    pub longest_hold_ms: u64,
    /// See [`LONGEST_FAILURE`], in milliseconds.
    #[serde(default = "longest_failure_ms")]
    pub longest_failure_ms: u64,
}

const fn longest_failure_ms() -> u64 {
    LONGEST_FAILURE.as_secs() * 1_000
}

const fn longest_hold_ms() -> u64 {
    LONGEST_HOLD.as_secs() * 1_000
}

impl GatewaySpec {
    /// A gateway to this API that records nothing.
    #[must_use]
    pub fn to(upstream: impl Into<String>) -> Self {
        Self {
            upstream: upstream.into(),
            record_dir: None,
            longest_hold_ms: longest_hold_ms(),
            longest_failure_ms: longest_failure_ms(),
        }
    }
}

/// What opens the two doors of a gateway.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySecrets {
    /// The word of this attempt: the child sends it in place of a key, and nobody else knows it. See [`new_token`].
    pub token: String,
    /// The API key.
    pub key: String,
}

impl fmt::Debug for GatewaySecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewaySecrets")
    }
}

/// A word for an attempt, from 32 random bytes. It begins as API keys do, because the CLI may look at that.
#[must_use]
pub fn new_token(random: [u8; 32]) -> String {
    format!("sk-ant-orch-{}", hex::encode(random))
}
