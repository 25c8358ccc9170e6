//! Workflows as files: what tells them from runs, what of them shows without a coordinator, and fields put in place of
//! others without touching the rest. Knows the published schema and places; what a workflow means, the coordinator knows.

use orch_proto::codes::ErrorCode;
use orch_proto::v1::PromptProblem;
use serde_json::Value as Plain;

use super::diagnostic::Diagnostic;
use super::json::{self, Spanned, Value};
use super::shape;
use crate::plan::place::line_and_column;

/// The format of a workflow as JSON Schema.
pub(crate) const SCHEMA: &str = include_str!("../../../prompts/schemas/workflow.json");

/// Fields that only a workflow has.
const OF_A_WORKFLOW: [&str; 3] = ["parameters", "defaults", "$schema"];
/// Fields that only a task of a workflow has.
const OF_ITS_TASKS: [&str; 5] = ["id", "use", "for_each", "run", "with"];

/// Whether a file is a workflow rather than a run: it has parameters or defaults, or tasks that go by `id`.
pub(crate) fn is_workflow(text: &str) -> bool {
    let Ok(Plain::Object(members)) = serde_json::from_str::<Plain>(text) else { return false };
    let has = |value: &Plain, names: &[&str]| names.iter().any(|name| value.get(name).is_some());
    OF_A_WORKFLOW.iter().any(|name| members.contains_key(*name))
        || members
            .get("tasks")
            .and_then(Plain::as_array)
            .is_some_and(|tasks| tasks.iter().any(|task| has(task, &OF_ITS_TASKS)))
}

/// What of a workflow does not fit the published schema.
pub(crate) fn against_schema(file: &str, text: &str) -> Vec<PromptProblem> {
    let problems = match json::read(text) {
        Err(problem) => vec![problem],
        Ok(document) => match serde_json::from_str(SCHEMA) {
            Ok(schema) => shape::check(text, &schema, &document),
            Err(error) => vec![Diagnostic::new(ErrorCode::Internal, 0..0, error.to_string())],
        },
    };
    problems.into_iter().map(|problem| told(file, text, problem)).collect()
}

fn told(file: &str, text: &str, problem: Diagnostic) -> PromptProblem {
    let (line, column) = line_and_column(text, problem.span.start);
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    PromptProblem {
        path: file.to_owned(),
        line: number(line),
        column: number(column),
        message: problem.message,
        help: problem.note,
        code: problem.code.code().to_owned(),
    }
}

/// The text with fields of the whole set to other values, each JSON: everything else stays as it is, and where it is. A
/// text that is no object stays what it is; whoever reads it will say so.
pub(crate) fn with_fields(text: &str, fields: &[(&str, String)]) -> String {
    let Ok(Spanned { value: Value::Object(members), span }) = json::read(text) else {
        return text.to_owned();
    };
    let mut edits: Vec<(std::ops::Range<usize>, String)> = Vec::new();
    for (name, value) in fields {
        match members.iter().find(|(key, _)| key.name == *name) {
            Some((_, old)) => edits.push((old.span.clone(), value.clone())),
            None => {
                let comma = if members.is_empty() { "" } else { "," };
                let at = span.start + 1;
                edits.push((at..at, format!("\"{name}\": {value}{comma}")));
            }
        }
    }
    edits.sort_by_key(|(at, _)| std::cmp::Reverse(at.start));
    let mut text = text.to_owned();
    for (at, value) in edits {
        text.replace_range(at, &value);
    }
    text
}

/// An item with its line and column, from 1.
pub(crate) type Item = (usize, usize, Plain);

/// A document with the lines of its items: rows of a list, each with line and column.
///
/// # Errors
/// What is no JSON, as line, column and message.
pub(crate) fn items(text: &str) -> Result<Option<Vec<Item>>, (usize, usize, String)> {
    let document = json::read(text).map_err(|problem| {
        let (line, column) = line_and_column(text, problem.span.start);
        (line, column, problem.message)
    })?;
    let Value::List(items) = document.value else { return Ok(None) };
    let mut found = Vec::with_capacity(items.len());
    // Counted on from the item before: a large file has as many lines as items.
    let (mut at, mut line, mut start) = (0, 1, 0);
    for item in items {
        for (offset, _) in text[at..item.span.start].match_indices('\n') {
            line += 1;
            start = at + offset + 1;
        }
        at = item.span.start;
        let column = text[start..at].chars().count() + 1;
        let value =
            serde_json::from_str(&text[item.span]).map_err(|error| (line, column, error.to_string()))?;
        found.push((line, column, value));
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workflows_are_told_from_runs() {
        for text in [
            r#"{"parameters":{},"tasks":[]}"#,
            r#"{"name":"a","tasks":[{"id":"b","worker":"anga"}]}"#,
            r#"{"tasks":[{"use":"c"}]}"#,
        ] {
            assert!(is_workflow(text), "{text}");
        }
        for text in [
            "[]",
            "{",
            r#"{"tasks":[{"task_id":"a","runner":"noop"}]}"#,
            r#"{"request":{"text":"parameters"}}"#,
        ] {
            assert!(!is_workflow(text), "{text}");
        }
    }

    #[test]
    fn shipped_workflows_fit_and_mistakes_have_places() {
        let dir = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../prompts/workflows"));
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert_eq!(against_schema("a", &text), [], "{}", path.display());
                assert!(is_workflow(&text));
            }
        }
        let text = "{\n  \"name\": \"Up\",\n  \"on_failure\": \"ignore\",\n  \"tasks\": [\n    {\"id\": \"a\", \"wrker\": \"anga\", \"retries\": -1}\n  ]\n}";
        let found = against_schema("a.json", text);
        let told: Vec<_> = found.iter().map(|p| (p.line, p.column, p.code.as_str())).collect();
        assert_eq!(told, [(2, 11, "E0101"), (3, 17, "E0101"), (5, 17, "E0111"), (5, 45, "E0101")]);
        assert!(found[2].help.contains("worker"), "{}", found[2].help);
        assert!(found[3].message.contains("at least 0; or"), "{}", found[3].message);
        assert_eq!(against_schema("a", "{")[0].code, "E0112");
        assert_eq!(against_schema("a", "{\"tasks\":[],\"tasks\":[]}").len(), 4);
    }

    #[test]
    fn fields_are_set_where_they_are_and_nothing_else_moves() {
        let text = "{\n  \"max_parallel\": \"{{p}}\",\n  \"tasks\": []\n}";
        let set = with_fields(
            text,
            &[("max_parallel", "2".to_owned()), ("on_failure", "\"fail_fast\"".to_owned())],
        );
        assert_eq!(set, "{\"on_failure\": \"fail_fast\",\n  \"max_parallel\": 2,\n  \"tasks\": []\n}");
        assert_eq!(with_fields("{}", &[("a", "1".to_owned())]), "{\"a\": 1}");
        assert_eq!(with_fields("[", &[("a", "1".to_owned())]), "[");
    }

    #[test]
    fn items_have_lines() {
        let found = items("[\n  \"é\", 1,\n  {\"name\": \"b\"}\n]").unwrap().unwrap();
        let places: Vec<_> = found.iter().map(|(line, column, _)| (*line, *column)).collect();
        assert_eq!(places, [(2, 3), (2, 8), (3, 3)]);
        assert!(items("{}").unwrap().is_none());
        assert_eq!(items("[1,\n,]").unwrap_err().0, 2);
    }
}
