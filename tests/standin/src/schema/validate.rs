//! Knows how to find the first mismatch between a value and a schema, worded as the observed CLI words
//! it ("root: must have required property 'n'"). Refuses to interpret words beyond the common ones.

use serde_json::Value;

use super::{MAX_DEPTH, dereference};

/// The first mismatch, or none.
pub fn mismatch(schema: &Value, value: &Value) -> Option<String> {
    check(schema, schema, value, "", 0)
}

fn check(root: &Value, schema: &Value, value: &Value, path: &str, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return None;
    }
    let schema = dereference(root, schema);
    let wrong = |what: String| Some(format!("{}: {what}", if path.is_empty() { "root" } else { path }));
    if let Some(expected) = schema.get("const").filter(|expected| *expected != value) {
        return wrong(format!("must be equal to constant {expected}"));
    }
    if schema.get("enum").and_then(Value::as_array).is_some_and(|allowed| !allowed.contains(value)) {
        return wrong("must be equal to one of the allowed values".to_owned());
    }
    if let Some(kind) = wrong_type(schema, value) {
        return wrong(format!("must be {kind}"));
    }
    for word in ["anyOf", "oneOf"] {
        let Some(choices) = schema.get(word).and_then(Value::as_array) else { continue };
        if choices.iter().all(|choice| check(root, choice, value, path, depth + 1).is_some()) {
            return wrong(format!("must match a schema in {word}"));
        }
    }
    let parts = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
    parts
        .map(|part| check(root, part, value, path, depth + 1))
        .find(Option::is_some)
        .flatten()
        .or_else(|| bounds(schema, value).and_then(wrong))
        .or_else(|| object(root, schema, value, path, depth))
        .or_else(|| array(root, schema, value, path, depth))
}

fn wrong_type(schema: &Value, value: &Value) -> Option<String> {
    let allowed: Vec<&str> = match schema.get("type")? {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    };
    let fits = |name: &&str| match *name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => true,
    };
    (!allowed.iter().any(fits)).then(|| allowed.join(","))
}

fn bounds(schema: &Value, value: &Value) -> Option<String> {
    let limit = |word: &str| schema.get(word).and_then(Value::as_f64);
    if let Some(number) = value.as_f64() {
        if let Some(least) = limit("minimum").filter(|least| number < *least) {
            return Some(format!("must be >= {least}"));
        }
        if let Some(most) = limit("maximum").filter(|most| number > *most) {
            return Some(format!("must be <= {most}"));
        }
    }
    let size = match value {
        Value::String(text) => Some((text.chars().count(), "minLength", "maxLength", "characters")),
        Value::Array(items) => Some((items.len(), "minItems", "maxItems", "items")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    };
    let (size, least_word, most_word, unit) = size?;
    if let Some(least) = limit(least_word).filter(|least| (size as f64) < *least) {
        return Some(format!("must NOT have fewer than {least} {unit}"));
    }
    let most = limit(most_word).filter(|most| (size as f64) > *most)?;
    Some(format!("must NOT have more than {most} {unit}"))
}

fn object(root: &Value, schema: &Value, value: &Value, path: &str, depth: usize) -> Option<String> {
    let fields = value.as_object()?;
    let place = if path.is_empty() { "root" } else { path };
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    if let Some(missing) = required.filter_map(Value::as_str).find(|name| !fields.contains_key(*name)) {
        return Some(format!("{place}: must have required property '{missing}'"));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, field) in fields {
        match properties.and_then(|properties| properties.get(name)) {
            Some(property) => {
                let deeper = check(root, property, field, &format!("{path}/{name}"), depth + 1);
                if deeper.is_some() {
                    return deeper;
                }
            }
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                return Some(format!("{place}: must NOT have additional properties"));
            }
            None => {}
        }
    }
    None
}

fn array(root: &Value, schema: &Value, value: &Value, path: &str, depth: usize) -> Option<String> {
    let items = schema.get("items")?;
    let mut each = value.as_array()?.iter().enumerate();
    each.find_map(|(at, item)| check(root, items, item, &format!("{path}/{at}"), depth + 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::mismatch;

    #[test]
    fn mismatches_are_worded_as_the_cli_words_them() {
        let schema = json!({"type": "object", "additionalProperties": false, "required": ["name", "n"],
            "properties": {"name": {"type": "string"}, "n": {"type": "integer", "minimum": 1}}});
        let wrong = |value| mismatch(&schema, &value).unwrap();
        assert_eq!(wrong(json!({"name": "a"})), "root: must have required property 'n'");
        assert_eq!(wrong(json!({"name": 1, "n": 3})), "/name: must be string");
        assert_eq!(wrong(json!({"name": "a", "n": 0})), "/n: must be >= 1");
        assert_eq!(wrong(json!({"name": "a", "n": 3, "x": 1})), "root: must NOT have additional properties");
        assert_eq!(mismatch(&schema, &json!({"name": "a", "n": 3})), None);
    }
}
