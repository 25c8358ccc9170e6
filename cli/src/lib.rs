//! The command line of orch: submits runs, follows them, shows the fleet, and with the feature `dev` starts one.
//!
//! Knows people and terminals. Refuses to decide anything about runs: the coordinator does, and this crate tells what
//! it decided.
//!
//! ```text
//! args ── words and flags            output ── the one place that prints
//! commands ── one file a command     failure, exit ── errors for people and scripts, exit codes
//! context ── which coordinator       client, retry ── calls that are bounded and repeated
//! compose, runfile ── what to run    follow, live ── a run as it happens
//! transcript ── a log as people read it
//! dev, demo, embedded ── a fleet on this machine (feature `dev`)
//! ```

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

mod args;
mod ask;
mod authority;
mod client;
mod commands;
mod compose;
mod config;
mod context;
mod context_files;
#[cfg(feature = "dev")]
mod demo;
#[cfg(feature = "dev")]
mod dev;
#[cfg(feature = "dev")]
mod embedded;
mod exit;
mod failure;
mod follow;
mod live;
mod output;
mod plan;
mod private_file;
mod refs;
mod results;
mod retry;
mod runfile;
mod session;
mod settings;
mod suggest;
mod transcript;

/// Runs `orchctl` with the arguments of a process, program name first, and says how it ended.
///
/// With the feature `dev`, hidden first arguments (`__coordinator`, `__agent`, `__fork-server`, `__standin-claude`) hand
/// the process over to another program of orch before anything else is looked at.
pub fn main_with_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    #[cfg(feature = "dev")]
    if let Some(code) = embedded::forward(&args) {
        return code;
    }
    if let Some(code) = commands::completions::answer(&args) {
        return ExitCode::from(code);
    }
    orch_certs::install_ring();
    let cli = match args::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let error = args::with_place(error);
            // A closed stdout is no failure, nor is help.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::DONE });
        }
    };
    match catch_unwind(AssertUnwindSafe(|| session::run(cli))) {
        Ok(code) => ExitCode::from(code),
        // The panic hook has printed where; the exit code says that it is our fault.
        Err(_) => ExitCode::from(exit::BUG),
    }
}

/// Doors for the fuzz targets: what reads files that people write and transcripts that others wrote.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    use crate::runfile;
    use crate::transcript::Renderer;

    /// Reads a file that may be a run; the problems as they are shown, where it is none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn run_file(bytes: &[u8]) -> Result<orch_proto::v1::RunSpec, String> {
        runfile::read("run.json", bytes).map_err(|failure| format!("{failure:?}"))
    }

    /// What the editor's half makes of a file that may be a workflow.
    #[must_use]
    pub fn workflow_file(text: &str) -> usize {
        let problems = runfile::workflow::against_schema("workflow.json", text).len();
        let items = runfile::workflow::items(text).map_or(0, |items| items.map_or(0, |items| items.len()));
        problems + items + usize::from(runfile::workflow::is_workflow(text))
    }

    /// How many lines a transcript becomes, cut into pieces of `cut` bytes.
    #[must_use]
    pub fn transcript(bytes: &[u8], cut: usize) -> usize {
        let mut renderer = Renderer::new(true);
        let lines: usize = bytes.chunks(cut.max(1)).map(|piece| renderer.push(piece).len()).sum();
        lines + renderer.finish().len()
    }
}
