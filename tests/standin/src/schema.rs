//! Knows how to make a minimal instance of a JSON Schema (the common words only) for a rehearsal's
//! structured answer, and with [`validate`] how the CLI words a mismatch. Refuses to be a full
//! validator: words it does not know constrain nothing.

use serde_json::{Map, Value, json};

pub mod validate;

/// Depth at which a recursive schema is cut off with null.
const MAX_DEPTH: usize = 24;

/// A minimal instance of `schema`; `label` is the text put where a string is free.
pub fn instance(schema: &Value, label: &str) -> Value {
    Generator { root: schema, label }.make(schema, "", 0)
}

/// The schema that `schema` stands for: follows `$ref` within `root`, a bounded number of times.
fn dereference<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut at = schema;
    for _ in 0..MAX_DEPTH {
        let Some(target) = at.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')) else {
            break;
        };
        let Some(found) = root.pointer(target) else { break };
        at = found;
    }
    at
}

struct Generator<'a> {
    root: &'a Value,
    label: &'a str,
}

impl Generator<'_> {
    fn make(&self, schema: &Value, name: &str, depth: usize) -> Value {
        if depth > MAX_DEPTH {
            return Value::Null;
        }
        let schema = dereference(self.root, schema);
        if let Some(fixed) = schema.get("const").or_else(|| schema.get("default")) {
            return fixed.clone();
        }
        if let Some(first) = schema.get("enum").and_then(Value::as_array).and_then(|values| values.first()) {
            return first.clone();
        }
        if let Some(choice) = ["anyOf", "oneOf"].iter().find_map(|word| schema.get(word)?.as_array()?.first())
        {
            return self.make(choice, name, depth + 1);
        }
        if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
            return self.all_of(schema, parts, depth);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "string" => json!(self.string(schema, name)),
            "integer" => json!(number(schema).ceil() as i64),
            "number" => json!(number(schema)),
            "boolean" => json!(false),
            _ => Value::Null,
        }
    }

    /// The parts' instances laid over each other, where they are objects.
    fn all_of(&self, schema: &Value, parts: &[Value], depth: usize) -> Value {
        let mut merged = match kind(schema) {
            "object" => self.object(schema, depth).as_object().cloned().unwrap_or_default(),
            _ => Map::new(),
        };
        for part in parts {
            match self.make(part, "", depth + 1) {
                Value::Object(fields) => merged.extend(fields),
                other @ (Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_)) => {
                    return other;
                }
            }
        }
        Value::Object(merged)
    }

    fn object(&self, schema: &Value, depth: usize) -> Value {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let fields = required.filter_map(Value::as_str).map(|name| {
            let value = properties
                .get(name)
                .map_or_else(|| json!(self.label), |property| self.make(property, name, depth + 1));
            (name.to_owned(), value)
        });
        Value::Object(fields.collect())
    }

    fn array(&self, schema: &Value, name: &str, depth: usize) -> Value {
        let count = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0).min(1000);
        let any = json!({"type": "string"});
        let items = schema.get("items").unwrap_or(&any);
        (0..count).map(|_| self.make(items, name, depth + 1)).collect()
    }

    fn string(&self, schema: &Value, name: &str) -> String {
        let fixed = match schema.get("format").and_then(Value::as_str) {
            Some("date-time") => Some("2026-01-01T00:00:00Z"),
            Some("date") => Some("2026-01-01"),
            Some("time") => Some("00:00:00Z"),
            Some("uuid") => Some("00000000-0000-4000-8000-000000000000"),
            Some("uri" | "url") => Some("https://example.invalid/"),
            Some("email") => Some("rehearsal@example.invalid"),
            _ => None,
        };
        if let Some(fixed) = fixed {
            return fixed.to_owned();
        }
        let bound =
            |word: &str| schema.get(word).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let mut text =
            if name.is_empty() { self.label.to_owned() } else { format!("{} ({name})", self.label) };
        if let Some(least) = bound("minLength") {
            let missing = least.min(1 << 20).saturating_sub(text.chars().count());
            text.extend(std::iter::repeat_n('.', missing));
        }
        match bound("maxLength") {
            Some(most) => text.chars().take(most).collect(),
            None => text,
        }
    }
}

/// The type an instance should have: the first named one that is not null, or what the words imply.
fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null")
        }
        _ if schema.get("properties").is_some() || schema.get("required").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn number(schema: &Value) -> f64 {
    let bound = |word: &str| schema.get(word).and_then(Value::as_f64);
    let low = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|above| above + 1.0));
    let high = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|below| below - 1.0));
    match (low, high) {
        (Some(low), _) => low,
        (None, Some(high)) => high.min(0.0),
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::instance;
    use super::validate::mismatch;

    #[test]
    fn an_instance_holds_what_is_required_and_satisfies_its_schema() {
        let schema = json!({
            "type": "object",
            "$defs": {"step": {"type": "object", "required": ["id", "deps"], "additionalProperties": false,
                "properties": {"id": {"type": "string", "minLength": 40}, "deps": {"type": "array", "items": {"$ref": "#/$defs/step"}}}}},
            "properties": {
                "name": {"type": "string", "maxLength": 4},
                "kind": {"enum": ["a", "b"]},
                "n": {"type": "integer", "minimum": 3},
                "score": {"type": ["null", "number"], "maximum": -2},
                "fixed": {"const": 7},
                "steps": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/step"}},
                "either": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                "optional": {"type": "string"},
            },
            "required": ["name", "kind", "n", "score", "fixed", "steps", "either"],
            "additionalProperties": false,
        });
        let made = instance(&schema, "rehearsal");
        assert_eq!(mismatch(&schema, &made), None, "{made}");
        assert_eq!((made["n"].clone(), made["fixed"].clone()), (json!(3), json!(7)));
        assert!(made.get("optional").is_none());
        assert!(made["steps"][1]["id"].as_str().unwrap().starts_with("rehearsal (id)"));
    }

    #[test]
    fn a_schema_that_contains_itself_ends() {
        let schema = json!({"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}});
        assert!(instance(&schema, "x").is_object());
        assert!(instance(&json!({"$ref": "#"}), "x").is_string());
    }
}
