//! Starting the supervised program: its own process group, its pipes, and a death together with its
//! supervisor. Between the two stands a short-lived copy of this program, because the request to die with
//! the parent must be made by the child itself and std offers no safe place for it before `execve`.
//! Knows no limits and no protocol.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal,
};

use crate::causes::one_line;
use crate::sandbox::Plan;
use crate::sandbox::confine::{become_confined, limit_resources};
use crate::sandbox::fds;

use super::program::Program;
use super::report::{Reporter, Word, channel};
use super::spec::{Input, MARK_VARIABLE, Secrets, SuperviseSpec};

/// Hidden subcommand of the copy: `__supervise-child PARENT REPORT PLAN PROGRAM ARGS...`, REPORT being a descriptor.
pub const CHILD_COMMAND: &str = "__supervise-child";

/// Exit code of the copy when it could not become the program; the shell's habit.
const NOT_EXECUTED: u8 = 127;

/// A started child and this side of its pipes, all non-blocking.
#[derive(Debug)]
pub struct Child {
    /// Its pid, which is also its process group.
    pub pid: i32,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
    /// Its input, unless it was closed from the start.
    pub stdin: Option<OwnedFd>,
    /// Its output.
    pub stdout: OwnedFd,
    /// Its errors.
    pub stderr: OwnedFd,
    /// The program it becomes or starts.
    pub program: Program,
}

/// Starts the child of `spec`. The variables of its `gateway` stand above all others.
///
/// # Errors
/// When the copy of this program cannot be started. That the program itself could not be executed is told
/// by the [verdict](Program::verdict) once the child ended.
pub fn start(
    spec: &SuperviseSpec,
    secrets: &Secrets,
    gateway: &BTreeMap<String, String>,
) -> io::Result<Child> {
    let stdin = match spec.input {
        Input::Closed => Stdio::null(),
        Input::Conversation { .. } => Stdio::piped(),
    };
    let (reports, report) = channel()?;
    // Nothing else is started by this process, which has one thread so far.
    fcntl_setfd(&report, FdFlags::empty())?;
    let mut child = Command::new("/proc/self/exe")
        .arg(CHILD_COMMAND)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(report.as_raw_fd().to_string())
        .arg(serde_json::to_string(&spec.sandbox)?)
        .arg(&spec.program)
        .args(&spec.args)
        .env_clear()
        .envs(&spec.env)
        .envs(&secrets.env)
        .envs(gateway)
        .env(MARK_VARIABLE, &spec.id)
        .current_dir(&spec.cwd)
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(report);
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let exact = Pid::from_raw(pid).ok_or_else(|| io::Error::other("a child without a pid"))?;
    let missing = || io::Error::other("a pipe of the child is missing");
    let is_namespaced = spec.sandbox.as_ref().is_some_and(|plan| plan.bwrap.is_some());
    let started = Child {
        pid,
        pidfd: pidfd_open(exact, PidfdFlags::empty())?,
        stdin: child.stdin.take().map(OwnedFd::from),
        stdout: child.stdout.take().map(OwnedFd::from).ok_or_else(missing)?,
        stderr: child.stderr.take().map(OwnedFd::from).ok_or_else(missing)?,
        program: Program::new(pid, is_namespaced, reports),
    };
    for pipe in started.stdin.iter().chain([&started.stdout, &started.stderr]) {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    Ok(started)
}

/// The copy: arranges to die with its parent, then becomes the program or what confines it. Returns only when it cannot.
pub fn become_program(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (parent, report) = (args.next(), args.next().and_then(|text| text.to_str()?.parse::<RawFd>().ok()));
    let (Some(parent), Some(report), Some(plan), Some(program)) = (parent, report, args.next(), args.next())
    else {
        return ExitCode::from(NOT_EXECUTED);
    };
    // Opened again, because the one handed down may have to stay open for the program that confines.
    let Ok(pipe) = OpenOptions::new().write(true).open(fds::path(report)) else {
        return ExitCode::from(NOT_EXECUTED);
    };
    let why = match prepare(&parent, &plan, report) {
        Ok(plan) => match become_confined(plan.as_ref(), report, &program, args.collect()) {
            Ok(never) => match never {},
            Err(error) => one_line(&error),
        },
        Err(error) => format!("cannot prepare the child: {error}"),
    };
    Reporter::new(pipe).say(&Word::Failed { why });
    ExitCode::from(NOT_EXECUTED)
}

fn prepare(parent: &OsStr, plan: &OsStr, report: RawFd) -> io::Result<Option<Plan>> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that died before the request was made would never be noticed.
    if !is_child_of(parent) {
        return Err(io::Error::other("the supervisor is gone"));
    }
    limit_resources()?;
    let plan: Option<Plan> = serde_json::from_slice(plan.as_encoded_bytes())?;
    if plan.as_ref().is_none_or(|plan| plan.bwrap.is_none()) {
        fds::close(report)?;
    }
    Ok(plan)
}

fn is_child_of(parent: &OsStr) -> bool {
    getppid().is_some_and(|pid| parent == OsStr::new(&pid.as_raw_nonzero().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_knows_its_parent() {
        let parent = std::os::unix::process::parent_id();
        assert!(is_child_of(OsStr::new(&parent.to_string())));
        assert!(!is_child_of(OsStr::new(&(parent + 1).to_string())));
        assert!(!is_child_of(OsStr::new("")));
    }

    #[test]
    fn missing_arguments_are_no_panic() {
        assert_eq!(become_program([]), ExitCode::from(NOT_EXECUTED));
    }
}
