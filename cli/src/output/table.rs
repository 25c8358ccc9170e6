//! Tables: columns aligned by what they hold, cut to the terminal in the columns that can bear it, one line a row.
//! Off a terminal nothing is cut, so that `grep` finds what is there. Knows widths; refuses to know meanings.

use anstyle::Style;
use ratatui::text::Line;

use super::Stream;
use super::safe::one_line;
use super::words::DIM;

/// Narrowest a column is cut to.
const LEAST_COLUMN: usize = 6;
/// Longest cell considered at all; the rest would not fit anywhere.
const LONGEST_CELL: usize = 400;
const GAP: &str = "  ";

/// A cell: text and how it looks.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a style.
    pub(crate) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        let text = one_line(text.as_ref(), LONGEST_CELL);
        Self { text: if text.is_empty() { "-".to_owned() } else { text }, style }
    }

    fn title(text: &str) -> Self {
        if text.is_empty() { Self::blank() } else { Self::dim(text) }
    }

    /// A cell with nothing in it: not even that there is nothing to say.
    pub(crate) fn blank() -> Self {
        Self { text: String::new(), style: Style::new() }
    }

    /// A cell of things that matter less.
    pub(crate) fn dim(text: impl AsRef<str>) -> Self {
        Self::styled(text, DIM)
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// How a column behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Words, never cut: they are typed again.
    Whole(&'static str),
    /// Words that may be cut.
    Words(&'static str),
    /// Words that may be cut, and are left out where there is no room for everything.
    Extra(&'static str),
    /// Figures, aligned to the right.
    Figures(&'static str),
    /// Figures that are left out where there is no room for everything.
    Spare(&'static str),
    /// Words that stand in a wide table only.
    Wide(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Whole(title)
            | Self::Words(title)
            | Self::Extra(title)
            | Self::Figures(title)
            | Self::Spare(title)
            | Self::Wide(title) => title,
        }
    }
}

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    titles: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        let columns: Vec<_> = columns.into_iter().collect();
        let titles = columns.iter().map(|column| column.title().to_owned()).collect();
        Self { columns, titles, rows: Vec::new() }
    }

    /// A table without rows whose columns somebody else named; they are never cut.
    pub(crate) fn titled(titles: impl IntoIterator<Item = String>) -> Self {
        let titles: Vec<_> = titles.into_iter().collect();
        Self { columns: vec![Column::Whole(""); titles.len()], titles, rows: Vec::new() }
    }

    /// Adds a row, one cell a column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<_> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.columns.len(), "a row has one cell a column");
        self.rows.push(cells);
    }

    /// The table as text for a stream, every line ended.
    pub(crate) fn render(&self, stream: &Stream) -> String {
        let widths = self.widths(stream);
        let titles: Vec<_> = self.titles.iter().map(|title| Cell::title(title)).collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            self.line(row, &widths, stream, &mut text);
        }
        text
    }

    fn line(&self, row: &[Cell], widths: &[usize], stream: &Stream, text: &mut String) {
        let last = widths.iter().rposition(|width| *width > 0);
        for (index, ((cell, column), &width)) in row.iter().zip(&self.columns).zip(widths).enumerate() {
            if width == 0 {
                continue;
            }
            let is_last = Some(index) == last;
            let shown = cut(&cell.text, width);
            let padding = " ".repeat(width.saturating_sub(width_of(&shown)));
            let painted = stream.paint(cell.style, &shown);
            match column {
                Column::Figures(_) | Column::Spare(_) => text.push_str(&format!("{padding}{painted}")),
                Column::Whole(_) | Column::Words(_) | Column::Extra(_) | Column::Wide(_) if is_last => {
                    text.push_str(&painted)
                }
                Column::Whole(_) | Column::Words(_) | Column::Extra(_) | Column::Wide(_) => {
                    text.push_str(&format!("{painted}{padding}"))
                }
            }
            if is_last {
                text.truncate(text.trim_end_matches(' ').len());
            }
            text.push_str(if is_last { "\n" } else { GAP });
        }
    }

    /// The widest cell of each column. Where that is too much, extra columns go, the last one first; then the widest
    /// column that may be cut gives way until everything fits. A column of width 0 is left out.
    fn widths(&self, stream: &Stream) -> Vec<usize> {
        let mut widths: Vec<_> = self.titles.iter().map(|title| width_of(title)).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(width_of(&cell.text));
            }
        }
        if stream.is_wide() {
            return widths;
        }
        for (width, column) in widths.iter_mut().zip(&self.columns) {
            if matches!(column, Column::Wide(_)) {
                *width = 0;
            }
        }
        let Some(limit) = stream.width() else { return widths };
        for index in (0..widths.len()).rev() {
            if total(&widths) > limit && matches!(self.columns[index], Column::Extra(_) | Column::Spare(_)) {
                widths[index] = 0;
            }
        }
        while total(&widths) > limit {
            let columns = self.columns.iter().zip(&self.titles).zip(&mut widths);
            let shrinkable = columns.filter_map(|((column, title), width)| {
                let least = LEAST_COLUMN.max(width_of(title));
                (matches!(column, Column::Words(_)) && *width > least).then_some(width)
            });
            let Some(widest) = shrinkable.max_by_key(|width| **width) else { break };
            *widest -= 1;
        }
        widths
    }
}

/// Columns of a whole line.
fn total(widths: &[usize]) -> usize {
    let shown = widths.iter().filter(|width| **width > 0);
    widths.iter().sum::<usize>() + GAP.len() * shown.count().saturating_sub(1)
}

/// Columns that a text takes on a terminal.
pub(crate) fn width_of(text: &str) -> usize {
    Line::raw(text).width()
}

/// The text in at most `width` columns; what is cut off leaves an ellipsis.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut used = 0;
    for char in text.chars() {
        let wide = width_of(char.encode_utf8(&mut [0; 4]));
        if used + wide + 1 > width {
            break;
        }
        used += wide;
        shown.push(char);
    }
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::args::Format;

    fn sample() -> Table {
        let columns =
            [Column::Whole("REF"), Column::Words("NOW"), Column::Figures("COST"), Column::Words("AGENT")];
        let mut table = Table::new(columns);
        let now = "Bash cargo test --workspace --locked -- --nocapture";
        table.row(["release-notes/128/plan".into(), now.into(), "$0.08".into(), "box-1".into()]);
        table.row(["adhoc/7".into(), "".into(), "$12.30".into(), "a-rather-long-agent-name".into()]);
        table
    }

    fn at(width: Option<usize>) -> String {
        let (out, _, _) = testing::out(Format::Table, width);
        sample().render(out.stdout())
    }

    #[test]
    fn off_a_terminal_nothing_is_cut() {
        insta::assert_snapshot!(at(None), @r"
        REF                     NOW                                                    COST  AGENT
        release-notes/128/plan  Bash cargo test --workspace --locked -- --nocapture   $0.08  box-1
        adhoc/7                 -                                                    $12.30  a-rather-long-agent-name
        ");
    }

    #[test]
    fn at_120_columns_everything_fits() {
        insta::assert_snapshot!(at(Some(120)), @r"
        REF                     NOW                                                    COST  AGENT
        release-notes/128/plan  Bash cargo test --workspace --locked -- --nocapture   $0.08  box-1
        adhoc/7                 -                                                    $12.30  a-rather-long-agent-name
        ");
    }

    #[test]
    fn at_80_columns_the_widest_words_give_way() {
        insta::assert_snapshot!(at(Some(80)), @r"
        REF                     NOW                        COST  AGENT
        release-notes/128/plan  Bash cargo test --work…   $0.08  box-1
        adhoc/7                 -                        $12.30  a-rather-long-agent-na…
        ");
    }

    #[test]
    fn at_60_columns_references_stay_whole() {
        insta::assert_snapshot!(at(Some(60)), @r"
        REF                     NOW              COST  AGENT
        release-notes/128/plan  Bash cargo t…   $0.08  box-1
        adhoc/7                 -              $12.30  a-rather-lon…
        ");
    }

    #[test]
    fn wide_tables_have_every_column_and_nothing_cut() {
        let mut table = Table::new([Column::Whole("REF"), Column::Words("NOW"), Column::Wide("SESSION")]);
        table.row(["adhoc/7".into(), "Bash cargo test --workspace".into(), "6f2a".into()]);
        let (out, _, _) = testing::out(Format::Table, Some(20));
        assert_eq!(table.render(out.stdout()), "REF      NOW\nadhoc/7  Bash cargo…\n");
        assert_eq!(
            table.render(&out.stdout().clone().wide()),
            "REF      NOW                          SESSION\nadhoc/7  Bash cargo test --workspace  6f2a\n"
        );
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(width_of("你好"), 4);
        assert_eq!(cut("你好吗", 5), "你好…");
        assert_eq!(cut("abc", 3), "abc");
    }
}
