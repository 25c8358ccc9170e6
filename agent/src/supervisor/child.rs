//! Starting the supervised program: its own process group, its pipes, and a death together with its
//! supervisor. Between the two stands a short-lived copy of this program, because the request to die with
//! the parent must be made by the child itself and std offers no safe place for it before `execve`.
//! Knows no limits and no protocol.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal,
    setrlimit,
};

use super::spec::{Input, MARK_VARIABLE, Secrets, SuperviseSpec};

/// Hidden subcommand of the copy: `__supervise-child PARENT ERROR_FILE PROGRAM ARGS...`.
pub const CHILD_COMMAND: &str = "__supervise-child";

/// Where the copy leaves the reason when it cannot execute the program.
const SPAWN_ERROR_FILE: &str = "spawn-error";

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
}

/// Starts the child of `spec`.
///
/// # Errors
/// When the copy of this program cannot be started. That the program itself could not be executed is told
/// by [`spawn_error`] once the child ended.
pub fn start(spec: &SuperviseSpec, secrets: &Secrets) -> io::Result<Child> {
    let stdin = match spec.input {
        Input::Closed => Stdio::null(),
        Input::Conversation { .. } => Stdio::piped(),
    };
    let mut child = Command::new("/proc/self/exe")
        .arg(CHILD_COMMAND)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(spec.attempt_dir.join(SPAWN_ERROR_FILE))
        .arg(&spec.program)
        .args(&spec.args)
        .env_clear()
        .envs(&spec.env)
        .envs(&secrets.env)
        .env(MARK_VARIABLE, &spec.id)
        .current_dir(&spec.cwd)
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let exact = Pid::from_raw(pid).ok_or_else(|| io::Error::other("a child without a pid"))?;
    let missing = || io::Error::other("a pipe of the child is missing");
    let started = Child {
        pid,
        pidfd: pidfd_open(exact, PidfdFlags::empty())?,
        stdin: child.stdin.take().map(OwnedFd::from),
        stdout: child.stdout.take().map(OwnedFd::from).ok_or_else(missing)?,
        stderr: child.stderr.take().map(OwnedFd::from).ok_or_else(missing)?,
    };
    for pipe in started.stdin.iter().chain([&started.stdout, &started.stderr]) {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    Ok(started)
}

/// Why the program could not be executed, if that is what happened.
#[must_use]
pub fn spawn_error(attempt_dir: &Path) -> Option<String> {
    fs::read_to_string(attempt_dir.join(SPAWN_ERROR_FILE)).ok()
}

/// The copy: arranges to die with its parent, then becomes the program. Returns only when it cannot.
pub fn become_program(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (Some(parent), Some(error_file), Some(program)) = (args.next(), args.next(), args.next()) else {
        return ExitCode::from(NOT_EXECUTED);
    };
    match prepare(&parent) {
        Ok(()) => {
            let error = Command::new(&program).args(args).exec();
            report(&PathBuf::from(error_file), &format!("cannot execute {}: {error}", program.display()))
        }
        Err(error) => report(&PathBuf::from(error_file), &format!("cannot prepare the child: {error}")),
    }
}

fn prepare(parent: &OsStr) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that died before the request was made would never be noticed.
    if !is_child_of(parent) {
        return Err(io::Error::other("the supervisor is gone"));
    }
    // A core file would hold the credentials.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

fn is_child_of(parent: &OsStr) -> bool {
    getppid().is_some_and(|pid| parent == OsStr::new(&pid.as_raw_nonzero().to_string()))
}

fn report(error_file: &Path, text: &str) -> ExitCode {
    // Without this file the end is still seen: exit code 127 and no output.
    let _ = fs::write(error_file, text);
    ExitCode::from(NOT_EXECUTED)
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
    fn the_reason_of_a_failed_start_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(spawn_error(dir.path()), None);
        report(&dir.path().join(SPAWN_ERROR_FILE), "cannot execute x: gone");
        assert_eq!(spawn_error(dir.path()).as_deref(), Some("cannot execute x: gone"));
    }

    #[test]
    fn missing_arguments_are_no_panic() {
        assert_eq!(become_program([]), ExitCode::from(NOT_EXECUTED));
    }
}
