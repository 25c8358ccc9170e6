//! What was changed, cut off or written by another version behind the store's back: found, named, never returned.

use super::*;
use crate::store::SCHEMA;

/// Writes under a key as no store would.
fn write_raw(disk: &OnDisk, key: &Key, framed: Vec<u8>) {
    disk.sled().write(&[(key.clone(), Some(framed))]).unwrap();
}

#[test]
fn a_damaged_record_is_named_and_never_returned() {
    let disk = OnDisk::new();
    let key = Key::run(T, 1);
    commit(disk.get(), vec![put(1, b"payload")]).unwrap();
    let mut framed = disk.sled().get(&key).unwrap().unwrap().to_vec();
    framed[10] ^= 1;
    write_raw(&disk, &key, framed);
    let store = disk.get();
    let names_it = |fault: &Fault| matches!(fault, Fault::Record { key: named, .. } if *named == key);
    assert!(matches!(store.load(), Err(LoadError(fault)) if names_it(&fault)));
    assert!(matches!(store.get(&key), Err(ReadError::Fault(fault)) if names_it(&fault)));
    assert!(
        matches!(store.scan(&Prefix::everything(), None, 9), Err(ReadError::Fault(fault)) if names_it(&fault))
    );
    assert!(matches!(store.export(&mut Vec::new()), Err(ExportError::Fault(fault)) if names_it(&fault)));
}

#[test]
fn a_record_of_a_newer_schema_stops_the_start() {
    let disk = OnDisk::new();
    let key = Key::run(T, 1);
    write_raw(&disk, &key, record::encode_as(SCHEMA + 1, &key, b"from the future"));
    let error = disk.get().load().unwrap_err();
    let cause = std::error::Error::source(&error).and_then(std::error::Error::source).unwrap();
    assert!(cause.to_string().contains("run a newer orchd"), "{cause}");
}

#[test]
fn a_store_of_another_schema_does_not_open() {
    let mut disk = OnDisk::new();
    let meta = disk.get().meta();
    for (schema, newer) in [(u32::from(SCHEMA) + 1, true), (0, false)] {
        write_raw(&disk, &Key::meta(), Meta { schema, ..meta }.encode());
        disk.store = None;
        let error = disk.try_open().unwrap_err();
        assert_eq!(
            matches!(error, OpenError::NewerSchema { found, .. } if found == schema),
            newer,
            "{error}"
        );
        assert_eq!(matches!(error, OpenError::OlderSchema { found: 0 }), !newer, "{error}");
        let mut recovery = Recovery::default();
        let raw = guards::open(disk.dir.path(), Box::new(DataSync), &mut recovery).unwrap();
        raw.write(&[changes::of_meta(&meta)]).unwrap();
        drop(raw);
        disk.reopened();
    }
}

#[test]
fn an_import_that_broke_off_is_not_taken_for_a_store() {
    let disk = OnDisk::new();
    commit(disk.get(), (0..600).map(|run| put(run, b"value")).collect()).unwrap();
    let mut export = Vec::new();
    disk.get().export(&mut export).unwrap();
    export.truncate(export.len() / 2);
    let mut copy = OnDisk::new();
    assert!(copy.get().import(&mut export.as_slice()).is_err());
    copy.store = None;
    assert!(matches!(copy.try_open(), Err(OpenError::UnfinishedImport { .. })));
}

#[test]
fn files_are_private_and_measured() {
    let disk = OnDisk::new();
    commit(disk.get(), vec![put(1, &[7; 4000])]).unwrap();
    let mut pending = vec![disk.dir.path().to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let expected = if meta.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(meta.permissions().mode() & 0o777, expected, "{}", entry.path().display());
            pending.extend(meta.is_dir().then(|| entry.path()));
        }
    }
    let health = disk.get().health().unwrap();
    assert!(health.bytes_on_disk >= 4000 && health.free_disk_percent <= 100);
}

#[test]
fn a_record_that_vanished_or_came_back_older_is_missed() {
    let disk = OnDisk::new();
    let key = Key::run(T, 1);
    commit(disk.get(), vec![put(1, b"old"), put(2, b"other")]).unwrap();
    let old = disk.sled().get(&key).unwrap().unwrap().to_vec();
    commit(disk.get(), vec![put(1, b"new")]).unwrap();
    assert_eq!(count(disk.get()), 2);
    for tampered in [Some(old), None] {
        disk.sled().write(&[(key.clone(), tampered)]).unwrap();
        let error = disk.get().load().unwrap_err();
        assert!(matches!(error, LoadError(Fault::Incomplete { expected: 2, .. })), "{error:?}");
    }
}

/// Flips one bit of `db` in a copy of the directory and says what opening and loading the copy comes to.
fn load_with_flipped_bit(disk: &OnDisk, log: &[u8], bit: usize) -> Result<Vec<Record>, String> {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(disk.dir.path(), copy.path());
    let mut damaged = log.to_vec();
    damaged[bit / 8] ^= 1 << (bit % 8);
    fs::write(copy.path().join("sled/db"), damaged).unwrap();
    let store = SledStore::open(copy.path(), CLUSTER).map_err(|error| error.to_string())?;
    Ok(store.load().map_err(|error| error.0.to_string())?.records)
}

#[test]
fn a_log_that_lost_its_end_is_not_taken_for_an_older_store() {
    let mut disk = OnDisk::new();
    for run in 0..5 {
        commit(disk.get(), vec![put(run, format!("the value of {run}").as_bytes())]).unwrap();
        disk.sled();
    }
    let written = disk.get().load().unwrap().records;
    disk.store = None;
    let log = fs::read(disk.files().join("db")).unwrap();
    let last = log.windows(14).position(|bytes| bytes == b"the value of 4").unwrap();
    assert!(load_with_flipped_bit(&disk, &log, last * 8).unwrap() == written, "the journal still has it");
    // Opening empties the journal: then the log is all there is.
    disk.reopened();
    disk.store = None;
    let error = load_with_flipped_bit(&disk, &log, last * 8).unwrap_err();
    assert!(error.contains("commit 5 was acknowledged, its files end at commit 4"), "{error}");
}

#[test]
fn a_log_that_lost_everything_is_not_taken_for_a_new_store() {
    let mut disk = OnDisk::new();
    commit(disk.get(), vec![put(1, b"the value")]).unwrap();
    disk.store = None;
    for file in fs::read_dir(disk.files()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::remove_file(file.path()).unwrap();
        }
    }
    for _ in 0..2 {
        let error = disk.try_open().unwrap_err();
        assert!(
            error.to_string().contains("commit 1 was acknowledged, its files end at commit 0"),
            "{error}"
        );
    }
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let mut found = 0;
    // A log of one segment, where most of it counts, and one of several, where much is out of date.
    for rounds in [20, 80] {
        let mut disk = OnDisk::new();
        for round in 0..rounds {
            let value = vec![u8::try_from(round).unwrap(); 100];
            commit(disk.get(), (0..50).map(|run| put(round * 37 + run, &value)).collect()).unwrap();
        }
        let before = disk.reopened().load().unwrap().records;
        disk.store = None;
        let log = fs::read(disk.files().join("db")).unwrap();
        for sample in 0..25 {
            let bit = sample * 7_919_993 % (log.len() * 8);
            match load_with_flipped_bit(&disk, &log, bit) {
                Ok(records) => assert!(records == before, "bit {bit}: wrong and not noticed"),
                Err(_) => found += 1,
            }
        }
    }
    assert!(found >= 5, "only {found} of 50 flips hit anything");
}
