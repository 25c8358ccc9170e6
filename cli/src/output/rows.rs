//! Titled rows of a screen about one thing. What does not fit the terminal goes on under its own beginning, so that a
//! narrow one shows all of it too. Knows widths; refuses to know what the rows say.

use super::Stream;
use super::table::width_of;
use super::words::DIM;

/// Columns in front of a title.
const INDENT: &str = "  ";
/// Narrower than this a value is not folded any further.
const LEAST: usize = 20;

/// A screen under construction.
pub(crate) struct Rows<'a> {
    stream: &'a Stream,
    titles: usize,
    text: String,
}

impl<'a> Rows<'a> {
    /// A screen without rows; titles are padded to `titles` columns.
    pub(crate) fn new(stream: &'a Stream, titles: usize) -> Self {
        Self { stream, titles, text: String::new() }
    }

    /// A line of its own; its rest is indented.
    pub(crate) fn line(&mut self, text: &str) {
        self.put("", INDENT.len(), text);
    }

    /// A row: a title and its value.
    pub(crate) fn row(&mut self, title: &str, value: &str) {
        let head = format!("{INDENT}{} ", self.stream.paint(DIM, &format!("{title:<0$}", self.titles)));
        self.put(&head, INDENT.len() + self.titles + 1, value);
    }

    /// Text that is in lines already.
    pub(crate) fn block(&mut self, indent: &str, text: &str) {
        for line in text.lines() {
            self.text.push_str(format!("{indent}{line}").trim_end());
            self.text.push('\n');
        }
    }

    /// The screen, every line ended.
    pub(crate) fn finish(self) -> String {
        self.text
    }

    fn put(&mut self, head: &str, hang: usize, value: &str) {
        let folded = fold(value, self.stream.width().map(|width| width.saturating_sub(hang).max(LEAST)));
        for (index, part) in folded.iter().enumerate() {
            let line = if index == 0 { format!("{head}{part}") } else { format!("{:hang$}{part}", "") };
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }
}

/// A text in parts of at most `limit` columns, divided at spaces; a longer word stays whole, for it may be typed again.
/// Colour takes no columns. Where nobody says how wide, nothing is divided.
pub(crate) fn fold(text: &str, limit: Option<usize>) -> Vec<String> {
    let Some(limit) = limit else { return vec![text.to_owned()] };
    let width = |text: &str| width_of(&anstream::adapter::strip_str(text).to_string());
    let mut parts = Vec::new();
    let mut part = String::new();
    for word in text.split(' ') {
        if part.is_empty() {
            part.push_str(word);
        } else if width(&part) + 1 + width(word) <= limit {
            part.push(' ');
            part.push_str(word);
        } else {
            parts.push(part.trim_end().to_owned());
            part = word.to_owned();
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;
    use crate::output::testing;
    use crate::output::words::WARN;

    #[test]
    fn what_is_too_long_goes_on_under_its_beginning() {
        let (out, _, _) = testing::out(Format::Table, Some(34));
        let mut rows = Rows::new(out.stdout(), 6);
        rows.row("host", "box-1: 8 cores, load 0.71, 9.0 GiB free");
        rows.row("none", "");
        rows.line("! there is no sandbox on this host at all");
        insta::assert_snapshot!(rows.finish(), @r"
          host   box-1: 8 cores, load
                 0.71, 9.0 GiB free
          none
        ! there is no sandbox on this
          host at all
        ");
    }

    #[test]
    fn colour_takes_no_columns_and_long_words_stay_whole() {
        let painted = format!("{WARN}one{WARN:#} two");
        assert_eq!(fold(&painted, Some(7)), [painted]);
        assert_eq!(fold("a /a/very/long/path b", Some(6)), ["a", "/a/very/long/path", "b"]);
        assert_eq!(fold("a  b", None), ["a  b"]);
    }
}
