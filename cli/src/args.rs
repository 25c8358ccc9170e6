//! The command line as `clap` sees it: which words and flags exist, and what they are called.
//! Knows no network and no file; what a command does stands in [`crate::commands`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(crate) mod parse;
pub(crate) mod setup;
pub(crate) mod submit;
pub(crate) mod work;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "orchctl",
    version,
    about = "Submit Claude Code work to a fleet of agents, and see what it does",
    help_template = HELP_TEMPLATE,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    disable_help_flag = true,
    max_term_width = 110,
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The list of commands stands here in groups, which `clap` cannot make; a test compares it with [`Command`].
const HELP_TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

Start here
  dev      Run a coordinator and agents in this terminal
  demo     Rehearse a run with a stand-in, offline, and clean up
  init     Create a CA and certificates for a coordinator and its first agent
  certs    Issue and show certificates

Work
  submit   Queue a run and print its reference
  run      Submit, follow, print the results, exit with the outcome
  watch    Live view of a run, or of everything
  status   The fleet, or one run or task, in one screen
  ls       List runs, or the tasks of one
  logs     Show or follow the transcript of a task
  result   Print the results of a run or task
  wait     Block until references reach a state
  cancel   Stop runs or tasks
  retry    Run failed, cancelled and skipped tasks again
  explain  Say why a task is where it is

Fleet
  agents   List the agents
  bench    Measure this installation

{options}
References: name/number is a run, name/number/task is a task, @last is your newest run.
Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed,
5 unreachable, 6 conflict, 7 limit, 8 some failed, 9 cancelled, 10 no agent can run it, 124 --timeout, 130 interrupted.
";

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Output on stdout
    #[arg(
        short,
        long,
        global = true,
        hide_env_values = true,
        env = "ORCHCTL_OUTPUT",
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) output: Format,
    /// Live display of commands that follow a run
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "ORCHCTL_PROGRESS",
        value_name = "MODE",
        default_value = "auto"
    )]
    pub(crate) progress: Progress,
    /// Colour: also NO_COLOR and CLICOLOR_FORCE
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: When,
    /// Longest time for this command, such as 90s or 10m; the work goes on
    #[arg(long, global = true, hide_env_values = true, env = "ORCHCTL_TIMEOUT", value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Say less on stderr: -q no hints, -qq nothing but errors
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    /// Say more on stderr
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    pub(crate) help: Option<bool>,
}

/// Which coordinator, and who asks. A flag wins over its variable, both over a context.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Coordinator, such as https://box-0:7443
    #[arg(long, global = true, hide_env_values = true, env = "ORCHCTL_ENDPOINT", value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Certificates of the trusted authorities
    #[arg(long, global = true, hide_env_values = true, env = "ORCHCTL_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Own certificate
    #[arg(long, global = true, hide_env_values = true, env = "ORCHCTL_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Own private key
    #[arg(long, global = true, hide_env_values = true, env = "ORCHCTL_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// What stdout carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON value
    Json,
    /// One JSON value a line, as things happen
    Jsonl,
    /// References or names alone
    Name,
    /// Nothing
    None,
}

/// How a command that follows a run shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// `tty` on a terminal, else `plain`
    Auto,
    /// Redrawn in place
    Tty,
    /// One line an event
    Plain,
    /// One JSON value an event
    Jsonl,
    /// Nothing
    None,
}

/// When something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a coordinator and agents in this terminal
    #[cfg(feature = "dev")]
    Dev(setup::DevArgs),
    /// Rehearse a run with a stand-in, offline, and clean up
    #[cfg(feature = "dev")]
    Demo(setup::DemoArgs),
    /// Create a CA and certificates for a coordinator and its first agent
    Init(setup::InitArgs),
    /// Issue and show certificates
    #[command(subcommand)]
    Certs(setup::CertsCommand),
    /// Queue a run and print its reference
    Submit(Box<submit::SubmitArgs>),
    /// Submit, follow, print the results, exit with the outcome
    Run(Box<submit::RunArgs>),
    /// Live view of a run, or of everything
    Watch(work::WatchArgs),
    /// The fleet, or one run or task, in one screen
    #[command(visible_alias = "st")]
    Status(work::StatusArgs),
    /// List runs, or the tasks of one
    #[command(visible_alias = "ps")]
    Ls(work::LsArgs),
    /// Show or follow the transcript of a task
    Logs(work::LogsArgs),
    /// Print the results of a run or task
    Result(work::ResultArgs),
    /// Block until references reach a state
    Wait(work::WaitArgs),
    /// Stop runs or tasks
    Cancel(work::CancelArgs),
    /// Run failed, cancelled and skipped tasks again
    Retry(work::RetryArgs),
    /// Say why a task is where it is
    Explain(work::ExplainArgs),
    /// List the agents
    Agents(work::AgentsArgs),
    /// Measure this installation
    Bench(work::BenchArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_overview_lists_every_command_with_its_own_description() {
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let line = format!("  {:<8} {about}\n", command.get_name());
            assert!(HELP_TEMPLATE.contains(&line), "the overview lacks {line:?}");
        }
    }

    #[test]
    fn global_flags_may_follow_the_command() {
        let cli = Cli::try_parse_from(["orchctl", "ls", "-o", "json", "--timeout", "10m"]).unwrap();
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.timeout, Some(Duration::from_secs(600)));
    }

    #[test]
    fn a_misspelt_command_gets_a_suggestion() {
        let error = Cli::try_parse_from(["orchctl", "statsu"]).unwrap_err().to_string();
        assert!(error.contains("similar subcommands exist") && error.contains("'status'"), "{error}");
    }
}
