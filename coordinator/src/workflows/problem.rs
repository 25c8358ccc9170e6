//! What is wrong with a workflow or with what it was called with, and where: file, line, column, message, help.
//! Knows texts and places; refuses to know what a field means.

use crate::presence::harmless;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::collections::BTreeSet;
use std::ops::Range;

/// Problems kept: whoever mended these finds the rest.
const MAX_PROBLEMS: usize = 200;
/// Longest message, in characters.
const MAX_TEXT: usize = 1_000;

/// A text that problems can point into.
#[derive(Debug)]
pub(super) struct Source {
    /// How messages name it.
    pub(super) file: String,
    pub(super) text: String,
}

impl Source {
    pub(super) fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { file: file.into(), text: text.into() }
    }

    /// Line and column, from 1; columns count characters.
    fn spot(&self, offset: usize) -> (u32, u32) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[start..].chars().count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }
}

/// Everything found so far, each once.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<v1::PromptProblem>,
    /// Tasks made from one template repeat its mistakes.
    seen: BTreeSet<(String, Option<usize>, String)>,
    /// One that is not kept, for whoever gives it a help.
    spare: v1::PromptProblem,
}

/// A problem just noted, for its help.
pub(super) struct Noted<'p>(&'p mut v1::PromptProblem);

impl Noted<'_> {
    /// What to do about it.
    pub(super) fn help(self, help: impl AsRef<str>) {
        self.0.help = harmless(help.as_ref(), MAX_TEXT);
    }

    /// The name that was probably meant, if any is near.
    pub(super) fn nearest<'a>(self, name: &str, known: impl IntoIterator<Item = &'a str>) {
        if let Some(near) = nearest(name, known) {
            self.help(format!("did you mean `{near}`?"));
        }
    }
}

impl Problems {
    /// Notes something wrong at these bytes of `source`.
    pub(super) fn add(
        &mut self,
        source: &Source,
        code: ErrorCode,
        at: Range<usize>,
        message: impl Into<String>,
    ) -> Noted<'_> {
        self.note(source, code, Some(at.start), message.into())
    }

    /// Notes something wrong with a whole file, or with a call of none.
    pub(super) fn add_whole(&mut self, file: &str, code: ErrorCode, message: impl Into<String>) -> Noted<'_> {
        self.note(&Source::new(file, ""), code, None, message.into())
    }

    fn note(&mut self, source: &Source, code: ErrorCode, at: Option<usize>, message: String) -> Noted<'_> {
        let message = harmless(&message, MAX_TEXT);
        let path = harmless(&source.file, MAX_TEXT);
        let fresh = !self.full() && self.seen.insert((path.clone(), at, message.clone()));
        let (line, column) = at.filter(|_| fresh).map_or((0, 0), |at| source.spot(at));
        let code = code.code().to_owned();
        let problem = v1::PromptProblem { path, line, column, message, help: String::new(), code };
        if fresh {
            self.found.push(problem);
        } else {
            self.spare = problem;
        }
        Noted(if fresh { self.found.last_mut().unwrap_or(&mut self.spare) } else { &mut self.spare })
    }

    /// Nothing more would be kept.
    pub(super) fn full(&self) -> bool {
        self.found.len() >= MAX_PROBLEMS
    }

    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Everything, in the order of the places; files in the order in which they first went wrong.
    pub(super) fn into_found(self) -> Vec<v1::PromptProblem> {
        let mut files: Vec<String> = Vec::new();
        for problem in &self.found {
            if !files.contains(&problem.path) {
                files.push(problem.path.clone());
            }
        }
        let rank = |path: &str| files.iter().position(|file| file == path);
        let mut found = self.found;
        found.sort_by_key(|problem| (rank(&problem.path), problem.line, problem.column));
        found
    }
}

/// The known name that `name` was probably meant to be: at most a third of its characters differ, case aside.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Distance is quadratic in length, and nobody misspells a name into a page of text.
    const LONGEST: usize = 128;
    /// Names compared: a list of a hundred thousand is no help to anybody.
    const MOST: usize = 1_000;
    if name.len() > LONGEST {
        return None;
    }
    let wanted = name.to_lowercase();
    let allowed = (wanted.chars().count() / 3).max(1);
    known
        .into_iter()
        .take(MOST)
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A text of a person as a message may quote it: control characters visible, at most 80 characters.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_and_repetitions_are_told_once() {
        let source = Source::new("f.json", "{\n  é \"x\"}");
        let mut problems = Problems::default();
        let at = source.text.find('"').unwrap();
        for _ in 0..3 {
            problems.add(&source, ErrorCode::InvalidField, at..at + 3, "no").help("so");
        }
        problems.add_whole("f.json", ErrorCode::TooLarge, "large").help("less");
        problems.add_whole("f.json", ErrorCode::TooLarge, "large").help("unseen");
        let found = problems.into_found();
        let told: Vec<_> =
            found.iter().map(|p| (p.line, p.column, p.message.as_str(), p.help.as_str())).collect();
        assert_eq!(told, [(0, 0, "large", "less"), (2, 5, "no", "so")]);
        assert_eq!(found[1].code, "E0101");
    }

    #[test]
    fn problems_are_bounded_and_harmless_on_a_terminal() {
        let (source, mut problems) = (Source::new("f\u{1b}.json", ""), Problems::default());
        for number in 0..MAX_PROBLEMS + 50 {
            problems.add(&source, ErrorCode::InvalidField, 0..0, format!("{number}\u{1b}[31m"));
        }
        assert!(problems.full());
        let found = problems.into_found();
        assert_eq!(found.len(), MAX_PROBLEMS);
        assert!(found.iter().all(|p| !p.message.contains('\u{1b}') && !p.path.contains('\u{1b}')));
    }
}
