//! What becomes of a report when its files are collected.

use super::*;
use crate::runner::Reuse;
use std::fs;

const KEY: AttemptKey = AttemptKey { run: 7, task: 1, attempt: 2 };

fn supplies() -> (tempfile::TempDir, Supplies) {
    let dir = tempfile::tempdir().unwrap();
    let supplies = Supplies::open(dir.path(), Workspaces::default()).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    (dir, supplies)
}

fn report(dir: &tempfile::TempDir, outcome: Outcome, detail: &str) -> AttemptReport {
    AttemptReport { artifacts_from: Some(dir.path().join("out")), ..AttemptReport::of(outcome, detail) }
}

#[tokio::test]
async fn files_go_with_a_good_end_and_with_a_red_gate() {
    let (dir, supplies) = supplies();
    fs::write(dir.path().join("out/a"), "x").unwrap();
    std::os::unix::fs::symlink("a", dir.path().join("out/b")).unwrap();
    for outcome in [Outcome::Ok, Outcome::GateFailed] {
        let kept = supplies.collect(KEY, report(&dir, outcome, "said")).await;
        assert_eq!((kept.outcome, kept.artifacts.as_ref().unwrap().count), (outcome, 1));
        assert_eq!(kept.detail, "said; left out of what it handed over: out/b (a link)");
        assert!(supplies.kept().of(KEY).join("manifest").exists() && kept.artifacts_from.is_none());
    }
    let without = supplies.collect(KEY, AttemptReport::of(Outcome::Crash, "gone")).await;
    assert_eq!(without, AttemptReport::of(Outcome::Crash, "gone"));
}

#[tokio::test]
async fn too_much_turns_a_good_end_into_a_limit_and_leaves_a_red_gate_red() {
    let (dir, supplies) = supplies();
    fs::File::create(dir.path().join("out/huge")).unwrap().set_len(1 << 40).unwrap();
    let limited = supplies.collect(KEY, report(&dir, Outcome::Ok, "")).await;
    assert_eq!(limited.outcome, Outcome::LimitOutput);
    assert!(
        limited.detail.starts_with("it handed over too much beneath out/: out/huge"),
        "{}",
        limited.detail
    );
    let red = supplies.collect(KEY, report(&dir, Outcome::GateFailed, "the tests fail")).await;
    assert_eq!((red.outcome, red.artifacts), (Outcome::GateFailed, None));
    assert!(red.detail.starts_with("the tests fail; it handed over too much"), "{}", red.detail);
    assert!(!supplies.kept().of(KEY).exists());
}

#[test]
fn what_a_former_process_fetched_is_gone_and_what_it_kept_is_not() {
    let (dir, supplies) = supplies();
    let fetched = supplies.fetched(KEY).unwrap();
    fs::write(fetched.dir.join("0"), "x").unwrap();
    fs::create_dir_all(supplies.kept().of(KEY)).unwrap();
    std::mem::forget(fetched);
    let again = Supplies::open(dir.path(), Workspaces::default()).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("fetched")).unwrap().count(), 0);
    assert!(again.kept().of(KEY).exists());
    drop(again.fetched(KEY).unwrap());
    assert_eq!(fs::read_dir(dir.path().join("fetched")).unwrap().count(), 0);
}

#[test]
fn the_state_of_a_workspace_that_is_not_known_fits_nothing() {
    let reuse = |tree| Reuse { reference: "r/1/a".into(), tree };
    let attempt = Some(crate::session::convert::attempt_id(KEY));
    let runner = Some(v1::assignment::Runner::Noop(v1::NoopTask {}));
    let wire = v1::Assignment { attempt, runner, ..Default::default() };
    let mut assigned = crate::session::convert::assigned(wire).unwrap();
    assert_eq!(reusable(&assigned, None), None);
    assigned.reuse = vec![reuse(Some([1; 32])), reuse(None)];
    assert_eq!(reusable(&assigned, None).unwrap().detail, "nothing was run: the result of r/1/a fits");
    assigned.workspace = "dance".into();
    assert_eq!(reusable(&assigned, None), None);
    assert_eq!(reusable(&assigned, Some([2; 32])), None);
    assert_eq!(reusable(&assigned, Some([1; 32])).unwrap().tree, Some([1; 32]));
}

#[tokio::test]
async fn a_conversation_is_nobody_elses_until_its_files_are_collected() {
    use crate::homes::claims::Holder;
    use crate::homes::{ConversationKey, Homes};
    let (dir, supplies) = supplies();
    let homes = Homes::open(&dir.path().join("data")).unwrap();
    let key = ConversationKey { run: KEY.run, task: KEY.task };
    let by = |run| Holder { task: ConversationKey { run, task: 0 }, reference: format!("r/{run}/main") };
    let claim = homes.claim(key, by(1)).await.unwrap();
    let ended = AttemptReport { occupied: Occupied::by(claim), ..report(&dir, Outcome::Ok, "") };
    let error = homes.claim(key, by(2)).await.unwrap_err();
    assert_eq!(error.to_string(), "the conversation is in use by r/1/main");
    let collected = supplies.collect(KEY, ended).await;
    drop(homes.claim(key, by(2)).await.unwrap());
    drop(collected);
}

#[tokio::test]
async fn an_agent_whose_files_nobody_stores_keeps_no_more_than_its_share_of_the_disk() {
    let (dir, mut supplies) = supplies();
    supplies.most_kept = 100_000;
    fs::write(dir.path().join("out/a"), vec![1; 120_000]).unwrap();
    assert_eq!(supplies.collect(KEY, report(&dir, Outcome::Ok, "")).await.outcome, Outcome::Ok);
    let other = AttemptKey { attempt: 3, ..KEY };
    let refused = supplies.collect(other, report(&dir, Outcome::Ok, "")).await;
    assert_eq!(refused.outcome, Outcome::Crash);
    assert!(
        refused.detail.contains("wait on this agent for the coordinator to store them"),
        "{}",
        refused.detail
    );
    assert!(!supplies.kept().of(other).exists() && refused.artifacts.is_none());
}

/// A file system without room, where the host lets the test make one.
#[tokio::test]
async fn a_full_disk_is_an_ending_and_leaves_nothing() {
    let (dir, supplies) = supplies();
    let small = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(dir.path().join("handed"))
        .output();
    if !small.is_ok_and(|done| done.status.success()) {
        return;
    }
    fs::write(dir.path().join("out/a"), vec![1; 200_000]).unwrap();
    let full = supplies.collect(KEY, report(&dir, Outcome::Ok, "")).await;
    let left = fs::read_dir(dir.path().join("handed")).unwrap().count();
    let unmounted = std::process::Command::new("umount").arg(dir.path().join("handed")).status();
    assert!(unmounted.unwrap().success());
    assert_eq!((full.outcome, left), (Outcome::Crash, 0));
    assert!(full.detail.contains("No space left on device"), "{}", full.detail);
}

#[test]
fn what_was_kept_for_another_cluster_is_taken_away_at_once() {
    let (dir, supplies) = supplies();
    fs::create_dir_all(supplies.kept().of(KEY)).unwrap();
    let taken = supplies.discard_kept();
    assert!(taken.len() == 1 && taken[0].exists() && !supplies.kept().of(KEY).exists());
    drop(Supplies::open(dir.path(), Workspaces::default()).unwrap());
    assert!(!taken[0].exists(), "a start removes what the last one did not get to");
}
