//! `orchd storage` and the refusals of a start, by the program itself: what it says, how it ends, what it leaves.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

use orch_coordinator::storage;
use orch_coordinator::store::{Batch, ClusterId, EpochStep, Key, Op, Store as _, Tenant};

const CLUSTER: ClusterId = ClusterId([5; 16]);

fn orchd(args: &[&str], data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orchd")).args(args).arg("--data-dir").arg(data).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(args: &[&str], data: &Path) -> Output {
    let output = orchd(args, data);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    output
}

/// A directory with some records and a blob.
fn fill(data: &Path) {
    let opened = storage::open(data, CLUSTER, SystemTime::now()).unwrap();
    let meta = opened.store.begin_epoch(EpochStep::Start, 1).unwrap();
    let worker = |at: u8| Op::Put { key: Key::worker(Tenant::DEFAULT, &[at; 32]), value: vec![at; 100] };
    let ops = (0..200).map(worker).collect();
    opened.store.commit(Batch { expect_epoch: meta.epoch, ops }).unwrap();
    orch_coordinator::blobs::Blobs::put(&*opened.blobs, Tenant::DEFAULT, b"a blob").unwrap();
}

#[test]
fn an_export_imported_and_exported_again_has_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fill(&from);
    let file = temp.path().join("export.jsonl");
    let path = file.to_str().unwrap();
    assert!(said(&done(&["storage", "export", path], &from)).contains("200 records exported"));
    assert!(said(&done(&["storage", "import", path], &to)).contains("200 records imported"));
    let again = done(&["storage", "export", "-"], &to);
    assert!(again.stdout == fs::read(&file).unwrap(), "{}", said(&again));
    let twice = orchd(&["storage", "import", path], &to);
    assert!(!twice.status.success() && said(&twice).contains("needs an empty store"), "{}", said(&twice));
    assert!(said(&done(&["storage", "check"], &to)).contains("everything is whole"));
    assert!(said(&done(&["storage", "compact"], &to)).contains("compacted"));
    assert!(done(&["storage", "export", "-"], &to).stdout == fs::read(&file).unwrap());
}

#[test]
fn a_backup_replaces_what_is_there_and_a_damaged_one_does_not() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fill(&from);
    let file = temp.path().join("backup");
    let path = file.to_str().unwrap();
    assert!(said(&done(&["storage", "backup", path], &from)).contains("200 records, 1 blobs"));
    assert!(said(&done(&["storage", "restore", path], &to)).contains("restored"));
    let checked = said(&done(&["storage", "check"], &to));
    assert!(checked.contains("epoch 1000001") && checked.contains("1 blobs, 6 bytes"), "{checked}");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let refused = orchd(&["storage", "restore", path], &to);
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("E0708") && said(&refused).contains("nothing was changed"),
        "{}",
        said(&refused)
    );
    assert!(said(&done(&["storage", "check"], &to)).contains("epoch 1000001"));
}

#[test]
fn a_directory_that_cannot_be_used_is_named_with_its_code_and_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    fill(&data);
    let held = storage::open(&data, CLUSTER, SystemTime::now()).unwrap();
    let refused = said(&orchd(&["storage", "check"], &data));
    let pid = format!("process {}", std::process::id());
    assert!(refused.contains("E0705") && refused.contains(&pid), "{refused}");
    drop(held);
    let refused = said(&orchd(&["storage", "import", "-"], Path::new("/proc/no-data-here")));
    assert!(refused.contains("E0706") && refused.contains("/proc/no-data-here"), "{refused}");
    let refused = said(&orchd(&["storage", "check"], &temp.path().join("missing")));
    assert!(refused.contains("E0706") && refused.contains("missing/store/sled"), "{refused}");
    assert!(!temp.path().join("missing").exists());
    // A record of its own that is not whole: nothing is served on a guess.
    let db = data.join("store/sled/db");
    let mut bytes = fs::read(&db).unwrap();
    for byte in bytes.iter_mut().skip(1 << 10) {
        *byte = !*byte;
    }
    fs::write(&db, bytes).unwrap();
    let refused = orchd(&["storage", "check"], &data);
    assert!(!refused.status.success(), "{}", said(&refused));
}
