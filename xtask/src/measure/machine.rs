//! The machine that measures: its processor, its load, and the memory of processes, all read from /proc. Refuses to know what
//! the processes do.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Where figures are from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) date: String,
}

impl Machine {
    /// This one, today.
    pub(crate) fn here() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let kib = field("/proc/meminfo", "MemTotal");
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / (1 << 20),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        }
    }
}

/// The first line of what a program prints, on whichever stream; empty where it cannot be run.
pub(crate) fn said(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = Command::new(program.as_ref()).args(arguments).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

/// The load averages of 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Resident memory of a process in MB; of several its proportional share, where shared pages count once.
pub(crate) fn memory_mb(pid: u32) -> f64 {
    let tree = tree(pid);
    let (file, field) = if tree.len() == 1 { ("status", "VmRSS:") } else { ("smaps_rollup", "Pss:") };
    let kib: f64 = tree.iter().map(|pid| kib(&format!("/proc/{pid}/{file}"), field)).sum();
    kib * 1024.0 / 1e6
}

/// Proportional share of one process in MB: shared pages count by how many share them.
pub(crate) fn share_mb(pid: u32) -> f64 {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:") * 1024.0 / 1e6
}

/// Resident memory of one process in MB.
pub(crate) fn resident_mb(pid: u32) -> f64 {
    kib(&format!("/proc/{pid}/status"), "VmRSS:") * 1024.0 / 1e6
}

/// Processes of this name of whose command line an argument begins with `path`.
pub(crate) fn running(name: &str, path: &Path) -> Vec<u32> {
    let path = path.as_os_str().as_encoded_bytes();
    let is_meant = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim_end() == name && line.split(|byte| *byte == 0).any(|argument| argument.starts_with(path))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_meant).collect()
}

/// What the files below a directory take up on disk, in bytes.
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => disk_bytes(&entry.path()),
            // Blocks are of 512 bytes, whatever the file system's are.
            Ok(about) => about.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn kib(file: &str, field: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// A process and everything below it.
fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&above) = found.get(at) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| pid));
        at += 1;
    }
    found
}

/// The name in the second field may hold anything, so the fields are counted from its last parenthesis.
fn parent(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_this_machine_cores() {
        assert!(memory_mb(std::process::id()) > 1.0);
        let here = Machine::here();
        assert!(here.cores > 0 && here.memory_gib > 0 && here.date.ends_with("UTC"), "{here:?}");
        assert_eq!(load().split(' ').count(), 3);
    }

    #[test]
    fn what_a_process_started_belongs_to_it() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let found = tree(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&child.id()), "{found:?}");
    }
}
