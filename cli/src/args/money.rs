//! Flags of `costs`, `budgets` and `limits`.
//! Knows words; refuses to know what anything costs.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use orch_proto::v1::{BudgetScope, CostDimension};

use super::amounts::{self, Ceiling, ModeWord, Moment, PeriodWord};
use super::fleet::Watching;
use super::parse;

/// Flags of `costs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orchctl costs --since 7d
  orchctl costs --by worker,model --since 2026-11-01 --until 2026-12-01
  orchctl costs --by day --filter worker=marie -o csv > marie.csv

A date is its midnight, UTC; today and month are the beginning of either. -o csv is one row for each row of the table,
for a spreadsheet: no sums, no warnings, and names that a spreadsheet would take for formulas begin with '.")]
pub(crate) struct CostsArgs {
    /// Split by name, run, task, worker, agent, model, pool, tenant, day or outcome; at most 3
    #[arg(
        long,
        value_name = "WHAT,...",
        value_delimiter = ',',
        default_value = "name",
        hide_possible_values = true
    )]
    pub(crate) by: Vec<Dimension>,
    /// What was spent from then on: 7d, 2026-11-01, today, month
    #[arg(long, value_name = "WHEN", value_parser = amounts::when)]
    pub(crate) since: Option<Moment>,
    /// What was spent before then
    #[arg(long, value_name = "WHEN", value_parser = amounts::when)]
    pub(crate) until: Option<Moment>,
    /// Only what fits, such as worker=marie; may be repeated
    #[arg(long, value_name = "WHAT=VALUE", value_parser = filter)]
    pub(crate) filter: Vec<(Dimension, String)>,
    /// At most this many rows, the dearest; 0 is as many as the coordinator tells
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: u32,
}

/// What costs can be split by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dimension {
    /// Name of the runs: the workflow, or adhoc
    Name,
    /// Run
    Run,
    /// Task
    Task,
    /// Worker
    Worker,
    /// Agent
    Agent,
    /// Model
    Model,
    /// Credential pool
    Pool,
    /// Tenant
    Tenant,
    /// Day, UTC
    Day,
    /// How attempts ended
    Outcome,
}

impl Dimension {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Run => "run",
            Self::Task => "task",
            Self::Worker => "worker",
            Self::Agent => "agent",
            Self::Model => "model",
            Self::Pool => "pool",
            Self::Tenant => "tenant",
            Self::Day => "day",
            Self::Outcome => "outcome",
        }
    }

    /// Its column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Run => "RUN",
            Self::Task => "TASK",
            Self::Worker => "WORKER",
            Self::Agent => "AGENT",
            Self::Model => "MODEL",
            Self::Pool => "POOL",
            Self::Tenant => "TENANT",
            Self::Day => "DAY",
            Self::Outcome => "OUTCOME",
        }
    }
}

impl From<Dimension> for CostDimension {
    fn from(dimension: Dimension) -> Self {
        match dimension {
            Dimension::Name => Self::Name,
            Dimension::Run => Self::Run,
            Dimension::Task => Self::Task,
            Dimension::Worker => Self::Worker,
            Dimension::Agent => Self::Agent,
            Dimension::Model => Self::Model,
            Dimension::Pool => Self::Pool,
            Dimension::Tenant => Self::Tenant,
            Dimension::Day => Self::Day,
            Dimension::Outcome => Self::Outcome,
        }
    }
}

/// `worker=marie`.
fn filter(text: &str) -> Result<(Dimension, String), String> {
    let (what, value) = parse::key_value(text)?;
    let dimension = Dimension::from_str(&what, false).map_err(|_| {
        let words: Vec<_> = Dimension::value_variants().iter().map(|known| known.word()).collect();
        format!("{what:?} is none of {}", words.join(", "))
    })?;
    if value.is_empty() { Err(format!("{text:?} names no {what}")) } else { Ok((dimension, value)) }
}

/// Flags of `budgets`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example: orchctl budgets set team --usd 50 --per day"
)]
pub(crate) struct BudgetsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BudgetsCommand>,
    #[command(flatten)]
    pub(crate) list: ListBudgetsArgs,
}

/// What can be done with budgets.
#[derive(Debug, Subcommand)]
pub(crate) enum BudgetsCommand {
    /// List the budgets and how far they are used
    #[command(after_help = "Example: orchctl budgets list --runs")]
    List(ListBudgetsArgs),
    /// Make or change a budget, or that of a run; what was spent in its period stays counted
    #[command(after_help = "\
Examples:
  orchctl budgets set team 50usd --per day
  orchctl budgets set marie --on worker=marie --usd 200 --per month --mode drain
  orchctl budgets set nightly --on name=nightly --runs 20 --tokens 40M --per day
  orchctl budgets set evaluate/3 10usd

Days and months are those of UTC. A budget over runs refuses the submit that would pass it; over a worker or a pool,
attempts are counted. The ceiling of a run is first set by orchctl run --budget; what a change of it does not name stays
as it is, and a run that it has ended goes on with orchctl retry.")]
    Set(SetBudgetArgs),
    /// End a budget, or that of a run
    #[command(after_help = "Example: orchctl budgets remove team")]
    Remove(RemoveBudgetArgs),
}

/// Flags of `budgets list`.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct ListBudgetsArgs {
    /// Also those of runs that go on
    #[arg(long)]
    pub(crate) runs: bool,
}

/// Flags of `budgets set`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("ceiling").args(["amount", "usd", "tokens", "runs"]).multiple(true).required(true))]
pub(crate) struct SetBudgetArgs {
    /// Name of the budget: lower-case letters, digits and dashes; or a run, such as evaluate/3 or @last
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Ceiling, such as 5, 0.50usd, 200ktok or 5usd,200ktok
    #[arg(value_name = "AMOUNT", value_parser = amounts::ceiling, conflicts_with_all = ["usd", "tokens"])]
    pub(crate) amount: Option<Ceiling>,
    /// Ceiling in US dollars
    #[arg(long, value_name = "USD", value_parser = parse::budget)]
    pub(crate) usd: Option<u64>,
    /// Ceiling in tokens of every kind, such as 200k or 1.5M
    #[arg(long, value_name = "N", value_parser = amounts::tokens)]
    pub(crate) tokens: Option<u64>,
    /// Most runs; over a worker or a pool: attempts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) runs: Option<u64>,
    /// When it begins anew: day, month (the default) or total (never)
    #[arg(long, value_name = "PERIOD", hide_possible_values = true)]
    pub(crate) per: Option<PeriodWord>,
    /// What it is over: tenant (the default), worker=NAME, name=NAME or pool=NAME
    #[arg(long, value_name = "WHAT", value_parser = amounts::scope)]
    pub(crate) on: Option<BudgetScope>,
    /// When it is used up: hard stops (the default), drain finishes what runs, soft warns
    #[arg(long, value_name = "MODE", hide_possible_values = true)]
    pub(crate) mode: Option<ModeWord>,
}

/// Flags of `budgets remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveBudgetArgs {
    /// Budget, or run
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Flags of `limits`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orchctl limits
  orchctl limits team --watch")]
pub(crate) struct LimitsArgs {
    /// Only this credential pool
    #[arg(value_name = "POOL")]
    pub(crate) pool: Option<String>,
    #[command(flatten)]
    pub(crate) watching: Watching,
}
