//! Knows how directives are written in a prompt, `[[name {json}]]`, and which names exist. Both
//! stand-ins read the same language, so one test prompt can drive the scripted CLI or, through the
//! Messages API stand-in, the real one. Refuses to know what a directive does: that is
//! [`steps`] for the model's side and `claude::faults` for misbehaviour.

use serde_json::{Map, Value};

pub mod catalogue;
pub mod steps;

use catalogue::CATALOGUE;

/// One directive as written in a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Directive {
    /// Its name, one of [`CATALOGUE`].
    pub name: &'static str,
    /// Its argument; empty when it was written without one.
    pub arg: Map<String, Value>,
}

impl Directive {
    /// The argument's field `key` as text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.arg.get(key).and_then(Value::as_str)
    }

    /// The argument's field `key` as a whole number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.arg.get(key).and_then(Value::as_u64)
    }

    /// Whether the argument's field `key` is true.
    pub fn flag(&self, key: &str) -> bool {
        self.arg.get(key).and_then(Value::as_bool).unwrap_or(false)
    }
}

/// Why a prompt's directives cannot be read. A test that misspells one must fail loudly, not
/// rehearse something else.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScriptError {
    /// The name is not in the catalogue, and an argument shows that a directive was meant.
    #[error("unknown directive [[{name} …]]")]
    Unknown {
        /// What was written.
        name: String,
    },
    /// The argument is not one JSON object followed by `]]`.
    #[error("directive [[{name} …]] at byte {at}: {why}")]
    Argument {
        /// The directive.
        name: &'static str,
        /// Where its argument starts in the prompt.
        at: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// How the agent's note begins that it says in place of the prompt when an interrupted conversation goes on.
const NOTE: &str = "You were interrupted while you worked on this task";

/// Whether a prompt is the note of an interruption: its script is that of the prompt before.
pub(crate) fn is_note(prompt: &str) -> bool {
    prompt.trim_start().starts_with(NOTE)
}

/// Reads all directives of `prompt`, in order. `[[word]]` with an unknown word and no argument is
/// ordinary text (wiki links look like that).
///
/// # Errors
/// An unknown name with an argument, or an argument that is not one JSON object.
pub fn parse(prompt: &str) -> Result<Vec<Directive>, ScriptError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = prompt[at..].find("[[").map(|offset| at + offset) {
        at = match directive_at(prompt, open)? {
            Some((directive, end)) => {
                found.push(directive);
                end
            }
            None => open + 2,
        };
    }
    Ok(found)
}

/// The directive that starts at byte `open` and the byte after it; `None` when it is plain text.
fn directive_at(prompt: &str, open: usize) -> Result<Option<(Directive, usize)>, ScriptError> {
    let body = &prompt[open + 2..];
    let word_len = body
        .find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .unwrap_or(body.len());
    let (word, rest) = body.split_at(word_len);
    let known = CATALOGUE.iter().find(|entry| entry.name == word).map(|entry| entry.name);
    if rest.starts_with("]]") {
        let end = open + 2 + word_len + 2;
        return Ok(known.map(|name| (Directive { name, arg: Map::new() }, end)));
    }
    let argument = rest.trim_start();
    if word.is_empty() || argument.len() == rest.len() || !argument.starts_with('{') {
        return Ok(None);
    }
    let Some(name) = known else { return Err(ScriptError::Unknown { name: word.to_owned() }) };
    let at = open + 2 + word_len + (rest.len() - argument.len());
    let bad = |why: String| ScriptError::Argument { name, at, why };
    let mut values = serde_json::Deserializer::from_str(argument).into_iter::<Map<String, Value>>();
    let arg = match values.next() {
        Some(Ok(arg)) => arg,
        Some(Err(error)) => return Err(bad(error.to_string())),
        None => return Err(bad("no argument".to_owned())),
    };
    let after = &argument[values.byte_offset()..];
    let closing = after.trim_start();
    if !closing.starts_with("]]") {
        return Err(bad("the JSON object is not followed by ]]".to_owned()));
    }
    let end = at + values.byte_offset() + (after.len() - closing.len()) + 2;
    Ok(Some((Directive { name, arg }, end)))
}

/// Takes the directive `plan` out: what a rehearsed planner is to answer, and nobody else takes note of.
pub fn take_plan(directives: &mut Vec<Directive>) -> Option<Value> {
    let at = directives.iter().position(|directive| directive.name == "plan")?;
    let plan = directives.remove(at);
    directives.retain(|directive| !matches!(directive.name, "plan" | "then"));
    Some(Value::Object(plan.arg))
}

/// `prompt` without its directives, for a rehearsal answer that quotes it.
pub fn strip(prompt: &str) -> String {
    let mut plain = String::new();
    let mut at = 0;
    while let Some(open) = prompt[at..].find("[[").map(|offset| at + offset) {
        match directive_at(prompt, open) {
            Ok(Some((_, end))) => {
                plain.push_str(&prompt[at..open]);
                at = end;
            }
            Ok(None) | Err(_) => {
                plain.push_str(&prompt[at..open + 2]);
                at = open + 2;
            }
        }
    }
    plain.push_str(&prompt[at..]);
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Directive, ScriptError, parse, strip};

    fn names(prompt: &str) -> Vec<&'static str> {
        parse(prompt).unwrap().into_iter().map(|directive| directive.name).collect()
    }

    #[test]
    fn directives_are_read_in_order_with_and_without_arguments() {
        let prompt = r#"do [[tool {"name":"Bash","input":{"command":"ls"}}]] and [[text]] end"#;
        assert_eq!(names(prompt), ["tool", "text"]);
        assert_eq!(strip(prompt), "do  and  end");
    }

    #[test]
    fn an_argument_may_contain_closing_brackets_and_nested_directives() {
        let inner = r#"w [[tool {"name":"Bash","input":{"command":"echo ]]"}}]]"#;
        let prompt = format!("[[agent {}]][[text]]", json!({"type": "x", "prompt": inner}));
        let found = parse(&prompt).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].text("prompt"), Some(inner));
    }

    #[test]
    fn unknown_names_are_text_alone_and_an_error_with_an_argument() {
        assert_eq!(parse("see [[Wiki]] and [[nosuch]] and [[ x"), Ok(Vec::<Directive>::new()));
        assert_eq!(parse("[[nosuch {}]]"), Err(ScriptError::Unknown { name: "nosuch".to_owned() }));
    }

    #[test]
    fn a_broken_argument_is_an_error_that_names_the_directive() {
        assert!(matches!(parse("[[text {bad]]"), Err(ScriptError::Argument { name: "text", at: 7, .. })));
        assert!(matches!(parse(r#"[[text {"text":"x"} y]]"#), Err(ScriptError::Argument { .. })));
    }
}
