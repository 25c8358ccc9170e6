//! A disk that refuses: no room, no inodes, errors of the device. What was acknowledged is there afterwards, nothing is
//! acknowledged behind a failure, and the process says what it ended for.

use super::load::{AGENT, Kind, Load, all_end_well, lost};
use super::mount::SmallFs;
use super::shim::{Fault, Shim, borrowed};
use orch_tests::budget::{budget, figures, seed};
use orch_tests::fleet::Fleet;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

/// How long a fault may take to be reached, and an end to come of it.
const REACHED_WITHIN: Duration = Duration::from_secs(8);
/// How long a disk stays full.
const FULL_FOR: Duration = Duration::from_secs(4);
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Said by a start that found no room and made some.
const RESERVE_GIVEN_UP: &str = "the reserve was given up for this start";

/// Whether a load balancer would send something there.
fn is_ready(probe: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(probe)?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
}

/// Waits so long for the end of the coordinator.
fn ended_within(fleet: &mut Fleet, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < limit {
        if !fleet.coordinator().is_running() {
            return Some(fleet.coordinator().wait());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// The last thing that a coordinator said before it ended.
fn last_words(fleet: &Fleet) -> String {
    let log = fleet.coordinator_log();
    // What is wrong, and a line with what to do.
    let words: Vec<&str> = log.lines().rev().filter(|line| line.starts_with("orchd: ")).take(2).collect();
    words.into_iter().rev().collect::<Vec<_>>().join("; ")
}

/// Names are given past the C library, so that a rename that fails is a failpoint's affair.
const FAULTS: [(&str, Errno); 9] = [
    ("write", Errno::IO),
    ("write", Errno::NOSPC),
    ("write", Errno::ROFS),
    ("fdatasync", Errno::IO),
    ("fdatasync", Errno::NOSPC),
    ("fsync", Errno::IO),
    ("range", Errno::IO),
    ("open", Errno::IO),
    ("open", Errno::MFILE),
];

/// What became of faults, by kind.
#[derive(Debug, Default)]
struct Tally {
    fired: BTreeMap<String, u64>,
    ended: u64,
    refused: u64,
    went_on: u64,
    unreached: Vec<Fault>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_the_coordinator_that_fails_costs_nothing_acknowledged() {
    const ROW: &str = "a_call_of_the_coordinator_that_fails_costs_nothing_acknowledged";
    let shim = match Shim::build() {
        Ok(shim) => shim,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &AGENT);
    let load = Load::start(&fleet, &[Kind::Quick, Kind::Files, Kind::Worker], &[Kind::Quick]).await;
    let mut tally = Tally::default();
    let rounds = budget("ORCH_TORTURE_DISK_FAULTS", 1);
    for (call, errno) in (0..rounds).flat_map(|_| FAULTS) {
        let most = match call {
            "open" => 30,
            "fsync" => 6,
            "range" => 20,
            _ => 60,
        };
        let fault = Fault {
            call,
            nth: random.random_range(1..=most),
            errno: errno.raw_os_error(),
            lasting: random.random(),
            sleep_ms: 0,
        };
        block_in_place(|| suffer(&mut fleet, &shim, &fault, &mut tally));
        block_in_place(|| {
            fleet.kill_coordinator();
            fleet.start_coordinator();
        });
        let missing = lost(&mut fleet.client().await, &load.so_far().await).await;
        assert!(missing.is_empty(), "{fault:?}: acknowledged and lost: {missing:?}");
    }
    let acknowledged = load.stop().await;
    all_end_well(&mut fleet.client().await, &acknowledged).await;
    for call in ["write", "fdatasync", "fsync", "range", "open"] {
        assert!(tally.fired.get(call).is_some_and(|fired| *fired > 0), "{call} never failed: {tally:?}");
    }
    figures(
        ROW,
        &format!(
            "{} submits acknowledged, 0 lost; fired {:?}; {} ended by themselves, {} refused to start, {} went on; not reached {:?}",
            acknowledged.len(),
            tally.fired,
            tally.ended,
            tally.refused,
            tally.went_on,
            tally.unreached
        ),
    );
}

/// Starts a coordinator to which the fault happens, and sees what it does about it.
fn suffer(fleet: &mut Fleet, shim: &Shim, fault: &Fault, tally: &mut Tally) {
    fleet.kill_coordinator();
    let begun_anew = |fleet: &Fleet| fleet.coordinator_log().matches(RESERVE_GIVEN_UP).count();
    let before = begun_anew(fleet);
    let mut environment = shim.environment(&fleet.data_dir(), fault);
    if fault.call == "range" {
        // The storage engine alone asks for that, and may have nothing to write for long.
        environment.push(("FAILPOINTS".to_owned(), super::failpoints::RESTLESS.to_owned()));
    }
    let early = fleet.launch_coordinator(&borrowed(&environment));
    if early.is_none() {
        let started = Instant::now();
        while shim.fired().is_empty() && started.elapsed() < REACHED_WITHIN {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let fired = shim.fired();
    let Some(first) = fired.first() else {
        assert!(early.is_none(), "it ended without a fault: {}", last_words(fleet));
        tally.unreached.push(*fault);
        return;
    };
    *tally.fired.entry(fault.call.to_owned()).or_default() += 1;
    if let Some(status) = early {
        assert_eq!(status.code(), Some(1), "{fault:?} on {first}: {}", last_words(fleet));
        assert!(!last_words(fleet).is_empty(), "{fault:?} on {first}: it says why");
        assert!(!last_words(fleet).contains("backup"), "{fault:?} on {first}: {}", last_words(fleet));
        tally.refused += 1;
        return;
    }
    // The store, and only the store, ends the process: whatever else fails costs the request it failed in.
    let of_store = first.contains("/store/");
    let limit = if of_store { ENDS_WITHIN } else { Duration::from_millis(200) };
    match ended_within(fleet, limit) {
        Some(status) => {
            assert_eq!(status.code(), Some(1), "{fault:?} on {first}: {}", last_words(fleet));
            let words = last_words(fleet);
            assert!(words.contains("failed") || words.contains("cannot"), "{fault:?} on {first}: {words}");
            assert!(!is_ready(&fleet.ports().probe), "{fault:?} on {first}");
            tally.ended += 1;
        }
        None => {
            // What must not be passed over is a write of the journal, the log or the commit's number, and our sync of it.
            // The storage engine has an fsync of its own, behind cutting unused room off the log, and passes over its
            // failure; nothing rests on that one.
            let durable = ["/store/journal.0", "/store/journal.1", "/store/anchor", "/db"];
            let counts = durable.iter().any(|file| first.ends_with(file))
                && matches!(fault.call, "write" | "range" | "fdatasync");
            // While it starts, no room is mended, and the log opened once more.
            let opened_anew = begun_anew(fleet) > before;
            assert!(!counts || opened_anew, "{fault:?} on {first}: it goes on as if nothing were");
            tally.went_on += 1;
        }
    }
}

/// The storage engine writes on threads of its own, and a flush that waits when one of them fails is not woken by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_the_storage_engine_that_fails_late_ends_the_coordinator() {
    const ROW: &str = "a_write_of_the_storage_engine_that_fails_late_ends_the_coordinator";
    let shim = match Shim::build() {
        Ok(shim) => shim,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let load = Load::start(&fleet, &[], &[Kind::Quick]).await;
    let (mut ended, mut refused) = (0, 0);
    for nth in 1..=8 {
        let errno = Errno::IO.raw_os_error();
        // By then the flush waits for it.
        let fault = Fault { call: "write", nth, errno, lasting: false, sleep_ms: 300 };
        let mut environment = shim.environment(&fleet.data_dir().join("store/sled"), &fault);
        // Every commit goes to the storage engine at once.
        environment.push(("FAILPOINTS".to_owned(), super::failpoints::RESTLESS.to_owned()));
        block_in_place(|| {
            fleet.kill_coordinator();
            let early = fleet.launch_coordinator(&borrowed(&environment));
            let status = early.or_else(|| ended_within(&mut fleet, REACHED_WITHIN + ENDS_WITHIN));
            let fired = shim.fired();
            let words = last_words(&fleet);
            assert!(!fired.is_empty(), "write {nth} was reached");
            assert_eq!(status.and_then(|status| status.code()), Some(1), "write {nth} on {fired:?}: {words}");
            assert!(words.contains("Input/output error"), "write {nth} on {fired:?}: {words}");
            if early.is_some() {
                refused += 1
            } else {
                ended += 1
            }
            fleet.start_coordinator();
        });
    }
    let acknowledged = load.stop().await;
    let missing = lost(&mut fleet.client().await, &acknowledged).await;
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    figures(
        ROW,
        &format!("8 writes failed late: {ended} ended by themselves, {refused} refused to start, 0 lost"),
    );
}

/// Fills a file system but for so many bytes, in a file that is to be removed.
pub(super) fn ballast(at: &std::path::Path, spare: u64) -> std::path::PathBuf {
    let path = at.join("ballast");
    let space = rustix::fs::statvfs(at).expect("a file system");
    let bytes = (space.f_bavail * space.f_frsize).saturating_sub(spare);
    let file = File::create(&path).expect("a file");
    // Somebody else writes at the same time, so the last bytes may be gone already.
    let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1));
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_nothing_acknowledged_wherever_it_becomes_full() {
    const ROW: &str = "a_full_disk_costs_nothing_acknowledged_wherever_it_becomes_full";
    let rounds = budget("ORCH_TORTURE_DISK_FAULTS", 1) * 6;
    // What was submitted stays there, and is not to be what fills it.
    let disk = match SmallFs::make((64 + 2 * rounds) << 10, 10_000) {
        Ok(disk) => disk,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::idle_in(&std::env::temp_dir(), orch_tests::binaries!(), "200ms", "info", &[]);
    fleet.keep_data_in(disk.path().join("data"));
    fleet.start_coordinator();
    fleet.agent("box-1", &AGENT);
    let load = Load::start(&fleet, &[Kind::Quick, Kind::Files, Kind::Large], &[Kind::Quick]).await;
    let (mut ended, mut refused, mut went_on, mut full) = (0, 0, 0, 0);
    for round in 0..rounds {
        let spare = random.random_range(0..256) << 10;
        let seen = fleet.coordinator_log().matches("No space left on device").count();
        let ballast = ballast(disk.path(), spare);
        let at_start = random.random_ratio(1, 4);
        let status = block_in_place(|| {
            if at_start {
                fleet.kill_coordinator();
                return fleet.launch_coordinator(&[]);
            }
            ended_within(&mut fleet, FULL_FOR)
        });
        let words = last_words(&fleet);
        match status {
            Some(status) => {
                assert_eq!(status.code(), Some(1), "round {round}: {words}");
                assert!(words.contains("No space left on device"), "round {round}: {words}");
                if at_start { refused += 1 } else { ended += 1 }
            }
            None => went_on += 1,
        }
        full += u64::from(fleet.coordinator_log().matches("No space left on device").count() > seen);
        std::fs::remove_file(&ballast).expect("the room comes back");
        block_in_place(|| {
            fleet.kill_coordinator();
            fleet.start_coordinator();
        });
        let missing = lost(&mut fleet.client().await, &load.so_far().await).await;
        assert!(missing.is_empty(), "round {round}, {spare} bytes left: acknowledged and lost: {missing:?}");
        let before = load.acknowledged().await;
        orch_tests::wait::until_async("submits to be taken again", || async {
            (load.acknowledged().await > before).then_some(())
        })
        .await;
    }
    let acknowledged = load.stop().await;
    all_end_well(&mut fleet.client().await, &acknowledged).await;
    assert!(full > 0, "the disk was never full");
    figures(
        ROW,
        &format!(
            "{rounds} times full: {ended} ended by themselves, {refused} refused to start, {went_on} went on; {} submits \
             acknowledged, 0 lost",
            acknowledged.len()
        ),
    );
    drop(fleet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_inodes_nothing_acknowledged_is_lost() {
    const ROW: &str = "without_inodes_nothing_acknowledged_is_lost";
    let disk = match SmallFs::make(64 << 10, 60) {
        Ok(disk) => disk,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let mut fleet = Fleet::idle_in(&std::env::temp_dir(), orch_tests::binaries!(), "200ms", "info", &[]);
    fleet.keep_data_in(disk.path().join("data"));
    fleet.start_coordinator();
    fleet.agent("box-1", &AGENT);
    // Each leaves a pack, two blobs and a transcript behind.
    let load = Load::start(&fleet, &[Kind::Files, Kind::Files], &[]).await;
    let used_up = || rustix::fs::statvfs(disk.path()).is_ok_and(|space| space.f_ffree == 0);
    orch_tests::wait::until_async("the inodes to be used up", || async { used_up().then_some(()) }).await;
    let acknowledged = load.so_far().await.len();
    // What it does without any is what is tested; whether it ends or refuses is its affair.
    let _ = block_in_place(|| ended_within(&mut fleet, Duration::from_secs(1)));
    disk.grow(64 << 10, 20_000).expect("more inodes");
    block_in_place(|| {
        fleet.kill_coordinator();
        fleet.start_coordinator();
    });
    let missing = lost(&mut fleet.client().await, &load.so_far().await).await;
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    let all = load.stop().await;
    all_end_well(&mut fleet.client().await, &all).await;
    figures(ROW, &format!("{acknowledged} submits acknowledged until the inodes were used up, 0 lost"));
    drop(fleet);
}
