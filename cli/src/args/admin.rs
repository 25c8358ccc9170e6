//! Flags of `admin`: what the coordinator keeps, copied, given back and made smaller.
//! Knows words; refuses to know what a file holds.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse;

/// Flags of `admin`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl admin backup /backups/orch.orch")]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    pub(crate) command: Option<AdminCommand>,
}

impl AdminArgs {
    /// Whether it asks something and prints the answer, without moving what is kept.
    pub(crate) fn is_quick(&self) -> bool {
        matches!(self.command, None | Some(AdminCommand::Status))
    }

    /// Whether it changes what the coordinator keeps.
    pub(crate) fn writes(&self) -> bool {
        match &self.command {
            None | Some(AdminCommand::Status | AdminCommand::Backup(_) | AdminCommand::Export(_)) => false,
            Some(AdminCommand::Restore(args) | AdminCommand::Import(args)) => !args.check,
            Some(AdminCommand::Compact) => true,
        }
    }
}

/// What can be done with what the coordinator keeps.
#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// What the data directory holds, and what wants attention
    #[command(after_help = "Example: orchctl admin status -o json")]
    Status,
    /// Copy everything the coordinator keeps into one file; serving goes on meanwhile
    #[command(after_help = "\
Examples:
  orchctl admin backup
  orchctl admin backup - | ssh vault 'cat > orch-monday.orch'

The file holds prompts, answers and transcripts. It is written as FILE.part, readable by its owner alone, and gets its
name once it is whole.")]
    Backup(CopyArgs),
    /// Replace everything the coordinator keeps by a backup
    #[command(after_help = "\
Examples:
  orchctl admin restore orch-backup-9f3c2a71-20261120T213000Z.orch --check
  orchctl admin restore orch-backup-9f3c2a71-20261120T213000Z.orch

What the coordinator held is moved aside, not deleted. It starts anew, which takes seconds; agents come back by
themselves. docs/operations.md says what becomes of running work.")]
    Restore(GiveBackArgs),
    /// Write the records alone as lines of JSON, for people and programs
    #[command(after_help = "\
Examples:
  orchctl admin export records.jsonl
  orchctl admin export - | head -1 | jq .

The first line says version, cluster and epoch, the last one checks the others; keys and values are in hexadecimal. Prompts
and answers over 4 KiB, files and transcripts are not in it: for a copy to go back to, take a backup.")]
    Export(CopyArgs),
    /// Replace the coordinator's records by an export
    #[command(after_help = "Example: orchctl admin import records.jsonl --check")]
    Import(GiveBackArgs),
    /// Start anew on a compacted store; takes seconds, agents come back by themselves
    #[command(after_help = "Example: orchctl admin compact")]
    Compact,
}

/// Flags of `admin backup` and `admin export`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// File, or - for stdout; without it a name made of cluster and moment, in this directory
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Replace a file of that name
    #[arg(long)]
    pub(crate) force: bool,
}

/// Flags of `admin restore` and `admin import`.
#[derive(Debug, Args)]
pub(crate) struct GiveBackArgs {
    /// File, or - for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only check it: nothing is replaced
    #[arg(long)]
    pub(crate) check: bool,
    /// Take the copy of another cluster, named by its id
    #[arg(long, value_name = "ID", value_parser = parse::cluster_id)]
    pub(crate) cluster: Option<[u8; 16]>,
}
