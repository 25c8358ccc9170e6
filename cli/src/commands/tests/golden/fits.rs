//! Whether a value fits a JSON Schema: the words of draft 2020-12 that the schemas of this crate use, and a panic at
//! any other, so that nothing is taken for checked that was not. Formats such as `uint32` are advice, as in the draft.

use serde_json::Value;

/// Words that constrain nothing.
const SILENT: [&str; 7] = ["$schema", "$defs", "title", "description", "format", "default", "examples"];

/// Checks a value against a whole schema.
pub(super) fn check(schema: &Value, value: &Value) -> Result<(), String> {
    fits(schema, schema, value, "$")
}

fn fits(root: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let words = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Bool(false) => return Err(format!("{place} is not allowed")),
        Value::Object(words) => words,
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            panic!("{schema} is no schema")
        }
    };
    let wrong = |what: &str, wanted: &Value| Err(format!("{place} is {value}: {what} {wanted}"));
    for (word, wanted) in words {
        match word.as_str() {
            silent if SILENT.contains(&silent) => {}
            "$ref" => {
                let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                fits(root, root.pointer(pointer).unwrap(), value, place)?;
            }
            "type" if !types(wanted).iter().any(|name| is_a(value, name)) => return wrong("type", wanted),
            "enum" if !wanted.as_array().unwrap().contains(value) => return wrong("enum", wanted),
            "const" if wanted != value => return wrong("const", wanted),
            "minimum" if value.as_f64().is_some_and(|number| number < wanted.as_f64().unwrap()) => {
                return wrong("minimum", wanted);
            }
            "maximum" if value.as_f64().is_some_and(|number| number > wanted.as_f64().unwrap()) => {
                return wrong("maximum", wanted);
            }
            "exclusiveMinimum" if value.as_f64().is_some_and(|number| number <= wanted.as_f64().unwrap()) => {
                return wrong("exclusiveMinimum", wanted);
            }
            "minLength"
                if value.as_str().is_some_and(|text| (text.len() as u64) < wanted.as_u64().unwrap()) =>
            {
                return wrong("minLength", wanted);
            }
            "minItems"
                if value.as_array().is_some_and(|list| (list.len() as u64) < wanted.as_u64().unwrap()) =>
            {
                return wrong("minItems", wanted);
            }
            "maxItems"
                if value.as_array().is_some_and(|list| list.len() as u64 > wanted.as_u64().unwrap()) =>
            {
                return wrong("maxItems", wanted);
            }
            "pattern" if value.as_str().is_some_and(|text| !matches(wanted.as_str().unwrap(), text)) => {
                return wrong("pattern", wanted);
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        return wrong("required", name);
                    }
                }
            }
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    if let Some(inner) = value.get(name) {
                        fits(root, schema, inner, &format!("{place}.{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    if words.get("properties").and_then(|known| known.get(name)).is_none() {
                        fits(root, wanted, inner, &format!("{place}.{name}"))?;
                    }
                }
            }
            "items" => {
                for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
                    fits(root, wanted, inner, &format!("{place}[{index}]"))?;
                }
            }
            "anyOf" | "oneOf" => {
                let tried: Vec<_> =
                    wanted.as_array().unwrap().iter().map(|one| fits(root, one, value, place)).collect();
                if tried.iter().all(Result::is_err) {
                    return Err(tried.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; or "));
                }
            }
            "type" | "enum" | "const" | "minimum" | "maximum" | "exclusiveMinimum" | "minLength"
            | "minItems" | "maxItems" | "pattern" => {}
            other => panic!("the schema uses {other:?}, which is not checked here"),
        }
    }
    Ok(())
}

fn types(wanted: &Value) -> Vec<&str> {
    match wanted {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().map(|name| name.as_str().unwrap()).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => panic!("{wanted} is no type"),
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => {
            value.is_u64() || value.is_i64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        other => panic!("{other:?} is no type"),
    }
}

/// The patterns that there are.
fn matches(pattern: &str, text: &str) -> bool {
    let name = |upper: bool| {
        let first = |byte: u8| {
            byte.is_ascii_digit() || byte.is_ascii_lowercase() || (upper && byte.is_ascii_uppercase())
        };
        text.len() <= 63
            && text.bytes().next().is_some_and(first)
            && text.bytes().all(|byte| first(byte) || matches!(byte, b'.' | b'_' | b'-'))
    };
    match pattern {
        "^[a-z0-9][a-z0-9._-]{0,62}$" => name(false),
        "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" => name(true),
        "^[a-z0-9][a-z0-9-]{0,62}$" => name(false) && !text.contains(['.', '_']),
        "^-?[0-9]+$" => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
        other => panic!("the pattern {other} is not known here"),
    }
}

#[test]
fn a_run_file_fits_its_schema_exactly_where_the_reader_takes_it() {
    let schema: Value = serde_json::from_str(crate::commands::schema::RUN).unwrap();
    for (json, good) in [
        (r#"[{"worker":"anga","description":"x"}]"#, true),
        (r#"{"name":"notes","labels":{"a":"b"},"tasks":[{"task_id":"a","runner":"noop"}]}"#, true),
        (
            r#"[{"runner":"command","program":"make","args":["test"],"timeout":"10m","priority":"high"}]"#,
            true,
        ),
        (
            r#"[{"worker":"anga","description":"x","budget_usd":0.5,"retries":2,"on_loss":"wait","priority":-3}]"#,
            true,
        ),
        (
            r#"[{"worker":"anga","description":"x","context":{"a":[1]},"output_schema":{"type":"object"},"max_turns":3}]"#,
            true,
        ),
        (
            r#"{"on_failure":"fail_fast","max_parallel":3,"workspace":"dance","tasks":[{"task_id":"a","worker":"anga",
            "description":"x","contract":true,"cache":true,"gates":{"min_tool_calls":1,"required_artifacts":["*"],
            "commands":[{"run":["make"],"timeout":9}],"review":{"worker":"fabien"},"repairs":0},
            "publish":[{"artifact":"a","to":"b","replace":true}]},{"task_id":"b","runner":"noop","after":"end",
            "dependencies":["a"],"when":[{"task":"a","pointer":"/status","test":"equals","value":"complete"}]}]}"#,
            true,
        ),
        (r#"{"request":{"text":"x","max_tasks":3,"workers":["anga"],"approve":true},"no_cache":true}"#, true),
        ("[]", false),
        (r#"{"on_failure":"ignore","tasks":[{"runner":"noop"}]}"#, false),
        (r#"{"workspace":"Dance","tasks":[{"runner":"noop"}]}"#, false),
        (r#"{"request":{"text":""}}"#, false),
        (r#"{"request":{"text":"x","max_tasks":1001}}"#, false),
        (r#"{"labels":{}}"#, false),
        (r#"[{"runner":"noop","after":"ends"}]"#, false),
        (r#"[{"runner":"noop","cache":1}]"#, false),
        (r#"[{"runner":"noop","gates":{"commands":[{"run":[]}]}}]"#, false),
        (r#"[{"runner":"noop","gates":{"repairs":11}}]"#, false),
        (r#"[{"runner":"noop","gates":{"review":{}}}]"#, false),
        (r#"[{"runner":"noop","gates":{"reviews":{}}}]"#, false),
        (r#"[{"runner":"noop","publish":[{"artifact":"a"}]}]"#, false),
        (r#"[{"runner":"noop","when":[{"task":"a"}]}]"#, false),
        (r#"{"name":"Notes","tasks":[{"runner":"noop"}]}"#, false),
        (r#"{"labels":{"a":1},"tasks":[{"runner":"noop"}]}"#, false),
        (r#"[{"worker":"anga"}]"#, false),
        (r#"[{"runner":"command"}]"#, false),
        (r#"[{"runner":"shell"}]"#, false),
        (r#"[{"worker":"anga","descripton":"x"}]"#, false),
        (r#"[{"runner":"noop","retries":-1}]"#, false),
        (r#"[{"runner":"noop","on_loss":"slow"}]"#, false),
        (r#"[{"task_id":"-a","runner":"noop"}]"#, false),
        ("3", false),
    ] {
        let value = serde_json::from_str(json).unwrap();
        assert_eq!(check(&schema, &value).is_ok(), good, "the schema, {json}: {:?}", check(&schema, &value));
        assert_eq!(crate::runfile::read("run.json", json.as_bytes()).is_ok(), good, "the reader, {json}");
    }
}

#[test]
fn the_schema_of_run_files_knows_every_field_of_the_reader() {
    let schema: Value = serde_json::from_str(crate::commands::schema::RUN).unwrap();
    let names = |pointer: &str| {
        let mut names: Vec<_> =
            schema.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let sorted = |fields: &[&str]| {
        let mut fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        fields.sort();
        fields
    };
    assert_eq!(names("/$defs/task/properties"), sorted(crate::runfile::TASK_FIELDS));
    assert_eq!(names("/anyOf/1/properties"), sorted(crate::runfile::RUN_FIELDS));
}

#[test]
fn the_schema_of_the_configuration_is_what_its_reader_takes() {
    let schema: Value = serde_json::from_str(crate::commands::schema::CONFIG).unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("config.toml");
    for (toml, good) in [
        ("", true),
        ("current = \"a\"\n[contexts.a]\nendpoint = \"b:1\"\ntls_ca = \"c\"\nconfirm = \"write\"", true),
        ("[defaults]\noutput = \"yaml\"\ntime = \"unix\"\ncolor = \"never\"\nprogress = \"plain\"", true),
        ("[defaults]\noutput = \"xml\"", false),
        ("[contexts.a]\nconfirm = \"read\"", false),
        ("curent = \"a\"", false),
        ("current = 1", false),
        ("[contexts.a]\nurl = \"b\"", false),
    ] {
        let value: Value = toml::from_str(toml).unwrap();
        assert_eq!(check(&schema, &value).is_ok(), good, "the schema, {toml}");
        std::fs::write(&path, toml).unwrap();
        assert_eq!(crate::config::load(&path).is_ok(), good, "the reader, {toml}");
    }
}
