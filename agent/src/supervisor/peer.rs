//! Who is at the other end of a supervisor's socket. Where only landlock keeps attempts apart, a task can connect to any
//! socket of its user (before Linux 7.1); what it says must not stop another attempt nor speak to another's CLI.
//! Knows processes and their parents; refuses to know what is said.

use std::os::fd::AsFd;

use rustix::net::sockopt::socket_peercred;

use crate::procfs::{self, ProcStat};

/// Command name of every supervisor, as `/proc` shows it.
pub const SUPERVISOR_NAME: &std::ffi::CStr = c"orch-supervise";

/// More generations than any host was seen to have: a list read while processes come and go can hold a circle.
const MOST_GENERATIONS: usize = 1_000;

/// Whether whoever connected may give orders: a process that is there and does not descend from a supervisor, this one
/// included. A task cannot leave its supervisor's descent, because a supervisor is the reaper of its orphans.
#[must_use]
pub fn may_command(socket: impl AsFd) -> bool {
    let Ok(peer) = socket_peercred(socket) else { return false };
    let peer = peer.pid.as_raw_nonzero().get();
    let peer = lineage(peer);
    let parent = rustix::process::getppid().map(|parent| lineage(parent.as_raw_nonzero().get()));
    !peer.is_empty() && !is_of_task(&peer, &parent.unwrap_or_default())
}

/// A process and those it descends from.
fn lineage(pid: i32) -> Vec<ProcStat> {
    let mut line: Vec<ProcStat> = Vec::new();
    let mut next = procfs::read_stat(pid);
    while let Some(stat) = next.filter(|_| line.len() < MOST_GENERATIONS) {
        next = procfs::read_stat(stat.ppid);
        line.push(stat);
    }
    line
}

/// `around`: what this supervisor itself descends from. An agent may run inside a task of another one.
fn is_of_task(peer: &[ProcStat], around: &[ProcStat]) -> bool {
    let is_around = |stat: &ProcStat| around.iter().any(|outer| outer.pid == stat.pid);
    peer.iter().any(|stat| stat.comm.as_bytes() == SUPERVISOR_NAME.to_bytes() && !is_around(stat))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, comm: &str) -> ProcStat {
        ProcStat {
            comm: comm.to_owned(),
            ..procfs::parse_stat(&format!("{pid} (x) S 1{}", " 0".repeat(48))).unwrap()
        }
    }

    #[test]
    fn a_task_of_any_supervisor_is_known_by_its_descent_and_an_agent_is_none() {
        let task = [stat(9, "orch-agent"), stat(8, "orch-supervise"), stat(2, "orch-agent"), stat(1, "init")];
        assert!(is_of_task(&task, &[stat(2, "orch-agent"), stat(1, "init")]));
        assert!(!is_of_task(&task[2..], &[stat(2, "orch-agent"), stat(1, "init")]));
        assert!(!is_of_task(&task[2..], &[]), "an agent that was started anew");
    }

    #[test]
    fn an_agent_inside_a_task_commands_its_own_supervisors() {
        let agent = [stat(9, "orch-agent"), stat(8, "orch-supervise"), stat(1, "init")];
        assert!(!is_of_task(&agent, &agent));
    }

    #[test]
    fn whoever_is_no_task_may_command() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(may_command(&one));
    }
}
