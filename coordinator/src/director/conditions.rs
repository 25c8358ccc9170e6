//! Whether the conditions of a task hold, given what its dependencies came to.
//! Knows how values compare; refuses to know where results lie.

use orch_proto::v1::{self, ConditionTest};
use serde_json::{Number, Value};

use crate::presence::harmless;
use crate::submission::{OUTCOME, STATE};

/// Longest part of a sentence that quotes what was found, in characters.
const MAX_SHOWN: usize = 80;

/// What a dependency came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Ending {
    /// Word of its state.
    pub(super) state: String,
    /// Word of its outcome.
    pub(super) outcome: String,
    /// Its structured answer.
    pub(super) structured: Option<Value>,
}

/// Whether all conditions hold; otherwise the first that does not, in plain English.
pub(super) fn hold<'a>(
    conditions: &[v1::Condition],
    ending: impl Fn(&str) -> Option<&'a Ending>,
) -> Result<(), String> {
    conditions.iter().try_for_each(|condition| {
        let ending = ending(&condition.task_id);
        let ending = ending.ok_or_else(|| format!("task `{}` cannot be looked at", condition.task_id))?;
        holds(condition, ending)
    })
}

fn holds(condition: &v1::Condition, ending: &Ending) -> Result<(), String> {
    let of = harmless(&condition.task_id, MAX_SHOWN);
    let test = ConditionTest::try_from(condition.test).unwrap_or_default();
    let words = match condition.pointer.as_str() {
        STATE => Some(&ending.state),
        OUTCOME => Some(&ending.outcome),
        _ => None,
    };
    let word = words.map(|word| Value::String(word.clone()));
    let place = match condition.pointer.as_str() {
        "" => format!("the structured answer of `{of}`"),
        STATE | OUTCOME => format!("the {} of `{of}`", condition.pointer),
        pointer => format!("`{}` in the answer of `{of}`", harmless(pointer, MAX_SHOWN)),
    };
    let found = match (&word, &ending.structured) {
        (Some(word), _) => Some(word),
        (None, Some(structured)) => structured.pointer(&condition.pointer),
        (None, None) => return Err(format!("{place} cannot be looked at: `{of}` gave no structured answer")),
    };
    let there = found.filter(|value| !value.is_null());
    match test {
        ConditionTest::Exists => {
            return there.map(drop).ok_or_else(|| format!("{place} is not there"));
        }
        ConditionTest::Absent => {
            return there.map_or(Ok(()), |value| Err(format!("{place} is there: {}", shown(value))));
        }
        ConditionTest::Unspecified
        | ConditionTest::Equals
        | ConditionTest::NotEquals
        | ConditionTest::Below
        | ConditionTest::AtLeast
        | ConditionTest::Contains => {}
    }
    let found = found.ok_or_else(|| format!("{place} is not there"))?;
    let wanted: Value = serde_json::from_str(&condition.value)
        .map_err(|error| format!("what {place} is to be compared with is not JSON: {error}"))?;
    compare(test, &place, found, &wanted)
}

fn compare(test: ConditionTest, place: &str, found: &Value, wanted: &Value) -> Result<(), String> {
    let (is, of) = (shown(found), shown(wanted));
    let or = |holds: bool, otherwise: String| if holds { Ok(()) } else { Err(otherwise) };
    match test {
        ConditionTest::Equals => or(equal(found, wanted), format!("{place} is {is}, not {of}")),
        ConditionTest::NotEquals => or(!equal(found, wanted), format!("{place} is {is}")),
        ConditionTest::Below | ConditionTest::AtLeast => {
            let (Value::Number(found), Value::Number(wanted)) = (found, wanted) else {
                return Err(format!("{place} is {is}, which is not a number"));
            };
            let below = below(found, wanted);
            if test == ConditionTest::Below {
                or(below, format!("{place} is {is}, not below {of}"))
            } else {
                or(!below, format!("{place} is {is}, below {of}"))
            }
        }
        ConditionTest::Contains => match (found, wanted) {
            (Value::String(text), Value::String(part)) => {
                or(text.contains(part.as_str()), format!("{place} is {is}, without {of}"))
            }
            (Value::Array(list), wanted) => {
                or(list.iter().any(|one| equal(one, wanted)), format!("{place} is {is}, without {of}"))
            }
            (_, _) => Err(format!("{place} is {is}, which cannot contain {of}")),
        },
        ConditionTest::Exists | ConditionTest::Absent | ConditionTest::Unspecified => {
            Err(format!("{place} is compared in a way that this version does not know"))
        }
    }
}

fn shown(value: &Value) -> String {
    harmless(&value.to_string(), MAX_SHOWN)
}

/// Equal as JSON; numbers by value, so that 1 and 1.0 are equal.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (whole(left), whole(right)) {
            (Some(left), Some(right)) => left == right,
            (_, _) => left.as_f64() == right.as_f64(),
        },
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| equal(value, other)))
        }
        (left, right) => left == right,
    }
}

fn below(left: &Number, right: &Number) -> bool {
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => left < right,
        (_, _) => left.as_f64() < right.as_f64(),
    }
}

/// A whole number exactly; a float does not hold all of them.
fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn condition(pointer: &str, test: ConditionTest, value: &str) -> v1::Condition {
        v1::Condition { task_id: "a".into(), pointer: pointer.into(), test: test.into(), value: value.into() }
    }

    #[track_caller]
    fn said(structured: Option<Value>, pointer: &str, test: ConditionTest, value: &str) -> String {
        let ending = Ending { state: "failed".into(), outcome: "timeout".into(), structured };
        match hold(&[condition(pointer, test, value)], |_| Some(&ending)) {
            Ok(()) => String::new(),
            Err(why) => why,
        }
    }

    #[test]
    fn values_compare_as_their_test_says() {
        use ConditionTest::{Absent, AtLeast, Below, Contains, Equals, Exists, NotEquals};
        let answer = json!({
            "n": 3, "f": 3.0, "big": u64::MAX, "s": "abc", "list": [1, "x", {"k": 2}], "null": null, "a/b": {"~": true}
        });
        for (pointer, test, value, holds) in [
            ("/n", Equals, "3", true),
            ("/n", Equals, "3.0", true),
            ("/f", Equals, "3", true),
            ("/n", Equals, "\"3\"", false),
            ("/big", Equals, "18446744073709551615", true),
            ("/big", Equals, "18446744073709551614", false),
            ("/big", Below, "18446744073709551615", false),
            ("/n", NotEquals, "4", true),
            ("/n", NotEquals, "3e0", false),
            ("/n", Below, "3.5", true),
            ("/n", Below, "3", false),
            ("/n", AtLeast, "3", true),
            ("/n", AtLeast, "3.5", false),
            ("/s", Contains, "\"bc\"", true),
            ("/s", Contains, "\"bd\"", false),
            ("/list", Contains, "1.0", true),
            ("/list", Contains, "{\"k\":2.0}", true),
            ("/list", Contains, "2", false),
            ("/null", Exists, "", false),
            ("/null", Absent, "", true),
            ("/null", Equals, "null", true),
            ("/n", Exists, "", true),
            ("/n", Absent, "", false),
            ("/none", Absent, "", true),
            ("/none", Exists, "", false),
            ("/a~1b/~0", Equals, "true", true),
            ("/list/1", Equals, "\"x\"", true),
            ("", Exists, "", true),
            ("state", Equals, "\"failed\"", true),
            ("outcome", NotEquals, "\"ok\"", true),
        ] {
            let said = said(Some(answer.clone()), pointer, test, value);
            assert_eq!(said.is_empty(), holds, "{pointer} {test:?} {value}: {said}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_names_what_is_missing() {
        use ConditionTest::{Absent, AtLeast, Contains, Equals, NotEquals};
        let some = || Some(json!({"s": "x", "o": {}}));
        for (structured, pointer, test, value, wanted) in [
            (
                None,
                "/s",
                Absent,
                "",
                "`/s` in the answer of `a` cannot be looked at: `a` gave no structured answer",
            ),
            (
                None,
                "",
                Equals,
                "1",
                "the structured answer of `a` cannot be looked at: `a` gave no structured answer",
            ),
            (some(), "/none", Equals, "1", "`/none` in the answer of `a` is not there"),
            (some(), "/none", NotEquals, "1", "`/none` in the answer of `a` is not there"),
            (some(), "/s", AtLeast, "1", "`/s` in the answer of `a` is \"x\", which is not a number"),
            (some(), "/o", Contains, "1", "`/o` in the answer of `a` is {}, which cannot contain 1"),
            (some(), "state", Equals, "\"succeeded\"", "the state of `a` is \"failed\", not \"succeeded\""),
        ] {
            assert_eq!(said(structured, pointer, test, value), wanted);
        }
        assert!(hold(&[condition("state", Equals, "\"failed\"")], |_| None).is_err());
        assert_eq!(said(None, "state", Equals, "\"failed\""), "", "its state is known without an answer");
    }

    #[test]
    fn what_was_found_is_shown_short_and_harmless() {
        let hostile = json!({"s": format!("\u{1b}[2J{}", "x".repeat(10_000))});
        let said = said(Some(hostile), "/s", ConditionTest::Equals, "1");
        assert!(said.len() < 300 && !said.contains('\u{1b}'), "{said:?}");
    }
}
