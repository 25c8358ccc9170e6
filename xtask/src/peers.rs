//! `cargo xtask peers`: this system, other queues and the machine's own limits, measured in turns in one run, and the tables of
//! docs/benchmarks.md written from that.
//!
//! Knows the order of measurements and where results are kept. Refuses to know how any of them is made: the clients of the peers
//! are in xtask/peers, ours is `orchctl bench`, the limits are the program in xtask/limits.

mod limits;
mod ours;
mod report;
mod servers;
mod session;
mod subject;
mod tools;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use self::session::Bench;
use self::subject::{Counts, SUBJECTS, Subject, System};
use self::tools::Tools;
use crate::measure::process::Interrupt;
use crate::measure::results::{Results, Sample};

/// What to measure, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each figure is measured; docs/benchmarks.md wants at least 5.
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u32,
    /// Only subjects whose names begin with one of these words, such as beanstalkd, ours or limits.
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    only: Vec<String>,
    /// Tiny counts, to try the harness: no figure of such a run means anything, and none is written to the documentation.
    #[arg(long)]
    quick: bool,
    /// First fetch what is missing by name through apt-get, pip and npm, into target/peers; the system stays as it is.
    #[arg(long)]
    install: bool,
    /// Measure nothing: write the tables of docs/benchmarks.md from the results of the last run.
    #[arg(long)]
    report: bool,
    /// The release build that is measured.
    #[arg(long, value_name = "FILE", default_value = "target/release/orchctl")]
    orchctl: PathBuf,
}

/// Measures, or writes the tables.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let dir = root.join("target/peers");
    let kept = dir.join(if options.quick { "quick.json" } else { "results.json" });
    if options.report {
        return report::rewrite(&root.join("docs/benchmarks.md"), &Results::read(&kept)?);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let subjects = chosen(&options.only)?;
    let tools = Tools::new(root, &dir);
    if options.install {
        tools.install()?;
    }
    let interrupt = Interrupt::listen()?;
    let counts = if options.quick { Counts::tiny() } else { Counts::full() };
    let bench = Bench::new(root, &dir, &tools, counts, &root.join(&options.orchctl), &interrupt)?;
    let mut results = Results::begin(options.runs, options.quick);
    let able = able(&bench, &subjects, &mut results);
    let ended = rounds(&bench, &able, options.runs, &mut results);
    results.end();
    results.write(&kept)?;
    ended?;
    crate::say(&report::tables(&results));
    crate::say(&format!("results: {}", kept.display()));
    match results.failures() {
        0 => Ok(()),
        failed => bail!("{failed} measurements failed; what they said is in {}", bench.logs().display()),
    }
}

fn chosen(only: &[String]) -> anyhow::Result<Vec<&'static Subject>> {
    let wanted = |subject: &&Subject| {
        only.is_empty() || only.iter().any(|word| subject.key.starts_with(word.as_str()))
    };
    let chosen: Vec<_> = SUBJECTS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let all: Vec<_> = SUBJECTS.iter().map(|subject| subject.key).collect();
        bail!("nothing is named like {only:?}; there are {}", all.join(", "));
    }
    Ok(chosen)
}

/// Those that can be measured here; of the others it is said why not.
fn able(bench: &Bench<'_>, subjects: &[&'static Subject], results: &mut Results) -> Vec<&'static Subject> {
    let mut able = Vec::new();
    for &subject in subjects {
        match bench.lacks(subject) {
            None => {
                results.measures(subject.key, bench.version(subject));
                able.push(subject);
            }
            Some(why) => {
                crate::say(&format!("skipped: {}: {why}", subject.title));
                results.skip(subject.key, &why);
            }
        }
    }
    able
}

/// Every subject once in each round, so that whatever else the machine does hits all alike.
fn rounds(
    bench: &Bench<'_>,
    subjects: &[&'static Subject],
    runs: u32,
    results: &mut Results,
) -> anyhow::Result<()> {
    for round in 1..=runs {
        for &subject in subjects {
            bench.interrupt.check()?;
            crate::say(&format!("round {round} of {runs}: {}", subject.title));
            let mut take = |row: &'static str, outcome: anyhow::Result<Sample>| match outcome {
                Ok(sample) => {
                    crate::say(&format!("  {row}: {}", sample.line()));
                    results.add(subject.key, row, round, sample);
                }
                Err(error) => {
                    crate::say(&format!("  {row}: failed: {error:#}"));
                    results.fail(subject.key, row, &format!("{error:#}"));
                }
            };
            match subject.system {
                System::Limits => take("limits", limits::measure(bench)),
                System::Ours => ours::measure(bench, round == 1, &mut take)?,
                System::Peer(peer) => session::measure(bench, subject, peer, round == 1, &mut take)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_chosen_by_the_beginning_of_their_names() {
        let names = |only: &[&str]| {
            let only: Vec<_> = only.iter().map(|&word| word.to_owned()).collect();
            chosen(&only).map(|found| found.iter().map(|subject| subject.key).collect::<Vec<_>>())
        };
        assert_eq!(names(&["ours", "limits"]).unwrap(), ["limits", "ours"]);
        assert_eq!(names(&["beanstalkd"]).unwrap(), ["beanstalkd-fsync", "beanstalkd"]);
        assert_eq!(names(&[]).unwrap().len(), SUBJECTS.len());
        assert!(names(&["kafka"]).unwrap_err().to_string().contains("beanstalkd-fsync"));
    }
}
