//! Carries a plan out: limits that always hold, then bubblewrap, which the supervisor starts itself, or landlock in its
//! place, under which a copy of this program puts itself and then becomes the child.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use thiserror::Error;

use super::init::INIT_COMMAND;
use super::mounts::{arguments, namespaces};
use super::rules::{RestrictError, Rules};
use super::{Plan, fds, places};

/// Most open files of one process; a program that needs more has lost its way.
const MOST_FILES: u64 = 65_536;

/// Largest file in bytes: a disk is not filled by one runaway file.
const LARGEST_FILE: u64 = 64 * 1024 * 1024 * 1024;

/// Why the program did not take over.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// Something of the system.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Landlock.
    #[error(transparent)]
    Landlock(#[from] RestrictError),
    /// The program cannot be executed.
    #[error("cannot execute {}", program.display())]
    Execute {
        /// The program.
        program: OsString,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Limits of this process and of every child it starts, confined or not. The number of processes is not limited: the
/// kernel counts them per user, so one attempt would use up what another needs.
///
/// # Errors
/// When the kernel refuses.
pub fn limit_resources() -> io::Result<()> {
    // A core file would hold the credentials.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    lower(Resource::Nofile, MOST_FILES)?;
    lower(Resource::Fsize, LARGEST_FILE)?;
    Ok(())
}

fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let now = getrlimit(resource);
    let least = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    Ok(setrlimit(resource, Rlimit { current: least(now.current), maximum: least(now.maximum) })?)
}

/// Becomes `program`, confined as `plan` says but for its namespaces.
///
/// # Errors
/// See [`ConfineError`]; nothing runs then.
pub fn become_confined(
    plan: Option<&Plan>,
    program: &OsString,
    args: Vec<OsString>,
) -> Result<Infallible, ConfineError> {
    let Some(plan) = plan else {
        give_up_privileges().map_err(failed("give up privileges"))?;
        return Err(execute(Command::new(program).args(args), program));
    };
    let also = of_program(plan, Path::new(program), &std::env::var("PATH").unwrap_or_default());
    give_up_privileges().map_err(failed("give up privileges"))?;
    give_up_capabilities().map_err(failed("give up capabilities"))?;
    if plan.landlock {
        Rules::alone(plan, &also).restrict()?;
    }
    Err(execute(Command::new(program).args(args), program))
}

/// No program that is started from now on gets a privilege that this process does not have.
pub(super) fn give_up_privileges() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// With privileges gone for good, a program of root does not get them back.
pub(super) fn give_up_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// What the first process of a PID namespace is handed, by number: all of it must stay open for the program that makes the
/// namespace, and for nothing that is started later.
#[derive(Debug, Clone, Copy)]
pub struct Handed {
    /// Where it tells how the program begins and ends.
    pub report: RawFd,
    /// This very program.
    pub exe: RawFd,
    /// Standard input of the program. It and the output go past whoever stands between, so that their ends are seen when
    /// the program closes them.
    pub stdin: RawFd,
    /// Its standard output.
    pub stdout: RawFd,
}

/// The command that makes the namespaces of `plan` and starts `program` in them; `None` where it has none. Its arguments
/// are still to be added.
///
/// # Errors
/// When a path is not UTF-8.
pub fn namespaced(
    plan: &Plan,
    (program, search_path, cwd): (&Path, &str, &Path),
    handed: Handed,
) -> io::Result<Option<Command>> {
    let Some(bwrap) = &plan.bwrap else { return Ok(None) };
    let rules = plan.landlock.then(|| Rules::inside(plan));
    let Handed { report, exe, stdin, stdout } = handed;
    let mut command = Command::new(&bwrap.program);
    command
        .args(namespaces())
        .args(arguments(plan, &of_program(plan, program, search_path)))
        .arg("--chdir")
        .arg(cwd)
        .arg("--")
        .arg(fds::path(exe))
        .arg(INIT_COMMAND)
        .arg(format!("{report},{exe},{stdin},{stdout}"))
        .arg(serde_json::to_string(&rules)?)
        .arg(program);
    Ok(Some(command))
}

/// More places to read.
fn of_program(plan: &Plan, program: &Path, search_path: &str) -> Vec<PathBuf> {
    let own_exe = fs::read_link("/proc/self/exe").ok();
    places::of_program(program, search_path, own_exe.as_deref(), &plan.hidden)
}

fn execute(command: &mut Command, program: &OsString) -> ConfineError {
    ConfineError::Execute { program: program.clone(), source: command.exec() }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ConfineError {
    move |source| ConfineError::Io { what, source }
}
