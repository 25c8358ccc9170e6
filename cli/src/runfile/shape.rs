//! Whether a document fits a JSON Schema, with the place of whatever does not. Knows the words of draft 2020-12 that the
//! schema of workflows uses, and no other: a test holds the two against each other. Refuses to know what a field means.

use orch_proto::codes::ErrorCode;
use serde_json::Value as Plain;

use super::diagnostic::Diagnostic;
use super::json::{Key, Spanned, Value};
use crate::suggest::did_you_mean;

/// Words that constrain nothing.
#[cfg(test)]
const SILENT: [&str; 5] = ["$schema", "$id", "$defs", "title", "description"];
/// Words that are understood.
#[cfg(test)]
const WORDS: [&str; 14] = [
    "$ref",
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "minItems",
    "maxItems",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "anyOf",
];

/// Everything that does not fit, in the order of the places.
pub(super) fn check(text: &str, schema: &Plain, document: &Spanned) -> Vec<Diagnostic> {
    let checker = Checker { text, root: schema };
    let mut problems = Vec::new();
    checker.fits(schema, document, "the file", &mut problems);
    problems.sort_by_key(|problem| problem.span.start);
    problems
}

struct Checker<'a> {
    text: &'a str,
    root: &'a Plain,
}

impl Checker<'_> {
    fn fits(&self, schema: &Plain, value: &Spanned, place: &str, problems: &mut Vec<Diagnostic>) {
        if let Some(target) = schema["$ref"].as_str() {
            if let Some(inner) = self.root.pointer(target.trim_start_matches('#')) {
                self.fits(inner, value, place, problems);
            }
            return;
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            self.fits_one(choices, value, place, problems);
            return;
        }
        let mut wrong = |message: String| {
            problems.push(Diagnostic::new(ErrorCode::InvalidField, value.span.clone(), message))
        };
        let types = names(&schema["type"]);
        if !types.is_empty() && !types.iter().any(|name| self.is_a(value, name)) {
            wrong(format!("{place} must be {}, not {}", types.join(" or "), value.value.kind()));
            return;
        }
        if let Some(why) = self.narrower(schema, value) {
            wrong(format!("{place} must be {why}"));
            return;
        }
        match &value.value {
            Value::Object(members) => self.members(schema, value, members, place, problems),
            Value::List(items) => {
                for item in items.iter().filter(|_| schema.get("items").is_some()) {
                    self.fits(&schema["items"], item, &format!("an item of {place}"), problems);
                }
            }
            Value::Null | Value::Bool | Value::Number | Value::Text(_) => {}
        }
    }

    fn fits_one(&self, choices: &[Plain], value: &Spanned, place: &str, problems: &mut Vec<Diagnostic>) {
        let mut tried = Vec::new();
        for choice in choices {
            let mut found = Vec::new();
            self.fits(choice, value, place, &mut found);
            match found.into_iter().next() {
                None => return,
                Some(first) => tried.push(first.message),
            }
        }
        problems.push(Diagnostic::new(ErrorCode::InvalidField, value.span.clone(), tried.join("; or ")));
    }

    fn is_a(&self, value: &Spanned, name: &str) -> bool {
        match (&value.value, name) {
            (Value::Null, "null")
            | (Value::Bool, "boolean")
            | (Value::Number, "number")
            | (Value::Text(_), "string")
            | (Value::List(_), "array")
            | (Value::Object(_), "object") => true,
            (Value::Number, "integer") => self.number(value).is_some_and(|number| number.fract() == 0.0),
            (_, _) => false,
        }
    }

    fn number(&self, value: &Spanned) -> Option<f64> {
        if !matches!(value.value, Value::Number) {
            return None;
        }
        self.text.get(value.span.clone())?.parse().ok()
    }

    /// What a value of the right type must be besides, when it is not.
    fn narrower(&self, schema: &Plain, value: &Spanned) -> Option<String> {
        let limit = |word: &str| schema[word].as_f64();
        if let (Some(number), Some(least)) = (self.number(value), limit("minimum"))
            && number < least
        {
            return Some(format!("at least {least}"));
        }
        if let (Some(number), Some(most)) = (self.number(value), limit("maximum"))
            && number > most
        {
            return Some(format!("at most {most}"));
        }
        if let (Some(number), Some(least)) = (self.number(value), limit("exclusiveMinimum"))
            && number <= least
        {
            return Some(format!("more than {least}"));
        }
        match &value.value {
            Value::Text(text) => narrower_text(schema, text),
            Value::List(items) => {
                let count = items.len() as u64;
                let least = schema["minItems"].as_u64().filter(|least| count < *least);
                let most = schema["maxItems"].as_u64().filter(|most| count > *most);
                least
                    .map(|least| format!("a list of at least {least}"))
                    .or_else(|| most.map(|most| format!("a list of at most {most}")))
            }
            Value::Null | Value::Bool | Value::Number | Value::Object(_) => None,
        }
    }

    fn members(
        &self,
        schema: &Plain,
        whole: &Spanned,
        members: &[(Key, Spanned)],
        place: &str,
        problems: &mut Vec<Diagnostic>,
    ) {
        for needed in names(&schema["required"]) {
            if !members.iter().any(|(key, _)| key.name == needed) {
                let at = whole.span.start..whole.span.start + 1;
                let message = format!("{place} has no \"{needed}\"");
                problems.push(Diagnostic::new(ErrorCode::InvalidField, at, message));
            }
        }
        let known = schema["properties"].as_object();
        for (index, (key, value)) in members.iter().enumerate() {
            if members[..index].iter().any(|(earlier, _)| earlier.name == key.name) {
                let message = format!("\"{}\" is there twice", key.name);
                problems.push(Diagnostic::new(ErrorCode::InvalidField, key.span.clone(), message));
            }
            let inner = format!("\"{}\"", key.name);
            match known.and_then(|known| known.get(&key.name)) {
                Some(schema) => self.fits(schema, value, &inner, problems),
                None => match &schema["additionalProperties"] {
                    Plain::Bool(false) => {
                        let known = known.into_iter().flatten().map(|(name, _)| name.as_str());
                        let message = format!("{place} has no field \"{}\"", key.name);
                        let problem = Diagnostic::new(ErrorCode::UnknownField, key.span.clone(), message);
                        problems.push(problem.note(did_you_mean(&key.name, known)));
                    }
                    other @ Plain::Object(_) => self.fits(other, value, &inner, problems),
                    Plain::Null
                    | Plain::Bool(true)
                    | Plain::Number(_)
                    | Plain::String(_)
                    | Plain::Array(_) => {}
                },
            }
        }
    }
}

fn narrower_text(schema: &Plain, text: &str) -> Option<String> {
    let allowed = names(&schema["enum"]);
    if !allowed.is_empty() && !allowed.contains(&text) {
        return Some(format!("one of {}", allowed.join(", ")));
    }
    let pattern = schema["pattern"].as_str()?;
    let (fits, rule) =
        PATTERNS.iter().find(|(known, ..)| *known == pattern).map(|(_, fits, rule)| (fits, rule))?;
    (!fits(text)).then(|| (*rule).to_owned())
}

/// A pattern, what it takes, and its rule for people.
type Pattern = (&'static str, fn(&str) -> bool, &'static str);

/// The patterns that there are.
const PATTERNS: [Pattern; 4] = [
    (
        "^[a-z][a-z0-9-]{0,62}$",
        |text| {
            word(
                text,
                |c| c.is_ascii_lowercase(),
                |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
            )
        },
        "lower-case letters, digits and -, a letter first, at most 63",
    ),
    (
        "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$",
        |text| word(text, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || "_-".contains(c)),
        "letters, digits, - and _, a letter or digit first, at most 63",
    ),
    (
        "^[A-Za-z_][A-Za-z0-9_-]{0,62}$",
        |text| {
            word(
                text,
                |c| c.is_ascii_alphabetic() || c == '_',
                |c| c.is_ascii_alphanumeric() || "_-".contains(c),
            )
        },
        "letters, digits, - and _, a letter or _ first, at most 63",
    ),
    ("\\{\\{", |text| text.contains("{{"), "a text with a {{template}}"),
];

fn word(text: &str, first: fn(char) -> bool, rest: fn(char) -> bool) -> bool {
    text.len() <= 63 && text.starts_with(first) && text.chars().all(rest)
}

/// The texts of a list, or the one text that stands in place of a list.
fn names(value: &Plain) -> Vec<&str> {
    match value {
        Plain::String(name) => vec![name],
        Plain::Array(names) => names.iter().filter_map(Plain::as_str).collect(),
        Plain::Null | Plain::Bool(_) | Plain::Number(_) | Plain::Object(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word and every pattern of a schema.
    fn words_of(schema: &Plain, words: &mut Vec<String>, patterns: &mut Vec<String>) {
        for (word, inner) in schema.as_object().into_iter().flatten() {
            words.push(word.clone());
            match (word.as_str(), inner) {
                ("properties" | "$defs", Plain::Object(named)) => {
                    named.values().for_each(|inner| words_of(inner, words, patterns));
                }
                ("items" | "additionalProperties", inner) => words_of(inner, words, patterns),
                ("anyOf", Plain::Array(choices)) => {
                    choices.iter().for_each(|inner| words_of(inner, words, patterns));
                }
                ("pattern", Plain::String(pattern)) => patterns.push(pattern.clone()),
                (_, _) => {}
            }
        }
    }

    #[test]
    fn every_word_of_the_schema_of_workflows_is_understood() {
        let schema: Plain = serde_json::from_str(crate::runfile::workflow::SCHEMA).unwrap();
        let (mut words, mut patterns) = (Vec::new(), Vec::new());
        words_of(&schema, &mut words, &mut patterns);
        for word in words {
            assert!(WORDS.contains(&word.as_str()) || SILENT.contains(&word.as_str()), "{word}");
        }
        for pattern in patterns {
            assert!(PATTERNS.iter().any(|(known, ..)| *known == pattern), "{pattern}");
        }
    }
}
