//! Parameters of a workflow: how they are declared, and what may be given for them.
//! Knows types and values; refuses to know where a value is inserted.

use super::json::{Json, Node};
use super::problem::{Problems, Source, nearest, shown};
use super::template::{DATE, is_name};
use super::values::{Row, Value, as_text};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use serde_json::Value as Plain;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Every field of a parameter.
pub(super) const FIELDS: &[&str] = &["type", "description", "default", "values"];
/// Every type, as written.
pub(super) const TYPES: &[&str] = &["string", "integer", "number", "boolean", "list", "roster"];
/// Most parameters of a workflow.
const MAX_PARAMETERS: usize = 64;
/// Most rows of a list or roster: each makes at least one task, and a run has no more.
const MAX_ROWS: usize = 100_000;

/// What may be given for a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Integer,
    Number,
    Boolean,
    List,
    Roster,
}

/// A declared parameter.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) kind: Kind,
    description: String,
    default: Option<(Plain, Value)>,
    values: Vec<Plain>,
    /// Of its name.
    pub(super) at: Range<usize>,
}

impl Kind {
    fn from_word(word: &str) -> Option<Self> {
        let all = [Self::String, Self::Integer, Self::Number, Self::Boolean, Self::List, Self::Roster];
        all.into_iter().find(|kind| kind.word() == word)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::List => "list",
            Self::Roster => "roster",
        }
    }

    /// What is wanted, for messages.
    const fn wanted(self) -> &'static str {
        match self {
            Self::String => "a text",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::List => "a list such as [\"a\", \"b\"]",
            Self::Roster => "a list of names, or of objects with a `name`",
        }
    }

    /// Reads what was given. Numbers, true and false may come as texts: that is how command lines give them.
    fn take(self, given: &Plain) -> Result<Value, String> {
        let one = match self {
            Self::String => as_text(given).map(Plain::String),
            Self::Integer => whole(given),
            Self::Number => number(given),
            Self::Boolean => match given {
                Plain::Bool(_) => Some(given.clone()),
                Plain::String(text) => text.parse::<bool>().ok().map(Plain::Bool),
                Plain::Null | Plain::Number(_) | Plain::Array(_) | Plain::Object(_) => None,
            },
            Self::List | Self::Roster => return self.rows(given).map(Value::Rows),
        };
        one.map(Value::One).ok_or_else(|| format!("must be {}, not {}", self.wanted(), described(given)))
    }

    fn rows(self, given: &Plain) -> Result<Arc<[Row]>, String> {
        let Plain::Array(items) = given else {
            return Err(format!("must be {}, not {}", self.wanted(), described(given)));
        };
        if items.len() > MAX_ROWS {
            return Err(format!("has {} rows; a run has at most {MAX_ROWS} tasks", items.len()));
        }
        let mut rows = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if self == Self::List && item.is_object() {
                return Err(format!(
                    "item {} is an object; a parameter of type roster takes those",
                    index + 1
                ));
            }
            rows.extend(Row::read(index + 1, item)?);
        }
        Ok(rows.into())
    }
}

impl Parameter {
    /// Checks what was given for it.
    pub(super) fn take(&self, given: &Plain) -> Result<Value, String> {
        let value = self.kind.take(given)?;
        if let (Value::One(one), false) = (&value, self.values.is_empty())
            && !self.values.contains(one)
        {
            let known: Vec<String> = self.values.iter().filter_map(as_text).collect();
            let text = as_text(one).unwrap_or_default();
            let meant = nearest(&text, known.iter().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(format!("must be one of {}, not `{}`{meant}", known.join(", "), shown(&text)));
        }
        Ok(value)
    }

    /// What holds when nothing is given.
    pub(super) fn default(&self) -> Option<Value> {
        self.default.as_ref().map(|(_, value)| value.clone())
    }

    /// How messages ask for it.
    pub(super) fn asked(&self) -> String {
        let about = if self.description.is_empty() { "" } else { ": " };
        format!("{} ({}){about}{}", self.name, self.kind.wanted(), self.description)
    }

    /// For lists.
    pub(super) fn wire(&self) -> v1::WorkflowParameter {
        v1::WorkflowParameter {
            name: self.name.clone(),
            r#type: self.kind.word().to_owned(),
            description: self.description.clone(),
            default: self.default.as_ref().map(|(plain, _)| plain.to_string()).unwrap_or_default(),
            values: self.values.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Reads the declarations.
pub(super) fn declared(source: &Source, node: &Node, problems: &mut Problems) -> Vec<Parameter> {
    let Json::Object(members) = &node.json else {
        let message = format!("`parameters` must be an object, not {}", node.kind());
        problems.add(source, ErrorCode::InvalidField, node.at.clone(), message);
        return Vec::new();
    };
    if members.len() > MAX_PARAMETERS {
        let message = format!("{} parameters; at most {MAX_PARAMETERS}", members.len());
        problems.add(source, ErrorCode::TooLarge, node.at.start..node.at.start + 1, message);
        return Vec::new();
    }
    let mut found: Vec<Parameter> = Vec::new();
    for member in members {
        let (name, at) = (&member.name, member.name_at.clone());
        if !is_name(name) || name == DATE {
            let message = format!("`{}` cannot be the name of a parameter", shown(name));
            let help = if name == DATE {
                "`date` is the day of the submit in every workflow; take another name, such as `day`"
            } else {
                "letters, digits, `_` and `-`, a letter first, at most 63"
            };
            problems.add(source, ErrorCode::InvalidName, at, message).help(help);
        } else if found.iter().any(|earlier| earlier.name == *name) {
            let message = format!("the parameter `{name}` is there twice");
            problems.add(source, ErrorCode::InvalidField, at, message);
        } else {
            found.extend(declaration(source, name, at, &member.value, problems));
        }
    }
    found
}

fn declaration(
    source: &Source,
    name: &str,
    at: Range<usize>,
    node: &Node,
    problems: &mut Problems,
) -> Option<Parameter> {
    if !super::reader::known_fields(source, node, "a parameter", FIELDS, problems) {
        return None;
    }
    let kind = match node.get("type").map(|kind| (kind, kind.as_text())) {
        None => Kind::String,
        Some((kind_at, word)) => {
            let Some(kind) = word.and_then(Kind::from_word) else {
                let message = format!("the type of `{name}` must be one of {}", TYPES.join(", "));
                problems
                    .add(source, ErrorCode::InvalidField, kind_at.at.clone(), message)
                    .nearest(word.unwrap_or_default(), TYPES.iter().copied());
                return None;
            };
            kind
        }
    };
    let mut parameter = Parameter {
        name: name.to_owned(),
        kind,
        description: node.get("description").and_then(Node::as_text).unwrap_or_default().to_owned(),
        default: None,
        values: Vec::new(),
        at,
    };
    if let Some(values) = node.get("values") {
        parameter.values = allowed(source, &parameter, values, problems)?;
    }
    if let Some(default) = node.get("default") {
        let plain = default.value();
        match parameter.take(&plain) {
            Ok(value) => parameter.default = Some((plain, value)),
            Err(why) => {
                let message = format!("the default of `{name}` {why}");
                problems.add(source, ErrorCode::InvalidField, default.at.clone(), message);
            }
        }
    }
    Some(parameter)
}

fn allowed(
    source: &Source,
    parameter: &Parameter,
    node: &Node,
    problems: &mut Problems,
) -> Option<Vec<Plain>> {
    let mut refuse = |at: &Range<usize>, message: String| {
        problems.add(source, ErrorCode::InvalidField, at.clone(), message);
        None
    };
    if matches!(parameter.kind, Kind::List | Kind::Roster | Kind::Boolean) {
        return refuse(&node.at, format!("`values` means nothing to type {}", parameter.kind.word()));
    }
    let Some(items) = node.items().filter(|items| !items.is_empty()) else {
        return refuse(&node.at, "`values` must be a list of the values allowed".to_owned());
    };
    let mut values = Vec::new();
    for item in items {
        match parameter.kind.take(&item.value()) {
            Ok(Value::One(value)) => values.push(value),
            Ok(Value::Named { .. } | Value::Rows(_) | Value::Unknown) => {}
            Err(why) => return refuse(&item.at, format!("a value of `{}` {why}", parameter.name)),
        }
    }
    Some(values)
}

/// What a client gave, checked against the declarations. `lenient` leaves unknown what must be given and was not.
pub(super) fn given(
    definition: &Source,
    declared: &[Parameter],
    parameters: &str,
    lenient: bool,
    problems: &mut Problems,
) -> BTreeMap<String, Value> {
    let source = Source::new("parameters", parameters);
    let node = if parameters.trim().is_empty() { None } else { super::json::read(&source, problems) };
    let members = match node.map(|node| (node.at.clone(), node.json)) {
        Some((_, Json::Object(members))) => members,
        Some((at, _)) => {
            let message = "parameters must be a JSON object";
            problems.add(&source, ErrorCode::InvalidField, at, message);
            Vec::new()
        }
        None => Vec::new(),
    };
    let mut values = BTreeMap::new();
    for member in &members {
        let Some(parameter) = declared.iter().find(|parameter| parameter.name == member.name) else {
            let message = format!("the workflow has no parameter `{}`", shown(&member.name));
            let known = declared.iter().map(|parameter| parameter.name.as_str());
            let noted = problems.add(&source, ErrorCode::UnknownField, member.name_at.clone(), message);
            noted.nearest(&member.name, known);
            continue;
        };
        let taken = parameter.take(&member.value.value()).unwrap_or_else(|why| {
            let message = format!("the parameter `{}` {why}", parameter.name);
            problems.add(&source, ErrorCode::InvalidField, member.value.at.clone(), message);
            Value::Unknown
        });
        if values.insert(parameter.name.clone(), taken).is_some() {
            let message = format!("the parameter `{}` is given twice", parameter.name);
            problems.add(&source, ErrorCode::InvalidField, member.name_at.clone(), message);
        }
    }
    for parameter in declared {
        if values.contains_key(&parameter.name) {
            continue;
        }
        if parameter.default.is_none() && !lenient {
            let message = format!("the parameter `{}` must be given", parameter.name);
            problems
                .add(definition, ErrorCode::InvalidWorkflow, parameter.at.clone(), message)
                .help(parameter.asked());
        }
        values.insert(parameter.name.clone(), parameter.default().unwrap_or(Value::Unknown));
    }
    values
}

fn whole(given: &Plain) -> Option<Plain> {
    match given {
        Plain::Number(number) if number.is_i64() || number.is_u64() => Some(given.clone()),
        Plain::String(text) => text.trim().parse::<i64>().ok().map(Plain::from),
        Plain::Null | Plain::Bool(_) | Plain::Number(_) | Plain::Array(_) | Plain::Object(_) => None,
    }
}

fn number(given: &Plain) -> Option<Plain> {
    match given {
        Plain::Number(_) => Some(given.clone()),
        Plain::String(text) => whole(given)
            .or_else(|| text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).map(Plain::from)),
        Plain::Null | Plain::Bool(_) | Plain::Array(_) | Plain::Object(_) => None,
    }
}

fn described(given: &Plain) -> String {
    match given {
        Plain::Null => "null".to_owned(),
        Plain::Bool(_) => "true or false".to_owned(),
        Plain::Number(number) => format!("the number {number}"),
        Plain::String(text) => format!("the text {:?}", shown(text)),
        Plain::Array(_) => "a list".to_owned(),
        Plain::Object(_) => "an object".to_owned(),
    }
}
