//! Flags of `submit` and `run`: what to run, on what terms.
//! Knows words; how they become a run specification stands in [`crate::compose`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use orch_proto::v1::{BudgetLimit, BudgetMode, FailurePolicy, GateCommand, OnLoss};

use super::amounts::{self, Ceiling, ModeWord};
use super::parse;

const EXAMPLES: &str = "\
Examples:
  orchctl run \"Evaluate all students in my hip-hop class\" --workspace dance
  orchctl run --worker anga \"Review the last change\" --gate 'cargo test'
  orchctl run --after release/12 \"Now also mend what you found\"
  git diff | orchctl run --worker anga -
  orchctl run --budget 5 \"Evaluate all students\"
  orchctl submit --runner command -- make test
  orchctl submit -f release.json --key release-2.1

Without --worker, --runner, --after or a file the text is a request: the worker orchestrator plans it.
With --approve and nobody to ask, run prints how to answer and exits 0; the run waits.

A gate is a program with its arguments, without a shell: words are split at blanks; \" \" and ' ' keep blanks, \\
keeps the next character. Pipes, variables and wildcards are not understood; sh -c '...' is a gate like any other.

A file is JSON: a list of tasks, or an object around one. orchctl schema run prints its fields.";

/// Flags of `submit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) what: What,
    /// Follow the run and exit with its outcome
    #[arg(short, long)]
    pub(crate) wait: bool,
}

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) what: What,
    /// Let Ctrl-C cancel the run instead of leaving it
    #[arg(long)]
    pub(crate) cancel_on_interrupt: bool,
    /// What `run` does anyway; taken so that a line of `submit` works
    #[arg(short, long, hide = true)]
    pub(crate) wait: bool,
}

/// What `submit` and `run` share.
#[derive(Debug, Args)]
pub(crate) struct What {
    /// What is to be done; - reads it from stdin
    pub(crate) text: Option<String>,
    /// Program and arguments for --runner command
    #[arg(last = true, value_name = "PROGRAM")]
    pub(crate) program: Vec<OsString>,
    /// Read a run from a JSON file; - reads stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Named worker that does it
    #[arg(long, value_name = "NAME", conflicts_with_all = ["file", "runner"])]
    pub(crate) worker: Option<String>,
    /// Task that ended and whose conversation goes on, where it is kept; its worker does it
    #[arg(long, value_name = "REF", conflicts_with_all = ["file", "runner", "worker"])]
    pub(crate) after: Option<String>,
    /// Runner instead of a worker
    #[arg(long, value_name = "RUNNER", conflicts_with = "file")]
    pub(crate) runner: Option<Runner>,
    /// File that the workers are given after their system prompt; may be repeated
    #[arg(long = "context-file", value_name = "FILE")]
    pub(crate) context_files: Vec<PathBuf>,
    /// Name of the run, the first part of its reference
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Label of the run; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    pub(crate) labels: Vec<(String, String)>,
    /// Idempotency key: the same key and the same run give the same reference
    #[arg(short, long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Only check, and say what no agent could run; nothing is queued
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) whole: Whole,
    #[command(flatten)]
    pub(crate) planning: Planning,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) checks: Checks,
}

/// What holds for a whole run. Flags win over a file.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Terms of a run")]
pub(crate) struct Whole {
    /// Directory that agents offer by this name: its tasks see it, read-only
    #[arg(long, value_name = "NAME")]
    pub(crate) workspace: Option<String>,
    /// When a task does not succeed: fail-fast, continue (the default) or best-effort
    #[arg(long, value_name = "POLICY", value_parser = parse::on_failure)]
    pub(crate) on_failure: Option<FailurePolicy>,
    /// At most so many of its tasks at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_parallel: Option<u32>,
    /// Run every task, whatever results are recorded
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Ceiling over the run and everything below it, such as 5, 0.50usd, 200ktok or 5usd,200ktok
    #[arg(long, value_name = "AMOUNT", value_parser = amounts::ceiling)]
    pub(crate) budget: Option<Ceiling>,
    /// When the budget is used up: hard stops (the default), drain finishes what runs, soft warns
    #[arg(long, value_name = "MODE", requires = "budget", hide_possible_values = true)]
    pub(crate) budget_mode: Option<ModeWord>,
}

impl Whole {
    /// The ceiling over the run, if flags name one.
    pub(crate) fn budget_limit(&self) -> Option<BudgetLimit> {
        let mode = self.budget_mode.map_or(BudgetMode::Hard, BudgetMode::from);
        self.budget.map(|ceiling| ceiling.limit(mode))
    }
}

/// How a request is planned.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Planning of a request")]
pub(crate) struct Planning {
    /// Only plan, and print the plan
    #[arg(long, conflicts_with_all = ["approve", "file"])]
    pub(crate) plan_only: bool,
    /// Run nothing of the plan before somebody approves it
    #[arg(long, conflicts_with = "file")]
    pub(crate) approve: bool,
    /// Most tasks of the plan, 1 to 1000; 20 without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "file")]
    pub(crate) max_tasks: Option<u32>,
    /// Workers that the plan may name; all without it
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with = "file")]
    pub(crate) workers: Vec<String>,
}

/// What must hold before a single task counts as done, and what becomes of its files.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Checks and files of a single task")]
pub(crate) struct Checks {
    /// Program that must exit with 0, such as 'cargo test'; may be repeated
    #[arg(long = "gate", value_name = "COMMAND", value_parser = parse::gate, conflicts_with = "file")]
    pub(crate) gates: Vec<GateCommand>,
    /// File that must be there beneath out/, such as '*.md'; may be repeated
    #[arg(long = "require-artifact", value_name = "GLOB", conflicts_with = "file")]
    pub(crate) required_artifacts: Vec<String>,
    /// Least number of tool calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "file")]
    pub(crate) min_tool_calls: Option<u32>,
    /// Worker that judges the result
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub(crate) review: Option<String>,
    /// Times it is sent back with what is wrong; 1 without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=10), conflicts_with = "file")]
    pub(crate) repairs: Option<u32>,
    /// Copy a file of out/ into the workspace, such as note.md=notes/{date}.md; may be repeated
    #[arg(long, value_name = "FILE=PATH", value_parser = parse::key_value, conflicts_with = "file")]
    pub(crate) publish: Vec<(String, String)>,
    /// Use the recorded result of the same work, if there is one
    #[arg(long, conflicts_with_all = ["file", "no_cache"])]
    pub(crate) cache: bool,
    /// Have the answer keep to the result contract: status, summary, findings, recommendations
    #[arg(long, conflicts_with_all = ["file", "output_schema"])]
    pub(crate) contract: bool,
}

/// On what terms a single task runs. In a file, each task says so itself.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Terms of a single task")]
pub(crate) struct Terms {
    /// Model instead of the worker's
    #[arg(long, value_name = "MODEL", conflicts_with = "file")]
    pub(crate) model: Option<String>,
    /// high, medium, low or a number, larger first
    #[arg(long, value_name = "PRIORITY", value_parser = parse::priority, allow_hyphen_values = true, conflicts_with = "file")]
    pub(crate) priority: Option<i32>,
    /// Limit of one attempt
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, conflicts_with = "file")]
    pub(crate) task_timeout: Option<Duration>,
    /// Further attempts after retryable outcomes
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub(crate) retries: Option<u32>,
    /// Capability the agent must offer; may be repeated
    #[arg(long = "require", value_name = "KEY=VALUE", value_parser = parse::key_value, conflicts_with = "file")]
    pub(crate) requires: Vec<(String, String)>,
    /// Only agent that may run it
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub(crate) agent: Option<String>,
    /// Turn limit
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub(crate) max_turns: Option<u32>,
    /// JSON Schema that the answer must fit
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) output_schema: Option<PathBuf>,
    /// Material for the prompt: the content of a file of this name, else this text
    #[arg(long, value_name = "FILE|TEXT", conflicts_with = "file")]
    pub(crate) context: Option<String>,
    /// When the agent is lost: fast requeues soon, wait only when the old child is certainly dead
    #[arg(long, value_name = "fast|wait", value_parser = parse::on_loss, conflicts_with = "file")]
    pub(crate) on_loss: Option<OnLoss>,
}

/// What executes a task when no worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runner {
    /// Nothing at all: for benchmarks and health checks
    Noop,
    /// A program that an agent allows, without a shell
    Command,
}
