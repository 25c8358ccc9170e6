//! A JSON reader that keeps the place of every key and value. `serde_json` reports the place of syntax errors only; an
//! error about a value ("no task has this id") needs the place of the value. Strings and numbers are still decoded by
//! `serde_json`; here are only the brackets, the places, and a limit on nesting. Knows RFC 8259, no field.

use std::ops::Range;

use orch_proto::codes::ErrorCode;

use super::diagnostic::Diagnostic;

/// Deepest nesting taken; the reader recurses, and nothing people write comes near.
const MAX_DEPTH: usize = 128;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Spanned {
    /// Bytes of the source, quotes and brackets included.
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

/// A value. Numbers stay text: what they may be depends on the field.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool,
    Number,
    Text(String),
    List(Vec<Spanned>),
    Object(Vec<(Key, Spanned)>),
}

/// The name of a member.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) span: Range<usize>,
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// Reads a whole document.
pub(super) fn read(text: &str) -> Result<Spanned, Diagnostic> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    if text.starts_with('\u{feff}') {
        return Err(malformed(0..3, "the file starts with a byte order mark; save it without"));
    }
    let value = reader.value()?;
    reader.space();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.unexpected("the end of the file")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Spanned, Diagnostic> {
        self.space();
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.nested(Self::object)?,
            Some(b'[') => self.nested(Self::list)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal("true", Value::Bool)?,
            Some(b'f') => self.literal("false", Value::Bool)?,
            Some(b'n') => self.literal("null", Value::Null)?,
            Some(_) | None => return Err(self.unexpected("a value")),
        };
        Ok(Spanned { span: start..self.at, value })
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, Diagnostic>) -> Result<Value, Diagnostic> {
        if self.depth == MAX_DEPTH {
            return Err(malformed(self.at..self.at + 1, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, Diagnostic> {
        let mut members: Vec<(Key, Spanned)> = Vec::new();
        self.space();
        if self.closes(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a name in double quotes"));
            }
            let name = self.string()?;
            let key = Key { name, span: start..self.at };
            self.space();
            if !self.closes(b':') {
                return Err(self.unexpected("a colon"));
            }
            let value = self.value()?;
            members.push((key, value));
            self.space();
            if self.closes(b'}') {
                return Ok(Value::Object(members));
            }
            self.comma("a comma or }")?;
        }
    }

    fn list(&mut self) -> Result<Value, Diagnostic> {
        let mut items = Vec::new();
        self.space();
        if self.closes(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            if self.closes(b']') {
                return Ok(Value::List(items));
            }
            self.comma("a comma or ]")?;
        }
    }

    fn closes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    /// A comma, and something after it.
    fn comma(&mut self, expected: &str) -> Result<(), Diagnostic> {
        let comma = self.at;
        if !self.closes(b',') {
            return Err(self.unexpected(expected));
        }
        self.space();
        if matches!(self.peek(), Some(b'}' | b']')) {
            return Err(malformed(comma..comma + 1, "a comma with nothing after it"));
        }
        Ok(())
    }

    fn string(&mut self) -> Result<String, Diagnostic> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                // What follows a backslash never ends the string; whether it is a known escape is decided below.
                Some(b'\\') => self.at += 2,
                Some(0..0x20) => {
                    let message = "a line break or control character inside a string; write \\n or \\u00..";
                    return Err(malformed(self.at..self.at + 1, message));
                }
                Some(_) => self.at += 1,
                None => return Err(malformed(start..start + 1, "a string without its closing quote")),
            }
        }
        self.at += 1;
        serde_json::from_str(&self.text[start..self.at])
            .map_err(|_| malformed(start..self.at, "a string with an escape that does not exist"))
    }

    fn number(&mut self) -> Result<Value, Diagnostic> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        match serde_json::from_str::<serde_json::Number>(&self.text[start..self.at]) {
            Ok(_) => Ok(Value::Number),
            Err(_) => Err(malformed(start..self.at, "this is not a number")),
        }
    }

    fn literal(&mut self, word: &'static str, value: Value) -> Result<Value, Diagnostic> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn unexpected(&self, expected: &str) -> Diagnostic {
        let Some(found) = self.text[self.at..].chars().next() else {
            return malformed(self.at..self.at, &format!("the file ends where {expected} should be"));
        };
        let hint = match found {
            '/' | '#' => "; JSON has no comments",
            '\'' => "; JSON has double quotes only",
            _ => "",
        };
        let span = self.at..self.at + found.len_utf8();
        malformed(span, &format!("{found:?} where {expected} should be{hint}"))
    }
}

fn malformed(span: Range<usize>, message: &str) -> Diagnostic {
    Diagnostic::new(ErrorCode::MalformedJson, span, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_places() {
        let text = r#" {"a": [1, "x\u00e9"], "b": null} "#;
        let Value::Object(members) = read(text).unwrap().value else { panic!("not an object") };
        assert_eq!(&text[members[0].0.span.clone()], "\"a\"");
        assert_eq!(&text[members[0].1.span.clone()], r#"[1, "x\u00e9"]"#);
        let Value::List(items) = &members[0].1.value else { panic!("not a list") };
        assert!(matches!(&items[1].value, Value::Text(text) if text == "xé"));
        assert!(matches!(members[1].1.value, Value::Null));
    }

    #[test]
    fn whatever_serde_json_refuses_is_refused_too() {
        for text in [
            "",
            " ",
            "{",
            "[1,",
            "[1,]",
            "{\"a\":1,}",
            "{'a':1}",
            "{a:1}",
            "[1 2]",
            "01",
            "1.",
            "+1",
            "nul",
            "\"a",
            "\"\\x\"",
            "\"\n\"",
            "\"\\ud800\"",
            "[] []",
            "// c\n[]",
            "\u{feff}[]",
            "\"\\",
            "-",
            "[1e]",
        ] {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text:?}");
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read(&deep(MAX_DEPTH)).is_ok());
        assert!(read(&deep(MAX_DEPTH + 1)).unwrap_err().message.contains("deeper"));
        assert!(read(&deep(1_000_000)).is_err());
    }
}
