//! Flags of `submit` and `run`: what to run, on what terms.
//! Knows words; how they become a run specification stands in [`crate::compose`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use orch_proto::v1::OnLoss;

use super::parse;

const EXAMPLES: &str = "\
Examples:
  orchctl run --worker anga \"Review the last change\"
  git diff | orchctl run --worker anga -
  orchctl submit --runner command -- make test
  orchctl submit -f release.json --key release-2.1

A file is JSON: a list of tasks, or {\"name\", \"labels\", \"context_files\", \"tasks\"}. A task has task_id, worker, description,
dependencies, priority (high, medium, low or a number), timeout (seconds or \"10m\"), context (text or JSON), model,
retries, requires, budget_usd, max_turns, output_schema, on_loss, agent; or runner (\"noop\" or \"command\"), program, args.";

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
    pub(crate) terms: Terms,
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
    /// Ceiling in US dollars
    #[arg(long, value_name = "USD", value_parser = parse::budget, conflicts_with = "file")]
    pub(crate) budget: Option<u64>,
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
