//! Rules for the small parts of a spec: names, requirements, schemas.
//! Knows characters and lengths; refuses to know where a name is used.

use super::{MAX_SCHEMA_BYTES, SpecError};
use orch_proto::codes::ErrorCode;

/// Which characters a name may have. All are printable ASCII, at most 63 bytes, and start with a letter or digit,
/// so that a name is safe as a file name, on a command line and on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameStyle {
    /// Lower case, digits, dot, dash, underscore.
    Run,
    /// Also upper case.
    Task,
    /// Also slash.
    Label,
    /// Also slash, colon and square brackets, up to 128 bytes: `claude-opus-4-8[1m]`.
    Model,
}

impl NameStyle {
    const fn allows(self, byte: u8) -> bool {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => true,
            b'A'..=b'Z' => !matches!(self, Self::Run),
            b'/' => matches!(self, Self::Label | Self::Model),
            b':' | b'[' | b']' | b'@' => matches!(self, Self::Model),
            _ => false,
        }
    }

    const fn max_bytes(self) -> usize {
        match self {
            Self::Run | Self::Task | Self::Label => 63,
            Self::Model => 128,
        }
    }
}

/// Checks a name.
pub(super) fn check_name(field: &str, name: &str, style: NameStyle) -> Result<(), SpecError> {
    let bytes = name.as_bytes();
    let fits = (1..=style.max_bytes()).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| style.allows(*byte))
        && !name.contains("..");
    if fits {
        return Ok(());
    }
    let case = if style == NameStyle::Run { "lower-case letters" } else { "letters" };
    let message = format!(
        "`{}` is not a name: {case}, digits, dot, dash and underscore, starting with a letter or digit, no `..`, at most {} bytes",
        shown(name),
        style.max_bytes()
    );
    Err(SpecError::new(ErrorCode::InvalidName, field, message))
}

/// Checks the name of a workspace, as agents offer them; an empty one means none.
pub(super) fn check_workspace(field: &str, name: &str) -> Result<(), SpecError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() <= 63 && name.bytes().all(fits) && !name.starts_with('-') {
        return Ok(());
    }
    let message = format!(
        "`{}` is not the name of a workspace: lower-case letters, digits and dash, at most 63 bytes, as agents offer it \
         with --workspace NAME=DIR",
        shown(name)
    );
    Err(SpecError::new(ErrorCode::InvalidName, field, message))
}

/// A length of time in milliseconds; `None` when it is negative or out of all bounds.
pub(super) fn millis(length: prost_types::Duration) -> Option<u64> {
    let seconds = u64::try_from(length.seconds).ok()?;
    let part = u64::try_from(length.nanos / 1_000_000).ok()?;
    seconds.checked_mul(1_000)?.checked_add(part)
}

/// Checks a requirement and joins it to `key=value`. `runner`, `program` and `agent` belong to orch.
pub(super) fn check_requirement(field: &str, key: &str, value: &str) -> Result<String, SpecError> {
    let field = format!("{field}.{}", shown(key));
    check_name(&field, key, NameStyle::Task)?;
    if matches!(key, "runner" | "program" | "agent") {
        let message = format!("`{key}` follows from the task and cannot be required");
        return Err(SpecError::new(ErrorCode::InvalidField, field, message));
    }
    check_name(&field, value, NameStyle::Model)?;
    Ok(format!("{key}={value}"))
}

/// Checks that an output schema, if any, is a JSON object of bounded length.
pub(super) fn check_schema(field: &str, schema: &str) -> Result<(), SpecError> {
    if schema.is_empty() {
        return Ok(());
    }
    if schema.len() > MAX_SCHEMA_BYTES {
        let message = format!("{} bytes; at most {MAX_SCHEMA_BYTES}", schema.len());
        return Err(SpecError::new(ErrorCode::InvalidSchema, field, message));
    }
    match serde_json::from_str::<serde_json::Value>(schema) {
        Ok(serde_json::Value::Object(_)) => Ok(()),
        Ok(_) => Err(SpecError::new(ErrorCode::InvalidSchema, field, "is JSON but not an object")),
        Err(error) => Err(SpecError::new(ErrorCode::InvalidSchema, field, format!("is not JSON: {error}"))),
    }
}

/// A name as it may be printed: control characters visible, at most 80 characters.
pub(super) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        text.push('…');
    }
    text
}

/// The known name nearest to `name`, when one is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    known
        .take(1_000)
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}
