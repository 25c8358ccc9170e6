//! The process of a supervisor, as the agent has it in its hands: held by a descriptor that names it for good, or gone.
//! The agent is not its parent. Knows pids and start times, never a name.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use crate::{kernel, procfs};

/// The process of a supervisor.
#[derive(Debug)]
pub(super) enum Process {
    /// It runs, or ended while it was held.
    Held {
        /// Its pid.
        pid: i32,
        /// Its start time in clock ticks since boot.
        start_ticks: u64,
        /// Becomes readable when it ends.
        end: AsyncFd<OwnedFd>,
    },
    /// It is gone.
    Gone,
}

impl Process {
    /// That very process, if it still runs.
    pub(super) fn hold(pid: i32, start_ticks: u64) -> Self {
        let held = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // The descriptor pins the process, so a start time read after it was opened is that of the target.
        let is_it = procfs::read_stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks);
        let end = held.filter(|_| is_it).and_then(|end| kernel::watched(end).ok());
        end.map_or(Self::Gone, |end| Self::Held { pid, start_ticks, end })
    }

    /// Its pid, while it may still run.
    pub(super) fn pid(&self) -> Option<i32> {
        match self {
            Self::Held { pid, start_ticks, .. } => {
                procfs::read_stat(*pid).filter(|stat| stat.start_ticks == *start_ticks).map(|_| *pid)
            }
            Self::Gone => None,
        }
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) {
        if let Self::Held { end, .. } = self {
            // An error counts as the end: what lies on the disk tells the rest.
            let _ = end.readable().await;
        }
    }

    /// Kills it, and waits for its end.
    pub(super) async fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait().await;
    }

    /// Lets it go on if somebody stopped it: stopped, it answers nobody and ends nothing in time.
    pub(super) fn wake(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Self::Held { end, .. } = self {
            // An error means that it is gone.
            let _ = pidfd_send_signal(end.get_ref(), signal);
        }
    }
}
