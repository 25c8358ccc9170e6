//! What a gateway and its agent say to each other: JSON objects, one a line, on a socket of the attempt. Words and fields
//! of another version are ignored.
//! Knows tokens and times; refuses to know money.

use serde::{Deserialize, Serialize};

/// Tokens of one request, as the API counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tokens {
    /// Input outside the cache.
    pub input: u64,
    /// Output.
    pub output: u64,
    /// Read from the cache.
    pub cache_read: u64,
    /// Written to the cache.
    pub cache_write: u64,
    /// Of them, those that live there for an hour: they cost twice the input, not input and a quarter.
    #[serde(default, skip_serializing_if = "is_none")]
    pub cache_write_1h: u64,
    /// Web searches that the model made at the API's side. No tokens, but money.
    #[serde(default, skip_serializing_if = "is_none")]
    pub searches: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_none(count: &u64) -> bool {
    *count == 0
}

/// Rate limits as response headers tell them; `None` where a header was absent or unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Headers {
    /// `anthropic-ratelimit-requests-limit`.
    pub requests_limit: Option<u64>,
    /// `anthropic-ratelimit-requests-remaining`.
    pub requests_remaining: Option<u64>,
    /// `anthropic-ratelimit-input-tokens-limit`.
    pub input_limit: Option<u64>,
    /// `anthropic-ratelimit-input-tokens-remaining`.
    pub input_remaining: Option<u64>,
    /// `anthropic-ratelimit-output-tokens-limit`.
    pub output_limit: Option<u64>,
    /// `anthropic-ratelimit-output-tokens-remaining`.
    pub output_remaining: Option<u64>,
}

/// Everything that requests of one model have taken so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModelTotal {
    /// The model, as it was asked for.
    pub model: String,
    /// Its tokens.
    pub tokens: Tokens,
    /// Requests.
    pub requests: u64,
    /// Requests of sub-agents among them.
    pub sub_agent_requests: u64,
    /// Requests whose end was not seen: their tokens are estimated.
    pub estimated_requests: u64,
}

/// What the API said that concerns everybody who uses the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalKind {
    /// 429 that passes soon.
    Throttled,
    /// 429 of a window that is used up.
    Exhausted,
    /// 5xx, 529, no connection, no answer.
    Failing,
    /// 401 or 403: the credential was not taken.
    Refused,
}

/// What a gateway says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First line to each agent that connects, before anything that waits is asked again.
    Hello {
        /// [`WIRE_VERSION`].
        version: u32,
        /// Identity of the supervisor.
        id: String,
        /// Requests that ended.
        totals: Vec<ModelTotal>,
        /// Requests in flight, with what was asked for each.
        in_flight: Vec<Ask>,
    },
    /// A request waits. Asked again after a reconnect.
    Ask(Ask),
    /// The answer began: the input side is known.
    Begun {
        /// Which request.
        request: u64,
        /// Its tokens, as far as known.
        tokens: Tokens,
        /// What the headers said.
        headers: Headers,
    },
    /// A request that was let go ended.
    Ended {
        /// Which request.
        request: u64,
        /// Its tokens.
        tokens: Tokens,
        /// The end was not seen: tokens are estimated.
        estimated: bool,
        /// Status of the answer; 0 without one.
        status: u16,
        /// What the headers said; empty where [`Event::Begun`] told it, because they are old by now.
        headers: Headers,
    },
    /// A request that waited is no longer wanted: the CLI has hung up.
    Withdrawn {
        /// Which request.
        request: u64,
    },
    /// The API said something that concerns everybody.
    Signal {
        /// What.
        kind: SignalKind,
        /// Model it was said of.
        model: String,
        /// When it makes sense to ask again, from now, ms.
        retry_after_ms: Option<u64>,
        /// The window, for example `five_hour`, or empty.
        window: String,
        /// For people, without secrets.
        detail: String,
    },
    /// A word of a newer gateway; ignored.
    #[serde(other)]
    Unknown,
}

/// A request that waits, or was let go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Number of the request within the attempt, from 1.
    pub request: u64,
    /// The model asked for.
    pub model: String,
    /// Most input tokens it can have, by its length.
    pub input_bound: u64,
    /// Of them, in the same measure: likely to be read from the cache, because the gateway sent the same beginning within the
    /// last minutes.
    pub likely_cached: u64,
    /// Most output tokens it can have: its `max_tokens`.
    pub output_bound: u64,
    /// A sub-agent asks.
    pub sub_agent: bool,
    /// What is written to the cache may be for an hour, at a higher price.
    pub for_an_hour: bool,
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Command {
    /// First line of an agent.
    Hello {
        /// [`WIRE_VERSION`].
        version: u32,
    },
    /// Let the request go.
    Go {
        /// Which.
        request: u64,
    },
    /// Answer the request in place of the API.
    Refuse {
        /// Which.
        request: u64,
        /// Status: 429 with a long `retry_after_s` parks, 400 ends, [`ASK_AGAIN`] leaves it to the CLI's own retries.
        status: u16,
        /// `error.type` of the body, for example `rate_limit_error`.
        kind: String,
        /// `error.message` of the body.
        message: String,
        /// `retry-after`, with `x-should-retry: false`.
        retry_after_s: Option<u64>,
    },
    /// Use another credential from now on: a helper printed a new one.
    Credential {
        /// Value of `x-api-key`.
        key: String,
    },
    /// A word of a newer agent; ignored.
    #[serde(other)]
    Unknown,
}

/// Status of a refusal after which the CLI may ask again. All others are final.
pub const ASK_AGAIN: u16 = 504;

/// Version of these lines.
pub const WIRE_VERSION: u32 = 1;
