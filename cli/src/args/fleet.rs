//! Flags of the commands that show and steer the fleet: `agents`, `workers`, `events`, `doctor`.
//! Knows words; refuses to know what a name stands for.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse;

/// Flags of a list that may be followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub(crate) struct Watching {
    /// Show it again whenever something changes
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// Flags of `agents`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = "Example: orchctl agents show box-1")]
pub(crate) struct AgentsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<AgentsCommand>,
    #[command(flatten)]
    pub(crate) list: Watching,
}

impl AgentsArgs {
    /// Whether it is a list that is shown again and again.
    pub(crate) fn goes_on(&self) -> bool {
        match &self.command {
            None => self.list.watch,
            Some(AgentsCommand::List(watching)) => watching.watch,
            Some(
                AgentsCommand::Show(_)
                | AgentsCommand::Drain(_)
                | AgentsCommand::Resume(_)
                | AgentsCommand::Label(_)
                | AgentsCommand::Remove(_)
                | AgentsCommand::Test(_)
                | AgentsCommand::ScaleHint,
            ) => false,
        }
    }

    /// Whether it asks something and prints the answer, without waiting for work to end.
    pub(crate) fn is_quick(&self) -> bool {
        match &self.command {
            None | Some(AgentsCommand::List(_)) => !self.goes_on(),
            Some(AgentsCommand::Drain(args)) => !args.wait,
            Some(AgentsCommand::Test(_)) => false,
            Some(
                AgentsCommand::Show(_)
                | AgentsCommand::Resume(_)
                | AgentsCommand::Label(_)
                | AgentsCommand::Remove(_)
                | AgentsCommand::ScaleHint,
            ) => true,
        }
    }
}

/// What can be asked of agents.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// List the agents
    #[command(after_help = "Example: orchctl agents list --watch")]
    List(Watching),
    /// One agent in one screen
    #[command(after_help = "Example: orchctl agents show box-1")]
    Show(ShowAgentArgs),
    /// Give agents no new work; what they run goes on
    #[command(after_help = "Example: orchctl agents drain box-1 --reason \"new kernel\" --wait")]
    Drain(DrainArgs),
    /// End a drain, or a quarantine after too many crashes
    #[command(after_help = "Example: orchctl agents resume box-1")]
    Resume(ResumeArgs),
    /// Add capabilities to what an agent offers (key=value), or take them away (key-)
    #[command(after_help = "Example: orchctl agents label box-1 gpu=yes workspace-")]
    Label(LabelArgs),
    /// Forget agents that are away and hold nothing; one that comes back is known again
    #[command(after_help = "Example: orchctl agents remove box-7")]
    Remove(RemoveArgs),
    /// Have workers introduce themselves on every agent; costs money
    #[command(after_help = "Example: orchctl agents test box-1 --worker anga --yes")]
    Test(TestArgs),
    /// How many more slots would start something now
    #[command(after_help = "Example: orchctl agents scale-hint -o json")]
    ScaleHint,
}

/// Flags of `agents show`.
#[derive(Debug, Args)]
pub(crate) struct ShowAgentArgs {
    /// Agent
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Flags of `agents drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Agents
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// Shown to people who look at it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Wait until they run nothing
    #[arg(short, long)]
    pub(crate) wait: bool,
}

/// Flags of `agents resume`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// Agents
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

/// Flags of `agents remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Agents
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

/// Flags of `agents label`.
#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// Agent
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// key=value adds, key- takes away
    #[arg(value_name = "LABEL", value_parser = parse::label_change, required_unless_present = "restore")]
    pub(crate) changes: Vec<parse::LabelChange>,
    /// First forget every label ever added or taken away
    #[arg(long)]
    pub(crate) restore: bool,
}

/// Flags of `agents test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Agents; without names every connected one
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Only this worker
    #[arg(long, value_name = "WORKER")]
    pub(crate) worker: Option<String>,
}

/// Flags of `workers`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl workers show anga --prompt")]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<WorkersCommand>,
}

/// What can be asked of workers.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// List the workers
    #[command(after_help = "Example: orchctl workers list -o json")]
    List,
    /// One worker with its definition
    #[command(after_help = "Example: orchctl workers show anga --prompt")]
    Show(ShowWorkerArgs),
    /// Check files of prompts without installing them
    #[command(after_help = "Example: orchctl workers validate ./prompts")]
    Validate(ValidateArgs),
    /// Have the coordinator read its prompts again
    #[command(after_help = "Example: orchctl workers reload")]
    Reload,
}

/// Flags of `workers show`.
#[derive(Debug, Args)]
pub(crate) struct ShowWorkerArgs {
    /// Worker
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Print the whole system prompt and nothing else
    #[arg(long)]
    pub(crate) prompt: bool,
}

/// Flags of `workers validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Directory with workers/*.md and subagents/*.md
    #[arg(value_name = "DIR", default_value = "./prompts")]
    pub(crate) dir: PathBuf,
}

/// Flags of `events`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl events -f -o jsonl --since 4711")]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// First sequence number; without it the last 100 events, with -f those from now on
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) since: Option<u64>,
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl doctor -o json")]
pub(crate) struct DoctorArgs {}
