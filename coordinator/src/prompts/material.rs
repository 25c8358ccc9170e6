//! What a worker file names beside prompts: context files, and JSON for the CLI.
//!
//! Knows folders below `context/`, sizes and JSON; refuses to know which worker wants what. A context file that nobody
//! names may be anything: what is wrong with one is kept, and said where a worker names it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use serde_json::Value;

use super::error::{PromptError, PromptErrorKind, Spot};
use super::fields::normalised;
use super::layer::PromptFile;
use crate::context::{self, MAX_FILE_BYTES};

/// Folders within folders that are looked into.
const MAX_DEPTH: usize = 8;

/// Largest JSON file: it travels with every assignment of the worker.
const MAX_JSON_BYTES: usize = 64 * 1024;

/// A context file, tidy, or why it cannot be used.
pub(super) type ContextFile = Result<String, String>;

/// Whether `path` may name a context file: below the folder, without `..` and hidden parts.
pub(super) fn is_context_path(path: &str) -> bool {
    (1..=context::MAX_NAME_BYTES).contains(&path.len())
        && !path.chars().any(|c| c.is_control() || c == '\\')
        && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        && path.trim() == path
}

/// The content of a context file, whatever it is.
pub(super) fn context_file(content: &[u8]) -> ContextFile {
    if content.len() > MAX_FILE_BYTES {
        return Err(format!("has more than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::str::from_utf8(content)
        .map_err(|error| format!("is not UTF-8 from byte {} on", error.valid_up_to()))?;
    let text = normalised(text).map_err(|(at, kind)| format!("has a {kind} in line {}", at.line))?;
    let text = context::tidy(&text);
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}

/// Every file below `folder`, by its path within. Links are followed as long as they stay below it. `None` when there
/// are more than `limit`.
///
/// # Errors
/// When a folder cannot be read.
pub(super) fn read_context(folder: &Path, limit: usize) -> io::Result<Option<BTreeMap<String, ContextFile>>> {
    let root = fs::canonicalize(folder)?;
    let mut files = BTreeMap::new();
    let mut open = vec![(folder.to_path_buf(), String::new(), 0)];
    while let Some((at, prefix, depth)) = open.pop() {
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (path, within) = (entry.path(), format!("{prefix}{name}"));
            if !is_context_path(&within) {
                continue;
            }
            let outside = fs::canonicalize(&path).is_ok_and(|real| !real.starts_with(&root));
            if !outside && fs::metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                if depth < MAX_DEPTH {
                    open.push((path, format!("{within}/"), depth + 1));
                }
                continue;
            }
            let file = if outside { Err("leads out of `context/`".to_owned()) } else { read(&path) };
            files.insert(within, file);
            if files.len() > limit {
                return Ok(None);
            }
        }
    }
    Ok(Some(files))
}

fn read(path: &Path) -> ContextFile {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut content = Vec::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut content)).map_err(unreadable)?;
    context_file(&content)
}

/// Tool servers of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct McpConfig {
    /// For `--mcp-config`.
    pub(super) json: String,
    /// Names of its servers.
    pub(super) servers: Vec<String>,
}

/// A settings file as the CLI gets it: one JSON object, without blanks.
pub(super) fn settings(file: &PromptFile) -> Result<String, PromptError> {
    object(file).map(|value| value.to_string())
}

/// A file of tool servers.
pub(super) fn mcp_config(file: &PromptFile) -> Result<McpConfig, PromptError> {
    let value = object(file)?;
    let servers = value.get("mcpServers").and_then(Value::as_object).filter(|servers| !servers.is_empty());
    let what = "an object with `mcpServers`, an object of at least one server";
    let servers = servers.ok_or_else(|| fail(file, START, PromptErrorKind::WrongJson { expected: what }))?;
    let servers = servers.keys().cloned().collect();
    Ok(McpConfig { json: value.to_string(), servers })
}

const START: Spot = Spot { line: 1, column: 1 };

fn object(file: &PromptFile) -> Result<Value, PromptError> {
    let bytes = file.text.len();
    if bytes > MAX_JSON_BYTES {
        let kind = PromptErrorKind::TooLong { what: "the file", bytes, limit: MAX_JSON_BYTES };
        return Err(fail(file, START, kind));
    }
    let text = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let at = Spot { line: number(error.line()).max(1), column: number(error.column()).max(1) };
        fail(file, at, PromptErrorKind::BadJson { reason: reason(&error) })
    })?;
    if value.is_object() {
        return Ok(value);
    }
    Err(fail(file, START, PromptErrorKind::WrongJson { expected: "an object" }))
}

/// What the parser says, without the place, which is shown before it.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split_once(" at line ").map_or(text.as_str(), |(reason, _)| reason).to_owned()
}

fn fail(file: &PromptFile, at: Spot, kind: PromptErrorKind) -> PromptError {
    PromptError { file: file.path.clone(), at, kind }
}
