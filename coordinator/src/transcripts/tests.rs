//! What transcripts promise.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

fn id(task: u32) -> TranscriptId {
    TranscriptId { tenant: Tenant::DEFAULT, run: 129, task, attempt: 1 }
}

fn open() -> (TempDir, Transcripts) {
    let dir = tempfile::tempdir().unwrap();
    let transcripts = Transcripts::open(dir.path()).unwrap();
    (dir, transcripts)
}

fn offsets(received: u64, durable: u64) -> Offsets {
    Offsets { received, durable }
}

#[test]
fn pieces_are_appended_repeated_and_overlapped() {
    let (_dir, transcripts) = open();
    let append = |offset, bytes: &[u8]| transcripts.append(&id(0), offset, bytes);
    assert_eq!(append(0, b"0123").unwrap(), offsets(4, 0));
    assert_eq!(append(0, b"0123").unwrap(), offsets(4, 0), "repeated");
    assert_eq!(append(1, b"12").unwrap(), offsets(4, 0), "within");
    assert_eq!(append(2, b"2345").unwrap(), offsets(6, 0), "overlapping");
    assert_eq!(append(6, b"").unwrap(), offsets(6, 0), "empty");
    assert_eq!(transcripts.read(&id(0), 0, 100).unwrap(), b"012345");
}

#[test]
fn a_gap_is_refused_and_says_where_to_go_on() {
    let (_dir, transcripts) = open();
    transcripts.append(&id(0), 0, b"0123").unwrap();
    let refused = transcripts.append(&id(0), 5, b"5");
    assert!(matches!(refused, Err(TranscriptError::Gap { offset: 5, received: 4 })));
    assert_eq!(transcripts.read(&id(0), 0, 100).unwrap(), b"0123");
}

#[test]
fn received_becomes_durable_by_a_sync_or_by_a_mebibyte() {
    let (_dir, transcripts) = open();
    transcripts.append(&id(0), 0, b"0123").unwrap();
    assert_eq!(transcripts.offsets(&id(0)).unwrap(), offsets(4, 0));
    assert_eq!(transcripts.sync(&id(0)).unwrap(), offsets(4, 4));
    let almost = vec![0; usize::try_from(SYNC_BYTES).unwrap() - 1];
    assert_eq!(transcripts.append(&id(0), 4, &almost).unwrap(), offsets(SYNC_BYTES + 3, 4));
    assert_eq!(
        transcripts.append(&id(0), SYNC_BYTES + 3, b"x").unwrap(),
        offsets(SYNC_BYTES + 4, SYNC_BYTES + 4)
    );
}

#[test]
fn sync_all_names_those_that_came_further() {
    let (_dir, transcripts) = open();
    for task in 0..3 {
        transcripts.append(&id(task), 0, b"line\n").unwrap();
    }
    transcripts.sync(&id(1)).unwrap();
    assert_eq!(transcripts.sync_all().unwrap(), [(id(0), offsets(5, 5)), (id(2), offsets(5, 5))]);
    assert!(transcripts.sync_all().unwrap().is_empty());
}

#[test]
fn after_a_restart_the_length_is_the_truth() {
    let (dir, transcripts) = open();
    transcripts.append(&id(0), 0, b"received, not synced").unwrap();
    drop(transcripts);
    let transcripts = Transcripts::open(dir.path()).unwrap();
    assert_eq!(transcripts.read(&id(0), 10, 3).unwrap(), b"not");
    assert_eq!(transcripts.offsets(&id(0)).unwrap(), offsets(20, 20));
    // As a loss of power may leave it: shorter than what was received.
    drop(transcripts);
    File::options().write(true).open(dir.path().join(id(0).path())).unwrap().set_len(8).unwrap();
    let transcripts = Transcripts::open(dir.path()).unwrap();
    let refused = transcripts.append(&id(0), 20, b"!");
    assert!(matches!(refused, Err(TranscriptError::Gap { received: 8, .. })));
    assert_eq!(transcripts.append(&id(0), 8, b", again").unwrap(), offsets(15, 8));
}

#[test]
fn reading_stops_at_the_end_and_misses_what_is_not_there() {
    let (_dir, transcripts) = open();
    transcripts.append(&id(0), 0, b"0123456789").unwrap();
    assert_eq!(transcripts.read(&id(0), 8, 100).unwrap(), b"89");
    assert_eq!(transcripts.read(&id(0), 10, 100).unwrap(), b"");
    assert_eq!(transcripts.read(&id(0), u64::MAX, 100).unwrap(), b"");
    assert!(matches!(transcripts.read(&id(1), 0, 1), Err(TranscriptError::NotFound)));
    assert!(matches!(transcripts.offsets(&id(1)), Err(TranscriptError::NotFound)));
    assert!(matches!(transcripts.sync(&id(1)), Err(TranscriptError::NotFound)));
}

#[test]
fn few_files_stay_open_and_those_closed_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let transcripts = Transcripts::with_capacity(dir.path(), 3).unwrap();
    for round in 0..3 {
        for task in 0..10 {
            transcripts.append(&id(task), round * 5, b"line\n").unwrap();
            assert!(transcripts.cache.len() <= 3);
        }
    }
    assert_eq!(transcripts.syncs(), 27, "each one that was closed was synced, and nothing else");
    assert_eq!(transcripts.sync_all().unwrap().len(), 3);
    for task in 0..10 {
        assert_eq!(transcripts.read(&id(task), 0, 100).unwrap(), b"line\nline\nline\n");
        assert_eq!(transcripts.offsets(&id(task)).unwrap(), offsets(15, 15));
    }
}

#[test]
fn a_file_that_is_in_use_is_not_closed() {
    let dir = tempfile::tempdir().unwrap();
    let transcripts = Transcripts::with_capacity(dir.path(), 1).unwrap();
    let in_use = transcripts.for_writing(&id(0)).unwrap();
    transcripts.append(&id(1), 0, b"other").unwrap();
    transcripts.append(&id(0), 0, b"first").unwrap();
    assert_eq!(in_use.append(5, b", second").unwrap().received, 13);
    assert_eq!(transcripts.read(&id(0), 0, 100).unwrap(), b"first, second");
}

#[test]
fn threads_that_repeat_the_same_pieces_write_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let transcripts = Transcripts::with_capacity(dir.path(), 2).unwrap();
    let bytes: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (transcripts, bytes) = (&transcripts, &bytes);
            scope.spawn(move || {
                for (piece, chunk) in bytes.chunks(97 + thread).enumerate() {
                    let offset = (piece * (97 + thread)) as u64;
                    for task in 0..3 {
                        transcripts.append(&id(task), offset, chunk).unwrap();
                    }
                }
            });
        }
    });
    for task in 0..3 {
        assert!(transcripts.read(&id(task), 0, bytes.len() + 1).unwrap() == bytes, "task {task}");
    }
}

#[test]
fn deleting_takes_an_attempt_or_a_run() {
    let (_dir, transcripts) = open();
    let other_run = TranscriptId { run: 130, ..id(0) };
    for id in [id(0), id(1), id(2), other_run] {
        transcripts.append(&id, 0, b"line").unwrap();
    }
    transcripts.delete(&id(0)).unwrap();
    transcripts.delete(&id(0)).unwrap();
    assert!(matches!(transcripts.read(&id(0), 0, 1), Err(TranscriptError::NotFound)));
    transcripts.delete_run(Tenant::DEFAULT, 129).unwrap();
    transcripts.delete_run(Tenant::DEFAULT, 129).unwrap();
    assert!(matches!(transcripts.read(&id(2), 0, 1), Err(TranscriptError::NotFound)));
    assert_eq!(transcripts.read(&other_run, 0, 9).unwrap(), b"line");
    assert!(transcripts.sync_all().unwrap().iter().all(|(id, _)| *id == other_run));
}

#[test]
fn retention_goes_by_age_then_by_size_and_spares_what_is_live() {
    let (dir, transcripts) = open();
    let now = SystemTime::now();
    for (task, days) in [(0, 20), (1, 16), (2, 3), (3, 2), (4, 1)] {
        transcripts.append(&id(task), 0, &[0; 100]).unwrap();
        let file = File::options().write(true).open(dir.path().join(id(task).path())).unwrap();
        file.set_modified(now - Duration::from_hours(days * 24)).unwrap();
    }
    let by_age = RetentionPolicy::default();
    let deleted = transcripts.retain(&by_age, now, &mut |live| *live == id(1)).unwrap();
    assert_eq!(deleted, Deleted { transcripts: 1, bytes: 100 });
    let by_size = RetentionPolicy { max_bytes: 250, ..by_age };
    let deleted = transcripts.retain(&by_size, now, &mut |live| *live == id(1)).unwrap();
    assert_eq!(deleted, Deleted { transcripts: 2, bytes: 200 });
    let left = (0..5).filter(|task| transcripts.read(&id(*task), 0, 1).is_ok());
    assert_eq!(left.collect::<Vec<_>>(), [1, 4]);
}

#[test]
fn files_and_directories_are_private() {
    let (dir, transcripts) = open();
    transcripts.append(&id(0), 0, b"line").unwrap();
    let path = dir.path().join(id(0).path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    for above in path.ancestors().skip(1).take_while(|above| *above != dir.path()) {
        assert_eq!(mode(above), 0o700, "{}", above.display());
    }
}
