//! A store in memory that fails the way disks do: for tests of what is above it, and for simulation.
//!
//! It keeps no threads, no clock and no files. What a crash may take is modelled explicitly: a commit that failed
//! between its write and its sync has an open outcome, and [`MemoryStore::crash`] decides it by a seed, as a real disk
//! may have written it or not. Everything acknowledged is kept.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::changes::{self, Change};
use super::error::{CommitError, ExportError, Fault, ImportError, LoadError, ReadError};
use super::key::{Key, Prefix};
use super::meta::{ClusterId, Meta};
use super::read::{self, RawRange, Records};
use super::tally::Share;
use super::transfer::{self, TransferReport};
use super::{Batch, CommitStats, EpochStep, Health, LoadReport, Record, Recovery, Store};

/// Where a commit is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailAt {
    /// Before anything was written: the batch is lost.
    BeforeWrite,
    /// Written, not synced: a crash may keep it or lose it, as a whole.
    BeforeSync,
    /// Synced, but the caller got an error: the batch is durable and nobody was told.
    AfterSync,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    meta: Meta,
    durable: BTreeMap<Key, Vec<u8>>,
    /// Written by a commit whose sync failed.
    open_outcome: Vec<Change>,
    stopped: bool,
    /// Commits until the planned failure, counted down.
    failure: Option<(u64, FailAt)>,
    commits: u64,
    totals: CommitStats,
    last_commit: Option<CommitStats>,
}

impl MemoryStore {
    /// An empty store of a cluster whose id is all zeros.
    pub fn new() -> Self {
        Self::of_cluster(ClusterId([0; 16]))
    }

    /// An empty store.
    pub fn of_cluster(cluster: ClusterId) -> Self {
        let meta = Meta::new(cluster);
        Self { inner: Mutex::new(Inner::holding(BTreeMap::from([(Key::meta(), meta.encode())]), meta)) }
    }

    /// What a process that starts after a crash of this one finds. This one answers nothing more.
    pub fn crash(&self, seed: u64) -> Self {
        let mut inner = self.lock();
        inner.stopped = true;
        let mut durable = inner.durable.clone();
        if seed & 1 == 1 {
            apply(&mut durable, inner.open_outcome.clone());
        }
        let meta =
            durable.get(&Key::meta()).and_then(|framed| Meta::decode(framed).ok()).unwrap_or(inner.meta);
        Self { inner: Mutex::new(Inner::holding(durable, meta)) }
    }

    /// Makes the `nth` commit from now fail, 1 being the next one.
    pub fn fail_nth(&self, nth: u64, at: FailAt) {
        self.lock().failure = Some((nth.max(1), at));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serving(&self) -> Result<MutexGuard<'_, Inner>, Fault> {
        let inner = self.lock();
        if inner.stopped { Err(Fault::Stopped) } else { Ok(inner) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn holding(durable: BTreeMap<Key, Vec<u8>>, meta: Meta) -> Self {
        Self {
            meta,
            durable,
            open_outcome: Vec::new(),
            stopped: false,
            failure: None,
            commits: 0,
            totals: CommitStats::default(),
            last_commit: None,
        }
    }

    fn write(&mut self, mut changes: Vec<Change>, mut meta: Meta) -> Result<CommitStats, Fault> {
        changes::settle(&mut changes, &mut meta, &self.durable)?;
        let stats = changes::cost(&changes);
        let failure = self.planned_failure();
        if failure.is_some() {
            self.stopped = true;
        }
        match failure {
            Some(FailAt::BeforeWrite) => return Err(injected("write the batch")),
            Some(FailAt::BeforeSync) => {
                self.open_outcome = changes;
                return Err(injected("sync the batch"));
            }
            Some(FailAt::AfterSync) | None => apply(&mut self.durable, changes),
        }
        self.meta = meta;
        self.commits += 1;
        self.totals += stats;
        self.last_commit = Some(stats);
        if failure.is_some() { Err(injected("answer for the batch")) } else { Ok(stats) }
    }

    fn planned_failure(&mut self) -> Option<FailAt> {
        let (left, at) = self.failure?;
        self.failure = if left == 1 { None } else { Some((left - 1, at)) };
        (left == 1).then_some(at)
    }
}

impl Store for MemoryStore {
    fn meta(&self) -> Meta {
        self.lock().meta
    }

    fn load_with(&self, visit: &mut dyn FnMut(Key, &[u8])) -> Result<LoadReport, LoadError> {
        let inner = self.serving()?;
        Ok(read::load(&inner.durable, inner.meta, Recovery::default(), visit)?)
    }

    fn begin_epoch(&self, step: EpochStep, tick: u64) -> Result<Meta, CommitError> {
        let mut inner = self.serving()?;
        let meta = inner.meta.begun(step, tick);
        inner.write(Vec::new(), meta)?;
        Ok(meta)
    }

    fn commit(&self, batch: Batch) -> Result<CommitStats, CommitError> {
        let mut inner = self.serving()?;
        let (changes, meta) = changes::check(batch, &inner.meta)?;
        if changes.is_empty() && meta == inner.meta {
            return Ok(CommitStats::default());
        }
        Ok(inner.write(changes, meta)?)
    }

    fn mark_clean(&self, expect_epoch: u64, tick: u64) -> Result<(), CommitError> {
        let mut inner = self.serving()?;
        let meta = changes::closed(&inner.meta, expect_epoch, tick)?;
        inner.write(Vec::new(), meta)?;
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, ReadError> {
        let inner = self.serving()?;
        let framed = inner.durable.get(key);
        Ok(framed.map(|framed| read::payload(key, framed).map(<[u8]>::to_vec)).transpose()?)
    }

    fn scan(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<Record>, ReadError> {
        read::scan(&self.serving()?.durable, prefix, after, limit)
    }

    fn export(&self, to: &mut dyn Write) -> Result<TransferReport, ExportError> {
        let inner = self.serving()?;
        transfer::export(&inner.durable, &inner.meta, to)
    }

    fn import(&self, from: &mut dyn BufRead) -> Result<TransferReport, ImportError> {
        let mut inner = self.serving()?;
        if inner.durable.len() > 1 {
            return Err(ImportError::NotEmpty);
        }
        // Stopped until the trailer has vouched for everything.
        inner.stopped = true;
        let mut reader = transfer::Reader::open(from)?;
        let mut meta = reader.meta();
        let mut records = BTreeMap::new();
        loop {
            let changes = reader.next_changes(read::PAGE)?;
            if changes.is_empty() {
                break;
            }
            apply(&mut records, changes);
        }
        meta.tally = reader.tally();
        records.insert(Key::meta(), meta.encode());
        *inner = Inner::holding(records, meta);
        Ok(reader.report())
    }

    fn health(&self) -> Result<Health, ReadError> {
        let inner = self.lock();
        Ok(Health {
            serving: !inner.stopped,
            bytes_on_disk: 0,
            live_records: inner.meta.tally.records,
            live_bytes: inner.meta.tally.bytes,
            free_disk_percent: 100,
            disk_is_low: false,
            free_disk_bytes: 0,
            commits: inner.commits,
            totals: inner.totals,
            last_commit: inner.last_commit,
        })
    }
}

impl Records for BTreeMap<Key, Vec<u8>> {
    fn share(&self, key: &Key) -> Result<Option<Share>, Fault> {
        Ok(self.get(key).map(|framed| Share::of(key, framed)))
    }

    fn page(&self, range: &RawRange, limit: usize) -> Result<Vec<Record>, Fault> {
        let range = (as_slice(&range.0), as_slice(&range.1));
        let records = self.range::<[u8], _>(range).take(limit);
        Ok(records.map(|(key, framed)| (key.clone(), framed.clone())).collect())
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn apply(records: &mut BTreeMap<Key, Vec<u8>>, changes: Vec<Change>) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(records.insert(key, value)),
            None => drop(records.remove(&key)),
        }
    }
}

fn injected(doing: &'static str) -> Fault {
    Fault::Io { doing, source: io::Error::other("injected by a test") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Op;
    use crate::store::key::Tenant;
    use crate::store::suite::{Backend, conformance};

    impl Backend for MemoryStore {
        fn store(&self) -> &dyn Store {
            self
        }

        fn crash(&mut self, seed: u64) {
            *self = Self::crash(self, seed);
        }

        fn fail_next(&self, at: FailAt) {
            self.fail_nth(1, at);
        }

        fn another(&self) -> Box<dyn Backend> {
            Box::new(Self::new())
        }
    }

    conformance!(MemoryStore::new(), histories: 256);

    fn put(run: u64) -> Batch {
        Batch { expect_epoch: 0, ops: vec![Op::Put { key: Key::run(Tenant::DEFAULT, run), value: vec![1] }] }
    }

    #[test]
    fn the_seed_decides_an_open_outcome_and_nothing_else() {
        let store = MemoryStore::new();
        store.commit(put(1)).unwrap();
        store.fail_nth(2, FailAt::BeforeSync);
        store.commit(put(2)).unwrap();
        store.commit(put(3)).unwrap_err();
        let runs = |seed| store.crash(seed).load().unwrap().records.len();
        assert_eq!((runs(0), runs(1)), (2, 3));
    }

    #[test]
    fn a_crashed_process_cannot_write_on() {
        let store = MemoryStore::new();
        let _next = store.crash(0);
        assert!(matches!(store.commit(put(1)), Err(CommitError::Fault(Fault::Stopped))));
    }
}
