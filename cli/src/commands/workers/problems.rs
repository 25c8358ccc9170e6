//! Mistakes in files of prompts as text: the place, the line, a mark below it, and a way out.

use std::fmt::Write as _;
use std::path::Path;

use orch_proto::v1::{PromptFile, PromptProblem};

use crate::output::safe::one_line;
use crate::runfile::diagnostic::pointed;

/// Longest sentence told.
const TOLD: usize = 1000;
/// Mistakes shown; more do not help anybody mend a file.
const SHOWN: usize = 50;

/// Mistakes in files that are at hand.
pub(super) fn text(dir: &Path, files: &[PromptFile], problems: &[PromptProblem]) -> String {
    let mut text = String::new();
    for problem in problems.iter().take(SHOWN) {
        let file = files.iter().find(|file| file.path == problem.path);
        match file.map(|file| String::from_utf8_lossy(&file.content)) {
            Some(content) if problem.line > 0 => {
                let path = dir.join(&problem.path).display().to_string();
                text.push_str(&pointed(
                    &headline(problem),
                    &path,
                    &content,
                    (problem.line as usize, problem.column as usize),
                    &one_line(&problem.help, TOLD),
                ));
            }
            Some(_) | None => text.push_str(&bare(problem)),
        }
    }
    if problems.len() > SHOWN {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "and {} more", problems.len() - SHOWN);
    }
    text
}

/// A mistake without the line it is on.
pub(super) fn bare(problem: &PromptProblem) -> String {
    let mut place = one_line(&problem.path, TOLD);
    for number in [problem.line, problem.column].into_iter().take_while(|number| *number > 0) {
        place.push_str(&format!(":{number}"));
    }
    let mut text = format!("{}\n --> {place}\n", headline(problem));
    if !problem.help.is_empty() {
        text.push_str(&format!(" help: {}\n", one_line(&problem.help, TOLD)));
    }
    text
}

fn headline(problem: &PromptProblem) -> String {
    format!("error: {}", one_line(&problem.message, TOLD))
}
