//! View values as text: JSON, YAML or a table of chosen fields. Which fields a view has is read from its schema, so
//! that a misspelt one is named even where a list is empty. Knows encodings; refuses to know any view.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

use super::Stream;
use super::csv;
use super::node::Node;
use super::safe;
use super::table::{Cell, Table};
use super::yaml;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::suggest::did_you_mean;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Rows for a spreadsheet.
    Csv,
    /// A table with a column for each chosen field.
    Table,
}

/// Writes values in an encoding, with the fields that were asked for.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    encoding: Encoding,
    /// Names of members; empty: all.
    fields: Vec<String>,
    /// Values that come one by one are the items of one list, and whether it has been begun.
    list: Option<Arc<AtomicBool>>,
}

impl Encoder {
    /// An encoder; without fields all are written.
    pub(crate) fn new(encoding: Encoding, fields: Vec<String>) -> Self {
        Self { encoding, fields, list: None }
    }

    /// The same encoder for values that come one by one and together are one list; [`Encoder::end`] ends it.
    pub(crate) fn listing(&self) -> Self {
        Self { list: Some(Arc::default()), ..self.clone() }
    }

    /// Whether values are items of a list.
    pub(crate) fn is_list(&self) -> bool {
        self.list.is_some()
    }

    /// Whether values are written as YAML.
    pub(crate) fn is_yaml(&self) -> bool {
        self.encoding == Encoding::Yaml
    }

    /// Whether a value is written as rows with columns.
    pub(crate) fn is_rows(&self) -> bool {
        matches!(self.encoding, Encoding::Csv | Encoding::Table)
    }

    /// The same encoder; rows for a spreadsheet have these columns, unless others were chosen.
    pub(crate) fn with_columns(&self, columns: &[&str]) -> Self {
        if self.encoding != Encoding::Csv || !self.fields.is_empty() {
            return self.clone();
        }
        Self { fields: columns.iter().map(ToString::to_string).collect(), ..self.clone() }
    }

    /// Whole JSON values.
    pub(crate) fn json() -> Self {
        Self::new(Encoding::Json, Vec::new())
    }

    /// A value, ending in a newline. `pretty` indents JSON.
    pub(crate) fn value<T: Serialize + JsonSchema>(
        &self,
        value: &T,
        pretty: bool,
        stream: &Stream,
    ) -> Outcome<String> {
        // Without fields there is no table: the text for people is made elsewhere, and this is for scripts.
        if !matches!(self.encoding, Encoding::Yaml | Encoding::Csv) && self.fields.is_empty() {
            return json(value, pretty);
        }
        let node = self.node(value)?;
        match self.encoding {
            Encoding::Json => json(&node, pretty),
            Encoding::Yaml => Ok(yaml::document(&node)),
            Encoding::Csv => csv::document(&node, &self.fields).ok_or_else(no_rows),
            Encoding::Table => Ok(table(&self.fields, &node).render(stream)),
        }
    }

    /// A value with the fields that were asked for.
    fn node<T: Serialize + JsonSchema>(&self, value: &T) -> Outcome<Node> {
        let node = Node::of(value).map_err(bug)?;
        if self.fields.is_empty() {
            return Ok(node);
        }
        check(&self.fields, &schema_of::<T>())?;
        Ok(node.select(&self.fields))
    }

    /// One of many values that come one by one: a line, a document, or an item of the list.
    pub(crate) fn event<T: Serialize + JsonSchema>(&self, value: &T, stream: &Stream) -> Outcome<String> {
        if let Some(begun) = &self.list {
            let between = if begun.swap(true, Ordering::Relaxed) { ",\n" } else { "[\n" };
            match self.encoding {
                Encoding::Json => {
                    return Ok(format!("{between}{}", self.value(value, false, stream)?.trim_end()));
                }
                Encoding::Yaml => return Ok(yaml::document(&Node::List(vec![self.node(value)?]))),
                Encoding::Csv | Encoding::Table => {}
            }
        }
        match self.encoding {
            Encoding::Json => self.value(value, false, stream),
            Encoding::Yaml => Ok(format!("---\n{}", self.value(value, false, stream)?)),
            Encoding::Csv => Err(no_rows()),
            Encoding::Table if self.fields.is_empty() => self.value(value, false, stream),
            Encoding::Table => Err(Failure::usage("--fields of things as they happen needs -o jsonl")),
        }
    }

    /// The end of the list of values that came one by one; nothing where they are no list, or where it failed (`whole`
    /// is false) before the first one.
    pub(crate) fn end(&self, whole: bool) -> &'static str {
        let Some(begun) = &self.list else { return "" };
        match (self.encoding, begun.swap(false, Ordering::Relaxed)) {
            (Encoding::Json | Encoding::Yaml, false) if !whole => "",
            (Encoding::Json, true) => "\n]\n",
            (Encoding::Json | Encoding::Yaml, false) => "[]\n",
            (Encoding::Yaml, true) | (Encoding::Csv | Encoding::Table, _) => "",
        }
    }
}

/// The schema of what a view is written as.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn json(value: &impl Serialize, pretty: bool) -> Outcome<String> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    let mut text = safe::json(&text.map_err(bug)?).into_owned();
    text.push('\n');
    Ok(text)
}

fn no_rows() -> Failure {
    Failure::usage("-o csv is for lists, and this is none").help("-o json prints it as it is")
}

fn bug(error: serde_json::Error) -> Failure {
    Failure::new(exit::BUG, "cannot write the output").cause(error)
}

/// A row for each object of a list, or the one row of an object.
fn table(fields: &[String], node: &Node) -> Table {
    // A column is never cut: who chose it wants it.
    let mut table = Table::titled(fields.iter().map(|field| field.to_uppercase()));
    let rows = match node {
        Node::List(items) => items.as_slice(),
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) | Node::Object(_) => {
            std::slice::from_ref(node)
        }
    };
    for row in rows {
        if let Node::Object(members) = row {
            table.row(members.iter().map(|(_, value)| Cell::from(value.cell())));
        }
    }
    table
}

/// Refuses fields that a view does not have.
fn check(fields: &[String], schema: &Value) -> Outcome<()> {
    let known = members(schema, schema);
    if known.is_empty() {
        return Ok(());
    }
    let Some(unknown) = fields.iter().find(|field| !is_member(schema, schema, field)) else { return Ok(()) };
    let failure = Failure::usage(format!("there is no field {unknown:?}"));
    let near = did_you_mean(unknown, known.iter().map(String::as_str));
    let failure = if near.is_empty() { failure } else { failure.help(near) };
    Err(failure.and_help(format!("there are {}", known.join(", "))))
}

/// Whether values of a schema, or the items of its lists, can have a member of this name; `a.b` is `b` of `a`.
fn is_member(schema: &Value, root: &Value, path: &str) -> bool {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    if let Some(inner) = schema["properties"].get(name) {
        return rest.is_none_or(|rest| is_member(inner, root, rest));
    }
    let target = schema["$ref"].as_str().and_then(|at| root.pointer(at.trim_start_matches('#')));
    let variants = ["anyOf", "oneOf", "allOf"].iter().filter_map(|word| schema[*word].as_array()).flatten();
    target.into_iter().chain(schema.get("items")).chain(variants).any(|part| is_member(part, root, path))
}

/// The names of the members that values of a schema, or the items of its lists, can have.
pub(crate) fn members(schema: &Value, root: &Value) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(properties) = schema["properties"].as_object() {
        names.extend(properties.keys().cloned());
    }
    let target = schema["$ref"].as_str().and_then(|path| root.pointer(path.trim_start_matches('#')));
    let variants = ["anyOf", "oneOf", "allOf"].iter().filter_map(|word| schema[*word].as_array()).flatten();
    for part in target.into_iter().chain(schema.get("items")).chain(variants) {
        for name in members(part, root) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;
    use crate::output::testing;

    #[derive(Serialize, JsonSchema)]
    struct Row {
        r#ref: &'static str,
        #[serde(flatten)]
        inner: Inner,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent: Option<&'static str>,
    }

    #[derive(Serialize, JsonSchema)]
    struct Inner {
        cost_usd: f64,
    }

    fn rows() -> Vec<Row> {
        vec![
            Row { r#ref: "adhoc/1", inner: Inner { cost_usd: 0.5 }, agent: None },
            Row { r#ref: "release/12", inner: Inner { cost_usd: 1.25 }, agent: Some("box-1") },
        ]
    }

    fn written(encoding: Encoding, fields: &str) -> Outcome<String> {
        let fields = fields.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let (out, _, _) = testing::out(Format::Json, None);
        Encoder::new(encoding, fields).value(&rows(), false, out.stdout())
    }

    #[test]
    fn the_same_fields_can_be_had_in_every_encoding() {
        assert_eq!(
            written(Encoding::Json, "agent,ref").unwrap(),
            "[{\"agent\":null,\"ref\":\"adhoc/1\"},{\"agent\":\"box-1\",\"ref\":\"release/12\"}]\n"
        );
        assert_eq!(written(Encoding::Yaml, "cost_usd").unwrap(), "- cost_usd: 0.5\n- cost_usd: 1.25\n");
        assert_eq!(
            written(Encoding::Table, "ref,agent").unwrap(),
            "REF         AGENT\nadhoc/1     -\nrelease/12  box-1\n"
        );
    }

    #[test]
    fn a_dot_leads_to_a_member_of_a_member_and_is_checked_as_well() {
        #[derive(Serialize, JsonSchema)]
        struct Outer {
            inner: Inner,
        }
        let rows = vec![Outer { inner: Inner { cost_usd: 0.5 } }];
        let (out, _, _) = testing::out(Format::Json, None);
        let written = |field: &str| {
            Encoder::new(Encoding::Csv, vec![field.to_owned()]).value(&rows, false, out.stdout())
        };
        assert_eq!(written("inner.cost_usd").unwrap(), "inner.cost_usd\n0.5\n");
        assert!(written("inner.cost").unwrap_err().message().contains("there is no field"));
        assert!(written("outer.cost_usd").is_err());
    }

    #[test]
    fn a_field_that_is_not_there_is_named_with_those_that_are() {
        let failure = written(Encoding::Json, "agnet").unwrap_err();
        assert_eq!(
            failure.text(false),
            "error: there is no field \"agnet\"\nhelp:  did you mean \"agent\"?\n       there are agent, cost_usd, ref\n"
        );
        let (out, _, _) = testing::out(Format::Json, None);
        let encoder = Encoder::new(Encoding::Json, vec!["agnet".to_owned()]);
        let empty: Vec<Row> = Vec::new();
        assert!(encoder.value(&empty, false, out.stdout()).is_err(), "an empty list is no excuse");
    }
}
