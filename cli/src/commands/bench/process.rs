//! What this machine says of itself and of a process on it. Linux files, read; nothing is changed but the number of files
//! that this process may open.

use std::fs;
use std::net::IpAddr;

use http::Uri;
use rustix::process::{Resource, getrlimit, setrlimit};

/// What Linux counts processor time in towards programs, on every architecture.
const TICKS_A_SECOND: f64 = 100.0;

/// Load of the last minute.
pub(super) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The name that agents on this machine go by.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Lets this process open as many files as it may.
pub(super) fn open_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What is too few is told by whoever needs a file that cannot be opened.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A process of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process(u32);

impl Process {
    /// Who listens at an endpoint, where that is this machine and may be looked into.
    pub(super) fn listening_at(endpoint: &str) -> Option<Self> {
        let uri: Uri = endpoint.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let port = uri.port_u16()?;
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let inode = here.then(|| tables.iter().find_map(|table| listener(table, port))).flatten()?;
        let wanted = format!("socket:[{inode}]");
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.find(|id: &u32| holds(*id, &wanted)).map(Self)
    }

    /// Resident memory in bytes.
    pub(super) fn memory(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1_024)
    }

    /// Processor time so far, in seconds.
    pub(super) fn cpu_seconds(self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // The name, in brackets, may hold anything; after it the state is the first field, user and system time follow.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(ticks as f64 / TICKS_A_SECOND)
    }
}

/// The inode of the socket that listens on a port, in a table of `/proc/net`.
fn listener(table: &str, port: u16) -> Option<&str> {
    let wanted = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 0A is LISTEN.
        let listens = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
        if listens { fields.get(9).copied() } else { None }
    })
}

fn holds(id: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn whoever_listens_on_this_machine_is_found_and_looked_into() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let found = Process::listening_at(&endpoint).unwrap();
        assert_eq!(found.0, std::process::id());
        assert!(found.memory().unwrap() > 1 << 20);
        assert!(found.cpu_seconds().is_some());
        assert!(Process::listening_at("https://192.0.2.1:7443").is_none(), "another machine");
    }

    #[test]
    fn only_a_socket_that_listens_counts() {
        let table = "  sl  local_address rem_address   st tx rx tr tm retr uid timeout inode\n\
                     0: 0100007F:1D13 0100007F:9C40 01 0:0 0:0 0 0 0 11 1 0\n\
                     1: 0100007F:1D13 00000000:0000 0A 0:0 0:0 0 0 0 22 1 0\n";
        assert_eq!(listener(table, 7443), Some("22"));
        assert_eq!(listener(table, 7444), None);
    }
}
