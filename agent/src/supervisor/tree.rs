//! Killing a whole process tree: freeze, look again, kill, until nothing is left. Works for any depth of
//! forks and sessions, because orphans return to their subreaper and are found there again.
//! Knows no attempt; a process is addressed by pid and start time, never by name.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, wait,
};

use crate::procfs::{self, ProcStat};

/// Between two looks at `/proc`: a stop or a death needs about this long to be seen.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A tree that is still growing after this many looks is killed as far as it is known, and hunted on.
const MOST_FREEZES: usize = 50;

/// What a tree kill did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeKill {
    /// Processes that were killed.
    pub killed: u32,
    /// Processes still alive at the deadline: pid and name, for people.
    pub survivors: Vec<(i32, String)>,
}

/// Kills every descendant of `root`, not `root` itself. `reap` is called between looks, for a caller that is
/// the parent of orphans. Gives up at `limit`.
pub fn kill_descendants(root: i32, limit: Duration, mut reap: impl FnMut()) -> TreeKill {
    let find = || Ok(procfs::descendants_of(&procfs::all()?, root));
    hunt(find, limit, &mut reap)
}

/// Reaps whatever children of this process have ended, and tells `each`. Says whether none is left: of a subreaper, and of
/// the first process of a PID namespace, that means that nothing descends from it any more, because an orphan is a
/// child of its reaper from the moment it loses its parent.
pub fn reap(mut each: impl FnMut(i32, WaitStatus)) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => each(pid.as_raw_nonzero().get(), status),
            Ok(None) => return false,
            Err(Errno::CHILD) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Kills every process that carries `NAME=VALUE` in its environment, and everything below those: the last
/// resort for a tree whose supervisor is gone.
pub fn kill_marked(assignment: &str, limit: Duration) -> TreeKill {
    let find = || {
        let all = procfs::all()?;
        let mut found = procfs::with_environment(assignment)?;
        let below: Vec<ProcStat> =
            found.iter().flat_map(|stat| procfs::descendants_of(&all, stat.pid)).collect();
        found.extend(below);
        Ok(found)
    };
    hunt(find, limit, &mut || ())
}

/// Sends a signal to exactly this process. A process that is gone, or whose pid was given to another, is
/// none of our business and no error.
///
/// # Errors
/// When the process is there and may not be signalled.
pub fn signal_exactly(pid: i32, start_ticks: u64, signal: Signal) -> io::Result<()> {
    let Some(target) = Pid::from_raw(pid) else { return Ok(()) };
    let held = match pidfd_open(target, PidfdFlags::empty()) {
        Ok(held) => held,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // The descriptor now pins the process, so a start time read after opening it is that of the target.
    if procfs::read_stat(pid).is_none_or(|stat| stat.start_ticks != start_ticks) {
        return Ok(());
    }
    match pidfd_send_signal(&held, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn hunt(find: impl Fn() -> io::Result<Vec<ProcStat>>, limit: Duration, reap: &mut impl FnMut()) -> TreeKill {
    let deadline = Instant::now() + limit;
    let mut killed: BTreeSet<(i32, u64)> = BTreeSet::new();
    freeze(&find, deadline);
    loop {
        let alive: Vec<ProcStat> =
            find().unwrap_or_default().into_iter().filter(|stat| !stat.is_zombie()).collect();
        for stat in &alive {
            if signal_exactly(stat.pid, stat.start_ticks, Signal::KILL).is_ok() {
                killed.insert((stat.pid, stat.start_ticks));
            }
        }
        reap();
        if alive.is_empty() || Instant::now() >= deadline {
            let survivors = alive.into_iter().map(|stat| (stat.pid, stat.comm)).collect();
            return TreeKill { killed: u32::try_from(killed.len()).unwrap_or(u32::MAX), survivors };
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Stops everything, so that nothing forks while the killing goes on.
fn freeze(find: &impl Fn() -> io::Result<Vec<ProcStat>>, deadline: Instant) {
    let mut asked: BTreeSet<(i32, u64)> = BTreeSet::new();
    for _ in 0..MOST_FREEZES {
        let found = find().unwrap_or_default();
        let settled = found.iter().all(ProcStat::is_stopped);
        let known = asked.len();
        for stat in &found {
            if asked.insert((stat.pid, stat.start_ticks)) {
                // One that may not be signalled is reported as a survivor by the killing.
                let _ = signal_exactly(stat.pid, stat.start_ticks, Signal::STOP);
            }
        }
        if (settled && asked.len() == known) || Instant::now() >= deadline {
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_reused_pid_is_left_alone() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = procfs::read_stat(pid).unwrap().start_ticks;
        signal_exactly(pid, start + 1, Signal::KILL).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        signal_exactly(pid, start, Signal::KILL).unwrap();
        assert!(!child.wait().unwrap().success());
        signal_exactly(pid, start, Signal::KILL).unwrap();
    }

    #[test]
    fn marked_processes_and_their_children_are_killed() {
        let mark = format!("ORCH_TEST_MARK={}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "env -i sleep 61 & sleep 62"])
            .env(name, value)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let pid = i32::try_from(child.id()).unwrap();
        while procfs::descendants_of(&procfs::all().unwrap(), pid).len() < 2 {
            assert!(Instant::now() < deadline, "the fake never had its children");
            thread::sleep(LOOK_EVERY);
        }
        let done = kill_marked(&mark, Duration::from_secs(5));
        assert!(done.killed >= 3, "{done:?}");
        assert_eq!(done.survivors, []);
        child.wait().unwrap();
        assert_eq!(procfs::with_environment(&mark).unwrap(), []);
    }
}
