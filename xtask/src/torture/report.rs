//! What came of it: a table for people and for docs/reliability.md.

use std::time::Duration;

/// How a suite ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Everything held.
    Passed,
    /// Something did not.
    Failed(i32),
    /// It was ended before it was through.
    OutOfTime,
    /// Others had taken all the time.
    NoTime,
    /// It cannot run here, and why.
    Skipped(String),
}

impl Verdict {
    /// Whether the run as a whole fails by it. What could not run has shown nothing, and is named, but it is no failure.
    pub(super) const fn is_bad(&self) -> bool {
        match self {
            Self::Failed(_) | Self::OutOfTime | Self::NoTime => true,
            Self::Passed | Self::Skipped(_) => false,
        }
    }

    fn word(&self) -> String {
        match self {
            Self::Passed => "passed".to_owned(),
            Self::Failed(code) => format!("FAILED (exit {code})"),
            Self::OutOfTime => "OUT OF TIME".to_owned(),
            Self::NoTime => "NO TIME LEFT".to_owned(),
            Self::Skipped(why) => format!("skipped: {why}"),
        }
    }
}

/// A suite that was run.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) budget: String,
    pub(super) took: Duration,
    pub(super) verdict: Verdict,
    pub(super) figures: Vec<String>,
}

impl Row {
    /// One line while others still run.
    pub(super) fn line(&self) -> String {
        format!("{}: {} after {} s", self.name, self.verdict.word(), self.took.as_secs())
    }
}

/// What a suite said it had measured, and what it said it could not do.
pub(super) fn figures(output: &str) -> Vec<String> {
    let told = output.lines().filter(|line| line.starts_with("torture: ") || line.starts_with("skipped: "));
    told.map(|line| line.strip_prefix("torture: ").unwrap_or(line).to_owned()).collect()
}

/// Everything as Markdown.
pub(super) fn table(rows: &[Row], took: Duration) -> String {
    let mut text = String::from("| Suite | Verdict | Seconds | Budget |\n|---|---|---|---|\n");
    for row in rows {
        let (verdict, seconds) = (row.verdict.word(), row.took.as_secs());
        text.push_str(&format!("| {} | {verdict} | {seconds} | {} |\n", row.name, row.budget));
    }
    text.push_str(&format!("\n{} s in all.\n\n", took.as_secs()));
    for figure in rows.iter().flat_map(|row| &row.figures) {
        text.push_str(&format!("* {figure}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(verdict: Verdict) -> Row {
        let figures =
            figures("running 1 test\ntorture: kills: 3 kills\ntest kills ... ok\nskipped: power: no root\n");
        Row { name: "kills", budget: "N=3".to_owned(), took: Duration::from_secs(7), verdict, figures }
    }

    #[test]
    fn the_table_has_a_row_for_each_suite_and_every_figure() {
        let text = table(&[row(Verdict::Passed)], Duration::from_secs(9));
        assert!(text.contains("| kills | passed | 7 | N=3 |"), "{text}");
        assert!(
            text.contains("* kills: 3 kills\n* skipped: power: no root\n") && text.contains("9 s in all"),
            "{text}"
        );
    }

    #[test]
    fn what_did_not_run_to_its_end_is_no_success() {
        for verdict in [Verdict::Failed(101), Verdict::OutOfTime, Verdict::NoTime] {
            assert!(verdict.is_bad(), "{}", row(verdict).line());
        }
        assert!(!Verdict::Skipped("no root".to_owned()).is_bad() && !Verdict::Passed.is_bad());
    }
}
