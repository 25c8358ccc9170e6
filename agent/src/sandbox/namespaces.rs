//! Makes the namespaces of a child without another program's help: two copies of the supervisor, of which one waits outside
//! and the other is the first process inside. For a child without secrets: a copy holds in memory what the supervisor
//! holds, and the first process lives among the child's processes. Knows no limit and no ladder.
//!
//! ```text
//! supervisor ──fork──▶ orch-sandbox ──fork──▶ orch-first (PID 1, its own mounts, landlock) ──▶ program
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, getegid, geteuid, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, waitpid,
};
use rustix::thread::{CapabilitySet, capabilities};

use crate::causes::one_line;
use crate::kernel::{Forked, fork};
use crate::supervisor::report::{Reporter, Word};

use super::confine::{give_up_capabilities, give_up_privileges};
use super::init::{as_code, finish};
use super::mounts::{Mount, wanted};
use super::rules::Rules;
use super::view::lay_out;
use super::{Plan, fds};

/// Hidden subcommand: tries on this host what [`start`] does, with a program that does nothing.
pub const TRY_COMMAND: &str = "__sandbox-try";

/// Exit code when the program was not executed; the shell's habit.
const NOT_EXECUTED: u8 = 127;

/// What the program is given.
#[derive(Debug)]
pub struct Given {
    /// Where the first process tells how the program begins and ends.
    pub report: OwnedFd,
    /// Standard input of the program. It and the output go past whoever stands between, so that their ends are seen when
    /// the program closes them.
    pub stdin: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error, which those between have too.
    pub stderr: OwnedFd,
}

/// Starts `command` in the namespaces of `plan`, in the directory `cwd`, and gives the process that stands outside; that one
/// is the leader of a process group and dies with its parent. `also`: more places to read. This process must have one thread.
///
/// # Errors
/// When it cannot be copied. Whatever fails later is told by `report`.
pub fn start(plan: &Plan, also: &[PathBuf], cwd: &Path, command: Command, given: Given) -> io::Result<Pid> {
    let inside = Inside {
        mounts: wanted(plan, also),
        rules: plan.landlock.then(|| Rules::inside(plan)),
        cwd: cwd.to_owned(),
        command,
    };
    let parent = rustix::process::getpid();
    match fork()? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            // Nothing of what the supervisor would do may be done twice, whatever happens here.
            let code = catch_unwind(AssertUnwindSafe(|| outside(parent, inside, given)));
            std::process::exit(i32::from(code.unwrap_or(NOT_EXECUTED)))
        }
    }
}

struct Inside {
    mounts: Vec<Mount>,
    rules: Option<Rules>,
    cwd: PathBuf,
    command: Command,
}

/// The process outside: makes the namespaces, and waits for the first process in them.
fn outside(parent: Pid, inside: Inside, given: Given) -> u8 {
    let Ok(given) = keep_only(given) else { return NOT_EXECUTED };
    let reporter = Reporter::new(File::from(given.report));
    let pipes = (File::from(given.stdin), File::from(given.stdout));
    match enter(parent) {
        Err(error) => refuse(reporter, &format!("the sandbox could not be made: {error}")),
        Ok(Forked::Child) => first(reporter, inside, pipes),
        Ok(Forked::Parent(first)) => {
            drop((reporter, inside, pipes));
            loop {
                match waitpid(Some(first), WaitOptions::empty()) {
                    Ok(Some((_, status))) => return as_code(status),
                    Ok(None) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return NOT_EXECUTED,
                }
            }
        }
    }
}

/// Leaves nothing open but what is given: what the supervisor listens on must end with the supervisor.
fn keep_only(given: Given) -> io::Result<Given> {
    rustix::stdio::dup2_stderr(&given.stderr)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    fds::close_all_but(&[&given.report, &given.stdin, &given.stdout, &given.stderr])?;
    // It was just closed.
    std::mem::forget(null);
    Ok(given)
}

fn enter(parent: Pid) -> io::Result<Forked> {
    // The group's leader may be asked for its end like any child of the supervisor.
    rustix::process::setpgid(None, None)?;
    rustix::thread::set_name(c"orch-sandbox")?;
    if !capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN) {
        become_master_of_own_users()?;
    }
    let own = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(own)?;
    // Not every kernel has it, and it only hides names.
    let _ = unshare(CloneFlags::CLONE_NEWCGROUP);
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that died before the request was made would never be noticed.
    if getppid() != Some(parent) {
        return Err(io::Error::other("the supervisor is gone"));
    }
    fork()
}

/// A user namespace in which this process has every capability, over nothing but what it makes itself. Its user stays the same.
fn become_master_of_own_users() -> io::Result<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // Files of a process that is not dumpable are root's. This one holds no secret.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// The first process inside: changes what it sees, gives up what it may, starts the program and sees it through.
fn first(mut reporter: Reporter, inside: Inside, (stdin, stdout): (File, File)) -> u8 {
    // One that was gone before it could be asked for hears nobody any more.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || !reporter.is_heard() {
        return NOT_EXECUTED;
    }
    let Inside { mounts, rules, cwd, mut command } = inside;
    if let Err(error) = confine(&mounts, rules.as_ref(), &cwd) {
        return refuse(reporter, &format!("the sandbox could not be made: {error}"));
    }
    match command.stdin(stdin).stdout(stdout).spawn() {
        Ok(child) => {
            // Or its ends of the pipes would stay open here.
            drop(command);
            let pid = i32::try_from(child.id()).unwrap_or_default();
            reporter.say(&Word::Began { pid });
            finish(&mut reporter, pid)
        }
        Err(error) => {
            refuse(reporter, &format!("cannot execute {}: {error}", command.get_program().display()))
        }
    }
}

fn confine(mounts: &[Mount], rules: Option<&Rules>, cwd: &Path) -> Result<(), String> {
    let io = |error: io::Error| error.to_string();
    rustix::thread::set_name(c"orch-first").map_err(|error| io(error.into()))?;
    rustix::process::setsid().map_err(|error| io(error.into()))?;
    lay_out(mounts, rules.is_some()).map_err(|error| one_line(&error))?;
    std::env::set_current_dir(cwd).map_err(|error| format!("cannot enter {}: {error}", cwd.display()))?;
    give_up_privileges().and_then(|()| give_up_capabilities()).map_err(io)?;
    // What happens inside must not be able to speak in our name.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| io(error.into()))?;
    rules.map_or(Ok(()), |rules| rules.restrict().map_err(|error| one_line(&error)))
}

fn refuse(mut reporter: Reporter, why: &str) -> u8 {
    reporter.say(&Word::Failed { why: why.to_owned() });
    NOT_EXECUTED
}

/// Tries it; says on standard error why it does not work.
pub fn try_it(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some(idle) = args.into_iter().next() else { return ExitCode::FAILURE };
    match tried(&idle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where that cannot be said, failing says enough.
            let _ = io::Write::write_all(&mut io::stderr(), format!("{error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn tried(idle: &OsString) -> io::Result<()> {
    let (mut reports, report) = crate::supervisor::report::channel()?;
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let given = Given { report, stdin: null()?, stdout: null()?, stderr: null()? };
    let plan = Plan { landlock: true, ..Plan::default() };
    let mut command = Command::new(idle);
    command.stderr(Stdio::null());
    let outside = start(&plan, &[], Path::new("/"), command, given)?;
    waitpid(Some(outside), WaitOptions::empty())?;
    match reports.words().last() {
        Some(Word::Ended { code: Some(0), .. }) => Ok(()),
        Some(Word::Failed { why }) => Err(io::Error::other(why.clone())),
        Some(Word::Began { .. } | Word::Ended { .. }) | None => {
            Err(io::Error::other("the program in it did not end well"))
        }
    }
}
