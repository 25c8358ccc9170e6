//! All records of a store: those that sled has, and ahead of it those that only the journal has.
//!
//! Whoever commits adds to what is ahead and never waits for sled, but for [`Layers::leave`] when it is too far behind. A
//! thread of its own brings one round after the other to sled: [`Layers::bring`].
//!
//! A round may be more than one batch. Between two of them sled has a part of it, which no reader sees, because the whole
//! round is still ahead, and which a crash leaves under the old record of the store itself: that is written last, and
//! what opens the store tells sled all of the round again.
//!
//! Knows which layer answers; refuses to know the journal's files and what a commit is.

use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::ahead::{Ahead, Round};
use super::disk::Disk;
use crate::store::Record;
use crate::store::changes::Change;
use crate::store::error::Fault;
use crate::store::key::Key;
use crate::store::read::{RawRange, Records};
use crate::store::tally::Share;

#[derive(Debug)]
pub(super) struct Layers {
    disk: Disk,
    ahead: Mutex<Progress>,
    /// Told when a round is to leave, has left, or never will.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    ahead: Ahead,
    /// No more rounds are brought to sled.
    ended: bool,
}

impl Layers {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk, ahead: Mutex::default(), moved: Condvar::new() }
    }

    /// For what is to go to sled at once: nobody may commit meanwhile, and nothing may be ahead. How it waits for the disk may
    /// be asked at any time.
    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Adds a commit, whose entry in the journal is durable.
    pub(super) fn note(&self, changes: Vec<Change>) {
        self.lock().ahead.note(changes);
    }

    /// Lets what was noted leave for sled. `false` if another round is still on its way, for which this waits if `wait`.
    pub(super) fn leave(&self, wait: bool) -> Result<bool, Fault> {
        let mut progress = self.lock();
        while wait && progress.ahead.leaving().is_some() {
            progress = self.moving(progress)?;
        }
        let leaves = progress.ahead.leave();
        drop(progress);
        self.moved.notify_all();
        Ok(leaves)
    }

    /// Waits until nothing is on its way any more.
    pub(super) fn wait_until_left(&self) -> Result<(), Fault> {
        let mut progress = self.lock();
        while progress.ahead.leaving().is_some() {
            progress = self.moving(progress)?;
        }
        Ok(())
    }

    /// The round that is to be brought to sled, waited for; none when that has ended.
    pub(super) fn next_round(&self) -> Option<Arc<Round>> {
        let mut progress = self.lock();
        loop {
            match progress.ahead.leaving() {
                _ if progress.ended => return None,
                Some(round) => return Some(Arc::clone(round)),
                None => progress = self.moved.wait(progress).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Brings that round to sled, after which sled answers for it.
    pub(super) fn bring(&self, round: &Round) -> Result<(), Fault> {
        bring(&self.disk, round)?;
        crate::failpoint::failpoint!("settle::before_left");
        self.lock().ahead.has_left();
        self.moved.notify_all();
        Ok(())
    }

    /// No more rounds are to be brought to sled, nor waited for.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.moved.notify_all();
    }

    /// The framed value under a key.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Fault> {
        // What is not ahead by now is in sled, or is newer than this look.
        if let Some(known) = self.lock().ahead.get(key) {
            return Ok(known.map(<[u8]>::to_vec));
        }
        Ok(self.disk.get(key)?.map(|framed| framed.to_vec()))
    }

    fn moving<'a>(&self, progress: MutexGuard<'a, Progress>) -> Result<MutexGuard<'a, Progress>, Fault> {
        if progress.ended {
            return Err(Fault::Stopped);
        }
        Ok(self.moved.wait(progress).unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings a round to sled, durably, the store's own record last.
pub(super) fn bring(disk: &Disk, round: &Round) -> Result<(), Fault> {
    let meta = Key::meta();
    let changes = round.iter().map(|(key, value)| (key.clone(), value.clone()));
    let (own, mut changes): (Vec<Change>, Vec<Change>) = changes.partition(|(key, _)| *key == meta);
    changes.extend(own);
    disk.apply(&changes)?;
    disk.sync()
}

impl Records for Layers {
    fn share(&self, key: &Key) -> Result<Option<Share>, Fault> {
        if let Some(known) = self.lock().ahead.get(key) {
            return Ok(known.map(|framed| Share::of(key, framed)));
        }
        Ok(self.disk.get(key)?.map(|framed| Share::of(key, &framed)))
    }

    fn page(&self, range: &RawRange, limit: usize) -> Result<Vec<Record>, Fault> {
        let (mut from, end) = range.clone();
        let mut found: Vec<Record> = Vec::with_capacity(limit.min(crate::store::read::PAGE));
        loop {
            let left = self.lock().ahead.left();
            let page = self.disk.range(&(from.clone(), end.clone()), limit)?;
            let last = page.last().map(|(key, _)| key.as_bytes().to_vec()).filter(|_| page.len() == limit);
            let until = last.clone().map_or_else(|| end.clone(), Bound::Included);
            let progress = self.lock();
            if progress.ahead.left() != left {
                // What was ahead may have gone to sled behind the back of the look at sled.
                continue;
            }
            found.extend(progress.ahead.over(page, &(from.clone(), until)));
            drop(progress);
            match last {
                // Fewer than there are would look like the end.
                Some(last) if found.len() < limit => from = Bound::Excluded(last),
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}
