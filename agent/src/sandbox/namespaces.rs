//! Makes the namespaces of a child without another program's help: a copy of the supervisor is the first process inside. For
//! a child without secrets: a copy holds in memory what the supervisor holds, and the first process lives among the child's
//! processes. Knows no limit and no ladder.
//!
//! ```text
//! supervisor ──fork──▶ orch-first (PID 1, its own mounts, landlock) ──▶ program
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
    DumpableBehavior, Pid, Signal, WaitOptions, getegid, geteuid, set_dumpable_behavior,
    set_parent_process_death_signal, waitpid,
};
use rustix::thread::{CapabilitySet, capabilities};

use crate::causes::one_line;
use crate::kernel::{Forked, fork_into, leave};
use crate::supervisor::report::{Reporter, Word};

use super::confine::{give_up_capabilities, give_up_privileges};
use super::init::finish;
use super::mounts::{Mount, wanted};
use super::rules::Rules;
use super::view::lay_out;
use super::{Plan, fds};

/// Hidden subcommand: tries on this host what [`start`] does, with a program that does nothing.
pub const TRY_COMMAND: &str = "__sandbox-try";

/// Exit code when the program was not executed; the shell's habit.
const NOT_EXECUTED: u8 = 127;

/// What an attempt has of its own besides its users.
const OWN: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// What the program is given.
#[derive(Debug)]
pub struct Given {
    /// Where the first process tells how the program begins and ends.
    pub report: OwnedFd,
    /// Standard input of the program. It and the output go past the first process, so that their ends are seen when
    /// the program closes them.
    pub stdin: OwnedFd,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error, which the first process has too.
    pub stderr: OwnedFd,
}

/// Starts `command` in the namespaces of `plan`, in the directory `cwd`, and gives their first process, which dies with its
/// parent. `also`: more places to read. This process must have one thread.
///
/// # Errors
/// When it cannot be copied, or may not make namespaces. Whatever fails later is told by `report`.
pub fn start(plan: &Plan, also: &[PathBuf], cwd: &Path, command: Command, given: Given) -> io::Result<Pid> {
    let inside = Inside {
        mounts: wanted(plan, also),
        rules: plan.landlock.then(|| Rules::inside(plan)),
        cwd: cwd.to_owned(),
        command,
    };
    let is_master = capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN);
    let users = if is_master { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    let me = Me { user: geteuid().as_raw(), group: getegid().as_raw() };
    match fork_into(users | OWN)? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            // Nothing of what the supervisor would do may be done twice, whatever happens here.
            let code = catch_unwind(AssertUnwindSafe(|| first((!is_master).then_some(me), inside, given)));
            leave(code.unwrap_or(NOT_EXECUTED))
        }
    }
}

struct Inside {
    mounts: Vec<Mount>,
    rules: Option<Rules>,
    cwd: PathBuf,
    command: Command,
}

/// Who the supervisor is.
struct Me {
    user: u32,
    group: u32,
}

/// The first process inside: changes what it sees, gives up what it may, starts the program and sees it through.
/// `alone`: who it is to be in a user namespace of its own, where it has one.
fn first(alone: Option<Me>, inside: Inside, given: Given) -> u8 {
    let Ok(given) = keep_only(given) else { return NOT_EXECUTED };
    let mut reporter = Reporter::new(File::from(given.report));
    let (stdin, stdout) = (File::from(given.stdin), File::from(given.stdout));
    // One that was gone before it could be asked for hears nobody any more.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || !reporter.is_heard() {
        return NOT_EXECUTED;
    }
    let Inside { mounts, rules, cwd, mut command } = inside;
    let confined = alone.map_or(Ok(()), become_master_of_own_users).map_err(|error| error.to_string());
    if let Err(error) = confined.and_then(|()| confine(&mounts, rules.as_ref(), &cwd)) {
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

/// In a user namespace that was made for this process it has every capability, over nothing but what was made with it. Its
/// user stays the same.
fn become_master_of_own_users(Me { user, group }: Me) -> io::Result<()> {
    // Files of a process that is not dumpable are root's. This one holds no secret.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn confine(mounts: &[Mount], rules: Option<&Rules>, cwd: &Path) -> Result<(), String> {
    let io = |error: io::Error| error.to_string();
    rustix::thread::set_name(c"orch-first").map_err(|error| io(error.into()))?;
    // Not every kernel has it, and it only hides names.
    let _ = unshare(CloneFlags::CLONE_NEWCGROUP);
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
    let first = start(&plan, &[], Path::new("/"), command, given)?;
    waitpid(Some(first), WaitOptions::empty())?;
    match reports.words().last() {
        Some(Word::Ended { code: Some(0), .. }) => Ok(()),
        Some(Word::Failed { why }) => Err(io::Error::other(why.clone())),
        Some(Word::Began { .. } | Word::Ended { .. }) | None => {
            Err(io::Error::other("the program in it did not end well"))
        }
    }
}
