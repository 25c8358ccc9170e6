//! The result contract as far as the coordinator reads it: a worker's own word on its result, and its summary.
//! Knows two fields of a structured answer; refuses to know the rest. Neither ever decides a task's state.

use serde::Deserialize;
use serde_json::Value;

/// Longest summary in a record, in bytes.
pub const MAX_SUMMARY_BYTES: usize = 256;
/// What a summary ends with that is longer than a record takes.
const CUT: &str = "…";
/// The words of the contract.
const WORDS: [&str; 3] = ["complete", "partial", "failed"];

/// What a structured answer says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contract {
    /// `complete`, `partial` or `failed`.
    pub status: Option<&'static str>,
    /// The summary, whole.
    pub summary: Option<String>,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    status: Value,
    #[serde(default)]
    summary: Value,
}

/// Reads a structured answer. What is no JSON object, or has other types there, says nothing.
#[must_use]
pub fn read(structured: &str) -> Contract {
    let Ok(fields) = serde_json::from_str::<Fields>(structured) else { return Contract::default() };
    let said = fields.status.as_str();
    let summary = match fields.summary {
        Value::String(summary) if !summary.trim().is_empty() => Some(summary),
        Value::String(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_) => None,
    };
    Contract { status: WORDS.into_iter().find(|word| Some(*word) == said), summary }
}

/// A summary as a record takes it: on one line, without control characters, cut at a character.
#[must_use]
pub fn short(summary: &str) -> String {
    let mut short = String::new();
    let words = summary.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    for word in words {
        if !short.is_empty() {
            short.push(' ');
        }
        short.push_str(word);
        if short.len() > MAX_SUMMARY_BYTES {
            short.truncate(short.floor_char_boundary(MAX_SUMMARY_BYTES - CUT.len()));
            short.push_str(CUT);
            break;
        }
    }
    short
}

/// Whether [`short`] left something out.
#[must_use]
pub fn is_cut(summary: &str) -> bool {
    summary.ends_with(CUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_contract_are_read_and_nothing_else_is_taken_for_them() {
        let good = read(r#"{"status": "partial", "summary": "Two of three.", "findings": [1, {"a": []}]}"#);
        assert_eq!(good, Contract { status: Some("partial"), summary: Some("Two of three.".into()) });
        for nothing in
            ["", "[]", "null", "7", r#"{"status": "great", "summary": 7}"#, r#"{"summary": " "}"#, "{"]
        {
            assert_eq!(read(nothing), Contract::default(), "{nothing}");
        }
    }

    #[test]
    fn a_summary_is_one_line_and_says_where_it_was_cut() {
        assert_eq!(short("  one\n\ttwo\u{1b}[31m "), "one two [31m");
        let long = short(&"é ".repeat(500));
        assert!(long.len() <= MAX_SUMMARY_BYTES && is_cut(&long), "{long}");
        let word = short(&"é".repeat(500));
        assert!(word.len() <= MAX_SUMMARY_BYTES && is_cut(&word) && word.len() > 250);
        assert!(!is_cut(&short("whole")));
    }
}
