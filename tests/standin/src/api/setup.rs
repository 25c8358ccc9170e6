//! Knows what can be set beyond the script: rate limits by key and class of models, the prompt cache, how long
//! answers take. Nothing is set at first, and then answers are billed and timed as their script says.
//! Refuses to enforce any of it.

use std::time::Duration;

/// How the stand-in behaves whatever the prompts say.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Rate limits; of each request the first that fits. None fits: no limit, and no headers.
    pub limits: Vec<Limit>,
    /// The prompt cache. Unset: input is billed as scripted. Set: input is counted, four bytes a token.
    pub cache: Option<CacheRules>,
    /// How long answers take beyond what their script says.
    pub latency: Latency,
}

/// The rate limits of a key for a class of models. Every pair of key and class has buckets of its own.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Name of the key, see [`super::ApiHandle::set_key`]; unset fits every key.
    pub key: Option<String>,
    /// Class of models, `opus`, `sonnet`, `haiku` or `other`; unset fits every class.
    pub class: Option<String>,
    /// Amounts a minute.
    pub rates: Rates,
    /// What a full bucket holds: so much time's worth. The API's hold a minute.
    pub burst: Duration,
    /// What a bucket holds when limits are set, likewise.
    pub first: Duration,
    /// Whether answers tell limits, what is left and when it is full again (`anthropic-ratelimit-*`).
    pub headers: bool,
    /// Tokens left are told as multiples of this; the API says thousands.
    pub rounded_to: u64,
}

/// Amounts a minute; unset means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests.
    pub requests: Option<u64>,
    /// Input tokens outside the cache and written to it.
    pub input: Option<u64>,
    /// Output tokens.
    pub output: Option<u64>,
}

impl Limit {
    /// Limits of every class of models of a key, as the API has them: a minute's burst, with headers.
    pub fn of(key: &str, rates: Rates) -> Self {
        let burst = Duration::from_secs(60);
        Self {
            key: Some(key.to_owned()),
            class: None,
            rates,
            burst,
            first: burst,
            headers: true,
            rounded_to: 1_000,
        }
    }

    /// Whether it is about requests of this key for this class.
    pub(super) fn fits(&self, key: Option<&str>, class: &str) -> bool {
        self.key.as_deref().is_none_or(|wanted| Some(wanted) == key)
            && self.class.as_deref().is_none_or(|wanted| wanted == class)
    }
}

/// The prompt cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheRules {
    /// Shortest prefix that is kept, in tokens. The API's is 1,024 or more, by model.
    pub minimum: u64,
    /// How long a prefix is kept after it was used last.
    pub life: Duration,
}

impl Default for CacheRules {
    fn default() -> Self {
        Self { minimum: 1_024, life: Duration::from_secs(300) }
    }
}

/// How long answers take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latency {
    /// Until the first byte.
    pub first_byte: Duration,
    /// Output tokens a second; unset: all at once.
    pub tokens_per_second: Option<u32>,
}

/// The class of a model, by its name.
pub(super) fn class_of(model: &str) -> &'static str {
    let known = ["opus", "sonnet", "haiku"].into_iter().find(|class| model.contains(class));
    known.unwrap_or("other")
}
