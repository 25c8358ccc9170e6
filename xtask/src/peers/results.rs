//! What was measured, as it is kept in a file: every sample with the command that made it, and everything that was not measured
//! with the reason. Refuses to know what is good.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::{self, Machine};
use super::subject::Subject;

/// One measurement of one row: figures by name, such as `tasks_per_s`; of nested objects the names are joined by dots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) subject: String,
    pub(super) row: String,
    pub(super) round: u32,
    pub(super) figures: BTreeMap<String, f64>,
    /// What was run, without the connection.
    pub(super) command: String,
}

impl Sample {
    /// Takes the numbers out of the last line of what a client printed.
    pub(super) fn read(printed: &str, command: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(printed)
            .or_else(|_| serde_json::from_str(printed.lines().last().unwrap_or_default()))
            .with_context(|| format!("{command} printed no JSON"))?;
        let mut figures = BTreeMap::new();
        flatten("", &value, &mut figures);
        Ok(Self { figures, command: command.to_owned(), ..Self::default() })
    }

    /// The figures in a line.
    pub(super) fn line(&self) -> String {
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
pub(super) struct Measured {
    pub(super) key: String,
    pub(super) version: String,
}

/// Something that was not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Missing {
    pub(super) subject: String,
    /// Empty for all of them.
    pub(super) row: String,
    pub(super) why: String,
    /// It was tried.
    pub(super) failed: bool,
}

/// A whole run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) load_at_start: String,
    pub(super) load_at_end: String,
    pub(super) runs: u32,
    pub(super) quick: bool,
    pub(super) measured: Vec<Measured>,
    pub(super) samples: Vec<Sample>,
    pub(super) missing: Vec<Missing>,
}

impl Results {
    /// Of a run that begins now.
    pub(super) fn begin(runs: u32, quick: bool) -> Self {
        Self { machine: Machine::here(), load_at_start: machine::load(), runs, quick, ..Self::default() }
    }

    /// The run is over.
    pub(super) fn end(&mut self) {
        self.load_at_end = machine::load();
    }

    pub(super) fn measures(&mut self, subject: &Subject, version: String) {
        self.measured.push(Measured { key: subject.key.to_owned(), version });
    }

    pub(super) fn add(&mut self, subject: &Subject, row: &str, round: u32, sample: Sample) {
        self.samples.push(Sample { subject: subject.key.to_owned(), row: row.to_owned(), round, ..sample });
    }

    pub(super) fn skip(&mut self, subject: &Subject, why: &str) {
        self.miss(subject, "", why, false);
    }

    pub(super) fn fail(&mut self, subject: &Subject, row: &str, why: &str) {
        self.miss(subject, row, why, true);
    }

    fn miss(&mut self, subject: &Subject, row: &str, why: &str, failed: bool) {
        let (subject, row, why) = (subject.key.to_owned(), row.to_owned(), why.to_owned());
        self.missing.push(Missing { subject, row, why, failed });
    }

    /// How many measurements were tried in vain.
    pub(super) fn failures(&self) -> usize {
        self.missing.iter().filter(|missing| missing.failed).count()
    }

    /// All values of a figure; of several names the first that was measured counts, because programs differ in theirs.
    pub(super) fn values(&self, subject: &str, row: &str, names: &[&str]) -> Vec<f64> {
        let samples = self.samples.iter().filter(|sample| sample.subject == subject && sample.row == row);
        samples
            .filter_map(|sample| names.iter().find_map(|name| sample.figures.get(*name)))
            .copied()
            .collect()
    }

    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| {
            format!("there are no results in {}; run cargo xtask peers first", path.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} holds no results", path.display()))
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::subject::SUBJECTS;
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
        results.add(&SUBJECTS[0], "noop", 1, sample(10));
        results.add(&SUBJECTS[0], "noop", 2, sample(30));
        results.fail(&SUBJECTS[0], "spawn", "it broke");
        results.skip(&SUBJECTS[1], "not here");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        results.write(&path).unwrap();
        let results = Results::read(&path).unwrap();
        assert_eq!(results.values("limits", "noop", &["tasks_per_s", "per_s"]), [10.0, 30.0]);
        assert_eq!((results.failures(), results.missing.len()), (1, 2));
        assert!(
            Results::read(&dir.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("run cargo xtask peers")
        );
    }
}
