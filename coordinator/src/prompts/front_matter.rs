//! Reads the front matter of a prompt file: a small, strict subset of YAML, into text with positions.
//!
//! Knows the form only. Which key means what, and whether a value is good, is [`super::source`]'s business.
//!
//! Why not a YAML crate: `serde_yaml` is archived and unmaintained, its forks have no settled successor, and
//! full YAML brings what no prompt file should hold (anchors, tags, a `no` that is a boolean). People write
//! these files by hand, so the place of every value in an error matters more than the language's breadth.
//! Whatever this reader takes, YAML 1.2 takes too, with the same structure; it reads every scalar as text:
//!
//! ```text
//! ---
//! # a comment
//! key: plain text                # or "double" or 'single' quotes, without escapes
//! key: [one, "two, three"]
//! key:
//!   - one
//! key:
//!   inner: text
//! ---
//! body
//! ```

use cursor::Cursor;
use thiserror::Error;

use super::error::Spot;

mod cursor;

/// Lines of front matter, blank ones and comments not counted. Keys are compared pairwise, so this bounds
/// the work a hostile file can ask for; a worker with every key and full lists needs about 250.
const MAX_LINES: usize = 500;

/// A scalar, unquoted, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) value: String,
    pub(super) at: Spot,
}

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Scalar(Text),
    List(Vec<Text>),
    Map(Vec<(Text, Text)>),
}

/// A prompt file taken apart; `body` is everything after the closing `---`, unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) entries: Vec<(Text, Value)>,
    pub(super) body: String,
    pub(super) body_line: u32,
}

/// A syntax error and its place.
pub(super) type Misplaced = (Spot, SyntaxError);

/// Splits `text`, which has `\n` line ends, into front matter and body. Never panics.
pub(super) fn read(text: &str) -> Result<Document, Misplaced> {
    let start = Spot { line: 1, column: 1 };
    let mut lines = text.split('\n').zip(1..).map(|(text, number)| Cursor::new(text, number));
    if lines.next().is_none_or(|line| line.rest.trim_end() != "---") {
        return Err((start, SyntaxError::NoFrontMatter));
    }
    let mut head = Vec::new();
    let too_many = SyntaxError::TooManyLines { limit: MAX_LINES };
    let closing = loop {
        match lines.next() {
            None => return Err((start, SyntaxError::Unclosed)),
            Some(line) if line.rest.trim_end() == "---" => break line.spot().line,
            Some(line) if line.is_silent() => {}
            Some(line) if line.rest.contains('\t') => return line.fail(SyntaxError::Tab),
            Some(line) if head.len() == MAX_LINES => return line.fail(too_many),
            Some(line) => head.push(line),
        }
    };
    let body = lines.map(|line| line.rest).collect::<Vec<_>>().join("\n");
    Ok(Document { entries: entries(&head)?, body, body_line: closing + 1 })
}

fn entries(mut lines: &[Cursor<'_>]) -> Result<Vec<(Text, Value)>, Misplaced> {
    let mut entries = Vec::new();
    while let Some((line, below)) = lines.split_first() {
        let mut cursor = *line;
        if cursor.is_below_key() {
            return cursor.fail(SyntaxError::Indentation);
        }
        let key = cursor.new_key(&entries)?;
        let end = below.iter().position(|line| !line.is_below_key()).unwrap_or(below.len());
        let (block_lines, rest) = below.split_at(end);
        let inline = cursor.skip_blanks();
        let value = match (inline, block_lines.first()) {
            (None, None) => return cursor.fail(SyntaxError::NoValue),
            (None, Some(first)) => block(block_lines, first)?,
            (Some('['), _) => Value::List(cursor.inline_list()?),
            (Some('{'), _) => return cursor.fail(SyntaxError::Unsupported { what: "an inline map" }),
            (Some('|' | '>'), _) => {
                return cursor.fail(SyntaxError::Unsupported { what: "a multi-line value" });
            }
            (Some(_), _) => Value::Scalar(cursor.last_scalar()?),
        };
        match block_lines.first() {
            Some(stray) if inline.is_some() => return stray.fail(SyntaxError::Indentation),
            _ => {}
        }
        entries.push((key, value));
        lines = rest;
    }
    Ok(entries)
}

/// The lines below a key: all `- item`, or all `key: text`, and all indented alike.
fn block(lines: &[Cursor<'_>], first: &Cursor<'_>) -> Result<Value, Misplaced> {
    let (mut list, mut map) = (Vec::new(), Vec::new());
    for line in lines {
        let mut cursor = *line;
        cursor.rest = line.rest.trim_start_matches(' ');
        if cursor.spot().column != first.indent() || line.is_item() != first.is_item() {
            return cursor.fail(SyntaxError::Indentation);
        }
        if line.is_item() {
            cursor.skip_one();
            list.push(cursor.last_scalar()?);
        } else {
            map.push((cursor.new_key(&map)?, cursor.last_scalar()?));
        }
    }
    Ok(if first.is_item() { Value::List(list) } else { Value::Map(map) })
}

/// Why a file is not front matter of the supported form.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SyntaxError {
    /// The first line is not `---`.
    #[error("the file does not begin with front matter")]
    NoFrontMatter,
    /// No second `---` line follows the first.
    #[error("the front matter is not closed")]
    Unclosed,
    /// More lines than any worker needs.
    #[error("the front matter has more than {limit} lines")]
    TooManyLines {
        /// The most it may have, comments and blank lines not counted.
        limit: usize,
    },
    /// A tab, which YAML forbids in some of these places and no two readers treat alike in the others.
    #[error("a line of front matter holds a tab")]
    Tab,
    /// A line is neither `key: value`, an item, a comment nor blank.
    #[error("expected `key: value`")]
    NotKeyValue,
    /// A key stands twice in the same place.
    #[error("key `{key}` is given twice")]
    DuplicateKey {
        /// The repeated key.
        key: String,
    },
    /// A key or list item without a value.
    #[error("a value is missing")]
    NoValue,
    /// An item is indented unlike its neighbours, or stands below a key that already has a value.
    #[error("unexpected indentation")]
    Indentation,
    /// A form of YAML that prompt files do not have.
    #[error("{what} is not part of the format")]
    Unsupported {
        /// What was found, with its article.
        what: &'static str,
    },
    /// A plain scalar holds what YAML gives another meaning.
    #[error("text with {found:?} in this place needs quotes")]
    NeedsQuotes {
        /// The offending character.
        found: char,
    },
    /// A quoted scalar does not end on its line.
    #[error("the quotation is not closed on this line")]
    UnclosedQuotes,
    /// An inline list does not end on its line.
    #[error("the list is not closed on this line")]
    UnclosedList,
    /// Something stands behind a complete value.
    #[error("unexpected text after the value")]
    TrailingText,
}

impl SyntaxError {
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoFrontMatter => Some("the first line must be `---`, followed by keys and a closing `---`"),
            Self::Unclosed => Some("end the front matter with a line `---` before the prompt"),
            Self::NotKeyValue => Some("write `key: value`, with a space after the colon"),
            Self::NoValue => {
                Some("write a value, or `[]` for an empty list; leave the key out for its default")
            }
            Self::Indentation => Some("indent all items of a key by the same number of spaces"),
            Self::Unsupported { .. } => {
                Some("values are one line of text, lists of text, or one level of `key: text`")
            }
            Self::NeedsQuotes { .. } => Some("put the whole value in double quotes"),
            Self::UnclosedList => {
                Some("close the list with `]` on the same line, or write one `- item` a line")
            }
            Self::Tab => Some("use spaces"),
            Self::TrailingText => {
                Some("to use one kind of quote within a text, put the other kind around it")
            }
            Self::TooManyLines { .. } | Self::DuplicateKey { .. } | Self::UnclosedQuotes => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn front(head: &str) -> Result<Vec<(Text, Value)>, Misplaced> {
        read(&format!("---\n{head}\n---\nbody\n")).map(|document| document.entries)
    }

    fn only_value(head: &str) -> Value {
        let entries = front(head).unwrap();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.into_iter().next().unwrap().1
    }

    fn scalar(head: &str) -> String {
        let Value::Scalar(text) = only_value(head) else { panic!("not a scalar: {head}") };
        text.value
    }

    fn list(head: &str) -> Vec<String> {
        let Value::List(items) = only_value(head) else { panic!("not a list: {head}") };
        items.into_iter().map(|item| item.value).collect()
    }

    fn error(head: &str) -> (u32, u32, SyntaxError) {
        let (at, error) = front(head).unwrap_err();
        (at.line, at.column, error)
    }

    #[test]
    fn scalars_are_text_whatever_they_look_like() {
        assert_eq!(scalar("k: yes"), "yes");
        assert_eq!(scalar("k: 10"), "10");
        assert_eq!(scalar("k:   spaced out  "), "spaced out");
        assert_eq!(scalar("k: a # comment"), "a");
        assert_eq!(scalar("k: a#b"), "a#b");
        assert_eq!(scalar("k: Bash(git log:*)"), "Bash(git log:*)");
        assert_eq!(scalar("k: opus[1m]"), "opus[1m]");
        assert_eq!(scalar("k: -x"), "-x");
        assert_eq!(scalar("k: élève"), "élève");
    }

    #[test]
    fn quoted_scalars_keep_what_plain_ones_cannot_hold() {
        assert_eq!(scalar(r#"k: "a: b # c" # comment"#), "a: b # c");
        assert_eq!(scalar(r#"k: "it's""#), "it's");
        assert_eq!(scalar(r#"k: 'say "no" \n'"#), r#"say "no" \n"#);
        assert_eq!(scalar("k: ''"), "");
    }

    #[test]
    fn lists_are_inline_or_one_item_a_line() {
        assert_eq!(list("k: []"), Vec::<String>::new());
        assert_eq!(list("k: [a, 'b, c', \"d]\" , e(f g),] # end"), ["a", "b, c", "d]", "e(f g)"]);
        assert_eq!(list("k:\n  - a\n\n  # note\n  - 'b'"), ["a", "b"]);
        assert_eq!(list("k: # below\n- a\n- b c"), ["a", "b c"]);
    }

    #[test]
    fn maps_have_one_level() {
        let Value::Map(pairs) = only_value("k:\n  gpu: yes\n  zone: 'eu: west'") else { panic!("not a map") };
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.value.as_str(), v.value.as_str())).collect();
        assert_eq!(pairs, [("gpu", "yes"), ("zone", "eu: west")]);
        assert_eq!(error("k:\n  a:\n    b: c").2, SyntaxError::NoValue);
    }

    #[test]
    fn values_know_their_place() {
        let entries = front("a: x\nlist: [é, two]").unwrap();
        assert_eq!(entries[1].0.at, Spot { line: 3, column: 1 });
        let Value::List(items) = &entries[1].1 else { panic!("not a list") };
        assert_eq!((items[0].at.column, items[1].at.column), (8, 11));
    }

    #[test]
    fn the_body_is_kept_as_it_is_with_its_first_line_number() {
        let document = read("---\na: b\n---\n\n# Title\n---\nmore\n").unwrap();
        assert_eq!((document.body.as_str(), document.body_line), ("\n# Title\n---\nmore\n", 4));
    }

    #[test]
    fn malformed_front_matter_is_an_error_with_a_place() {
        assert_eq!(read("# no\n").unwrap_err().1, SyntaxError::NoFrontMatter);
        assert_eq!(read("").unwrap_err().1, SyntaxError::NoFrontMatter);
        assert_eq!(read("---\na: b\n").unwrap_err().1, SyntaxError::Unclosed);
        assert_eq!(error("just words"), (2, 1, SyntaxError::NotKeyValue));
        assert_eq!(error("key:value"), (2, 1, SyntaxError::NotKeyValue));
        assert_eq!(error("a: b\na: c"), (3, 1, SyntaxError::DuplicateKey { key: "a".into() }));
        assert_eq!(error("k:\n  a: b\n  a: c"), (4, 3, SyntaxError::DuplicateKey { key: "a".into() }));
        assert_eq!(error("k:\nl: x"), (2, 3, SyntaxError::NoValue));
        assert_eq!(error("k: [a,,b]"), (2, 7, SyntaxError::NoValue));
        assert_eq!(error("  k: v"), (2, 1, SyntaxError::Indentation));
        assert_eq!(error("k:\n  - a\n   - b"), (4, 4, SyntaxError::Indentation));
        assert_eq!(error("k:\n  - a\n  b: c"), (4, 3, SyntaxError::Indentation));
        assert_eq!(error("k:\n\t- a"), (3, 1, SyntaxError::Tab));
        assert_eq!(error("k: {a: b}"), (2, 4, SyntaxError::Unsupported { what: "an inline map" }));
        assert_eq!(error("k: >\n  text").2, SyntaxError::Unsupported { what: "a multi-line value" });
        assert_eq!(error("k: a: b"), (2, 5, SyntaxError::NeedsQuotes { found: ':' }));
        assert_eq!(error("k: *anchor"), (2, 4, SyntaxError::NeedsQuotes { found: '*' }));
        assert_eq!(error("k: [a{b}]"), (2, 6, SyntaxError::NeedsQuotes { found: '{' }));
        assert_eq!(error("k:\n  - - a").2, SyntaxError::NeedsQuotes { found: '-' });
        assert_eq!(error("k: \"open"), (2, 4, SyntaxError::UnclosedQuotes));
        let backslash = SyntaxError::Unsupported { what: "a backslash in double quotes" };
        assert_eq!(error(r#"k: "a\n""#), (2, 4, backslash));
        assert_eq!(error("k: 'it''s'"), (2, 8, SyntaxError::TrailingText));
        assert_eq!(error("k: v\n  - stray"), (3, 1, SyntaxError::Indentation));
        assert_eq!(error("k: [a]\n- stray"), (3, 1, SyntaxError::Indentation));
        assert_eq!(error("k: [a,\n  b]"), (2, 4, SyntaxError::UnclosedList));
        assert_eq!(error("- a"), (2, 1, SyntaxError::Indentation));
        let many =
            "#\n".repeat(MAX_LINES) + &(0..=MAX_LINES).map(|n| format!("k{n}: v\n")).collect::<String>();
        assert_eq!(error(&many).2, SyntaxError::TooManyLines { limit: MAX_LINES });
        assert_eq!(error("k: [a, b"), (2, 4, SyntaxError::UnclosedList));
        assert_eq!(error("k: 'a' b"), (2, 8, SyntaxError::TrailingText));
        assert_eq!(error("k: [a] b"), (2, 8, SyntaxError::TrailingText));
        assert_eq!(error("k: ['a' b]"), (2, 9, SyntaxError::TrailingText));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>()) {
            let _ = read(&text);
        }

        #[test]
        fn no_text_of_the_grammars_own_characters_makes_it_panic(
            head in "[-a: \\[\\]{},'\"#\\\\n\t\n|é]{0,60}",
        ) {
            let _ = read(&format!("---\n{head}\n---\n"));
            let _ = read(&head);
        }

        #[test]
        fn what_is_quoted_is_read_back(
            items in prop::collection::vec("[ -!#-\\[\\]-~é]{0,12}", 1..6),
            block in any::<bool>(),
        ) {
            let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
            let text = if block {
                format!("k:\n  - {}", quoted.join("\n  - "))
            } else {
                format!("k: [{}]", quoted.join(", "))
            };
            prop_assert_eq!(list(&text), items);
        }
    }
}
