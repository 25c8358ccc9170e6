//! Takes typed fields out of objects of a workflow, templates filled, each mistake told with its place.
//! Knows types; which fields there are is [`super::task`]'s and [`super::definition`]'s. `None` means absent, or wrong and
//! told, or not known yet: whoever reads goes on, so that everything wrong is told at once.

use super::json::{Json, Node};
use super::problem::{Problems, Source, shown};
use super::template::{Found, Scope, Wrong};
use super::values::Value;
use orch_proto::codes::ErrorCode;
use serde_json::Value as Plain;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// Largest sum taken, in dollars: keeps the conversion to millionths exact.
const MAX_USD: f64 = 1_000_000.0;

/// Reads fields at one place of one file.
pub(super) struct Reader<'a, 'p> {
    pub(super) source: &'a Source,
    pub(super) scope: Scope<'a>,
    pub(super) problems: &'p mut Problems,
}

/// Whether `node` is an object with no other fields than these, none twice. Says what is wrong.
pub(super) fn known_fields(
    source: &Source,
    node: &Node,
    what: &str,
    known: &[&str],
    problems: &mut Problems,
) -> bool {
    let Json::Object(members) = &node.json else {
        let message = format!("{what} must be an object, not {}", node.kind());
        problems.add(source, ErrorCode::InvalidField, node.at.clone(), message);
        return false;
    };
    let before = problems.count();
    for (index, member) in members.iter().enumerate() {
        let (name, at) = (member.name.as_str(), member.name_at.clone());
        if !known.contains(&name) {
            let message = format!("{what} has no field `{}`", shown(name));
            problems.add(source, ErrorCode::UnknownField, at, message).nearest(name, known.iter().copied());
        } else if members[..index].iter().any(|earlier| earlier.name == name) {
            problems.add(source, ErrorCode::InvalidField, at, format!("the field `{name}` is there twice"));
        }
    }
    problems.count() == before
}

impl<'a> Reader<'a, '_> {
    /// Notes something wrong with a value.
    pub(super) fn wrong(
        &mut self,
        code: ErrorCode,
        at: &Range<usize>,
        message: impl Into<String>,
        help: &str,
    ) {
        self.problems.add(self.source, code, at.clone(), message).help(help);
    }

    fn wrong_type(&mut self, name: &str, node: &Node, wanted: &str) {
        let message = format!("`{name}` must be {wanted}, not {}", node.kind());
        self.wrong(ErrorCode::InvalidField, &node.at, message, "");
    }

    /// See [`known_fields`]; a mistake does not stop the rest from being read.
    pub(super) fn known(&mut self, node: &Node, what: &str, known: &[&str]) {
        known_fields(self.source, node, what, known, self.problems);
    }

    /// A text with its templates filled.
    pub(super) fn fill(&mut self, node: &Node, text: &str) -> Option<String> {
        self.fill_with(node, text, |_, _| Ok(()))
    }

    /// A text that becomes part of a path: nothing inserted may leave its directory or be read as a marker once more.
    pub(super) fn fill_path(&mut self, node: &Node, text: &str) -> Option<String> {
        self.fill_with(node, text, |found, value| {
            let from_row = matches!(found, Found::Field(_));
            let bad = |c: char| c.is_control() || matches!(c, '{' | '}' | '\\') || (from_row && c == '/');
            if value.contains(bad) || value.is_empty() {
                let slug = if from_row { "; its `slug` can" } else { "" };
                return Err(format!("`{}` cannot be part of a path{slug}", shown(value)));
            }
            Ok(())
        })
    }

    fn fill_with(
        &mut self,
        node: &Node,
        text: &str,
        allow: impl Fn(&Found<'a>, &str) -> Result<(), String>,
    ) -> Option<String> {
        match self.scope.fill(text, allow) {
            Ok(filled) => filled,
            Err(Wrong { offset, message, help }) => {
                // Without escapes the place within the text is the place within the file.
                let plain = node.at.len() == text.len() + 2;
                let start = if plain { node.at.start + 1 + offset } else { node.at.start };
                self.wrong(ErrorCode::InvalidWorkflow, &(start..node.at.end), message, &help);
                None
            }
        }
    }

    /// A text.
    pub(super) fn text(&mut self, object: &Node, name: &str) -> Option<String> {
        let node = object.get(name)?;
        match node.as_text() {
            Some(text) => self.fill(node, text),
            None => {
                self.wrong_type(name, node, "text");
                None
            }
        }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, object: &Node, name: &str) -> Option<Vec<String>> {
        let node = object.get(name)?;
        let Some(items) = node.items() else {
            self.wrong_type(name, node, "a list of texts");
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.as_text() {
                Some(text) => texts.extend(self.fill(item, text)),
                None => self.wrong_type(name, item, "a list of texts"),
            }
        }
        (texts.len() == items.len()).then_some(texts)
    }

    /// An object of texts; numbers, true and false are taken as they are written.
    pub(super) fn text_map(&mut self, object: &Node, name: &str) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        let Some(node) = object.get(name) else { return map };
        let Json::Object(members) = &node.json else {
            self.wrong_type(name, node, "an object of texts");
            return map;
        };
        for member in members {
            match &member.value.json {
                Json::Text(text) => {
                    map.extend(self.fill(&member.value, text).map(|text| (member.name.clone(), text)));
                }
                Json::Number(_) | Json::Bool(_) => {
                    map.insert(member.name.clone(), member.value.value().to_string());
                }
                Json::Null | Json::List(_) | Json::Object(_) => {
                    self.wrong_type(name, &member.value, "an object of texts");
                }
            }
        }
        map
    }

    /// A number, or a text with a template, read by `read`.
    fn parsed<T>(
        &mut self,
        object: &Node,
        name: &str,
        wanted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let node = object.get(name)?;
        let text = match &node.json {
            Json::Number(text) => text.clone(),
            Json::Text(text) => self.fill(node, text)?,
            Json::Null | Json::Bool(_) | Json::List(_) | Json::Object(_) => {
                self.wrong_type(name, node, wanted);
                return None;
            }
        };
        let parsed = read(text.trim());
        if parsed.is_none() {
            let message = format!("`{name}` must be {wanted}, not `{}`", shown(&text));
            self.wrong(ErrorCode::InvalidField, &node.at, message, "");
        }
        parsed
    }

    /// A whole number.
    pub(super) fn whole(&mut self, object: &Node, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let wanted = match *range.end() {
            u32::MAX => format!("a whole number from {} on", range.start()),
            most => format!("a whole number from {} to {most}", range.start()),
        };
        self.parsed(object, name, &wanted, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// high, medium, low or a number.
    pub(super) fn priority(&mut self, object: &Node, name: &str) -> Option<i32> {
        self.parsed(object, name, "high, medium, low or a whole number", |text| match text {
            "high" => Some(100),
            "medium" => Some(50),
            "low" => Some(10),
            other => other.parse().ok(),
        })
    }

    /// Seconds, or a duration such as `10m`.
    pub(super) fn duration(&mut self, object: &Node, name: &str) -> Option<prost_types::Duration> {
        let wanted = "seconds, or a duration such as \"10m\"";
        let read = |text: &str| {
            let seconds = text.parse::<f64>().ok().and_then(|text| Duration::try_from_secs_f64(text).ok());
            let duration = seconds.or_else(|| humantime::parse_duration(text).ok())?;
            (!duration.is_zero()).then_some(duration)
        };
        self.parsed(object, name, wanted, read).and_then(|duration| duration.try_into().ok())
    }

    /// Dollars as millionths.
    pub(super) fn micro_usd(&mut self, object: &Node, name: &str) -> Option<u64> {
        self.parsed(object, name, "a sum in dollars such as 0.50", |text| {
            let usd = text.trim_start_matches('$').parse::<f64>().ok()?;
            let fits = usd.is_finite() && usd > 0.0 && usd <= MAX_USD;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to lie in 0..=10^12"
            )]
            fits.then(|| ((usd * 1e6).round() as u64).max(1))
        })
    }

    /// True or false.
    pub(super) fn boolean(&mut self, object: &Node, name: &str) -> Option<bool> {
        let node = object.get(name)?;
        let value = match &node.json {
            Json::Bool(value) => Some(*value),
            Json::Text(text) => self.fill(node, text)?.parse().ok(),
            Json::Null | Json::Number(_) | Json::List(_) | Json::Object(_) => None,
        };
        if value.is_none() {
            self.wrong_type(name, node, "true or false");
        }
        value
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&mut self, object: &Node, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let word = self.text(object, name)?;
        if let Some((_, choice)) = choices.iter().find(|(known, _)| *known == word) {
            return Some(*choice);
        }
        let known: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let at = object.get(name).map_or(0..0, |node| node.at.clone());
        let message = format!("`{name}` must be one of {}, not `{}`", known.join(", "), shown(&word));
        self.problems.add(self.source, ErrorCode::InvalidField, at, message).nearest(&word, known);
        None
    }

    /// Any value with the templates of its texts filled. A text that is one name alone becomes the value itself, with its
    /// type.
    pub(super) fn value(&mut self, node: &Node) -> Option<Plain> {
        node.value_with(&mut |node, text| {
            let sole = super::template::sole_name(text).and_then(|name| self.scope.find(name, 0).ok());
            match sole {
                Some(Found::Value(Value::One(value))) => Some(value.clone()),
                Some(Found::Value(Value::Named { name, .. })) => Some(Plain::String(name.clone())),
                Some(Found::Value(Value::Rows(rows))) => Some(rows.iter().map(row_value).collect()),
                Some(Found::Value(Value::Unknown) | Found::Unknown) => None,
                Some(Found::Field(_) | Found::Day(_) | Found::Slug(_)) | None => {
                    self.fill(node, text).map(Plain::String)
                }
            }
        })
    }

    /// A text as it is, anything else as JSON; templates filled in both.
    pub(super) fn text_or_json(&mut self, object: &Node, name: &str) -> Option<String> {
        let node = object.get(name)?;
        match node.as_text() {
            Some(text) => self.fill(node, text),
            None => self.value(node).map(|value| value.to_string()),
        }
    }
}

/// A row as a parameter takes it: its name alone where it has no other field.
fn row_value(row: &super::values::Row) -> Plain {
    let name = Plain::String(row.name.clone());
    if row.fields.is_empty() && row.slug == super::slug::slug(&row.name) {
        return name;
    }
    let fields = row.fields.iter().map(|(key, text)| (key.clone(), Plain::String(text.clone())));
    let own = [("name".to_owned(), name), ("slug".to_owned(), Plain::String(row.slug.clone()))];
    Plain::Object(own.into_iter().chain(fields).collect())
}
