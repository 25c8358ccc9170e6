//! Knows how input is counted: four bytes are a token, rounded up over the whole, of the texts and other blocks in the
//! order in which the prompt cache sees them (tools, system prompt, messages); and which prefixes a request has.
//! Refuses to know what a prefix costs.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::Value;

/// Bytes a token.
const BYTES: u64 = 4;

/// Everything of a request up to the end of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    /// The same for the same beginning.
    pub(super) hash: u64,
    /// Its tokens.
    pub(super) tokens: u64,
    /// Whether the block carries `cache_control`.
    pub(super) marked: bool,
}

/// The prefixes of a request, shortest first; the last is all of it.
pub(super) fn prefixes(body: &Value) -> Vec<Prefix> {
    let mut found = Vec::new();
    let (mut hash, mut bytes) = (0, 0);
    let mut add = |place: &str, block: &Value| {
        let mut hasher = DefaultHasher::new();
        (hash, place).hash(&mut hasher);
        bytes += weigh(block, &mut hasher);
        hash = hasher.finish();
        let marked = block.get("cache_control").is_some_and(|mark| !mark.is_null());
        found.push(Prefix { hash, tokens: bytes.div_ceil(BYTES), marked });
    };
    for tool in blocks(body.get("tools")) {
        add("tool", tool);
    }
    for block in blocks(body.get("system")) {
        add("system", block);
    }
    for message in blocks(body.get("messages")) {
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        for block in blocks(message.get("content")) {
            add(role, block);
        }
    }
    found
}

/// Blocks of an array, or the text that may stand in its place.
fn blocks(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::Array(blocks)) => blocks,
        Some(text @ Value::String(_)) => std::slice::from_ref(text),
        Some(_) | None => &[],
    }
}

/// Hashes a block without its mark; gives its bytes.
fn weigh(block: &Value, hasher: &mut DefaultHasher) -> u64 {
    let mut count = |text: &str| {
        text.hash(hasher);
        text.len() as u64
    };
    if let Some(text) = block.as_str() {
        return count(text);
    }
    if let Some(text) = block.get("text").and_then(Value::as_str) {
        return count(text);
    }
    let mut plain = block.clone();
    if let Some(fields) = plain.as_object_mut() {
        fields.remove("cache_control");
    }
    count(&plain.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::prefixes;

    #[test]
    fn a_prefix_is_the_same_wherever_the_mark_stands_and_counts_four_bytes_a_token() {
        let mark = json!({"type": "ephemeral"});
        let one = json!({"system": [{"type": "text", "text": "12345678", "cache_control": mark}],
            "messages": [{"role": "user", "content": "abc"}]});
        let other = json!({"system": [{"type": "text", "text": "12345678"}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "abc", "cache_control": mark}]}]});
        let (one, other) = (prefixes(&one), prefixes(&other));
        assert_eq!(
            one.iter().map(|p| p.hash).collect::<Vec<_>>(),
            other.iter().map(|p| p.hash).collect::<Vec<_>>()
        );
        assert_eq!(one.iter().map(|p| (p.tokens, p.marked)).collect::<Vec<_>>(), [(2, true), (3, false)]);
        assert_eq!(other.iter().map(|p| (p.tokens, p.marked)).collect::<Vec<_>>(), [(2, false), (3, true)]);
    }

    #[test]
    fn another_word_anywhere_before_makes_another_prefix() {
        let of =
            |text: &str| prefixes(&json!({"system": text, "messages": [{"role": "user", "content": "x"}]}));
        assert_ne!(of("a")[1].hash, of("b")[1].hash);
        assert_eq!(of("a"), of("a"));
    }
}
