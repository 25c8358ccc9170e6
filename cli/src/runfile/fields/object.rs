//! Taking typed fields out of an object, each failure told with its place. `null` counts as absent.

use std::collections::BTreeMap;
use std::ops::Range;

use orch_proto::codes::ErrorCode;

use super::super::diagnostic::Diagnostic;
use super::super::json::{Key, Spanned, Value};
use super::member;
use crate::suggest::did_you_mean;

/// What people bring from plans and other systems, and what it is called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("id", "task_id"),
    ("needs", "dependencies"),
    ("depends_on", "dependencies"),
    ("prompt", "description"),
    ("program", "run"),
];

/// An object whose fields are being taken.
pub(super) struct Object<'a, 'p> {
    text: &'a str,
    /// Of the whole object.
    span: &'a Range<usize>,
    members: &'a [(Key, Spanned)],
    problems: &'p mut Vec<Diagnostic>,
}

impl<'a, 'p> Object<'a, 'p> {
    /// Opens an object; unknown and repeated fields are reported at once.
    pub(super) fn new(
        text: &'a str,
        what: &str,
        whole: &'a Spanned,
        members: &'a [(Key, Spanned)],
        known: &[&str],
        problems: &'p mut Vec<Diagnostic>,
    ) -> Self {
        for (index, (key, _)) in members.iter().enumerate() {
            if !known.contains(&key.name.as_str()) {
                let message = format!("{what} has no field {:?}", key.name);
                let other =
                    OTHER_NAMES.iter().find(|(other, ours)| key.name == *other && known.contains(ours));
                let note = match other {
                    Some((_, ours)) => format!("it is \"{ours}\" here"),
                    None => did_you_mean(&key.name, known.iter().copied()),
                };
                problems.push(Diagnostic::new(ErrorCode::UnknownField, key.span.clone(), message).note(note));
            } else if members[..index].iter().any(|(earlier, _)| earlier.name == key.name) {
                let message = format!("the field {:?} is there twice", key.name);
                problems.push(Diagnostic::new(ErrorCode::InvalidField, key.span.clone(), message));
            }
        }
        Self { text, span: &whole.span, members, problems }
    }

    fn get(&self, name: &str) -> Option<&'a Spanned> {
        let (_, value) = member(self.members, name)?;
        if matches!(value.value, Value::Null) { None } else { Some(value) }
    }

    /// Whether the field is there, whatever it holds.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Where the value of a field stands, or the object if it has none.
    pub(super) fn place(&self, name: &str) -> Range<usize> {
        self.get(name).map_or(self.span.start..self.span.start + 1, |value| value.span.clone())
    }

    /// Reports something about a field.
    pub(super) fn wrong(&mut self, code: ErrorCode, name: &str, message: &str, note: &str) {
        let span = self.place(name);
        self.problems.push(Diagnostic::new(code, span, message).note(note));
    }

    /// Reports something that is not there.
    pub(super) fn missing(&mut self, code: ErrorCode, message: &str) {
        self.problems.push(Diagnostic::new(code, self.span.start..self.span.start + 1, message));
    }

    fn wrong_type(&mut self, name: &str, value: &Spanned, wanted: &str) {
        let message = format!("{name:?} must be {wanted}, not {}", value.value.kind());
        self.problems.push(Diagnostic::new(ErrorCode::InvalidField, value.span.clone(), message));
    }

    /// A text and its place.
    pub(super) fn text(&mut self, name: &str) -> Option<(&'a str, Range<usize>)> {
        let value = self.get(name)?;
        if let Value::Text(text) = &value.value {
            return Some((text, value.span.clone()));
        }
        self.wrong_type(name, value, "text");
        None
    }

    /// A list and its place.
    pub(super) fn list(&mut self, name: &str) -> Option<(&'a [Spanned], Range<usize>)> {
        let value = self.get(name)?;
        if let Value::List(items) = &value.value {
            return Some((items, value.span.clone()));
        }
        self.wrong_type(name, value, "a list");
        None
    }

    /// A list of texts and the place of each.
    pub(super) fn text_list(&mut self, name: &str) -> Vec<(&'a str, Range<usize>)> {
        let mut texts = Vec::new();
        for item in self.list(name).map(|(items, _)| items).unwrap_or_default() {
            match &item.value {
                Value::Text(text) => texts.push((text.as_str(), item.span.clone())),
                Value::Null | Value::Bool | Value::Number | Value::List(_) | Value::Object(_) => {
                    self.wrong_type(name, item, "a list of texts");
                }
            }
        }
        texts
    }

    /// An object whose values are texts.
    pub(super) fn texts(&mut self, name: &str) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        let Some(value) = self.get(name) else { return texts };
        let Value::Object(members) = &value.value else {
            self.wrong_type(name, value, "an object of texts");
            return texts;
        };
        for (key, item) in members {
            match &item.value {
                Value::Text(text) => drop(texts.insert(key.name.clone(), text.clone())),
                Value::Null | Value::Bool | Value::Number | Value::List(_) | Value::Object(_) => {
                    self.wrong_type(name, item, "an object of texts");
                }
            }
        }
        texts
    }

    /// A whole number from `least` on.
    pub(super) fn whole(&mut self, name: &str, least: u32) -> Option<u32> {
        let value = self.get(name)?;
        let number = self.text[value.span.clone()].parse::<u32>().ok().filter(|number| *number >= least);
        if number.is_none() {
            let message = format!("{name:?} must be a whole number from {least} on");
            self.problems.push(Diagnostic::new(ErrorCode::InvalidField, value.span.clone(), message));
        }
        number
    }

    /// A whole number up to `most`.
    pub(super) fn whole_up_to(&mut self, name: &str, least: u32, most: u32) -> Option<u32> {
        let number = self.whole(name, least)?;
        if number > most {
            let message = format!("{name:?} must be a whole number from {least} to {most}");
            self.wrong(ErrorCode::InvalidField, name, &message, "");
            return None;
        }
        Some(number)
    }

    /// `true` or `false`; what is not there is false.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let Some(value) = self.get(name) else { return false };
        if !matches!(value.value, Value::Bool) {
            self.wrong_type(name, value, "true or false");
            return false;
        }
        &self.text[value.span.clone()] == "true"
    }

    /// One of several words.
    pub(super) fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let (word, _) = self.text(name)?;
        let found = words.iter().find(|(known, _)| *known == word);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(known, _)| *known).collect();
            let note = did_you_mean(word, known.iter().copied());
            let message = format!("{name:?} is {word:?}; there are {}", known.join(", "));
            self.wrong(ErrorCode::InvalidField, name, &message, &note);
        }
        found.map(|(_, value)| *value)
    }

    /// An object within, with its own fields.
    pub(super) fn within(&mut self, name: &str, what: &str, known: &[&str]) -> Option<Object<'a, '_>> {
        let value = self.get(name)?;
        let Value::Object(members) = &value.value else {
            self.wrong_type(name, value, "an object");
            return None;
        };
        Some(Object::new(self.text, what, value, members, known, self.problems))
    }

    /// A list of at most `most` objects, each with its own fields; what `read` makes nothing of is left out.
    pub(super) fn each<T>(
        &mut self,
        name: &str,
        most: usize,
        what: (&str, &[&str]),
        mut read: impl FnMut(&mut Object<'a, '_>) -> Option<T>,
    ) -> Vec<T> {
        let Some((items, _)) = self.list(name) else { return Vec::new() };
        if items.len() > most {
            let message = format!("{name:?} has {} entries, at most {most} are allowed", items.len());
            self.wrong(ErrorCode::InvalidField, name, &message, "");
        }
        let mut read_ones = Vec::new();
        for item in items {
            let Value::Object(members) = &item.value else {
                self.wrong_type(name, item, "a list of objects");
                continue;
            };
            let mut object = Object::new(self.text, what.0, item, members, what.1, self.problems);
            read_ones.extend(read(&mut object));
        }
        read_ones
    }

    /// A text that must be there and say something.
    pub(super) fn needed(&mut self, code: ErrorCode, name: &str, what: &str) -> Option<&'a str> {
        match self.text(name) {
            Some((text, _)) if !text.trim().is_empty() => Some(text),
            Some(_) => {
                self.wrong(code, name, &format!("{name:?} is empty"), "");
                None
            }
            None => {
                if !self.has(name) {
                    self.missing(code, &format!("{what} has no {name:?}"));
                }
                None
            }
        }
    }

    /// Any value as the JSON it is written in.
    pub(super) fn json(&self, name: &str) -> Option<String> {
        // `null` counts as absent elsewhere; here it is a value to compare with.
        let (_, value) = member(self.members, name)?;
        Some(self.text[value.span.clone()].to_owned())
    }

    /// A number, or a text, given to `read` as text.
    pub(super) fn number_or_text<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.get(name)?;
        let text = match &value.value {
            Value::Number => &self.text[value.span.clone()],
            Value::Text(text) => text.as_str(),
            Value::Null | Value::Bool | Value::List(_) | Value::Object(_) => {
                self.wrong_type(name, value, wanted);
                return None;
            }
        };
        match read(text) {
            Ok(read) => Some(read),
            Err(why) => {
                let message = format!("{name:?} must be {wanted}");
                self.problems
                    .push(Diagnostic::new(ErrorCode::InvalidField, value.span.clone(), message).note(why));
                None
            }
        }
    }

    /// Text as it is, anything else as the JSON it is written in.
    pub(super) fn text_or_json(&self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        match &value.value {
            Value::Text(text) => Some(text.clone()),
            Value::Null | Value::Bool | Value::Number | Value::List(_) | Value::Object(_) => {
                Some(self.text[value.span.clone()].to_owned())
            }
        }
    }

    /// An object as the JSON it is written in.
    pub(super) fn json_object(&mut self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        if matches!(value.value, Value::Object(_)) {
            return Some(self.text[value.span.clone()].to_owned());
        }
        self.wrong_type(name, value, "an object");
        None
    }
}
