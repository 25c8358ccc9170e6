//! From a workflow and a roster to one workflow over all rows. Pure. Rows become the roster parameter if there is one;
//! otherwise each task is made once for each row, and what names a column takes the row's field. What comes out is a
//! workflow like any other, complete in itself.

use std::collections::{BTreeMap, BTreeSet};

use orch_proto::slug::slug;
use serde_json::{Map, Value, json};

use super::roster::{Roster, as_text, is_blank};
use crate::commands::workflows::source::{rosters, several};
use crate::failure::{Failure, Outcome};
use crate::output::safe::one_line;

/// Longest name told.
const TOLD: usize = 80;
/// Fields of a task that hold no templates, or names of tasks.
const PLAIN: [&str; 4] = ["id", "as", "output_schema", "dependencies"];

/// A workflow over all rows of a roster.
#[derive(Debug)]
pub(super) struct Made {
    /// The definition, where it is another than the one it was made from.
    pub(super) definition: Option<Value>,
    /// Its parameters, the rows among them.
    pub(super) parameters: Map<String, Value>,
    /// The same as one file: parameters are defaults.
    pub(super) whole: Value,
    /// What somebody should know.
    pub(super) notes: Vec<String>,
}

/// Makes it.
///
/// # Errors
/// Wrong usage: roster and workflow do not go together.
pub(super) fn made(definition: &Value, given: &Map<String, Value>, roster: &Roster) -> Outcome<Made> {
    let rosters = rosters(definition, given);
    match rosters.as_slice() {
        [name] => {
            let mut parameters = given.clone();
            parameters.insert(name.clone(), roster.value());
            let whole = with_defaults(definition, &parameters);
            Ok(Made { definition: None, parameters, whole, notes: Vec::new() })
        }
        [] => looped(definition, given, roster),
        [..] => Err(several(&rosters)),
    }
}

/// A definition whose parameters have these values where nothing else is given.
fn with_defaults(definition: &Value, values: &Map<String, Value>) -> Value {
    let mut whole = definition.clone();
    for (name, value) in values {
        if let Some(about) = whole["parameters"].get_mut(name).and_then(Value::as_object_mut) {
            about.insert("default".to_owned(), value.clone());
        }
    }
    whole
}

/// How parameters become fields of rows.
struct Columns {
    /// Name of the row in templates.
    row: String,
    /// Parameters that differ from row to row.
    varying: BTreeSet<String>,
    /// Those whose slug is asked for somewhere, with the field that holds it.
    slugs: BTreeMap<String, String>,
}

fn looped(definition: &Value, given: &Map<String, Value>, roster: &Roster) -> Outcome<Made> {
    let declared = definition["parameters"].as_object().cloned().unwrap_or_default();
    let mut rows: Vec<Map<String, Value>> = roster.rows.iter().map(|row| row.fields.clone()).collect();
    let (mut varying, mut constant) = (BTreeSet::new(), given.clone());
    for (name, about) in &declared {
        if !rows.iter().any(|row| row.contains_key(name)) {
            continue;
        }
        if given.contains_key(name) {
            return Err(Failure::usage(format!(
                "{name:?} is a column of {} and given by flags",
                roster.file
            ))
            .help("say it in one place"));
        }
        fill(name, about, &mut rows, roster)?;
        match rows.first().and_then(|row| row.get(name)).cloned() {
            // The same in every row: it stays a parameter, and may stand where there is no row.
            Some(first) if name != "name" && rows.iter().all(|row| row.get(name) == Some(&first)) => {
                constant.insert(name.clone(), first);
            }
            Some(_) | None => {
                varying.insert(name.clone());
            }
        }
    }
    if varying.is_empty() {
        return Err(no_columns(&declared, roster));
    }
    let free = |wanted: &[&str]| {
        wanted
            .iter()
            .find(|name| !declared.contains_key(**name))
            .map_or_else(|| "rows-of-the-roster".to_owned(), |name| (*name).to_owned())
    };
    let parameter = free(&["roster", "rows"]);
    let mut columns = Columns { row: free(&["item", "row"]), varying, slugs: BTreeMap::new() };
    let (mut made, mut notes) = (definition.clone(), Vec::new());
    head(&mut made, &columns, &mut notes)?;
    if let Some(defaults) = made.get_mut("defaults") {
        columns.map_all(defaults);
    }
    for task in made["tasks"].as_array_mut().into_iter().flatten() {
        columns.map_task(task, &parameter)?;
    }
    for (name, field) in &columns.slugs {
        for row in &mut rows {
            let text = row.get(name).map(as_text).unwrap_or_default();
            row.insert(field.clone(), Value::from(slug(&text)));
        }
    }
    if let Some(declared) = made["parameters"].as_object_mut() {
        declared.retain(|name, _| !columns.varying.contains(name));
        let about = json!({"type": "roster", "description": "Rows over which every task is made once."});
        declared.insert(parameter.clone(), about);
    }
    let mut parameters = constant;
    parameters.insert(parameter, rows.into_iter().map(Value::Object).collect());
    Ok(Made { whole: with_defaults(&made, &parameters), definition: Some(made), parameters, notes })
}

/// Gives a parameter's default to rows that say nothing, and refuses what the parameter does not take.
fn fill(name: &str, about: &Value, rows: &mut [Map<String, Value>], roster: &Roster) -> Outcome<()> {
    let allowed: Vec<String> = about["values"].as_array().into_iter().flatten().map(as_text).collect();
    for (row, read) in rows.iter_mut().zip(&roster.rows) {
        let wrong = |message: String| Failure::usage(format!("{}:{}: {message}", roster.file, read.line));
        if row.get(name).is_none_or(is_blank) {
            match about.get("default") {
                Some(default) => {
                    row.insert(name.to_owned(), default.clone());
                }
                None => {
                    let who = one_line(&read.name, TOLD);
                    return Err(wrong(format!("{who} has no {name:?}, which must be given")));
                }
            }
        }
        let text = row.get(name).map(as_text).unwrap_or_default();
        if !allowed.is_empty() && !allowed.contains(&text) {
            let message =
                format!("{name:?} must be one of {}, not {:?}", allowed.join(", "), one_line(&text, TOLD));
            return Err(wrong(message));
        }
    }
    Ok(())
}

fn no_columns(declared: &Map<String, Value>, roster: &Roster) -> Failure {
    let mut columns: Vec<_> =
        roster.rows.iter().flat_map(|row| row.fields.keys()).map(|name| one_line(name, TOLD)).collect();
    columns.sort_unstable();
    columns.dedup();
    let parameters: Vec<_> = declared.keys().map(|name| one_line(name, TOLD)).collect();
    let failure =
        Failure::usage("the workflow has no roster parameter, and none that differs from row to row");
    failure
        .help(format!("columns of the roster: {}", columns.join(", ")))
        .and_help(format!("parameters of the workflow: {}", parameters.join(", ")))
        .and_help("name a column as a parameter, or give the workflow a parameter of type roster")
}

/// What holds for the whole run has no row: labels that need one are left out, the rest is refused.
fn head(made: &mut Value, columns: &Columns, notes: &mut Vec<String>) -> Outcome<()> {
    for field in ["workspace", "max_parallel"] {
        if made.get(field).is_some_and(|value| columns.needed_by(value)) {
            return Err(Failure::usage(format!("`{field}` of the workflow differs from row to row"))
                .help(format!("make it the same in every row, or give the {field} to each task")));
        }
    }
    if let Some(labels) = made.get_mut("labels").and_then(Value::as_object_mut) {
        labels.retain(|name, value| {
            let stays = !columns.needed_by(value);
            if !stays {
                notes.push(format!("the label {name} differs from row to row and is left out"));
            }
            stays
        });
    }
    Ok(())
}

impl Columns {
    /// Whether a text needs a row.
    fn needed_by(&self, value: &Value) -> bool {
        let Value::String(text) = value else { return false };
        let mut needed = false;
        markers(text, |path| {
            let name = path.split('.').next().unwrap_or_default();
            needed |= self.varying.contains(name);
            None
        });
        needed
    }

    fn map_task(&mut self, task: &mut Value, parameter: &str) -> Outcome<()> {
        let Some(task) = task.as_object_mut() else { return Ok(()) };
        if task.contains_key("for_each") {
            let id = task.get("id").map(as_text).unwrap_or_default();
            return Err(Failure::usage(format!("the task `{}` has a loop of its own", one_line(&id, TOLD)))
                .help("give the workflow a parameter of type roster, and loop over that: its rows are then the roster's"));
        }
        for (_, value) in task.iter_mut().filter(|(name, _)| !PLAIN.contains(&name.as_str())) {
            self.map_all(value);
        }
        task.insert("for_each".to_owned(), Value::from(format!("{{{{{parameter}}}}}")));
        task.insert("as".to_owned(), Value::from(self.row.as_str()));
        if task.get("dependencies").and_then(Value::as_array).is_some_and(|needs| !needs.is_empty()) {
            task.insert("matching".to_owned(), Value::from(true));
        }
        Ok(())
    }

    /// Every text of a value.
    fn map_all(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.map(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.map_all(item)),
            Value::Object(members) => members.values_mut().for_each(|value| self.map_all(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// `{{class}}` becomes `{{item.class}}` where rows have a class.
    fn map(&mut self, text: &str) -> String {
        let Self { row, varying, slugs } = self;
        markers(text, |path| {
            let (name, field) =
                path.split_once('.').map_or((path, None), |(name, field)| (name, Some(field)));
            if !varying.contains(name) {
                return None;
            }
            Some(match (name, field) {
                ("name", Some("slug")) => format!("{{{{{row}.slug}}}}"),
                (_, Some("slug")) => {
                    let field = slugs.entry(name.to_owned()).or_insert_with(|| format!("{name}_slug"));
                    format!("{{{{{row}.{field}}}}}")
                }
                (_, _) => format!("{{{{{row}.{name}}}}}"),
            })
        })
    }
}

/// The text with some of its `{{markers}}` replaced; `{{{{` is a plain `{{` and stays one.
fn markers(text: &str, mut replace: impl FnMut(&str) -> Option<String>) -> String {
    let mut mapped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        mapped.push_str(&rest[..open]);
        rest = &rest[open..];
        if rest.starts_with("{{{{") {
            mapped.push_str("{{{{");
            rest = &rest[4..];
            continue;
        }
        let Some(close) = rest.find("}}") else { break };
        let marker = &rest[..close + 2];
        match replace(marker[2..close].trim()) {
            Some(other) => mapped.push_str(&other),
            None => mapped.push_str(marker),
        }
        rest = &rest[close + 2..];
    }
    mapped.push_str(rest);
    mapped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::batch::roster::Row;

    fn roster(rows: &[Value]) -> Roster {
        let row = |(index, value): (usize, &Value)| {
            let fields = value.as_object().unwrap().clone();
            let name = as_text(&fields["name"]);
            Row { line: index + 2, slug: slug(&name), name, fields }
        };
        Roster { rows: rows.iter().enumerate().map(row).collect(), skipped: 0, file: "r.csv".into() }
    }

    fn given(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn rows_become_the_roster_parameter() {
        let definition =
            json!({"name":"a","parameters":{"students":{"type":"roster"},"class":{}},"tasks":[]});
        let made =
            made(&definition, &given(json!({"class": "jazz"})), &roster(&[json!({"name": "Emma"})])).unwrap();
        assert!(made.definition.is_none());
        assert_eq!(Value::Object(made.parameters), json!({"class":"jazz","students":["Emma"]}));
        assert_eq!(made.whole["parameters"]["students"]["default"], json!(["Emma"]));
        assert_eq!(made.whole["parameters"]["class"]["default"], json!("jazz"));
    }

    #[test]
    fn parameters_that_rows_have_are_looped_over() {
        let definition = json!({
            "name": "one",
            "parameters": {"name": {}, "class": {"default": "hip-hop"}, "level": {"values": ["low", "high"]}, "tries": {"type": "integer", "default": 1}},
            "labels": {"class": "{{class}}", "who": "{{name}}", "n": "{{tries}}"},
            "tasks": [
                {"id": "a", "worker": "marie", "description": "{{name}} {{class.slug}} {{ level }} {{{{name}} {{date}}", "retries": "{{tries}}"},
                {"id": "b", "worker": "marie", "dependencies": ["a"], "description": "x", "publish": [{"artifact": "n", "to": "s/{{name.slug}}/{date}"}]}
            ]
        });
        let rows = [
            json!({"name": "Emma", "class": "Jazz 2", "level": "low", "extra": "x"}),
            json!({"name": "Zoé", "class": "", "level": "high", "extra": ""}),
        ];
        let made = made(&definition, &Map::new(), &roster(&rows)).unwrap();
        let workflow = made.definition.unwrap();
        let task = &workflow["tasks"][0];
        assert_eq!(
            task["description"],
            "{{item.name}} {{item.class_slug}} {{item.level}} {{{{name}} {{date}}"
        );
        assert_eq!(
            (&task["for_each"], &task["as"], &task["retries"]),
            (&json!("{{roster}}"), &json!("item"), &json!("{{tries}}"))
        );
        assert!(task.get("matching").is_none());
        assert_eq!(workflow["tasks"][1]["matching"], true);
        assert_eq!(workflow["tasks"][1]["publish"][0]["to"], "s/{{item.slug}}/{date}");
        assert_eq!(workflow["labels"], json!({"n": "{{tries}}"}));
        assert_eq!(made.notes.len(), 2);
        let rows = &made.parameters["roster"];
        assert_eq!(
            (&rows[0]["class_slug"], &rows[1]["class"], &rows[1]["class_slug"]),
            (&json!("jazz-2"), &json!("hip-hop"), &json!("hip-hop"))
        );
        let left: Vec<_> = workflow["parameters"].as_object().unwrap().keys().collect();
        assert_eq!(left, ["roster", "tries"]);
    }

    #[test]
    fn a_column_that_is_the_same_in_every_row_stays_a_parameter() {
        let definition = json!({"parameters":{"name":{},"class":{}},"workspace":"{{class}}","tasks":[{"id":"a","worker":"marie","description":"{{name}} {{class}}"}]});
        let rows = [json!({"name": "Emma", "class": "jazz"}), json!({"name": "Zoé", "class": "jazz"})];
        let made = made(&definition, &Map::new(), &roster(&rows)).unwrap();
        assert_eq!(made.parameters["class"], "jazz");
        assert_eq!(made.definition.unwrap()["tasks"][0]["description"], "{{item.name}} {{class}}");
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_to_do() {
        let one = |value: Value| {
            made(
                &value,
                &Map::new(),
                &roster(&[
                    json!({"name": "Emma", "level": "up", "ws": "a"}),
                    json!({"name": "Zoé", "level": "", "ws": "b"}),
                ]),
            )
            .unwrap_err()
            .text(false)
        };
        let told = one(json!({"parameters": {"name": {}}, "tasks": [{"id": "x", "for_each": ["a"]}]}));
        assert!(told.contains("`x` has a loop of its own") && told.contains("type roster"), "{told}");
        let told = one(json!({"parameters": {"topic": {}}, "tasks": []}));
        assert!(told.contains("columns of the roster: level, name, ws") && told.contains("topic"), "{told}");
        let told = one(json!({"parameters": {"level": {}}, "tasks": []}));
        assert!(told.contains("r.csv:3: Zoé has no \"level\""), "{told}");
        let told = one(json!({"parameters": {"level": {"values": ["low"], "default": "low"}}, "tasks": []}));
        assert!(told.contains("r.csv:2: \"level\" must be one of low, not \"up\""), "{told}");
        let told = one(json!({"parameters": {"ws": {}}, "workspace": "{{ws}}", "tasks": []}));
        assert!(told.contains("`workspace` of the workflow differs"), "{told}");
        let told =
            one(json!({"parameters": {"a": {"type": "roster"}, "b": {"type": "roster"}}, "tasks": []}));
        assert!(told.contains("several roster parameters: a, b"), "{told}");
        let both = made(
            &json!({"parameters": {"name": {}}}),
            &given(json!({"name": "x"})),
            &roster(&[json!({"name": "Emma"})]),
        );
        assert!(both.unwrap_err().text(false).contains("say it in one place"));
    }
}
