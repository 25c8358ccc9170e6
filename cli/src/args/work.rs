//! Flags of the commands that look at runs and steer them.
//! Knows words; refuses to know what a reference points to.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::amounts::{self, Ceiling};
use super::fleet::Watching;
use super::parse::{self, StateWord};

/// Flags of `watch`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl watch @last")]
pub(crate) struct WatchArgs {
    /// Run to watch; without it everything
    #[arg(value_name = "REF")]
    pub(crate) reference: Option<String>,
}

/// Flags of `status`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl status release-notes/128/plan")]
pub(crate) struct StatusArgs {
    /// Run or task; without it the fleet
    #[arg(value_name = "REF")]
    pub(crate) reference: Option<String>,
    #[command(flatten)]
    pub(crate) watching: Watching,
}

/// Flags of `ls`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orchctl ls --state failed,cancelled --name nightly
  orchctl ls --dead")]
pub(crate) struct LsArgs {
    /// Run whose tasks are listed; without it runs are
    #[arg(value_name = "REF")]
    pub(crate) reference: Option<String>,
    /// Only these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = parse::state)]
    pub(crate) state: Vec<StateWord>,
    /// Only runs of this name
    #[arg(long, conflicts_with = "reference")]
    pub(crate) name: Option<String>,
    /// Tasks that were given up because they took their agents down
    #[arg(long, conflicts_with_all = ["reference", "state", "name"])]
    pub(crate) dead: bool,
    /// At most this many; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) watching: Watching,
}

/// Flags of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl logs -f @last")]
pub(crate) struct LogsArgs {
    /// Task, or run
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Go on until the attempt has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Attempt; the latest without it
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u32>,
    /// Only the last lines
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    pub(crate) tail: Option<usize>,
    /// The lines as they were written, byte for byte
    #[arg(long)]
    pub(crate) raw: bool,
    /// Whole tool inputs and outputs instead of one line each
    #[arg(long, conflicts_with = "raw")]
    pub(crate) full: bool,
}

/// Flags of `result`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl result @last -o json")]
pub(crate) struct ResultArgs {
    /// Run or task
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
}

/// Flags of `wait`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl wait adhoc/12 adhoc/13 --timeout 10m")]
pub(crate) struct WaitArgs {
    /// Runs or tasks
    #[arg(value_name = "REF", required = true)]
    pub(crate) references: Vec<String>,
    /// State to wait for
    #[arg(long = "for", value_name = "STATE", default_value = "succeeded")]
    pub(crate) goal: Goal,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// Terminal; exits with the outcome
    Succeeded,
    /// Terminal in any way; exits 0
    Terminal,
    /// At least started
    Running,
}

/// Flags of `cancel`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl cancel @last --reason \"wrong branch\"")]
pub(crate) struct CancelArgs {
    /// Runs or tasks
    #[arg(value_name = "REF", required = true)]
    pub(crate) references: Vec<String>,
    /// Shown to people who look at it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// Flags of `retry`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orchctl retry release-notes/128 --failed
  orchctl retry release-notes/128 --budget 10
  orchctl retry --dead --all")]
pub(crate) struct RetryArgs {
    /// Runs or tasks
    #[arg(value_name = "REF", required_unless_present = "all")]
    pub(crate) references: Vec<String>,
    /// Tasks that failed, were cancelled or skipped: what retry does without a word
    #[arg(long, conflicts_with = "from")]
    pub(crate) failed: bool,
    /// Only tasks that were given up because they took their agents down; their crashes are forgotten
    #[arg(long, conflicts_with_all = ["failed", "from", "force"])]
    pub(crate) dead: bool,
    /// With --dead: every such task of every run
    #[arg(long, requires = "dead", conflicts_with = "references")]
    pub(crate) all: bool,
    /// This task of an ended run and everything below it, whatever became of them
    #[arg(long, value_name = "TASK")]
    pub(crate) from: Option<String>,
    /// Also requeue what runs on an unreachable agent
    #[arg(long, conflicts_with = "from")]
    pub(crate) force: bool,
    /// First set the ceiling of its run, such as 5, 0.50usd or 200ktok; what was spent stays counted
    #[arg(long, value_name = "AMOUNT", value_parser = amounts::ceiling)]
    pub(crate) budget: Option<Ceiling>,
}

/// Flags of `explain`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl explain release-notes/128/merge")]
pub(crate) struct ExplainArgs {
    /// Task, or run of one task
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
}

/// Flags of `bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orchctl bench
  orchctl bench latency --tasks 200
  orchctl bench submit --clients 64 -o json")]
pub(crate) struct BenchArgs {
    /// What to measure; noop without it
    #[arg(value_name = "SCENARIO")]
    pub(crate) what: Option<Scenario>,
    /// The same as a flag
    #[arg(long, value_name = "SCENARIO", conflicts_with = "what")]
    pub(crate) scenario: Option<Scenario>,
    /// How many tasks; without it 20000 for noop and submit, 2000 for spawn, 1000 for latency, 10000 for watch,
    /// 100000 in each run for queue; for calls: how many calls of each kind, 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) tasks: Option<u32>,
    /// submit: clients that submit at once, each over a connection of its own
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) clients: u32,
    /// watch: watchers, each over a connection of its own
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) watchers: u32,
    /// submit and watch: everybody shares one connection
    #[arg(long)]
    pub(crate) one_connection: bool,
    /// watch: tasks a second
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) pace: u32,
    /// queue: runs, submitted one after the other
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) runs: u32,
    /// queue: no other client submits meanwhile
    #[arg(long)]
    pub(crate) alone: bool,
    /// queue: what was submitted stays queued and is not cancelled
    #[arg(long)]
    pub(crate) keep: bool,
    /// agents: idle agents to hold; calls: agents that hold a task each
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) agents: u32,
    /// agents: how many join at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) at_once: u32,
    /// agents: each holds a task until it was welcomed this many times more, because somebody restarts the coordinator,
    /// or until --hold is over
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) reconnects: u32,
    /// agents: how long they are held
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse::duration)]
    pub(crate) hold: Duration,
    /// agents, calls and watch: directory of the authority that makes certificates for played agents; without it that of the
    /// context's certificates
    #[arg(long, value_name = "DIR")]
    pub(crate) certs: Option<PathBuf>,
}

/// What `bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// One run of many tasks that do nothing: tasks a second
    Noop,
    /// One run of many tasks that start `true`: tasks a second, beside what the machine can start at all
    Spawn,
    /// One task that does nothing after the other: time from submit to the result at a watcher
    Latency,
    /// Runs of one task that does nothing from many clients: submits a second
    Submit,
    /// Idle agents, held from here: time until welcome, the coordinator's memory
    Agents,
    /// A paced run with and without watchers: what they cost it
    Watch,
    /// Runs of many tasks that nobody may take: time to acknowledge them, and what another client notices
    Queue,
    /// Every harmless call on a fleet at work: what it takes
    Calls,
}
