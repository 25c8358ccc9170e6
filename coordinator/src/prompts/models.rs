//! Models as worker files name them: tiers, full ids, and those that step in when one is overloaded or gone.
//! Knows the CLI's words for tiers; refuses to know which models there are.

use super::error::PromptError;
use super::fields::Fields;
use super::front_matter::Text;
use super::names;

/// The CLI's tier aliases; any other model is named by its full id.
pub(super) const TIERS: [&str; 4] = ["fable", "haiku", "opus", "sonnet"];

/// Longest full id, in bytes.
const MAX_MODEL_BYTES: usize = 128;

/// Models that step in, at most: each is tried only when the one before it will not serve.
const MAX_FALLBACKS: usize = 3;

/// A tier alias, or a full id. The CLI passes any unknown word through to the API, so that a misspelt alias
/// would fail only when the task runs: a plain word must be an alias.
pub(super) fn model(fields: &mut Fields, aliases: &[&'static str]) -> Result<Option<String>, PromptError> {
    let Some(text) = fields.text("model")? else { return Ok(None) };
    checked(fields, "model", text, aliases).map(Some)
}

/// Models for `--fallback-model`, in order: one, or a list. The worker's own is none of them.
pub(super) fn fallback(fields: &mut Fields, own: Option<&str>) -> Result<Vec<String>, PromptError> {
    let mut models = Vec::new();
    for text in fields.text_or_list("fallback", MAX_FALLBACKS)? {
        if own == Some(text.value.as_str()) {
            return Err(fields.bad("fallback", &text, "another model than `model`", None));
        }
        models.push(checked(fields, "fallback", text, &TIERS)?);
    }
    Ok(models)
}

fn checked(
    fields: &Fields,
    key: &'static str,
    text: Text,
    aliases: &[&'static str],
) -> Result<String, PromptError> {
    let base = text.value.strip_suffix("[1m]").unwrap_or(&text.value);
    let is_word = base.chars().all(|c| c.is_ascii_alphabetic());
    let is_id = base.starts_with(|c: char| c.is_ascii_alphanumeric())
        && base.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@'));
    if aliases.contains(&base) || (is_id && !is_word && text.value.len() <= MAX_MODEL_BYTES) {
        return Ok(text.value);
    }
    let nearest = names::nearest(base, aliases.iter().copied());
    Err(fields.bad(key, &text, "opus, sonnet, haiku, fable or a full model id", nearest))
}
