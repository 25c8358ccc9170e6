//! The first process of an attempt's PID namespace: puts itself under landlock, starts the program, reaps orphans,
//! and tells the supervisor exactly how the program ended. When it exits the kernel kills whatever is left.
//! Knows no limit and no protocol but the few words it says.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{DumpableBehavior, WaitOptions, WaitStatus, set_dumpable_behavior, wait};

use crate::causes::one_line;
use crate::procfs;
use crate::supervisor::report::{Reporter, Word};
use crate::supervisor::tree::reap;

use super::fds;
use super::rules::Rules;

/// Hidden subcommand: `__sandbox-init REPORT,EXE,STDIN,STDOUT RULES PROGRAM ARGS...`, the first being descriptors.
pub const INIT_COMMAND: &str = "__sandbox-init";

/// Exit code when the program was not executed; the shell's habit.
const NOT_EXECUTED: u8 = 127;

/// Runs the subcommand to the end of the program.
pub fn init(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let descriptors = args.next().and_then(|text| parse_descriptors(text.to_str()?));
    let (Some([report, exe, stdin, stdout]), Some(rules), Some(program)) =
        (descriptors, args.next(), args.next())
    else {
        return ExitCode::from(NOT_EXECUTED);
    };
    let Ok(mut reporter) = fds::take(report, true).map(Reporter::new) else {
        return ExitCode::from(NOT_EXECUTED);
    };
    // By now bubblewrap has asked to die with the supervisor. One that was gone before hears nobody any more.
    if !reporter.is_heard() {
        return ExitCode::from(NOT_EXECUTED);
    }
    let prepared = fds::close(exe).and_then(|()| Ok((fds::take(stdin, false)?, fds::take(stdout, true)?)));
    match prepared.and_then(|pipes| start(&rules, pipes, &program, args)) {
        Ok(pid) => {
            reporter.say(&Word::Began { pid });
            ExitCode::from(finish(&mut reporter, pid))
        }
        Err(error) => {
            reporter.say(&Word::Failed { why: error.to_string() });
            ExitCode::from(NOT_EXECUTED)
        }
    }
}

fn parse_descriptors(text: &str) -> Option<[RawFd; 4]> {
    let numbers: Vec<RawFd> = text.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

fn start(
    rules: &OsString,
    (stdin, stdout): (File, File),
    program: &OsString,
    args: impl Iterator<Item = OsString>,
) -> io::Result<i32> {
    // What happens inside must not be able to speak in our name.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let rules: Option<Rules> = serde_json::from_slice(rules.as_encoded_bytes())?;
    if let Some(rules) = rules {
        rules.restrict().map_err(|error| io::Error::other(one_line(&error)))?;
    }
    let child = Command::new(program)
        .args(args)
        .stdin(stdin)
        .stdout(stdout)
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::other(format!("cannot execute {}: {error}", program.display())))?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Waits for the end of the program, tells it, and gives the exit code of whoever waited.
pub(super) fn finish(reporter: &mut Reporter, program: i32) -> u8 {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == program => {
                let (code, signal) = (status.exit_status(), status.terminating_signal());
                reporter.say(&Word::Ended { code, signal, left: left_over() });
                return as_code(status);
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // The program is a child of this process until it was waited for.
            Err(_) => return NOT_EXECUTED,
        }
    }
}

/// Processes that the end of this one will kill.
fn left_over() -> u32 {
    if reap(|_, _| ()) {
        return 0;
    }
    let others =
        procfs::all().unwrap_or_default().into_iter().filter(|stat| stat.pid != 1 && !stat.is_zombie());
    u32::try_from(others.count()).unwrap_or(u32::MAX)
}

/// The exit code that tells how a process ended: the shell's habit.
fn as_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(NOT_EXECUTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_arguments_are_no_panic() {
        for args in [&[][..], &["1,2,3"], &["1,2,3,4"], &["a,b,c,d", "null", "/bin/true"]] {
            assert_eq!(init(args.iter().map(OsString::from)), ExitCode::from(NOT_EXECUTED));
        }
        assert_eq!(parse_descriptors("1,2,3,4"), Some([1, 2, 3, 4]));
        assert_eq!(parse_descriptors("1,2,3,4,5"), None);
    }
}
