//! The command line as `clap` sees it: which words and flags exist, and what they are called.
//! Knows no network and no file; what a command does stands in [`crate::commands`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(crate) mod admin;
pub(crate) mod amounts;
pub(crate) mod artifacts;
pub(crate) mod bridge;
pub(crate) mod fleet;
pub(crate) mod local;
pub(crate) mod money;
pub(crate) mod parse;
pub(crate) mod plan;
pub(crate) mod setup;
pub(crate) mod submit;
pub(crate) mod work;
pub(crate) mod workflows;

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
    max_term_width = 100,
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
  dev         Run a coordinator and agents in this terminal
  demo        Rehearse a run with a stand-in, offline, and clean up
  init        Create a CA and certificates for a coordinator and its first agent
  certs       Issue and show certificates

Work
  submit      Queue a run and print its reference
  run         Submit, follow, print the results, exit with the outcome
  watch       Live view of a run, or of everything
  status      The fleet, or one run or task, in one screen
  ls          List runs, or the tasks of one
  logs        Show or follow the transcript of a task
  result      Print the results of a run or task
  artifacts   List and fetch the files that tasks handed over
  approve     Run a plan that waits for approval
  reject      Cancel a run whose plan waits for approval
  edit        Change a plan that waits for approval, and run it
  wait        Block until references reach a state
  workflows   List, show, check, draw and run workflows
  batch       Run a workflow over every row of a roster
  bridge      Run task files from a folder; each is removed once its result is written
  cancel      Stop runs or tasks
  retry       Run failed, cancelled and skipped tasks again
  explain     Say why a task is where it is
  costs       What was spent, by run, worker, agent, model, pool or day
  budgets     List, set and remove ceilings
  limits      Rate limits of the credential pools, live

Fleet
  agents      Show, drain, resume, label, test and remove agents
  workers     Show, check and reload workers
  events      What happens everywhere, as it was recorded
  doctor      Check certificates, clock, network, agents and credentials
  bench       Measure this installation

Administration
  admin       Back up, restore, export, import and compact what is kept
  context     Choose, add and remove coordinators
  config      Show and change the configuration file
  schema      Print the JSON Schema of output, run files or configuration
  completions Print the completion script of a shell
  help        Explain a command, an error code or an outcome

{options}

References: name/number is a run, name/number/task is a task, @last is your newest run.
Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage,
3 not found, 4 not allowed, 5 unreachable, 6 conflict, 7 over a limit or budget, 8 some failed,
9 cancelled, 10 no agent can run it, 124 --timeout, 130 interrupted.
";

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// table, wide, json, jsonl, yaml, csv, name or none
    #[arg(
        short,
        long,
        global = true,
        hide_env_values = true,
        env = "ORCHCTL_OUTPUT",
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub(crate) output: Option<OutputFormat>,
    /// Only these fields of the JSON, such as ref,state
    #[arg(long, global = true, value_name = "FIELD,...", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
    /// Moments for people: relative, iso or unix
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "ORCHCTL_TIME",
        value_name = "STYLE",
        hide_possible_values = true
    )]
    pub(crate) time: Option<TimeStyle>,
    /// Followed runs: auto, tty, plain, jsonl or none
    #[arg(
        long,
        global = true,
        hide_env_values = true,
        env = "ORCHCTL_PROGRESS",
        value_name = "MODE",
        hide_possible_values = true
    )]
    pub(crate) progress: Option<Progress>,
    /// Colour: auto, always or never; also NO_COLOR and CLICOLOR_FORCE
    #[arg(long, global = true, value_name = "WHEN", hide_possible_values = true)]
    pub(crate) color: Option<When>,
    /// Refuse rather than ask; CI in the environment implies it
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
    /// Answer questions with yes
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
    /// Print help without a pager
    #[arg(long, global = true)]
    pub(crate) no_pager: bool,
    /// Limit, such as 90s or 10m; the work goes on
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
    // The last one: its heading holds for everything below it.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Which coordinator, and who asks. A flag wins over its variable, both over a context.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Context of the configuration file [env: ORCHCTL_CONTEXT]
    // Not `--context`: that is the material of `submit` and `run`.
    #[arg(short = 'c', long = "context-name", global = true, value_name = "NAME")]
    pub(crate) context_name: Option<String>,
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

/// What `-o` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    Table,
    /// For people, with every column and nothing cut
    Wide,
    /// One JSON value
    Json,
    /// One JSON value a line, as things happen
    Jsonl,
    /// The value of json, as YAML
    Yaml,
    /// Rows for a spreadsheet
    Csv,
    /// References or names alone
    Name,
    /// Nothing
    None,
}

/// What a command has to hand to [`crate::output::Out`]: `wide` is a table; `yaml`, `csv` and a choice of fields are the
/// values of `json`, written otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text or a table for people.
    Table,
    /// One value.
    Json,
    /// Values one by one, as things happen.
    Jsonl,
    /// References or names alone.
    Name,
    /// Nothing.
    None,
}

/// How moments are shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeStyle {
    /// How long ago
    Relative,
    /// RFC 3339 in UTC
    Iso,
    /// Seconds since 1970
    Unix,
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
    /// List and fetch the files that tasks handed over
    Artifacts(artifacts::ArtifactsArgs),
    /// Run a plan that waits for approval
    Approve(plan::ApproveArgs),
    /// Cancel a run whose plan waits for approval
    Reject(plan::RejectArgs),
    /// Change a plan that waits for approval, and run it
    Edit(plan::EditArgs),
    /// List, show, check, draw and run workflows
    Workflows(workflows::WorkflowsArgs),
    /// Run a workflow over every row of a roster
    Batch(Box<workflows::BatchArgs>),
    /// Run task files from a folder; each is removed once its result is written
    Bridge(bridge::BridgeArgs),
    /// Block until references reach a state
    Wait(work::WaitArgs),
    /// Stop runs or tasks
    Cancel(work::CancelArgs),
    /// Run failed, cancelled and skipped tasks again
    Retry(work::RetryArgs),
    /// Say why a task is where it is
    Explain(work::ExplainArgs),
    /// What was spent, by run, worker, agent, model, pool or day
    Costs(money::CostsArgs),
    /// List, set and remove ceilings
    Budgets(money::BudgetsArgs),
    /// Rate limits of the credential pools, live
    Limits(money::LimitsArgs),
    /// Show, drain, resume, label, test and remove agents
    Agents(fleet::AgentsArgs),
    /// Show, check and reload workers
    Workers(fleet::WorkersArgs),
    /// What happens everywhere, as it was recorded
    Events(fleet::EventsArgs),
    /// Check certificates, clock, network, agents and credentials
    Doctor(fleet::DoctorArgs),
    /// Measure this installation
    Bench(work::BenchArgs),
    /// Back up, restore, export, import and compact what is kept
    Admin(admin::AdminArgs),
    /// Choose, add and remove coordinators
    Context(local::ContextArgs),
    /// Show and change the configuration file
    Config(local::ConfigArgs),
    /// Print the JSON Schema of output, run files or configuration
    Schema(local::SchemaArgs),
    /// Print the completion script of a shell
    Completions(local::CompletionsArgs),
    /// Explain a command, an error code or an outcome
    Help(local::HelpArgs),
}

/// Adds where a command stands that was looked for at the top: `drain` is `orchctl agents drain`.
pub(crate) fn with_place(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    let command = <Cli as clap::CommandFactory>::command();
    let groups = command.get_subcommands().filter(|group| group.find_subcommand(word).is_some());
    let tips: Vec<_> =
        groups.map(|group| format!("there is 'orchctl {} {word}'", group.get_name()).into()).collect();
    if error.kind() == ErrorKind::InvalidSubcommand && !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

impl Command {
    /// Whether it tells things as they happen, until they are over or somebody leaves.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self, Self::Watch(_))
            || matches!(self, Self::Logs(args) if args.follow && !args.raw)
            || matches!(self, Self::Events(args) if args.follow)
            || matches!(self, Self::Status(args) if args.watching.watch)
            || matches!(self, Self::Ls(args) if args.watching.watch)
            || matches!(self, Self::Limits(args) if args.watching.watch)
            || matches!(self, Self::Agents(args) if args.goes_on())
    }
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
            let line = format!("  {:<11} {about}\n", command.get_name());
            assert!(HELP_TEMPLATE.contains(&line), "the overview lacks {line:?}");
        }
    }

    #[test]
    fn global_flags_may_follow_the_command() {
        let cli = Cli::try_parse_from(["orchctl", "ls", "-o", "json", "--timeout", "10m"]).unwrap();
        assert_eq!(cli.global.output, Some(OutputFormat::Json));
        assert_eq!(cli.global.timeout, Some(Duration::from_secs(600)));
    }

    #[test]
    fn a_misspelt_command_gets_a_suggestion() {
        let error = Cli::try_parse_from(["orchctl", "statsu"]).unwrap_err().to_string();
        assert!(error.contains("similar subcommands exist") && error.contains("'status'"), "{error}");
    }

    #[test]
    fn a_command_of_a_group_is_found_where_it_stands() {
        let error = with_place(Cli::try_parse_from(["orchctl", "drain", "box-1"]).unwrap_err()).to_string();
        assert!(error.contains("'orchctl agents drain'"), "{error}");
    }
}
