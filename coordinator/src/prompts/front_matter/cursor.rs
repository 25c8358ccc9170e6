//! Reads the pieces of one front matter line: keys, scalars, inline lists.

use super::{Misplaced, SyntaxError, Text};
use crate::prompts::error::Spot;

/// What is left of a line.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a str,
    whole: &'a str,
    number: u32,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, number: u32) -> Self {
        Self { rest: text, whole: text, number }
    }

    pub(super) fn spot(&self) -> Spot {
        let read = self.whole.chars().count() - self.rest.chars().count();
        Spot { line: self.number, column: u32::try_from(read).unwrap_or(u32::MAX).saturating_add(1) }
    }

    pub(super) fn fail<T>(&self, error: SyntaxError) -> Result<T, Misplaced> {
        Err((self.spot(), error))
    }

    /// Blank or a comment.
    pub(super) fn is_silent(&self) -> bool {
        let text = self.rest.trim_start_matches(' ');
        text.is_empty() || text.starts_with('#')
    }

    pub(super) fn is_item(&self) -> bool {
        let text = self.rest.trim_start_matches(' ');
        text.starts_with("- ") || text.trim_end_matches(' ') == "-"
    }

    /// Indented, or a list item: YAML lets the items of a top-level key begin in its column.
    pub(super) fn is_below_key(&self) -> bool {
        self.rest.starts_with(' ') || self.is_item()
    }

    /// The column of the first character that is not a space.
    pub(super) fn indent(&self) -> u32 {
        Self { rest: self.rest.trim_start_matches(' '), ..*self }.spot().column
    }

    pub(super) fn skip_one(&mut self) {
        let mut rest = self.rest.chars();
        rest.next();
        self.rest = rest.as_str();
    }

    /// Moves to the next character that is neither blank nor in a comment.
    pub(super) fn skip_blanks(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start_matches(' ');
        self.rest.chars().next().filter(|c| *c != '#')
    }

    /// `key:` before a blank or the end of the line, not among `known`.
    pub(super) fn new_key<T>(&mut self, known: &[(Text, T)]) -> Result<Text, Misplaced> {
        let at = self.spot();
        let (key, behind) = self.rest.split_once(':').unwrap_or_default();
        let well_formed =
            key.starts_with(|c: char| c.is_ascii_alphanumeric()) && key.chars().all(is_key_character);
        if !well_formed || !(behind.is_empty() || behind.starts_with(' ')) {
            return self.fail(SyntaxError::NotKeyValue);
        }
        if known.iter().any(|(name, _)| name.value == key) {
            return self.fail(SyntaxError::DuplicateKey { key: key.to_owned() });
        }
        self.rest = behind;
        Ok(Text { value: key.to_owned(), at })
    }

    /// `[one, two]` behind which only a comment may stand.
    pub(super) fn inline_list(&mut self) -> Result<Vec<Text>, Misplaced> {
        let opening = self.spot();
        let mut items = Vec::new();
        loop {
            self.skip_one();
            if self.skip_blanks().is_some_and(|c| c != ']') {
                items.push(self.scalar(true)?);
            }
            match self.skip_blanks() {
                Some(',') => {}
                Some(']') => break,
                Some(_) => return self.fail(SyntaxError::TrailingText),
                None => return Err((opening, SyntaxError::UnclosedList)),
            }
        }
        self.skip_one();
        self.nothing_left().map(|()| items)
    }

    /// A scalar behind which only a comment may stand.
    pub(super) fn last_scalar(&mut self) -> Result<Text, Misplaced> {
        self.skip_blanks();
        let text = self.scalar(false)?;
        self.nothing_left().map(|()| text)
    }

    fn nothing_left(&mut self) -> Result<(), Misplaced> {
        if self.skip_blanks().is_none() { Ok(()) } else { self.fail(SyntaxError::TrailingText) }
    }

    fn scalar(&mut self, in_list: bool) -> Result<Text, Misplaced> {
        let at = self.spot();
        let Some(quote @ ('"' | '\'')) = self.rest.chars().next() else {
            return Ok(Text { value: self.plain(in_list)?, at });
        };
        self.skip_one();
        let (value, behind) = self.rest.split_once(quote).ok_or((at, SyntaxError::UnclosedQuotes))?;
        if quote == '"' && value.contains('\\') {
            return Err((at, SyntaxError::Unsupported { what: "a backslash in double quotes" }));
        }
        self.rest = behind;
        Ok(Text { value: value.to_owned(), at })
    }

    fn plain(&mut self, in_list: bool) -> Result<String, Misplaced> {
        let mut value = String::new();
        while let Some(c) = self.rest.chars().next() {
            let next = self.rest.chars().nth(1);
            if needs_quotes(c, next, value.is_empty(), in_list) {
                return self.fail(SyntaxError::NeedsQuotes { found: c });
            }
            let comment = c == '#' && (value.is_empty() || value.ends_with(' '));
            if comment || (in_list && matches!(c, ',' | ']')) {
                break;
            }
            value.push(c);
            self.skip_one();
        }
        value.truncate(value.trim_end_matches(' ').len());
        if value.is_empty() { self.fail(SyntaxError::NoValue) } else { Ok(value) }
    }
}

fn is_key_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/')
}

/// Whether YAML would read `c` here as something other than a character of a plain scalar.
fn needs_quotes(c: char, next: Option<char>, is_first: bool, in_list: bool) -> bool {
    let before_blank = next.is_none_or(|next| next == ' ');
    match c {
        '&' | '*' | '!' | '|' | '>' | '%' | '@' | '`' => is_first,
        '[' | '{' | '}' => in_list || is_first,
        ']' | ',' => !in_list && is_first,
        '-' => is_first && (before_blank || (in_list && matches!(next, Some(',' | ']')))),
        '?' => in_list || (is_first && before_blank),
        ':' => before_blank || (in_list && (is_first || matches!(next, Some(',' | ']')))),
        _ => false,
    }
}
