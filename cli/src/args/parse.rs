//! Values as people write them: durations, `key=value`, priorities, dollars, states.
//! Knows text; refuses to know which flag it came from.

use std::time::Duration;

use orch_proto::v1::{FailurePolicy, GateCommand, OnLoss, RunState, TaskRole, TaskState};

/// Priority that the word `high` stands for; the words are those of the wire's documentation.
pub(crate) const PRIORITY_HIGH: i32 = 100;
/// Priority that the word `medium` stands for.
pub(crate) const PRIORITY_MEDIUM: i32 = 50;
/// Priority that the word `low` stands for.
pub(crate) const PRIORITY_LOW: i32 = 10;

/// Largest sum taken as a budget: keeps the conversion to millionths exact.
const MAX_USD: f64 = 1_000_000.0;

/// `90` (seconds), `90s`, `10m`, `1h 30m`. Zero is refused: no limit of orch means "at once".
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    let parsed = match trimmed.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| "is out of range".to_owned())?,
        Err(_) => humantime::parse_duration(trimmed)
            .map_err(|_| format!("{trimmed:?} is not a duration such as 90, 90s or 10m"))?,
    };
    if parsed.is_zero() { Err("a duration must be longer than zero".to_owned()) } else { Ok(parsed) }
}

/// `high`, `medium`, `low` or a number, larger first.
pub(crate) fn priority(text: &str) -> Result<i32, String> {
    match text {
        "high" => Ok(PRIORITY_HIGH),
        "medium" => Ok(PRIORITY_MEDIUM),
        "low" => Ok(PRIORITY_LOW),
        other => other.parse().map_err(|_| format!("{other:?} is not high, medium, low or a whole number")),
    }
}

/// Dollars as millionths.
pub(crate) fn micro_usd(usd: f64) -> Result<u64, String> {
    if !(usd.is_finite() && usd > 0.0 && usd <= MAX_USD) {
        return Err(format!("must be more than 0 and at most {MAX_USD} dollars"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie in 0..=10^12"
    )]
    Ok(((usd * 1e6).round() as u64).max(1))
}

/// `0.50`, `$0.50`.
pub(crate) fn budget(text: &str) -> Result<u64, String> {
    let number = text.trim().trim_start_matches('$');
    let usd = number.parse().map_err(|_| format!("{text:?} is not a sum in dollars such as 0.50"))?;
    micro_usd(usd)
}

/// A cluster's id: 32 hexadecimal digits, with or without hyphens, as `admin status` prints it.
pub(crate) fn cluster_id(text: &str) -> Result<[u8; 16], String> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("a cluster's id has 32 hexadecimal digits; orchctl admin status prints it".to_owned());
    }
    let mut id = [0; 16];
    for (byte, at) in id.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|error| error.to_string())?;
    }
    Ok(id)
}

/// `key=value`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text:?} is not of the form key=value")),
    }
}

/// What `agents label` does to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelChange {
    /// Adds `key=value`.
    Set(String),
    /// Takes a key away.
    Remove(String),
}

/// `key=value`, or `key-`.
pub(crate) fn label_change(text: &str) -> Result<LabelChange, String> {
    match (key_value(text), text.strip_suffix('-')) {
        (Ok(_), _) => Ok(LabelChange::Set(text.to_owned())),
        (Err(_), Some(key)) if !key.is_empty() => Ok(LabelChange::Remove(key.to_owned())),
        (Err(_), _) => Err(format!("{text:?} is neither key=value nor key-")),
    }
}

/// `fast` or `wait`.
pub(crate) fn on_loss(text: &str) -> Result<OnLoss, String> {
    match text {
        "fast" => Ok(OnLoss::Fast),
        "wait" => Ok(OnLoss::Wait),
        other => Err(format!("{other:?} is neither fast nor wait")),
    }
}

/// `fail_fast`, `continue` or `best_effort`; dashes do as well.
pub(crate) fn on_failure(text: &str) -> Result<FailurePolicy, String> {
    match text.replace('-', "_").as_str() {
        "fail_fast" => Ok(FailurePolicy::FailFast),
        "continue" => Ok(FailurePolicy::Continue),
        "best_effort" => Ok(FailurePolicy::BestEffort),
        _ => Err(format!("{text:?} is none of fail-fast, continue and best-effort")),
    }
}

/// A program and its arguments in one text.
pub(crate) fn gate(text: &str) -> Result<GateCommand, String> {
    let mut words = words(text)?.into_iter();
    let program = words.next().filter(|program| !program.is_empty()).ok_or("a gate names a program")?;
    Ok(GateCommand { program, args: words.collect(), ..GateCommand::default() })
}

/// Words as a shell divides them, without a shell: at blanks, with `'…'` and `"…"` around what stays together and `\`
/// before a character that stands for itself. What a shell would act upon is refused, never passed on as a word.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' | '"' => {
                let into = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(format!("a {char} is not closed")),
                        Some(end) if end == char => break,
                        Some('\\') if char == '"' => into.push(chars.next().ok_or("a \" is not closed")?),
                        Some('$' | '`') if char == '"' => {
                            return Err("there is no shell to fill in variables; use sh -c '...'".to_owned());
                        }
                        Some(inner) => into.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next().ok_or("nothing follows the \\")?),
            '|' | '&' | ';' | '<' | '>' | '$' | '`' | '(' | ')' | '*' | '?' => {
                return Err(format!("there is no shell to understand {char}; quote it, or use sh -c '...'"));
            }
            char => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    Ok(words)
}

/// The word of a task's role in JSON and tables; nothing for ordinary work.
pub(crate) fn role_word(role: TaskRole) -> Option<String> {
    match role {
        TaskRole::Unspecified | TaskRole::Work => None,
        TaskRole::Plan | TaskRole::Synthesis | TaskRole::Review | TaskRole::Publish => {
            Some(word(role.as_str_name(), "TASK_ROLE_"))
        }
    }
}

/// The word of a failure policy in JSON.
pub(crate) fn on_failure_word(policy: FailurePolicy) -> &'static str {
    match policy {
        FailurePolicy::FailFast => "fail_fast",
        FailurePolicy::BestEffort => "best_effort",
        FailurePolicy::Unspecified | FailurePolicy::Continue => "continue",
    }
}

/// The word of a run state in JSON and tables: its wire name without prefix, in lower case.
pub(crate) fn run_state_word(state: RunState) -> String {
    word(state.as_str_name(), "RUN_STATE_")
}

/// The word of a task state in JSON and tables.
pub(crate) fn task_state_word(state: TaskState) -> String {
    word(state.as_str_name(), "TASK_STATE_")
}

/// A wire name without its prefix, in lower case.
pub(crate) fn word(wire_name: &str, prefix: &str) -> String {
    wire_name.strip_prefix(prefix).unwrap_or(wire_name).to_lowercase()
}

/// A state of runs, of tasks, or of both: `--state` serves lists of either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateWord(pub(crate) String);

impl StateWord {
    /// The run state of this word.
    pub(crate) fn run(&self) -> Option<RunState> {
        RunState::from_str_name(&format!("RUN_STATE_{}", self.0.to_uppercase()))
    }

    /// The task state of this word.
    pub(crate) fn task(&self) -> Option<TaskState> {
        TaskState::from_str_name(&format!("TASK_STATE_{}", self.0.to_uppercase()))
    }
}

/// A word that is a state of a run or of a task.
pub(crate) fn state(text: &str) -> Result<StateWord, String> {
    let word = StateWord(text.replace('-', "_"));
    if text == "unspecified" || (word.run().is_none() && word.task().is_none()) {
        return Err(format!(
            "{text:?} is not a state; such are running, succeeded, failed, cancelled, queued, blocked"
        ));
    }
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "soon", "0", "0s", "-5", "1e300"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn priorities_are_words_or_whole_numbers() {
        assert_eq!(
            ["high", "medium", "low", "7", "-3"].map(priority),
            [Ok(100), Ok(50), Ok(10), Ok(7), Ok(-3)]
        );
        assert!(priority("urgent").is_err());
    }

    #[test]
    fn dollars_become_millionths_exactly() {
        assert_eq!(budget("$0.50"), Ok(500_000));
        assert_eq!(budget("0.000001"), Ok(1));
        for bad in ["0", "-1", "NaN", "inf", "1e9", "much"] {
            assert!(budget(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_dash_at_the_end_takes_a_label_away() {
        assert_eq!(label_change("gpu=yes-"), Ok(LabelChange::Set("gpu=yes-".into())));
        assert_eq!(label_change("gpu-"), Ok(LabelChange::Remove("gpu".into())));
        for bad in ["", "-", "gpu", "=x"] {
            assert!(label_change(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_gate_is_split_into_words_without_a_shell() {
        let gate = gate(r#"cargo test -p "my crate" --features 'a b' x\ y '' "#).unwrap();
        assert_eq!(gate.program, "cargo");
        assert_eq!(gate.args, ["test", "-p", "my crate", "--features", "a b", "x y", ""]);
        assert_eq!(words(r#"sh -c 'test $A | grep "x"'"#).unwrap(), ["sh", "-c", r#"test $A | grep "x""#]);
        assert_eq!(words("").unwrap(), [""; 0]);
    }

    #[test]
    fn what_only_a_shell_understands_is_refused() {
        for bad in [
            "",
            "  ",
            "''",
            "a | b",
            "a && b",
            "rm *",
            "echo $HOME",
            "\"$HOME\"",
            "a 'b",
            "a \"b",
            "a \\",
            "a > b",
            "(a)",
        ] {
            assert!(gate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn policies_have_dashes_or_underscores() {
        assert_eq!(on_failure("fail-fast"), Ok(FailurePolicy::FailFast));
        assert_eq!(on_failure("best_effort"), Ok(FailurePolicy::BestEffort));
        assert_eq!(on_failure(on_failure_word(FailurePolicy::Continue)), Ok(FailurePolicy::Continue));
        assert!(on_failure("ignore").is_err());
    }

    #[test]
    fn states_serve_runs_and_tasks() {
        let waiting = state("waiting-retry").unwrap();
        assert_eq!((waiting.run(), waiting.task()), (None, Some(TaskState::WaitingRetry)));
        assert_eq!(state("failed").unwrap().run(), Some(RunState::Failed));
        assert!(state("done").is_err());
        assert!(state("unspecified").is_err());
    }
}
