//! Values as comma-separated rows for spreadsheets (RFC 4180, with LF): a header, a row for each object, members of
//! members with a dot between. A text that a spreadsheet would take for a formula is made one that it shows.
//! Knows the plain form of values; refuses to know what they mean.

use super::node::Node;
use super::safe::one_line;

/// Longest cell; spreadsheets take no longer ones.
const LONGEST: usize = 32_000;
/// Characters with which spreadsheets begin a formula, the wide forms among them.
const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

/// The rows of a list of objects, or the one row of an object; `None` of what has no columns. Chosen fields are the
/// columns, in their order; without them the columns are all members, in the order in which they turn up.
pub(crate) fn document(node: &Node, fields: &[String]) -> Option<String> {
    let items = match node {
        Node::List(items) => items.as_slice(),
        Node::Object(_) => std::slice::from_ref(node),
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) => return None,
    };
    if items.iter().any(|item| !matches!(item, Node::Object(_))) {
        return None;
    }
    let rows: Vec<_> = items.iter().map(|item| flat(item, !fields.is_empty())).collect();
    let mut columns: Vec<String> = fields.to_vec();
    for (name, _) in rows.iter().flatten().filter(|_| fields.is_empty()) {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    let mut text = line(columns.iter().map(|name| quoted(name)));
    for row in &rows {
        let value = |name: &String| row.iter().find(|(known, _)| known == name).map(|(_, value)| cell(value));
        text.push_str(&line(columns.iter().map(|name| value(name).unwrap_or_default())));
    }
    Some(text)
}

/// The members of an object; those of objects inside it stand beside them, unless they were chosen as they are.
fn flat(item: &Node, chosen: bool) -> Vec<(String, Node)> {
    let Node::Object(members) = item else { return Vec::new() };
    let mut row = Vec::new();
    for (name, value) in members {
        match value {
            Node::Object(_) if !chosen => {
                let inner = flat(value, false).into_iter();
                row.extend(inner.map(|(inner, value)| (format!("{name}.{inner}"), value)));
            }
            Node::Null
            | Node::Bool(_)
            | Node::Number(_)
            | Node::Text(_)
            | Node::List(_)
            | Node::Object(_) => row.push((name.clone(), value.clone())),
        }
    }
    row
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let mut line = cells.collect::<Vec<_>>().join(",");
    line.push('\n');
    line
}

fn cell(value: &Node) -> String {
    match value {
        // What is no text was not written by anybody: a minus is a minus.
        Node::Null | Node::Bool(_) | Node::Number(_) => value.cell(),
        Node::Text(_) | Node::List(_) | Node::Object(_) => quoted(&value.cell()),
    }
}

/// A text as a cell: on one line, shown rather than reckoned, in quotes where it has to be.
fn quoted(text: &str) -> String {
    let mut text = one_line(text, LONGEST);
    if text.starts_with(FORMULA) {
        text.insert(0, '\'');
    }
    if text.contains([',', ';', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str, fields: &[&str]) -> Option<String> {
        let node: Node = serde_json::from_str(json).unwrap();
        document(&node, &fields.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn rows_have_every_column_and_members_of_members_a_dot() {
        let json =
            r#"[{"run":"a/1","tokens":{"input":1,"output":2}},{"run":"a/2","agent":"x","labels":["b","c"]}]"#;
        let text = "run,tokens.input,tokens.output,agent,labels\na/1,1,2,,\na/2,,,x,\"b,c\"\n";
        assert_eq!(written(json, &[]).as_deref(), Some(text));
        assert_eq!(written("[]", &["run", "cost_usd"]).as_deref(), Some("run,cost_usd\n"));
        assert_eq!(written(r#"{"a":null,"b":-1.5}"#, &[]).as_deref(), Some("a,b\n,-1.5\n"));
        assert_eq!((written("3", &[]), written("[1]", &[])), (None, None));
    }

    #[test]
    fn what_would_be_a_formula_is_a_text_and_quotes_are_doubled() {
        for (text, cell) in [
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1", "'+1"),
            ("-1+2", "'-1+2"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("＝1", "'＝1"),
            ("\t=1", "'=1"),
            ("\r\n=1", "'=1"),
            ("=HYPERLINK(\"x\",\"y\")", "\"'=HYPERLINK(\"\"x\"\",\"\"y\"\")\""),
            ("say \"a\", then b", "\"say \"\"a\"\", then b\""),
            ("a;b", "\"a;b\""),
            ("a\nb", "a b"),
            ("1-2", "1-2"),
            ("\u{1b}[2J", "␛[2J"),
        ] {
            assert_eq!(quoted(text), cell, "{text:?}");
        }
    }
}
