//! The agent of orch: a daemon on a host that dials the coordinator, runs attempts and streams them back.
//! It knows how to start, watch and end processes and how to keep what they say until the coordinator has
//! it; it decides nothing about runs, queues or retries.
//!
//! Some subcommands are hidden: every program that runs attempts must hand them to [`run_hidden`] before it
//! does anything else, because the process that forks supervisors must have one thread.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::config::{Cli, Command, Config};
use crate::credentials::tool;
use crate::reexec::SelfExe;
use crate::sandbox::init::{INIT_COMMAND, init};
use crate::sandbox::namespaces::{TRY_COMMAND, try_it};
use crate::supervisor::child::{CHILD_COMMAND, become_program};
use crate::supervisor::fork_server::{self, FORK_SERVER_COMMAND};

pub mod adoption;
pub mod artifacts;
pub mod assembly;
pub mod beneath;
pub mod blocking;
pub mod boottime;
pub mod causes;
pub mod config;
pub mod credentials;
pub mod daemon;
mod failpoint;
pub mod gates;
pub mod gateway;
pub mod homes;
pub mod host;
pub mod inputs;
pub mod kernel;
pub mod limits;
pub mod procfs;
pub mod publish;
pub mod reexec;
pub mod runner;
pub mod sandbox;
pub mod secret;
pub mod serve;
pub mod session;
pub mod spool;
pub mod supervisor;
pub mod telemetry;
pub mod tree;
pub mod workspaces;

/// Threads of the daemon: one for its loop and one for TLS; everything heavy is in other processes.
const RUNTIME_THREADS: usize = 2;

/// How long what is slow beside the loop may take at the end: enough for a small file, such as a login that comes back.
const LAST_WORK: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs one of the hidden subcommands to its end, if that is what `args` asks for. `args` begins with the
/// program's name.
#[must_use]
pub fn run_hidden(args: &[OsString]) -> Option<ExitCode> {
    let rest = || args.iter().skip(2).cloned();
    match args.get(1)?.to_str()? {
        FORK_SERVER_COMMAND => Some(fork_server::serve()),
        CHILD_COMMAND => Some(become_program(rest())),
        INIT_COMMAND => Some(init(rest())),
        TRY_COMMAND => Some(try_it(rest())),
        _ => None,
    }
}

/// The whole program `orch-agent`. `args` begins with the program's name.
pub fn main_with_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(code) = run_hidden(&args) {
        return code;
    }
    #[cfg(all(feature = "failpoints", debug_assertions))]
    let _failpoints = failpoint::armed::arm();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(refusal) => {
            // Where help cannot be written, nothing can.
            let _ = refusal.print();
            return ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = Config::resolve(cli.flags)?;
    match cli.command {
        None | Some(Command::Run) => {}
        Some(Command::Login(args)) => return tool::login(&config, &args),
        Some(Command::Pools(args)) => return tool::pools(&config, &args),
    }
    telemetry::start(&config.log)?;
    // Credentials pass through it: no task may look into this process, and no core file may hold them.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    orch_certs::install_ring();
    let agent = assembly::assemble(&config, SelfExe::hold()?)?;
    for warning in &agent.warnings {
        tracing::warn!("{warning}");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(RUNTIME_THREADS).build()?;
    let served = runtime.block_on(serve::serve(&config, agent));
    leave_behind(runtime);
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Ends the runtime without waiting for what is slow beside the loop: all of it can break off at any time, and the next
/// start of the agent, which attempts wait for, waits for this process.
fn leave_behind(runtime: tokio::runtime::Runtime) {
    runtime.shutdown_timeout(LAST_WORK);
}

#[expect(clippy::print_stderr, reason = "logging may not have begun when this is said")]
fn report(error: &anyhow::Error) {
    eprintln!("orch-agent: {error:#}");
}

#[cfg(test)]
mod tests {
    /// Seen as an agent that took as long to leave as a large directory took to be measured.
    #[test]
    fn what_is_slow_does_not_keep_an_agent_from_leaving() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (began, is_up) = std::sync::mpsc::channel();
        let mut slow = tokio::task::JoinSet::new();
        slow.spawn_blocking_on(
            move || {
                began.send(()).unwrap();
                wait.recv_timeout(std::time::Duration::from_secs(60)).is_ok()
            },
            runtime.handle(),
        );
        is_up.recv().unwrap();
        let before = std::time::Instant::now();
        super::leave_behind(runtime);
        assert!(before.elapsed() < std::time::Duration::from_secs(30));
        drop(go_on);
    }
}
