//! The suite on sled, and a test for each rule of the [parent module](super).

mod damage;
mod journal;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::store::memory::FailAt;
use crate::store::suite::{Backend, conformance};
use crate::store::{Key, MAX_VALUE_BYTES, Op, Tenant, record};

const T: Tenant = Tenant::DEFAULT;
const CLUSTER: ClusterId = ClusterId([0xC1; 16]);

/// Counts, and fails on request.
#[derive(Debug, Default)]
struct Probe {
    syncs: AtomicU64,
    largest_batch: AtomicUsize,
    fail: Mutex<Option<FailAt>>,
}

impl Probe {
    fn fails(&self, at: FailAt) -> io::Result<()> {
        let mut planned = self.fail.lock().unwrap();
        if *planned == Some(at) {
            *planned = None;
            return Err(io::Error::other("injected by a test"));
        }
        Ok(())
    }
}

impl Syncer for Arc<Probe> {
    fn before_entry(&self) -> io::Result<()> {
        self.fails(FailAt::BeforeWrite)
    }

    fn before_batch(&self, keys: usize) -> io::Result<()> {
        self.largest_batch.fetch_max(keys, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.fails(FailAt::BeforeSync)?;
        DataSync.sync(file)?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.fails(FailAt::AfterSync)
    }
}

/// A store in a directory of its own.
struct OnDisk {
    dir: TempDir,
    store: Option<SledStore>,
    probe: Arc<Probe>,
    /// When a file of the journal is full, if earlier than usual.
    full_at: Option<u64>,
}

impl OnDisk {
    fn new() -> Self {
        let disk = tempfile::tempdir().unwrap();
        let mut made = Self { dir: disk, store: None, probe: Arc::default(), full_at: None };
        made.reopened();
        made
    }

    /// One that brings commits to sled every few of them.
    fn restless() -> Self {
        let mut made = Self { full_at: Some(1_000), ..Self::new() };
        made.reopened();
        made
    }

    fn reopened(&mut self) -> &SledStore {
        self.store = None;
        self.store = Some(self.try_open().unwrap());
        self.store.as_ref().unwrap()
    }

    fn try_open(&self) -> Result<SledStore, OpenError> {
        let store = SledStore::open_with(self.dir.path(), CLUSTER, Box::new(self.probe.clone()))?;
        if let Some(bytes) = self.full_at {
            store.journal().full_at(bytes);
        }
        Ok(store)
    }

    /// Sled itself, with all that was committed.
    fn sled(&self) -> &disk::Disk {
        self.get().settle().unwrap();
        self.get().layers.disk()
    }

    fn get(&self) -> &SledStore {
        self.store.as_ref().unwrap()
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("sled")
    }
}

impl Backend for OnDisk {
    fn store(&self) -> &dyn Store {
        self.get()
    }

    fn crash(&mut self, _seed: u64) {
        *self.probe.fail.lock().unwrap() = None;
        self.reopened();
    }

    fn fail_next(&self, at: FailAt) {
        // So that it is the commit that fails, and not what is still on its way to sled.
        self.sled();
        *self.probe.fail.lock().unwrap() = Some(at);
    }

    fn another(&self) -> Box<dyn Backend> {
        Box::new(if self.full_at.is_some() { Self::restless() } else { Self::new() })
    }
}

conformance!(OnDisk::new(), histories: 16);

mod restless {
    use super::*;

    conformance!(OnDisk::restless(), histories: 16);
}

fn put(run: u64, value: &[u8]) -> Op {
    Op::Put { key: Key::run(T, run), value: value.to_vec() }
}

fn commit(store: &SledStore, ops: Vec<Op>) -> Result<CommitStats, CommitError> {
    store.commit(Batch { expect_epoch: store.meta().epoch, ops })
}

fn count(store: &SledStore) -> u64 {
    store.load_with(&mut |_, _| {}).unwrap().records
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_commit_syncs_before_it_returns() {
    let disk = OnDisk::new();
    let syncs = || disk.probe.syncs.load(Ordering::Relaxed);
    for run in 0..5 {
        let before = syncs();
        let stats = commit(disk.get(), vec![put(run, b"x"), put(run + 100, b"y")]).unwrap();
        assert_eq!((syncs() - before, stats.syncs), (1, 1));
    }
    let before = syncs();
    let epoch = disk.get().begin_epoch(EpochStep::Start, 0).unwrap().epoch;
    disk.get().mark_clean(epoch, 0).unwrap();
    assert_eq!(syncs() - before, 3, "an end in order leaves nothing to the journal");
}

#[test]
fn a_commit_whose_sync_fails_is_not_acknowledged_and_not_retried() {
    let disk = OnDisk::new();
    disk.fail_next(FailAt::BeforeSync);
    let before = disk.probe.syncs.load(Ordering::Relaxed);
    assert!(matches!(commit(disk.get(), vec![put(1, b"x")]), Err(CommitError::Fault(Fault::Io { .. }))));
    assert!(matches!(commit(disk.get(), vec![put(2, b"x")]), Err(CommitError::Fault(Fault::Stopped))));
    assert_eq!(disk.probe.syncs.load(Ordering::Relaxed), before);
}

#[test]
fn opening_syncs_what_the_last_process_left_in_the_page_cache() {
    let mut disk = OnDisk::new();
    disk.fail_next(FailAt::BeforeSync);
    commit(disk.get(), vec![put(1, b"x")]).unwrap_err();
    let before = disk.probe.syncs.load(Ordering::Relaxed);
    disk.reopened();
    assert!(disk.probe.syncs.load(Ordering::Relaxed) > before);
}

#[test]
fn no_batch_has_more_keys_than_the_cap() {
    let disk = OnDisk::new();
    let stats = commit(disk.get(), (0..3_000).map(|run| put(run, b"value")).collect()).unwrap();
    disk.sled();
    assert_eq!(disk.probe.largest_batch.load(Ordering::Relaxed), MAX_BATCH_KEYS);
    assert_eq!(stats.keys, 3_000);
    assert_eq!(stats.own_keys, 1);
    let stats = commit(disk.get(), (0..511).map(|run| put(run, b"other")).collect()).unwrap();
    assert_eq!((stats.keys, stats.own_keys, stats.syncs), (511, 1, 1), "a full batch is one");
}

#[test]
fn values_at_the_cap_leave_the_unsynced_blob_files_unused() {
    let disk = OnDisk::new();
    for round in 0..6_u64 {
        let value = vec![u8::try_from(round).unwrap(); MAX_VALUE_BYTES];
        let name = |task: u64| format!("{:0>245}", task * 37 % 100);
        let ops =
            (0..100).map(|task| Op::Put { key: Key::name(T, &name(task)).unwrap(), value: value.clone() });
        commit(disk.get(), ops.collect()).unwrap();
        commit(disk.get(), (0..600).map(|run| put(run, &value)).collect()).unwrap();
        assert_eq!(fs::read_dir(disk.files().join("blobs")).unwrap().count(), 0, "round {round}");
    }
}

#[test]
fn a_torn_index_snapshot_bricks_nothing() {
    let mut disk = OnDisk::new();
    commit(disk.get(), vec![put(1, b"x")]).unwrap();
    disk.store = None;
    for content in [&b""[..], b"torn", &[0; 100]] {
        let torn = disk.files().join("snap.FFFFFFFFFFFFFFFF.generating");
        fs::write(&torn, content).unwrap();
        let store = disk.reopened();
        let loaded = store.load().unwrap();
        assert_eq!((loaded.report.records, loaded.report.recovered.torn_snapshots), (1, 1));
        assert!(!torn.exists());
    }
}

#[test]
fn without_the_guard_a_torn_index_snapshot_would_brick_the_store() {
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("snap.FFFFFFFFFFFFFFFF.generating"), b"").unwrap();
    let refused = ::sled::Config::new().path(files.path()).flush_every_ms(None).open();
    assert!(matches!(refused, Err(::sled::Error::Corruption { .. })), "sled no longer needs the guard");
}

#[test]
fn damaged_index_snapshots_are_moved_aside_and_rebuilt_from_the_log() {
    let mut disk = OnDisk::new();
    commit(disk.get(), (0..2_000).map(|run| put(run, b"value")).collect()).unwrap();
    // sled writes its index only while opening a log that has grown.
    let before = disk.reopened().load().unwrap().records;
    disk.store = None;
    let snapshots: Vec<PathBuf> = fs::read_dir(disk.files())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."))
        .collect();
    assert!(!snapshots.is_empty());
    for path in &snapshots {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let loaded = disk.reopened().load().unwrap();
    assert!(loaded.report.recovered.rebuilt_index);
    assert!(loaded.records == before);
    assert_eq!(fs::read_dir(disk.dir.path().join("aside")).unwrap().count(), snapshots.len());
    commit(disk.get(), vec![put(9_999, b"goes on")]).unwrap();
    assert!(!disk.reopened().load().unwrap().report.recovered.rebuilt_index);
}

#[test]
fn a_second_process_is_refused_by_pid() {
    let disk = OnDisk::new();
    let error = disk.try_open().unwrap_err();
    assert!(
        matches!(error, OpenError::Locked(dir::LockError::InUse { pid: Some(pid), .. }) if pid == std::process::id())
    );
    assert!(error.to_string().contains("is in use by process"), "{error}");
}

#[test]
fn a_copied_directory_is_the_same_cluster() {
    let mut disk = OnDisk::new();
    commit(disk.get(), vec![put(1, b"x")]).unwrap();
    disk.store = None;
    let copy = tempfile::tempdir().unwrap();
    copy_dir(disk.dir.path(), copy.path());
    let store = SledStore::open(copy.path(), ClusterId([0; 16])).unwrap();
    assert_eq!(store.meta().cluster, CLUSTER);
    assert_eq!(count(&store), 1);
}
