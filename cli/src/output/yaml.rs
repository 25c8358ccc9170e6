//! Values as YAML 1.2 in block style. Every string that could be taken for anything else is double-quoted as in JSON,
//! of which YAML is a superset; so nothing here has to know YAML's rules for indentation inside texts, and control
//! characters never get out. An own writer of a page does what a crate would: nothing is ever read.

use super::node::Node;
use super::safe;

/// Longest text that may stand without quotes.
const PLAIN: usize = 200;

/// The value as a YAML document, ending in a newline, without a `---`.
pub(crate) fn document(node: &Node) -> String {
    let mut text = String::new();
    write(node, 0, &mut text);
    text
}

/// Writes a value that begins at the start of a line, `depth` levels in.
fn write(node: &Node, depth: usize, text: &mut String) {
    match node {
        Node::List(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                // The first line of the list itself may stand behind the dash of another.
                if index > 0 || !text.ends_with("- ") {
                    indent(depth, text);
                }
                text.push_str("- ");
                write(item, depth + 1, text);
            }
        }
        Node::Object(members) if !members.is_empty() => {
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 || !text.ends_with("- ") {
                    indent(depth, text);
                }
                text.push_str(&string(name));
                text.push(':');
                match value {
                    Node::List(items) if !items.is_empty() => {
                        text.push('\n');
                        write(value, depth + 1, text);
                    }
                    Node::Object(members) if !members.is_empty() => {
                        text.push('\n');
                        write(value, depth + 1, text);
                    }
                    Node::Null
                    | Node::Bool(_)
                    | Node::Number(_)
                    | Node::Text(_)
                    | Node::List(_)
                    | Node::Object(_) => {
                        text.push(' ');
                        write(value, depth + 1, text);
                    }
                }
            }
        }
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) | Node::List(_) | Node::Object(_) => {
            text.push_str(&scalar(node));
            text.push('\n');
        }
    }
}

fn indent(depth: usize, text: &mut String) {
    text.push_str(&"  ".repeat(depth));
}

fn scalar(node: &Node) -> String {
    match node {
        Node::Null => "null".to_owned(),
        Node::Bool(value) => value.to_string(),
        Node::Number(number) => number.to_string(),
        Node::Text(value) => string(value),
        // Only empty ones come here.
        Node::List(_) => "[]".to_owned(),
        Node::Object(_) => "{}".to_owned(),
    }
}

/// A text without quotes where it can be nothing but a text, else in double quotes.
fn string(value: &str) -> String {
    if is_plain(value) {
        return value.to_owned();
    }
    let quoted = serde_json::Value::String(value.to_owned()).to_string();
    safe::json(&quoted).into_owned()
}

/// Begins with a letter and goes on with characters that have no meaning in YAML; and is no word that some reader of
/// YAML, 1.1 included, takes for a truth value, a null or a number.
fn is_plain(value: &str) -> bool {
    let known = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'@');
    value.len() <= PLAIN
        && value.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && value.bytes().all(inside)
        && !known.contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(json: &str) -> String {
        document(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn objects_and_lists_are_blocks() {
        let json =
            r#"[{"ref":"adhoc/1","labels":{"team":"dance"},"tasks":[],"counts":[[1,2],[]],"none":null},{}]"#;
        insta::assert_snapshot!(yaml(json), @r"
        - ref: adhoc/1
          labels:
            team: dance
          tasks: []
          counts:
            - - 1
              - 2
            - []
          none: null
        - {}
        ");
    }

    #[test]
    fn what_could_be_something_else_is_quoted() {
        for text in
            ["", "yes", "No", "NULL", "1e3", "0x1f", "2026-11-20", "a: b", "- a", "#", "é", " a", "a "]
        {
            assert_eq!(string(text), format!("{text:?}"), "{text}");
        }
        assert_eq!(string("release-notes/128/plan"), "release-notes/128/plan");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(string("a\n\u{1b}[31m\u{7f}\u{9b}\u{202e}"), r#""a\n\u001b[31m\u007f\u009b\u202e""#);
    }
}
