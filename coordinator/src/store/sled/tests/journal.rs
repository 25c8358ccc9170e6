//! Commits on their way to sled: what a crash leaves of them, what the journal gives back, and what holds up what. Refuses to
//! know what a damaged file looks like.

use super::*;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

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
    batches: Mutex<Option<Receiver<()>>>,
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
    let (go, waits) = sync_channel(1);
    *slow.batches.lock().unwrap() = Some(waits);
    let (done, is_done) = sync_channel(100);
    thread::scope(|scope| {
        scope.spawn(|| {
            for run in 0..60 {
                commit(&store, vec![put(run, &[7; 1_000])]).unwrap();
                done.send(run).unwrap();
            }
        });
        let first = is_done.iter().take(20).count();
        // The others can come late; what may not come at all would be there soon.
        let soon = Duration::from_millis(200);
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
