//! Restore, compaction and backup killed at each of their steps: what is there afterwards is the old or the new, whole, and
//! never some of each. A migration makes its store and puts it in place by the same steps as a compaction.

use super::load::{Acknowledged, Kind, Load, all_end_well, lines, stored};
use orch_tests::budget::{budget, figures, seed};
use orch_tests::fleet::Fleet;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokio::task::block_in_place;

/// Name, how often it passes before, and whether the new is there after a death behind it.
type Step = (&'static str, u32, bool);

const STEPS: [Step; 9] = [
    ("import::after_step", 0, false),
    ("import::before_seal", 0, false),
    ("swap::before_marker", 0, false),
    ("swap::after_marker", 0, true),
    ("swap::after_aside", 0, true),
    ("swap::after_aside", 1, true),
    ("swap::after_room", 0, true),
    ("swap::after_room", 1, true),
    ("swap::after_removal", 0, true),
];

/// A data directory with a past, a backup made half-way, and what was acknowledged until then and since.
struct Bench {
    fleet: Fleet,
    backup: PathBuf,
    until: Vec<Acknowledged>,
    since: Vec<Acknowledged>,
}

fn storage(fleet: &Fleet, data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(&fleet.binaries().orchd);
    command.arg("storage").args(args).arg("--data-dir").arg(data).stdin(Stdio::null());
    command
}

fn done(command: &mut Command) -> Output {
    let said = command.output().expect("orchd runs");
    assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
    said
}

/// Lets `kinds` work until so many runs have ended, and waits for the end of the others.
async fn work(fleet: &mut Fleet, kinds: &[Kind], ended: usize) -> Vec<Acknowledged> {
    let load = Load::start(fleet, kinds, &[]).await;
    orch_tests::wait::until_async("runs to end", || async { (load.ended().await >= ended).then_some(()) })
        .await;
    let acknowledged = load.stop().await;
    let mut client = fleet.client().await;
    for one in &acknowledged {
        client.finished(&one.run_ref).await;
    }
    acknowledged
}

fn stop(fleet: &mut Fleet) {
    fleet.coordinator().signal(Signal::TERM);
    let status = fleet.coordinator().wait();
    assert!(status.success(), "{status}");
}

async fn bench() -> Bench {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &super::load::AGENT);
    let until = work(&mut fleet, &[Kind::Quick, Kind::Files, Kind::Large], 8).await;
    all_end_well(&mut fleet.client().await, &until).await;
    block_in_place(|| stop(&mut fleet));
    let backup = fleet.dir().join("backup");
    done(&mut storage(&fleet, &fleet.data_dir(), &["backup", &backup.display().to_string()]));
    block_in_place(|| fleet.start_coordinator());
    // Another name of submitter, so that ids do not meet.
    let since = work(&mut fleet, &[Kind::Worker; 4], 2).await;
    let known: BTreeSet<_> = until.iter().map(|one| one.id.clone()).collect();
    let since = since.into_iter().filter(|one| !known.contains(&one.id)).collect();
    block_in_place(|| stop(&mut fleet));
    Bench { fleet, backup, until, since }
}

impl Bench {
    /// Does it to a copy of the data and dies at the step; returns the copy.
    fn die(&self, args: &[&str], (name, pass, _): Step) -> tempfile::TempDir {
        let copy = tempfile::Builder::new().prefix("orch-copy-").tempdir().expect("a directory");
        let data = copy.path().join("data");
        let copied = Command::new("cp").arg("-a").arg(self.fleet.data_dir()).arg(&data).status();
        assert!(copied.expect("cp runs").success());
        let fired = copy.path().join("fired");
        let armed = if pass == 0 {
            format!("{name}=return(kill)")
        } else {
            format!("{name}={pass}*off->return(kill)")
        };
        let said = storage(&self.fleet, &data, args)
            .env("FAILPOINTS", armed)
            .env("ORCH_TEST_FIRED", &fired)
            .output()
            .expect("orchd runs");
        let killed = said.status.signal() == Some(Signal::KILL.as_raw());
        assert!(killed, "{args:?} {name}: {} {}", said.status, String::from_utf8_lossy(&said.stderr));
        assert!(lines(&fired).contains(&format!("{name} kill")), "{name} was never reached");
        copy
    }

    /// What a start on the copy serves, by request id; everything that it names is there.
    async fn served(&mut self, copy: &tempfile::TempDir) -> BTreeSet<String> {
        let data = copy.path().join("data");
        self.fleet.keep_data_in(data.clone());
        block_in_place(|| self.fleet.start_coordinator());
        let mut client = self.fleet.client().await;
        let found: BTreeSet<_> = stored(&mut client).await.into_keys().collect();
        let expected: Vec<_> =
            self.until.iter().chain(&self.since).filter(|one| found.contains(&one.id)).cloned().collect();
        all_end_well(&mut client, &expected).await;
        block_in_place(|| stop(&mut self.fleet));
        let checked = done(&mut storage(&self.fleet, &data, &["check"]));
        assert!(String::from_utf8_lossy(&checked.stdout).contains("everything is whole"), "{checked:?}");
        found
    }

    fn kept(&self) -> BTreeSet<String> {
        self.until.iter().chain(&self.since).map(|one| one.id.clone()).collect()
    }

    fn replaced(&self) -> BTreeSet<String> {
        self.until.iter().map(|one| one.id.clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_or_compaction_that_dies_at_any_step_leaves_the_old_or_the_new_and_never_some_of_each() {
    const ROW: &str =
        "a_restore_or_compaction_that_dies_at_any_step_leaves_the_old_or_the_new_and_never_some_of_each";
    let mut bench = bench().await;
    assert!(!bench.since.is_empty(), "the old and the new differ");
    let data = bench.fleet.data_dir();
    let (mut old, mut new) = (0, 0);
    for step in STEPS {
        let copy = bench.die(&["restore", &bench.backup.display().to_string()], step);
        let found = bench.served(&copy).await;
        bench.fleet.keep_data_in(data.clone());
        let expected = if step.2 { bench.replaced() } else { bench.kept() };
        assert_eq!(found, expected, "a restore that died at {}", step.0);
        if step.2 { new += 1 } else { old += 1 }
    }
    let mut compactions = 0;
    // A compaction replaces one room.
    for step in STEPS.into_iter().filter(|(name, pass, _)| *pass == 0 || name.starts_with("import")) {
        let copy = bench.die(&["compact"], step);
        let found = bench.served(&copy).await;
        bench.fleet.keep_data_in(data.clone());
        assert_eq!(found, bench.kept(), "a compaction that died at {}", step.0);
        compactions += 1;
    }
    figures(
        ROW,
        &format!(
            "restores: {old} left the old, {new} the new; {compactions} compactions kept everything; 0 mixed"
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_or_export_that_is_killed_harms_nothing_and_leaves_no_half_file() {
    const ROW: &str = "a_backup_or_export_that_is_killed_harms_nothing_and_leaves_no_half_file";
    let mut random = StdRng::seed_from_u64(seed(ROW));
    let mut bench = bench().await;
    let data = bench.fleet.data_dir();
    let (mut killed, mut finished) = (0, 0);
    for round in 0..budget("ORCH_TORTURE_DISK_FAULTS", 1) * 8 {
        let what = if round % 2 == 0 { "backup" } else { "export" };
        let file = bench.fleet.dir().join(format!("{what}-{round}"));
        let mut child = storage(&bench.fleet, &data, &[what, &file.display().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("orchd runs");
        // The moment is the fault.
        std::thread::sleep(Duration::from_millis(random.random_range(5..120)));
        child.kill().expect("killed");
        let whole = child.wait().expect("an end").success();
        assert!(whole || !file.exists(), "round {round}: a file has its name only when it is whole");
        if whole { finished += 1 } else { killed += 1 }
    }
    assert!(killed > 0, "none was killed in time");
    done(&mut storage(&bench.fleet, &data, &["check"]));
    block_in_place(|| bench.fleet.start_coordinator());
    let everything: Vec<_> = bench.until.iter().chain(&bench.since).cloned().collect();
    all_end_well(&mut bench.fleet.client().await, &everything).await;
    figures(ROW, &format!("{killed} killed, {finished} finished before, nothing harmed"));
}
