//! Tokens in answers of the API, as it writes them: in a whole answer, in the first event of a stream, and in the one
//! that ends it. Knows names of fields; refuses to know what a token costs.

use serde::Deserialize;

use super::wire::Tokens;

/// `usage` of an answer. Every field is optional: the last event of a stream repeats only some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    server_tool_use: Option<ServerToolUse>,
}

/// What was written to the cache, by how long it lives there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_1h_input_tokens: Option<u64>,
}

/// Tools that the API runs itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct ServerToolUse {
    web_search_requests: Option<u64>,
}

impl Usage {
    /// Puts what this one says in place of what was known: figures of a stream are cumulative.
    pub fn overwrite(&self, tokens: &mut Tokens) {
        let put = |known: &mut u64, said: Option<u64>| *known = said.unwrap_or(*known);
        put(&mut tokens.input, self.input_tokens);
        put(&mut tokens.output, self.output_tokens);
        put(&mut tokens.cache_read, self.cache_read_input_tokens);
        put(&mut tokens.cache_write, self.cache_creation_input_tokens);
        let long = self.cache_creation.and_then(|written| written.ephemeral_1h_input_tokens);
        put(&mut tokens.cache_write_1h, long);
        put(&mut tokens.searches, self.server_tool_use.and_then(|used| used.web_search_requests));
    }

    /// Whether it says how much was put out.
    #[must_use]
    pub const fn has_output(&self) -> bool {
        self.output_tokens.is_some()
    }
}

/// The tokens of a whole answer; `None` where it has none: it is an error, or not of this API.
#[must_use]
pub fn of_answer(body: &[u8]) -> Option<Tokens> {
    #[derive(Deserialize)]
    struct Answer {
        usage: Usage,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let mut tokens = Tokens::default();
    answer.usage.overwrite(&mut tokens);
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_is_counted_and_an_error_is_not() {
        let body = br#"{"type":"message","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":7,
            "cache_read_input_tokens":5,"cache_creation_input_tokens":3,"output_tokens":2,"service_tier":"s"}}"#;
        let tokens = Tokens { input: 7, output: 2, cache_read: 5, cache_write: 3, ..Tokens::default() };
        assert_eq!(of_answer(body), Some(tokens));
        assert_eq!(of_answer(br#"{"type":"error","error":{"type":"overloaded_error"}}"#), None);
        assert_eq!(of_answer(b"<html>"), None);
    }

    #[test]
    fn what_is_cached_for_an_hour_and_what_the_api_searched_is_told_apart() {
        let body = br#"{"usage":{"input_tokens":7,"cache_creation_input_tokens":30,"output_tokens":2,"cache_creation":
            {"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"server_tool_use":{"web_search_requests":3}}}"#;
        let tokens = Tokens {
            input: 7,
            output: 2,
            cache_write: 30,
            cache_write_1h: 20,
            searches: 3,
            ..Tokens::default()
        };
        assert_eq!(of_answer(body), Some(tokens));
        let none = br#"{"usage":{"output_tokens":2,"cache_creation":null,"server_tool_use":{}}}"#;
        assert_eq!(of_answer(none), Some(Tokens { output: 2, ..Tokens::default() }));
    }

    #[test]
    fn a_later_figure_stands_for_an_earlier_one_and_a_missing_one_changes_nothing() {
        let mut tokens = Tokens { input: 7, output: 1, ..Tokens::default() };
        let delta: Usage =
            serde_json::from_str(r#"{"output_tokens":40,"cache_read_input_tokens":null}"#).unwrap();
        delta.overwrite(&mut tokens);
        assert_eq!(tokens, Tokens { input: 7, output: 40, ..Tokens::default() });
        assert!(delta.has_output());
    }
}
