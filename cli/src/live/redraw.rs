//! Putting lines on a terminal in place of the ones drawn before, without ever asking the terminal anything: only
//! relative movements, so that output above scrolls on untouched and a pipe on the other stream does no harm.
//! Knows escape sequences; refuses to know what the lines say.

use std::fmt::Write as _;

use crossterm::Command as _;
use crossterm::cursor::{Hide, MoveToColumn, MoveUp, Show};
use crossterm::terminal::{BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use crate::failure::Outcome;
use crate::output::Stream;
use crate::output::table::{cut, width_of};

/// A place on the terminal that is drawn again and again. Leaves the cursor below it, visible, when it is dropped.
pub(crate) struct Redraw {
    stream: Stream,
    drawn: u16,
    echo: Option<Termios>,
}

impl Redraw {
    /// Starts at the cursor. Typed keys are not echoed meanwhile: they would push the view apart.
    pub(crate) fn new(stream: &Stream) -> Outcome<Self> {
        let echo = echo_off();
        let redraw = Self { stream: stream.clone(), drawn: 0, echo };
        let mut text = String::new();
        // Writing to a String cannot fail, here and below.
        let _ = Hide.write_ansi(&mut text);
        redraw.stream.write(text.as_bytes())?;
        Ok(redraw)
    }

    /// Columns and rows to draw in.
    pub(crate) fn size(&self) -> (usize, usize) {
        self.stream.size()
    }

    /// Draws lines in place of the last ones.
    pub(crate) fn draw(&mut self, lines: &[Line<'_>]) -> Outcome<()> {
        let (width, height) = self.size();
        let rows = paint(&lines[..lines.len().min(height)], width, self.stream.has_color());
        let mut text = String::new();
        let _ = BeginSynchronizedUpdate.write_ansi(&mut text);
        self.to_start(&mut text);
        for row in &rows {
            text.push_str(row);
            let _ = Clear(ClearType::UntilNewLine).write_ansi(&mut text);
            text.push('\n');
        }
        let _ = Clear(ClearType::FromCursorDown).write_ansi(&mut text);
        let _ = EndSynchronizedUpdate.write_ansi(&mut text);
        self.drawn = u16::try_from(rows.len()).unwrap_or(u16::MAX);
        self.stream.write(text.as_bytes())
    }

    /// Draws text that is painted already in place of the last picture. Lines that are too long lose their colours
    /// with their end.
    pub(crate) fn draw_text(&mut self, painted: &str) -> Outcome<()> {
        let (width, height) = self.size();
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = BeginSynchronizedUpdate.write_ansi(&mut text);
        self.to_start(&mut text);
        let mut rows: u16 = 0;
        // The cursor stands on the line below the picture.
        for line in painted.lines().take(height.saturating_sub(1)) {
            let plain = anstream::adapter::strip_str(line).to_string();
            if width_of(&plain) > width {
                text.push_str(&cut(&plain, width));
            } else {
                text.push_str(line);
            }
            let _ = Clear(ClearType::UntilNewLine).write_ansi(&mut text);
            text.push('\n');
            rows = rows.saturating_add(1);
        }
        let _ = Clear(ClearType::FromCursorDown).write_ansi(&mut text);
        let _ = EndSynchronizedUpdate.write_ansi(&mut text);
        self.drawn = rows;
        self.stream.write(text.as_bytes())
    }

    /// Writes text above the picture, where it stays. The picture is drawn again below it.
    pub(crate) fn above(&mut self, painted: &str) -> Outcome<()> {
        let mut text = String::new();
        self.to_start(&mut text);
        // Writing to a String cannot fail.
        let _ = Clear(ClearType::FromCursorDown).write_ansi(&mut text);
        text.push_str(painted);
        self.drawn = 0;
        self.stream.write(text.as_bytes())
    }

    /// Where it draws.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    fn to_start(&self, text: &mut String) {
        let _ = MoveToColumn(0).write_ansi(text);
        if self.drawn > 0 {
            let _ = MoveUp(self.drawn).write_ansi(text);
        }
    }
}

impl Drop for Redraw {
    fn drop(&mut self) {
        let mut text = String::new();
        let _ = Show.write_ansi(&mut text);
        let _ = self.stream.write(text.as_bytes());
        if let Some(before) = &self.echo {
            let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Turns echo off and returns what to restore; `None` where stdin is no terminal.
fn echo_off() -> Option<Termios> {
    let before = termios::tcgetattr(std::io::stdin()).ok()?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &quiet).ok()?;
    Some(before)
}

/// Lines as text with escape sequences, cut to the width, without trailing blanks.
fn paint(lines: &[Line<'_>], width: usize, color: bool) -> Vec<String> {
    let width = u16::try_from(width).unwrap_or(u16::MAX);
    lines
        .iter()
        .map(|line| {
            let mut buffer = Buffer::empty(Rect::new(0, 0, width, 1));
            buffer.set_line(0, 0, line, width);
            row(&buffer, width, color)
        })
        .collect()
}

fn row(buffer: &Buffer, width: u16, color: bool) -> String {
    let mut text = String::new();
    let mut style = anstyle::Style::new();
    let mut blanks = 0;
    let mut x = 0;
    while x < width {
        let cell = &buffer[(x, 0)];
        x += u16::try_from(width_of(cell.symbol())).unwrap_or(1).max(1);
        if cell.symbol() == " " {
            blanks += 1;
            continue;
        }
        text.extend(std::iter::repeat_n(' ', std::mem::take(&mut blanks)));
        let wanted = if color { ansi(cell.style()) } else { anstyle::Style::new() };
        if wanted != style {
            let _ = write!(text, "{style:#}{wanted}");
            style = wanted;
        }
        text.push_str(cell.symbol());
    }
    let _ = write!(text, "{style:#}");
    text
}

fn ansi(style: Style) -> anstyle::Style {
    let color = match style.fg {
        Some(Color::Red) => Some(anstyle::AnsiColor::Red),
        Some(Color::Green) => Some(anstyle::AnsiColor::Green),
        Some(Color::Yellow) => Some(anstyle::AnsiColor::Yellow),
        Some(Color::Cyan) => Some(anstyle::AnsiColor::Cyan),
        // The view uses no other; a new one would only lose its colour.
        Some(_) | None => None,
    };
    let mut ansi = anstyle::Style::new().fg_color(color.map(anstyle::Color::Ansi));
    if style.add_modifier.contains(Modifier::BOLD) {
        ansi = ansi.bold();
    }
    if style.add_modifier.contains(Modifier::DIM) {
        ansi = ansi.dimmed();
    }
    ansi
}

#[cfg(test)]
mod tests {
    use ratatui::text::Span;

    use super::*;
    use crate::args::Format;
    use crate::output::testing;

    #[test]
    fn a_second_drawing_takes_the_place_of_the_first() {
        let (out, stdout, _) = testing::out(Format::Table, Some(40));
        let mut redraw = Redraw::new(out.stdout()).unwrap();
        redraw.draw(&[Line::raw("one"), Line::raw("two")]).unwrap();
        redraw.draw(&[Line::raw("three")]).unwrap();
        drop(redraw);
        insta::assert_snapshot!(stdout.text().replace('\u{1b}', "ESC"), @r"
        ESC[?25lESC[?2026hESC[1GoneESC[K
        twoESC[K
        ESC[JESC[?2026lESC[?2026hESC[1GESC[2AthreeESC[K
        ESC[JESC[?2026lESC[?25h
        ");
    }

    #[test]
    fn lines_are_cut_to_the_width_and_styled_only_with_colour() {
        let line = Line::from(vec![Span::raw("ab "), Span::styled("你好吗", Style::new().fg(Color::Red))]);
        assert_eq!(paint(std::slice::from_ref(&line), 7, false), ["ab 你好"]);
        assert_eq!(paint(&[line], 7, true), ["ab \u{1b}[31m你好\u{1b}[0m"]);
    }
}
