//! Flags of `workflows` and `batch`: graphs of tasks with parameters.
//! Knows words; refuses to know what a workflow holds.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse;
use super::submit::Whole;

const VALUES: &str = "A value of --set is JSON if it parses, and a text if it does not. A roster is CSV with a header row that names the columns,\n\
    `name` among them; JSON, a list of names or of objects with a name; or a text file with one name a line.";

/// Flags of `workflows`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl workflows run batch-evaluation --roster students.csv")]
pub(crate) struct WorkflowsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<WorkflowsCommand>,
}

/// What can be done with workflows.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowsCommand {
    /// List the workflows of the coordinator
    #[command(after_help = "Example: orchctl workflows list")]
    List,
    /// One workflow: what it is for, its parameters and tasks
    #[command(after_help = "\
Examples:
  orchctl workflows show batch-evaluation
  orchctl workflows show batch-evaluation --definition > mine.json")]
    Show(ShowWorkflowArgs),
    /// Check workflows, with the place of every mistake; nothing is queued
    #[command(after_help = "\
Example: orchctl workflows validate release-notes.json

Without a coordinator only the JSON Schema is checked, and that is said.")]
    Validate(ValidateWorkflowArgs),
    /// Run a workflow, follow it, print the results, exit with the outcome
    #[command(after_help = "\
Examples:
  orchctl workflows run parallel-demo --set idea='an open day'
  orchctl workflows run batch-evaluation --roster students.csv --max-parallel 3
  orchctl workflows run -f release-notes.json --set tag=v2.1 --dry-run

A value of --set is JSON if it parses, and a text if it does not.")]
    Run(Box<RunWorkflowArgs>),
    /// Draw which task waits for which
    #[command(after_help = "Example: orchctl workflows graph complex-choreography")]
    Graph(GraphArgs),
    /// Runs of a workflow, newest first, and how each task went in each
    #[command(after_help = "Example: orchctl workflows history batch-evaluation")]
    History(HistoryArgs),
}

/// Flags of `workflows show`.
#[derive(Debug, Args)]
pub(crate) struct ShowWorkflowArgs {
    /// Workflow
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Print the file itself and nothing else
    #[arg(long)]
    pub(crate) definition: bool,
}

/// Flags of `workflows validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateWorkflowArgs {
    /// Files, or workflows of the coordinator; - reads stdin
    #[arg(value_name = "FILE|NAME", required = true)]
    pub(crate) what: Vec<String>,
}

/// What a workflow is called with.
#[derive(Debug, Default, Args)]
pub(crate) struct Given {
    /// Parameter; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Parameters as a JSON object; --set wins
    #[arg(long, value_name = "FILE")]
    pub(crate) params: Option<PathBuf>,
}

/// Flags of `workflows run`.
#[derive(Debug, Args)]
pub(crate) struct RunWorkflowArgs {
    /// Workflow of the coordinator
    #[arg(value_name = "NAME", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) name: Option<String>,
    /// Workflow from a JSON file; - reads stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) given: Given,
    /// Rows of its roster parameter: CSV, JSON, or one name a line; - reads stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) roster: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) how: How,
}

/// On what terms a workflow runs, and whether somebody waits.
#[derive(Debug, Default, Args)]
pub(crate) struct How {
    /// Label of the run; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    pub(crate) labels: Vec<(String, String)>,
    /// Idempotency key: the same key and the same call give the same reference
    #[arg(short, long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Only check, and show what would run where; nothing is queued
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the reference and do not follow, as submit does
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Let Ctrl-C cancel the run instead of leaving it
    #[arg(long, conflicts_with = "detach")]
    pub(crate) cancel_on_interrupt: bool,
    #[command(flatten)]
    pub(crate) whole: Whole,
}

/// Flags of `workflows graph`.
#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// File, or workflow of the coordinator; - reads stdin
    #[arg(value_name = "FILE|NAME")]
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) given: Given,
}

/// Flags of `workflows history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Workflow
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// At most this many runs; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
}

/// Flags of `batch`.
#[derive(Debug, Args)]
#[command(after_help = format!("\
Examples:
  orchctl batch marie-evaluate-student --roster students.csv
  orchctl batch -f workflow.json --roster names.txt --max-parallel 5 --dry-run -o json > generated.json

{VALUES}

The rows become the roster parameter of the workflow if it has one. Otherwise its tasks are made once for each row, and
parameters called as columns take their values. The same line again goes on with what is unfinished, whatever ended it;
a finished batch prints its report again; --again makes a new run. Exit code 8: some items failed."))]
pub(crate) struct BatchArgs {
    /// Workflow of the coordinator
    #[arg(value_name = "NAME", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) name: Option<String>,
    /// Workflow from a JSON file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// CSV, JSON, or one name a line; - reads stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) roster: PathBuf,
    #[command(flatten)]
    pub(crate) given: Given,
    /// Cancel the rest as soon as one item fails
    #[arg(long, conflicts_with = "on_failure")]
    pub(crate) fail_fast: bool,
    /// Make a new run though the same batch ran before
    #[arg(long, conflicts_with = "key")]
    pub(crate) again: bool,
    #[command(flatten)]
    pub(crate) how: How,
}
