//! Starting the supervised program: its own process group, its pipes, and a death together with its
//! supervisor. The request to die with the parent must be made by the child itself and std offers no safe place for it
//! before `execve`. Whoever makes a namespace for the program makes that request too; without one a short-lived copy of
//! this program stands between the two and does.
//! Knows no limits and no protocol.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal,
};

use crate::causes::one_line;
use crate::sandbox::confine::{self, Handed, become_confined, limit_resources};
use crate::sandbox::namespaces::{self, Given};
use crate::sandbox::{Plan, fds, places};

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

/// The ends of a child's pipes that it gets itself.
struct Theirs {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The other ends, none of which blocks.
struct Ours {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Starts the child of `spec`. The variables of its `gateway` stand above all others.
///
/// # Errors
/// When it cannot be started. That the program itself could not be executed is told by the [verdict](Program::verdict)
/// once the child ended.
pub fn start(
    spec: &SuperviseSpec,
    secrets: &Secrets,
    gateway: &BTreeMap<String, String>,
) -> io::Result<Child> {
    limit_resources()?;
    let (reports, report) = channel()?;
    let (ours, theirs) = pipes(&spec.input)?;
    let plan = spec.sandbox.as_ref();
    let is_namespaced = plan.is_some_and(|plan| plan.bwrap.is_some());
    let has_secret = *secrets != Secrets::default() || !gateway.is_empty();
    let pid = match plan.filter(|plan| plan.by_itself && !has_secret) {
        Some(plan) => forked(spec, plan, report, theirs)?,
        None => executed(spec, |command| command.envs(&secrets.env).envs(gateway), report, theirs)?,
    };
    let Ours { stdin, stdout, stderr } = ours;
    Ok(Child {
        pid: pid.as_raw_nonzero().get(),
        pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        stdin,
        stdout,
        stderr,
        program: Program::new(pid.as_raw_nonzero().get(), is_namespaced, reports),
    })
}

/// The child that this process makes of itself.
fn forked(spec: &SuperviseSpec, plan: &Plan, report: OwnedFd, theirs: Theirs) -> io::Result<Pid> {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).env_clear().envs(&spec.env).env(MARK_VARIABLE, &spec.id).process_group(0);
    let search_path = spec.env.get("PATH").map_or("", String::as_str);
    let also = places::of_program(&spec.program, search_path, None, &plan.hidden);
    let Theirs { stdin, stdout, stderr } = theirs;
    namespaces::start(plan, &also, &spec.cwd, command, Given { report, stdin, stdout, stderr })
}

/// The child that begins as another program, or as this one anew. `with` adds what only it may hold.
fn executed(
    spec: &SuperviseSpec,
    with: impl FnOnce(&mut Command) -> &mut Command,
    report: OwnedFd,
    theirs: Theirs,
) -> io::Result<Pid> {
    let exe = File::open("/proc/self/exe")?;
    let within = namespaced(spec, &report, &exe, &theirs)?;
    let mut command = within.map_or_else(|| copy(spec, &report, &theirs), Ok)?;
    command.args(&spec.args).env_clear().envs(&spec.env);
    with(&mut command)
        .env(MARK_VARIABLE, &spec.id)
        .current_dir(&spec.cwd)
        .process_group(0)
        .stderr(theirs.stderr);
    // Nothing else is started by this process, which has one thread so far.
    fds::keep(&report)?;
    let child = command.spawn().map_err(|error| {
        let program = command.get_program().display();
        io::Error::new(error.kind(), format!("cannot execute {program}: {error}"))
    })?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("a child without a pid"))
}

fn pipes(input: &Input) -> io::Result<(Ours, Theirs)> {
    let (stdin, their_stdin) = match input {
        Input::Closed => (None, OwnedFd::from(File::open("/dev/null")?)),
        Input::Conversation { .. } => {
            let (reader, writer) = io::pipe()?;
            (Some(OwnedFd::from(writer)), reader.into())
        }
    };
    let ((stdout, their_stdout), (stderr, their_stderr)) = (io::pipe()?, io::pipe()?);
    let ours = Ours { stdin, stdout: stdout.into(), stderr: stderr.into() };
    for pipe in ours.stdin.iter().chain([&ours.stdout, &ours.stderr]) {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    let theirs = Theirs { stdin: their_stdin, stdout: their_stdout.into(), stderr: their_stderr.into() };
    Ok((ours, theirs))
}

/// The program that makes the namespaces of the child; `None` where it gets none. It asks by itself to die with this
/// process, later than this process could have died: the first process inside makes sure of that.
fn namespaced(
    spec: &SuperviseSpec,
    report: &OwnedFd,
    exe: &File,
    theirs: &Theirs,
) -> io::Result<Option<Command>> {
    let Some(plan) = &spec.sandbox else { return Ok(None) };
    let handed = Handed {
        report: report.as_raw_fd(),
        exe: exe.as_raw_fd(),
        stdin: theirs.stdin.as_raw_fd(),
        stdout: theirs.stdout.as_raw_fd(),
    };
    let search_path = spec.env.get("PATH").map_or("", String::as_str);
    let Some(mut command) = confine::namespaced(plan, (&spec.program, search_path, &spec.cwd), handed)?
    else {
        return Ok(None);
    };
    fds::keep(exe)?;
    fds::keep(&theirs.stdin)?;
    fds::keep(&theirs.stdout)?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Some(command))
}

/// The copy that becomes the child.
fn copy(spec: &SuperviseSpec, report: &OwnedFd, theirs: &Theirs) -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(CHILD_COMMAND)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(report.as_raw_fd().to_string())
        .arg(serde_json::to_string(&spec.sandbox)?)
        .arg(&spec.program)
        .stdin(theirs.stdin.try_clone()?)
        .stdout(theirs.stdout.try_clone()?);
    Ok(command)
}

/// The copy: arranges to die with its parent, then confines itself and becomes the program. Returns only when it cannot.
pub fn become_program(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (parent, report) = (args.next(), args.next().and_then(|text| text.to_str()?.parse::<RawFd>().ok()));
    let (Some(parent), Some(report), Some(plan), Some(program)) = (parent, report, args.next(), args.next())
    else {
        return ExitCode::from(NOT_EXECUTED);
    };
    // Opened again, as a file that the program does not inherit.
    let Ok(pipe) = OpenOptions::new().write(true).open(fds::path(report)) else {
        return ExitCode::from(NOT_EXECUTED);
    };
    let why = match prepare(&parent, &plan, report) {
        Ok(plan) => match become_confined(plan.as_ref(), &program, args.collect()) {
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
    fds::close(report)?;
    Ok(serde_json::from_slice(plan.as_encoded_bytes())?)
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
