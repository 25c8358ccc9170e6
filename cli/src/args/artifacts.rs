//! Flags of `artifacts`: the files that tasks handed over.
//! Knows words; refuses to know where a path leads.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Flags of `artifacts`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl artifacts list @last")]
pub(crate) struct ArtifactsArgs {
    #[command(subcommand)]
    pub(crate) command: ArtifactsCommand,
}

/// What can be done with files.
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactsCommand {
    /// List the files of a run or task
    List(ListArgs),
    /// Fetch files of a run or task
    Get(GetArgs),
}

/// Flags of `artifacts list`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl artifacts list release/12/notes -o json")]
pub(crate) struct ListArgs {
    /// Run or task
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
}

/// Flags of `artifacts get`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orchctl artifacts get release/12/notes:report.md
  orchctl artifacts get @last --all -d results
  orchctl artifacts get @last:report.md -d - | less

One file keeps its path beneath the directory; of a run each task has a directory of its own.")]
pub(crate) struct GetArgs {
    /// Run or task, and after a colon the path of one file
    #[arg(value_name = "REF[:PATH]")]
    pub(crate) reference: String,
    /// Where files go; - writes one file to stdout
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Every file
    #[arg(long)]
    pub(crate) all: bool,
    /// Replace files that are there
    #[arg(long)]
    pub(crate) force: bool,
}
