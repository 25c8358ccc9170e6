//! CSV: a header that names the columns, then rows of as many fields. Knows quotes and delimiters by the crate `csv`.

use csv::{Position, ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::{Found, NAME, TOLD, Wrong};
use crate::output::figures::plural;
use crate::output::safe::one_line;

/// The rows of a text, and how many were blank.
pub(super) fn rows(text: &str) -> Result<(Found, usize), Wrong> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter(text))
        .from_reader(text.as_bytes());
    let mut record = StringRecord::new();
    let mut lines = Lines { text, byte: 0, line: 1 };
    let mut header: Option<Vec<String>> = None;
    let (mut rows, mut last) = (Found::new(), 1);
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(error) => {
                let line = error.position().map_or(last, |position| lines.at(position));
                return Err(Wrong::at(line, 1, error.to_string()));
            }
        }
        last = record.position().map_or(last, |position| lines.at(position));
        if record.iter().all(|field| field.trim().is_empty()) {
            continue;
        }
        let Some(columns) = &header else {
            header = Some(columns(text, last, &record)?);
            continue;
        };
        // A quote that is never closed swallows the rest of the file.
        let at_end = usize::try_from(reader.position().byte()).is_ok_and(|at| at >= text.len());
        if at_end && record.iter().any(|field| field.contains('\n')) && text.matches('"').count() % 2 == 1 {
            return Err(Wrong::at(last, 1, "a quote that is never closed begins in this row"));
        }
        if record.len() != columns.len() {
            let message = format!(
                "the row has {} where the header has {}",
                plural(record.len() as u64, "field"),
                columns.len()
            );
            return Err(
                Wrong::at(last, 1, message).help("put fields that hold the delimiter into double quotes")
            );
        }
        let fields: Map<String, Value> =
            columns.iter().cloned().zip(record.iter().map(|field| Value::from(field.trim()))).collect();
        rows.push((last, 1, fields));
    }
    if header.is_none() {
        return Err(Wrong::at(1, 1, "the roster is empty"));
    }
    // The reader passes over lines with nothing at all.
    let blank =
        text.lines().filter(|line| line.trim().trim_matches([',', ';', '\t', '"']).trim().is_empty()).count();

    Ok((rows, blank))
}

/// Counts lines from byte to byte: the reader's own count stands before the line ends that it has yet to pass over.
struct Lines<'a> {
    text: &'a str,
    byte: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of the first thing at a position or after it.
    fn at(&mut self, position: &Position) -> usize {
        let bytes = self.text.as_bytes();
        let mut to = usize::try_from(position.byte()).unwrap_or(usize::MAX).clamp(self.byte, bytes.len());
        while bytes.get(to).is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            to += 1;
        }
        self.line += bytes[self.byte..to].iter().filter(|byte| **byte == b'\n').count();
        self.byte = to;
        self.line
    }
}

/// What stands between the columns of the first line.
fn delimiter(text: &str) -> u8 {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    match (first.contains(','), first.contains(';'), first.contains('\t')) {
        (true, _, _) | (false, false, false) => b',',
        (false, true, _) => b';',
        (false, false, true) => b'\t',
    }
}

/// The names of the columns.
fn columns(text: &str, line: usize, record: &StringRecord) -> Result<Vec<String>, Wrong> {
    let columns: Vec<String> = record.iter().map(|name| name.trim().to_owned()).collect();
    let place = |index: usize| {
        let content = text.lines().nth(line - 1).unwrap_or_default();
        let before: usize = columns[..index].iter().map(|name| name.chars().count() + 1).sum();
        before.min(content.chars().count()) + 1
    };
    for (index, name) in columns.iter().enumerate() {
        if name.is_empty() {
            return Err(Wrong::at(line, place(index), "a column without a name"));
        }
        if columns[..index].contains(name) {
            let message = format!("the column `{}` is there twice", one_line(name, TOLD));
            return Err(Wrong::at(line, place(index), message));
        }
    }
    if columns.iter().any(|name| name == NAME) {
        return Ok(columns);
    }
    let near = columns.iter().find(|name| name.eq_ignore_ascii_case(NAME));
    let wrong = Wrong::at(line, 1, "the first row has no column `name`: it names the columns");
    Err(match near {
        Some(near) => wrong.help(format!("it is called {near:?} here: call it name")),
        None => wrong.help("for names alone take a text file with one name a line"),
    })
}
