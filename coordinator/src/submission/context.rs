//! Context files of a run: checked, and in the one form in which every worker of the run is given them.
//! Knows names and lengths; the form is [`crate::context`]'s.

use super::{SpecError, rules};
use crate::context::{self, MAX_FILES, MAX_NAME_BYTES, MAX_TOTAL_BYTES};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Context files of a run, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedContext {
    /// What follows the system prompt of every worker of the run.
    pub text: Arc<str>,
    /// SHA-256 of `text`.
    pub digest: [u8; 32],
}

impl CheckedContext {
    /// Checks the files of a spec; `None` without any.
    ///
    /// # Errors
    /// The first file at fault.
    pub fn check(files: Vec<v1::ContextFile>) -> Result<Option<Self>, SpecError> {
        let refuse = |code, field: String, message: String| Err(SpecError::new(code, field, message));
        if files.is_empty() {
            return Ok(None);
        }
        if files.len() > MAX_FILES {
            let message = format!("{} files; at most {MAX_FILES}", files.len());
            return refuse(ErrorCode::TooLarge, "context_files".to_owned(), message);
        }
        let (mut names, mut texts, mut bytes) = (BTreeSet::new(), Vec::with_capacity(files.len()), 0);
        for (at, file) in files.into_iter().enumerate() {
            let v1::ContextFile { name, text } = file;
            let field = |part: &str| format!("context_files[{at}].{part}");
            let shaped = (1..=MAX_NAME_BYTES).contains(&name.len()) && name.trim() == name;
            if !shaped || name.chars().any(char::is_control) {
                let message = format!(
                    "`{}` is no name: 1 to {MAX_NAME_BYTES} bytes on one line, without blanks at its ends",
                    rules::shown(&name)
                );
                return refuse(ErrorCode::InvalidName, field("name"), message);
            }
            if !names.insert(name.clone()) {
                let message = format!("`{name}` is there twice");
                return refuse(ErrorCode::InvalidField, field("name"), message);
            }
            let text = context::tidy(&text);
            if text.is_empty() {
                return refuse(ErrorCode::InvalidField, field("text"), format!("`{name}` is empty"));
            }
            bytes += text.len();
            texts.push((name, text));
        }
        if bytes > MAX_TOTAL_BYTES {
            let message = format!("{bytes} bytes together; at most {MAX_TOTAL_BYTES}");
            return refuse(ErrorCode::TooLarge, "context_files".to_owned(), message);
        }
        let files = texts.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let text: Arc<str> = context::render(context::Of::Run, files).into();
        let digest = Sha256::digest(text.as_bytes()).into();
        Ok(Some(Self { text, digest }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Result<Option<CheckedContext>, SpecError> {
        let file = |(name, text): &(&str, &str)| v1::ContextFile {
            name: (*name).to_owned(),
            text: (*text).to_owned(),
        };
        CheckedContext::check(files.iter().map(file).collect())
    }

    #[test]
    fn files_keep_their_order_and_have_one_form() {
        assert_eq!(check(&[]), Ok(None));
        let checked = check(&[("b.md", "Two.\r\n"), ("a.md", "\nOne.")]).unwrap().unwrap();
        let wanted = "\n# Context files of this run\n\n## b.md\n\nTwo.\n\n## a.md\n\nOne.\n";
        assert_eq!(&*checked.text, wanted);
        assert_eq!(checked.digest, <[u8; 32]>::from(Sha256::digest(wanted)));
    }

    #[test]
    fn names_are_single_lines_and_there_once_and_sizes_are_bounded() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for (files, field) in [
            (vec![("", "x")], "context_files[0].name"),
            (vec![("a\nb", "x")], "context_files[0].name"),
            (vec![("a\u{1b}b", "x")], "context_files[0].name"),
            (vec![(" a", "x")], "context_files[0].name"),
            (vec![(long.as_str(), "x")], "context_files[0].name"),
            (vec![("a", "x"), ("a", "y")], "context_files[1].name"),
            (vec![("a", " \n")], "context_files[0].text"),
            (vec![("a", "x".repeat(MAX_TOTAL_BYTES).as_str()), ("b", "x")], "context_files"),
            (vec![("a", "x"); MAX_FILES + 1], "context_files"),
        ] {
            assert_eq!(check(&files).unwrap_err().field, field);
        }
        assert!(check(&[("a", &"x".repeat(MAX_TOTAL_BYTES))]).is_ok());
    }
}
