//! Figures of the host and of attempts, and how many attempts fit. Reads `/proc` and control groups;
//! decides nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::boottime::BootMillis;
use crate::procfs::{self, TreeUsage};

/// Memory one attempt of the CLI needs: it was seen to take 300 MiB idle, and more with its tools.
pub const BYTES_PER_SLOT: u64 = 1024 * 1024 * 1024;

/// Figures of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostFigures {
    /// Cores this process may use.
    pub cores: u32,
    /// One-minute load average in thousandths.
    pub load_millis: u32,
    /// Memory in bytes, of the host or of the control group, whichever is less.
    pub memory_bytes: u64,
    /// Memory available in bytes.
    pub memory_available_bytes: u64,
    /// Bytes free where the agent keeps its tasks.
    pub disk_free_bytes: u64,
}

/// Reads the figures; what cannot be read is 0. `data_dir` is where the agent keeps its tasks.
#[must_use]
pub fn figures(data_dir: &Path) -> HostFigures {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0);
    let limit = memory_limit().unwrap_or(u64::MAX);
    let available = meminfo_bytes(&meminfo, "MemAvailable").unwrap_or(0);
    let disk = rustix::fs::statvfs(data_dir).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    HostFigures {
        cores: std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        load_millis: load_millis(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
        memory_bytes: total.min(limit),
        memory_available_bytes: available.min(limit),
        disk_free_bytes: disk,
    }
}

/// Slots of a host where nobody says how many: one a core, one a GiB, and at least one.
#[must_use]
pub fn default_slots(figures: &HostFigures) -> u32 {
    let by_memory = u32::try_from(figures.memory_bytes / BYTES_PER_SLOT).unwrap_or(u32::MAX);
    figures.cores.min(by_memory).max(1)
}

/// Turns two looks at a process tree into thousandths of a core.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuMeter {
    last: Option<(BootMillis, u64)>,
}

impl CpuMeter {
    /// Takes a look. The first one, and one at the same moment, tell nothing yet.
    pub fn look(&mut self, now: BootMillis, usage: TreeUsage) -> u32 {
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        let before = self.last.replace((now, usage.cpu_ticks));
        let Some((then, ticks)) = before else { return 0 };
        let millis = u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX);
        // A process that left took its ticks along to its parent; a torn look may still see fewer.
        let used = usage.cpu_ticks.saturating_sub(ticks).saturating_mul(1_000_000);
        used.checked_div(ticks_per_second.saturating_mul(millis))
            .map_or(0, |cores| u32::try_from(cores).unwrap_or(u32::MAX))
    }
}

/// Looks at the host and at attempts, for heartbeats.
#[derive(Debug)]
pub struct HostProbe {
    data_dir: PathBuf,
    /// Told in place of what the host says.
    fixed: Option<HostFigures>,
    meters: BTreeMap<i32, CpuMeter>,
}

/// CPU and memory of one attempt's process tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptFigures {
    /// CPU in thousandths of a core since the look before.
    pub cpu_millis: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

impl HostProbe {
    /// A probe for the host whose agent keeps its tasks in `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, fixed: None, meters: BTreeMap::new() }
    }

    /// A probe that tells `figures`, whatever the host does: for a simulation.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn fixed(figures: HostFigures) -> Self {
        Self { data_dir: PathBuf::new(), fixed: Some(figures), meters: BTreeMap::new() }
    }

    /// The host's figures.
    #[must_use]
    pub fn figures(&self) -> HostFigures {
        self.fixed.unwrap_or_else(|| figures(&self.data_dir))
    }

    /// Looks at the tree below a supervisor at `now`.
    pub fn attempt(&mut self, supervisor_pid: i32, now: BootMillis) -> AttemptFigures {
        let usage = procfs::tree_usage(supervisor_pid);
        let cpu_millis = self.meters.entry(supervisor_pid).or_default().look(now, usage);
        AttemptFigures { cpu_millis, memory_bytes: usage.rss_bytes }
    }

    /// Forgets every attempt but those of the given supervisors.
    pub fn retain(&mut self, mut is_held: impl FnMut(i32) -> bool) {
        self.meters.retain(|pid, _| is_held(*pid));
    }
}

/// Name of the host, for people.
#[must_use]
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn meminfo_bytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn load_millis(text: &str) -> u32 {
    let load: f64 = text.split_ascii_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    (load * 1_000.0).round() as u32
}

/// The limit of the control group, version 2 then version 1; absent when there is none.
fn memory_limit() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_host_has_figures_and_at_least_one_slot() {
        let figures = figures(Path::new("/"));
        assert!(figures.cores > 0 && figures.memory_bytes > 0 && figures.disk_free_bytes > 0, "{figures:?}");
        assert!(figures.memory_available_bytes <= figures.memory_bytes);
        assert!(default_slots(&figures) >= 1);
        assert!(!name().is_empty());
    }

    #[test]
    fn slots_are_bounded_by_cores_and_by_memory() {
        let slots = |cores, gib: u64| {
            default_slots(&HostFigures {
                cores,
                memory_bytes: gib * BYTES_PER_SLOT,
                ..HostFigures::default()
            })
        };
        assert_eq!((slots(8, 4), slots(2, 64), slots(4, 0), slots(0, 0)), (4, 2, 1, 1));
    }

    #[test]
    fn the_kernels_texts_are_read() {
        let text = "MemTotal:       24012345 kB\nMemFree: 5 kB\nMemAvailable:    100 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(24_012_345 * 1024));
        assert_eq!(meminfo_bytes(text, "MemAvailable"), Some(102_400));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        assert_eq!(load_millis("0.52 0.58 0.59 1/389 1234\n"), 520);
        assert_eq!(load_millis("nonsense"), 0);
    }

    #[test]
    fn an_attempt_is_measured_and_forgotten() {
        let mut probe = HostProbe::new(PathBuf::from("/"));
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(probe.attempt(me, BootMillis(1)).memory_bytes > 0);
        probe.retain(|pid| pid != me);
        assert!(probe.meters.is_empty());
    }

    #[test]
    fn cpu_is_the_difference_of_two_looks() {
        let mut meter = CpuMeter::default();
        let ticks = rustix::param::clock_ticks_per_second();
        let look = |cpu_ticks| TreeUsage { cpu_ticks, rss_bytes: 0 };
        assert_eq!(meter.look(BootMillis(0), look(5)), 0);
        let later = BootMillis(0).plus(Duration::from_secs(2));
        assert_eq!(meter.look(later, look(5 + ticks)), 500);
        assert_eq!(meter.look(later, look(6 + ticks)), 0);
        assert_eq!(meter.look(later.plus(Duration::from_secs(1)), look(0)), 0);
    }
}
