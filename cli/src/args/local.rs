//! Flags of the commands that ask no coordinator: `context`, `config`, `schema`, `completions`, `help`.
//! Knows words; refuses to touch a file.

use clap::{Args, Subcommand, ValueEnum};

/// Flags of `context`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: orchctl context add prod --endpoint https://box-0:7443 --tls-ca ca.pem \\\n  \
    --tls-cert admin.pem --tls-key admin.key --use"
)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ContextCommand>,
}

/// What can be done with contexts.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts
    #[command(after_help = "Example: orchctl context list -o json")]
    List,
    /// Make a context the one in force
    #[command(after_help = "Example: orchctl context use prod")]
    Use(ContextName),
    /// Add or change a context; what it holds comes from --endpoint, --tls-ca, --tls-cert and --tls-key
    #[command(
        after_help = "Example: orchctl context add prod --endpoint https://box-0:7443 --tls-ca ca.pem \\\n  \
        --tls-cert admin.pem --tls-key admin.key --use"
    )]
    Add(AddContextArgs),
    /// Forget a context; its files stay
    #[command(after_help = "Example: orchctl context remove lab")]
    Remove(ContextName),
    /// Which coordinator a command would ask here and now, and why
    #[command(after_help = "Example: orchctl context current -o name")]
    Current,
}

/// A context by its name.
#[derive(Debug, Args)]
pub(crate) struct ContextName {
    /// Context
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Flags of `context add`.
#[derive(Debug, Args)]
pub(crate) struct AddContextArgs {
    /// Context
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Make it the one in force
    #[arg(long = "use")]
    pub(crate) in_force: bool,
    /// Ask before every command that changes something
    #[arg(long)]
    pub(crate) confirm: bool,
}

/// Flags of `config`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl config set defaults.output wide")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ConfigCommand>,
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every setting in force, flags aside
    #[command(after_help = "Example: orchctl config view --show-origin")]
    View(ViewArgs),
    /// One setting in force
    #[command(after_help = "Example: orchctl config get defaults.output")]
    Get(KeyArgs),
    /// Set one in the configuration file
    #[command(after_help = "Example: orchctl config set contexts.prod.confirm write")]
    Set(SetArgs),
    /// Where the configuration file is
    #[command(after_help = "Example: $EDITOR \"$(orchctl config path)\"")]
    Path,
}

/// Flags of `config view`.
#[derive(Debug, Default, Args)]
pub(crate) struct ViewArgs {
    /// Also say where each comes from
    #[arg(long)]
    pub(crate) show_origin: bool,
}

/// Flags of `config get`.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// current, defaults.output|time|color|progress or contexts.NAME.endpoint|ca|cert|key|confirm
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
}

/// Flags of `config set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// current, defaults.output|time|color|progress or contexts.NAME.endpoint|ca|cert|key|confirm
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// Its value
    #[arg(value_name = "VALUE")]
    pub(crate) value: String,
}

/// Flags of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl schema run > run.schema.json")]
pub(crate) struct SchemaArgs {
    #[command(subcommand)]
    pub(crate) command: SchemaCommand,
}

/// What has a schema.
#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// What -o json prints; without KIND the kinds there are
    #[command(after_help = "Example: orchctl schema output task")]
    Output(OutputKind),
    /// A run as submit -f and run -f read it
    #[command(after_help = "Example: orchctl schema run > run.schema.json")]
    Run,
    /// The configuration file
    #[command(after_help = "Example: orchctl schema config -o yaml")]
    Config,
    /// A workflow
    #[command(after_help = "Example: orchctl schema workflow > workflow.schema.json")]
    Workflow,
    /// A plan, as the worker orchestrator makes it and edit takes it
    #[command(after_help = "Example: orchctl schema plan")]
    Plan,
    /// The answer of a worker that keeps to the result contract
    #[command(after_help = "Example: orchctl schema result")]
    Result,
    /// The verdict of a worker that reviews
    #[command(after_help = "Example: orchctl schema review")]
    Review,
    /// The one answer of a planned run
    #[command(after_help = "Example: orchctl schema synthesis")]
    Synthesis,
}

/// Flags of `schema output`.
#[derive(Debug, Args)]
pub(crate) struct OutputKind {
    /// Kind of value
    #[arg(value_name = "KIND")]
    pub(crate) kind: Option<String>,
}

/// Flags of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bash        echo 'source <(orchctl completions bash)' >> ~/.bashrc
  zsh         echo 'source <(orchctl completions zsh)' >> ~/.zshrc
  fish        orchctl completions fish > ~/.config/fish/completions/orchctl.fish

The script asks orchctl itself for every word, so it never has to be made again. Names of runs, agents and workers come
from the coordinator if it answers within 150 ms.")]
pub(crate) struct CompletionsArgs {
    /// Shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Shells with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
    /// Elvish
    Elvish,
    /// `PowerShell`
    Powershell,
}

/// Flags of `help`.
#[derive(Debug, Args)]
#[command(after_help = "Examples: orchctl help agents drain, orchctl help E0405, orchctl help outcomes")]
pub(crate) struct HelpArgs {
    /// Command, code of an error such as E0405, outcome such as rate_limited, or: outcomes, errors
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: Vec<String>,
}
