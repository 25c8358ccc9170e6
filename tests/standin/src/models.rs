//! Knows the model names, windows and prices the observed CLI (2.1.197) used in its own reports, so
//! that costs in a rehearsal look like those of a real run. Refuses to be a price list: nothing
//! outside the stand-ins may bill with it.

use serde_json::{Value, json};

/// Tokens of one or more model answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Input tokens that were neither read from nor written to the prompt cache.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Input tokens read from the prompt cache.
    pub cache_read: u64,
    /// Input tokens written to the prompt cache (5-minute entries).
    pub cache_write: u64,
}

/// What one scripted answer uses unless its script says otherwise.
pub const SCRIPTED_USAGE: Usage = Usage { input: 100, output: 20, cache_read: 0, cache_write: 0 };

impl Usage {
    /// Adds `other` to the figures.
    pub const fn add(&mut self, other: Self) {
        self.input += other.input;
        self.output += other.output;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
    }

    /// Every token, cached or not.
    pub const fn total(self) -> u64 {
        self.input + self.output + self.cache_read + self.cache_write
    }

    /// Reads the figures a script gives, in the short names (`input`, `output`, `cache_read`,
    /// `cache_write`) or in those of the Messages API; what it does not name stays as in `base`.
    pub fn scripted(base: Self, value: &Value) -> Self {
        let figure = |short: &str, long: &str, default: u64| {
            value.get(short).or_else(|| value.get(long)).and_then(Value::as_u64).unwrap_or(default)
        };
        Self {
            input: figure("input", "input_tokens", base.input),
            output: figure("output", "output_tokens", base.output),
            cache_read: figure("cache_read", "cache_read_input_tokens", base.cache_read),
            cache_write: figure("cache_write", "cache_creation_input_tokens", base.cache_write),
        }
    }

    /// A rehearsal's figures: about four bytes a token, as a plausible order of magnitude.
    pub const fn estimated(input_bytes: usize, output_bytes: usize) -> Self {
        Self {
            input: 40 + input_bytes as u64 / 4,
            output: 1 + output_bytes as u64 / 4,
            cache_read: 0,
            cache_write: 0,
        }
    }

    /// The `usage` object of a Messages API message.
    pub fn message_json(self) -> Value {
        json!({
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_write,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation": {"ephemeral_5m_input_tokens": self.cache_write, "ephemeral_1h_input_tokens": 0},
            "output_tokens": self.output,
            "service_tier": "standard",
        })
    }

    /// The `usage` object of the CLI's `result` event.
    pub fn result_json(self) -> Value {
        json!({
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.cache_write,
            "cache_read_input_tokens": self.cache_read,
            "output_tokens": self.output,
            "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
            "service_tier": "standard",
            "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": self.cache_write},
            "inference_geo": "",
            "iterations": [],
            "speed": "standard",
        })
    }
}

/// The full name behind an alias, keeping a `[1m]` suffix; other names pass through.
pub fn resolve(name: &str) -> String {
    let (base, suffix) = name.strip_suffix("[1m]").map_or((name, ""), |base| (base, "[1m]"));
    let full = match base {
        "opus" => "claude-opus-4-8",
        "sonnet" => "claude-sonnet-5",
        "haiku" => "claude-haiku-4-5-20251001",
        "fable" => "claude-fable-5",
        other => other,
    };
    format!("{full}{suffix}")
}

/// The name as it goes into a request and into `message.model`: without `[1m]`.
pub fn wire_name(name: &str) -> &str {
    name.strip_suffix("[1m]").unwrap_or(name)
}

/// Tokens of context, by the reported name.
pub fn context_window(name: &str) -> u64 {
    if name.ends_with("[1m]") { 1_000_000 } else { 200_000 }
}

/// Most tokens of one answer.
pub fn max_output(name: &str) -> u64 {
    match wire_name(name) {
        "claude-opus-4-8" | "claude-sonnet-5" | "claude-fable-5" => 64_000,
        _ => 32_000,
    }
}

/// USD for `usage` of `model`. Cache writes cost 1.25 times the input price, reads a tenth; unknown
/// names are priced like Opus, as the observed CLI does.
pub fn cost_usd(model: &str, usage: Usage) -> f64 {
    let name = wire_name(model);
    let (input, output) = if name.contains("haiku") {
        (1.0, 5.0)
    } else if name.contains("sonnet") {
        (3.0, 15.0)
    } else if name.contains("fable") {
        (10.0, 50.0)
    } else {
        (5.0, 25.0)
    };
    let fresh = usage.input as f64 + 1.25 * usage.cache_write as f64 + 0.1 * usage.cache_read as f64;
    (fresh * input + usage.output as f64 * output) / 1_000_000.0
}

/// One entry of the CLI's `modelUsage`.
pub fn model_usage_json(model: &str, usage: Usage) -> Value {
    json!({
        "inputTokens": usage.input,
        "outputTokens": usage.output,
        "cacheReadInputTokens": usage.cache_read,
        "cacheCreationInputTokens": usage.cache_write,
        "webSearchRequests": 0,
        "costUSD": cost_usd(model, usage),
        "contextWindow": context_window(model),
        "maxOutputTokens": max_output(model),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Usage, cost_usd, resolve, wire_name};

    #[test]
    fn costs_are_those_the_cli_reported() {
        let cached = Usage { input: 10, output: 50, cache_read: 30_000, cache_write: 2_000 };
        assert!((cost_usd("claude-opus-4-8[1m]", cached) - 0.0288).abs() < 1e-9);
        let two = Usage { input: 200, output: 40, ..Usage::default() };
        assert!((cost_usd("claude-sonnet-5", two) - 0.0012).abs() < 1e-9);
        assert!((cost_usd("claude-haiku-4-5-20251001", two) - 0.0004).abs() < 1e-9);
        assert!((cost_usd("claude-fable-5", two) - 0.004).abs() < 1e-9);
    }

    #[test]
    fn aliases_resolve_and_keep_the_window_suffix() {
        assert_eq!(resolve("sonnet[1m]"), "claude-sonnet-5[1m]");
        assert_eq!(wire_name(&resolve("opus[1m]")), "claude-opus-4-8");
        assert_eq!(resolve("my-custom-model"), "my-custom-model");
    }

    #[test]
    fn scripted_usage_takes_short_and_api_names_and_keeps_the_rest() {
        let base = Usage { input: 1, output: 2, cache_read: 3, cache_write: 4 };
        let value = json!({"input": 9, "cache_read_input_tokens": 7});
        assert_eq!(
            Usage::scripted(base, &value),
            Usage { input: 9, output: 2, cache_read: 7, cache_write: 4 }
        );
    }
}
