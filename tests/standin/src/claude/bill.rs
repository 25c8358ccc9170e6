//! Knows what a process has used, by model, over all its turns and sub-agents: the source of `modelUsage` and
//! `total_cost_usd`, which are cumulative within one process. Refuses to know turns.

use serde_json::{Map, Value};

use crate::models::{Usage, cost_usd, model_usage_json};

/// The totals, in the order in which models first appeared.
#[derive(Debug, Default)]
pub(super) struct Bill {
    models: Vec<(String, Usage)>,
}

impl Bill {
    /// Adds an answer.
    pub(super) fn add(&mut self, model: &str, usage: Usage) {
        match self.models.iter_mut().find(|(name, _)| name == model) {
            Some((_, total)) => total.add(usage),
            None => self.models.push((model.to_owned(), usage)),
        }
    }

    /// USD so far.
    pub(super) fn total_usd(&self) -> f64 {
        // Not `sum`: of nothing it gives -0.0, which JSON shows.
        self.models.iter().fold(0.0, |total, (model, usage)| total + cost_usd(model, *usage))
    }

    /// The `modelUsage` object.
    pub(super) fn json(&self) -> Value {
        let entry = |(model, usage): &(String, Usage)| (model.clone(), model_usage_json(model, *usage));
        Value::Object(self.models.iter().map(entry).collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::Bill;
    use crate::models::SCRIPTED_USAGE;

    #[test]
    fn totals_grow_by_model_and_in_sum() {
        let mut bill = Bill::default();
        for model in ["claude-sonnet-5", "claude-haiku-4-5-20251001", "claude-sonnet-5"] {
            bill.add(model, SCRIPTED_USAGE);
        }
        assert_eq!(bill.json()["claude-sonnet-5"]["inputTokens"], 200);
        assert!((bill.total_usd() - 0.0014).abs() < 1e-9);
    }
}
