//! A JSON value that keeps the order of its members, for everything that is done to values before they are written:
//! choosing fields, YAML, tables of fields. Knows values; refuses to know what they mean.

use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object, in its own order.
    Object(Vec<(String, Self)>),
}

impl Node {
    /// The plain form of a value.
    ///
    /// # Errors
    /// A value that JSON cannot express.
    pub(crate) fn of(value: &impl Serialize) -> serde_json::Result<Self> {
        serde_json::from_str(&serde_json::to_string(value)?)
    }

    /// Only the named members, in the order of the names, of an object or of each object of a list. A member that an
    /// object leaves out is `null`, so that every row has every column.
    pub(crate) fn select(self, fields: &[String]) -> Self {
        match self {
            Self::List(items) => Self::List(items.into_iter().map(|item| item.select(fields)).collect()),
            Self::Object(_) => {
                let take = |field: &String| (field.clone(), self.at(field).cloned().unwrap_or(Self::Null));
                Self::Object(fields.iter().map(take).collect())
            }
            other @ (Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_)) => other,
        }
    }

    /// The member of a name; `a.b` is `b` of `a`.
    fn at(&self, path: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let member = |name: &str| members.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        member(path).or_else(|| path.split_once('.').and_then(|(name, rest)| member(name)?.at(rest)))
    }

    /// The value in a cell of a table.
    pub(crate) fn cell(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::List(items) => items.iter().map(Self::cell).collect::<Vec<_>>().join(","),
            Self::Object(members) => {
                let pairs = members.iter().map(|(name, value)| format!("{name}={}", value.cell()));
                pairs.collect::<Vec<_>>().join(",")
            }
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value).map(Node::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut object: Vec<(String, Node)> = Vec::new();
        while let Some((name, value)) = members.next_entry::<String, Node>()? {
            if object.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("the member {name:?} comes twice")));
            }
            object.push((name, value));
        }
        Ok(Node::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: &str) -> Node {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_order_of_members_is_kept() {
        let json = r#"{"ref":"a/1","b":[1,-2,0.5,true,null],"a":{"z":"","y":{}}}"#;
        assert_eq!(serde_json::to_string(&node(json)).unwrap(), json);
    }

    #[test]
    fn fields_are_selected_in_the_order_asked_for() {
        let fields = ["b".to_owned(), "none".to_owned()];
        let selected = node(r#"[{"a":1,"b":2},{"a":3}]"#).select(&fields);
        assert_eq!(
            serde_json::to_string(&selected).unwrap(),
            r#"[{"b":2,"none":null},{"b":null,"none":null}]"#
        );
    }

    #[test]
    fn a_cell_is_one_line_of_what_is_in_it() {
        assert_eq!(node(r#"{"a":[1,"x"],"b":null}"#).cell(), "a=1,x,b=");
    }
}
