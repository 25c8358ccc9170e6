//! The life of a data directory: copied, given back, moved to a new schema, made anew, refused.

use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use orch_core::config::Config;
use orch_core::outcome::OutcomeRules;
use orch_proto::codes::ErrorCode;
use orch_proto::store::v1 as record;
use orch_proto::v1::{RunState, WatchEvent};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::backup::{Source, backup};
use super::counters::Counters;
use super::restore::{Order, Present, Taken, take};
use super::{CopyError, Opened, StartError, check, figures, open, start, swap};
use crate::blobs::{BlobLocation, Blobs as _};
use crate::engine::RecoverError;
use crate::store::age;
use crate::store::dir::LockError;
use crate::store::{
    Batch, ClusterId, CommitError, EpochStep, Fault, Key, Kind, MAX_SCAN, Op, OpenError, Prefix, SCHEMA,
    SledStore, Store, Tenant,
};
use crate::transcripts::TranscriptId;

const T: Tenant = Tenant::DEFAULT;
const CLUSTER: ClusterId = ClusterId([7; 16]);
const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn opened(root: &Path) -> Opened {
    open(root, CLUSTER, NOW).unwrap()
}

fn commit(store: &dyn Store, ops: Vec<Op>) {
    store.commit(Batch { expect_epoch: store.meta().epoch, ops }).unwrap();
}

fn finished_run(number: u64) -> Op {
    let run = record::RunRecord {
        name: "adhoc".to_owned(),
        number,
        state: RunState::Succeeded.into(),
        task_count: 1,
        finished_ms: 1,
        finished_tick: 1,
        outcome: orch_proto::v1::Outcome::Ok.into(),
        spec_digest: vec![1; 32],
        ..Default::default()
    };
    Op::Put { key: Key::run(T, number), value: run.encode_to_vec() }
}

/// A directory with three runs, an event, a blob, a pack and a transcript.
struct Filled {
    dir: tempfile::TempDir,
    blob: BlobLocation,
    packed: BlobLocation,
    transcript: TranscriptId,
}

fn filled() -> Filled {
    let dir = tempfile::tempdir().unwrap();
    let here = opened(dir.path());
    here.store.begin_epoch(EpochStep::Start, 5).unwrap();
    let mut page = record::EventPage::default();
    page.events.push(WatchEvent { seq: 9, ..Default::default() });
    page.tenants.push(1);
    let event = Op::Put { key: Key::event_page(9), value: page.encode_to_vec() };
    commit(&*here.store, vec![finished_run(1), finished_run(2), finished_run(3), event]);
    let blob = here.blobs.put(T, b"a blob").unwrap().location;
    let mut pack = here.blobs.begin_pack(T).unwrap();
    pack.add(b"in a pack").unwrap();
    let packed = pack.finish().unwrap().remove(0).location;
    let transcript = TranscriptId { tenant: T, run: 3, task: 0, attempt: 1 };
    here.transcripts.append(&transcript, 0, b"lines").unwrap();
    here.transcripts.sync_all().unwrap();
    Filled { dir, blob, packed, transcript }
}

fn copy_of(root: &Path) -> Vec<u8> {
    let here = opened(root);
    copied(&here)
}

fn copied(here: &Opened) -> Vec<u8> {
    let store: Arc<dyn Store> = Arc::<SledStore>::clone(&here.store);
    let source = Source { store, blobs: Arc::clone(&here.blobs), transcripts: Arc::clone(&here.transcripts) };
    let mut bytes = Vec::new();
    backup(here.dir.root(), &source, NOW, &mut bytes).unwrap();
    bytes
}

fn order(root: &Path) -> Order {
    Order {
        root: root.to_owned(),
        cluster: None,
        present: None,
        records_beside: None,
        validate_only: false,
        config: Config::new(OutcomeRules(Vec::new())),
        now: NOW,
        unwanted: CancellationToken::new(),
    }
}

fn given_back(copy: &[u8], order: &Order) -> Result<Taken, CopyError> {
    take(&mut BufReader::new(copy), order)
}

fn runs(store: &dyn Store) -> usize {
    store.scan(&Prefix::kind(T, Kind::Run), None, MAX_SCAN).unwrap().len()
}

#[test]
fn a_backup_comes_back_on_another_host_with_everything_and_above_every_id() {
    let from = filled();
    let copy = copy_of(from.dir.path());
    let to = tempfile::tempdir().unwrap();
    let taken = given_back(&copy, &order(to.path())).unwrap();
    assert_eq!((taken.records, taken.blobs, taken.transcripts, taken.epoch), (4, 2, 1, 1));
    assert!(!to.path().join("store").exists(), "only a start puts it in place");
    let here = opened(to.path());
    assert_eq!(here.store.meta().epoch, 1_000_001);
    assert_eq!(here.store.meta().cluster, CLUSTER);
    assert_eq!(runs(&*here.store), 3);
    assert_eq!(here.blobs.read(T, &from.blob, 100).unwrap(), b"a blob");
    assert_eq!(here.blobs.read(T, &from.packed, 100).unwrap(), b"in a pack");
    assert_eq!(here.transcripts.read(&from.transcript, 0, 100).unwrap(), b"lines");
    assert_eq!(here.store.scan(&Prefix::kind(Tenant::CLUSTER, Kind::EventPage), None, 10).unwrap(), []);
    let floors = Counters::of(&*here.store).unwrap();
    assert_eq!(
        (floors.run, floors.number, floors.event, floors.attempt),
        (1_000_003, 1_000_003, 1_000_009, 1_000)
    );
    assert!(
        here.mended.iter().any(|line| line.starts_with("a restore was carried out")),
        "{:?}",
        here.mended
    );
}

#[test]
fn a_restore_twice_from_one_copy_goes_on_above_the_first_also_over_a_damaged_store() {
    let from = filled();
    let root = from.dir.path();
    let copy = copy_of(root);
    let present = {
        let here = opened(root);
        Present::of(&*here.store).unwrap()
    };
    let first = given_back(&copy, &Order { present: Some(present), ..order(root) }).unwrap();
    let epoch = {
        let here = opened(root);
        let epoch = here.store.begin_epoch(EpochStep::Start, 0).unwrap().epoch;
        commit(&*here.store, vec![finished_run(1_000_004)]);
        epoch
    };
    assert_eq!(epoch, 1_000_002);
    assert!(age::engine_file(&root.join(first.aside.unwrap())).exists());
    // What is there now cannot be read at all.
    fs::remove_dir_all(root.join("store")).unwrap();
    given_back(&copy, &order(root)).unwrap();
    let here = opened(root);
    assert!(here.store.meta().epoch > epoch + 999_000, "{}", here.store.meta().epoch);
    assert!(Counters::of(&*here.store).unwrap().run > 1_999_000);
}

#[test]
fn a_damaged_or_foreign_copy_changes_nothing_and_leaves_nothing() {
    let from = filled();
    let copy = copy_of(from.dir.path());
    let to = tempfile::tempdir().unwrap();
    for cut in [0, 10, copy.len() / 2, copy.len() - 1] {
        let refused = given_back(&copy[..cut], &order(to.path())).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::CopyDamaged, "{cut}: {refused}");
    }
    for at in (0..copy.len()).step_by(37) {
        let mut flipped = copy.clone();
        flipped[at] ^= 4;
        given_back(&flipped, &order(to.path())).unwrap_err();
    }
    let other = Order { cluster: Some(ClusterId([8; 16])), ..order(to.path()) };
    assert_eq!(given_back(&copy, &other).unwrap_err().code(), ErrorCode::OtherCluster);
    let only = Order { validate_only: true, ..order(to.path()) };
    assert_eq!(given_back(&copy, &only).unwrap().aside, None);
    assert!(!to.path().join("staged.json").exists() && !to.path().join("incoming/restore").exists());
    assert!(!to.path().join("raised.json").exists());
}

#[test]
fn what_is_no_longer_wanted_is_not_staged() {
    let from = filled();
    let copy = copy_of(from.dir.path());
    let to = tempfile::tempdir().unwrap();
    let order = order(to.path());
    order.unwanted.cancel();
    assert!(matches!(given_back(&copy, &order), Err(CopyError::Abandoned)));
    assert!(!to.path().join("staged.json").exists() && !to.path().join("incoming/restore").exists());
    assert_eq!(swap::carry_out(to.path()).unwrap(), None);
}

#[test]
fn records_alone_come_back_beside_the_blobs_that_are_there() {
    let from = filled();
    let root = from.dir.path();
    let here = opened(root);
    let mut export = Vec::new();
    here.store.export(&mut export).unwrap();
    let order = Order { records_beside: Some(here.blobs.clone()), ..order(root) };
    let taken = given_back(&export, &order).unwrap();
    assert_eq!((taken.records, taken.created_ms), (4, None));
    drop((order, here));
    let here = opened(root);
    assert_eq!(here.blobs.read(T, &from.blob, 100).unwrap(), b"a blob");
    assert_eq!(runs(&*here.store), 3);
}

#[test]
fn nothing_is_swept_or_retained_away_while_a_copy_is_made() {
    let from = filled();
    let here = opened(from.dir.path());
    let much_later = SystemTime::now() + Duration::from_secs(1_000_000);
    let hold = (here.blobs.holds().hold(), here.transcripts.holds().hold());
    let sweep = || here.blobs.sweep(Duration::ZERO, much_later, &mut |_, _| false).unwrap().files;
    let all = crate::transcripts::RetentionPolicy { max_age: Duration::ZERO, max_bytes: 0 };
    let retain = || here.transcripts.retain(&all, much_later, &mut |_| false).unwrap().transcripts;
    assert_eq!((sweep(), retain()), (0, 0));
    assert!(!here.transcripts.delete_run(T, 3).unwrap());
    drop(hold);
    assert_eq!((sweep(), retain()), (2, 1));
}

#[test]
fn commits_go_on_while_a_copy_is_read_slowly_and_it_shows_one_moment() {
    struct Slow<'a>(&'a Opened, Vec<u8>, u64);
    impl std::io::Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.2 += 1;
            commit(&*self.0.store, vec![finished_run(100 + self.2)]);
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let from = filled();
    let here = opened(from.dir.path());
    let store: Arc<dyn Store> = Arc::<SledStore>::clone(&here.store);
    let source = Source { store, blobs: Arc::clone(&here.blobs), transcripts: Arc::clone(&here.transcripts) };
    let mut slow = Slow(&here, Vec::new(), 0);
    let totals = backup(from.dir.path(), &source, NOW, &mut slow).unwrap();
    assert_eq!(totals.records, 4, "the records are of the moment before the first byte was read");
    let Slow(_, copy, commits) = slow;
    assert!(commits > 10 && runs(&*here.store) > 13);
    let to = tempfile::tempdir().unwrap();
    assert_eq!(given_back(&copy, &order(to.path())).unwrap().records, 4);
}

#[test]
fn a_store_of_the_first_schema_is_migrated_and_the_old_one_kept_until_a_clean_stop() {
    let from = filled();
    let root = from.dir.path();
    age::rewrite_as(&root.join("store"), 1).unwrap();
    let found = SledStore::open(&root.join("store"), CLUSTER).unwrap_err();
    assert!(matches!(found, OpenError::OlderSchema { found: 1 }), "{found}");
    {
        let here = opened(root);
        assert_eq!((here.store.meta().schema, here.store.meta().epoch), (u32::from(SCHEMA), 1));
        assert_eq!(runs(&*here.store), 3);
        assert!(here.mended[0].starts_with("a migrate was carried out"), "{:?}", here.mended);
    }
    assert_eq!(figures::aside(root).unwrap(), ["aside/migrate-19700101T000000Z"]);
    assert!(matches!(
        SledStore::open(&root.join("aside/migrate-19700101T000000Z/store"), CLUSTER),
        Err(OpenError::OlderSchema { found: 1 })
    ));
    drop(opened(root));
    start::proved(root);
    assert_eq!(figures::aside(root).unwrap().len(), 1);
    start::ended(root);
    assert_eq!(figures::aside(root).unwrap(), [""; 0]);
}

#[test]
fn a_store_of_a_newer_schema_is_refused_and_not_touched() {
    let from = filled();
    let root = from.dir.path();
    age::rewrite_as(&root.join("store"), SCHEMA + 1).unwrap();
    let before = fs::read(age::engine_file(root)).unwrap();
    let refused = open(root, CLUSTER, NOW).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::StoreNewer, "{refused}");
    let StartError::Store(OpenError::NewerSchema { by, found }) = refused else { panic!("{refused}") };
    assert_eq!((by.as_str(), found), (concat!("orchd ", env!("CARGO_PKG_VERSION")), u32::from(SCHEMA) + 1));
    assert_eq!(fs::read(age::engine_file(root)).unwrap(), before);
}

/// What the storage engine's own file takes up, without the journal, which has always the same room.
fn engine_bytes(root: &Path) -> u64 {
    fs::metadata(age::engine_file(root)).unwrap().len()
}

#[test]
fn a_bloated_store_is_made_anew_when_it_is_asked_for() {
    let from = filled();
    let root = from.dir.path();
    let (before, export) = {
        let here = opened(root);
        for round in 0..200_u64 {
            let value = vec![round.to_be_bytes()[7]; 4000];
            commit(
                &*here.store,
                (0..64)
                    .map(|run| Op::Put { key: Key::worker(T, &[run; 32]), value: value.clone() })
                    .collect(),
            );
        }
        commit(&*here.store, (0..64).map(|run| Op::Delete { key: Key::worker(T, &[run; 32]) }).collect());
        let mut export = Vec::new();
        here.store.export(&mut export).unwrap();
        (engine_bytes(root), export)
    };
    start::ask_for_compaction(root).unwrap();
    let here = opened(root);
    let after = engine_bytes(root);
    assert!(after * 4 < before, "{before} to {after}: {:?}", here.mended);
    assert!(root.join("store/made-anew").exists(), "how large it was then is noted");
    let mut again = Vec::new();
    here.store.export(&mut again).unwrap();
    assert_eq!(again, export);
    assert!(!root.join("compact").exists());
    start::proved(root);
    assert_eq!(figures::aside(root).unwrap(), [""; 0]);
}

#[test]
fn a_second_coordinator_is_told_who_has_the_directory() {
    let from = filled();
    let _here = opened(from.dir.path());
    let refused = open(from.dir.path(), CLUSTER, NOW).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DataInUse);
    let pid = std::process::id();
    assert!(refused.to_string().contains(&format!("process {pid}")), "{refused}");
    assert!(matches!(refused, StartError::Locked(LockError::InUse { .. })));
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = open(&file, CLUSTER, NOW).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DataUnusable);
    assert!(refused.to_string().contains("file"), "{refused}");
}

#[test]
fn a_check_finds_a_damaged_blob_and_changes_nothing() {
    let from = filled();
    let root = from.dir.path();
    let config = || Config::new(OutcomeRules(Vec::new()));
    let report = check::check(root, config(), NOW).unwrap();
    assert_eq!(report.problems, [""; 0], "{report:?}");
    let BlobLocation::Blob(digest) = &from.blob else { panic!("a blob") };
    let path = root.join("blobs/1").join(&digest.to_string()[..2]).join(digest.to_string());
    fs::write(path, b"A blob").unwrap();
    let report = check::check(root, config(), NOW).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert!(report.problems[0].contains(&format!("blob {digest} of tenant 1 is damaged")));
    assert!(matches!(check::check(&root.join("nowhere"), config(), NOW), Err(StartError::Dir { .. })));
}

#[test]
fn a_restore_that_was_cut_off_before_the_marker_leaves_everything_as_it_was() {
    let from = filled();
    let root = from.dir.path();
    let copy = copy_of(root);
    given_back(&copy, &order(root)).unwrap();
    fs::remove_file(root.join("staged.json")).unwrap();
    assert_eq!(swap::carry_out(root).unwrap(), None);
    assert_eq!(opened(root).store.meta().epoch, 1);
}

#[test]
fn a_start_that_the_disk_refuses_is_no_damage() {
    let epoch = |fault: Fault| {
        super::code_of(&anyhow::Error::new(RecoverError::from(CommitError::from(fault))).context("a start"))
    };
    let refused = Fault::Io { doing: "write a record", source: std::io::ErrorKind::StorageFull.into() };
    assert_eq!(epoch(refused), Some(ErrorCode::DataUnusable));
    assert_eq!(epoch(Fault::Stopped), Some(ErrorCode::StoreDamaged));
}
