//! The table of docs/benchmarks.md that this chore writes: aims, medians, ranges, commands. Refuses to know how anything was
//! measured.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{bail, ensure};

use super::SUBJECT;
use crate::measure::results::Results;
use crate::measure::table::{self, Aim, against};

const MARKS: [&str; 2] =
    ["<!-- cargo xtask scale --report writes from here -->", "<!-- scale writes to here -->"];

/// An aim that a figure is to stay below.
const fn most(
    what: &'static str,
    row: &'static str,
    figures: &'static [&'static str],
    unit: &'static str,
    bound: f64,
    shown: &'static str,
) -> Aim {
    Aim { what, row, figures, unit, rising: false, reach: Some((bound, shown)) }
}

/// An aim that a figure is to reach.
const fn least(
    what: &'static str,
    row: &'static str,
    figures: &'static [&'static str],
    unit: &'static str,
    bound: f64,
    shown: &'static str,
) -> Aim {
    Aim { rising: true, ..most(what, row, figures, unit, bound, shown) }
}

/// A figure that is only told.
const fn told(
    what: &'static str,
    row: &'static str,
    figures: &'static [&'static str],
    unit: &'static str,
) -> Aim {
    Aim { reach: None, ..most(what, row, figures, unit, 0.0, "") }
}

const AIMS: &[Aim] = &[
    most(
        "a run of 100,000 distinct tasks of 200 bytes, submit to acknowledgement",
        "queue",
        &["acknowledged_s"],
        " s",
        2.0,
        "2",
    ),
    told("… the slowest of nine", "queue", &["slowest_s"], " s"),
    most(
        "… lone submits of another client meanwhile, p99",
        "queue",
        &["others_submit_p99_ms"],
        " ms",
        50.0,
        "50",
    ),
    most("… its look-ups, p99", "queue", &["others_lookup_p99_ms"], " ms", 50.0, "50"),
    most("coordinator above idle, 100,000 queued", "queue", &["tenth_above_idle_mb"], " MB", 60.0, "60"),
    most(
        "… 980,000 queued (no more than 1,000,000 may be)",
        "queue",
        &["above_idle_mb"],
        " MB",
        400.0,
        "400",
    ),
    told("no-op tasks with 1,000 others queued", "dispatch", &["few_per_s"], "/s"),
    told("… with 980,000 others queued", "dispatch", &["many_per_s"], "/s"),
    least("… the second by the first", "dispatch", &["ratio"], "", 0.9, "0.9"),
    most("start with 980,000 queued, after a crash", "start", &["after_crash_s"], " s", 5.0, "5"),
    told("… after an end in order", "start", &["after_end_s"], " s"),
    least("idle agents held", "fleet", &["held"], "", 10_000.0, "10,000"),
    most("… memory of each at the coordinator", "fleet", &["bytes_per_agent"], " B", 64_000.0, "64,000"),
    most(
        "… the coordinator's processor time for 1,000 of them, in percent of a core",
        "fleet",
        &["cpu_percent_per_1000"],
        " %",
        1.0,
        "1",
    ),
    most(
        "1,000 agents after a crash of the coordinator, twice: lost session to Welcome, p99",
        "storm",
        &["reconnected.p99_ms"],
        " ms",
        60_000.0,
        "60,000",
    ),
    most("… leases lost", "storm", &["reconnected.leases_lost"], "", 0.0, "0"),
    most("… agents missing", "storm", &["reconnected.missing"], "", 0.0, "0"),
    most(
        "every call, 100 agents and 100 running tasks: p95 of the slowest",
        "calls",
        &["worst_p95_ms"],
        " ms",
        20.0,
        "20",
    ),
    told("… p50 of the slowest", "calls", &["worst_p50_ms"], " ms"),
    told("data directory after 1,000,000 tasks", "store", &["data_mib"], " MiB"),
    told("… what it holds", "store", &["live_mib"], " MiB"),
    most("… of 4 times that and 64 MiB", "store", &["of_the_bound"], "", 1.0, "1"),
    most("agent daemon, idle, resident", "agent", &["idle_mb"], " MB", 15.0, "15"),
    most("… 100 supervisors, proportional share", "agent", &["supervisors_pss_mb"], " MB", 60.0, "60"),
    least("slots leased while work waits", "slots", &["leased_share"], "", 0.95, "0.95"),
    least("… of their time that tasks of 0.7 s take", "slots", &["busy_share"], "", 0.95, "0.95"),
    least("… that tasks of 0.1 s take", "slots", &["short_busy_share"], "", 0.95, "0.95"),
    told("a real CLI run, alone", "claude", &["alone_s"], " s"),
    told("… through coordinator and agent", "claude", &["through_s"], " s"),
    most("… more, in percent", "claude", &["overhead_percent"], " %", 5.0, "5"),
];

/// Puts the table into a document.
pub(super) fn rewrite(path: &Path, results: &[Results]) -> anyhow::Result<()> {
    ensure!(!results.is_empty(), "there are no results; measure first, without --report");
    if results.iter().any(|results| results.quick) {
        bail!("those are the results of a quick run, which mean nothing");
    }
    table::rewrite(path, MARKS, &table(results))
}

/// Everything, as Markdown.
pub(super) fn table(results: &[Results]) -> String {
    let mut all = Results::default();
    let mut text = String::from("\n");
    for part in results {
        let rows: Vec<&str> = part.samples.iter().map(|sample| sample.row.as_str()).collect();
        let Some(row) = rows.first() else { continue };
        let runs = if part.runs == 1 { "once".to_owned() } else { format!("{} times", part.runs) };
        let _ = write!(text, "* {row}: {runs}, {}", table::place(part));
        all.samples.extend(part.samples.iter().cloned());
    }
    text.push_str(&against(&all, SUBJECT, AIMS));
    for missing in results.iter().flat_map(|part| &part.missing) {
        let _ = write!(text, "\n* {}: failed: {}", missing.row, missing.why.trim_end_matches('.'));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::results::Sample;

    #[test]
    fn parts_that_were_measured_apart_are_one_table() {
        let part = |row: &str, figures: [(&'static str, f64); 2]| {
            let mut results = Results { runs: 1, ..Results::default() };
            results.add(SUBJECT, row, 1, Sample::of(figures, "a command"));
            results
        };
        let mut store = part("store", [("data_mib", 100.0), ("of_the_bound", 1.5)]);
        store.fail(SUBJECT, "slots", "it broke.");
        let text = table(&[part("start", [("after_crash_s", 3.0), ("after_end_s", 2.0)]), store]);
        assert!(text.contains("after a crash | 3.00 s | <= 5 | reached | `a command` |"), "{text}");
        assert!(text.contains("| … of 4 times that and 64 MiB | 1.50 | <= 1 | missed |"), "{text}");
        assert!(text.contains("* slots: failed: it broke\n"), "{text}");
        assert!(rewrite(Path::new("none"), &[]).is_err());
    }
}
