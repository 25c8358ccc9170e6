//! References as people write them: `name/number`, `name/number/task`, `@last`, `@last/task`.
//! Knows their form; whether something is there, the coordinator says.

use std::fmt;

use orch_proto::codes::ErrorCode;

use crate::failure::Failure;

/// The newest run of whoever asks.
const LAST: &str = "@last";

/// A reference to a run or to one of its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `name/number` or `@last`.
    pub(crate) run: String,
    /// The task, if one is meant.
    pub(crate) task: Option<String>,
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// Anything of another form, with what it should look like.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::coded(ErrorCode::InvalidRef, format!("{text:?} is not a reference"));
        let mut parts = text.split('/');
        let first = parts.next().filter(|name| !name.is_empty()).ok_or_else(wrong)?;
        let run = if first == LAST {
            first.to_owned()
        } else {
            let number = parts.next().filter(|number| number.parse::<u64>().is_ok()).ok_or_else(wrong)?;
            format!("{first}/{number}")
        };
        let task = parts.next().map(str::to_owned);
        if task.as_deref() == Some("") || parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self { run, task })
    }

    /// Whether only the coordinator knows which run is meant.
    pub(crate) fn is_relative(&self) -> bool {
        self.run == LAST
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.task {
            Some(task) => write!(f, "{}/{task}", self.run),
            None => f.write_str(&self.run),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_tasks_and_the_newest_run_are_told_apart() {
        for (text, run, task) in [
            ("adhoc/129", "adhoc/129", None),
            ("release-notes/128/plan", "release-notes/128", Some("plan")),
            ("@last", "@last", None),
            ("@last/plan", "@last", Some("plan")),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.run.as_str(), reference.task.as_deref()), (run, task));
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_form() {
        for text in ["", "adhoc", "adhoc/", "adhoc/x", "/1", "a/1/", "a/1/b/c", "@last/", "@last/a/b", "a/-1"]
        {
            let failure = Reference::parse(text).unwrap_err();
            assert_eq!((failure.code(), failure.exit_code()), (Some("E0117"), 2), "{text:?}");
        }
    }
}
