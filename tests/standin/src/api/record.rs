//! Knows what is kept of a request: who asked, for what, how it was answered, and totals by model.
//! Refuses to keep credentials and bodies: of a body only whether it holds what a test looks for.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde::Serialize;

use crate::models::{Usage, cost_usd};

/// One request as remembered.
#[derive(Debug, Clone, Serialize)]
pub struct Recorded {
    /// Its number, from 1.
    pub number: u64,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The model asked for.
    pub model: Option<String>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The CLI's session, by its header.
    pub session_id: Option<String>,
    /// The sub-agent that asks, by its header; none: the main thread.
    pub agent_id: Option<String>,
    /// Headers in order; of credentials only `(present)`.
    pub headers: Vec<(String, String)>,
    /// Names of the offered tools.
    pub tools: Vec<String>,
    /// Number of messages in the conversation.
    pub messages: usize,
    /// Those of the texts looked for that its body holds.
    pub found: Vec<String>,
    /// The name of its credential, if it was given one.
    pub key: Option<String>,
    /// Status of the answer; 0 while a connection hangs or was dropped on purpose.
    pub status: u16,
    /// What was answered, in a word: a stop reason or a failure.
    pub answer: String,
    /// Tokens billed.
    #[serde(skip)]
    pub usage: Usage,
}

/// Totals since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ledger {
    /// Requests to `/v1/messages`.
    pub requests: u64,
    /// Those of sub-agents.
    pub sub_agent_requests: u64,
    /// Those answered with an error, a cut or silence.
    pub failed: u64,
    /// Totals of the answered ones by the model's wire name.
    pub models: BTreeMap<String, ModelTotal>,
}

/// Totals of one model.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ModelTotal {
    /// Answered requests.
    pub requests: u64,
    /// Input tokens, uncached.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_tokens: u64,
    /// Tokens written to the cache.
    pub cache_write_tokens: u64,
    /// At the CLI's own prices.
    pub cost_usd: f64,
}

impl Ledger {
    pub(super) fn count(&mut self, request: &Recorded) {
        self.requests += 1;
        self.sub_agent_requests += u64::from(request.agent_id.is_some());
        let Some(model) = request.model.as_ref().filter(|_| request.usage != Usage::default()) else {
            self.failed += 1;
            return;
        };
        let total = self.models.entry(model.clone()).or_default();
        total.requests += 1;
        total.input_tokens += request.usage.input;
        total.output_tokens += request.usage.output;
        total.cache_read_tokens += request.usage.cache_read;
        total.cache_write_tokens += request.usage.cache_write;
        total.cost_usd += cost_usd(model, request.usage);
    }
}

const SECRET_HEADERS: &[&str] = &["authorization", "x-api-key", "cookie", "proxy-authorization"];

/// The headers as pairs, credentials replaced.
pub(super) fn public_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let pair = |name: &http::HeaderName, value: &http::HeaderValue| {
        let shown = if SECRET_HEADERS.contains(&name.as_str()) {
            "(present)".to_owned()
        } else {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        (name.as_str().to_owned(), shown)
    };
    headers.iter().map(|(name, value)| pair(name, value)).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::public_headers;

    #[test]
    fn credentials_are_noted_as_present_and_not_kept() {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", "canary-1".parse().unwrap());
        headers.insert("authorization", "Bearer canary-2".parse().unwrap());
        headers.insert("x-app", "cli".parse().unwrap());
        let kept = public_headers(&headers);
        assert!(!format!("{kept:?}").contains("canary"));
        assert!(kept.contains(&("x-app".to_owned(), "cli".to_owned())));
    }
}
