//! Flags of the commands that set something up: `init`, `certs`, `dev`, `demo`.
//! Knows words and defaults of an installation; refuses to touch a file.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use orch_certs::Role;

/// Trust domain when none is named.
pub(crate) const DEFAULT_DOMAIN: &str = "orch.local";
/// Port of the coordinator when none is named.
pub(crate) const DEFAULT_PORT: u16 = 7443;
/// Tenant when none is named.
pub(crate) const DEFAULT_TENANT: &str = "default";

/// Flags of `init`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl init --host box-0.example,192.0.2.7")]
pub(crate) struct InitArgs {
    /// Names and addresses under which the coordinator is dialled
    #[arg(long = "host", value_name = "NAME[,IP]", required = true, value_delimiter = ',')]
    pub(crate) hosts: Vec<String>,
    /// Where everything goes [default: ~/.config/orch]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Trust domain of the installation
    #[arg(long, value_name = "DOMAIN", default_value = DEFAULT_DOMAIN)]
    pub(crate) domain: String,
    /// Name of the first agent
    #[arg(long, value_name = "NAME", default_value = "agent-1")]
    pub(crate) agent: String,
    /// Port of the coordinator
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    pub(crate) port: u16,
}

/// What can be done with certificates.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example: orchctl certs show")]
pub(crate) enum CertsCommand {
    /// Write what a second host needs: ca.pem, a certificate and its key
    Issue(IssueArgs),
    /// Show the certificates of a directory
    Show(ShowArgs),
}

/// Flags of `certs issue`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl certs issue --role agent --name box-2 --out ./box-2")]
pub(crate) struct IssueArgs {
    /// What the holder is
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: RoleArg,
    /// Name of the holder
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// Tenant of the holder
    #[arg(long, value_name = "TENANT", default_value = DEFAULT_TENANT)]
    pub(crate) tenant: String,
    /// For a coordinator: names and addresses under which it is dialled
    #[arg(long = "host", value_name = "NAME[,IP]", value_delimiter = ',')]
    pub(crate) hosts: Vec<String>,
    /// Where the files go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Directory of the authority, as `init` made it [default: ~/.config/orch]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Flags of `certs show`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl certs show ./box-2")]
pub(crate) struct ShowArgs {
    /// Directory to look into [default: ~/.config/orch]
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// A role as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Submits runs and reads their results
    Client,
    /// Runs attempts on a host
    Agent,
    /// Operates the fleet
    Admin,
    /// Owns the queue
    Coordinator,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Client => Self::Client,
            RoleArg::Agent => Self::Agent,
            RoleArg::Admin => Self::Admin,
            RoleArg::Coordinator => Self::Coordinator,
        }
    }
}

/// Flags of `dev`.
#[cfg(feature = "dev")]
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl dev --agents 3 --slots 2")]
pub(crate) struct DevArgs {
    /// How many agents
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) agents: u16,
    /// Where certificates, queue, logs and tasks are kept
    #[arg(long, value_name = "DIR", default_value = "./.orch-dev")]
    pub(crate) data_dir: PathBuf,
    /// Address for gRPC; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443")]
    pub(crate) listen: std::net::SocketAddr,
    /// Address for probes and metrics; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7481")]
    pub(crate) probe: std::net::SocketAddr,
    /// JSON file that is rewritten whenever ports or processes change
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Slots of each agent
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<u32>,
    /// Capability of every agent; may be repeated
    #[arg(long = "capability", value_name = "KEY=VALUE")]
    pub(crate) capabilities: Vec<String>,
    /// Program that the agents may run; may be repeated
    #[arg(long = "allow-command", value_name = "PROGRAM")]
    pub(crate) allow_commands: Vec<String>,
    /// Directory that the agents offer as a workspace; may be repeated
    #[arg(long = "workspace", value_name = "NAME=DIR", value_parser = workspace)]
    pub(crate) workspaces: Vec<(String, PathBuf)>,
    /// Let the tasks use your own Claude login, the CLI's or CLAUDE_CODE_OAUTH_TOKEN; without this flag and without
    /// ANTHROPIC_API_KEY a terminal is asked
    #[arg(long)]
    pub(crate) use_my_login: bool,
    /// Claude CLI of the agents [default: `claude` on the PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) claude_bin: Option<PathBuf>,
    /// Directory of workers that override the built-in ones
    #[arg(long, value_name = "DIR")]
    pub(crate) prompts: Option<PathBuf>,
    /// Heartbeat interval; all deadlines of lost agents scale with it
    #[arg(long, value_name = "DURATION", value_parser = super::parse::duration)]
    pub(crate) heartbeat_interval: Option<std::time::Duration>,
}

/// Flags of `demo`.
#[cfg(feature = "dev")]
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl demo --keep")]
pub(crate) struct DemoArgs {
    /// Work in this directory and leave it there [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the temporary directory
    #[arg(long)]
    pub(crate) keep: bool,
    /// Use the Claude CLI on the PATH instead of the stand-in; costs money, asks first
    #[arg(long)]
    pub(crate) real: bool,
    /// Most that --real may cost, in US dollars
    #[arg(long, value_name = "USD", default_value = "1.00", value_parser = super::parse::budget, requires = "real")]
    pub(crate) max_cost: u64,
}

/// Reads `NAME=DIR`.
#[cfg(feature = "dev")]
fn workspace(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_owned(), dir.into())),
        Some(_) | None => Err("write NAME=DIR, such as dance=/srv/dance".to_owned()),
    }
}
