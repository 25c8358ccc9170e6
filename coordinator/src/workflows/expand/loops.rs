//! The rows of a loop, and which rows of two loops belong together. Knows `for_each`, `as` and `matching`; refuses to know what
//! a task does.

use super::super::json::{Json, Node};
use super::super::problem::shown;
use super::super::reader::Reader;
use super::super::template::{DATE, Found, Scope, is_name, sole_name};
use super::super::values::{Row, Value};
use super::{Expander, Group, LoopRow, MAX_TASKS, Place, UNKNOWN};
use orch_proto::codes::ErrorCode;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Expander<'_, '_> {
    /// The name of a row and the rows of a task's loop; one without a name where there is none.
    pub(super) fn rows(&mut self, place: &Place<'_>) -> Option<(Option<String>, Vec<LoopRow>)> {
        let source = &place.definition.source;
        let node = &place.task.node;
        let alias = node.get("as");
        let Some(each) = node.get("for_each") else {
            if let Some(alias) = alias {
                let message = "`as` means nothing without `for_each`";
                self.problems.add(source, ErrorCode::InvalidField, alias.at.clone(), message);
            }
            return Some((None, vec![None]));
        };
        let name = alias.map_or(Some("item"), Node::as_text);
        let taken = |name: &str| place.values.contains_key(name) || name == DATE;
        let Some(name) = name.filter(|name| is_name(name) && !taken(name)) else {
            let at = alias.map_or_else(|| each.at.clone(), |alias| alias.at.clone());
            let message = "`as` must be a name of letters, digits, `_` and `-` that no parameter has";
            self.problems.add(source, ErrorCode::InvalidName, at, message);
            return None;
        };
        let rows = self.list(place, each)?;
        Some((Some(name.to_owned()), rows))
    }

    /// The rows that `for_each` names or lists.
    fn list(&mut self, place: &Place<'_>, each: &Node) -> Option<Vec<LoopRow>> {
        let source = &place.definition.source;
        let scope = Scope { parameters: place.values, row: None, today: self.in_force.today() };
        let mut reader = Reader { source, scope, problems: self.problems };
        let rows: Arc<[Row]> = match each.as_text() {
            Some(text) => match sole_name(text).map(|name| scope.find(name, 0)) {
                Some(Ok(Found::Value(Value::Rows(rows)))) => Arc::clone(rows),
                Some(Ok(Found::Value(Value::Unknown))) => return Some(vec![None]),
                Some(Err(_)) => {
                    reader.fill(each, text);
                    return None;
                }
                Some(Ok(_)) | None => {
                    let message = "`for_each` must be a list, or name a parameter of type list or roster";
                    let help = format!("for example \"{{{{{}}}}}\"", text.trim_matches(['{', '}', ' ']));
                    reader.wrong(ErrorCode::InvalidField, &each.at, message, &help);
                    return None;
                }
            },
            None => {
                let plain = reader.value(each)?;
                let items = plain.as_array().map(Vec::as_slice).unwrap_or_default();
                let rows = items.iter().enumerate().map(|(index, item)| Row::read(index + 1, item));
                match rows.collect::<Result<Vec<_>, _>>() {
                    Ok(rows) if each.items().is_some() => rows.into_iter().flatten().collect(),
                    Ok(_) => {
                        let message = format!("`for_each` must be a list, not {}", each.kind());
                        reader.wrong(ErrorCode::InvalidField, &each.at, message, "");
                        return None;
                    }
                    Err(why) => {
                        reader.wrong(ErrorCode::InvalidField, &each.at, why, "");
                        return None;
                    }
                }
            }
        };
        self.distinct(place, each, &rows).then(|| rows.iter().cloned().map(Some).collect())
    }

    /// Whether each row can have a task of its own, and all together fit into the run.
    fn distinct(&mut self, place: &Place<'_>, each: &Node, rows: &[Row]) -> bool {
        let source = &place.definition.source;
        if rows.is_empty() {
            let message =
                format!("`for_each` of task `{}` has no rows: there is nothing to do", place.task.id);
            self.problems.add(source, ErrorCode::TooManyTasks, each.at.clone(), message);
            return false;
        }
        // Said before anything is made.
        if self.tasks.saturating_add(rows.len()) > MAX_TASKS {
            self.stop(place, self.tasks.saturating_add(rows.len()));
            return false;
        }
        let mut slugs: BTreeMap<&str, &Row> = BTreeMap::new();
        let before = self.problems.count();
        for row in rows {
            if let Some(first) = slugs.insert(&row.slug, row) {
                let message = format!(
                    "rows {} ({}) and {} ({}) would both be `{}-{}`",
                    first.number,
                    shown(&first.name),
                    row.number,
                    shown(&row.name),
                    place.task.id,
                    row.slug
                );
                self.problems
                    .add(source, ErrorCode::DuplicateTaskId, each.at.clone(), message)
                    .help("take one away, or give one a `slug` of its own");
            }
        }
        self.problems.count() == before
    }

    /// Whether each row depends only on the tasks of the same row; says so when the rows are not the same.
    pub(super) fn matching(&mut self, place: &Place<'_>, rows: &[LoopRow], groups: &[Group]) -> bool {
        let Some(node) = place.task.node.get("matching") else { return false };
        let source = &place.definition.source;
        let looped = place.task.node.get("for_each").is_some();
        let Json::Bool(wanted) = node.json else {
            let message = format!("`matching` must be true or false, not {}", node.kind());
            self.problems.add(source, ErrorCode::InvalidField, node.at.clone(), message);
            return false;
        };
        let pairs: Vec<_> =
            place.task.dependencies.iter().filter(|(index, _)| groups[*index].looped).collect();
        if wanted && (!looped || pairs.is_empty()) {
            let message = "`matching` pairs the rows of two loops: this task and one of its dependencies need a `for_each`";
            self.problems.add(source, ErrorCode::InvalidField, node.at.clone(), message);
            return false;
        }
        for (index, at) in pairs.iter().filter(|_| wanted) {
            let theirs = groups[*index].instances.iter().map(|(slug, _)| slug.as_str());
            let ours = rows.iter().map(|row| row.as_ref().map_or(UNKNOWN, |row| &row.slug));
            let unknown = theirs.clone().chain(ours.clone()).any(|slug| slug == UNKNOWN);
            if !unknown && !theirs.eq(ours) {
                let id = &place.definition.tasks[*index].id;
                let message =
                    format!("with `matching`, `{}` and `{id}` must loop over the same rows", place.task.id);
                self.problems.add(source, ErrorCode::UnknownDependency, at.clone(), message);
                return false;
            }
        }
        wanted
    }
}
