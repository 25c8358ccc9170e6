//! Templates in texts: `{{name}}` and `{{row.field}}`, nothing else. Values are inserted once, as they are, and never read
//! as templates again; `{{{{` is a literal `{{`. Knows the form of a marker; what names stand for is [`Scope`]'s.

use super::values::{Row, Value};
use std::collections::BTreeMap;

/// A name that every workflow has: the day of the submit in UTC, such as `2026-11-21`.
pub(super) const DATE: &str = "date";

/// The field that every row and every single value has: its name as part of an id or a file name.
const SLUG: &str = "slug";

/// What names stand for at one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) parameters: &'a BTreeMap<String, Value>,
    /// Name of the loop's row, and the row; `None` in place of a row that is not known.
    pub(super) row: Option<(&'a str, Option<&'a Row>)>,
    /// The day, `2026-11-21`.
    pub(super) today: &'a str,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Text(&'t str),
    /// What stands between the braces, and where.
    Name(&'t str, usize),
}

/// Why a template cannot be filled: where in the text, what, and the names that would do.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) offset: usize,
    pub(super) message: String,
    pub(super) help: String,
}

/// What a marker stands for.
pub(super) enum Found<'a> {
    Value(&'a Value),
    /// Part of a row: data that nobody who wrote the workflow has seen.
    Field(&'a str),
    Day(&'a str),
    /// `{{name.slug}}` of a text.
    Slug(String),
    Unknown,
}

impl Found<'_> {
    fn text(&self) -> Option<String> {
        match self {
            Self::Value(value) => value.text(),
            Self::Field(text) | Self::Day(text) => Some((*text).to_owned()),
            Self::Slug(slug) => Some(slug.clone()),
            Self::Unknown => None,
        }
    }
}

/// The parts of a text.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Wrong> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while let Some(found) = text[at..].find("{{") {
        let open = at + found;
        if text[open..].starts_with("{{{{") {
            pieces.push(Piece::Text(&text[at..open + 2]));
            at = open + 4;
            continue;
        }
        if open > at {
            pieces.push(Piece::Text(&text[at..open]));
        }
        let inner = &text[open + 2..];
        let Some(close) = inner.find("}}") else {
            let message = "a `{{` without its `}}`".to_owned();
            return Err(Wrong { offset: open, message, help: PLAIN_BRACES.to_owned() });
        };
        let name = inner[..close].trim();
        if !is_path(name) {
            let message = format!("`{{{{{}}}}}` is not a name", super::problem::shown(&inner[..close]));
            return Err(Wrong { offset: open, message, help: PLAIN_BRACES.to_owned() });
        }
        pieces.push(Piece::Name(name, open));
        at = open + 2 + close + 2;
    }
    if at < text.len() {
        pieces.push(Piece::Text(&text[at..]));
    }
    Ok(pieces)
}

const PLAIN_BRACES: &str =
    "markers are `{{name}}` and `{{row.field}}`, without logic; write `{{{{` for plain braces";

/// The name that makes up the whole text, if one does.
pub(super) fn sole_name(text: &str) -> Option<&str> {
    match pieces(text).ok()?.as_slice() {
        [Piece::Name(name, _)] => Some(name),
        _ => None,
    }
}

impl<'a> Scope<'a> {
    /// The slug that goes with a name, where that is of a row.
    pub(super) fn slug_of(&self, path: &str) -> Option<String> {
        if let Some((alias, row)) = self.row
            && (path == alias || path.strip_prefix(alias) == Some(".name"))
        {
            return row.map(|row| row.slug.clone());
        }
        match self.parameters.get(path) {
            Some(Value::Named { slug, .. }) => Some(slug.clone()),
            Some(Value::One(_) | Value::Rows(_) | Value::Unknown) | None => None,
        }
    }

    /// What a name stands for.
    pub(super) fn find(&self, path: &str, offset: usize) -> Result<Found<'a>, Wrong> {
        let (name, field) = path.split_once('.').map_or((path, None), |(name, field)| (name, Some(field)));
        if let Some((alias, row)) = self.row.filter(|(alias, _)| *alias == name) {
            let Some(row) = row else { return Ok(Found::Unknown) };
            return match row.field(field.unwrap_or("name")) {
                Some(text) => Ok(Found::Field(text)),
                None => {
                    let message = format!(
                        "row {} ({}) has no field `{}`",
                        row.number,
                        super::problem::shown(&row.name),
                        super::problem::shown(field.unwrap_or_default())
                    );
                    Err(wrong(offset, message, field.unwrap_or_default(), row.known(), alias))
                }
            };
        }
        if let (DATE, None) = (name, field) {
            return Ok(Found::Day(self.today));
        }
        match (self.parameters.get(name), field) {
            (Some(value), None) => Ok(Found::Value(value)),
            (Some(Value::Unknown), Some(SLUG)) => Ok(Found::Unknown),
            (Some(Value::Named { slug, .. }), Some(SLUG)) => Ok(Found::Slug(slug.clone())),
            (Some(value @ Value::One(_)), Some(SLUG)) => {
                Ok(Found::Slug(super::slug::slug(&value.text().unwrap_or_default())))
            }
            (Some(_), Some(field)) => {
                let message =
                    format!("`{name}` has no field `{field}`: only the row of a `for_each` has fields");
                let help = "a parameter that is one text has `slug`".to_owned();
                Err(Wrong { offset, message, help })
            }
            (None, _) => {
                let known = self.parameters.keys().map(String::as_str).chain([DATE]);
                let known = known.chain(self.row.map(|(alias, _)| alias));
                Err(wrong(offset, format!("there is no parameter `{name}`"), name, known, ""))
            }
        }
    }

    /// Fills a text; `None` when it needs a value that is not known. `allow` may refuse a value at its place.
    pub(super) fn fill(
        &self,
        text: &str,
        allow: impl Fn(&Found<'a>, &str) -> Result<(), String>,
    ) -> Result<Option<String>, Wrong> {
        let (mut filled, mut known) = (String::with_capacity(text.len()), true);
        for piece in pieces(text)? {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Name(path, offset) => {
                    let found = self.find(path, offset)?;
                    match found.text() {
                        Some(value) => {
                            allow(&found, &value).map_err(|message| Wrong {
                                offset,
                                message,
                                help: String::new(),
                            })?;
                            filled.push_str(&value);
                        }
                        None => known = false,
                    }
                }
            }
        }
        Ok(known.then_some(filled))
    }
}

fn wrong<'k>(
    offset: usize,
    message: String,
    name: &str,
    known: impl Iterator<Item = &'k str> + Clone,
    alias: &str,
) -> Wrong {
    let dot = if alias.is_empty() { "" } else { "." };
    let help = match super::problem::nearest(name, known.clone()) {
        Some(near) => format!("did you mean `{{{{{alias}{dot}{near}}}}}`?"),
        None => format!("known: {}", known.take(20).collect::<Vec<_>>().join(", ")),
    };
    Wrong { offset, message, help }
}

/// `name` or `name.field`.
fn is_path(text: &str) -> bool {
    let mut parts = text.split('.');
    parts.next().is_some_and(is_name) && parts.next().is_none_or(is_name) && parts.next().is_none()
}

/// A name of a parameter, a row or a field: a letter or `_` first, then also digits and `-`.
pub(super) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn filled(text: &str, parameters: &[(&str, serde_json::Value)]) -> Result<Option<String>, Wrong> {
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), Value::One(value.clone())));
        let row = Row::read(1, &json!({"name": "Emma", "level": "{{tag}}"})).unwrap().unwrap();
        let scope = Scope {
            parameters: &parameters.collect(),
            row: Some(("student", Some(&row))),
            today: "2026-11-21",
        };
        scope.fill(text, |_, _| Ok(()))
    }

    fn ok(text: &str) -> String {
        filled(text, &[("tag", json!("v{{x}}")), ("n", json!(3))]).unwrap().unwrap()
    }

    #[test]
    fn names_fields_and_the_day_are_inserted_once() {
        assert_eq!(ok("{{tag}} {{ n }} {{date}}"), "v{{x}} 3 2026-11-21");
        assert_eq!(ok("{{student}}/{{student.name}}/{{student.slug}}"), "Emma/Emma/emma");
        assert_eq!(ok("{{student.level}}"), "{{tag}}", "a value is data, never a template");
        assert_eq!(ok("a {{{{tag}} } {x}"), "a {{tag}} } {x}");
        assert_eq!(ok("{{tag.slug}} {{n.slug}}"), "v-x 3");
        assert_eq!(ok(""), "");
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_was_meant() {
        let told = |text: &str| {
            let wrong = filled(text, &[("tag", json!(1))]).unwrap_err();
            format!("{}: {} | {}", wrong.offset, wrong.message, wrong.help)
        };
        assert_eq!(told("é {{tga}}"), "3: there is no parameter `tga` | did you mean `{{tag}}`?");
        assert_eq!(
            told("{{student.levle}}"),
            "0: row 1 (Emma) has no field `levle` | did you mean `{{student.level}}`?"
        );
        assert!(told("{{tag.x}}").contains("has no field"));
        for text in ["{{", "x {{ a b }}", "{{}}", "{{a.b.c}}", "{{#if x}}", "{{a}"] {
            assert!(told(text).contains("`{{"), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_one_name_is_known_as_such() {
        assert_eq!(sole_name("{{students}}"), Some("students"));
        assert_eq!(sole_name("{{ a.b }}"), Some("a.b"));
        for text in ["x{{a}}", "{{a}}{{b}}", "", "{{{{a}}", "{{a b}}"] {
            assert_eq!(sole_name(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_values_come_out_as_they_went_in(text in "[{}a. é]{0,20}", value in any::<String>()) {
            let _ = filled(&text, &[("a", json!(&value))]);
            prop_assert_eq!(filled("<{{a}}>", &[("a", json!(&value))]).unwrap().unwrap(), format!("<{value}>"));
        }
    }
}
