//! The one place that prints. [`Out`] decides format, colour, width and terminal once; commands hand it finished text
//! or view values. stdout carries data, stderr everything else. Knows streams; refuses to know what is said.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anstyle::Style;
use serde::Serialize;

use crate::args::{Format, Global, Progress, When};
use crate::failure::{Failure, Outcome};

pub(crate) mod figures;
pub(crate) mod safe;
pub(crate) mod table;
pub(crate) mod view;
pub(crate) mod words;

/// Width assumed where nothing says how wide the terminal is.
const DEFAULT_WIDTH: usize = 100;
/// Narrower than this, tables are not cut any further.
const LEAST_WIDTH: usize = 40;

/// Where output goes and how it looks.
#[derive(Clone)]
pub(crate) struct Out {
    /// What stdout carries.
    pub(crate) format: Format,
    /// How a followed run is shown.
    pub(crate) progress: Progress,
    /// 0 usual, below: less, above: more.
    pub(crate) verbosity: i8,
    stdout: Stream,
    stderr: Stream,
}

/// One of the two streams.
#[derive(Clone)]
pub(crate) struct Stream {
    sink: Arc<Mutex<dyn Write + Send>>,
    terminal: bool,
    color: bool,
    fixed_width: Option<usize>,
}

impl Out {
    /// The streams of this process.
    pub(crate) fn new(global: &Global) -> Self {
        let verbosity =
            i8::try_from(global.verbose).unwrap_or(i8::MAX) - i8::try_from(global.quiet).unwrap_or(i8::MAX);
        let stdout = Stream {
            color: wants_color(global.color, &anstream::AutoStream::choice(&io::stdout())),
            terminal: io::stdout().is_terminal(),
            sink: Arc::new(Mutex::new(io::stdout())),
            fixed_width: None,
        };
        let stderr = Stream {
            color: wants_color(global.color, &anstream::AutoStream::choice(&io::stderr())),
            terminal: io::stderr().is_terminal(),
            sink: Arc::new(Mutex::new(io::stderr())),
            fixed_width: None,
        };
        Self { format: global.output, progress: global.progress, verbosity, stdout, stderr }
    }

    /// Data, as it stands.
    pub(crate) fn data(&self, text: &str) -> Outcome<()> {
        self.stdout.write(text.as_bytes())
    }

    /// Data that need not be text.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Outcome<()> {
        self.stdout.write(bytes)
    }

    /// A line of data.
    pub(crate) fn line(&self, text: &str) -> Outcome<()> {
        self.stdout.write(format!("{text}\n").as_bytes())
    }

    /// One JSON value: indented on a terminal, on one line otherwise and in `jsonl`.
    pub(crate) fn json(&self, value: &impl Serialize) -> Outcome<()> {
        let text = if self.stdout.terminal && self.format == Format::Json {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        let text = text.map_err(|error| Failure::new(crate::exit::BUG, "cannot write JSON").cause(error))?;
        self.line(&text)
    }

    /// A list: one array as `json`, one value a line as `jsonl`.
    pub(crate) fn json_list<T: Serialize>(&self, values: &[T]) -> Outcome<()> {
        if self.format == Format::Jsonl {
            values.iter().try_for_each(|value| self.json(value))
        } else {
            self.json(&values)
        }
    }

    /// Whether stdout carries JSON.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Advice on stderr; `-q` leaves it out. A closed stderr is not worth an exit.
    pub(crate) fn hint(&self, text: &str) {
        if self.verbosity >= 0 {
            let _ = self.stderr.write(format!("{text}\n").as_bytes());
        }
    }

    /// Something worth knowing on stderr; `-qq` leaves it out.
    pub(crate) fn note(&self, text: &str) {
        if self.verbosity >= -1 {
            let _ = self.stderr.write(format!("{text}\n").as_bytes());
        }
    }

    /// A failure: text on stderr, or one JSON object there when JSON was asked for.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let text =
            if self.is_json() { format!("{}\n", failure.json()) } else { failure.text(self.verbosity > 0) };
        let _ = self.stderr.write(text.as_bytes());
    }

    /// The stream of data.
    pub(crate) fn stdout(&self) -> &Stream {
        &self.stdout
    }

    /// The stream of everything else.
    pub(crate) fn stderr(&self) -> &Stream {
        &self.stderr
    }

    /// Text in a style, if stdout has colour.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        self.stdout.paint(style, text)
    }
}

impl Stream {
    /// Writes and flushes.
    pub(crate) fn write(&self, bytes: &[u8]) -> Outcome<()> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.write_all(bytes)?;
        sink.flush()?;
        Ok(())
    }

    /// Whether a terminal reads it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether it takes colour.
    pub(crate) fn has_color(&self) -> bool {
        self.color
    }

    /// Columns of the terminal; `None` if none reads it: then nothing is cut.
    pub(crate) fn width(&self) -> Option<usize> {
        self.fixed_width.or_else(|| self.terminal.then(|| self.size().0))
    }

    /// Columns and rows of the terminal.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (columns, rows) = crossterm::terminal::size().unwrap_or_default();
        let columns = if columns == 0 { DEFAULT_WIDTH } else { usize::from(columns) };
        (columns.max(LEAST_WIDTH), if rows == 0 { 24 } else { usize::from(rows) })
    }

    /// Text in a style, if it has colour.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// `anstream` knows `NO_COLOR`, `CLICOLOR_FORCE`, `TERM=dumb` and terminals; a flag outranks them.
fn wants_color(flag: When, automatic: &anstream::ColorChoice) -> bool {
    match flag {
        When::Always => true,
        When::Never => false,
        When::Auto => !matches!(automatic, anstream::ColorChoice::Never),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Streams that tests read back.

    use super::*;

    /// What was written to a stream.
    #[derive(Clone, Default)]
    pub(crate) struct Seen(Arc<Mutex<Vec<u8>>>);

    impl Seen {
        /// Everything so far.
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An `Out` without terminal and colour, with what it writes to stdout and stderr.
    pub(crate) fn out(format: Format, width: Option<usize>) -> (Out, Seen, Seen) {
        let stream = |seen: &Seen| Stream {
            sink: Arc::new(Mutex::new(seen.clone())),
            terminal: false,
            color: false,
            fixed_width: width,
        };
        let (stdout, stderr) = (Seen::default(), Seen::default());
        let out = Out {
            format,
            progress: Progress::Auto,
            verbosity: 0,
            stdout: stream(&stdout),
            stderr: stream(&stderr),
        };
        (out, stdout, stderr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_outranks_what_the_terminal_says() {
        use anstream::ColorChoice;
        assert!(wants_color(When::Always, &ColorChoice::Never));
        assert!(!wants_color(When::Never, &ColorChoice::Always));
        assert!(!wants_color(When::Auto, &ColorChoice::Never));
        assert!(wants_color(When::Auto, &ColorChoice::Always));
    }

    #[test]
    fn errors_follow_the_format() {
        let failure = Failure::usage("no");
        let (out, _, stderr) = testing::out(Format::Table, None);
        out.failure(&failure);
        assert_eq!(stderr.text(), "error: no\n");
        let (out, stdout, stderr) = testing::out(Format::Json, None);
        out.failure(&failure);
        assert!(stderr.text().starts_with("{\"error\":"));
        assert_eq!(stdout.text(), "");
    }

    #[test]
    fn quiet_keeps_data_and_drops_hints() {
        let (mut out, stdout, stderr) = testing::out(Format::Table, None);
        out.verbosity = -1;
        out.hint("follow it");
        out.note("detached");
        out.line("adhoc/1").unwrap();
        assert_eq!((stdout.text().as_str(), stderr.text().as_str()), ("adhoc/1\n", "detached\n"));
        out.verbosity = -2;
        out.note("again");
        assert_eq!(stderr.text(), "detached\n");
    }

    #[test]
    fn lists_are_one_array_or_one_value_a_line() {
        let (out, stdout, _) = testing::out(Format::Json, None);
        out.json_list(&[1, 2]).unwrap();
        let (lines, stdout_lines, _) = testing::out(Format::Jsonl, None);
        lines.json_list(&[1, 2]).unwrap();
        assert_eq!((stdout.text().as_str(), stdout_lines.text().as_str()), ("[1,2]\n", "1\n2\n"));
    }
}
