//! Signs that a silent child is at work: its session files grow, or the tools below it use CPU. Both put the silence
//! limit off; the deadline of the attempt they do not. Knows files and processes; refuses to know what is in them.
//!
//! | Silent, and | Counts as |
//! |---|---|
//! | a session file grew, a sub-agent's included | life |
//! | processes below the CLI used a twentieth of a core or more: a build, a test run | life |
//! | the CLI itself uses CPU | nothing: a CLI that spins in a circle looks like that |
//! | a tool waits without CPU: for a lock, a network, a person | nothing: a hang once the silence limit is over |
//!
//! A tool therefore gets the same silence limit as the model. The CLI itself ends a Bash call after 2 minutes, 10 at
//! most, so a limit well above that (30 minutes unless an assignment says otherwise) never meets one that is merely
//! slow. For a plain program its own CPU counts as well: it is the work.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::boottime::BootMillis;
use crate::procfs::ProcStat;

/// Looks within one silence limit: a sign that fell between two of them is not lost, because both signs only grow.
const LOOKS: u32 = 8;

/// Longest time between two looks.
const LOOK_AT_LEAST: Duration = Duration::from_secs(10);

/// Shortest time between two looks: one walks through the process table.
const LOOK_AT_MOST: Duration = Duration::from_millis(20);

/// A tree that uses less than this part of a core is idle: timers and polling take about a hundredth.
const WORKING_PART: u64 = 20;

/// Entries looked at in the session directory. The child may write there, so the walk is bounded.
const MOST_ENTRIES: usize = 2_000;

/// How deep: `PROJECT/SESSION/subagents/FILE`.
const DEPTH: usize = 4;

/// Watches for signs of life between two outputs.
#[derive(Debug)]
pub struct LifeSigns {
    dir: Option<PathBuf>,
    every: Duration,
    next: BootMillis,
    last: (BootMillis, u64, u64),
}

impl LifeSigns {
    /// Watches a child that is started at `now`, with a silence limit. `dir` holds its session files.
    #[must_use]
    pub fn new(now: BootMillis, silence: Duration, dir: Option<PathBuf>) -> Self {
        let every = (silence / LOOKS).clamp(LOOK_AT_MOST, LOOK_AT_LEAST);
        // Nothing is below it yet that could have worked.
        let last = (now, dir.as_deref().map_or(0, written_below), 0);
        Self { dir, every, next: now.plus(every), last }
    }

    /// When [`Self::look`] is due.
    #[must_use]
    pub fn next(&self) -> BootMillis {
        self.next
    }

    /// Looks at `now`, given the CPU its tree worked so far, in clock ticks of `ticks_per_second`. Says whether there
    /// was life since the last look.
    pub fn look(&mut self, now: BootMillis, ticks: u64, ticks_per_second: u64) -> bool {
        self.next = now.plus(self.every);
        let bytes = self.dir.as_deref().map_or(0, written_below);
        let (then, old_bytes, old_ticks) = std::mem::replace(&mut self.last, (now, bytes, ticks));
        let millis = u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX);
        let working = millis.saturating_mul(ticks_per_second) / 1_000 / WORKING_PART;
        bytes > old_bytes || ticks.saturating_sub(old_ticks) >= working.max(1)
    }
}

/// CPU in clock ticks that work below a supervisor has used, given every process below it. The first `links` of the chain
/// that begins with its `child` are those that only wait for work: the CLI, and what it is wrapped in. Of them only
/// the CPU of children they have waited for counts.
#[must_use]
pub fn work_ticks(below: &[ProcStat], child: i32, links: usize) -> u64 {
    let idle = chain(below, child, links);
    let ticks =
        |stat: &ProcStat| if idle.contains(&stat.pid) { stat.children_cpu_ticks } else { stat.cpu_ticks };
    below.iter().map(ticks).fold(0, u64::saturating_add)
}

/// The child, its first child, and so on. Whatever else a wrapper adopts came later.
fn chain(below: &[ProcStat], child: i32, links: usize) -> BTreeSet<i32> {
    let mut chain = BTreeSet::new();
    let mut next = below.iter().find(|stat| stat.pid == child);
    // A list read while processes come and go can hold a circle.
    while let Some(stat) = next.filter(|stat| chain.len() < links && chain.insert(stat.pid)) {
        let children = below.iter().filter(|other| other.ppid == stat.pid);
        next = children.min_by_key(|other| (other.start_ticks, other.pid));
    }
    chain
}

/// Bytes of all files below a directory. Follows no link; what cannot be read counts nothing.
fn written_below(root: &Path) -> u64 {
    let mut bytes: u64 = 0;
    let mut left = MOST_ENTRIES;
    let mut open = vec![(root.to_owned(), 0)];
    while let Some((dir, depth)) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            left = left.saturating_sub(1);
            if left == 0 {
                return bytes;
            }
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() && depth < DEPTH {
                open.push((entry.path(), depth + 1));
            } else if found.is_file() {
                bytes = bytes.saturating_add(found.len());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> BootMillis = |seconds| BootMillis(seconds * 1_000);

    fn signs(dir: Option<PathBuf>) -> LifeSigns {
        LifeSigns::new(S(0), Duration::from_secs(1_800), dir)
    }

    #[test]
    fn a_growing_file_of_a_session_or_a_sub_agent_is_life() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("-work/5a/subagents");
        fs::create_dir_all(&sub).unwrap();
        let mut signs = signs(Some(dir.path().to_owned()));
        assert!(!signs.look(S(10), 0, 100), "nothing happened since the start");
        for file in [dir.path().join("-work/5a.jsonl"), sub.join("agent-1.jsonl")] {
            fs::write(&file, "x").unwrap();
            assert!(signs.look(S(20), 0, 100), "{}", file.display());
            assert!(!signs.look(S(30), 0, 100), "it stands still again");
        }
        fs::write(sub.join("agent-1.jsonl"), "").unwrap();
        assert!(!signs.look(S(40), 0, 100), "what shrinks does not grow");
    }

    #[test]
    fn cpu_of_a_tenth_of_a_core_is_work_and_of_a_hundredth_is_not() {
        let mut signs = signs(None);
        assert!(!signs.look(S(10), 10, 100));
        assert!(signs.look(S(20), 110, 100));
        assert!(!signs.look(S(30), 110, 100));
    }

    #[test]
    fn looks_are_spread_over_the_limit() {
        let mut short = LifeSigns::new(S(0), Duration::from_millis(400), None);
        assert_eq!(short.next(), BootMillis(50), "and the first of them comes later than the start");
        short.look(BootMillis(50), 0, 100);
        assert_eq!(short.next(), BootMillis(100));
        assert_eq!(signs(None).next(), S(10));
    }

    #[test]
    fn the_walk_is_bounded_and_a_missing_directory_is_nothing() {
        assert_eq!(written_below(Path::new("/nonexistent")), 0);
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MOST_ENTRIES + 10 {
            fs::write(dir.path().join(number.to_string()), "x").unwrap();
        }
        assert_eq!(written_below(dir.path()), MOST_ENTRIES as u64 - 1);
    }

    fn process(pid: i32, ppid: i32, comm: &str, cpu: u64, children: u64) -> ProcStat {
        ProcStat {
            pid,
            ppid,
            state: 'S',
            start_ticks: u64::from(pid.unsigned_abs()),
            cpu_ticks: cpu,
            children_cpu_ticks: children,
            rss_bytes: 0,
            comm: comm.to_owned(),
        }
    }

    #[test]
    fn the_clis_own_cpu_is_no_work_and_that_of_its_tools_is_also_after_their_end() {
        let below = [
            process(10, 1, "bwrap", 5, 0),
            process(11, 10, "first", 5, 0),
            process(12, 11, "claude", 700, 40),
            process(13, 12, "cargo", 300, 0),
            process(14, 11, "daemon", 2, 0),
        ];
        assert_eq!(work_ticks(&below, 10, 3), 342);
        assert_eq!(work_ticks(&below[2..4], 12, 1), 340);
        assert_eq!(work_ticks(&below[2..4], 12, 0), 1_000);
        assert_eq!(work_ticks(&[], 12, 3), 0);
        let circle = [process(10, 11, "a", 1, 0), process(11, 10, "b", 1, 0)];
        assert_eq!(work_ticks(&circle, 10, 3), 0);
    }
}
