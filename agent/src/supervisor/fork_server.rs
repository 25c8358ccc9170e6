//! The `__fork-server` process: makes supervisors by forking itself, because starting this program anew costs more than
//! most of what a short task costs. It has one thread, holds no secret and knows no attempt: what a supervisor is to do
//! comes through a pipe that only the supervisor reads. It ends with its agent; its supervisors do not.
//!
//! ```text
//! agent ──one message: [stdin, stdout, stderr, connection]──▶ __fork-server ──fork──▶ orch-supervise ──▶ …
//!   │                                                                        ▲
//!   └──────────────── what to do, through the pipe that became stdin ────────┘
//! ```

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    DumpableBehavior, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, set_dumpable_behavior, waitid,
};

use crate::boottime::{BootMillis, boot_id};
use crate::kernel::{Forked, fork, leave};
use crate::sandbox::fds::close_inherited;

use super::run::{refuse, supervise};

/// Hidden subcommand: `__fork-server DATA_DIR`, which is for people who list processes; standard input is the socket.
pub const FORK_SERVER_COMMAND: &str = "__fork-server";

/// Its name, as `/proc` shows it.
const NAME: &std::ffi::CStr = c"orch-forks";

/// What a supervisor is handed: its standard input, output and error, and a connection to its agent, as if that had come
/// through its socket.
pub const HANDED: usize = 4;

/// Runs the subcommand: as the server until its agent is gone, and in every copy of it as a supervisor to its end.
pub fn serve() -> ExitCode {
    let Ok(mut server) = Server::new() else { return ExitCode::FAILURE };
    let handed = server.run();
    // A supervisor holds nothing of the server's.
    drop(server);
    match handed {
        Ok(Some(handed)) => match become_standard(handed) {
            Ok(agent) => supervise(agent),
            Err(_) => leave(1),
        },
        Ok(None) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

struct Server {
    agent: OwnedFd,
    /// Become readable when a supervisor ends.
    supervisors: Vec<OwnedFd>,
}

impl Server {
    fn new() -> io::Result<Self> {
        close_inherited()?;
        // A terminal's interrupt is meant for the agent. Where this fails it leads a session already.
        let _ = rustix::process::setsid();
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::thread::set_name(NAME)?;
        // What every copy asks first is looked up once: neither the boot nor where the clock is read differs between them.
        let _ = (boot_id(), BootMillis::now());
        let agent = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self { agent, supervisors: Vec::new() })
    }

    /// Forks until the agent is gone, and answers nothing then; in a supervisor it answers what that was handed.
    fn run(&mut self) -> io::Result<Option<[OwnedFd; HANDED]>> {
        loop {
            self.wait()?;
            let Some(handed) = receive(&self.agent)? else { return Ok(None) };
            match fork() {
                Ok(Forked::Child) => return Ok(Some(handed)),
                Ok(Forked::Parent(pid)) => self.supervisors.push(pidfd_open(pid, PidfdFlags::empty())?),
                Err(error) => {
                    let [_, stdout, _, _] = handed;
                    refuse(stdout, &error);
                }
            }
        }
    }

    /// Until the agent says something or is gone. Supervisors that end meanwhile are let go.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            let fds = std::iter::once(&self.agent).chain(&self.supervisors);
            let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let mut ended = ready.iter().skip(1);
            self.supervisors.retain(|supervisor| {
                let has_ended = ended.next().copied().unwrap_or_default();
                if has_ended {
                    // It is a child of this process and has ended, so nothing can be in the way.
                    let _ = waitid(WaitId::PidFd(supervisor.as_fd()), WaitIdOptions::EXITED);
                }
                !has_ended
            });
            if ready.first().copied().unwrap_or_default() {
                return Ok(());
            }
        }
    }
}

/// What the next supervisor is handed; `None` when the agent is gone.
fn receive(agent: &OwnedFd) -> io::Result<Option<[OwnedFd; HANDED]>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let said = loop {
        match recvmsg(agent, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(said) => break said,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if said.bytes == 0 {
        return Ok(None);
    }
    let fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        RecvAncillaryMessage::ScmCredentials(_) | _ => Vec::new(),
    });
    <[OwnedFd; HANDED]>::try_from(fds.collect::<Vec<_>>())
        .map(Some)
        .map_err(|_| io::Error::other("the agent handed over something else"))
}

/// Gives what is left: the connection.
fn become_standard([stdin, stdout, stderr, agent]: [OwnedFd; HANDED]) -> io::Result<OwnedFd> {
    rustix::stdio::dup2_stdin(&stdin)?;
    rustix::stdio::dup2_stdout(&stdout)?;
    rustix::stdio::dup2_stderr(&stderr)?;
    Ok(agent)
}
