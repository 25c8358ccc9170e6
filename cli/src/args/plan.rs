//! Flags of the commands that answer a plan: `approve`, `reject` and `edit`.
//! Knows words; refuses to know what a plan holds.

use std::path::PathBuf;

use clap::Args;

/// Flags of `approve`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl approve @last")]
pub(crate) struct ApproveArgs {
    /// Run that waits for approval
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Shown to people who look at it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// Flags of `reject`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl reject @last --reason \"too many tasks\"")]
pub(crate) struct RejectArgs {
    /// Run that waits for approval; it is cancelled
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Shown to people who look at it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// Flags of `edit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orchctl edit @last
  orchctl edit adhoc/12 -f plan.json

The editor is $VISUAL, else $EDITOR, else vi. A plan that is saved as it was changes nothing.")]
pub(crate) struct EditArgs {
    /// Run that waits for approval; it runs the edited plan
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Take the plan from a file instead of an editor; - reads stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Shown to people who look at it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}
