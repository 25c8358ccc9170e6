//! What was measured, as it is kept in a file: every sample with the command that made it, and everything that was not measured
//! with the reason. Refuses to know what is good.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::{self, Machine};

/// One measurement of one row: figures by name, such as `tasks_per_s`; of nested objects the names are joined by dots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) subject: String,
    pub(crate) row: String,
    pub(crate) round: u32,
    pub(crate) figures: BTreeMap<String, f64>,
    /// What was run, without the connection.
    pub(crate) command: String,
}

impl Sample {
    /// Takes the numbers out of the last line of what a client printed.
    pub(crate) fn read(printed: &str, command: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(printed)
            .or_else(|_| serde_json::from_str(printed.lines().last().unwrap_or_default()))
            .with_context(|| format!("{command} printed no JSON"))?;
        let mut figures = BTreeMap::new();
        flatten("", &value, &mut figures);
        Ok(Self { figures, command: command.to_owned(), ..Self::default() })
    }

    /// Of figures that were taken here.
    pub(crate) fn of<'a>(
        figures: impl IntoIterator<Item = (&'a str, f64)>,
        command: impl Into<String>,
    ) -> Self {
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { figures, command: command.into(), ..Self::default() }
    }

    /// The figures in a line.
    pub(crate) fn line(&self) -> String {
        let shown = self.figures.iter().map(|(name, value)| format!("{name} {value:.3}"));
        shown.collect::<Vec<_>>().join("  ")
    }
}

fn flatten(path: &str, value: &Value, figures: &mut BTreeMap<String, f64>) {
    match value {
        Value::Number(number) => {
            figures.extend(number.as_f64().map(|number| (path.to_owned(), number)));
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, figures);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
    }
}

/// A subject that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) key: String,
    pub(crate) version: String,
}

/// Something that was not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) subject: String,
    /// Empty for all of them.
    pub(crate) row: String,
    pub(crate) why: String,
    /// It was tried.
    pub(crate) failed: bool,
}

/// A whole run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) load_at_start: String,
    pub(crate) load_at_end: String,
    pub(crate) runs: u32,
    pub(crate) quick: bool,
    pub(crate) measured: Vec<Measured>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) missing: Vec<Missing>,
}

impl Results {
    /// Of a run that begins now.
    pub(crate) fn begin(runs: u32, quick: bool) -> Self {
        Self { machine: Machine::here(), load_at_start: machine::load(), runs, quick, ..Self::default() }
    }

    /// The run is over.
    pub(crate) fn end(&mut self) {
        self.load_at_end = machine::load();
    }

    pub(crate) fn measures(&mut self, subject: &str, version: String) {
        self.measured.push(Measured { key: subject.to_owned(), version });
    }

    pub(crate) fn add(&mut self, subject: &str, row: &str, round: u32, sample: Sample) {
        self.samples.push(Sample { subject: subject.to_owned(), row: row.to_owned(), round, ..sample });
    }

    pub(crate) fn skip(&mut self, subject: &str, why: &str) {
        self.miss(subject, "", why, false);
    }

    pub(crate) fn fail(&mut self, subject: &str, row: &str, why: &str) {
        self.miss(subject, row, why, true);
    }

    fn miss(&mut self, subject: &str, row: &str, why: &str, failed: bool) {
        let (subject, row, why) = (subject.to_owned(), row.to_owned(), why.to_owned());
        self.missing.push(Missing { subject, row, why, failed });
    }

    /// How many measurements were tried in vain.
    pub(crate) fn failures(&self) -> usize {
        self.missing.iter().filter(|missing| missing.failed).count()
    }

    /// All values of a figure; of several names the first that was measured counts, because programs differ in theirs.
    pub(crate) fn values(&self, subject: &str, row: &str, names: &[&str]) -> Vec<f64> {
        let samples = self.samples.iter().filter(|sample| sample.subject == subject && sample.row == row);
        samples
            .filter_map(|sample| names.iter().find_map(|name| sample.figures.get(*name)))
            .copied()
            .collect()
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| {
            format!("there are no results in {}; measure first, without --report", path.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} holds no results", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_any_depth_are_read_from_the_last_line_or_the_whole() {
        let sample =
            Sample::read("noise\n{\"a\": 1.5, \"b\": {\"c\": 2, \"d\": \"x\"}}\n", "client").unwrap();
        assert_eq!(sample.line(), "a 1.500  b.c 2.000");
        assert_eq!(Sample::read("{\n  \"a\": 1\n}\n", "client").unwrap().line(), "a 1.000");
        assert!(
            Sample::read("nothing", "client").unwrap_err().to_string().contains("client printed no JSON")
        );
    }

    #[test]
    fn results_come_back_from_their_file() {
        let mut results = Results::begin(2, true);
        let sample = |rate| Sample::read(&format!("{{\"per_s\": {rate}}}"), "client").unwrap();
        results.add("limits", "noop", 1, sample(10));
        results.add("limits", "noop", 2, sample(30));
        results.fail("limits", "spawn", "it broke");
        results.skip("ours", "not here");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        results.write(&path).unwrap();
        let results = Results::read(&path).unwrap();
        assert_eq!(results.values("limits", "noop", &["tasks_per_s", "per_s"]), [10.0, 30.0]);
        assert_eq!((results.failures(), results.missing.len()), (1, 2));
        assert!(Results::read(&dir.path().join("none")).unwrap_err().to_string().contains("measure first"));
    }
}
