//! The fleet as a whole: every agent asked, everything that happened told.

use super::{admin, ana};
use orch_tests::client::{noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::process::Process;
use orch_tests::wait::until;
use serde_json::Value;

/// Sequence numbers of what `events -o jsonl` printed. A line that is still being written does not count.
fn sequence(text: &str) -> Vec<u64> {
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n') && line.starts_with('{'));
    let number = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("seq")?.as_u64();
    whole.filter_map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_without_a_gap_over_a_kill_and_every_worker_introduces_itself_on_every_agent() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    fleet.agent("box-2", &[]);
    let mut follow = fleet.orchctl(&["events", "-f", "--since", "1", "-o", "jsonl"]);
    let mut follower = Process::start(&mut follow, &fleet.dir().join("events.log"));
    let mut client = fleet.client().await;
    let before = client.submit(run(vec![noop("a"), noop("b")])).await;
    client.finished(&before.r#ref).await;
    fleet.kill_coordinator();
    fleet.start_coordinator();
    fleet.wait_connected("box-1");
    fleet.wait_connected("box-2");
    let mut client = fleet.client().await;
    let later = client.submit(run(vec![noop("a"), noop("b")])).await;
    client.finished(&later.r#ref).await;

    let asked = ["agents", "test", "--worker", "anga", "--progress", "none", "-o", "json"];
    let unasked = ana(&fleet, &asked).await;
    assert!(unasked.code != 0 && unasked.err.contains("real money"), "{unasked:?}");
    let tested = ana(&fleet, &[&asked[..], &["--yes"]].concat()).await.ended(0).json();
    let mut answered: Vec<_> = tested.as_array().expect("a list").iter().collect();
    answered.sort_by_key(|row| row["agent"].as_str());
    let names: Vec<_> = answered.iter().map(|row| (row["agent"].as_str(), row["ok"].as_bool())).collect();
    assert_eq!(names, [(Some("box-1"), Some(true)), (Some("box-2"), Some(true))]);
    assert!(answered.iter().all(|row| row["answer"].as_str().is_some_and(|text| !text.is_empty())));
    let other = admin(&fleet, &["agents", "test", "box-9", "--yes"]).await.ended(3);
    assert!(other.err.contains("box-9"), "{}", other.err);

    let newest = ana(&fleet, &["status", "-o", "json"]).await.ended(0).json()["event_seq"].as_u64();
    let newest = newest.expect("a number");
    let whole: Vec<u64> = (1..=newest).collect();
    let read = ana(&fleet, &["events", "--since", "1", "-o", "jsonl"]).await.ended(0);
    assert_eq!(sequence(&read.out), whole);
    for run_ref in [&before.r#ref, &later.r#ref] {
        assert!(read.out.contains(run_ref.as_str()), "{run_ref} is missing");
    }
    let middle = ana(&fleet, &["events", "--since", &(newest / 2).to_string(), "-o", "jsonl"]).await.ended(0);
    assert_eq!(sequence(&middle.out), (newest / 2..=newest).collect::<Vec<_>>());
    until("the follower of before the kill to have told everything", || {
        assert!(follower.is_running(), "{}", follower.log());
        sequence(&follower.log()).contains(&newest).then_some(())
    });
    assert_eq!(sequence(&follower.log()), whole, "each once, in order");
}
