//! Damaged files: a flipped bit, a cut, an emptied or missing file. Each is found, or harmless; no answer is ever wrong, and
//! what a person reads says what to do.

use orch_agent::runner::AttemptKey;
use orch_agent::spool::file::FileSpool;
use orch_agent::spool::{Entry, Spool as _, SpoolError};
use orch_coordinator::blobs::{BlobError, Blobs as _, FileBlobs};
use orch_coordinator::store::{Batch, ClusterId, EpochStep, Key, Meta, Op, SledStore, Store as _, Tenant};
use orch_tests::budget::{budget, figures, seed};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId([5; 16]);
const T: Tenant = Tenant::DEFAULT;

/// A store with a history, closed, and what is in it.
struct Model {
    dir: TempDir,
    records: Vec<(Key, Vec<u8>)>,
    meta: Meta,
}

fn store_in(dir: &Path) -> PathBuf {
    dir.join("store")
}

/// Some hundred commits over three starts, of every size: updates, removals, and commits in several steps.
fn model(random: &mut StdRng) -> Model {
    let dir = tempfile::tempdir().expect("a directory");
    let mut expected: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    for start in 0..3 {
        let store = SledStore::open(&store_in(dir.path()), CLUSTER).expect("the store opens");
        let expect_epoch = store.begin_epoch(EpochStep::Start, 0).expect("an epoch").epoch;
        for commit in 0..60 {
            let keys = if commit == 30 { 700 } else { random.random_range(1..6) };
            let mut ops = Vec::new();
            for _ in 0..keys {
                let key = Key::task(T, random.random_range(0..8), random.random_range(0..400));
                if random.random_ratio(1, 6) {
                    ops.push(Op::Delete { key });
                } else {
                    let len = if random.random_ratio(1, 20) { 4_000 } else { random.random_range(1..200) };
                    let value = (0..len).map(|_| random.random()).collect();
                    ops.push(Op::Put { key, value });
                }
            }
            for op in &ops {
                match op {
                    Op::Put { key, value } => drop(expected.insert(key.clone(), value.clone())),
                    Op::Delete { key } => drop(expected.remove(key)),
                    Op::SetTick(_) => {}
                }
            }
            store.commit(Batch { expect_epoch, ops }).expect("a commit");
        }
        if start == 1 {
            store.mark_clean(expect_epoch, 9).expect("an end in order");
        }
    }
    let store = SledStore::open(&store_in(dir.path()), CLUSTER).expect("the store opens");
    let (records, meta) = (store.load().expect("the store is whole").records, store.meta());
    assert_eq!(records, expected.into_iter().collect::<Vec<_>>());
    drop(store);
    Model { dir, records, meta }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Files below a directory, with their lengths.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), entry.metadata().expect("a length").len()));
        }
    }
    found.sort();
    found
}

#[derive(Debug, Default)]
struct Seen {
    harmless: u64,
    /// What was said, without the parts that differ, and how often.
    found: BTreeMap<String, u64>,
}

impl Model {
    /// Opens a damaged copy: it is found, or everything is as it was.
    fn judge(&self, what: &str, damage: impl FnOnce(&Path), seen: &mut Seen) {
        let temp = tempfile::tempdir().expect("a directory");
        copy(&store_in(self.dir.path()), &store_in(temp.path()));
        damage(&store_in(temp.path()));
        let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, String> {
            let store = SledStore::open(&store_in(temp.path()), CLUSTER).map_err(|error| chain(&error))?;
            let records = store.load().map_err(|error| chain(&error))?.records;
            Ok((records, store.meta()))
        }));
        match opened {
            Err(_) => *seen.found.entry("the process broke off".to_owned()).or_default() += 1,
            Ok(Err(said)) => {
                let says_what_to_do = ["restore the last", "delete the directory", "run a newer"];
                assert!(says_what_to_do.iter().any(|words| said.contains(words)), "{what}: {said}");
                let kind = if said.contains("is damaged") {
                    "damaged files"
                } else if said.contains("cannot be used") {
                    "a damaged record"
                } else if said.contains("should hold") {
                    "missing records"
                } else {
                    "other"
                };
                *seen.found.entry(kind.to_owned()).or_default() += 1;
            }
            Ok(Ok((records, meta))) => {
                assert!(meta.epoch >= self.meta.epoch, "{what}: the epoch fell to {}", meta.epoch);
                assert!(records == self.records, "{what}: a wrong answer without a word");
                seen.harmless += 1;
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        said = format!("{said}: {next}");
        cause = next.source();
    }
    said
}

fn flip(path: &Path, at: u64, bit: u8) {
    let mut bytes = fs::read(path).expect("a file");
    let at = usize::try_from(at).expect("an offset");
    bytes[at] ^= 1 << bit;
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_flipped_bit_anywhere_in_the_store_is_found_or_harmless() {
    const ROW: &str = "a_flipped_bit_anywhere_in_the_store_is_found_or_harmless";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let model = model(&mut random);
    let root = store_in(model.dir.path());
    let files: Vec<_> = files(&root).into_iter().filter(|(_, len)| *len > 0).collect();
    let flips = budget("ORCH_TORTURE_FLIPS", 40);
    let mut seen = Seen::default();
    for number in 0..flips {
        // Small files have their turn too: every fourth flip is in any file, the others in the log.
        let (path, len) = if number % 4 == 0 {
            files[random.random_range(0..files.len())].clone()
        } else {
            files.iter().max_by_key(|(_, len)| *len).expect("a log").clone()
        };
        let (at, bit) = (random.random_range(0..len), random.random_range(0..8));
        let name = path.strip_prefix(&root).expect("below").to_owned();
        model.judge(
            &format!("bit {bit} of byte {at} of {}", name.display()),
            |dir| flip(&dir.join(&name), at, bit),
            &mut seen,
        );
    }
    let found: u64 = seen.found.values().sum();
    assert!(found > 0 && seen.harmless > 0, "{seen:?}");
    figures(
        ROW,
        &format!(
            "{flips} flips: {found} found {:?}, {} harmless, 0 wrong answers",
            seen.found, seen.harmless
        ),
    );
}

#[test]
fn files_of_the_store_that_are_cut_emptied_stale_or_gone_are_found_or_harmless() {
    const ROW: &str = "files_of_the_store_that_are_cut_emptied_stale_or_gone_are_found_or_harmless";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let model = model(&mut random);
    let root = store_in(model.dir.path());
    let mut seen = Seen::default();
    let mut cases = 0;
    for (path, len) in files(&root) {
        let name = path.strip_prefix(&root).expect("below").to_owned();
        let shown = name.display().to_string();
        if shown == "lock" {
            continue;
        }
        let cuts = if shown.ends_with("db") { 12 } else { 2 };
        for _ in 0..cuts {
            let to = random.random_range(0..len.max(1));
            let cut = |dir: &Path| {
                let file = fs::OpenOptions::new().write(true).open(dir.join(&name)).expect("a file");
                file.set_len(to).expect("cut");
            };
            model.judge(&format!("{shown} cut to {to} of {len}"), cut, &mut seen);
        }
        model.judge(
            &format!("{shown} emptied"),
            |dir| fs::write(dir.join(&name), b"").expect("emptied"),
            &mut seen,
        );
        model.judge(
            &format!("{shown} gone"),
            |dir| fs::remove_file(dir.join(&name)).expect("gone"),
            &mut seen,
        );
        let garbage: Vec<u8> = (0..len.min(4096)).map(|_| random.random()).collect();
        model.judge(&format!("{shown} overwritten"), |dir| overwrite(&dir.join(&name), &garbage), &mut seen);
        cases += cuts + 3;
    }
    let stale: [(&str, &[u8]); 4] = [
        ("snap.FFFFFFFFFFFFFFFF.generating", b""),
        ("snap.FFFFFFFFFFFFFFFF.generating", b"half"),
        ("snap.FFFFFFFFFFFFFFFF", b""),
        ("snap.FFFFFFFFFFFFFFFF", b"not a snapshot at all"),
    ];
    for (name, content) in stale {
        let before = seen.harmless;
        model.judge(name, |dir| fs::write(dir.join("sled").join(name), content).expect("written"), &mut seen);
        assert_eq!(seen.harmless, before + 1, "{name} is mended, nothing is lost");
        cases += 1;
    }
    figures(
        ROW,
        &format!("{cases} cases: found {:?}, {} harmless, 0 wrong answers", seen.found, seen.harmless),
    );
}

fn overwrite(path: &Path, garbage: &[u8]) {
    let mut bytes = fs::read(path).expect("a file");
    let part = bytes.len().min(garbage.len());
    bytes[..part].copy_from_slice(&garbage[..part]);
    fs::write(path, bytes).expect("written");
}

#[test]
fn without_any_index_snapshot_the_log_alone_gives_the_same_records() {
    let mut random = StdRng::seed_from_u64(7);
    let model = model(&mut random);
    let mut seen = Seen::default();
    let remove = |dir: &Path| {
        for (path, _) in files(dir) {
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"snap.")) {
                fs::remove_file(path).expect("gone");
            }
        }
    };
    model.judge("no snapshots", remove, &mut seen);
    assert_eq!(seen.harmless, 1, "{seen:?}");
}

#[test]
fn a_flipped_bit_in_a_blob_or_a_pack_is_never_read_as_content() {
    const ROW: &str = "a_flipped_bit_in_a_blob_or_a_pack_is_never_read_as_content";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let temp = tempfile::tempdir().expect("a directory");
    let blobs = FileBlobs::open(&temp.path().join("blobs")).expect("blobs");
    let mut payload = |len: usize| (0..len).map(|_| random.random()).collect::<Vec<u8>>();
    let (alone, packed) = (payload(5_000), [payload(6_000), payload(7_000), payload(50)]);
    let mut stored = vec![(blobs.put(T, &alone).expect("stored"), alone)];
    let mut pack = blobs.begin_pack(T).expect("a pack");
    for payload in &packed {
        pack.add(payload).expect("added");
    }
    stored.extend(pack.finish().expect("finished").into_iter().zip(packed));
    let on_disk = files(&temp.path().join("blobs"));
    let (mut found, mut elsewhere) = (0, 0);
    for _ in 0..budget("ORCH_TORTURE_FLIPS", 40) {
        let large: Vec<_> = on_disk.iter().filter(|(_, len)| *len > 1_000).collect();
        let (path, len) = large[random.random_range(0..large.len())];
        let (at, bit) = (random.random_range(0..*len), random.random_range(0..8));
        flip(path, at, bit);
        let mut hit = 0;
        for (place, content) in &stored {
            match blobs.read(T, &place.location, 1 << 20) {
                Ok(bytes) => assert!(bytes == *content, "other bytes than were stored"),
                Err(BlobError::Damaged { .. }) => hit += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(hit, 1, "one payload lies there: byte {at} of {}", path.display());
        found += hit;
        flip(path, at, bit);
        elsewhere += stored.len() - 1;
    }
    figures(ROW, &format!("{found} flips, all found, {elsewhere} other reads as they were"));
}

#[test]
fn a_flipped_bit_in_the_spool_is_refused_or_takes_back_the_newest_and_changes_no_report() {
    const ROW: &str = "a_flipped_bit_in_the_spool_is_refused_or_takes_back_the_newest_and_changes_no_report";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let key = |task| AttemptKey { run: 1, task, attempt: 1 };
    let report = |task: u32| format!("report {task}").repeat(20).into_bytes();
    let spec = |task: u32| format!("spec {task}").repeat(30).into_bytes();
    let (mut refused, mut shorter) = (0, 0);
    for _ in 0..budget("ORCH_TORTURE_FLIPS", 40) {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = temp.path().join("spool");
        let (mut spool, _) = FileSpool::open(&dir, "boot").expect("a spool");
        for task in 0..20 {
            spool.append(Entry::Accepted { key: key(task), payload: spec(task) });
            if task % 2 == 0 {
                spool.append(Entry::Finished { key: key(task), report: report(task) });
            }
        }
        spool.flush().expect("flushed");
        let all = spool.inventory().held().len();
        drop(spool);
        let (path, len) = files(&dir).into_iter().max_by_key(|(_, len)| *len).expect("a journal");
        let (at, bit) = (random.random_range(0..len), random.random_range(0..8));
        flip(&path, at, bit);
        // Damage before the end is told; at the end it is as good as a write that broke off.
        let (spool, found) = match FileSpool::open(&dir, "boot") {
            Ok(opened) => opened,
            Err(error) => {
                assert!(matches!(error, SpoolError::Damaged { .. }), "byte {at}: {error}");
                refused += 1;
                continue;
            }
        };
        assert!(found.torn_bytes > 0, "byte {at}");
        let held = spool.inventory().held();
        for (key, held) in held {
            assert_eq!(held.payload, spec(key.task), "byte {at}");
            assert!(held.report.as_ref().is_none_or(|bytes| *bytes == report(key.task)), "byte {at}");
        }
        // A prefix of what was said: nothing in the middle is missing.
        assert!(held.keys().copied().eq((0..u32::try_from(held.len()).expect("few")).map(key)), "byte {at}");
        assert!(held.len() + 1 >= all, "byte {at}: only the newest");
        shorter += 1;
    }
    assert!(refused > 0, "no flip was ever noticed");
    figures(ROW, &format!("{refused} refused, {shorter} took back the newest, 0 unnoticed, 0 changed"));
}
