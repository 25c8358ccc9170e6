//! Text from elsewhere made safe for a terminal: control characters are shown, never passed on.
//! Knows characters; refuses to know what the text says.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with its control characters made visible; newlines and tabs stay. A carriage return before a newline is
/// dropped. Characters that reorder text are shown as their number, for they could make it read differently.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\r' if chars.peek() == Some(&'\n') => {}
            char if is_unsafe(char) => show(char, &mut shown),
            char => shown.push(char),
        }
    }
    Cow::Owned(shown)
}

/// The same on one line: line breaks and tabs become a space, at most `limit` characters.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::new();
    let mut gap = false;
    for (count, char) in text.trim().chars().enumerate() {
        if count >= limit {
            line.push('…');
            break;
        }
        if char.is_whitespace() {
            gap = true;
            continue;
        }
        if std::mem::take(&mut gap) {
            line.push(' ');
        }
        if is_unsafe(char) { show(char, &mut line) } else { line.push(char) }
    }
    line
}

/// A JSON document with the characters escaped that JSON allows in texts but terminals act upon: DEL, the C1 controls
/// and those that reorder text. They can stand inside strings only, so the document keeps its meaning.
pub(crate) fn json(document: &str) -> Cow<'_, str> {
    // Line breaks and tabs stand between the parts of an indented document; inside strings they are escaped already.
    if !document.chars().any(|char| is_unsafe(char) || char == '\u{2028}' || char == '\u{2029}') {
        return Cow::Borrowed(document);
    }
    let mut escaped = String::with_capacity(document.len() + 16);
    for char in document.chars() {
        if is_unsafe(char) || char == '\u{2028}' || char == '\u{2029}' {
            // All of them lie in the first plane. Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    Cow::Owned(escaped)
}

fn is_unsafe(char: char) -> bool {
    (char.is_control() && char != '\n' && char != '\t') || reorders(char)
}

/// Bidirectional controls (Unicode Standard Annex 9).
fn reorders(char: char) -> bool {
    matches!(char, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// C0 controls and DEL have pictures of their own in Unicode; everything else is shown as its number.
fn show(char: char, into: &mut String) {
    let code = u32::from(char);
    let picture = match code {
        0..=0x1f => char::from_u32(0x2400 + code),
        0x7f => Some('␡'),
        _ => None,
    };
    match picture {
        Some(picture) => into.push(picture),
        // Writing to a String cannot fail.
        None => {
            let _ = write!(into, "<{code:04x}>");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown() {
        assert_eq!(safe("a\u{1b}[31mred\u{7}\u{7f}"), "a␛[31mred␇␡");
        assert_eq!(safe("\u{9b}31m \u{202e}txt"), "<009b>31m <202e>txt");
    }

    #[test]
    fn lines_tabs_and_plain_text_stay() {
        assert!(matches!(safe("deux\n\ttrois é 你好"), Cow::Borrowed(_)));
        assert_eq!(safe("a\r\nb\rc"), "a\nb␍c");
    }

    #[test]
    fn a_json_document_keeps_its_meaning_without_characters_that_terminals_act_upon() {
        let text = "a\u{1b}\u{7f}\u{9b}31m\u{202e}b\u{2028}é";
        let document = serde_json::to_string_pretty(&[text]).unwrap();
        let shown = json(&document);
        assert_eq!(shown, "[\n  \"a\\u001b\\u007f\\u009b31m\\u202eb\\u2028é\"\n]");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [text]);
    }

    #[test]
    fn one_line_folds_white_space_and_cuts() {
        assert_eq!(one_line("  a\n\n b\tc ", 80), "a b c");
        assert_eq!(one_line("abcdef", 3), "abc…");
        assert_eq!(one_line("\u{1b}]0;x\u{7}", 80), "␛]0;x␇");
    }
}
