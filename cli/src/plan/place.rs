//! Where in the text of a plan a problem lies. The coordinator names tasks, workers and dependencies in its sentences,
//! `like this`; they are looked up in the text that a person edited. Knows quotes and JSON texts; refuses to judge.

use crate::output::safe::safe;
use crate::runfile::diagnostic::pointed;

/// Problems told; the rest are counted.
const TOLD: usize = 20;

/// Every problem with its place in the file, as far as it can be found.
pub(crate) fn report(file: &str, text: &str, problems: &[String]) -> String {
    let mut report = String::new();
    for problem in problems.iter().take(TOLD) {
        let headline = format!("error: {}", safe(problem));
        match find(text, problem) {
            Some(offset) => {
                report.push_str(&pointed(&headline, file, text, line_and_column(text, offset), ""))
            }
            None => report.push_str(&format!("{headline}\n")),
        }
    }
    if problems.len() > TOLD {
        report.push_str(&format!("and {} more\n", problems.len() - TOLD));
    }
    report
}

/// Line and column of a byte, both from 1.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// The last name of a problem that stands behind the first one: ``task `a` depends on `b` `` is about `b` in the task `a`.
fn find(text: &str, problem: &str) -> Option<usize> {
    let mut at = None;
    for name in names(problem).into_iter().take(2) {
        let quoted = serde_json::Value::String(name).to_string();
        let from = at.map_or(0, |at: usize| at + 1);
        match text.get(from..).and_then(|rest| rest.find(&quoted)) {
            Some(found) => at = Some(from + found),
            None => break,
        }
    }
    at
}

/// The names in a sentence, in order: those in backticks, else the first after `task` or `tasks`.
fn names(problem: &str) -> Vec<String> {
    let quoted: Vec<_> =
        problem.split('`').skip(1).step_by(2).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if problem.starts_with("task ") || problem.starts_with("tasks ") {
        let first = problem.split([' ', ',', ':']).filter(|word| !word.is_empty()).nth(1).unwrap_or_default();
        let first = first.trim_matches('`').to_owned();
        return std::iter::once(first.clone())
            .chain(quoted.into_iter().filter(|name| *name != first))
            .collect();
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::samples::PLAN;

    #[test]
    fn a_problem_is_shown_where_it_lies() {
        let text = PLAN.replace("[\"emma\", \"lucas\"]", "[\"emma\", \"lukas\"]").replace("fabien", "fabian");
        let problems = [
            "task `note` depends on `lukas`, which is not in the plan; did you mean `lucas`?",
            "task note names worker `fabian`, which is none of the workers of this request",
            "the plan has no end",
        ]
        .map(str::to_owned);
        insta::assert_snapshot!(report("plan.json", &text, &problems), @r#"
        error: task `note` depends on `lukas`, which is not in the plan; did you mean `lucas`?
          --> plan.json:6:111
          |
        6 | …o the class.", "dependencies": ["emma", "lukas"] }
          |                                          ^
        error: task note names worker `fabian`, which is none of the workers of this request
          --> plan.json:6:31
          |
        6 |     { "id": "note", "worker": "fabian", "description": "Write a note to the class.", "dependencies":…
          |                               ^
        error: the plan has no end
        "#);
    }

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        assert_eq!(line_and_column("é\nab", 0), (1, 1));
        assert_eq!(line_and_column("é\nab", 4), (2, 2));
        assert_eq!(line_and_column("é", 99), (1, 2));
    }
}
