//! Puts an agent together from its settings: directories, spool, runners, and the end of whatever its former
//! self left running. Starts no session; whoever holds the result does.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use crate::adoption::{self, Found};
use crate::boottime::boot_id;
use crate::config::Config;
use crate::credentials::Pools;
use crate::credentials::health::Checker;
use crate::daemon::Supplies;
use crate::homes::{HomeError, Homes};
use crate::host::{self, HostProbe};
use crate::limits::Broker;
use crate::publish::journal::Journal;
use crate::reexec::SelfExe;
use crate::runner::Workspace;
use crate::runner::claude::{ClaudeRunner, ClaudeSettings};
use crate::runner::command::{AllowedPrograms, CommandRunner, NotFound};
use crate::runner::environment::HostEnvironment;
use crate::runner::note::WorkNote;
use crate::runner::program;
use crate::runner::publish::PublishRunner;
use crate::runner::share::OutputShare;
use crate::sandbox::{self, Sandbox};
use crate::secret::{SecretError, read_key_file};
use crate::spool::file::FileSpool;
use crate::spool::{Spool as _, SpoolError};
use crate::supervisor::client::Launcher;
use crate::supervisor::client::leftovers::Leftover;
use crate::workspaces::Workspaces;
use crate::workspaces::checks::{self, Unusable};

/// An agent without its session.
#[derive(Debug)]
pub struct Assembled {
    /// Directories of conversations. Holds the lock on the data directory.
    pub homes: Arc<Homes>,
    /// What must outlive the agent.
    pub spool: FileSpool,
    /// Runs the CLI.
    pub claude: ClaudeRunner,
    /// The CLI, if it was found.
    pub claude_program: Option<PathBuf>,
    /// Runs listed programs; absent when none is listed.
    pub command: Option<CommandRunner>,
    /// Publishes into workspaces; absent when there is none.
    pub publish: Option<PublishRunner>,
    /// Stores for what attempts are given and hand over; the workspaces among them.
    pub supplies: Supplies,
    /// Credential pools.
    pub pools: Pools,
    /// Limits and money of all attempts.
    pub limits: Broker,
    /// What stands between attempts and the host.
    pub sandbox: Sandbox,
    /// Attempts at a time.
    pub slots: u32,
    /// Figures of the host.
    pub probe: HostProbe,
    /// Attempts of a former process that are gone on with.
    pub found: Found,
    /// Attempts that were found running and were ended.
    pub leftovers: Vec<Leftover>,
    /// Missing or weakened protections and other facts for people.
    pub warnings: Vec<String>,
}

/// Why an agent cannot start.
#[derive(Debug, Error)]
pub enum AssemblyError {
    /// A directory cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The journal cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The key file cannot be used.
    #[error(transparent)]
    Key(#[from] SecretError),
    /// Attempts cannot be confined, and must be.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Refusal),
    /// A listed program is not there.
    #[error(transparent)]
    Program(#[from] NotFound),
    /// A workspace cannot be offered.
    #[error(transparent)]
    Workspace(#[from] Unusable),
    /// Something else on this host is in the way.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Puts the agent together. `exe` is the program that has the hidden subcommands. Blocks, up to some seconds
/// for each supervisor that has to be ended.
///
/// # Errors
/// See [`AssemblyError`]. Nothing of the agent runs then.
pub fn assemble(config: &Config, exe: SelfExe) -> Result<Assembled, AssemblyError> {
    let homes = Arc::new(Homes::open(&config.data_dir)?);
    if let Some(file) = &config.api_key_file {
        read_key_file(file)?;
    }
    let host_env = HostEnvironment::of_this_process();
    let allowed = AllowedPrograms::find(&config.allow_command, host_env.path())?;
    let launcher = Launcher::new(exe, config.sockets_dir(), config.data_dir.clone())
        .map_err(|source| AssemblyError::Io { what: "use the runtime directory", source })?;
    let (spool, torn) = FileSpool::open(&config.data_dir.join("spool"), &boot_id())?;
    if torn.torn_bytes > 0 {
        tracing::warn!(bytes = torn.torn_bytes, "the end of the spool was torn and is dropped");
    }
    let claude_program = find_cli(config);
    let is_run_here = |work: &WorkNote| match work {
        WorkNote::Claude(_) => claude_program.is_some(),
        WorkNote::Command => !allowed.is_empty(),
    };
    let (found, leftovers) = adoption::find(spool.inventory(), &homes, &launcher, is_run_here)
        .map_err(|source| AssemblyError::Io { what: "look for supervisors", source })?;
    for left in &leftovers {
        tracing::warn!(
            task = left.reference,
            was_running = left.was_running,
            "ended what a former agent left"
        );
    }
    let pools = Pools::open(&config.pools, &config.data_dir, checker(config))?;
    pools.sweep(&homes, &found.conversations());
    let probe = HostProbe::new(config.data_dir.clone());
    let offered = checks::find(&config.workspaces, &places(config))?;
    let sandbox = Sandbox::probe(confinement(config, (launcher.program(), host_env.path()), &offered))?;
    checks::refuse_uncovering(&offered, &sandbox)?;
    let workspaces = Workspaces::new(offered);
    let supplies = Supplies::open(&config.data_dir, workspaces.clone())
        .map_err(|source| AssemblyError::Io { what: "use the directories of inputs and files", source })?;
    let publish = publisher(config, &workspaces)?;
    let share = OutputShare::new(config.limits.agent_output_bytes);
    let limits = Broker::default();
    let settings = ClaudeSettings {
        program: config.claude_bin.clone(),
        api_base_url: config.api_base_url.clone(),
        host: host_env.clone(),
        pools: pools.clone(),
        sandbox: sandbox.clone(),
        limits: config.limits,
        share: share.clone(),
        broker: limits.clone(),
        record_exchanges: config.record_exchanges,
    };
    let claude = ClaudeRunner::new(launcher.clone(), Arc::clone(&homes), settings).allowing(allowed.clone());
    let command = (!allowed.is_empty())
        .then(|| CommandRunner::new(launcher, Arc::clone(&homes), allowed, host_env))
        .map(|runner| runner.bounded(sandbox.clone(), config.limits, share));
    Ok(Assembled {
        pools,
        limits,
        claude,
        command,
        publish,
        supplies,
        slots: config.slots.unwrap_or_else(|| host::default_slots(&probe.figures())),
        warnings: warnings(config, &sandbox, claude_program.is_some()),
        sandbox,
        claude_program,
        homes,
        spool,
        probe,
        found,
        leftovers,
    })
}

/// The CLI, if it is there.
#[must_use]
pub fn find_cli(config: &Config) -> Option<PathBuf> {
    program::find(&config.claude_bin, HostEnvironment::of_this_process().path())
}

/// Asks the CLI about credentials.
#[must_use]
pub fn checker(config: &Config) -> Checker {
    // Read only by the stand-in that takes the CLI's place in rehearsals and tests.
    let env = std::env::var("ORCH_STANDIN_REQUIRE_AUTH")
        .map(|value| ("ORCH_STANDIN_REQUIRE_AUTH".to_owned(), value));
    Checker {
        program: find_cli(config),
        path: HostEnvironment::of_this_process().path().to_owned(),
        env: env.into_iter().collect(),
        ..Checker::default()
    }
}

/// What publishes into workspaces, where there is one. What a crash left unfinished in them is removed.
fn publisher(config: &Config, workspaces: &Workspaces) -> Result<Option<PublishRunner>, AssemblyError> {
    if workspaces.is_empty() {
        return Ok(None);
    }
    let journal = Journal::open(&config.data_dir.join("published"), workspaces, SystemTime::now())
        .map_err(|source| AssemblyError::Io { what: "use the journal of publications", source })?;
    Ok(Some(PublishRunner::new(journal)))
}

/// Data, certificates and credentials of this agent.
fn places(config: &Config) -> Vec<PathBuf> {
    let mut places = vec![
        config.data_dir.clone(),
        config.runtime_dir.clone(),
        config.tls_key.clone(),
        config.tls_cert.clone(),
        config.tls_ca.clone(),
    ];
    places.extend(config.pools.iter().flat_map(|pool| pool.source.places()));
    places
}

/// What attempts must not see of this agent.
fn confinement(
    config: &Config,
    (exe, search_path): (PathBuf, &str),
    workspaces: &[Workspace],
) -> sandbox::Settings {
    let mut hidden = places(config);
    hidden.extend(config.status_file.iter().chain(&config.file).cloned());
    hidden.extend(config.sandbox.hidden.iter().cloned());
    sandbox::Settings {
        mode: config.sandbox.mode,
        hidden,
        readable: config.sandbox.readable.clone(),
        workspaces: workspaces.iter().map(|workspace| workspace.dir.clone()).collect(),
        search_path: search_path.to_owned(),
        exe: Some(exe),
    }
}

fn warnings(config: &Config, sandbox: &Sandbox, has_cli: bool) -> Vec<String> {
    let mut warnings = sandbox.missing();
    if !config.workspaces.is_empty() && !sandbox.is_in_force() {
        warnings.push("workspaces are not read-only: there is no sandbox that holds tasks off".to_owned());
    }
    if !has_cli {
        warnings.push(format!("no CLI: {} was not found", config.claude_bin));
    }
    if has_cli && config.pools.is_empty() {
        warnings.push(
            "no credential: tasks for Claude will fail; start with --api-key-file or --pool".to_owned(),
        );
    }
    if rustix::process::geteuid().is_root() {
        warnings.push("runs as root".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use crate::config::Flags;

    use super::*;

    fn config(dir: &std::path::Path) -> Config {
        Config::resolve(Flags { data_dir: Some(dir.join("data")), ..Flags::default() }).unwrap()
    }

    #[test]
    fn an_agent_is_put_together_and_names_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.claude_bin = "no-such-cli".to_owned();
        let agent = assemble(&config, SelfExe::hold().unwrap()).unwrap();
        assert!(agent.slots >= 1 && agent.command.is_none() && agent.claude_program.is_none());
        assert_eq!(agent.leftovers, []);
        assert!(agent.warnings.iter().any(|warning| warning == "no CLI: no-such-cli was not found"));
    }

    #[test]
    fn workspaces_are_offered_under_their_real_directories() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        let real = std::fs::canonicalize(dir.path()).unwrap().join("studio");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        config.workspaces = vec![Workspace { name: "dance".into(), dir: dir.path().join("link") }];
        let agent = assemble(&config, SelfExe::hold().unwrap()).unwrap();
        let offered = agent.supplies.workspaces();
        assert_eq!((offered.all()[0].dir.clone(), agent.publish.is_some()), (real, true));
        drop(agent);
        config.workspaces[0].dir = dir.path().to_owned();
        let error = assemble(&config, SelfExe::hold().unwrap()).unwrap_err().to_string();
        assert!(error.contains("holds or lies in") && error.contains("data"), "{error}");
    }

    #[test]
    fn a_second_agent_on_the_same_data_and_a_program_that_is_not_there_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        let first = assemble(&config, SelfExe::hold().unwrap()).unwrap();
        let error = assemble(&config, SelfExe::hold().unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("another agent already uses "), "{error}");
        drop(first);
        config.allow_command = vec!["no-such-program".to_owned()];
        let error = assemble(&config, SelfExe::hold().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the program \"no-such-program\" was not found");
    }
}
