//! A supervisor's process: leaves the agent's session, becomes subreaper, starts the child, and turns
//! poll() into steps until the child is gone. Its first thread forks the child and lives as long as the process, so that
//! the child's wish to die with its parent is tied to nothing shorter; a gateway has a thread of its own, started after.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::boottime::{BootMillis, boot_id};
use crate::causes::one_line;
use crate::kernel::leave;
use crate::procfs;
use crate::sandbox::fds::close_all_but;

use super::control::Control;
use super::machine::Supervisor;
use super::peer::SUPERVISOR_NAME;
use super::record::RuntimeRecord;
use super::spec::{SpecError, read_orders};

/// poll() counts time that stands still while the host sleeps; deadlines do not. This is the most they can
/// be late after a wake-up.
const LONGEST_POLL: Duration = Duration::from_secs(1);

/// What a supervisor says on its standard output, a line each: first who it is, then what came of its orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announcement {
    /// It waits for its orders.
    Started {
        /// Its pid.
        pid: i32,
        /// Its start time in clock ticks since boot.
        start_ticks: u64,
    },
    /// The socket listens and the child was started.
    Ready {
        /// Pid of the child.
        child: i32,
    },
    /// Nothing was started.
    Failed {
        /// Why, for people.
        error: String,
    },
}

/// A supervisor from its orders, which come on standard input, to the end of its child and its own. `agent`: a connection to
/// who gives them. For a process that was forked for it and has one thread.
pub fn supervise(agent: OwnedFd) -> ! {
    // Where it fails there is no `/proc`, and the start below says so.
    let _ = close_all_but(&[&agent]);
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let start_ticks = procfs::read_stat(pid).map_or(0, |stat| stat.start_ticks);
    // An agent that died meanwhile says nothing either, and nothing is started.
    let _ = announce(io::stdout(), &Announcement::Started { pid, start_ticks });
    let started = prepare((pid, start_ticks), agent.into());
    let announcement = match &started {
        Ok(supervisor) => Announcement::Ready { child: supervisor.pid },
        Err(error) => Announcement::Failed { error: one_line(error) },
    };
    // An agent that died meanwhile reads nothing; the dead-man switch knows what to do.
    let _ = announce(io::stdout(), &announcement);
    match started {
        Ok(supervisor) => {
            let mut supervisor = run(supervisor);
            let _record = supervisor.finish();
            // What it holds need not be taken apart: it is gone with its process.
            leave(0)
        }
        Err(_) => leave(1),
    }
}

/// Why a supervisor did not start.
#[derive(Debug, Error)]
enum PrepareError {
    #[error("cannot learn what to supervise")]
    Spec(#[from] SpecError),
    #[error("cannot set the process up")]
    Process(#[from] rustix::io::Errno),
    #[error("cannot start the child")]
    Start(#[source] io::Error),
    #[error("cannot leave a note in the runtime directory")]
    Record(#[source] io::Error),
}

/// Says on behalf of a supervisor that it could not be made. Nobody may listen any more.
pub fn refuse(stdout: OwnedFd, error: &io::Error) {
    let refusal = Announcement::Failed { error: format!("cannot make a supervisor: {error}") };
    let _ = announce(File::from(stdout), &refusal);
}

fn prepare((pid, start_ticks): (i32, u64), agent: UnixStream) -> Result<Supervisor, PrepareError> {
    let (spec, secrets) = read_orders(io::stdin().lock())?;
    let me = rustix::process::getpid();
    // Only a leader of a process group is refused, and a child of the fork server is none.
    rustix::process::setsid()?;
    // It holds the secrets: no task may look into it, and no core file may hold them.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_child_subreaper(Some(me))?;
    rustix::thread::set_name(SUPERVISOR_NAME)?;
    let record = RuntimeRecord {
        id: spec.id.clone(),
        pid,
        start_ticks,
        boot_id: boot_id(),
        owner: spec.owner.clone(),
        reference: spec.reference.clone(),
        attempt_dir: spec.attempt_dir.clone(),
    };
    record.write(&spec.runtime_dir).map_err(PrepareError::Record)?;
    let (runtime_dir, id) = (spec.runtime_dir.clone(), spec.id.clone());
    let started = Control::listen(&runtime_dir, &id)
        .and_then(|control| Supervisor::start(spec, &secrets, control.with(agent)));
    if started.is_err() {
        super::record::remove(&runtime_dir, &id);
    }
    started.map_err(PrepareError::Start)
}

fn announce(mut out: impl Write, announcement: &Announcement) -> io::Result<()> {
    let mut line = serde_json::to_vec(announcement)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

fn run(mut supervisor: Supervisor) -> Supervisor {
    while supervisor.status.is_none() {
        wait_for_something(&supervisor);
        supervisor.step(BootMillis::now());
    }
    supervisor
}

fn wait_for_something(supervisor: &Supervisor) {
    let mut fds = vec![PollFd::new(&supervisor.pidfd, PollFlags::IN)];
    for pipe in [supervisor.stdout.descriptor(), supervisor.stderr.descriptor()].into_iter().flatten() {
        fds.push(PollFd::from_borrowed_fd(pipe, PollFlags::IN));
    }
    if let Some(pipe) = supervisor.input.descriptor() {
        fds.push(PollFd::from_borrowed_fd(pipe, PollFlags::OUT));
    }
    for (fd, wants_room) in supervisor.control.descriptors() {
        let flags = if wants_room { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        fds.push(PollFd::from_borrowed_fd(fd, flags));
    }
    let left = supervisor.next_moment().since(BootMillis::now()).min(LONGEST_POLL);
    // A failing poll only makes the loop look at once.
    let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
}
