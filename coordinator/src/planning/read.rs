//! A plan as text becomes a plan as data.
//! Knows JSON and where it is wrong; refuses to know whether the plan is any good.

use super::schemas::Plan;
use crate::presence::harmless;

/// Longest message of the reader, in characters: it may quote what it found.
const MAX_MESSAGE: usize = 400;

/// Reads a plan. Unknown fields are mistakes: whoever wrote one meant something by it.
///
/// # Errors
/// What is wrong, with line and column.
pub fn read_plan(text: &str) -> Result<Plan, String> {
    if text.trim().is_empty() {
        return Err("the plan is empty: it must be a JSON object with `summary` and `tasks`".to_owned());
    }
    // Data types take a list for an object, field by field.
    if text.trim_start().starts_with('[') {
        return Err(
            "line 1, column 1: the plan is a list: it must be a JSON object with `summary` and `tasks`"
                .to_owned(),
        );
    }
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let whole = error.to_string();
        let place = format!(" at line {line} column {column}");
        let what = harmless(whole.strip_suffix(&place).unwrap_or(&whole), MAX_MESSAGE);
        match error.classify() {
            serde_json::error::Category::Syntax | serde_json::error::Category::Eof => {
                format!("line {line}, column {column}: not JSON: {what}")
            }
            serde_json::error::Category::Data | serde_json::error::Category::Io => {
                format!("line {line}, column {column}: {what}")
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        read_plan(text).expect_err("a plan with a mistake")
    }

    #[test]
    fn every_mistake_has_its_line_and_column() {
        for (text, wanted) in [
            ("", "the plan is empty: it must be a JSON object with `summary` and `tasks`"),
            ("Here is my plan.", "line 1, column 1: not JSON: expected value"),
            ("{\n  \"summary\": \"x\",\n", "line 3, column 0: not JSON: EOF while parsing a value"),
            (
                " []",
                "line 1, column 1: the plan is a list: it must be a JSON object with `summary` and `tasks`",
            ),
            (
                "{\"summary\": \"x\",\n \"taks\": []}",
                "line 2, column 7: unknown field `taks`, expected one of `summary`, `tasks`, `missing`",
            ),
            (
                "{\"summary\": \"x\", \"tasks\": [\n {\"id\": 3}]}",
                "line 2, column 9: invalid type: integer `3`, expected a string",
            ),
            ("{\"summary\": \"x\"}", "line 1, column 16: missing field `tasks`"),
            (
                "{\"summary\": \"x\", \"tasks\": []} and more",
                "line 1, column 31: not JSON: trailing characters",
            ),
        ] {
            assert_eq!(refused(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_quoted_is_harmless_and_short() {
        let said = refused(&format!("{{\"\\u001b[2J{}\": 1}}", "x".repeat(5_000)));
        assert!(said.len() < 600 && !said.contains('\u{1b}'), "{said}");
    }
}
