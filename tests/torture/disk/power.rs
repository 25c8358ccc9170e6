//! Loss of power: the file system below the data directory stops at once and forgets what was not synced. Nothing
//! acknowledged is lost and everything opens; and without our own sync the same test sees the loss, so it bites.

use super::load::{AGENT, Kind as Submit, Load, all_end_well, damaged_files, lost};
use super::mount::{Kind, LoopFs};
use orch_tests::budget::{budget, figures, seed};
use orch_tests::fleet::Fleet;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

/// The journal is not written by the clock meanwhile, so that what is not synced is lost for certain.
const NEVER_BY_ITSELF: &str = "commit=300";
const MEBIBYTES: u64 = 768;
/// Rounds in which the loss must show without the sync.
const ROUNDS_TO_BITE: u64 = 5;

/// A coordinator whose data lies on `fs`; it does not run yet.
fn fleet_on(fs: &LoopFs) -> Fleet {
    let mut fleet = Fleet::idle_in(&std::env::temp_dir(), orch_tests::binaries!(), "200ms", "info", &[]);
    fleet.keep_data_in(fs.path().join("data"));
    fleet
}

/// Lets the load run for a moment, takes the power away, kills the coordinator and brings the file system back.
async fn lose(fleet: &mut Fleet, fs: &mut LoopFs, random: &mut StdRng) {
    // The moment is the fault.
    tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
    block_in_place(|| {
        fs.lose_power().expect("the file system stops");
        fleet.kill_coordinator();
        fs.come_back();
    });
}

async fn survives(row: &str, kind: Kind, options: &'static str, rounds: u64) {
    let mut fs = match LoopFs::make(kind, MEBIBYTES, options) {
        Ok(fs) => fs,
        Err(why) => return orch_tests::skipped(row, &why),
    };
    let mut random = StdRng::seed_from_u64(seed(row));
    let mut fleet = fleet_on(&fs);
    fleet.start_coordinator();
    fleet.agent("box-1", &AGENT);
    // Some wait for the end of what they submit, so that results are acknowledged too; the others go as fast as it goes.
    let waiting = [Submit::Quick, Submit::Files, Submit::Large, Submit::Worker];
    let load = Load::start(&fleet, &waiting, &[Submit::Quick; 2]).await;
    let started = Instant::now();
    let (mut opened, mut slowest) = (0, Duration::ZERO);
    for round in 0..rounds {
        lose(&mut fleet, &mut fs, &mut random).await;
        let at = Instant::now();
        block_in_place(|| fleet.start_coordinator());
        (opened, slowest) = (opened + 1, slowest.max(at.elapsed()));
        load.hold(true);
        let acknowledged = load.so_far().await;
        let missing = lost(&mut fleet.client().await, &acknowledged).await;
        assert!(missing.is_empty(), "round {round}: acknowledged and lost: {missing:?}");
        let damaged = damaged_files(&mut fleet.client().await, &acknowledged).await;
        assert!(damaged.is_empty(), "round {round}: handed over and lost: {damaged:?}");
        load.hold(false);
    }
    let acknowledged = load.stop().await;
    let mut client = fleet.client().await;
    all_end_well(&mut client, &acknowledged).await;
    let ended = acknowledged.iter().filter(|one| one.ended).count();
    figures(
        row,
        &format!(
            "{rounds} losses of power on {kind:?}, {} submits and {ended} ends acknowledged, 0 lost, {opened}/{rounds} opened, \
             slowest start {} ms, {} s",
            acknowledged.len(),
            slowest.as_millis(),
            started.elapsed().as_secs()
        ),
    );
    drop(fleet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_power() {
    let rounds = budget("ORCH_TORTURE_POWER_LOSSES", 3);
    survives("nothing_acknowledged_is_lost_with_the_power", Kind::Ext4, NEVER_BY_ITSELF, rounds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_power_on_xfs() {
    let rounds = budget("ORCH_TORTURE_POWER_LOSSES", 3).div_ceil(2);
    survives("nothing_acknowledged_is_lost_with_the_power_on_xfs", Kind::Xfs, "noatime", rounds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_our_sync_the_loss_of_power_is_seen() {
    const ROW: &str = "without_our_sync_the_loss_of_power_is_seen";
    let mut fs = match LoopFs::make(Kind::Ext4, MEBIBYTES, NEVER_BY_ITSELF) {
        Ok(fs) => fs,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = fleet_on(&fs);
    let environment = [("FAILPOINTS", "store::skip_sync=return(skip)")];
    assert!(block_in_place(|| fleet.launch_coordinator(&environment)).is_none());
    let load = Load::start(&fleet, &[], &[Submit::Quick; 3]).await;
    let mut seen = None;
    for round in 1..=ROUNDS_TO_BITE {
        let before = load.acknowledged().await;
        orch_tests::wait::until_async("acknowledgements", || async {
            (load.acknowledged().await >= before + 20).then_some(())
        })
        .await;
        lose(&mut fleet, &mut fs, &mut random).await;
        let acknowledged = load.so_far().await;
        if block_in_place(|| fleet.launch_coordinator(&environment)).is_some() {
            seen = Some((round, acknowledged.len(), "it refuses to open what is left".to_owned()));
            break;
        }
        let missing = lost(&mut fleet.client().await, &acknowledged).await;
        if !missing.is_empty() {
            seen = Some((round, acknowledged.len(), format!("{} are lost", missing.len())));
            break;
        }
    }
    drop(load);
    let (round, acknowledged, what) = seen.expect("without the sync the loss shows");
    figures(ROW, &format!("round {round}: of {acknowledged} acknowledged without sync {what}"));
    drop(fleet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_sync_of_blobs_the_loss_of_power_is_seen() {
    const ROW: &str = "without_the_sync_of_blobs_the_loss_of_power_is_seen";
    let mut fs = match LoopFs::make(Kind::Ext4, MEBIBYTES, NEVER_BY_ITSELF) {
        Ok(fs) => fs,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = fleet_on(&fs);
    let environment = [("FAILPOINTS", "blobs::skip_sync=return(skip)")];
    assert!(block_in_place(|| fleet.launch_coordinator(&environment)).is_none());
    fleet.agent("box-1", &AGENT);
    let load = Load::start(&fleet, &[Submit::Files; 2], &[]).await;
    let mut seen = None;
    for round in 1..=ROUNDS_TO_BITE {
        let before = load.ended().await;
        orch_tests::wait::until_async("ends", || async { (load.ended().await >= before + 2).then_some(()) })
            .await;
        lose(&mut fleet, &mut fs, &mut random).await;
        let acknowledged = load.so_far().await;
        block_in_place(|| {
            assert!(fleet.launch_coordinator(&environment).is_none(), "{}", fleet.coordinator_log())
        });
        let damaged = damaged_files(&mut fleet.client().await, &acknowledged).await;
        if let Some(first) = damaged.first() {
            seen = Some(format!("round {round}: {} files are gone, {first}", damaged.len()));
            break;
        }
    }
    drop(load);
    figures(ROW, &seen.expect("without the sync of blobs the loss shows"));
    drop(fleet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_spool_lost_its_power_loses_nothing_that_was_recorded() {
    const ROW: &str = "an_agent_whose_spool_lost_its_power_loses_nothing_that_was_recorded";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let at = fleet.agent_dir("box-1");
    let mut fs = match LoopFs::make_at(Some(&at), Kind::Ext4, MEBIBYTES, NEVER_BY_ITSELF) {
        Ok(fs) => fs,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let rounds = budget("ORCH_TORTURE_POWER_LOSSES", 3);
    fleet.agent("box-1", &AGENT);
    // What runs in processes of its own would keep the file system busy; what does nothing is reported all the same.
    let load = Load::start(&fleet, &[Submit::Quick, Submit::Quick, Submit::Large], &[]).await;
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
        block_in_place(|| {
            fs.lose_power().expect("the file system stops");
            fleet.agent_process("box-1").kill();
            fs.come_back();
            fleet.agent("box-1", &AGENT);
        });
        super::load::resume_agent(&fleet, "box-1");
        let missing = lost(&mut fleet.client().await, &load.so_far().await).await;
        assert!(missing.is_empty(), "round {round}: ended and not ended any more: {missing:?}");
    }
    let acknowledged = load.stop().await;
    let mut client = fleet.client().await;
    all_end_well(&mut client, &acknowledged).await;
    figures(
        ROW,
        &format!("{rounds} losses of power of an agent, {} runs, all recorded once", acknowledged.len()),
    );
}
