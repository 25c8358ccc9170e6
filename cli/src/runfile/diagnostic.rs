//! An error in a file as text: the place, the line, a mark below it. Knows lines and columns, no field.

use std::ops::Range;

use orch_proto::codes::ErrorCode;

use crate::failure::Failure;
use crate::output::figures::plural;
use crate::output::safe::safe;
use crate::output::table::width_of;

/// Errors shown; the rest are counted. More do not help anybody mend a file.
const SHOWN: usize = 20;
/// Longest part of a line shown, in characters: generated files have everything on one.
const WINDOW: usize = 100;
/// How far the error stands into a part that was cut out.
const LEAD: usize = 40;
/// Longest mark.
const LONGEST_MARK: usize = 60;

/// Something wrong, and where.
#[derive(Debug, Clone)]
pub(super) struct Diagnostic {
    pub(super) code: ErrorCode,
    /// Bytes of the source.
    pub(super) span: Range<usize>,
    pub(super) message: String,
    /// What to do, beside the mark.
    pub(super) note: String,
}

impl Diagnostic {
    pub(super) fn new(code: ErrorCode, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { code, span, message: message.into(), note: String::new() }
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// The error with its place in the file.
    fn render(&self, file: &str, text: &str) -> String {
        let headline = format!("error[{}]: {}", self.code.code(), safe(&self.message));
        let place = Place::of(text, self.span.start);
        snippet(&headline, file, &place, self.span.len(), &self.note)
    }
}

/// An error that somebody else found, with its place in the file: `line` and `column` count from 1, a column of 0 means
/// the whole line. Headline and note are printed as they stand.
pub(crate) fn pointed(
    headline: &str,
    file: &str,
    text: &str,
    (line, column): (usize, usize),
    note: &str,
) -> String {
    let content = text.split('\n').nth(line.saturating_sub(1)).unwrap_or_default().trim_end_matches('\r');
    let blanks = content.len() - content.trim_start().len();
    let (column, length) = match column {
        0 => (content[..blanks].chars().count() + 1, content.trim().len()),
        column => (column, 1),
    };
    snippet(headline, file, &Place { line, column, content }, length, note)
}

/// Place, line and mark; `length` is in bytes.
fn snippet(headline: &str, file: &str, place: &Place<'_>, length: usize, note: &str) -> String {
    let (before, marked, after) = place.window(length);
    let gutter = place.line.to_string();
    let indent = " ".repeat(gutter.len());
    let lead = " ".repeat(width_of(&before));
    let mark = "^".repeat(width_of(&marked).clamp(1, LONGEST_MARK));
    let note = if note.is_empty() { String::new() } else { format!(" {note}") };
    format!(
        "{headline}\n{indent} --> {file}:{}:{}\n{indent} |\n{gutter} | {before}{marked}{after}\n{indent} | {lead}{mark}{note}\n",
        place.line, place.column,
    )
}

/// A place in a text, counted from 1 in lines and characters.
struct Place<'a> {
    line: usize,
    column: usize,
    content: &'a str,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, offset: usize) -> Self {
        let offset = offset.min(text.len());
        let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[start..offset].chars().count() + 1,
            content: text[start..end].trim_end_matches('\r'),
        }
    }

    /// The line in three parts: before the mark, below it, after it; cut to what fits.
    fn window(&self, span_bytes: usize) -> (String, String, String) {
        let chars: Vec<char> = self.content.chars().collect();
        let at = (self.column - 1).min(chars.len());
        let from = if chars.len() <= WINDOW { 0 } else { at.saturating_sub(LEAD) };
        let to = chars.len().min(from + WINDOW);
        let mut marked_to = at;
        let mut bytes = 0;
        while marked_to < to && bytes < span_bytes {
            bytes += chars[marked_to].len_utf8();
            marked_to += 1;
        }
        let show = |range: Range<usize>| {
            let part: String =
                chars[range].iter().map(|char| if *char == '\t' { ' ' } else { *char }).collect();
            safe(&part).into_owned()
        };
        let head = if from > 0 { "…" } else { "" };
        let tail = if to < chars.len() { "…" } else { "" };
        (format!("{head}{}", show(from..at)), show(at..marked_to), format!("{}{tail}", show(marked_to..to)))
    }
}

/// All errors of a file as one failure.
pub(super) fn failure(file: &str, text: &str, problems: Vec<Diagnostic>) -> Failure {
    let Some(first) = problems.first() else {
        return Failure::usage(format!("{file} is not a run"));
    };
    let mut report: String = problems.iter().take(SHOWN).map(|problem| problem.render(file, text)).collect();
    if problems.len() > SHOWN {
        report.push_str(&format!("and {} more\n", problems.len() - SHOWN));
    }
    report.push_str(&format!("{}; nothing was submitted\n", plural(problems.len() as u64, "error")));
    let place = Place::of(text, first.span.start);
    let message = format!("{file}:{}:{}: {}", place.line, place.column, first.message);
    problems.iter().skip(1).take(SHOWN).fold(
        Failure::report(first.code, message, report),
        |failure, problem| {
            let place = Place::of(text, problem.span.start);
            failure.further(format!(
                "{file}:{}:{}: [{}] {}",
                place.line,
                place.column,
                problem.code.code(),
                problem.message
            ))
        },
    )
}
