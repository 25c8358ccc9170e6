//! Tokens and money, added up exactly. Knows no price.

use std::sync::Arc;

/// Tokens and money of one model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelUsage {
    /// Model name.
    pub model: Arc<str>,
    /// Input tokens outside the cache.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Tokens read from the cache.
    pub cache_read: u64,
    /// Tokens written to the cache.
    pub cache_write: u64,
    /// Millionths of a US dollar.
    pub cost_micro_usd: u64,
}

/// Tokens and money of an attempt, a task or a run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Usage {
    /// One row a model, sorted by name.
    pub models: Vec<ModelUsage>,
    /// Millionths of a US dollar in all.
    pub cost_micro_usd: u64,
    /// Whether part of it was estimated.
    pub estimated: bool,
}

impl Usage {
    /// Adds `other`, model by model. Saturates.
    pub fn add(&mut self, other: &Self) {
        self.cost_micro_usd = self.cost_micro_usd.saturating_add(other.cost_micro_usd);
        self.estimated |= other.estimated;
        for row in &other.models {
            match self.models.binary_search_by(|mine| mine.model.cmp(&row.model)) {
                Ok(at) => self.models[at].add(row),
                Err(at) => self.models.insert(at, row.clone()),
            }
        }
    }

    /// Puts what was spent in the place of an estimate that was added before. Says nothing of other estimates.
    pub fn settle(&mut self, estimate_micro_usd: u64, spent: &Self) {
        self.cost_micro_usd = self.cost_micro_usd.saturating_sub(estimate_micro_usd);
        self.add(spent);
    }

    /// What an attempt spent that ended without a report, as far as its agent had said. Zero is not an estimate.
    #[must_use]
    pub fn estimate(cost_micro_usd: u64) -> Self {
        Self { models: Vec::new(), cost_micro_usd, estimated: cost_micro_usd > 0 }
    }

    /// Whether nothing was spent.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.models.is_empty() && self.cost_micro_usd == 0
    }
}

impl ModelUsage {
    fn add(&mut self, other: &Self) {
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.cost_micro_usd = self.cost_micro_usd.saturating_add(other.cost_micro_usd);
    }
}
