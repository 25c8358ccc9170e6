//! Rosters: rows of CSV, JSON or text become rows of a workflow's roster parameter. Knows files and places; every mistake
//! has a line. Refuses to know what a row is for.

use std::collections::BTreeMap;
use std::path::Path;

use orch_proto::codes::ErrorCode;
use orch_proto::slug::{is_slug, slug};
use serde_json::{Map, Value};

use crate::commands::submit::{read_file, stdin};
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::plural;
use crate::output::safe::one_line;

mod csv;

/// Largest roster, from the coordinator's limit on parameters.
const MAX_BYTES: u64 = 32 << 20;
/// Longest name told.
const TOLD: usize = 80;

/// The column that every roster has.
const NAME: &str = "name";
/// The column that may say how a name stands in task and file names.
const SLUG: &str = "slug";

/// The rows of a roster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster {
    pub(crate) rows: Vec<Row>,
    /// Rows of blanks that were passed over.
    pub(crate) skipped: usize,
    /// How messages name the file.
    pub(crate) file: String,
}

/// A row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) name: String,
    /// Of the name, or the row's own.
    pub(crate) slug: String,
    /// All of its fields, the name among them.
    pub(crate) fields: Map<String, Value>,
}

/// Something wrong at a place.
#[derive(Debug)]
struct Wrong {
    line: usize,
    column: usize,
    message: String,
    help: String,
}

impl Wrong {
    fn at(line: usize, column: usize, message: impl Into<String>) -> Self {
        Self { line, column, message: message.into(), help: String::new() }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Csv,
    Json,
    Lines,
}

/// Reads a roster; `-` is stdin.
///
/// # Errors
/// The first thing that is wrong, with file, line and column.
pub(crate) fn read(path: &Path) -> Outcome<Roster> {
    let (file, bytes) = if path.as_os_str() == "-" {
        ("<stdin>".to_owned(), stdin("a roster", MAX_BYTES)?)
    } else {
        (path.display().to_string(), read_file(path, MAX_BYTES)?)
    };
    parse(&file, path.extension().and_then(|extension| extension.to_str()), &bytes)
}

/// Reads the bytes of a roster.
fn parse(file: &str, extension: Option<&str>, bytes: &[u8]) -> Outcome<Roster> {
    let failed = |wrong: Wrong| {
        let message = format!("{file}:{}:{}: {}", wrong.line, wrong.column, wrong.message);
        let failure = Failure::coded(ErrorCode::InvalidField, message);
        if wrong.help.is_empty() { failure } else { failure.help(wrong.help) }
    };
    let text = text(bytes).map_err(failed)?;
    let form = match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("csv" | "tsv") => Form::Csv,
        Some("json") => Form::Json,
        Some("txt") => Form::Lines,
        Some(_) | None => form_of(text),
    };
    let (found, skipped) = match form {
        Form::Csv => csv::rows(text),
        Form::Json => objects(text),
        Form::Lines => Ok(lines(text)),
    }
    .map_err(failed)?;
    let rows = named(found).map_err(failed)?;
    if rows.is_empty() {
        return Err(failed(Wrong::at(1, 1, "the roster has no rows")));
    }
    Ok(Roster { rows, skipped, file: file.to_owned() })
}

/// The text, without a byte order mark.
fn text(bytes: &[u8]) -> Result<&str, Wrong> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Wrong::at(1, 1, "the file is UTF-16").help("save it as UTF-8"));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = valid.matches('\n').count() + 1;
        let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Wrong::at(line, column, "this is not UTF-8").help("save the file as UTF-8")
    })
}

/// What a text without a telling name holds.
fn form_of(text: &str) -> Form {
    let first = text.trim_start().lines().next().unwrap_or_default();
    if first.starts_with(['[', '{']) {
        Form::Json
    } else if first.contains([',', ';', '\t']) || first.trim() == NAME {
        Form::Csv
    } else {
        Form::Lines
    }
}

/// Rows as they were found, with line and column.
type Found = Vec<(usize, usize, Map<String, Value>)>;

/// One name a line.
fn lines(text: &str) -> (Found, usize) {
    let mut rows = Found::new();
    let mut skipped = 0;
    for (index, line) in text.lines().enumerate() {
        let name = line.trim();
        if name.is_empty() {
            skipped += 1;
        } else {
            rows.push((index + 1, 1, only(name)));
        }
    }
    (rows, skipped)
}

fn only(name: &str) -> Map<String, Value> {
    std::iter::once((NAME.to_owned(), Value::from(name))).collect()
}

/// A list of names or objects.
fn objects(text: &str) -> Result<(Found, usize), Wrong> {
    let items = crate::runfile::workflow::items(text)
        .map_err(|(line, column, message)| Wrong::at(line, column, message))?
        .ok_or_else(|| Wrong::at(1, 1, "a roster in JSON is a list of names, or of objects with a `name`"))?;
    let mut rows = Found::new();
    let mut skipped = 0;
    for (line, column, item) in items {
        let fields = match item {
            Value::Object(fields) => fields,
            Value::String(name) => only(name.trim()),
            Value::Number(number) => only(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) => {
                let message = "an item is neither a name nor an object with a `name`";
                return Err(Wrong::at(line, column, message));
            }
        };
        if let Some((field, _)) = fields.iter().find(|(_, value)| value.is_array() || value.is_object()) {
            let message =
                format!("`{}` is a list or an object; a row holds texts and numbers", one_line(field, TOLD));
            return Err(Wrong::at(line, column, message));
        }
        if fields.values().all(is_blank) {
            skipped += 1;
        } else {
            rows.push((line, column, fields));
        }
    }
    Ok((rows, skipped))
}

/// Whether a field holds nothing.
pub(crate) fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// A field as text.
pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

/// The rows with their names: each has one, and no two stand for the same file or task.
fn named(found: Found) -> Result<Vec<Row>, Wrong> {
    let mut rows = Vec::with_capacity(found.len());
    let mut seen: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (line, column, fields) in found {
        let field = |name: &str| fields.get(name).map(as_text).unwrap_or_default();
        let name = field(NAME);
        if name.is_empty() {
            let near = fields.keys().find(|key| key.trim().eq_ignore_ascii_case(NAME) && *key != NAME);
            let wrong = Wrong::at(line, column, "a row without a `name`");
            return Err(match near {
                Some(near) => {
                    wrong.help(format!("it is called {:?} here: call it name", one_line(near, TOLD)))
                }
                None => wrong,
            });
        }
        let told = one_line(&name, TOLD);
        if name.chars().any(char::is_control) {
            return Err(Wrong::at(line, column, format!("the name {told:?} has control characters")));
        }
        let own = field(SLUG);
        if !own.is_empty() && !is_slug(&own) {
            let rule = "lower-case letters, digits and -, at most 40";
            return Err(Wrong::at(
                line,
                column,
                format!("the slug {:?} is not of {rule}", one_line(&own, TOLD)),
            ));
        }
        let slug = if own.is_empty() { slug(&name) } else { own };
        if let Some((earlier, before)) = seen.insert(slug.clone(), (line, told.clone())) {
            let message = if before == told {
                format!("{told} stands in line {earlier} already")
            } else {
                format!("{told} and {before} in line {earlier} would both be `{slug}`")
            };
            return Err(Wrong::at(line, column, message)
                .help("take one away, or give each a `slug` of its own: which file would be whose?"));
        }
        rows.push(Row { line, name, slug, fields });
    }
    Ok(rows)
}

impl Roster {
    /// The rows as a roster parameter takes them: names alone where there is nothing else.
    pub(crate) fn value(&self) -> Value {
        let row = |row: &Row| {
            if row.fields.len() == 1 {
                Value::from(row.name.as_str())
            } else {
                Value::Object(row.fields.clone())
            }
        };
        self.rows.iter().map(row).collect()
    }

    /// Says what was passed over.
    pub(crate) fn tell(&self, out: &Out) {
        if self.skipped > 0 {
            let rows = plural(self.skipped as u64, "empty row");
            out.hint(&format!("  {rows} of {} passed over", one_line(&self.file, TOLD)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(file: &str, bytes: impl AsRef<[u8]>) -> Vec<String> {
        let extension = file.rsplit_once('.').map(|(_, extension)| extension);
        let roster = parse(file, extension, bytes.as_ref())
            .unwrap_or_else(|failure| panic!("{}", failure.text(false)));
        roster.rows.into_iter().map(|row| row.name).collect()
    }

    fn refused(file: &str, bytes: impl AsRef<[u8]>) -> String {
        let extension = file.rsplit_once('.').map(|(_, extension)| extension);
        parse(file, extension, bytes.as_ref()).unwrap_err().text(false)
    }

    #[test]
    fn every_form_of_a_roster_is_read() {
        let both = ["Emma Rodriguez", "Zoé O'Neil"];
        assert_eq!(
            names("a.csv", "\u{feff}name,level\r\nEmma Rodriguez,beginner\r\n\r\n,\r\n\"Zoé O'Neil\",\r\n"),
            both
        );
        assert_eq!(names("a.csv", "level;name\nx;Emma Rodriguez\ny;Zoé O'Neil"), both);
        assert_eq!(names("a.txt", "Emma Rodriguez\r\n\n  Zoé O'Neil  \n"), both);
        assert_eq!(
            names("a.json", r#"["Emma Rodriguez", {"name": "Zoé O'Neil", "age": 9}, "", {"name":null}]"#),
            both
        );
        for text in [
            "name\nEmma Rodriguez\nZoé O'Neil",
            "Emma Rodriguez\nZoé O'Neil",
            "[\"Emma Rodriguez\",\"Zoé O'Neil\"]",
        ] {
            assert_eq!(names("<stdin>", text), both, "{text}");
        }
        let roster = parse("a.csv", Some("csv"), b"name,age\nEmma,9\n,\n").unwrap();
        assert_eq!((roster.skipped, roster.rows[0].line), (1, 2));
        assert_eq!(roster.value(), serde_json::json!([{"name": "Emma", "age": "9"}]));
    }

    #[test]
    fn what_is_wrong_with_a_roster_is_told_with_its_place() {
        for (file, bytes, wanted) in [
            ("a.csv", "name,level\nEmma\n", "a.csv:2:1: the row has 1 field where the header has 2"),
            ("a.csv", "name,level\nEmma,x\nSophia,y,z\n", "a.csv:3:1: the row has 3 fields"),
            ("a.csv", "Emma,x\n", "a.csv:1:1: the first row has no column `name`"),
            ("a.csv", "Name,x\nEmma,y\n", "called \"Name\" here"),
            ("a.csv", "name,name\na,b\n", "a.csv:1:6: the column `name` is there twice"),
            ("a.csv", "name\nEmma\nSophia\nEmma\n", "a.csv:4:1: Emma stands in line 2 already"),
            ("a.csv", "name\nZoé\nZoe\n", "a.csv:3:1: Zoe and Zoé in line 2 would both be `zoe`"),
            ("a.csv", "name,level\n\"Emma,x\nSophia,y\n", "a.csv:2:1: a quote that is never closed"),
            (
                "a.csv",
                "name,x\r\nEmma,\"two\r\nlines\"\r\n\r\nemma,\r\n",
                "a.csv:5:1: emma and Emma in line 2",
            ),
            ("a.csv", "name,level\n,x\n", "a.csv:2:1: a row without a `name`"),
            ("a.csv", "name,slug\nEmma,../x\n", "a.csv:2:1: the slug"),
            ("a.csv", "", "a.csv:1:1"),
            ("a.csv", "name\n\n", "a.csv:1:1: the roster has no rows"),
            ("a.json", "{}", "a.json:1:1: a roster in JSON is a list"),
            ("a.json", "[\n  3, [],\n]", "a.json:2:8"),
            ("a.json", "[\n  \"a\",\n  [1]\n]", "a.json:3:3: an item is neither"),
            ("a.json", "[{\"name\":\"a\",\"b\":{}}]", "a.json:1:2: `b` is a list or an object"),
            ("a.json", "[{\"nom\":\"a\"}]", "a.json:1:2: a row without a `name`"),
            ("a.txt", "a\u{1b}[2J", "control characters"),
        ] {
            let told = refused(file, bytes);
            assert!(told.contains(wanted), "{bytes:?}: {told}");
            assert!(!told.contains('\u{1b}'), "{told:?}");
        }
        assert!(refused("a.csv", b"name\nEm\xffma\n").contains("a.csv:2:3: this is not UTF-8"));
        assert!(refused("a.csv", b"\xff\xfen\0").contains("UTF-16"));
    }
}
