//! `cargo xtask scale`: what becomes of this system as its work grows, a part for each question, and the table of
//! docs/benchmarks.md written from that. Every part starts its own daemons in an empty directory and can be asked alone.
//!
//! Knows the parts and where their results are kept. Refuses to know how any of them is measured.

mod agent;
mod calls;
mod claude;
mod fleet;
mod queue;
mod report;
mod stage;
mod store;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use self::stage::Stage;
use crate::measure::machine::said;
use crate::measure::process::Interrupt;
use crate::measure::results::{Results, Sample};

/// By which name results are kept.
const SUBJECT: &str = "orch";

/// What to measure, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these parts.
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// How often each part is measured; without it as often as fits a quarter of an hour in all.
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// Tiny counts, to try the harness: no figure of such a run means anything, and none is written to the documentation.
    #[arg(long)]
    quick: bool,
    /// Measure nothing: write the table of docs/benchmarks.md from the last results of every part.
    #[arg(long)]
    report: bool,
    /// The release build that is measured.
    #[arg(long, value_name = "FILE", default_value = "target/release/orchctl")]
    orchctl: PathBuf,
    /// The agent of the part `agent`; without it orch-agent beside orchctl, else the agent inside orchctl.
    #[arg(long, value_name = "FILE")]
    orch_agent: Option<PathBuf>,
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Nearly a million queued tasks: acknowledgements, other clients, memory, dispatch, restart
    Queue,
    /// Ten thousand idle agents
    Fleet,
    /// A thousand agents that come back from two crashes of the coordinator
    Storm,
    /// Every harmless call on a fleet at work
    Calls,
    /// The data directory after a million tasks
    Store,
    /// Memory of the agent and of its supervisors
    Agent,
    /// Slots in use while work waits
    Slots,
    /// What orch adds to a real run of the Claude CLI
    Claude,
}

/// Every part in the order of the table.
const PARTS: [Part; 8] =
    [Part::Queue, Part::Fleet, Part::Storm, Part::Calls, Part::Store, Part::Agent, Part::Slots, Part::Claude];

/// What a row of a part came to.
type Take<'a> = dyn FnMut(&'static str, anyhow::Result<Sample>) + 'a;

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Fleet => "fleet",
            Self::Storm => "storm",
            Self::Calls => "calls",
            Self::Store => "store",
            Self::Agent => "agent",
            Self::Slots => "slots",
            Self::Claude => "claude",
        }
    }

    /// How often it is measured if nobody says: what takes a minute and more once, or hardly varies.
    const fn usual_runs(self) -> u32 {
        match self {
            Self::Queue | Self::Fleet | Self::Store | Self::Claude => 1,
            Self::Storm => 2,
            Self::Agent => 3,
            Self::Calls | Self::Slots => 5,
        }
    }

    fn measure(self, stage: &Stage<'_>, take: &mut Take<'_>) -> anyhow::Result<()> {
        match self {
            Self::Queue => queue::measure(stage, take)?,
            Self::Fleet => take("fleet", fleet::hold(stage)),
            Self::Storm => take("storm", fleet::storm(stage)),
            Self::Calls => take("calls", calls::measure(stage)),
            Self::Store => take("store", store::measure(stage)),
            Self::Agent => take("agent", agent::memory(stage)),
            Self::Slots => take("slots", agent::slots(stage)),
            Self::Claude => take("claude", claude::measure(stage)),
        }
        stage.interrupt.check()
    }
}

/// Measures, or writes the table.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let dir = root.join("target/scale");
    let kept = |part: Part| {
        let quick = if options.quick { "quick-" } else { "" };
        dir.join(format!("{quick}{}.json", part.name()))
    };
    if options.report {
        let results: Vec<_> = PARTS.into_iter().filter_map(|part| Results::read(&kept(part)).ok()).collect();
        return report::rewrite(&root.join("docs/benchmarks.md"), &results);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let parts = if options.only.is_empty() { &PARTS[..] } else { &options.only };
    let interrupt = Interrupt::listen()?;
    let stage = Stage::new(root, &dir, options, &interrupt)?;
    let mut failures = 0;
    let mut all = Vec::new();
    for &part in parts {
        let runs = options.runs.unwrap_or_else(|| if options.quick { 1 } else { part.usual_runs() });
        let (results, ended) = rounds(&stage, part, runs);
        results.write(&kept(part))?;
        failures += results.failures();
        all.push(results);
        ended?;
    }
    crate::say(&report::table(&all));
    crate::say(&format!("results: {}", dir.display()));
    match failures {
        0 => Ok(()),
        failed => {
            bail!("{failed} measurements failed; what the programs said is in {}", stage.logs().display())
        }
    }
}

fn rounds(stage: &Stage<'_>, part: Part, runs: u32) -> (Results, anyhow::Result<()>) {
    let mut results = Results::begin(runs, stage.quick);
    results.measures(SUBJECT, said(&stage.orchctl, &["--version"]));
    let mut ended = Ok(());
    for round in 1..=runs {
        crate::say(&format!("{}, {round} of {runs}", part.name()));
        let mut take = |row: &'static str, outcome: anyhow::Result<Sample>| match outcome {
            Ok(sample) => {
                crate::say(&format!("  {row}: {}", in_short(&sample)));
                results.add(SUBJECT, row, round, sample);
            }
            Err(error) => {
                crate::say(&format!("  {row}: failed: {error:#}"));
                results.fail(SUBJECT, row, &format!("{error:#}"));
            }
        };
        ended = part.measure(stage, &mut take);
        if ended.is_err() {
            break;
        }
    }
    results.end();
    (results, ended)
}

/// A sample on the screen: without the many figures that only the file needs.
fn in_short(sample: &Sample) -> String {
    let figures = sample.figures.iter().filter(|(name, _)| !name.starts_with("calls."));
    Sample::of(figures.map(|(name, value)| (name.as_str(), *value)), "").line()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_can_be_asked_by_its_name() {
        assert_eq!(Part::value_variants(), PARTS);
        for part in PARTS {
            assert_eq!(Part::from_str(part.name(), false), Ok(part));
        }
    }
}
