//! Mistakes in workflows as text: the place, the line, a mark below it, and a way out.

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{PromptProblem, WorkflowCall};

use crate::failure::Failure;
use crate::output::figures::plural;
use crate::output::safe::one_line;
use crate::runfile::diagnostic::pointed;

/// Longest sentence told.
const TOLD: usize = 1000;
/// Mistakes shown; more do not help anybody mend a file.
const SHOWN: usize = 20;

/// Mistakes, each with its line where `texts` (a path and what stands there) has it.
pub(crate) fn text(problems: &[PromptProblem], texts: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for problem in problems.iter().take(SHOWN) {
        match texts.iter().find(|(path, _)| *path == problem.path) {
            Some((path, content)) if problem.line > 0 => text.push_str(&pointed(
                &headline(problem),
                &one_line(path, TOLD),
                content,
                (problem.line as usize, problem.column as usize),
                &one_line(&problem.help, TOLD),
            )),
            Some(_) | None => text.push_str(&bare(problem)),
        }
    }
    if problems.len() > SHOWN {
        text.push_str(&format!("and {} more\n", problems.len() - SHOWN));
    }
    text
}

/// A mistake without the line it is on.
pub(crate) fn bare(problem: &PromptProblem) -> String {
    let mut text = format!("{}\n --> {}\n", headline(problem), place(problem));
    if !problem.help.is_empty() {
        text.push_str(&format!(" help: {}\n", one_line(&problem.help, TOLD)));
    }
    text
}

fn headline(problem: &PromptProblem) -> String {
    let code =
        if problem.code.is_empty() { String::new() } else { format!("[{}]", one_line(&problem.code, 10)) };
    format!("error{code}: {}", one_line(&problem.message, TOLD))
}

fn place(problem: &PromptProblem) -> String {
    let mut place = one_line(&problem.path, TOLD);
    for number in [problem.line, problem.column].into_iter().take_while(|number| *number > 0) {
        place.push_str(&format!(":{number}"));
    }
    place
}

/// All mistakes of a call as one failure.
pub(crate) fn failure(call: &WorkflowCall, problems: &[PromptProblem]) -> Failure {
    let texts = [(call.source.as_str(), call.definition.as_str()), ("parameters", call.parameters.as_str())];
    let mut report = text(problems, &texts);
    report.push_str(&format!("{}; nothing was submitted\n", plural(problems.len() as u64, "error")));
    let said = |problem: &PromptProblem| format!("{}: {}", place(problem), one_line(&problem.message, TOLD));
    let Some(first) = problems.first() else { return Failure::usage("the workflow cannot be used") };
    let code = ErrorCode::from_code(&first.code).unwrap_or(ErrorCode::InvalidWorkflow);
    problems
        .iter()
        .skip(1)
        .take(SHOWN)
        .fold(Failure::report(code, said(first), report), |failure, problem| failure.further(said(problem)))
}
