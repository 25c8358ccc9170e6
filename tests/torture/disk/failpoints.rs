//! Death and failure at named places, one after the other under load: after each restart everything acknowledged is there
//! once, and in the end all of it finishes. Each place must have been reached, or the walk is red.

use super::load::{AGENT, Kind, Load, all_end_well, lines, lost, resume_agent};
use orch_coordinator::store::{
    Batch, ClusterId, EpochStep, Key, Op, OpenError, SledStore, Store as _, Tenant,
};
use orch_tests::budget::{budget, figures, seed};
use orch_tests::fleet::Fleet;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;
use tokio::task::block_in_place;

/// When a place is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Again and again while it serves.
    Serving,
    /// When it starts.
    Starting,
    /// When it is told to stop.
    Stopping,
}

use When::{Serving, Starting, Stopping};

/// Name, what happens there, and when.
type Place = (&'static str, &'static str, When);

const COORDINATOR: &[Place] = &[
    ("commit::before_write", "kill", Serving),
    ("commit::before_sync", "kill", Serving),
    ("journal::after_sync", "kill", Serving),
    ("settle::before_flush", "kill", Serving),
    ("settle::before_sync", "kill", Serving),
    ("settle::before_left", "kill", Serving),
    ("store::before_anchor", "kill", Serving),
    ("commit::after_sync", "kill", Serving),
    ("release::before_reply", "kill", Serving),
    ("release::before_grant", "kill", Serving),
    ("release::before_verdict", "kill", Serving),
    ("packs::before_finish", "kill", Serving),
    ("blobs::before_finish", "kill", Serving),
    ("blobs::before_sync", "kill", Serving),
    ("blobs::before_rename", "kill", Serving),
    ("blobs::after_rename", "kill", Serving),
    ("transcripts::before_write", "kill", Serving),
    ("transcripts::before_sync", "kill", Serving),
    ("transcripts::after_sync", "kill", Serving),
    ("store::write", "error", Serving),
    ("store::sync", "error", Serving),
    ("commit::after_sync", "panic", Serving),
    ("release::before_reply", "panic", Serving),
    ("open::before_sync", "kill", Starting),
    ("open::before_recover", "kill", Starting),
    ("open::before_clear", "kill", Starting),
    ("store::before_epoch", "kill", Starting),
    ("store::after_epoch", "kill", Starting),
    ("store::before_mark_clean", "kill", Stopping),
    ("store::after_mark_clean", "kill", Stopping),
];

const AGENTS: &[Place] = &[
    ("spool::before_write", "kill", Serving),
    ("spool::after_write", "kill", Serving),
    ("spool::before_sync", "kill", Serving),
    ("spool::after_sync", "kill", Serving),
    ("spool::before_write", "error", Serving),
    ("runner::before_start", "kill", Serving),
    ("runner::after_start", "kill", Serving),
    ("artifacts::before_manifest", "kill", Serving),
    ("artifacts::after_manifest", "kill", Serving),
    ("session::before_report", "kill", Serving),
    ("session::after_answer", "kill", Serving),
    ("spool::before_begin", "kill", Starting),
    ("spool::after_begin", "kill", Starting),
];

/// Deaths between two looks at what is stored: in between each start recovers from the death before it.
const LOOK_EVERY: u64 = 5;

/// Every kind of write there is, and enough of the plain one that commits are always under way.
const LOAD: [Kind; 5] = [Kind::Quick, Kind::Quick, Kind::Files, Kind::Worker, Kind::Large];

/// What arms a place: it lets a few times pass, so that it is not always the first thing that happens.
fn armed((name, action, when): Place, random: &mut StdRng) -> String {
    let pass = if when == Serving { random.random_range(0..4) } else { 0 };
    let place = if pass == 0 {
        format!("{name}=return({action})")
    } else {
        format!("{name}={pass}*off->return({action})")
    };
    // Else it may take long until what the journal has is brought to sled.
    if name.starts_with("settle::") { format!("{RESTLESS};{place}") } else { place }
}

/// Every commit makes the journal full.
pub(super) const RESTLESS: &str = "journal::full=return(skip)";

/// Dead as the place wants it: killed, or ended by itself with a failure.
fn is_right(status: ExitStatus, action: &str) -> bool {
    if action == "kill" { status.signal() == Some(Signal::KILL.as_raw()) } else { status.code() == Some(1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_dies_at_any_named_place_loses_nothing_and_records_nothing_twice() {
    const ROW: &str = "a_coordinator_that_dies_at_any_named_place_loses_nothing_and_records_nothing_twice";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let started = Instant::now();
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &AGENT);
    let fired = fleet.dir().join("fired");
    let fired_path = fired.display().to_string();
    let load = Load::start(&fleet, &LOAD, &[]).await;
    let walks = budget("ORCH_TORTURE_FAILPOINT_WALKS", 1);
    let places = (0..walks).flat_map(|_| COORDINATOR.iter().copied());
    let mut deaths = 0_u64;
    for place in places {
        let (name, action, when) = place;
        let armed = armed(place, &mut random);
        let environment = [("FAILPOINTS", armed.as_str()), ("ORCH_TEST_FIRED", fired_path.as_str())];
        let status = block_in_place(|| {
            fleet.kill_coordinator();
            let early = fleet.launch_coordinator(&environment);
            if let Some(status) = early {
                return status;
            }
            assert_ne!(when, Starting, "{name} was not reached at a start");
            if when == Stopping {
                fleet.coordinator().signal(Signal::TERM);
            }
            fleet.coordinator().wait()
        });
        assert!(is_right(status, action), "{name} {action}: {status}\n{}", tail(&fleet.coordinator_log()));
        assert!(lines(&fired).contains(&format!("{name} {action}")), "{name} was never reached");
        deaths += 1;
        if deaths.is_multiple_of(LOOK_EVERY) {
            block_in_place(|| fleet.start_coordinator());
            let missing = lost(&mut fleet.client().await, &load.so_far().await).await;
            assert!(missing.is_empty(), "{name} {action}: acknowledged and lost: {missing:?}");
        }
    }
    block_in_place(|| {
        fleet.kill_coordinator();
        fleet.start_coordinator();
    });
    let acknowledged = load.stop().await;
    all_end_well(&mut fleet.client().await, &acknowledged).await;
    figures(
        ROW,
        &format!(
            "{deaths} deaths at {} places, {} submits acknowledged, 0 lost, {} s",
            COORDINATOR.len(),
            acknowledged.len(),
            started.elapsed().as_secs()
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_at_any_named_place_loses_nothing_and_reports_nothing_twice() {
    const ROW: &str = "an_agent_that_dies_at_any_named_place_loses_nothing_and_reports_nothing_twice";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let started = Instant::now();
    // What it held is not to be given to another while it starts, however busy the host is.
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "1s");
    fleet.agent("box-1", &AGENT);
    let fired = fleet.dir().join("fired");
    let fired_path = fired.display().to_string();
    let load = Load::start(&fleet, &LOAD, &[]).await;
    let walks = budget("ORCH_TORTURE_FAILPOINT_WALKS", 1);
    let mut deaths = 0;
    for place in (0..walks).flat_map(|_| AGENTS.iter().copied()) {
        let (name, action, _) = place;
        let armed = armed(place, &mut random);
        let environment = [("FAILPOINTS", armed.as_str()), ("ORCH_TEST_FIRED", fired_path.as_str())];
        let status = block_in_place(|| {
            fleet.agent_process("box-1").kill();
            fleet.spawn_agent_in("box-1", &AGENT, &environment);
            fleet.agent_process("box-1").wait()
        });
        let log = fleet.agent_process("box-1").log();
        assert!(is_right(status, action), "{name} {action}: {status}\n{}", tail(&log));
        assert!(lines(&fired).contains(&format!("{name} {action}")), "{name} was never reached");
        deaths += 1;
        block_in_place(|| fleet.agent("box-1", &AGENT));
        resume_agent(&fleet, "box-1");
    }
    let acknowledged = load.stop().await;
    all_end_well(&mut fleet.client().await, &acknowledged).await;
    figures(
        ROW,
        &format!(
            "{deaths} deaths at {} places, {} runs, each recorded once, {} s",
            AGENTS.len(),
            acknowledged.len(),
            started.elapsed().as_secs()
        ),
    );
}

/// What cannot be stored costs the request it came with, which is made again: nothing is named before it is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_cannot_be_synced_or_named_is_stored_again_and_the_coordinator_goes_on() {
    const ROW: &str = "a_blob_that_cannot_be_synced_or_named_is_stored_again_and_the_coordinator_goes_on";
    let mut fleet = Fleet::idle_in(&std::env::temp_dir(), orch_tests::binaries!(), "200ms", "info", &[]);
    let fired = fleet.dir().join("fired");
    let fired_path = fired.display().to_string();
    let armed =
        "blobs::before_sync=2*off->3*return(error)->off;blobs::before_rename=1*off->3*return(error)->off";
    let environment = [("FAILPOINTS", armed), ("ORCH_TEST_FIRED", fired_path.as_str())];
    assert!(block_in_place(|| fleet.launch_coordinator(&environment)).is_none());
    fleet.agent("box-1", &AGENT);
    let load = Load::start(&fleet, &[Kind::Files, Kind::Worker], &[]).await;
    orch_tests::wait::until_async("all six errors, and work behind them", || async {
        (lines(&fired).len() >= 6 && load.ended().await >= 6).then_some(())
    })
    .await;
    assert!(fleet.coordinator().is_running(), "{}", tail(&fleet.coordinator_log()));
    let acknowledged = load.stop().await;
    all_end_well(&mut fleet.client().await, &acknowledged).await;
    let count = |name: &str| lines(&fired).iter().filter(|line| line.starts_with(name)).count();
    figures(
        ROW,
        &format!(
            "{} syncs and {} names failed, {} runs ended well",
            count("blobs::before_sync"),
            count("blobs::before_rename"),
            acknowledged.len()
        ),
    );
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A place that nobody arms would be there for nothing; every test here that arms one wants it reached.
#[test]
fn every_named_place_is_armed_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let (mut code, mut tests) = (String::new(), String::new());
    gather(&root.join("coordinator/src"), &mut code);
    gather(&root.join("agent/src"), &mut code);
    gather(&root.join("tests/torture/disk"), &mut tests);
    let named: Vec<_> =
        code.split("failpoint!(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(named.len() >= 40, "{} places", named.len());
    let idle: Vec<_> = named.iter().filter(|name| !tests.contains(&format!("\"{name}"))).collect();
    assert!(idle.is_empty(), "nobody arms {idle:?}");
}

/// The text of every source file below `dir`.
fn gather(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            gather(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).expect("a source file"));
        }
    }
}

/// The variable stands in every program that has failpoints, and nothing that ships has it.
#[test]
fn a_release_build_has_no_failpoints() {
    const MARK: &[u8] = b"ORCH_TEST_FIRED";
    let has_it = |path: &Path| {
        let program = std::fs::read(path).expect("a program");
        program.windows(MARK.len()).any(|window| window == MARK)
    };
    let binaries = orch_tests::binaries!();
    if !cfg!(debug_assertions) {
        assert!(!has_it(&binaries.orchd) && !has_it(&binaries.agent), "failpoints without debug assertions");
        return;
    }
    assert!(
        has_it(&binaries.orchd) && has_it(&binaries.agent),
        "a program with failpoints is known by its mark"
    );
    let target = binaries.orchd.parent().and_then(Path::parent).expect("the target directory");
    let shipped = ["orchctl", "orchd", "orch-agent"].map(|name| target.join("release").join(name));
    let built: Vec<_> = shipped.iter().filter(|path| path.is_file()).collect();
    for path in &built {
        assert!(!has_it(path), "{} has failpoints", path.display());
    }
    if built.is_empty() {
        orch_tests::skipped("a_release_build_has_no_failpoints", "there is no release build to look at");
    }
}

const DIR: &str = "ORCH_TEST_FAILPOINT_DIR";
/// More than two batches of the storage engine hold.
const KEYS: u32 = 1_200;
/// The last commit of a process that does not die: many more than the storage engine takes at once.
const LAST_COMMIT: u64 = 2_000;
const CLUSTER: ClusterId = ClusterId([4; 16]);

/// What commit number `commit` writes: the same number everywhere, in several steps.
fn ops(commit: u64) -> Vec<Op> {
    let task =
        |task| Op::Put { key: Key::task(Tenant::DEFAULT, 1, task), value: commit.to_be_bytes().to_vec() };
    (0..KEYS).map(task).collect()
}

/// The one number that everything in a store says; none in an empty one.
fn number(store: &SledStore) -> Option<u64> {
    let records = store.load().expect("the store is whole").records;
    let mut numbers: Vec<_> = records
        .iter()
        .map(|(_, value)| u64::from_be_bytes(value[..8].try_into().expect("a number")))
        .collect();
    assert!(numbers.is_empty() || numbers.len() == KEYS as usize, "{} records of {KEYS}", numbers.len());
    numbers.dedup();
    assert!(numbers.len() <= 1, "half a commit: {numbers:?}");
    numbers.first().copied()
}

/// Not a test of its own: the process that dies at a place. Does nothing unless told where.
#[test]
fn child_commits_or_imports_until_it_dies() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let armed = orch_coordinator::arm_failpoints();
    let store = SledStore::open(&dir.join("store"), CLUSTER).expect("the store opens");
    if let Ok(export) = std::fs::read(dir.join("export")) {
        store.import(&mut export.as_slice()).expect("an import");
    } else {
        let expect_epoch = store.begin_epoch(EpochStep::Start, 0).expect("an epoch").epoch;
        for commit in number(&store).unwrap_or(0) + 1..=LAST_COMMIT {
            store.commit(Batch { expect_epoch, ops: ops(commit) }).expect("a commit");
            // The harness captures print!, so that only what is written here reaches the parent.
            writeln!(std::io::stdout(), "\nack {commit}").expect("the parent reads");
        }
    }
    drop(armed);
}

/// Runs the child with a place armed until it dies there; the last acknowledged commit.
fn die_at(dir: &Path, name: &str, armed: &str) -> u64 {
    let fired = dir.join("fired");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "disk::failpoints::child_commits_or_imports_until_it_dies", "--nocapture"])
        .env(DIR, dir)
        .env("FAILPOINTS", armed)
        .env("ORCH_TEST_FIRED", &fired)
        .stdin(Stdio::null())
        .output()
        .expect("the child runs");
    assert!(
        is_right(child.status, "kill"),
        "{name}: {}\n{}",
        child.status,
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(lines(&fired).contains(&format!("{name} kill")), "{name} was never reached");
    let said = String::from_utf8_lossy(&child.stdout);
    let acknowledged = said.lines().filter_map(|line| line.strip_prefix("ack ")?.parse().ok());
    acknowledged.max().unwrap_or(0)
}

#[test]
fn a_commit_of_several_batches_that_dies_anywhere_is_there_or_not_and_never_half() {
    let places = [
        "store::write",
        "commit::before_sync",
        "journal::after_sync",
        "settle::after_batch",
        "settle::before_flush",
        "settle::before_left",
    ];
    let (mut kept, mut dropped) = (0, 0);
    for name in places {
        for pass in 0..3 {
            let temp = tempfile::tempdir().expect("a directory");
            let armed = if pass == 0 {
                format!("{RESTLESS};{name}=return(kill)")
            } else {
                format!("{RESTLESS};{name}={pass}*off->return(kill)")
            };
            let acknowledged = die_at(temp.path(), name, &armed);
            let store = SledStore::open(&temp.path().join("store"), CLUSTER).expect("the store opens");
            let found = number(&store).unwrap_or(0);
            assert!(
                found == acknowledged || found == acknowledged + 1,
                "{name}: {acknowledged} then {found}"
            );
            if found == acknowledged { dropped += 1 } else { kept += 1 }
        }
    }
    assert!(
        kept > 0 && dropped > 0,
        "before its entry is written it is as if never begun, behind it the commit happened"
    );
    figures(
        "a_commit_of_several_batches",
        &format!("{} deaths, {kept} carried through, {dropped} dropped, 0 halves", kept + dropped),
    );
}

#[test]
fn an_import_that_dies_at_any_step_is_never_taken_for_a_store() {
    let temp = tempfile::tempdir().expect("a directory");
    let source = SledStore::open(&temp.path().join("source"), CLUSTER).expect("the store opens");
    let expect_epoch = source.begin_epoch(EpochStep::Start, 0).expect("an epoch").epoch;
    source.commit(Batch { expect_epoch, ops: ops(7) }).expect("a commit");
    let mut export = Vec::new();
    source.export(&mut export).expect("an export");
    for (name, pass) in [("import::after_step", 0), ("import::after_step", 1), ("import::before_seal", 0)] {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("export"), &export).expect("written");
        let armed = if pass == 0 {
            format!("{name}=return(kill)")
        } else {
            format!("{name}={pass}*off->return(kill)")
        };
        die_at(dir.path(), name, &armed);
        let error = SledStore::open(&dir.path().join("store"), CLUSTER).expect_err("half an import");
        assert!(matches!(error, OpenError::UnfinishedImport { .. }), "{name}: {error}");
    }
}
