//! Takes the values of known keys out of front matter, with errors that name key and place.
//!
//! Knows shapes (text, list, map) and simple values (numbers, durations, money, choices). Which keys a file
//! has is [`super::source`]'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::error::{PromptError, PromptErrorKind, Spot};
use super::front_matter::{self, Text, Value};
use super::names;

/// Largest prompt file, in bytes. A system prompt far below this already crowds out the task.
pub(super) const MAX_FILE_BYTES: usize = 256 * 1024;

/// Longest label of a capability or its value, in bytes.
const MAX_LABEL_BYTES: usize = 63;

/// The front matter of one file whose keys are all known, and the prompt below it.
pub(super) struct Fields {
    file: String,
    entries: BTreeMap<&'static str, Value>,
    /// Everything after the front matter, and the line where that begins.
    pub(super) body: String,
    pub(super) body_line: u32,
}

impl Fields {
    /// Reads `text`, which may have a byte order mark and CRLF line ends.
    pub(super) fn read(file: &str, text: &str, known: &'static [&'static str]) -> Result<Self, PromptError> {
        let fail = |at, kind| PromptError { file: file.to_owned(), at, kind };
        let text = normalised(text).map_err(|(at, kind)| fail(at, kind))?;
        let document = front_matter::read(&text).map_err(|(at, error)| fail(at, error.into()))?;
        let mut entries = BTreeMap::new();
        for (key, value) in document.entries {
            let Some(name) = known.iter().find(|name| **name == key.value) else {
                let nearest = names::nearest(&key.value, known.iter().copied()).map(str::to_owned);
                return Err(fail(key.at, PromptErrorKind::UnknownKey { key: key.value, nearest, known }));
            };
            entries.insert(*name, value);
        }
        let body = document.body;
        if body.trim().is_empty() {
            return Err(fail(Spot { line: document.body_line, column: 1 }, PromptErrorKind::EmptyBody));
        }
        Ok(Self { file: file.to_owned(), entries, body, body_line: document.body_line })
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn fail(&self, at: Spot, kind: PromptErrorKind) -> PromptError {
        PromptError { file: self.file.clone(), at, kind }
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<Text>, PromptError> {
        match self.entries.remove(key) {
            None => Ok(None),
            Some(Value::Scalar(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_shape(key, "text", &other)),
        }
    }

    pub(super) fn required_text(&mut self, key: &'static str) -> Result<Text, PromptError> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    /// A list of at most `limit` items without repetition.
    pub(super) fn list(&mut self, key: &'static str, limit: usize) -> Result<Option<Vec<Text>>, PromptError> {
        let items = match self.entries.remove(key) {
            None => return Ok(None),
            Some(Value::List(items)) => items,
            Some(other) => return Err(self.wrong_shape(key, "a list", &other)),
        };
        if let Some(first_too_many) = items.get(limit) {
            return Err(
                self.fail(first_too_many.at, PromptErrorKind::TooMany { key, count: items.len(), limit })
            );
        }
        let mut seen = BTreeSet::new();
        for item in &items {
            if !seen.insert(item.value.as_str()) {
                return Err(self.fail(item.at, PromptErrorKind::Repeated { key, value: item.value.clone() }));
            }
        }
        Ok(Some(items))
    }

    /// One text, or a list of at most `limit` without repetition; empty when there is none.
    pub(super) fn text_or_list(&mut self, key: &'static str, limit: usize) -> Result<Vec<Text>, PromptError> {
        match self.entries.get(key) {
            Some(Value::Scalar(_)) => Ok(self.text(key)?.into_iter().collect()),
            _ => Ok(self.list(key, limit)?.unwrap_or_default()),
        }
    }

    /// Capability labels: `key: value` pairs of at most `limit`.
    pub(super) fn labels(
        &mut self,
        key: &'static str,
        limit: usize,
    ) -> Result<BTreeMap<String, String>, PromptError> {
        let pairs = match self.entries.remove(key) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Map(pairs)) => pairs,
            Some(other) => return Err(self.wrong_shape(key, "a map", &other)),
        };
        if let Some((first_too_many, _)) = pairs.get(limit) {
            return Err(
                self.fail(first_too_many.at, PromptErrorKind::TooMany { key, count: pairs.len(), limit })
            );
        }
        let mut labels = BTreeMap::new();
        for (name, value) in pairs {
            for part in [&name, &value] {
                if !is_label(&part.value) {
                    return Err(self.bad(
                        key,
                        part,
                        "1 to 63 letters, digits and `._/-`, beginning with a letter or digit",
                        None,
                    ));
                }
            }
            labels.insert(name.value, value.value);
        }
        Ok(labels)
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<u32>, PromptError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match digits(&text.value).filter(|number| (1..=u64::from(MAX_NUMBER)).contains(number)) {
            Some(number) => Ok(u32::try_from(number).ok()),
            None => Err(self.bad(key, &text, "a whole number from 1 to 10000", None)),
        }
    }

    /// US dollars with at most six decimals, in millionths.
    pub(super) fn micro_usd(&mut self, key: &'static str) -> Result<Option<u64>, PromptError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match micro_usd(&text.value).filter(|micro| (1..=MAX_MICRO_USD).contains(micro)) {
            Some(micro) => Ok(Some(micro)),
            None => Err(self.bad(
                key,
                &text,
                "dollars above 0 and up to 10000, such as 2.50, with no currency sign",
                None,
            )),
        }
    }

    /// Seconds, or a duration with units, in milliseconds.
    pub(super) fn milliseconds(&mut self, key: &'static str) -> Result<Option<u64>, PromptError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let duration = match digits(&text.value) {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => humantime::parse_duration(&text.value).ok(),
        };
        match duration.filter(|duration| (MIN_TIMEOUT..=MAX_TIMEOUT).contains(duration)) {
            Some(duration) => Ok(u64::try_from(duration.as_millis()).ok()),
            None => Err(self.bad(
                key,
                &text,
                "seconds or a duration such as 90s, 10m or 1h 30m, from 1s to 7days",
                None,
            )),
        }
    }

    /// One of `choices`, each with its word.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        choices: &[(T, &'static str)],
    ) -> Result<Option<T>, PromptError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match choices.iter().find(|(_, word)| *word == text.value) {
            Some((choice, _)) => Ok(Some(*choice)),
            None => {
                let nearest = names::nearest(&text.value, choices.iter().map(|(_, word)| *word));
                Err(self.bad(key, &text, expected, nearest))
            }
        }
    }

    pub(super) fn bad(
        &self,
        key: &'static str,
        text: &Text,
        expected: &'static str,
        nearest: Option<&str>,
    ) -> PromptError {
        let value = abridged(&text.value);
        let nearest = nearest.map(str::to_owned);
        self.fail(text.at, PromptErrorKind::BadValue { key, value, expected, nearest })
    }

    pub(super) fn missing(&self, key: &'static str) -> PromptError {
        self.fail(Spot { line: 1, column: 1 }, PromptErrorKind::MissingKey { key })
    }

    fn wrong_shape(&self, key: &'static str, expected: &'static str, found: &Value) -> PromptError {
        let (found, at) = match found {
            Value::Scalar(text) => ("text", Some(text.at)),
            Value::List(items) => ("a list", items.first().map(|item| item.at)),
            Value::Map(pairs) => ("a map", pairs.first().map(|(name, _)| name.at)),
        };
        let at = at.unwrap_or(Spot { line: 1, column: 1 });
        self.fail(at, PromptErrorKind::WrongShape { key, expected, found })
    }
}

/// Most turns a file may ask for. Beyond this a conversation is lost anyway.
const MAX_NUMBER: u32 = 10_000;
const MAX_MICRO_USD: u64 = 10_000 * 1_000_000;
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// `text` without byte order mark and with LF line ends; refuses what no prompt should carry to a terminal
/// or a command line.
pub(super) fn normalised(text: &str) -> Result<String, (Spot, PromptErrorKind)> {
    if text.len() > MAX_FILE_BYTES {
        let kind = PromptErrorKind::TooLong { what: "the file", bytes: text.len(), limit: MAX_FILE_BYTES };
        return Err((Spot { line: 1, column: 1 }, kind));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    match text.char_indices().find(|(_, c)| c.is_control() && *c != '\n' && *c != '\t') {
        None => Ok(text),
        Some((offset, found)) => {
            Err((spot_of(&text, offset, 1), PromptErrorKind::ControlCharacter { code: u32::from(found) }))
        }
    }
}

/// The place of byte `offset` in `text`, whose first line has number `first_line`.
pub(super) fn spot_of(text: &str, offset: usize, first_line: u32) -> Spot {
    let before = text.get(..offset).unwrap_or(text);
    let (lines, last) = match before.rsplit_once('\n') {
        None => (0, before),
        Some((above, last)) => (above.matches('\n').count() + 1, last),
    };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Spot {
        line: first_line.saturating_add(count(lines)),
        column: count(last.chars().count()).saturating_add(1),
    }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn micro_usd(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if decimals.len() > 6 {
        return None;
    }
    digits(whole)?.checked_mul(1_000_000)?.checked_add(digits(&format!("{decimals:0<6}"))?)
}

fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL_BYTES
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-'))
}

/// The beginning of a value that may be far too long for a message.
fn abridged(value: &str) -> String {
    const SHOWN: usize = 80;
    match value.char_indices().nth(SHOWN) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[&str] = &["name", "list", "map", "count", "money", "time"];

    fn fields(head: &str) -> Fields {
        Fields::read("f.md", &format!("---\n{head}\n---\nbody\n"), KEYS).unwrap()
    }

    fn kind<T: std::fmt::Debug>(result: Result<T, PromptError>) -> PromptErrorKind {
        result.unwrap_err().kind
    }

    #[test]
    fn money_is_exact_and_bounded() {
        for (text, micro) in
            [("2", 2_000_000), ("2.50", 2_500_000), ("0.000001", 1), ("10000", MAX_MICRO_USD)]
        {
            assert_eq!(fields(&format!("money: {text}")).micro_usd("money").unwrap(), Some(micro), "{text}");
        }
        for text in [
            "0",
            "0.0",
            "-1",
            "1e3",
            "$2",
            "2,50",
            ".5.",
            "1.0000001",
            "10000.01",
            "nan",
            "99999999999999999999",
        ] {
            let error = kind(fields(&format!("money: '{text}'")).micro_usd("money"));
            assert!(matches!(error, PromptErrorKind::BadValue { .. }), "{text}");
        }
    }

    #[test]
    fn a_timeout_is_seconds_or_a_duration() {
        for (text, ms) in [("90", 90_000), ("10m", 600_000), ("1h 30m", 5_400_000), ("7days", 604_800_000)] {
            assert_eq!(fields(&format!("time: {text}")).milliseconds("time").unwrap(), Some(ms), "{text}");
        }
        for text in ["0", "10ms", "8days", "soon", "-5", "1h x", "99999999999999999999"] {
            let error = kind(fields(&format!("time: '{text}'")).milliseconds("time"));
            assert!(matches!(error, PromptErrorKind::BadValue { .. }), "{text}");
        }
    }

    #[test]
    fn numbers_are_whole_and_positive() {
        assert_eq!(fields("count: 40").number("count").unwrap(), Some(40));
        for text in ["0", "10001", "-1", "abc", "1.5", ""] {
            let error = kind(fields(&format!("count: '{text}'")).number("count"));
            assert!(matches!(error, PromptErrorKind::BadValue { .. }), "{text}");
        }
    }

    #[test]
    fn shapes_are_checked_and_the_message_says_what_was_found() {
        let error = fields("list: Read, Grep").list("list", 9).unwrap_err();
        assert_eq!(error.to_string(), "f.md:2:7: `list` must be a list, not text");
        assert_eq!(error.hint().unwrap(), "write `[one, two]`, or one `- item` a line");
        assert_eq!(
            kind(fields("name: [a]").text("name")),
            PromptErrorKind::WrongShape { key: "name", expected: "text", found: "a list" }
        );
        assert!(matches!(kind(fields("map: x").labels("map", 9)), PromptErrorKind::WrongShape { .. }));
    }

    #[test]
    fn lists_are_bounded_and_free_of_repetition() {
        assert_eq!(
            kind(fields("list: [a, b, a]").list("list", 9)),
            PromptErrorKind::Repeated { key: "list", value: "a".into() }
        );
        assert_eq!(
            kind(fields("list: [a, b, c]").list("list", 2)),
            PromptErrorKind::TooMany { key: "list", count: 3, limit: 2 }
        );
    }

    #[test]
    fn labels_are_short_words() {
        let labels = fields("map:\n  gpu: yes\n  zone: eu-west.1").labels("map", 9).unwrap();
        assert_eq!(
            labels,
            BTreeMap::from([("gpu".into(), "yes".into()), ("zone".into(), "eu-west.1".into())])
        );
        let long = format!("map:\n  a: {}", "x".repeat(MAX_LABEL_BYTES + 1));
        for bad in ["map:\n  a: 'b c'", "map:\n  a: -b", "map:\n  a: ''", "map:\n  a: é", &long] {
            assert!(matches!(kind(fields(bad).labels("map", 9)), PromptErrorKind::BadValue { .. }), "{bad}");
        }
        let pairs = "map:\n  a: b\n  c: d";
        assert!(matches!(kind(fields(pairs).labels("map", 1)), PromptErrorKind::TooMany { count: 2, .. }));
    }

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        let error = Fields::read("f.md", "---\nname: a\nmoeny: 2\n---\nx", KEYS).err().unwrap();
        assert_eq!(error.to_string(), "f.md:3:1: unknown key `moeny`");
        assert_eq!(error.hint().unwrap(), "did you mean `money`?");
        let error = Fields::read("f.md", "---\nqqqqqqq: 2\n---\nx", KEYS).err().unwrap();
        assert!(error.hint().unwrap().starts_with("known keys: name, "));
    }

    #[test]
    fn control_characters_and_huge_files_are_refused_and_line_ends_are_not() {
        assert_eq!(normalised("\u{feff}a\r\nb\tc").unwrap(), "a\nb\tc");
        for (text, at) in [("a\0", (1, 2)), ("a\né\u{1b}[31m", (2, 2)), ("a\rb", (1, 2)), ("\u{9b}", (1, 1))]
        {
            let (spot, kind) = normalised(text).unwrap_err();
            assert_eq!((spot.line, spot.column), at, "{text:?}");
            assert!(matches!(kind, PromptErrorKind::ControlCharacter { .. }));
        }
        assert!(matches!(
            normalised(&"x".repeat(MAX_FILE_BYTES + 1)),
            Err((_, PromptErrorKind::TooLong { .. }))
        ));
    }

    #[test]
    fn a_file_without_a_prompt_is_refused() {
        let error = Fields::read("f.md", "---\nname: a\n---\n \n", KEYS).err().unwrap();
        assert_eq!((error.at.line, error.kind), (4, PromptErrorKind::EmptyBody));
    }

    #[test]
    fn long_values_are_abridged_in_messages() {
        assert_eq!(abridged(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
    }
}
