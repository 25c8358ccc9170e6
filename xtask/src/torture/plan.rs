//! Who gets how much of the time. A suite's full budget is what the table of docs/reliability.md asks for; with less time every
//! budget shrinks in proportion, with more the elastic ones grow.
//!
//! The seconds of a full budget were measured on two cores with a debug build; on another machine a suite ends earlier, or is
//! ended at twice its share.

use std::path::Path;
use std::time::Duration;

/// A variable that says how much a suite does.
struct Variable {
    name: &'static str,
    /// Less than this shows nothing.
    least: u64,
    /// What the table asks for.
    full: u64,
    /// Whether more time makes more of it.
    elastic: bool,
}

const fn counted(name: &'static str, least: u64, full: u64) -> Variable {
    Variable { name, least, full, elastic: false }
}

const fn elastic(name: &'static str, least: u64, full: u64) -> Variable {
    Variable { name, least, full, elastic: true }
}

/// A suite, or a part of one that takes time of its own.
struct Suite {
    name: &'static str,
    /// Test target of orch-tests and the filter of its names; empty for the fuzzer.
    target: &'static str,
    filter: &'static str,
    variables: &'static [Variable],
    /// What the full budget takes.
    seconds: u64,
}

const SUITES: &[Suite] = &[
    Suite {
        name: "kills",
        target: "torture",
        filter: "kills::",
        variables: &[
            counted("ORCH_TORTURE_KILLS", 10, 200),
            counted("ORCH_TORTURE_ACKNOWLEDGED", 200, 20_000),
        ],
        seconds: 240,
    },
    Suite {
        name: "restarts",
        target: "torture",
        filter: "restarts::",
        variables: &[counted("ORCH_TORTURE_RESTARTS", 4, 50)],
        seconds: 240,
    },
    Suite {
        name: "agents",
        target: "torture",
        filter: "agents::",
        variables: &[counted("ORCH_TORTURE_AGENT_KILLS", 3, 50)],
        seconds: 300,
    },
    Suite { name: "partitions", target: "torture", filter: "partitions::", variables: &[], seconds: 60 },
    Suite {
        name: "transcripts",
        target: "torture",
        filter: "transcripts::",
        variables: &[counted("ORCH_TORTURE_TRANSCRIPT_MB", 5, 100), counted("ORCH_TORTURE_CUTS", 10, 100)],
        seconds: 400,
    },
    Suite {
        name: "watchers",
        target: "torture",
        filter: "watchers::",
        variables: &[counted("ORCH_TORTURE_WATCHED_RUNS", 150, 2_000)],
        seconds: 90,
    },
    Suite {
        name: "storms",
        target: "torture",
        filter: "storms::",
        variables: &[
            counted("ORCH_TORTURE_STORM", 2_000, 10_000),
            elastic("ORCH_TORTURE_FLOOD_SECONDS", 4, 30),
        ],
        seconds: 180,
    },
    Suite {
        name: "mixed",
        target: "torture",
        filter: "mixed::",
        variables: &[elastic("ORCH_TORTURE_MIXED_SECONDS", 20, 240)],
        seconds: 300,
    },
    Suite {
        name: "disk",
        target: "torture",
        filter: "disk::",
        variables: &[
            counted("ORCH_TORTURE_POWER_LOSSES", 3, 100),
            counted("ORCH_TORTURE_FAILPOINT_WALKS", 1, 10),
            counted("ORCH_TORTURE_DISK_FAULTS", 1, 10),
            counted("ORCH_TORTURE_FLIPS", 40, 500),
            counted("ORCH_TORTURE_FLIPS", 40, 500),
        ],
        seconds: 900,
    },
    Suite {
        name: "simulation",
        target: "simulation",
        filter: "",
        variables: &[elastic("ORCH_TORTURE_SEEDS", 200, 10_000)],
        seconds: 2_400,
    },
    Suite {
        name: "adversarial",
        target: "adversarial",
        filter: "",
        variables: &[
            counted("ORCH_TORTURE_RECONNECTS", 150, 1_000),
            counted("ORCH_TORTURE_QUEUED", 20_000, 100_000),
        ],
        seconds: 180,
    },
    Suite { name: "fuzz", target: "", filter: "", variables: &[], seconds: 1_200 },
];

/// The script that runs every fuzz target for so many seconds each.
const FUZZ: &str = "fuzz/run";

/// What is run, and for how long.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: &'static str,
    pub(super) command: Vec<String>,
    pub(super) variables: Vec<(&'static str, u64)>,
    /// What it should take.
    pub(super) share: Duration,
}

impl Job {
    /// Its budget in a line.
    pub(super) fn shown(&self) -> String {
        if self.variables.is_empty() {
            return self.command.join(" ");
        }
        let shown = self.variables.iter().map(|(name, value)| format!("{name}={value}"));
        shown.collect::<Vec<_>>().join(" ")
    }

    /// When it is ended: a slow machine gets the double.
    pub(super) fn limit(&self) -> Duration {
        self.share * 2 + Duration::from_secs(60)
    }

    /// Why it cannot run here at all.
    pub(super) fn cannot_run(&self, root: &Path) -> Option<String> {
        let script = self.command.first()?;
        (script == FUZZ && !root.join(FUZZ).is_file()).then(|| format!("there is no {FUZZ}"))
    }
}

/// Names of all suites.
pub(super) fn names() -> Vec<&'static str> {
    SUITES.iter().map(|suite| suite.name).collect()
}

/// Shares `time` among the suites whose names are `wanted`.
pub(super) fn plan(time: Duration, wanted: impl Fn(&str) -> bool) -> Vec<Job> {
    let chosen: Vec<_> = SUITES.iter().filter(|suite| wanted(suite.name)).collect();
    let full: u64 = chosen.iter().map(|suite| suite.seconds).sum();
    let scale = time.as_secs_f64() / Duration::from_secs(full.max(1)).as_secs_f64();
    chosen.into_iter().map(|suite| job(suite, scale)).collect()
}

fn job(suite: &Suite, scale: f64) -> Job {
    let share = Duration::from_secs(suite.seconds).mul_f64(scale);
    let variables = suite.variables.iter().map(|variable| (variable.name, scaled(variable, scale)));
    Job { name: suite.name, command: command(suite, share), variables: variables.collect(), share }
}

fn command(suite: &Suite, share: Duration) -> Vec<String> {
    let words: Vec<String> = if suite.target.is_empty() {
        let each = share.as_secs() / targets();
        vec![FUZZ.to_owned(), each.max(1).to_string()]
    } else {
        let cargo = ["cargo", "test", "--locked", "--package", "orch-tests", "--test", suite.target];
        cargo.iter().map(|&word| word.to_owned()).collect()
    };
    let filter = (!suite.filter.is_empty()).then(|| ["--".to_owned(), suite.filter.to_owned()]);
    words.into_iter().chain(filter.into_iter().flatten()).collect()
}

/// How many fuzz targets there are, or a likely number where that cannot be seen.
fn targets() -> u64 {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let found = std::fs::read_dir(dir).map_or(0, |entries| entries.flatten().count());
    u64::try_from(found.max(1)).unwrap_or(1)
}

/// A budget in proportion, within its bounds.
fn scaled(variable: &Variable, scale: f64) -> u64 {
    // A millionth is exact enough, and keeps the arithmetic whole.
    let millionths = Duration::from_secs(1).mul_f64(scale).as_micros();
    let value = u128::from(variable.full) * millionths / 1_000_000;
    let value = u64::try_from(value).unwrap_or(u64::MAX).max(variable.least);
    if variable.elastic { value } else { value.min(variable.full) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(jobs: &[Job], name: &str) -> u64 {
        let mut variables = jobs.iter().flat_map(|job| &job.variables);
        variables.find(|(found, _)| *found == name).unwrap().1
    }

    fn full() -> Duration {
        Duration::from_secs(SUITES.iter().map(|suite| suite.seconds).sum())
    }

    #[test]
    fn with_all_the_time_every_suite_does_what_the_table_asks_for() {
        let jobs = plan(full(), |_| true);
        assert_eq!(jobs.len(), SUITES.len());
        assert_eq!(value(&jobs, "ORCH_TORTURE_KILLS"), 200);
        assert_eq!(value(&jobs, "ORCH_TORTURE_ACKNOWLEDGED"), 20_000);
        assert_eq!(value(&jobs, "ORCH_TORTURE_SEEDS"), 10_000);
    }

    #[test]
    fn with_half_of_it_each_does_half_and_with_none_the_least() {
        let jobs = plan(full() / 2, |_| true);
        assert_eq!(value(&jobs, "ORCH_TORTURE_KILLS"), 100);
        let jobs = plan(Duration::from_secs(1), |_| true);
        assert_eq!(value(&jobs, "ORCH_TORTURE_KILLS"), 10);
        let shares: Duration = jobs.iter().map(|job| job.share).sum();
        assert!(shares <= Duration::from_millis(1_001), "{shares:?}");
    }

    #[test]
    fn with_more_than_all_only_the_elastic_grow() {
        let jobs = plan(full() * 3, |_| true);
        assert_eq!(value(&jobs, "ORCH_TORTURE_KILLS"), 200);
        assert_eq!(value(&jobs, "ORCH_TORTURE_SEEDS"), 30_000);
    }

    #[test]
    fn one_suite_alone_has_all_the_time() {
        let jobs = plan(Duration::from_secs(600), |name| name == "kills");
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].share, Duration::from_secs(600));
        assert_eq!(jobs[0].command[5..], ["--test", "torture", "--", "kills::"]);
    }
}
