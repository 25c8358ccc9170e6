//! JSON with the place of every key and value: what an error about a value needs, and `serde_json` does not keep.
//! The reading is `jsonc-parser`'s, and what it takes beyond RFC 8259 is refused by `serde_json`; here are the values in a form
//! that can be kept. Knows no field.

use super::problem::{Problems, Source};
use jsonc_parser::ast::{ObjectPropName, Value};
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use orch_proto::codes::ErrorCode;
use std::ops::Range;

/// Deepest nesting taken: nothing people write comes near, and everything that walks a value recurses.
const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Bytes of the source, quotes and brackets included.
    pub(super) at: Range<usize>,
    pub(super) json: Json,
}

/// A value. Numbers stay text: what they may be depends on the field.
#[derive(Debug, Clone)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<Member>),
}

/// A member of an object, in the order of the file; names may repeat.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) name_at: Range<usize>,
    pub(super) value: Node,
}

impl Node {
    /// What it is, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self.json {
            Json::Null => "null",
            Json::Bool(_) => "true or false",
            Json::Number(_) => "a number",
            Json::Text(_) => "text",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// The member of that name, the last one if there are several; `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Json::Object(members) = &self.json else { return None };
        let member = members.iter().rev().find(|member| member.name == name)?;
        if matches!(member.value.json, Json::Null) { None } else { Some(&member.value) }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<&[Self]> {
        if let Json::List(items) = &self.json { Some(items) } else { None }
    }

    /// The text it is.
    pub(super) fn as_text(&self) -> Option<&str> {
        if let Json::Text(text) = &self.json { Some(text) } else { None }
    }

    /// The value without places; `text` is applied to every text that is a value, and a `None` of it is passed on.
    pub(super) fn value_with(
        &self,
        text: &mut impl FnMut(&Self, &str) -> Option<serde_json::Value>,
    ) -> Option<serde_json::Value> {
        Some(match &self.json {
            Json::Null => serde_json::Value::Null,
            Json::Bool(value) => (*value).into(),
            Json::Number(number) => serde_json::from_str(number).ok()?,
            Json::Text(written) => text(self, written)?,
            Json::List(items) => {
                items.iter().map(|item| item.value_with(text)).collect::<Option<Vec<_>>>()?.into()
            }
            Json::Object(members) => {
                let member = |member: &Member| Some((member.name.clone(), member.value.value_with(text)?));
                serde_json::Value::Object(members.iter().map(member).collect::<Option<_>>()?)
            }
        })
    }

    /// The value as it is written, without places.
    pub(super) fn value(&self) -> serde_json::Value {
        self.value_with(&mut |_, text| Some(text.into())).unwrap_or_default()
    }
}

/// Reads a whole document; what is wrong goes to `problems`.
pub(super) fn read(source: &Source, problems: &mut Problems) -> Option<Node> {
    let text = source.text.as_str();
    if text.starts_with('\u{feff}') {
        let message = "the file starts with a byte order mark";
        problems.add(source, ErrorCode::MalformedJson, 0..3, message).help("save it without");
        return None;
    }
    match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
        Ok(parsed) => match parsed.value {
            Some(_) if strict(source, problems).is_none() => None,
            Some(value) => node(source, value, 0, problems),
            None => {
                let message = "the file is empty where a value should be";
                problems.add(source, ErrorCode::MalformedJson, text.len()..text.len(), message);
                None
            }
        },
        Err(error) => {
            let message = error.kind().to_string().to_lowercase();
            let at = error.range();
            problems.add(source, ErrorCode::MalformedJson, at.start..at.end, message);
            None
        }
    }
}

/// RFC 8259 and nothing beyond it.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

fn node(source: &Source, value: Value<'_>, depth: usize, problems: &mut Problems) -> Option<Node> {
    let range = value.range();
    let at = range.start..range.end;
    if depth > MAX_DEPTH {
        let message = format!("nested deeper than {MAX_DEPTH} levels");
        problems.add(source, ErrorCode::MalformedJson, at.start..at.start + 1, message);
        return None;
    }
    let json = match value {
        Value::NullKeyword(_) => Json::Null,
        Value::BooleanLit(literal) => Json::Bool(literal.value),
        Value::NumberLit(literal) => {
            // A number that no double can hold would mean different things to different readers.
            if serde_json::from_str::<serde_json::Value>(literal.value).is_err() {
                problems.add(source, ErrorCode::MalformedJson, at, "this is not a number that JSON can hold");
                return None;
            }
            Json::Number(literal.value.to_owned())
        }
        Value::StringLit(literal) => Json::Text(literal.value.into_owned()),
        Value::Array(array) => {
            let items = array.elements.into_iter().map(|item| node(source, item, depth + 1, problems));
            Json::List(items.collect::<Option<_>>()?)
        }
        Value::Object(object) => {
            let mut members = Vec::with_capacity(object.properties.len());
            for property in object.properties {
                let range = property.name.range();
                let name = match property.name {
                    ObjectPropName::String(literal) => literal.value.into_owned(),
                    ObjectPropName::Word(literal) => literal.value.to_owned(),
                };
                let value = node(source, property.value, depth + 1, problems)?;
                members.push(Member { name, name_at: range.start..range.end, value });
            }
            Json::Object(members)
        }
    };
    Some(Node { at, json })
}

/// Refuses what the parser lets pass and RFC 8259 does not: control characters in strings, blanks of other scripts.
fn strict(source: &Source, problems: &mut Problems) -> Option<()> {
    let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&source.text) else { return Some(()) };
    let start: usize =
        source.text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let mut at = (start + error.column().saturating_sub(1)).min(source.text.len());
    while !source.text.is_char_boundary(at) {
        at -= 1;
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    problems.add(source, ErrorCode::MalformedJson, at..at, message);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Node, String> {
        let (source, mut problems) = (Source::new("t.json", text), Problems::default());
        let node = read(&source, &mut problems);
        node.ok_or_else(|| problems.into_found().pop().map_or_else(String::new, |problem| problem.message))
    }

    #[test]
    fn values_know_their_places() {
        let text = r#" {"a": [1, "x\u00e9"], "b": null} "#;
        let node = parse(text).unwrap();
        let Json::Object(members) = &node.json else { panic!("not an object") };
        assert_eq!(&text[members[0].name_at.clone()], "\"a\"");
        let list = node.get("a").unwrap();
        assert_eq!(&text[list.at.clone()], r#"[1, "x\u00e9"]"#);
        assert_eq!(list.items().unwrap()[1].as_text(), Some("xé"));
        assert!(node.get("b").is_none(), "null counts as absent");
        assert_eq!(node.value(), serde_json::json!({"a": [1, "xé"], "b": null}));
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
            "1e999",
            ".5",
            "NaN",
            "Infinity",
            "0x10",
            "{\"a\" 1}",
            "[,]",
            "\"\t\"",
            "tru",
            "[1}",
            "/* */ 1",
            "\"\u{0}\"",
            "{\"a\":}",
            "1e",
            "--1",
            "\"\\u12\"",
            "truefalse",
            "nullx",
            "[1]x",
            "\u{a0}1",
        ] {
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text:?}");
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nesting_is_bounded_whatever_its_depth() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&deep(MAX_DEPTH)).is_ok());
        for levels in [MAX_DEPTH + 2, 10_000, 1_000_000] {
            let told = parse(&deep(levels)).unwrap_err();
            assert!(told.contains("nest"), "{told}");
        }
        assert!(parse(&"{\"a\":".repeat(10_000)).is_err());
    }
}
