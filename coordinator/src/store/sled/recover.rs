//! From files as a crash left them to a sled that has every commit, whole, and a journal that has none.
//!
//! Knows what may be opened and in which order; refuses to know what records mean.

use std::path::Path;

use super::Recovery;
use super::ahead::Round;
use super::anchor::Anchor;
use super::disk::Disk;
use super::journal::Journal;
use super::layers;
use super::version;
use crate::store::changes;
use crate::store::error::{Fault, OpenError};
use crate::store::key::Key;
use crate::store::meta::{ClusterId, Meta};
use crate::store::record::{RecordError, SCHEMA};

/// Which schemas may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accept {
    /// This version's.
    Current,
    /// Also those before it.
    Older,
}

/// What a store consists of while it is being opened.
pub(super) struct Files<'a> {
    pub(super) dir: &'a Path,
    pub(super) disk: &'a Disk,
    pub(super) anchor: &'a Anchor,
}

impl Files<'_> {
    /// Brings an opened store to a state in which sled has every commit, whole, and returns its meta.
    pub(super) fn recover(
        &self,
        journal: &mut Journal,
        (new_cluster, accept): (ClusterId, Accept),
        recovered: &mut Recovery,
    ) -> Result<Meta, OpenError> {
        let disk = self.disk;
        let meta = match self.meta(accept)? {
            Some(meta) => meta,
            None if !disk.is_empty() => {
                return Err(self.damaged("it has records but no record of its own"));
            }
            None => {
                let meta = Meta::new(new_cluster);
                self.anchor.check(self.dir, meta.commits)?;
                disk.write(&[changes::of_meta(&meta)])?;
                meta
            }
        };
        // What the last process wrote may still be in the page cache only, and is about to be served as durable.
        crate::failpoint::failpoint!("open::before_sync");
        disk.sync()?;
        let (round, last) = self.left_in(journal, meta.commits)?;
        self.anchor.check(self.dir, last)?;
        crate::failpoint::failpoint!("open::before_recover");
        layers::bring(disk, &round)?;
        recovered.replayed = last - meta.commits;
        crate::failpoint::failpoint!("open::before_clear");
        journal.clear(self.dir, disk.syncer())?;
        Ok(disk.meta()?.ok_or_else(|| Fault::Own { key: Key::meta() })?)
    }

    /// The store's own record, if there is one, of a store that may be opened. Changes nothing: a newer version may have
    /// left something that this one would misread.
    fn meta(&self, accept: Accept) -> Result<Option<Meta>, OpenError> {
        let newer = |found| OpenError::NewerSchema { by: version::noted(self.dir), found };
        let meta = match self.disk.meta() {
            // The frame of a newer record is whole, and says no more than that.
            Err(Fault::Record { source: RecordError::NewerSchema { found }, .. }) => {
                return Err(newer(found.into()));
            }
            read => read?,
        };
        let Some(meta) = meta else { return Ok(None) };
        let supported = u32::from(SCHEMA);
        if meta.schema > supported {
            return Err(newer(meta.schema));
        }
        if meta.schema < supported && accept == Accept::Current {
            return Err(OpenError::OlderSchema { found: meta.schema });
        }
        if meta.importing {
            return Err(OpenError::UnfinishedImport { dir: self.dir.to_owned() });
        }
        if self.disk.get(&Key::commit_marker())?.is_some() {
            return Err(OpenError::HalfCommitted { dir: self.dir.to_owned() });
        }
        Ok(Some(meta))
    }

    /// What the journal has that sled, which ends at commit `known`, has not, and the number of the last commit.
    fn left_in(&self, journal: &Journal, mut known: u64) -> Result<(Round, u64), OpenError> {
        let mut round = Round::new();
        for entry in journal.entries() {
            let entry = entry?;
            if entry.number <= known {
                continue;
            }
            if entry.number != known + 1 {
                let detail =
                    format!("its files end at commit {known}, its journal goes on at {}", entry.number);
                return Err(self.damaged(&detail));
            }
            round.extend(entry.changes);
            known = entry.number;
        }
        Ok((round, known))
    }

    fn damaged(&self, detail: &str) -> OpenError {
        OpenError::Damaged { dir: self.dir.to_owned(), detail: detail.to_owned() }
    }
}
