//! What `/proc` says about processes: one line of `stat`, who descends from whom, who carries a mark.
//! Knows no attempt and sends no signal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};

/// Longer than a line of `stat` or a `status` gets: they are read at once, because what grows under a reader is asked for
/// again and again, once for every process there is.
const LONGEST_READ: usize = 8 * 1024;

/// One process as `/proc/PID/stat` shows it. Pid and start time together name a process for good:
/// a pid alone may be given to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcStat {
    /// Process id.
    pub pid: i32,
    /// Parent's process id.
    pub ppid: i32,
    /// State letter; `Z` is a zombie, `T` and `t` are stopped.
    pub state: char,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// CPU of the process and of the children it waited for, user and system, in clock ticks.
    pub cpu_ticks: u64,
    /// CPU of waited-for children alone, in clock ticks.
    pub children_cpu_ticks: u64,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Command name, at most 15 bytes, for people.
    pub comm: String,
}

impl ProcStat {
    /// Whether the process only waits to be reaped.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether the process cannot fork any more before it is continued.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.is_zombie() || matches!(self.state, 'T' | 't')
    }
}

/// CPU and memory of a process and all its descendants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUsage {
    /// CPU in clock ticks since each process started, reaped children included.
    pub cpu_ticks: u64,
    /// Sum of resident memory in bytes. Pages shared between the processes count once for each.
    pub rss_bytes: u64,
}

/// Parses the content of `/proc/PID/stat`. The command name may hold blanks and brackets, so fields are
/// counted from the last closing bracket.
#[must_use]
pub fn parse_stat(text: &str) -> Option<ProcStat> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let pid = text.get(..open)?.trim().parse().ok()?;
    let comm = text.get(open + 1..close)?.to_owned();
    let fields: Vec<&str> = text.get(close + 1..)?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok());
    let unsigned = |index: usize| number(index).map(|value| u64::try_from(value).unwrap_or(0));
    let children_cpu_ticks = unsigned(13)?.saturating_add(unsigned(14)?);
    Some(ProcStat {
        pid,
        ppid: i32::try_from(number(1)?).ok()?,
        state: fields.first()?.chars().next()?,
        start_ticks: unsigned(19)?,
        cpu_ticks: unsigned(11)?.saturating_add(unsigned(12)?).saturating_add(children_cpu_ticks),
        children_cpu_ticks,
        rss_bytes: unsigned(21)?.saturating_mul(rustix::param::page_size() as u64),
        comm,
    })
}

/// Reads one process; `None` when it is gone.
#[must_use]
pub fn read_stat(pid: i32) -> Option<ProcStat> {
    let mut buffer = [0; LONGEST_READ];
    parse_stat(&String::from_utf8_lossy(read_at_once(&format!("/proc/{pid}/stat"), &mut buffer)?))
}

/// The beginning of a file of `/proc`; `None` when its process is gone.
fn read_at_once<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let read = File::open(path).ok()?.read(buffer).ok()?;
    buffer.get(..read)
}

/// Every process that is visible, in ascending order of pid. A process that ends meanwhile is left out.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn all() -> io::Result<Vec<ProcStat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(stat) = name.to_str().and_then(|name| name.parse().ok()).and_then(read_stat) {
            found.push(stat);
        }
    }
    found.sort_by_key(|stat| stat.pid);
    Ok(found)
}

/// The processes of `all` that descend from `root`, without `root` itself, parents before children.
#[must_use]
pub fn descendants_of(all: &[ProcStat], root: i32) -> Vec<ProcStat> {
    let mut children: BTreeMap<i32, Vec<&ProcStat>> = BTreeMap::new();
    for stat in all {
        children.entry(stat.ppid).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if seen.insert(child.pid) {
                found.push((*child).clone());
                open.push(child.pid);
            }
        }
    }
    found
}

/// CPU and memory of `root` and everything below it. Follows the kernel's own lists of children, so its
/// cost grows with the tree and not with the host.
#[must_use]
pub fn tree_usage(root: i32) -> TreeUsage {
    let mut usage = TreeUsage::default();
    let mut seen = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if !seen.insert(pid) {
            continue;
        }
        if let Some(stat) = read_stat(pid) {
            usage.cpu_ticks = usage.cpu_ticks.saturating_add(stat.cpu_ticks);
            usage.rss_bytes = usage.rss_bytes.saturating_add(stat.rss_bytes);
            open.extend(children(pid));
        }
    }
    usage
}

/// The children of a process, those of all its threads.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The pid that a process has in its own PID namespace; `None` when it is gone.
#[must_use]
pub fn innermost_pid(pid: i32) -> Option<i32> {
    let mut buffer = [0; LONGEST_READ];
    let status = String::from_utf8_lossy(read_at_once(&format!("/proc/{pid}/status"), &mut buffer)?);
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

/// Processes whose environment holds exactly `NAME=VALUE`. Finds what lost its parent; a process that
/// cleared its environment, or belongs to another user, is not found.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn with_environment(assignment: &str) -> io::Result<Vec<ProcStat>> {
    let carries = |stat: &ProcStat| {
        fs::read(format!("/proc/{}/environ", stat.pid))
            .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == assignment.as_bytes()))
    };
    Ok(all()?.into_iter().filter(carries).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pid: i32, comm: &str, state: char, ppid: i32) -> String {
        format!(
            "{pid} ({comm}) {state} {ppid} 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5555 9999 3 184 0 0"
        )
    }

    #[test]
    fn a_command_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = parse_stat(&line(12, "a) S (b", 'T', 3)).unwrap();
        assert_eq!((stat.pid, stat.ppid, stat.state), (12, 3, 'T'));
        assert_eq!((stat.start_ticks, stat.cpu_ticks, stat.children_cpu_ticks), (5555, 100, 70));
        assert_eq!(stat.comm, "a) S (b");
        assert!(stat.is_stopped() && !stat.is_zombie());
    }

    #[test]
    fn torn_lines_are_refused_and_never_panic() {
        let whole = line(12, "x", 'S', 3);
        for end in 0..whole.len() {
            let _ = parse_stat(&whole[..end]);
        }
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat(")("), None);
    }

    #[test]
    fn descendants_are_found_through_every_generation_and_loops_end() {
        let all: Vec<ProcStat> = [(2, 1), (3, 2), (4, 3), (5, 1), (6, 4), (1, 6)]
            .into_iter()
            .filter_map(|(pid, ppid)| parse_stat(&line(pid, "x", 'S', ppid)))
            .collect();
        let pids: BTreeSet<i32> = descendants_of(&all, 2).iter().map(|stat| stat.pid).collect();
        assert_eq!(pids, BTreeSet::from([1, 3, 4, 5, 6]));
        assert!(descendants_of(&all, 99).is_empty());
    }

    #[test]
    fn this_process_is_visible_with_memory() {
        let me = i32::try_from(std::process::id()).unwrap();
        let stat = read_stat(me).unwrap();
        assert!(stat.rss_bytes > 0 && stat.start_ticks > 0);
        assert!(all().unwrap().iter().any(|stat| stat.pid == me));
        assert!(tree_usage(me).rss_bytes >= stat.rss_bytes / 2);
    }
}
