//! The suite on sled, and a test for each rule of the [parent module](super).

mod damage;

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

/// Photographs the files at every write and every sync: what a process that is killed there leaves behind.
#[derive(Debug)]
struct Camera {
    dir: PathBuf,
    shots: PathBuf,
    taken: AtomicUsize,
}

impl Camera {
    fn shoot(&self) {
        let shot = self.taken.fetch_add(1, Ordering::Relaxed);
        copy_dir(&self.dir, &self.shots.join(shot.to_string()));
    }
}

impl Syncer for Arc<Camera> {
    fn before_entry(&self) -> io::Result<()> {
        self.shoot();
        Ok(())
    }

    fn before_batch(&self, _keys: usize) -> io::Result<()> {
        self.shoot();
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.shoot();
        DataSync.sync(file)
    }
}

#[test]
fn a_crash_at_any_step_of_a_large_commit_leaves_all_of_it_or_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("store");
    let old: Vec<Op> = (0..3_000).step_by(3).map(|run| put(run, b"old")).collect();
    let store = SledStore::open(&dir, CLUSTER).unwrap();
    commit(&store, old).unwrap();
    let before = store.load().unwrap().records;
    drop(store);

    let shots = temp.path().join("shots");
    let camera = Arc::new(Camera { dir: dir.clone(), shots, taken: AtomicUsize::new(0) });
    let store = SledStore::open_with(&dir, CLUSTER, Box::new(camera.clone())).unwrap();
    store.journal().full_at(1);
    let first = camera.taken.load(Ordering::Relaxed);
    let changes = (0..3_000).map(|run| match run % 2 {
        0 => put(run, b"new"),
        _ => Op::Delete { key: Key::run(T, run) },
    });
    commit(&store, changes.collect()).unwrap();
    let after = store.load().unwrap().records;
    store.settle().unwrap();
    let last = camera.taken.load(Ordering::Relaxed);
    drop(store);

    let (mut nothing, mut replayed) = (0, 0);
    for shot in first..last {
        let dir = camera.shots.join(shot.to_string());
        let found = SledStore::open(&dir, CLUSTER).unwrap().load().unwrap();
        assert!(
            found.records == before || found.records == after,
            "shot {shot} of {first}..{last}: half a commit"
        );
        nothing += u32::from(found.records == before);
        replayed += u32::from(found.report.recovered.replayed == 1);
        let again = SledStore::open(&dir, CLUSTER).unwrap().load().unwrap();
        assert_eq!(again.report.recovered, Recovery::default(), "shot {shot}: mended once");
        assert!(again.records == found.records, "shot {shot}");
    }
    assert!(nothing >= 1 && replayed >= 6, "{nothing} before it, {replayed} carried through");
}

/// What a loss of power leaves while sled was not synced: the journal as it is, and sled as it was when it was made.
#[test]
fn what_sled_lost_is_taken_over_from_the_journal() {
    let mut disk = OnDisk::new();
    let old = tempfile::tempdir().unwrap();
    copy_dir(&disk.files(), old.path());
    let ops = |round: u64| {
        vec![put(round, b"x"), put(round / 2, b"again"), Op::Delete { key: Key::run(T, round / 3) }]
    };
    for round in 0..100 {
        commit(disk.get(), ops(round)).unwrap();
    }
    let expected = disk.get().load().unwrap().records;
    disk.store = None;
    fs::remove_dir_all(disk.files()).unwrap();
    copy_dir(old.path(), &disk.files());
    let found = disk.reopened().load().unwrap();
    assert!(found.records == expected);
    assert_eq!(found.report.recovered.replayed, 100);
    commit(disk.get(), vec![put(7_777, b"goes on")]).unwrap();
    assert_eq!(disk.reopened().load().unwrap().report.recovered.replayed, 1);
}

#[test]
fn a_journal_that_is_full_goes_to_sled_and_begins_again() {
    let mut disk = OnDisk { full_at: Some(20_000), ..OnDisk::new() };
    let room = |disk: &OnDisk| {
        ["journal.0", "journal.1"].map(|name| fs::metadata(disk.dir.path().join(name)).unwrap().len())
    };
    let empty = room(&disk);
    disk.reopened();
    for round in 0..500 {
        commit(disk.get(), vec![put(round % 450, &[7; 1_000])]).unwrap();
    }
    assert_eq!(room(&disk), empty, "it does not grow");
    assert_eq!(count(disk.get()), 450);
    let found = disk.reopened().load().unwrap();
    assert_eq!(found.records.len(), 450);
    assert!((1..400).contains(&found.report.recovered.replayed), "{:?}", found.report.recovered);
}

#[test]
fn many_commits_to_one_record_are_one_write_of_sled() {
    let disk = OnDisk::new();
    for round in 0..200_u64 {
        commit(disk.get(), vec![put(round % 3, &round.to_be_bytes())]).unwrap();
    }
    disk.sled();
    assert_eq!(disk.probe.largest_batch.load(Ordering::Relaxed), 4, "three records and the store's own");
}

#[test]
fn an_error_behind_a_commit_stops_the_store() {
    let disk = OnDisk::new();
    commit(disk.get(), vec![put(1, b"x")]).unwrap();
    *disk.probe.fail.lock().unwrap() = Some(FailAt::BeforeSync);
    assert!(matches!(disk.get().settle(), Err(Fault::Stopped)));
    let refused = || commit(disk.get(), vec![put(2, b"x")]);
    assert!(
        matches!(refused(), Err(CommitError::Fault(Fault::Io { .. }))),
        "the process ends with the cause"
    );
    assert!(matches!(refused(), Err(CommitError::Fault(Fault::Stopped))));
    assert!(!disk.get().health().unwrap().serving);
}

#[test]
fn an_end_in_order_leaves_nothing_to_the_journal() {
    let mut disk = OnDisk::new();
    commit(disk.get(), vec![put(1, b"x")]).unwrap();
    assert_eq!(disk.reopened().load().unwrap().report.recovered.replayed, 1);
    commit(disk.get(), vec![put(2, b"x")]).unwrap();
    disk.get().mark_clean(disk.get().meta().epoch, 0).unwrap();
    assert_eq!(disk.reopened().load().unwrap().report.recovered, Recovery::default());
}

/// Lets sled have nothing until it is told to.
#[derive(Debug, Default)]
struct Slow {
    batches: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

impl Syncer for Arc<Slow> {
    fn before_batch(&self, _keys: usize) -> io::Result<()> {
        if let Some(go) = self.batches.lock().unwrap().take() {
            // Nobody tells it any more: then it goes on as well.
            let _ = go.recv();
        }
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        DataSync.sync(file)
    }
}

#[test]
fn commits_wait_for_sled_when_it_is_too_far_behind_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Arc::<Slow>::default();
    let store = SledStore::open_with(dir.path(), CLUSTER, Box::new(slow.clone())).unwrap();
    store.journal().full_at(1_000);
    let (go, waits) = std::sync::mpsc::sync_channel(1);
    *slow.batches.lock().unwrap() = Some(waits);
    let (done, is_done) = std::sync::mpsc::sync_channel(100);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for run in 0..60 {
                commit(&store, vec![put(run, &[7; 1_000])]).unwrap();
                done.send(run).unwrap();
            }
        });
        let first = is_done.iter().take(20).count();
        // The others can come late; what may not come at all would be there soon.
        let soon = std::time::Duration::from_millis(200);
        let passed = first + std::iter::from_fn(|| is_done.recv_timeout(soon).ok()).count();
        assert!(passed < 40, "{passed} commits of 60 while sled had nothing");
        go.send(()).unwrap();
        assert_eq!(is_done.iter().take(60 - passed).last(), Some(59));
    });
    assert_eq!(count(&store), 60);
}

#[test]
fn a_journal_that_sled_is_too_old_for_is_refused() {
    let mut disk = OnDisk::new();
    let older = tempfile::tempdir().unwrap();
    copy_dir(&disk.files(), older.path());
    commit(disk.get(), vec![put(1, b"in sled alone once it was opened again")]).unwrap();
    commit(disk.reopened(), vec![put(2, b"in the journal")]).unwrap();
    disk.store = None;
    fs::remove_dir_all(disk.files()).unwrap();
    copy_dir(older.path(), &disk.files());
    let error = disk.try_open().unwrap_err();
    assert!(error.to_string().contains("its files end at commit 0, its journal goes on at 2"), "{error}");
}

#[test]
fn a_store_in_the_middle_of_a_commit_of_an_earlier_version_is_left_as_it_is() {
    let mut disk = OnDisk::new();
    let marker = (Key::commit_marker(), Some(record::encode(&Key::commit_marker(), &[2, 0, 0, 0, 0])));
    disk.sled().write(&[marker]).unwrap();
    disk.store = None;
    for _ in 0..2 {
        assert!(matches!(disk.try_open(), Err(OpenError::HalfCommitted { .. })));
    }
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
