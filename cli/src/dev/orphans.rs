//! Processes that daemons left behind. `dev` is their subreaper, so that they come to it instead of to init: it buries
//! the dead while it runs, and at its end leaves nobody alive. Knows process ids of its own children only.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

/// Rounds of killing: each frees the children of the last.
const ROUNDS: u32 = 100;
/// Wait between two rounds.
const ROUND: Duration = Duration::from_millis(20);

/// From now on orphaned descendants become children of this process.
pub(super) fn adopt() {
    // Without it they go to init, and only the end of `dev` is less thorough.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
}

/// Takes leave of dead children that are nobody else's to wait for. `ours` are those somebody waits for.
pub(super) fn bury(ours: &HashSet<u32>) {
    for pid in children().into_iter().filter(|pid| !ours.contains(&raw(*pid))) {
        // One that lives is left alone.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Ends every child there is, and theirs, and theirs. Returns how many would not go.
pub(super) async fn end_all() -> usize {
    for _ in 0..ROUNDS {
        let left = children();
        if left.is_empty() {
            return 0;
        }
        for pid in left {
            // One that is gone by now is what was wanted.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        tokio::time::sleep(ROUND).await;
    }
    children().len()
}

/// All children of this process, dead ones included, by a look at every process there is: `/proc/PID/task/TID/children`
/// is not compiled into every kernel.
fn children() -> Vec<Pid> {
    let me = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| parent_of(*pid) == Some(me))
        .filter_map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, closing parentheses included.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn raw(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_by_their_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children().iter().any(|pid| raw(*pid) == child.id()));
        assert_eq!(parent_of(child.id()), Some(std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children().iter().any(|pid| raw(*pid) == child.id()));
    }
}
