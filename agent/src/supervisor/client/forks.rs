//! The agent's hold on its fork server: started when it is first needed, and again should it be gone. Knows what a new
//! supervisor is handed; refuses to know what it is told.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command as Program};

use crate::reexec::SelfExe;

use super::super::fork_server::{FORK_SERVER_COMMAND, HANDED};

/// Makes supervisors.
#[derive(Debug)]
pub(super) struct ForkServer {
    exe: SelfExe,
    owner: PathBuf,
    running: Mutex<Option<Arc<Running>>>,
}

#[derive(Debug)]
struct Running {
    /// Its end is the end of the server.
    socket: UnixStream,
    _process: Child,
}

impl ForkServer {
    /// That of the agent whose data lies in `owner`.
    pub(super) fn new(exe: SelfExe, owner: PathBuf) -> Self {
        Self { exe, owner, running: Mutex::new(None) }
    }

    pub(super) fn program(&self) -> PathBuf {
        self.exe.path()
    }

    /// Has a supervisor made that has these for its standard input, output and error, and for its first connection. It says
    /// the rest there.
    ///
    /// # Errors
    /// When the server cannot be started.
    pub(super) async fn fork(&self, handed: [BorrowedFd<'_>; HANDED]) -> io::Result<()> {
        let running = self.running()?;
        match running.hand_over(handed).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                tracing::warn!(%error, "the process that starts supervisors was lost and is started again");
                self.forget(&running);
                self.running()?.hand_over(handed).await
            }
            done => done,
        }
    }

    fn running(&self) -> io::Result<Arc<Running>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match &*running {
            Some(running) => Ok(Arc::clone(running)),
            None => Ok(Arc::clone(running.insert(Arc::new(Running::start(&self.exe, &self.owner)?)))),
        }
    }

    /// Unless somebody else has done so already.
    fn forget(&self, lost: &Arc<Running>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.take_if(|running| Arc::ptr_eq(running, lost));
    }
}

impl Running {
    fn start(exe: &SelfExe, owner: &Path) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let process = Program::new(exe.path())
            // The copies keep this command line, and there are more of them.
            .arg0("orch-supervise")
            .arg(FORK_SERVER_COMMAND)
            .arg(owner)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket: UnixStream::from_std(ours)?, _process: process })
    }

    async fn hand_over(&self, handed: [BorrowedFd<'_>; HANDED]) -> io::Result<()> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDED))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&handed));
            match sendmsg(&self.socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => Ok(()),
                Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        self.socket.async_io(Interest::WRITABLE, send).await
    }
}
