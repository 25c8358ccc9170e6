//! The tables of a limits file as they are written, each value with its place.
//! Knows names and places of values; what they mean together is judged above.

use super::{MAX_A_MINUTE, Refused};
use orch_core::limits::BucketSettings;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A value and where it stands.
pub(super) type Place<T> = toml::Spanned<T>;

/// Tables of pools by name.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct PoolTables(pub(super) BTreeMap<Place<String>, PoolTable>);

/// `[pools.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolTable {
    pub(super) preset: Option<Place<String>>,
    requests_per_minute: Option<Place<u64>>,
    input_tokens_per_minute: Option<Place<u64>>,
    output_tokens_per_minute: Option<Place<u64>>,
    pub(super) per_worker: Option<BucketTable>,
    #[serde(default)]
    pub(super) models: BTreeMap<Place<String>, ModelTable>,
    pub(super) max_concurrent: Option<Place<u32>>,
    pub(super) starts_per_minute: Option<Place<u32>>,
    pub(super) share: Option<Place<f64>>,
}

impl PoolTable {
    /// The limits of the whole pool that the table says itself.
    pub(super) fn limits(&self) -> BucketTable {
        BucketTable {
            requests_per_minute: self.requests_per_minute.clone(),
            input_tokens_per_minute: self.input_tokens_per_minute.clone(),
            output_tokens_per_minute: self.output_tokens_per_minute.clone(),
        }
    }
}

/// `[pools.NAME.models.CLASS]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelTable {
    pub(super) requests_per_minute: Option<Place<u64>>,
    pub(super) input_tokens_per_minute: Option<Place<u64>>,
    pub(super) output_tokens_per_minute: Option<Place<u64>>,
    pub(super) per_worker: Option<BucketTable>,
}

/// Limits a minute.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BucketTable {
    pub(super) requests_per_minute: Option<Place<u64>>,
    pub(super) input_tokens_per_minute: Option<Place<u64>>,
    pub(super) output_tokens_per_minute: Option<Place<u64>>,
}

impl BucketTable {
    /// These limits, and of `base` what they say nothing of.
    pub(super) fn over(&self, base: BucketSettings) -> Result<BucketSettings, Refused> {
        let limit = |said: &Option<Place<u64>>, name: &str| match said {
            None => Ok(None),
            Some(said) if (1..=MAX_A_MINUTE).contains(said.get_ref()) => Ok(Some(*said.get_ref())),
            Some(said) => Err((
                said.span().start,
                format!(
                    "{name} is {}: between 1 and {MAX_A_MINUTE}; leave it out for what the API tells",
                    said.get_ref()
                ),
            )),
        };
        Ok(BucketSettings {
            requests: limit(&self.requests_per_minute, "requests_per_minute")?.or(base.requests),
            input: limit(&self.input_tokens_per_minute, "input_tokens_per_minute")?.or(base.input),
            output: limit(&self.output_tokens_per_minute, "output_tokens_per_minute")?.or(base.output),
        })
    }
}

/// The line of a place, from 1.
pub(super) fn found_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}
