//! Carries a plan out, as the copy of this program between the supervisor and the child: limits that always hold, then
//! bubblewrap, or landlock in its place. Ends in another program, or in an error.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::stdio::{dup2_stdin, dup2_stdout};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use thiserror::Error;

use super::init::INIT_COMMAND;
use super::mounts::{arguments, namespaces};
use super::rules::{RestrictError, Rules};
use super::{Bwrap, Plan, fds, places};

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

/// Limits of every child, confined or not. The number of processes is not limited: the kernel counts them per user, so
/// one attempt would use up what another needs.
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

/// Becomes `program`, confined as `plan` says. `report` is a descriptor by which the first process inside tells how the
/// program begins and ends; it stays open only for that one.
///
/// # Errors
/// See [`ConfineError`]; nothing runs then.
pub fn become_confined(
    plan: Option<&Plan>,
    report: RawFd,
    program: &OsString,
    args: Vec<OsString>,
) -> Result<Infallible, ConfineError> {
    let Some(plan) = plan else {
        set_no_new_privs(true).map_err(|error| failed("give up privileges")(error.into()))?;
        return Err(execute(Command::new(program).args(args), program));
    };
    let also = places::of_program(
        Path::new(program),
        &std::env::var("PATH").unwrap_or_default(),
        fs::read_link("/proc/self/exe").ok().as_deref(),
        &plan.hidden,
    );
    if let Some(bwrap) = &plan.bwrap {
        let mut command = within(bwrap, plan, &also, report).map_err(failed("prepare the sandbox"))?;
        return Err(execute(command.arg(program).args(args), &bwrap.program.clone().into_os_string()));
    }
    set_no_new_privs(true).map_err(|error| failed("give up privileges")(error.into()))?;
    give_up_capabilities().map_err(failed("give up capabilities"))?;
    if plan.landlock {
        Rules::alone(plan, &also).restrict()?;
    }
    Err(execute(Command::new(program).args(args), program))
}

/// With privileges gone for good, a program of root does not get them back.
fn give_up_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Bubblewrap with the first process inside. Standard input and output go past it, so that their ends are seen
/// when the program closes them.
fn within(bwrap: &Bwrap, plan: &Plan, also: &[std::path::PathBuf], report: RawFd) -> io::Result<Command> {
    let exe = fds::keep(fs::File::open("/proc/self/exe")?)?;
    let (stdin, stdout) = (fds::keep(io::stdin())?, fds::keep(io::stdout())?);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    let rules = plan.landlock.then(|| Rules::inside(plan));
    let mut command = Command::new(&bwrap.program);
    command
        .args(namespaces())
        .args(arguments(plan, also))
        .arg("--chdir")
        .arg(std::env::current_dir()?)
        .arg("--")
        .arg(fds::path(exe))
        .arg(INIT_COMMAND)
        .arg(format!("{report},{exe},{stdin},{stdout}"))
        .arg(serde_json::to_string(&rules)?);
    Ok(command)
}

fn execute(command: &mut Command, program: &OsString) -> ConfineError {
    ConfineError::Execute { program: program.clone(), source: command.exec() }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ConfineError {
    move |source| ConfineError::Io { what, source }
}
