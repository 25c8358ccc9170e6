//! The gateway's socket for agents: `RUNTIME/ID.gw`, lines in and out. Whoever may command a supervisor may speak here.
//! Knows how lines are cut; refuses to know what they mean.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::supervisor::peer::may_command;
use crate::supervisor::wire::parse;

use super::wire::Command;

/// Longest line of an agent: a refusal with its words, or a credential.
const LONGEST_LINE: u64 = 64 * 1024;

/// The socket file of the gateway of supervisor `id`.
#[must_use]
pub fn socket_path(runtime_dir: &Path, id: &str) -> PathBuf {
    runtime_dir.join(format!("{id}.gw"))
}

/// A path to the socket that is short enough for a socket address, as in `supervisor::control`. Valid while the returned
/// directory is held.
///
/// # Errors
/// When the directory cannot be opened.
pub fn short_path(runtime_dir: &Path, id: &str) -> io::Result<(fs::File, PathBuf)> {
    let dir = fs::File::open(runtime_dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{id}.gw", dir.as_raw_fd()));
    Ok((dir, path))
}

/// Listens, for this user alone.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(runtime_dir: &Path, id: &str) -> io::Result<UnixListener> {
    let (_dir, path) = short_path(runtime_dir, id)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether whoever connected may speak.
#[must_use]
pub fn is_welcome(stream: &UnixStream) -> bool {
    may_command(stream)
}

/// Serves one agent to its end: it hangs up, says nonsense, or is cut off because `lines` ended.
pub async fn serve(stream: UnixStream, mut lines: mpsc::Receiver<Bytes>, obey: impl Fn(Command)) {
    let (reader, mut writer) = stream.into_split();
    let read = async {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).await;
            if read.is_err() || line.last() != Some(&b'\n') {
                return;
            }
            match parse(&line) {
                Ok(command) => obey(command),
                Err(_) => return,
            }
        }
    };
    let write = async {
        while let Some(line) = lines.recv().await {
            if writer.write_all(&line).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
