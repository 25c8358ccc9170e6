//! What is asked of the ledger: how to split, what to take, from when to when.
//! Knows the words for dimensions and their values; refuses to know where entries lie.

use jiff::Timestamp;
use orch_core::ids::TenantId;
use orch_proto::store::v1::LedgerEntry;
use orch_proto::v1::CostDimension;

/// Most dimensions at a time.
pub const MAX_DIMENSIONS: usize = 3;
/// Most filters.
pub const MAX_FILTERS: usize = 32;

/// What costs can be split by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// Run, `name/number`.
    Run,
    /// Task, `name/number/task`.
    Task,
    /// Worker.
    Worker,
    /// Agent.
    Agent,
    /// Model; empty where an estimate does not know it.
    Model,
    /// Credential pool.
    Pool,
    /// Tenant.
    Tenant,
    /// Day, UTC.
    Day,
    /// Name of the run.
    Name,
    /// How the attempt ended.
    Outcome,
}

const WORDS: [(Dimension, &str, CostDimension); 10] = [
    (Dimension::Run, "run", CostDimension::Run),
    (Dimension::Task, "task", CostDimension::Task),
    (Dimension::Worker, "worker", CostDimension::Worker),
    (Dimension::Agent, "agent", CostDimension::Agent),
    (Dimension::Model, "model", CostDimension::Model),
    (Dimension::Pool, "pool", CostDimension::Pool),
    (Dimension::Tenant, "tenant", CostDimension::Tenant),
    (Dimension::Day, "day", CostDimension::Day),
    (Dimension::Name, "name", CostDimension::Name),
    (Dimension::Outcome, "outcome", CostDimension::Outcome),
];

impl Dimension {
    /// From the wire; none when unset or unknown.
    #[must_use]
    pub fn of(wire: CostDimension) -> Option<Self> {
        WORDS.iter().find(|row| row.2 == wire).map(|row| row.0)
    }

    /// The dimension of that word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        WORDS.iter().find(|row| row.1 == word).map(|row| row.0)
    }

    /// The words, for people.
    #[must_use]
    pub fn words() -> String {
        WORDS.map(|row| row.1).join(", ")
    }

    /// Writes the value of an entry behind `into`. `model` is that of the row, where rows are told apart.
    pub(super) fn write(self, entry: &LedgerEntry, model: &str, tenant: &str, into: &mut String) {
        match self {
            Self::Run => into.push_str(&entry.run_ref),
            Self::Task => {
                into.push_str(&entry.run_ref);
                into.push('/');
                into.push_str(&entry.task_id);
            }
            Self::Worker => into.push_str(&entry.worker),
            Self::Agent => into.push_str(&entry.agent),
            Self::Model => into.push_str(model),
            Self::Pool => into.push_str(&entry.pool),
            Self::Tenant => into.push_str(tenant),
            Self::Day => {
                let at = Timestamp::from_millisecond(entry.recorded_ms).unwrap_or_default();
                into.push_str(&at.strftime("%Y-%m-%d").to_string());
            }
            Self::Name => into.push_str(entry.run_ref.split_once('/').map_or("", |(name, _)| name)),
            Self::Outcome => into.push_str(entry.outcome().word()),
        }
    }
}

/// A question. Entries are taken if, for every dimension that filters name, one of its values fits.
#[derive(Debug, Clone)]
pub struct Question {
    /// Whose entries.
    pub tenant: TenantId,
    /// The tenant's name.
    pub tenant_name: String,
    /// Split by these.
    pub by: Vec<Dimension>,
    /// Recorded at or after, unix ms.
    pub since: Option<i64>,
    /// Recorded before, unix ms.
    pub until: Option<i64>,
    /// Only these values.
    pub filters: Vec<(Dimension, String)>,
    /// Most rows.
    pub limit: usize,
}

/// The filter of `worker=marie`.
///
/// # Errors
/// In plain English, what is wrong.
pub fn filter(text: &str) -> Result<(Dimension, String), String> {
    let (word, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not DIMENSION=VALUE"))?;
    let dimension = Dimension::named(word)
        .ok_or_else(|| format!("`{word}` is no dimension: there are {}", Dimension::words()))?;
    Ok((dimension, value.to_owned()))
}

impl Question {
    /// Whether models must be told apart.
    pub(super) fn is_by_model(&self) -> bool {
        let filters = self.filters.iter().map(|(dimension, _)| dimension);
        self.by.iter().chain(filters).any(|dimension| *dimension == Dimension::Model)
    }

    /// Whether an entry, and of it the row of `model`, is asked for.
    pub(super) fn takes(&self, entry: &LedgerEntry, model: &str, scratch: &mut String) -> bool {
        let within = self.since.is_none_or(|since| entry.recorded_ms >= since)
            && self.until.is_none_or(|until| entry.recorded_ms < until);
        within
            && entry.tenant == self.tenant.0
            && self.filters.iter().all(|(dimension, _)| {
                scratch.clear();
                dimension.write(entry, model, &self.tenant_name, scratch);
                self.filters.iter().any(|(of, value)| of == dimension && value == scratch)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dimension_of_the_wire_has_a_word() {
        for number in 1..=10 {
            let wire = CostDimension::try_from(number).unwrap();
            let dimension = Dimension::of(wire).unwrap();
            let word = WORDS.iter().find(|row| row.0 == dimension).unwrap().1;
            assert_eq!(wire.as_str_name(), format!("COST_DIMENSION_{}", word.to_uppercase()));
            assert_eq!(filter(&format!("{word}=a=b")), Ok((dimension, "a=b".to_owned())));
        }
        assert!(CostDimension::try_from(11).is_err(), "a new one needs a row");
        assert_eq!(Dimension::of(CostDimension::Unspecified), None);
    }

    #[test]
    fn a_filter_that_is_none_is_refused_with_what_there_is() {
        assert!(filter("marie").unwrap_err().contains("not DIMENSION=VALUE"));
        assert!(filter("who=marie").unwrap_err().contains("there are run, task, worker"));
    }
}
