//! Another workflow in the place of a task: found, bounded, and given its values. Knows `use` and `with`; refuses to know loops.

use super::super::definition::Definition;
use super::super::json::{Json, Node};
use super::super::problem::shown;
use super::super::reader::Reader;
use super::super::template::{self, Scope};
use super::super::values::Value;
use super::{Expander, MAX_DEPTH, Outer, Place};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use serde_json::Value as Plain;
use std::collections::BTreeMap;

impl Expander<'_, '_> {
    /// A workflow that a task brings in.
    pub(super) fn used(
        &mut self,
        place: &Place<'_>,
        scope: Scope<'_>,
        mut outer: Outer,
        tasks: &mut Vec<v1::TaskSpec>,
    ) -> Vec<String> {
        let source = &place.definition.source;
        let Some(node) = place.task.node.get("use") else { return Vec::new() };
        let name = node.as_text().unwrap_or_default();
        let refused = if self.stack.iter().any(|earlier| earlier == name) {
            Some(format!("`{}` would bring in itself: {} → {name}", shown(name), self.stack.join(" → ")))
        } else if self.stack.len() >= MAX_DEPTH {
            Some(format!("workflows within workflows, more than {MAX_DEPTH} deep"))
        } else {
            None
        };
        if let Some(message) = refused {
            self.problems.add(source, ErrorCode::InvalidWorkflow, node.at.clone(), message);
            return Vec::new();
        }
        let Some(used) = self.in_force.definition(name) else {
            let message = match self.in_force.is_broken(name) {
                true => format!("the workflow `{name}` is not in force: its file has mistakes"),
                false => format!("there is no workflow `{}`", shown(name)),
            };
            let known = self.in_force.names();
            self.problems.add(source, ErrorCode::NotFound, node.at.clone(), message).nearest(name, known);
            return Vec::new();
        };
        let values = self.with(place, scope, node, &used);
        let mut reader = Reader {
            source: &used.source,
            scope: Scope { parameters: &values, row: None, today: self.in_force.today() },
            problems: self.problems,
        };
        outer.workspace = reader.text(&used.root, "workspace").unwrap_or_default();
        if outer.workspace.is_empty() {
            outer.workspace.clone_from(&place.outer.workspace);
        }
        let expanded = self.workflow(&used, &values, &outer);
        tasks.extend(expanded.tasks);
        expanded.last
    }

    /// The values that a `use` gives.
    fn with(
        &mut self,
        place: &Place<'_>,
        scope: Scope<'_>,
        at: &Node,
        used: &Definition,
    ) -> BTreeMap<String, Value> {
        let source = &place.definition.source;
        let mut values = BTreeMap::new();
        let with = place.task.node.get("with");
        let members = match with.map(|node| (&node.json, node)) {
            Some((Json::Object(members), _)) => members.as_slice(),
            Some((_, node)) => {
                let message = format!("`with` must be an object, not {}", node.kind());
                self.problems.add(source, ErrorCode::InvalidField, node.at.clone(), message);
                &[]
            }
            None => &[],
        };
        for member in members {
            let name = member.name.as_str();
            let Some(parameter) = used.parameters.iter().find(|parameter| parameter.name == name) else {
                let message = format!("the workflow `{}` has no parameter `{}`", used.name, shown(name));
                let known = used.parameters.iter().map(|parameter| parameter.name.as_str());
                let noted =
                    self.problems.add(source, ErrorCode::UnknownField, member.name_at.clone(), message);
                noted.nearest(name, known);
                continue;
            };
            let mut reader = Reader { source, scope, problems: self.problems };
            let value = match reader.value(&member.value).map(|plain| parameter.take(&plain)) {
                None => Value::Unknown,
                Some(Ok(Value::One(Plain::String(name)))) => match row_slug(&scope, &member.value) {
                    Some(slug) => Value::Named { name, slug },
                    None => Value::One(Plain::String(name)),
                },
                Some(Ok(value)) => value,
                Some(Err(why)) => {
                    let message = format!("the parameter `{name}` of `{}` {why}", used.name);
                    reader.wrong(ErrorCode::InvalidField, &member.value.at, message, "");
                    Value::Unknown
                }
            };
            values.insert(name.to_owned(), value);
        }
        for parameter in &used.parameters {
            if values.contains_key(&parameter.name) {
                continue;
            }
            if parameter.default().is_none() {
                let message =
                    format!("the workflow `{}` needs the parameter `{}`", used.name, parameter.name);
                self.problems
                    .add(source, ErrorCode::InvalidWorkflow, at.at.clone(), message)
                    .help(format!("under `with`: {}", parameter.asked()));
            }
            values.insert(parameter.name.clone(), parameter.default().unwrap_or(Value::Unknown));
        }
        values
    }
}

/// The slug of the row whose name is handed on as it is: what uses it names the same files.
fn row_slug(scope: &Scope<'_>, node: &Node) -> Option<String> {
    scope.slug_of(template::sole_name(node.as_text()?)?)
}
