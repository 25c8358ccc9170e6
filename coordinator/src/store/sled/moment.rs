//! All records as they were at one moment, read while commits go on.
//!
//! Whoever commits leaves here what a record was before, unless it was read already; whoever reads takes that for what is
//! there now. So a commit waits for one page at most, and what is kept is what changes while everything is read.
//! Knows keys and bytes; refuses to know what they are read for.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{MutexGuard, PoisonError};

use super::SledStore;
use super::layers::Layers;
use crate::store::Record;
use crate::store::changes::Change;
use crate::store::error::Fault;
use crate::store::key::Key;
use crate::store::meta::Meta;
use crate::store::read::{RawRange, Records};
use crate::store::tally::Share;

/// What changed since the moment and was not read yet.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// Up to here everything was read.
    read: Option<Vec<u8>>,
    /// By key, what each was; `None` for one that was not there.
    was: BTreeMap<Vec<u8>, (Key, Option<Vec<u8>>)>,
}

impl Before {
    /// To be told of changes before they are written.
    pub(super) fn note(&mut self, changes: &[Change], layers: &Layers) -> Result<(), Fault> {
        for (key, _) in changes {
            let bytes = key.as_bytes();
            let ahead = self.read.as_deref().is_none_or(|read| bytes > read);
            if ahead && !self.was.contains_key(bytes) {
                let was = layers.get(key)?;
                self.was.insert(bytes.to_vec(), (key.clone(), was));
            }
        }
        Ok(())
    }

    /// Makes a page, which holds everything of a range, what it was.
    fn undo(&self, page: Vec<Record>, range: RawRange) -> impl Iterator<Item = Record> + use<> {
        let mut then: BTreeMap<Key, Vec<u8>> = page.into_iter().collect();
        for (key, was) in self.was.range::<Vec<u8>, _>(range).map(|(_, change)| change) {
            match was {
                Some(framed) => then.insert(key.clone(), framed.clone()),
                None => then.remove(key),
            };
        }
        then.into_iter()
    }
}

/// The store as it was when this was made. There is one at a time.
#[derive(Debug)]
pub(super) struct Moment<'a> {
    store: &'a SledStore,
    _alone: MutexGuard<'a, ()>,
}

impl<'a> Moment<'a> {
    /// From now on nothing that is committed is seen. Returns the store's own record as well.
    pub(super) fn new(store: &'a SledStore) -> Result<(Self, Meta), Fault> {
        let alone = store.exporting.lock().unwrap_or_else(PoisonError::into_inner);
        let current = store.writer()?;
        *store.before() = Some(Before::default());
        Ok((Self { store, _alone: alone }, *current))
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        *self.store.before() = None;
    }
}

impl Records for Moment<'_> {
    fn share(&self, key: &Key) -> Result<Option<Share>, Fault> {
        self.store.layers.share(key)
    }

    fn page(&self, range: &RawRange, limit: usize) -> Result<Vec<Record>, Fault> {
        let _nobody_writes = self.store.writer()?;
        let mut before = self.store.before();
        let before = before.get_or_insert_default();
        let (mut from, end) = range.clone();
        let mut found: Vec<Record> = Vec::with_capacity(limit);
        loop {
            let page = self.store.layers.page(&(from.clone(), end.clone()), limit)?;
            let last = page.last().map(|(key, _)| key.as_bytes().to_vec()).filter(|_| page.len() == limit);
            let until = last.clone().map_or_else(|| end.clone(), Bound::Included);
            found.extend(before.undo(page, (from, until)));
            match last {
                // Fewer than there were at the moment would look like the end.
                Some(last) if found.len() < limit => from = Bound::Excluded(last),
                _ => break,
            }
        }
        found.truncate(limit);
        if let Some((last, _)) = found.last().filter(|_| found.len() == limit) {
            let read = last.as_bytes().to_vec();
            before.was = before.was.split_off(&read);
            before.was.remove(&read);
            before.read = Some(read);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, ClusterId, EpochStep, Op, Store as _, Tenant};
    use std::io::{self, Write};

    const RECORDS: u64 = 2_000;

    fn key(number: u64) -> Key {
        Key::run(Tenant::DEFAULT, number)
    }

    fn put(number: u64, value: &[u8]) -> Op {
        Op::Put { key: key(number), value: value.to_vec() }
    }

    fn commit(store: &SledStore, ops: Vec<Op>) {
        store.commit(Batch { expect_epoch: store.meta().epoch, ops }).unwrap();
    }

    fn filled(dir: &std::path::Path) -> SledStore {
        let store = SledStore::open(dir, ClusterId([1; 16])).unwrap();
        store.begin_epoch(EpochStep::Start, 1).unwrap();
        for first in (0..RECORDS).step_by(500) {
            commit(&store, (first..first + 500).map(|number| put(2 * number, b"as it was")).collect());
        }
        store
    }

    /// Changes what was read, what is being read and what was not, with every line.
    struct Meddler<'a> {
        store: &'a SledStore,
        lines: u64,
        bytes: Vec<u8>,
    }

    impl Write for Meddler<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.lines += 1;
            self.bytes.extend_from_slice(bytes);
            let (line, last) = (self.lines, 2 * RECORDS);
            let near = 2 * line;
            let mut ops = vec![put(near + 1, b"new"), put(near + 600, b"another"), put(last + line, b"new")];
            if line % 100 == 1 {
                // More than a page in one commit, all of it ahead at first.
                ops = (0..600).map(|at| Op::Delete { key: key((near + 2 * at + 800) % last) }).collect();
            }
            ops.dedup_by_key(|op| match op {
                Op::Put { key, .. } | Op::Delete { key } => Some(key.clone()),
                Op::SetTick(_) => None,
            });
            if line % 10 == 1 {
                commit(self.store, ops);
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_export_shows_one_moment_whatever_is_committed_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(dir.path());
        let mut expected = Vec::new();
        store.export(&mut expected).unwrap();
        let commits = store.meta().commits;
        let mut meddler = Meddler { store: &store, lines: 0, bytes: Vec::new() };
        let report = store.export(&mut meddler).unwrap();
        assert_eq!(report.records, RECORDS);
        assert!(meddler.bytes == expected, "it shows the moment at which it began");
        assert!(store.meta().commits > commits + 100, "commits did not wait");
        assert!(store.before().is_none(), "nothing is kept any more");
        let mut after = Vec::new();
        store.export(&mut after).unwrap();
        assert!(after != expected, "the next one shows another moment");
    }
}
