//! Limits by the name of a usage tier.
//! Knows figures that somebody named; refuses to guess others: what a preset leaves out is learned from the API's answers.

use orch_core::limits::BucketSettings;

/// Limits a minute of a whole pool and of each worker in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Preset {
    pub(super) whole: BucketSettings,
    pub(super) per_worker: BucketSettings,
}

/// Every preset, by name. That of tier 4 has no limit of output in all: none was named, and headers tell it.
pub(super) const PRESETS: [(&str, Preset); 1] = [(
    "tier-4",
    Preset {
        whole: BucketSettings { requests: Some(4_000), input: Some(400_000), output: None },
        per_worker: BucketSettings { requests: Some(1_000), input: Some(100_000), output: Some(20_000) },
    },
)];

/// The preset of this name.
pub(super) fn preset(name: &str) -> Option<Preset> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, preset)| *preset)
}
