//! The published schema says what the parser takes: the same fields and words, and every shipped workflow fits it.
//! The validator here knows the keywords that the schema uses, and fails on any other.

use super::*;
use crate::prompts::Catalogue;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// Whether `value` fits `schema`, whose references are within `root`.
fn fits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, wanted) in schema.as_object().unwrap() {
        let holds = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                fits(root, root.pointer(pointer).unwrap(), value)?;
                true
            }
            "type" => {
                let one = vec![wanted.clone()];
                wanted.as_array().unwrap_or(&one).iter().any(|kind| is_of(value, kind.as_str().unwrap()))
            }
            "anyOf" => wanted.as_array().unwrap().iter().any(|one| fits(root, one, value).is_ok()),
            "enum" => wanted.as_array().unwrap().contains(value),
            "required" => {
                wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "properties" => {
                for (name, inner) in wanted.as_object().unwrap() {
                    if let Some(member) = value.get(name) {
                        fits(root, inner, member).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, member) in value.as_object().into_iter().flatten() {
                    if known.is_some_and(|known| known.contains_key(name)) {
                        continue;
                    }
                    if wanted == &json!(false) {
                        return Err(format!("has no {name}"));
                    }
                    fits(root, wanted, member).map_err(|why| format!("{name}: {why}"))?;
                }
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    fits(root, wanted, item).map_err(|why| format!("{index}: {why}"))?;
                }
                true
            }
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= wanted.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= wanted.as_u64().unwrap()),
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
            "exclusiveMinimum" => value.as_f64().is_none_or(|number| number > wanted.as_f64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| matches_pattern(wanted.as_str().unwrap(), text)),
            other => panic!("the schema uses {other}, which this test does not know"),
        };
        if !holds {
            return Err(format!("{keyword} {wanted} does not hold of {value}"));
        }
    }
    Ok(())
}

/// The four patterns of the schema.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let of = |first: fn(char) -> bool, rest: fn(char) -> bool| {
        text.len() <= 63 && text.starts_with(first) && text.chars().all(rest)
    };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match pattern {
        r"\{\{" => text.contains("{{"),
        "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$" => of(|c| c.is_ascii_alphanumeric(), word),
        "^[A-Za-z_][A-Za-z0-9_-]{0,62}$" => of(|c| c.is_ascii_alphabetic() || c == '_', word),
        "^[a-z][a-z0-9-]{0,62}$" => {
            of(|c| c.is_ascii_lowercase(), |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        }
        other => panic!("pattern {other}"),
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    }
}

#[test]
fn every_shipped_workflow_fits_the_schema() {
    let (schema, catalogue) = (schema(), Catalogue::load(&[]).unwrap());
    let files: Vec<_> = catalogue.workflow_files().flatten().collect();
    assert!(files.len() >= 8, "{}", files.len());
    for file in files {
        let value: Value = serde_json::from_str(file.text.as_ref().unwrap()).unwrap();
        fits(&schema, &schema, &value).unwrap_or_else(|why| panic!("{}: {why}", file.path));
        assert_eq!(value["$schema"], "../schemas/workflow.json", "{}", file.path);
        assert_eq!(value["name"], file.stem.as_str(), "a shipped workflow is named like its file");
    }
}

#[test]
fn the_schema_has_exactly_the_fields_and_words_of_the_parser() {
    let schema = schema();
    let names = |pointer: &str| {
        let object = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}")).as_object().unwrap();
        object.keys().cloned().collect::<BTreeSet<_>>()
    };
    let set = |fields: &[&str]| fields.iter().map(|field| (*field).to_owned()).collect::<BTreeSet<_>>();
    for (pointer, fields) in [
        ("/properties", definition::FIELDS),
        ("/properties/defaults/properties", task::DEFAULT_FIELDS),
        ("/$defs/parameter/properties", parameters::FIELDS),
        ("/$defs/task/properties", task::FIELDS),
        ("/$defs/condition/properties", task::CONDITION_FIELDS),
        ("/$defs/gates/properties", checks::GATE_FIELDS),
        ("/$defs/gates/properties/commands/items/properties", checks::COMMAND_FIELDS),
        ("/$defs/gates/properties/review/properties", checks::REVIEW_FIELDS),
        ("/$defs/publication/properties", checks::PUBLISH_FIELDS),
    ] {
        assert_eq!(names(pointer), set(fields), "{pointer}");
    }
    let words = |pointer: &str| {
        let list = schema.pointer(pointer).unwrap().as_array().unwrap();
        list.iter().map(|word| word.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(words("/$defs/parameter/properties/type/enum"), set(parameters::TYPES));
    let tests: Vec<&str> = task::TESTS.iter().map(|(word, _)| *word).collect();
    assert_eq!(words("/$defs/condition/properties/test/enum"), set(&tests));
}

#[test]
fn every_field_of_the_schema_is_described() {
    fn walk(at: &str, schema: &Value) {
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let described = field.get("description").or_else(|| field.get("$ref")).is_some();
            assert!(described, "{at}/{name} has no description");
            walk(&format!("{at}/{name}"), field);
            walk(&format!("{at}/{name}[]"), field.get("items").unwrap_or(&Value::Null));
        }
    }
    let schema = schema();
    walk("", &schema);
    for (name, inner) in schema["$defs"].as_object().unwrap() {
        assert!(inner.get("description").is_some(), "{name}");
        walk(name, inner);
    }
}

#[test]
fn what_the_schema_refuses_the_parser_refuses_too() {
    let schema = schema();
    let in_force = Workflows::load([], ["marie"]);
    for bad in [
        json!({"name": "w"}),
        json!({"name": "W", "tasks": [{"id": "a", "run": ["x"]}]}),
        json!({"name": "w", "tasks": []}),
        json!({"name": "w", "tasks": [{"run": ["x"]}]}),
        json!({"name": "w", "tasks": [{"id": "a", "run": []}]}),
        json!({"name": "w", "tasks": [{"id": "a", "run": ["x"], "after": "ever"}]}),
        json!({"name": "w", "tasks": [{"id": "a", "run": ["x"], "retries": -1}]}),
        json!({"name": "w", "tasks": [{"id": "a", "run": ["x"], "gates": {"repairs": 11}}]}),
        json!({"name": "w", "tasks": [{"id": "a", "run": ["x"], "budget_usd": 1, "x": 1}]}),
        json!({"name": "w", "tasks": [{"id": "a", "run": ["x"], "for_each": []}]}),
        json!({"name": "w", "budget_usd": 0, "tasks": [{"id": "a", "run": ["x"]}]}),
        json!({"name": "w", "on_failure": "stop", "tasks": [{"id": "a", "run": ["x"]}]}),
        json!({"name": "w", "parameters": {"p": {"type": "text"}}, "tasks": [{"id": "a", "run": ["x"]}]}),
    ] {
        assert!(fits(&schema, &schema, &bad).is_err(), "{bad}");
        let call = v1::WorkflowCall { definition: bad.to_string(), ..v1::WorkflowCall::default() };
        assert!(compile(&call, &in_force).is_err(), "{bad}");
    }
}
