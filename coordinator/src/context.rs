//! Context files as models read them: one fixed form for those of a worker and those of a run.
//! Knows names and texts; refuses to know where they come from.
//!
//! ```text
//! (blank line)
//! # Context files of this worker
//!
//! ## terms/glossary.md
//!
//! (the text, without blank lines at its ends)
//! ```
//!
//! Every file follows the one before after a blank line; the whole ends with one line feed. Line ends are LF. The same
//! names and texts give the same bytes, so that the API's prompt cache serves them.

/// Longest text of a file, in bytes.
pub const MAX_FILE_BYTES: usize = 64 << 10;
/// All texts of one list together, in bytes.
pub const MAX_TOTAL_BYTES: usize = 256 << 10;
/// Most files of one list.
pub const MAX_FILES: usize = 64;
/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Whose files they are: the heading above all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The worker's own.
    Worker,
    /// Those of the run.
    Run,
}

/// `text` as it is rendered and counted: without byte order mark, with LF line ends, without blank space at its ends.
#[must_use]
pub fn tidy(text: &str) -> String {
    text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").trim().to_owned()
}

/// The form that follows a system prompt; empty without files. Texts are tidy.
#[must_use]
pub fn render<'a>(of: Of, files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let heading = match of {
        Of::Worker => "Context files of this worker",
        Of::Run => "Context files of this run",
    };
    let mut rendered = String::new();
    for (name, text) in files {
        if rendered.is_empty() {
            rendered = format!("\n# {heading}\n");
        }
        rendered.push_str(&format!("\n## {name}\n\n{text}\n"));
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_fixed() {
        let text = tidy("\u{feff}\r\nOne.\r\nTwo.\n\n");
        let rendered = render(Of::Worker, [("a/terms.md", text.as_str()), ("b.txt", "Three.")]);
        let wanted =
            "\n# Context files of this worker\n\n## a/terms.md\n\nOne.\nTwo.\n\n## b.txt\n\nThree.\n";
        assert_eq!(rendered, wanted);
        assert!(render(Of::Run, [("x", "y")]).starts_with("\n# Context files of this run\n"));
        assert_eq!(render(Of::Run, []), "");
    }
}
