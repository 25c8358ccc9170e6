//! Values that parameters hold and templates insert: one text or number, or rows of a list or roster.
//! Knows how they look as text; refuses to know where they came from.

use super::slug::{is_slug, slug};
use serde_json::Value as Plain;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A text, a number, true or false.
    One(Plain),
    /// The name of a row that was handed on, and the slug that goes with it: the row's own, if it has one.
    Named {
        /// The name.
        name: String,
        /// Its slug.
        slug: String,
    },
    /// Items of a list, or rows of a roster.
    Rows(Arc<[Row]>),
    /// Not given, or wrong and already told: whatever needs it is passed over.
    Unknown,
}

/// An item of a list, or a row of a roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// From 1.
    pub(super) number: usize,
    pub(super) name: String,
    /// Of the name, or the row's own.
    pub(super) slug: String,
    /// Its other fields.
    pub(super) fields: BTreeMap<String, String>,
}

/// A text, a number, true or false as text.
pub(super) fn as_text(value: &Plain) -> Option<String> {
    match value {
        Plain::String(text) => Some(text.clone()),
        Plain::Number(number) => Some(number.to_string()),
        Plain::Bool(value) => Some(value.to_string()),
        Plain::Null | Plain::Array(_) | Plain::Object(_) => None,
    }
}

impl Value {
    /// As a template inserts it: the names of rows are joined by commas.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::One(value) => as_text(value),
            Self::Named { name, .. } => Some(name.clone()),
            Self::Rows(rows) => Some(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(", ")),
            Self::Unknown => None,
        }
    }
}

impl Row {
    /// Reads the item that is the `number`th of its list. `Ok(None)` is an object with nothing in it: a row of blanks.
    pub(super) fn read(number: usize, item: &Plain) -> Result<Option<Self>, String> {
        let Plain::Object(members) = item else {
            let name = as_text(item)
                .ok_or_else(|| format!("item {number} is neither a text nor an object with a `name`"))?;
            return Self::named(number, &name, BTreeMap::new()).map(Some);
        };
        let mut fields = BTreeMap::new();
        for (field, value) in members {
            let text = if value.is_null() { Some(String::new()) } else { as_text(value) };
            let text = text.ok_or_else(|| {
                format!("row {number} has a list or an object in `{field}`; a row holds texts and numbers")
            })?;
            fields.insert(field.clone(), text.trim().to_owned());
        }
        if fields.values().all(String::is_empty) {
            return Ok(None);
        }
        let name = fields.remove("name").unwrap_or_default();
        Self::named(number, &name, fields).map(Some)
    }

    fn named(number: usize, name: &str, mut fields: BTreeMap<String, String>) -> Result<Self, String> {
        let name = name.trim();
        if name.is_empty() {
            return Err(format!("row {number} has no `name`"));
        }
        if name.chars().any(char::is_control) {
            return Err(format!("the name of row {number} has control characters"));
        }
        let slug = match fields.remove("slug").filter(|own| !own.is_empty()) {
            Some(own) if is_slug(&own) => own,
            Some(own) => {
                let shown = super::problem::shown(&own);
                return Err(format!(
                    "the slug `{shown}` of row {number} is not of lower-case letters, digits and `-`, at most 40"
                ));
            }
            None => slug(name),
        };
        Ok(Self { number, name: name.to_owned(), slug, fields })
    }

    /// A field by name; `name` and `slug` are always there.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        match name {
            "name" => Some(&self.name),
            "slug" => Some(&self.slug),
            other => self.fields.get(other).map(String::as_str),
        }
    }

    /// Names of its fields.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> + Clone {
        ["name", "slug"].into_iter().chain(self.fields.keys().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_texts_or_objects_with_a_name() {
        let row = |item| Row::read(3, &item);
        let emma =
            row(json!({"name": " Emma Rodriguez ", "age": 12, "level": "beginner", "note": null})).unwrap();
        let emma = emma.unwrap();
        assert_eq!((emma.name.as_str(), emma.slug.as_str()), ("Emma Rodriguez", "emma-rodriguez"));
        assert_eq!((emma.field("age"), emma.field("note"), emma.field("x")), (Some("12"), Some(""), None));
        assert_eq!(row(json!("Emma")).unwrap().unwrap().slug, "emma");
        assert_eq!(row(json!({"name": "Emma", "slug": "emma-2"})).unwrap().unwrap().slug, "emma-2");
        assert_eq!(row(json!({"name": "", "age": ""})).unwrap(), None, "a row of blanks");
        for bad in [
            json!({"name": "", "age": 3}),
            json!({"age": 3}),
            json!(["x"]),
            json!(null),
            json!({"name": "x", "tags": ["a"]}),
            json!({"name": "x", "slug": "../x"}),
            json!("a\u{7}b"),
            json!("  "),
        ] {
            assert!(row(bad.clone()).unwrap_err().contains('3'), "{bad}");
        }
    }
}
