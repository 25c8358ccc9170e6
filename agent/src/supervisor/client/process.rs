//! The process of a supervisor, as the agent has it in its hands: a child of its own, one that a former process of the
//! agent started, or none any more. Knows pids and start times, never a name.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::process::Child;
use tokio::task::spawn_blocking;

use super::super::tree::signal_exactly;
use crate::procfs;

/// Longest wait for the end of a process that is no child: a thread waits. Longer than anybody waits for it.
const LONGEST_WAIT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// The process of a supervisor.
#[derive(Debug)]
pub(super) enum Process {
    /// This process started it.
    Child(Child),
    /// A former process of this agent did.
    Adopted {
        /// Its pid.
        pid: i32,
        /// Its start time in clock ticks since boot.
        start_ticks: u64,
        /// Becomes readable when it ends.
        end: OwnedFd,
    },
    /// It is gone.
    Gone,
}

impl Process {
    /// That very process, if it still runs.
    pub(super) fn adopt(pid: i32, start_ticks: u64) -> Self {
        let held = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // The descriptor pins the process, so a start time read after it was opened is that of the target.
        let is_it = procfs::read_stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks);
        held.filter(|_| is_it).map_or(Self::Gone, |end| Self::Adopted { pid, start_ticks, end })
    }

    /// Its pid, while it may still run.
    pub(super) fn pid(&self) -> Option<i32> {
        match self {
            Self::Child(child) => child.id().and_then(|pid| i32::try_from(pid).ok()),
            Self::Adopted { pid, start_ticks, .. } => {
                procfs::read_stat(*pid).filter(|stat| stat.start_ticks == *start_ticks).map(|_| *pid)
            }
            Self::Gone => None,
        }
    }

    /// Waits for its end and says how it was, for people.
    pub(super) async fn wait(&mut self) -> String {
        match self {
            Self::Child(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Adopted { end, .. } => {
                if let Ok(end) = end.try_clone() {
                    let wait = move || poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&LONGEST_WAIT));
                    // An error counts as the end: what lies on the disk tells the rest.
                    let _ = spawn_blocking(wait).await;
                }
                "it ended without leaving word".to_owned()
            }
            Self::Gone => "it ended while the agent was away".to_owned(),
        }
    }

    /// Kills it.
    pub(super) async fn kill(&mut self) {
        match self {
            // An error means that it is gone.
            Self::Child(child) => drop(child.kill().await),
            Self::Adopted { pid, start_ticks, .. } => {
                drop(signal_exactly(*pid, *start_ticks, Signal::KILL));
            }
            Self::Gone => {}
        }
    }

    /// Lets it go on if somebody stopped it: stopped, it answers nobody and ends nothing in time.
    pub(super) fn wake(&self) {
        // One that is gone needs no waking.
        match self {
            Self::Child(child) => {
                let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
                // Nobody waits for it while it is spoken to, so its pid is its own.
                let _ = pid.map(|pid| kill_process(pid, Signal::CONT));
            }
            Self::Adopted { pid, start_ticks, .. } => {
                drop(signal_exactly(*pid, *start_ticks, Signal::CONT));
            }
            Self::Gone => {}
        }
    }
}
