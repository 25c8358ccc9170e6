//! What each check says of fleets that are well and of fleets that are not.

use orch_proto::v1::{BucketView, HostFigures, Pool};

use super::*;

fn agent(name: &str) -> Agent {
    Agent {
        name: name.into(),
        state: AgentState::Ready.into(),
        version: VERSION.into(),
        cli_version: "2.1.197".into(),
        runners: vec!["claude".into(), "noop".into()],
        isolation: vec!["mount-namespace".into()],
        pools: vec![Pool {
            name: "team".into(),
            health: PoolHealth::Ready.into(),
            gateway: true,
            ..Pool::default()
        }],
        host: Some(HostFigures { disk_free_bytes: 40 << 30, ..HostFigures::default() }),
        ..Agent::default()
    }
}

fn at(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

fn fleet(agents: Vec<Agent>) -> Fleet {
    Fleet {
        status: ClusterStatus {
            version: VERSION.into(),
            now: Some(at(1_000)),
            certificate_expires: Some(at(1_000 + 30 * 86_400)),
            disk_free_bytes: 40 << 30,
            ..ClusterStatus::default()
        },
        agents,
        workers: vec![Worker { name: "anga".into(), ..Worker::default() }],
        impossible: Vec::new(),
        storage: Some(Storage {
            records: 12,
            disk_bytes: 100 << 30,
            disk_free_bytes: 40 << 30,
            ..Storage::default()
        }),
        dead: Some(0),
        limits: Some(vec![PoolLimits {
            pool: "team".into(),
            buckets: vec![BucketView::default()],
            ..PoolLimits::default()
        }]),
        asked: Asked { sent: Timestamp::from_second(1_000).unwrap(), round_trip: Duration::from_millis(12) },
    }
}

fn named<'a>(checks: &'a [CheckView], name: &str) -> &'a CheckView {
    checks.iter().find(|check| check.name == name).unwrap()
}

#[test]
fn a_fleet_that_is_well_passes_every_check_and_all_are_listed() {
    let checks = checks(&fleet(vec![agent("box-1")]));
    let names: Vec<_> = checks.iter().map(|check| check.name).collect();
    assert_eq!(names, NAMES);
    for check in &checks {
        assert_eq!((check.state, check.fixes.len()), (CheckState::Ok, 0), "{check:?}");
    }
    assert_eq!(skipped("why").len() + 1, NAMES.len());
}

#[test]
fn clocks_may_differ_by_two_seconds() {
    let mut fleet = fleet(vec![agent("box-1")]);
    fleet.asked.sent = Timestamp::from_second(1_002).unwrap();
    assert_eq!(clock(&fleet).state, CheckState::Ok);
    fleet.asked.sent = Timestamp::from_second(1_004).unwrap();
    assert_eq!(clock(&fleet).found, "this host is 4s ahead of the coordinator");
    fleet.asked.sent = Timestamp::from_second(990).unwrap();
    assert!(clock(&fleet).found.ends_with("behind the coordinator"), "{:?}", clock(&fleet));
    fleet.status.now = None;
    assert_eq!(clock(&fleet).state, CheckState::Skipped);
}

#[test]
fn lost_and_drained_agents_are_named_with_a_way_out() {
    let mut lost = agent("box-2");
    lost.state = AgentState::Unreachable.into();
    let mut drained = agent("box-3");
    drained.state = AgentState::Draining.into();
    let all = fleet(vec![agent("box-1"), lost, drained.clone()]);
    let check = agents(&all);
    assert_eq!(check.state, CheckState::Failed);
    assert_eq!(check.found, "1 ready, 1 draining (box-3), 1 unreachable (box-2)");
    assert_eq!(check.fixes, ["orchctl agents show box-2", "orchctl agents resume box-3"]);
    assert_eq!(agents(&fleet(vec![agent("box-1"), drained.clone()])).state, CheckState::Warning);
    assert_eq!(agents(&fleet(vec![drained])).state, CheckState::Failed);
    assert_eq!(agents(&fleet(Vec::new())).found, "none has ever connected");
}

#[test]
fn a_missing_layer_a_missing_cli_and_a_lost_login_are_told_apart() {
    let mut bare = agent("box-2");
    bare.isolation.clear();
    bare.warnings = vec!["no sandbox: bwrap not found".into(), "little memory".into()];
    bare.cli_version.clear();
    bare.pools[0].health = PoolHealth::SignedOut.into();
    let all = checks(&fleet(vec![agent("box-1"), bare]));
    let isolation = named(&all, "isolation");
    assert_eq!(
        (isolation.state, isolation.found.as_str()),
        (CheckState::Warning, "layers are missing on box-2")
    );
    assert_eq!(isolation.fixes, ["box-2: no sandbox: bwrap not found"]);
    assert_eq!(named(&all, "claude").found, "2.1.197; none on box-2");
    let credentials = named(&all, "credentials");
    assert_eq!(credentials.state, CheckState::Failed);
    assert_eq!(credentials.found, "team of box-2 is signed out; 1 pool ready");
    assert!(credentials.fixes[0].contains("orch-agent login --pool team"), "{credentials:?}");
}

#[test]
fn a_worker_that_nobody_can_serve_is_named_with_what_it_needs() {
    let mut all = fleet(vec![agent("box-1")]);
    all.workers.push(Worker {
        name: "marie".into(),
        requires: [("workspace".to_owned(), "dance".to_owned())].into(),
        ..Worker::default()
    });
    let check = workers(&all);
    assert_eq!((check.state, check.found.as_str()), (CheckState::Warning, "no agent can run marie"));
    assert_eq!(check.fixes, ["marie needs workspace=dance"]);
    all.agents[0].capabilities.push("workspace=dance".into());
    assert_eq!(workers(&all).state, CheckState::Ok);
    all.agents[0].pools[0].workers = vec!["anga".into()];
    assert_eq!(workers(&all).fixes, ["marie needs a credential pool that serves it"]);
}

#[test]
fn tasks_that_wait_for_ever_and_full_disks_are_warnings() {
    let mut all = fleet(vec![agent("box-1")]);
    all.impossible = vec!["adhoc/1/task: needs gpu=yes, which no known agent offers".into()];
    assert_eq!(queue(&all).found, "1 queued task can run nowhere as things stand");
    all.agents[0].host = Some(HostFigures { disk_free_bytes: 1 << 20, ..HostFigures::default() });
    assert_eq!(disk(&all).fixes, ["free space on box-1: 1.0 MiB"]);
}

#[test]
fn another_version_of_an_agent_is_named() {
    let mut old = agent("box-2");
    old.version = "0.0.9".into();
    let check = versions(&fleet(vec![agent("box-1"), old]));
    assert_eq!(check.state, CheckState::Warning);
    assert!(check.found.ends_with("agents box-2 0.0.9"), "{check:?}");
}

#[test]
fn an_agent_in_quarantine_is_named_with_its_reason_and_the_way_out() {
    let kept = Agent {
        state: AgentState::Quarantined.into(),
        quarantine_reason: "5 of its last 10 attempts crashed".into(),
        ..agent("box-3")
    };
    let check = agents(&fleet(vec![agent("box-1"), kept]));
    assert_eq!(check.state, CheckState::Warning, "{check:?}");
    assert_eq!(check.found, "1 ready, 1 quarantined (box-3)");
    assert!(check.fixes[0].contains("5 of its last 10"), "{check:?}");
    assert!(check.fixes[0].ends_with("orchctl agents resume box-3"), "{check:?}");
}

#[test]
fn what_was_given_up_and_what_was_mended_want_attention() {
    let mut fleet = fleet(vec![agent("box-1")]);
    fleet.dead = Some(2);
    fleet.storage.as_mut().unwrap().mended = vec!["a torn snapshot was moved aside".into()];
    let letters = dead(&fleet);
    assert_eq!(
        (letters.state, letters.fixes.as_slice()),
        (CheckState::Warning, &["orchctl ls --dead".to_owned()][..])
    );
    assert!(store(&fleet).fixes[0].contains("torn snapshot"), "{:?}", store(&fleet));
    // A coordinator of an older version says nothing of either, which is no fault.
    (fleet.dead, fleet.storage) = (None, None);
    assert_eq!([dead(&fleet).state, store(&fleet).state], [CheckState::Skipped; 2]);
}

#[test]
fn unknown_limits_are_no_fault_and_two_credentials_under_one_name_are_one() {
    let mut all = fleet(vec![agent("box-1")]);
    all.agents[0].pools[0].gateway = false;
    all.limits.as_mut().unwrap()[0].buckets.clear();
    let check = limits(&all);
    assert_eq!((check.state, check.fixes.len()), (CheckState::Ok, 0), "{check:?}");
    assert_eq!(
        check.found,
        "1 pool; no limit known of team until the API names one; without gateway, so counted late: team"
    );
    let pool = &mut all.limits.as_mut().unwrap()[0];
    pool.warnings = vec!["box-1 and box-2 hold different credentials".into()];
    pool.set_state(PoolState::Exhausted);
    let check = limits(&all);
    assert_eq!(check.state, CheckState::Warning);
    assert_eq!(
        check.fixes,
        [
            "pool team is used up: orchctl limits team",
            "pool team: box-1 and box-2 hold different credentials",
        ]
    );
    all.limits = None;
    assert_eq!(limits(&all).state, CheckState::Skipped);
}
