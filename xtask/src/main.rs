//! Chores of the repository, run as `cargo xtask CHORE`. Nothing here ships.
//!
//! Knows the source tree. Refuses to know what the programs do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

mod codegen;
mod measure;
mod peers;
mod scale;
mod tidy;
mod torture;

/// Chores of the orch repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Write proto/src/gen from proto/orch; needs no protoc.
    Codegen {
        /// Change nothing; fail if something would change.
        #[arg(long)]
        check: bool,
    },
    /// Measure other queues, this one and the machine's limits in one run, for docs/benchmarks.md.
    Peers(peers::Options),
    /// Measure what grows: queues, fleets, restarts, calls, the store, the agent; for docs/benchmarks.md.
    Scale(scale::Options),
    /// Check the house rules that no compiler checks.
    Tidy,
    /// Run every suite of faults with as large a budget as fits the time; docs/reliability.md has the demands.
    Torture {
        /// Time for everything, building included.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// Only suites whose names contain one of these words.
        #[arg(long, value_name = "WORD", value_delimiter = ',')]
        only: Vec<String>,
        /// Also write the table to this file.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Chore::parse() {
        Chore::Codegen { check } => codegen::run(&root(), check),
        Chore::Peers(options) => peers::run(&root(), &options),
        Chore::Scale(options) => scale::run(&root(), &options),
        Chore::Tidy => tidy::run(&root()),
        Chore::Torture { minutes, only, write } => torture::run(&root(), minutes, &only, write.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The repository, found from this crate's own place in it.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The one place that prints.
#[expect(clippy::print_stderr, reason = "a command line tool for developers")]
fn say(line: &str) {
    eprintln!("{line}");
}
