//! The one place that prints. [`Out`] decides format, colour, width and terminal once; commands hand it finished text
//! or view values. stdout carries data, stderr everything else. Knows streams; refuses to know what is said.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anstyle::Style;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::{Format, OutputFormat, Progress, When};
use crate::failure::{Failure, Outcome};
use crate::settings::{Asking, Settings};

mod captured;
mod csv;
pub(crate) mod encode;
pub(crate) mod figures;
mod node;
pub(crate) mod rows;
pub(crate) mod safe;
pub(crate) mod table;
pub(crate) mod times;
pub(crate) mod view;
pub(crate) mod words;
mod yaml;

use encode::{Encoder, Encoding};
use times::Times;

/// Width assumed where nothing says how wide the terminal is.
const DEFAULT_WIDTH: usize = 100;
/// Longest name or path on a line of its own.
const LONGEST_NAME: usize = 4096;
/// Narrower than this, tables are not cut any further.
const LEAST_WIDTH: usize = 40;

/// Where output goes and how it looks.
#[derive(Clone)]
pub(crate) struct Out {
    /// What stdout carries: the shape of what commands hand over, not how it is written.
    pub(crate) format: Format,
    /// How a followed run is shown.
    pub(crate) progress: Progress,
    /// 0 usual, below: less, above: more.
    pub(crate) verbosity: i8,
    /// What questions get.
    pub(crate) asking: Asking,
    /// The clock, and how moments are shown to people.
    pub(crate) times: Times,
    encoder: Encoder,
    pager: bool,
    /// Whether scripts read what goes wrong.
    json_errors: bool,
    stdout: Stream,
    stderr: Stream,
}

/// One of the two streams.
#[derive(Clone)]
pub(crate) struct Stream {
    sink: Arc<Mutex<dyn Write + Send>>,
    terminal: bool,
    color: bool,
    wide: bool,
    fixed_width: Option<usize>,
}

impl Out {
    /// The streams of this process.
    pub(crate) fn new(settings: &Settings) -> Self {
        let stdout = Stream {
            color: wants_color(settings.color, &anstream::AutoStream::choice(&io::stdout())),
            terminal: io::stdout().is_terminal(),
            sink: Arc::new(Mutex::new(io::stdout())),
            wide: false,
            fixed_width: None,
        };
        let stderr = Stream {
            color: wants_color(settings.color, &anstream::AutoStream::choice(&io::stderr())),
            terminal: io::stderr().is_terminal(),
            sink: Arc::new(Mutex::new(io::stderr())),
            wide: false,
            fixed_width: None,
        };
        Self::over(settings, stdout, stderr)
    }

    /// Output on streams made elsewhere.
    fn over(settings: &Settings, stdout: Stream, stderr: Stream) -> Self {
        let (format, encoding) = shape(settings.output, !settings.fields.is_empty());
        let wide = settings.output == OutputFormat::Wide;
        Self {
            format,
            progress: settings.progress,
            verbosity: settings.verbosity,
            asking: settings.asking,
            times: Times::new(settings.time),
            encoder: Encoder::new(encoding, settings.fields.clone()),
            pager: settings.pager,
            json_errors: settings.json_errors(),
            stdout: if wide { stdout.wide() } else { stdout },
            stderr,
        }
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

    /// A reference or a name, alone on its line whatever is in it.
    pub(crate) fn name(&self, name: &str) -> Outcome<()> {
        self.line(&safe::one_line(name, LONGEST_NAME))
    }

    /// One value as JSON, indented on a terminal, on one line otherwise and in `jsonl`; or as YAML; or as a table of
    /// the fields that were asked for; or an item of a list that was begun.
    pub(crate) fn json<T: Serialize + JsonSchema>(&self, value: &T) -> Outcome<()> {
        if self.encoder.is_list() {
            return self.event(value);
        }
        let pretty = self.stdout.terminal && self.format == Format::Json;
        self.data(&self.encoder.value(value, pretty, &self.stdout)?)
    }

    /// One of many values that come as things happen.
    pub(crate) fn event<T: Serialize + JsonSchema>(&self, value: &T) -> Outcome<()> {
        self.data(&self.encoder.event(value, &self.stdout)?)
    }

    /// The same output for a command that prints several values and then ends: as `json` and `yaml` they are the items
    /// of one list, which [`Out::end_list`] ends.
    pub(crate) fn listing(&self) -> Self {
        if self.format != Format::Json {
            return self.clone();
        }
        Self { encoder: self.encoder.listing(), ..self.clone() }
    }

    /// Ends the list of [`Out::listing`]: what was printed until then is one value. A command that failed before its
    /// first value (`whole` is false) prints none.
    pub(crate) fn end_list(&self, whole: bool) -> Outcome<()> {
        let end = self.encoder.end(whole);
        if end.is_empty() { Ok(()) } else { self.data(end) }
    }

    /// How values are written on stdout.
    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// A list: one array as `json`, one value a line as `jsonl`.
    pub(crate) fn json_list<T: Serialize + JsonSchema>(&self, values: &[T]) -> Outcome<()> {
        if self.format == Format::Jsonl {
            values.iter().try_for_each(|value| self.json(value))
        } else {
            self.json(&values)
        }
    }

    /// The same output for a list: as rows of a spreadsheet it has these columns, unless others were chosen.
    pub(crate) fn with_columns(&self, columns: &[&str]) -> Self {
        Self { encoder: self.encoder.with_columns(columns), ..self.clone() }
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

    /// That nothing comes for now, for a person who would wonder.
    pub(crate) fn waits(&self, text: &str) {
        if self.stderr.is_terminal() {
            self.hint(text);
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
            if self.json_errors { format!("{}\n", failure.json()) } else { failure.text(self.verbosity > 0) };
        let _ = self.stderr.write(text.as_bytes());
    }

    /// Whether a pager may stand between stdout and whoever reads it.
    pub(crate) fn pages(&self) -> bool {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        self.pager && self.stdout.terminal && !dumb
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

    /// Whether tables on it have every column, and nothing cut.
    pub(crate) fn is_wide(&self) -> bool {
        self.wide
    }

    /// The same stream for wide tables.
    pub(crate) fn wide(self) -> Self {
        Self { wide: true, ..self }
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

/// What commands hand over, and how it is written. Chosen fields are fields of the JSON, in a table too.
fn shape(output: OutputFormat, fields: bool) -> (Format, Encoding) {
    match output {
        OutputFormat::Table | OutputFormat::Wide if fields => (Format::Json, Encoding::Table),
        OutputFormat::Table | OutputFormat::Wide => (Format::Table, Encoding::Table),
        OutputFormat::Json => (Format::Json, Encoding::Json),
        OutputFormat::Jsonl => (Format::Jsonl, Encoding::Json),
        OutputFormat::Yaml => (Format::Json, Encoding::Yaml),
        OutputFormat::Csv => (Format::Json, Encoding::Csv),
        OutputFormat::Name => (Format::Name, Encoding::Json),
        OutputFormat::None => (Format::None, Encoding::Json),
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

    /// How the streams of a test look.
    #[derive(Debug, Clone, Copy, Default)]
    pub(crate) struct Look {
        /// Columns; `None`: nobody says.
        pub(crate) width: Option<usize>,
        /// Whether they are terminals.
        pub(crate) terminal: bool,
        /// Whether they take colour.
        pub(crate) color: bool,
    }

    /// An `Out` without terminal and colour, with what it writes to stdout and stderr.
    pub(crate) fn out(format: Format, width: Option<usize>) -> (Out, Seen, Seen) {
        let output = match format {
            Format::Table => OutputFormat::Table,
            Format::Json => OutputFormat::Json,
            Format::Jsonl => OutputFormat::Jsonl,
            Format::Name => OutputFormat::Name,
            Format::None => OutputFormat::None,
        };
        let settings = Settings { output, ..Settings::default() };
        with(&settings, Look { width, ..Look::default() })
    }

    /// An `Out` by settings, with what it writes to stdout and stderr.
    pub(crate) fn with(settings: &Settings, look: Look) -> (Out, Seen, Seen) {
        let stream = |seen: &Seen| Stream {
            sink: Arc::new(Mutex::new(seen.clone())),
            terminal: look.terminal,
            color: look.color,
            wide: false,
            fixed_width: look.width,
        };
        let (stdout, stderr) = (Seen::default(), Seen::default());
        (Out::over(settings, stream(&stdout), stream(&stderr)), stdout, stderr)
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
    fn values_that_come_one_by_one_are_one_list_where_one_value_was_asked_for() {
        let written = |output: OutputFormat, values: &[i32], whole: bool| {
            let settings = Settings { output, ..Settings::default() };
            let (out, stdout, _) = testing::with(&settings, testing::Look::default());
            let list = out.listing();
            values.iter().for_each(|value| list.event(value).unwrap());
            list.end_list(whole).unwrap();
            stdout.text()
        };
        assert_eq!(written(OutputFormat::Json, &[1, 2], true), "[\n1,\n2\n]\n");
        assert_eq!(written(OutputFormat::Json, &[1], false), "[\n1\n]\n");
        assert_eq!(written(OutputFormat::Json, &[], true), "[]\n");
        assert_eq!(written(OutputFormat::Json, &[], false), "");
        assert_eq!(written(OutputFormat::Yaml, &[1, 2], true), "- 1\n- 2\n");
        assert_eq!(written(OutputFormat::Jsonl, &[1, 2], true), "1\n2\n");
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
