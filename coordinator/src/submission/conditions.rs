//! Conditions of a task: whether each of them can be evaluated once its dependency has ended.
//! Knows the form of a condition; what it finds is the director's to see.

use super::{SpecError, rules};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, ConditionTest};
use serde_json::Value;

const MAX_CONDITIONS: usize = 16;
const MAX_POINTER_BYTES: usize = 1_024;
/// Values of all conditions of a task together: they rest in its spec, thirty to a page.
pub(super) const MAX_VALUES_BYTES: usize = 16 << 10;

/// Pointer that means the word of a task's state.
pub const STATE: &str = "state";
/// Pointer that means the word of a task's outcome.
pub const OUTCOME: &str = "outcome";

/// States in which a dependency can be when a condition looks at it.
const STATES: [&str; 4] = ["succeeded", "failed", "cancelled", "skipped"];

/// Checks the conditions of the task at `field`, which depends on `dependencies`.
pub(super) fn check(
    field: &str,
    conditions: Vec<v1::Condition>,
    dependencies: &[String],
) -> Result<Vec<v1::Condition>, SpecError> {
    let field = format!("{field}.conditions");
    if conditions.len() > MAX_CONDITIONS {
        let message = format!("{} conditions; at most {MAX_CONDITIONS}", conditions.len());
        return Err(SpecError::new(ErrorCode::TooLarge, field, message));
    }
    let bytes: usize = conditions.iter().map(|condition| condition.value.len()).sum();
    if bytes > MAX_VALUES_BYTES {
        let message = format!("{bytes} bytes of values together; at most {MAX_VALUES_BYTES}");
        return Err(SpecError::new(ErrorCode::TooLarge, field, message));
    }
    for (at, condition) in conditions.iter().enumerate() {
        check_one(condition, dependencies).map_err(|(code, part, message)| {
            SpecError::new(code, format!("{field}[{at}].{part}"), message)
        })?;
    }
    Ok(conditions)
}

type Problem = (ErrorCode, &'static str, String);

fn check_one(condition: &v1::Condition, dependencies: &[String]) -> Result<(), Problem> {
    let invalid = |part, message: String| Err((ErrorCode::InvalidCondition, part, message));
    if !dependencies.contains(&condition.task_id) {
        let hint = rules::nearest(&condition.task_id, dependencies.iter())
            .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        let message =
            format!("`{}` is not one of the task's dependencies{hint}", rules::shown(&condition.task_id));
        return Err((ErrorCode::UnknownDependency, "task_id", message));
    }
    let test = match ConditionTest::try_from(condition.test) {
        Ok(ConditionTest::Unspecified) | Err(_) => {
            let message = format!("{} is not a test: exists, equals, below and so on", condition.test);
            return invalid("test", message);
        }
        Ok(test) => test,
    };
    let pointer = condition.pointer.as_str();
    let words = matches!(pointer, STATE | OUTCOME);
    if !words {
        check_pointer(pointer).map_err(|message| (ErrorCode::InvalidCondition, "pointer", message))?;
    }
    if matches!(test, ConditionTest::Exists | ConditionTest::Absent) {
        return match condition.value.is_empty() {
            false => invalid("value", "is compared with nothing: leave it out".to_owned()),
            true if words => {
                invalid("test", format!("the {pointer} is always there: compare it with a word"))
            }
            true => Ok(()),
        };
    }
    let value: Value = match serde_json::from_str(&condition.value) {
        Ok(value) => value,
        Err(error) => {
            let message =
                format!("`{}` is not JSON: {error}; text stands in quotes", rules::shown(&condition.value));
            return invalid("value", message);
        }
    };
    if words {
        return check_word(pointer, test, &value);
    }
    let numeric = matches!(test, ConditionTest::Below | ConditionTest::AtLeast);
    if numeric && !value.is_number() {
        return invalid("value", format!("`{}` is not a number", rules::shown(&condition.value)));
    }
    Ok(())
}

/// RFC 6901: empty, or parts that each begin with a slash; `~` only as `~0` and `~1`.
fn check_pointer(pointer: &str) -> Result<(), String> {
    if pointer.len() > MAX_POINTER_BYTES {
        return Err(format!("{} bytes; at most {MAX_POINTER_BYTES}", pointer.len()));
    }
    let escapes = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if pointer.is_empty() || pointer.starts_with('/') && escapes {
        return Ok(());
    }
    let shown = rules::shown(pointer);
    Err(format!("`{shown}` is not a JSON pointer such as `/scores/overall`, nor `{STATE}` or `{OUTCOME}`"))
}

fn check_word(pointer: &str, test: ConditionTest, value: &Value) -> Result<(), Problem> {
    let invalid = |part, message: String| Err((ErrorCode::InvalidCondition, part, message));
    if !matches!(test, ConditionTest::Equals | ConditionTest::NotEquals) {
        return invalid("test", format!("the {pointer} is a word: it is equal or it is not"));
    }
    let known = |word: &str| match pointer {
        STATE => STATES.contains(&word),
        _ => orch_proto::outcome::OUTCOMES.iter().any(|row| row.word == word),
    };
    match value.as_str() {
        Some(word) if known(word) => Ok(()),
        Some(_) | None => {
            let hint = match pointer {
                STATE => STATES.join(", "),
                _ => "ok, gate_failed, timeout and so on".to_owned(),
            };
            invalid(
                "value",
                format!("`{}` is no {pointer}; in quotes, one of: {hint}", rules::shown(&value.to_string())),
            )
        }
    }
}
