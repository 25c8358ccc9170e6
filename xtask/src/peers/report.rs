//! The tables of docs/benchmarks.md, between two comments that mark what is theirs. Medians with their range; where a figure is
//! missing, the reason.
//!
//! Knows columns, aims and words. Refuses to know how anything was measured.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::bail;

use super::subject::{SUBJECTS, Subject, System};
use crate::measure::results::Results;
use crate::measure::table::{self, Spread};

mod aims;
mod limits;

const BEGIN: &str = "<!-- cargo xtask peers --report writes from here -->";
const END: &str = "<!-- to here -->";
/// Where nothing was measured.
const NOTHING: &str = "–";

const PER_S: &[&str] = &["tasks_per_s", "tasks_per_second"];
const P50: &[&str] = &["p50_ms", "result_ms.p50"];
const P99: &[&str] = &["p99_ms", "result_ms.p99"];

/// Puts the tables into a document.
pub(super) fn rewrite(path: &Path, results: &Results) -> anyhow::Result<()> {
    if results.quick {
        bail!("those are the results of a quick run, which mean nothing");
    }
    table::rewrite(path, [BEGIN, END], &tables(results))
}

/// Everything, as Markdown.
pub(super) fn tables(results: &Results) -> String {
    [head(results), limits::table(results), queues(results), aims::table(results), foot(results)].concat()
}

/// What a cell says of a figure.
fn cell(results: &Results, subject: &str, row: &str, names: &[&str]) -> String {
    Spread::found(results, subject, row, names).map_or_else(|| NOTHING.to_owned(), |spread| spread.shown())
}

fn head(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "\n{}: {} cores of {}, {} GiB, Linux {}. Rounds: {}; every round measures every row of everyone once, in turn\n\
         (memory in the first alone). Figures are medians with the range. Load average {} at the start, {} at the end.\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        results.runs,
        results.load_at_start,
        results.load_at_end
    );
    if results.quick {
        text.push_str("\n**Tiny counts, to try the harness: none of these figures means anything.**\n");
    }
    text
}

/// This system and its peers, a line each.
fn queues(results: &Results) -> String {
    let mut text = String::from(
        "\n| System | An acknowledgement means | no-op tasks/s | `true` spawned/s | of the spawn limit | lone task p50 ms | p99 ms | \
         submits/s, 64 clients | MB above idle, full queue |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let limit = Spread::found(results, "limits", "limits", &["spawn_2.per_s"]).map(|spread| spread.median);
    let was_measured =
        |subject: &&Subject| results.measured.iter().any(|measured| measured.key == subject.key);
    for subject in SUBJECTS.iter().filter(|subject| subject.system != System::Limits).filter(was_measured) {
        let key = subject.key;
        let spawn = Spread::found(results, key, "spawn", PER_S);
        let share = spawn.zip(limit).map(|(spawn, limit)| format!("{:.0} %", spawn.median / limit * 100.0));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            subject.title,
            subject.acknowledged,
            cell(results, key, "noop", PER_S),
            spawn.map_or_else(|| NOTHING.to_owned(), |spread| spread.shown()),
            share.unwrap_or_else(|| NOTHING.to_owned()),
            cell(results, key, "latency", P50),
            cell(results, key, "latency", P99),
            cell(results, key, "submit", &["submits_per_s"]),
            cell(results, key, "memory", &["above_idle_mb"]),
        );
    }
    text
}

/// Versions, and everything that is not there with the reason.
fn foot(results: &Results) -> String {
    let mut text = String::from("\n");
    let title = |key: &str| {
        SUBJECTS
            .iter()
            .find(|subject| subject.key == key)
            .map_or_else(|| key.to_owned(), |subject| subject.title.to_owned())
    };
    let versions = results.measured.iter().filter(|measured| !measured.version.is_empty());
    let mut versions: Vec<_> = versions.map(|measured| measured.version.clone()).collect();
    versions.dedup();
    if !versions.is_empty() {
        let _ = writeln!(text, "Measured were {}.\n", versions.join("; "));
    }
    for subject in SUBJECTS.iter().filter(|subject| !subject.without.is_empty()) {
        if results.measured.iter().any(|measured| measured.key == subject.key) {
            let _ = writeln!(text, "* {}, the cells without figures: {}.", subject.title, subject.without);
        }
    }
    let mut told: Vec<String> = Vec::new();
    for missing in &results.missing {
        let of = if missing.row.is_empty() { String::new() } else { format!(", {}", missing.row) };
        let how = if missing.failed { "failed" } else { "not measured" };
        let line =
            format!("* {}{of}: {how}: {}.\n", title(&missing.subject), missing.why.trim_end_matches('.'));
        if !told.contains(&line) {
            text.push_str(&line);
            told.push(line);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::results::Sample;

    fn results() -> Results {
        let mut results = Results { runs: 3, ..Results::default() };
        for (round, rate) in [(1, 12_000), (2, 9_500), (3, 14_250)] {
            let subject = SUBJECTS.iter().find(|subject| subject.key == "ours").unwrap();
            let sample = |json: String| Sample::read(&json, "orchctl bench").unwrap();
            results.add(subject.key, "noop", round, sample(format!("{{\"tasks_per_second\": {rate}}}")));
            results.add(subject.key, "spawn", round, sample("{\"tasks_per_s\": 1500}".to_owned()));
            results.add(
                subject.key,
                "latency",
                round,
                sample("{\"result_ms\": {\"p50\": 1.25, \"p99\": 2.5}}".to_owned()),
            );
            results.add(
                SUBJECTS[0].key,
                "limits",
                round,
                sample("{\"spawn_2\": {\"per_s\": 2000}}".to_owned()),
            );
        }
        results.measures(SUBJECTS[1].key, "orchctl 1".to_owned());
        results.fail(SUBJECTS[2].key, "submit", "it broke.");
        results
    }

    #[test]
    fn a_line_has_medians_ranges_and_the_share_of_the_limit() {
        let text = tables(&results());
        assert!(text.contains("| 12,000 (9,500–14,250) | 1,500 | 75 % | 1.25 | 2.50 | – | – |"), "{text}");
        assert!(text.contains("* beanstalkd -b -f0, submit: failed: it broke.\n"), "{text}");
        assert!(!text.contains("| beanstalkd"), "what was not measured has no line: {text}");
    }

    #[test]
    fn aims_are_held_against_what_was_measured() {
        let text = tables(&results());
        assert!(text.contains("| 12,000 (9,500–14,250) /s | >= 12,000 | reached |"), "{text}");
        assert!(text.contains("| 1.25 ms | <= 1.0 | missed |"), "{text}");
    }
}
