//! Taking back a login that was lent and not given back: by this agent's former process, or by another agent of this host
//! that died. Knows locks and notes; refuses to know attempts.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::super::login::{Lock, LoginError, LoginPlace, Note, Settled};
use super::{LOCK_POLL, SETTLE_TRIES};
use crate::causes::one_line;

/// How a lock was tried.
pub(super) enum Tried {
    /// It is ours, and nothing is left of a former holder.
    Locked(Lock),
    /// Another process has it.
    Held,
    /// It is free, but another agent died and has not taken back what it lent.
    Abandoned,
}

pub(super) fn take_lock(place: &LoginPlace, wait_is_over: bool) -> Result<Tried, LoginError> {
    let Some(lock) = place.try_lock()? else { return Ok(Tried::Held) };
    match place.note() {
        Some(note) if !place.is_own(&note) && !wait_is_over => Ok(Tried::Abandoned),
        Some(note) => {
            tracing::warn!(reference = note.reference, "a login was not given back and is taken back now");
            place.settle().map_err(|source| LoginError::Io { path: place.dir().to_owned(), source })?;
            Ok(Tried::Locked(lock))
        }
        None => Ok(Tried::Locked(lock)),
    }
}

/// The note of a login that this agent, or a former process of it, lent.
pub(super) fn own_note(place: &LoginPlace) -> Option<Note> {
    place.note().filter(|note| place.is_own(note))
}

pub(super) fn settle_own(pool: &str, place: &LoginPlace) {
    let own = |place: &LoginPlace| own_note(place).is_some();
    for _ in 0..SETTLE_TRIES {
        if !own(place) {
            return;
        }
        match place.try_lock() {
            Ok(Some(_lock)) if own(place) => return told(pool, place.settle()),
            Ok(Some(_)) => return,
            Ok(None) => std::thread::sleep(LOCK_POLL),
            Err(error) => {
                return tracing::warn!(pool, error = one_line(&error), "a lent login is not settled");
            }
        }
    }
    tracing::warn!(pool, "a lent login is not settled: its lock is held");
}

/// The same for pools that this agent no longer has.
pub(in crate::credentials) fn settle_forgotten<'a>(
    dir: &Path,
    known: impl Iterator<Item = &'a String>,
    in_use: &BTreeSet<PathBuf>,
) {
    let known: BTreeSet<&String> = known.collect();
    let owner = dir.parent().unwrap_or(dir);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if super::super::settings::is_name(&name) && !known.contains(&name) {
            let place = LoginPlace::new(&name, &entry.path(), owner);
            if own_note(&place).is_none_or(|note| !in_use.contains(&note.config)) {
                settle_own(&name, &place);
            }
        }
    }
}

pub(super) fn told(pool: &str, settled: io::Result<Settled>) {
    match settled {
        Ok(Settled::Renewed) => tracing::info!(pool, "the CLI refreshed the login; it is kept"),
        Ok(Settled::Kept | Settled::NotLent) => {}
        Err(error) => {
            tracing::error!(pool, %error, "a lent login could not be taken back; the next attempt tries again")
        }
    }
}
