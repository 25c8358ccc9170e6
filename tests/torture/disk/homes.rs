//! The agent's own disk: its spool refuses, its homes are full, read-only, links, missing or somebody else's. It says so, it
//! writes nothing where it must not, and once the disk is right again everything finishes and is recorded once.

use super::load::{AGENT, Kind, Load, all_end_well, resume_agent};
use super::mount::{Kind as FsKind, LoopFs, SmallFs};
use super::shim::{Fault, Shim, borrowed};
use orch_proto::v1::{Outcome, RunState};
use orch_tests::budget::{budget, figures, seed};
use orch_tests::client::{command, run};
use orch_tests::fleet::Fleet;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::io::Errno;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

const FAULTS: [(&str, Errno, u64); 6] = [
    ("write", Errno::IO, 8),
    ("write", Errno::NOSPC, 8),
    ("sync", Errno::IO, 5),
    ("rename", Errno::IO, 1),
    ("open", Errno::IO, 2),
    ("sync", Errno::NOSPC, 1),
];
const LIMIT: Duration = Duration::from_secs(10);

fn ended_within(fleet: &mut Fleet, limit: Duration) -> Option<ExitStatus> {
    let agent = fleet.agent_process("box-1");
    let started = Instant::now();
    while started.elapsed() < limit {
        if !agent.is_running() {
            return Some(agent.wait());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// The last thing that an agent said before it ended.
fn last_words(fleet: &mut Fleet) -> String {
    let log = fleet.agent_process("box-1").log();
    log.lines().rfind(|line| line.starts_with("orch-agent: ")).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_spool_fails_ends_and_says_so_and_nothing_is_lost_or_recorded_twice() {
    const ROW: &str = "an_agent_whose_spool_fails_ends_and_says_so_and_nothing_is_lost_or_recorded_twice";
    let shim = match Shim::build() {
        Ok(shim) => shim,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &AGENT);
    let load = Load::start(&fleet, &[Kind::Quick, Kind::Quick, Kind::Files], &[]).await;
    let mut fired: BTreeMap<&str, u64> = BTreeMap::new();
    let rounds = budget("ORCH_TORTURE_DISK_FAULTS", 1);
    for (call, errno, most) in (0..rounds).flat_map(|_| FAULTS) {
        let nth = random.random_range(1..=most);
        let fault = Fault { call, nth, errno: errno.raw_os_error(), lasting: random.random(), sleep_ms: 0 };
        let spool = fleet.agent_dir("box-1").join("spool");
        block_in_place(|| {
            fleet.agent_process("box-1").kill();
            fleet.spawn_agent_in("box-1", &AGENT, &borrowed(&shim.environment(&spool, &fault)));
            let status = ended_within(&mut fleet, LIMIT);
            let words = last_words(&mut fleet);
            assert!(!shim.fired().is_empty(), "{fault:?} was never reached");
            let status = status.unwrap_or_else(|| panic!("{fault:?}: the agent goes on as if nothing were"));
            assert_eq!(status.code(), Some(1), "{fault:?}: {words}");
            assert!(words.contains("spool") || words.contains("sync"), "{fault:?}: {words}");
            *fired.entry(call).or_default() += 1;
            fleet.agent("box-1", &AGENT);
        });
        resume_agent(&fleet, "box-1");
    }
    let acknowledged = load.stop().await;
    all_end_well(&mut fleet.client().await, &acknowledged).await;
    figures(
        ROW,
        &format!("fired {fired:?}, each ended the agent; {} runs, each recorded once", acknowledged.len()),
    );
}

/// Starts the agent where it must not start, and returns what it says.
fn refused(fleet: &mut Fleet, what: &str) -> String {
    fleet.spawn_agent("box-1", &AGENT);
    let status = ended_within(fleet, LIMIT).unwrap_or_else(|| panic!("{what}: the agent starts"));
    assert_eq!(status.code(), Some(1), "{what}");
    last_words(fleet)
}

fn stop(fleet: &mut Fleet) {
    fleet.agent_process("box-1").signal(Signal::TERM);
    fleet.agent_process("box-1").wait();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn homes_that_are_a_link_somebody_elses_or_gone_are_refused_by_name() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &AGENT);
    let tasks = fleet.agent_dir("box-1").join("tasks");
    let elsewhere = fleet.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory");

    // A link where the homes should be, and where the home of the next task should be.
    block_in_place(|| stop(&mut fleet));
    std::fs::rename(&tasks, fleet.dir().join("aside")).expect("moved");
    symlink(&elsewhere, &tasks).expect("a link");
    let said = block_in_place(|| refused(&mut fleet, "a link"));
    assert!(said.contains("is not a directory of this user") && said.contains("tasks"), "{said}");
    std::fs::remove_file(&tasks).expect("removed");

    // Somebody else's.
    if rustix::process::geteuid().is_root() {
        std::fs::create_dir(&tasks).expect("a directory");
        std::os::unix::fs::chown(&tasks, Some(12_345), None).expect("given away");
        let said = block_in_place(|| refused(&mut fleet, "another's"));
        assert!(said.contains("is not a directory of this user"), "{said}");
        std::fs::remove_dir(&tasks).expect("removed");
    }

    // Gone while it runs: the task says so, the agent goes on, and a restart mends it.
    fleet.agent("box-1", &AGENT);
    let mut client = fleet.client().await;
    std::fs::remove_dir_all(&tasks).expect("gone");
    let echo = || run(vec![command("t", "/bin/sh", &["-c", "echo done"])]);
    let failed = client.submit(echo()).await;
    let ended = client.finished(&failed.r#ref).await;
    if ended.state() != RunState::Succeeded {
        let task = &client.tasks(&failed.r#ref).await[0];
        assert_eq!(task.outcome(), Outcome::SpawnFailed, "{task:?}");
        let detail = task.attempts.first().map(|attempt| attempt.detail.clone()).unwrap_or_default();
        assert!(task.detail.contains("tasks") || detail.contains("tasks"), "{task:?}");
        block_in_place(|| {
            stop(&mut fleet);
            fleet.agent("box-1", &AGENT);
        });
    }
    let well = client.submit(echo()).await;
    assert_eq!(client.finished(&well.r#ref).await.state(), RunState::Succeeded);

    // A link where the home of the next task will be: refused, and nothing is written through it.
    let next = well.run_id + 1;
    symlink(&elsewhere, tasks.join(format!("{next}-0"))).expect("a link");
    let planted = client.submit(echo()).await;
    assert_eq!(planted.run_id, next, "numbers of runs are dense");
    assert_eq!(client.finished(&planted.r#ref).await.state(), RunState::Failed);
    assert_eq!(client.tasks(&planted.r#ref).await[0].outcome(), Outcome::SpawnFailed);
    assert_eq!(
        std::fs::read_dir(&elsewhere).expect("a directory").count(),
        0,
        "nothing went through the link"
    );
    figures("homes", "a link, another's, gone, a planted link: refused by name, nothing written through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_of_the_agent_that_may_only_be_read_is_named_at_its_start() {
    const ROW: &str = "a_disk_of_the_agent_that_may_only_be_read_is_named_at_its_start";
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let fs = match LoopFs::make_at(Some(&fleet.agent_dir("box-1")), FsKind::Ext4, 64, "noatime") {
        Ok(fs) => fs,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    block_in_place(|| {
        fleet.agent("box-1", &AGENT);
        stop(&mut fleet);
        fs.read_only(true).expect("remounted");
        let said = refused(&mut fleet, "read-only");
        assert!(said.contains("Read-only file system"), "{said}");
        fs.read_only(false).expect("remounted");
        fleet.agent("box-1", &AGENT);
        stop(&mut fleet);
    });
    figures(ROW, "refused with the reason, and starts once it may write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_disk_is_full_loses_nothing_and_everything_finishes_once_there_is_room() {
    const ROW: &str = "an_agent_whose_disk_is_full_loses_nothing_and_everything_finishes_once_there_is_room";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let disk = match SmallFs::make_at(Some(&fleet.agent_dir("box-1")), 32 << 10, 5_000) {
        Ok(disk) => disk,
        Err(why) => return orch_tests::skipped(ROW, &why),
    };
    fleet.agent("box-1", &AGENT);
    let load = Load::start(&fleet, &[Kind::Quick, Kind::Quick], &[]).await;
    let (mut ended, mut failed) = (0, 0);
    for _ in 0..budget("ORCH_TORTURE_DISK_FAULTS", 1) * 3 {
        let ballast = super::full::ballast(disk.path(), random.random_range(0..32) << 10);
        let mut client = fleet.client().await;
        // Somebody's task with a home and a file: it may fail, and then it says why.
        let script = "head -c 200000 /dev/zero > ../out/file && echo done";
        let submitted = client.submit(run(vec![command("t", "/bin/sh", &["-c", script])])).await;
        let gone = block_in_place(|| ended_within(&mut fleet, Duration::from_secs(3)));
        if let Some(status) = gone {
            let words = last_words(&mut fleet);
            assert_eq!(status.code(), Some(1), "{words}");
            assert!(words.contains("No space left on device"), "{words}");
            ended += 1;
        }
        remove(&ballast);
        if gone.is_some() {
            block_in_place(|| fleet.agent("box-1", &AGENT));
        }
        resume_agent(&fleet, "box-1");
        let run = client.finished(&submitted.r#ref).await;
        if run.state() != RunState::Succeeded {
            let task = &client.tasks(&submitted.r#ref).await[0];
            assert!(!task.detail.is_empty(), "{task:?}");
            failed += 1;
        }
    }
    let acknowledged = load.stop().await;
    all_end_well(&mut fleet.client().await, &acknowledged).await;
    block_in_place(|| stop(&mut fleet));
    assert!(ended + failed > 0, "the disk was never full");
    figures(
        ROW,
        &format!(
            "the agent ended {ended} times, {failed} tasks failed by name; {} runs, each recorded once",
            acknowledged.len()
        ),
    );
}

fn remove(ballast: &Path) {
    std::fs::remove_file(ballast).expect("the room comes back");
}
