//! What a starting agent finds of its former self: attempts whose supervisors live, attempts whose supervisors ended or
//! were killed meanwhile, and processes that belong to nobody any more. Those are ended, by pid, start time and mark, and
//! never by name; the others are gone on with. Knows the spool, notes and locks; refuses to know what runs.
//!
//! | Of an attempt that is not reported there is | It is |
//! |---|---|
//! | a supervisor that lives | gone on with over its socket |
//! | the record of its end, or a supervisor that was killed | judged, by whoever would have judged it |
//! | a supervisor that was just being started | waited for until it is one of the two above |
//! | nothing: no supervisor was ever started | not found here |

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::boottime::boot_id;
use crate::gates::GATE_PREFIX;
use crate::homes::{ConversationKey, Homes};
use crate::procfs;
use crate::runner::AttemptKey;
use crate::runner::note::{Note, WorkNote};
use crate::runner::supervised::supervisor_id;
use crate::spool::Inventory;
use crate::supervisor::client::leftovers::{self, Leftover};
use crate::supervisor::client::{Launcher, Survivor, is_attended, was_attended};
use crate::supervisor::exit::ExitRecord;
use crate::supervisor::record::RuntimeRecord;
use crate::supervisor::spec::MARK_VARIABLE;
use crate::supervisor::tree;
use rustix::process::Signal;

/// How long a supervisor that was just being started, or is just ending, may take to be the one or the other.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);

/// How often it is looked at.
const SETTLE_POLL: Duration = Duration::from_millis(20);

/// How long a supervisor may take to end its tree before it is killed with it.
const LEFTOVER_GRACE: Duration = Duration::from_secs(10);

/// What is gone on with.
#[derive(Debug, Default)]
pub struct Found {
    survivors: BTreeMap<AttemptKey, Survivor>,
}

impl FromIterator<(AttemptKey, Survivor)> for Found {
    fn from_iter<T: IntoIterator<Item = (AttemptKey, Survivor)>>(survivors: T) -> Self {
        Self { survivors: survivors.into_iter().collect() }
    }
}

impl IntoIterator for Found {
    type Item = (AttemptKey, Survivor);
    type IntoIter = std::collections::btree_map::IntoIter<AttemptKey, Survivor>;

    fn into_iter(self) -> Self::IntoIter {
        self.survivors.into_iter()
    }
}

/// What was ended.
pub type Ended = Vec<Leftover>;

impl Found {
    /// What is left of an attempt, for whoever goes on with it.
    pub(crate) fn take(&mut self, key: AttemptKey) -> Option<Survivor> {
        self.survivors.remove(&key)
    }

    /// Conversations in which something of a former agent still runs.
    #[must_use]
    pub fn conversations(&self) -> BTreeSet<ConversationKey> {
        let living = self.survivors.values().filter(|survivor| survivor.process.is_some());
        living.filter_map(|survivor| Some(Note::read(&survivor.attempt_dir)?.conversation)).collect()
    }
}

/// Looks for what is left of the attempts that `inventory` owes a report of and whose kind `is_run_here`, and ends every
/// other process of a former agent. Nothing of this agent may run yet. Blocks: seconds where something has to be ended.
///
/// # Errors
/// When the directory of notes cannot be listed.
pub fn find(
    inventory: &Inventory,
    homes: &Homes,
    launcher: &Launcher,
    is_run_here: impl Fn(&WorkNote) -> bool,
) -> std::io::Result<(Found, Ended)> {
    let mut found = Found::default();
    let unreported = inventory.held().iter().filter(|(_, held)| held.report.is_none());
    for key in unreported.map(|(key, _)| *key) {
        let dir = homes.attempt_dir(ConversationKey { run: key.run, task: key.task }, key.attempt);
        if !was_attended(&dir) {
            continue;
        }
        settle_gates(key, &dir, launcher)?;
        // Also one that is not gone on with has left its note by now, by which it is ended.
        let survivor = survivor(key, &dir, launcher)?;
        // Without a note of its own nothing is known of it, and it ends with the rest.
        if Note::read(&dir).is_some_and(|note| is_run_here(&note.work)) {
            found.survivors.insert(key, survivor);
        }
    }
    let kept: BTreeSet<&str> = found
        .survivors
        .values()
        .filter(|survivor| survivor.process.is_some())
        .map(|survivor| survivor.id.as_str())
        .collect();
    let mut notes = leftovers::find(launcher.runtime_dir(), launcher.owner())?;
    notes.retain(|note| !kept.contains(note.id.as_str()));
    let ended = leftovers::end_all(launcher.runtime_dir(), notes, LEFTOVER_GRACE);
    for survivor in found.survivors.values().filter(|survivor| survivor.process.is_none()) {
        end_unrecorded(survivor);
    }
    Ok((found, ended))
}

/// Waits for supervisors of gates that were just being started: what a former agent had begun to check is checked anew,
/// so they are ended, by the notes that they leave.
fn settle_gates(key: AttemptKey, dir: &Path, launcher: &Launcher) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(GATE_PREFIX) && was_attended(&entry.path()) {
            settled(key, &entry.path(), launcher)?;
        }
    }
    Ok(())
}

/// The supervisor of an attempt that had one.
fn survivor(key: AttemptKey, dir: &Path, launcher: &Launcher) -> std::io::Result<Survivor> {
    let gone =
        || Survivor { id: supervisor_id(launcher.owner(), key), attempt_dir: dir.to_owned(), process: None };
    Ok(settled(key, dir, launcher)?.map_or_else(gone, |note| Survivor::of(&note)))
}

/// The note of the supervisor that works in a directory; `None` once there certainly is none.
fn settled(key: AttemptKey, dir: &Path, launcher: &Launcher) -> std::io::Result<Option<RuntimeRecord>> {
    let boot = boot_id();
    let note = || -> std::io::Result<Option<RuntimeRecord>> {
        let notes = leftovers::find(launcher.runtime_dir(), launcher.owner())?;
        Ok(notes.into_iter().find(|note| note.attempt_dir == dir && note.is_alive(&boot)))
    };
    let began = Instant::now();
    loop {
        // In this order: a supervisor that begins or ends in between is seen by one of the two.
        let is_attended = is_attended(dir)?;
        if let Some(note) = note()? {
            return Ok(Some(note));
        }
        if !is_attended {
            return Ok(None);
        }
        if began.elapsed() >= SETTLE_LIMIT {
            key.span()
                .in_scope(|| tracing::error!("a supervisor lives and cannot be reached: its child is ended"));
            return Ok(None);
        }
        std::thread::sleep(SETTLE_POLL);
    }
}

/// Ends a supervisor that nobody here can go on with, and everything below it.
pub(crate) fn end(survivor: &Survivor) {
    if let Some((pid, start_ticks)) = survivor.process {
        // An error means that it is gone; stopped, it starts nothing more.
        let _ = tree::signal_exactly(pid, start_ticks, Signal::STOP);
        if procfs::read_stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks) {
            tree::kill_descendants(pid, LEFTOVER_GRACE, || ());
        }
        let _ = tree::signal_exactly(pid, start_ticks, Signal::KILL);
        let _ = tree::kill_marked(&format!("{MARK_VARIABLE}={}", survivor.id), LEFTOVER_GRACE);
    }
}

/// Ends what a supervisor left behind that was killed, or that nobody can reach.
fn end_unrecorded(survivor: &Survivor) {
    if matches!(ExitRecord::read(&survivor.attempt_dir), Ok(Some(_))) {
        return;
    }
    let killed = tree::kill_marked(&format!("{MARK_VARIABLE}={}", survivor.id), LEFTOVER_GRACE);
    if killed.killed > 0 {
        tracing::warn!(processes = killed.killed, dir = %survivor.attempt_dir.display(), "ended what a supervisor left");
    }
}
