//! The same program again in the same process: how a coordinator starts anew on what lies ready.
//! Knows the executable, its arguments and where it listened; refuses to know why.
//!
//! Neither a service manager nor `orchctl dev` notices: pid, arguments and environment stay, every file is closed, and what
//! is started is the file that this process was started from, even if an upgrade has replaced it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Where the process listened before, for settings that leave the port to the system: `<gRPC> <probes>`.
const ADDRESSES: &str = "ORCH_LISTENED_ON";

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// In order and for good.
    ForGood,
    /// In order, to be started anew: gRPC and probes listened there.
    Again(SocketAddr, SocketAddr),
}

/// The program of this process.
#[derive(Debug)]
pub struct Program {
    file: File,
    args: Vec<OsString>,
}

impl Program {
    /// Holds it.
    ///
    /// # Errors
    /// When `/proc` may not be read.
    pub fn hold() -> io::Result<Self> {
        let program = Self { file: File::open("/proc/self/exe")?, args: std::env::args_os().collect() };
        if std::env::var_os(ADDRESSES).is_some() {
            program.take_name_back();
        }
        Ok(program)
    }

    /// Becomes it again. Returns only when it cannot.
    pub fn start_again(&self, (grpc, probe): (SocketAddr, SocketAddr)) -> io::Error {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        if let [name, rest @ ..] = self.args.as_slice() {
            command.arg0(name).args(rest);
        }
        command.env(ADDRESSES, format!("{grpc} {probe}")).exec()
    }

    /// The kernel has named the process by the descriptor it was started from.
    fn take_name_back(&self) {
        let name = self.args.first().and_then(|name| Path::new(name).file_name());
        if let Some(name) = name
            && let Err(error) = fs::write("/proc/self/comm", name.as_encoded_bytes())
        {
            tracing::debug!(%error, "the process keeps an odd name");
        }
    }
}

/// `wanted`, or where this process listened before if the port is left to the system: peers know that one.
pub(super) fn same_ports((grpc, probe): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let before = std::env::var(ADDRESSES).ok();
    let before = before.as_deref().and_then(|text| text.split_once(' '));
    let before = before.and_then(|(grpc, probe)| Some((grpc.parse().ok()?, probe.parse().ok()?)));
    let same = |wanted: SocketAddr, before: SocketAddr| if wanted.port() == 0 { before } else { wanted };
    before.map_or((grpc, probe), |(grpc_before, probe_before)| {
        (same(grpc, grpc_before), same(probe, probe_before))
    })
}
