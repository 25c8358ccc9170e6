//! Copies of the data given back to a coordinator with agents that know more than the copy does.

use orch_certs::Role;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, BackupForm, agent_item, coordinator_item, restore_request::Part};
use orch_tests::client::{Client, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::wait::{until, until_async};
use orch_tests::wire::{HandAgent, code, hello};
use tonic::Status;

async fn admin(fleet: &Fleet) -> Client {
    Client::connect(&fleet.ports().grpc, &fleet.certificate(Role::Admin, "admin")).await
}

async fn copy(admin: &mut Client, form: BackupForm) -> Vec<u8> {
    let mut stream =
        admin.admin.backup(v1::BackupRequest { form: form.into() }).await.expect("a copy").into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await.expect("a part") {
        bytes.extend_from_slice(&part.data);
    }
    bytes
}

async fn give_back(
    admin: &mut Client,
    copy: &[u8],
    header: v1::RestoreHeader,
) -> Result<v1::RestoreResponse, Status> {
    let mut messages = vec![v1::RestoreRequest { part: Some(Part::Header(header)) }];
    let data = |part: &[u8]| v1::RestoreRequest { part: Some(Part::Data(part.to_vec())) };
    messages.extend(copy.chunks(100_000).map(data));
    Ok(admin.admin.restore(tokio_stream::iter(messages)).await?.into_inner())
}

fn archive() -> v1::RestoreHeader {
    v1::RestoreHeader { form: BackupForm::Archive.into(), ..Default::default() }
}

async fn storage(admin: &mut Client) -> Option<v1::Storage> {
    admin.admin.get_storage(v1::GetStorageRequest {}).await.ok()?.into_inner().storage
}

/// Waits until the coordinator has started anew behind an epoch.
async fn anew(admin: &mut Client, epoch: u64) -> v1::Storage {
    until_async("the coordinator to start anew", || {
        let mut admin = admin.clone();
        async move { storage(&mut admin).await.filter(|storage| storage.epoch > epoch) }
    })
    .await
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn held(attempt: &v1::AttemptId) -> v1::InventoryItem {
    v1::InventoryItem { attempt: Some(*attempt), state: v1::HeldState::Running.into() }
}

async fn granted(agent: &mut HandAgent) -> v1::AttemptId {
    let attempt = agent.assignment().await.expect("an assignment").attempt.expect("an attempt");
    let accepted = v1::Accepted { attempt: Some(attempt) };
    agent.say(agent_item::Item::Accepted(accepted)).await;
    attempt
}

fn report(attempt: &v1::AttemptId, outcome: v1::Outcome) -> agent_item::Item {
    agent_item::Item::Report(v1::Report {
        attempt: Some(*attempt),
        outcome: outcome.into(),
        digest: vec![3; 32],
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_given_back_under_agents_that_hold_newer_attempts_believes_none_of_them() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut admin = admin(&fleet).await;
    let mut client = fleet.client().await;
    let pid = fleet.coordinator().id();
    let mut agent = HandAgent::join(&fleet, hello("box-1")).await.expect("a session");
    client.submit(run(vec![noop("a")])).await;
    let first = granted(&mut agent).await;
    assert_eq!(first.attempt, 1);
    client.task_in("adhoc/1/a", v1::TaskState::Running).await;
    let before = storage(&mut admin).await.expect("storage");
    let copy = copy(&mut admin, BackupForm::Archive).await;

    // What the copy does not know: a second attempt of its task, and a run.
    agent.say(report(&first, v1::Outcome::LostAgent)).await;
    let second = granted(&mut agent).await;
    assert_eq!((second.run_id, second.attempt), (first.run_id, 2));
    client.submit_with_id(run(vec![noop("b")]), "key").await;
    let unknown = granted(&mut agent).await;
    assert_ne!(unknown.run_id, first.run_id);

    let response = give_back(&mut admin, &copy, archive()).await.expect("it is taken");
    assert_eq!((response.epoch, response.blobs), (before.epoch, 0));
    assert!(response.records > 0 && response.created.is_some(), "{response:?}");
    let after = anew(&mut admin, before.epoch).await;
    assert!(after.epoch > before.epoch + 1_000_000, "{} to {}", before.epoch, after.epoch);
    assert_eq!(fleet.coordinator().id(), pid);
    assert!(fleet.coordinator().is_running(), "{}", fleet.coordinator_log());
    assert!(fleet.data_dir().join(&response.aside).join("store/sled/db").exists());
    assert_eq!(after.aside, [response.aside]);

    let mut client = fleet.client().await;
    let cluster_seen = unhex(&after.cluster_id);
    let inventory = vec![held(&second), held(&unknown)];
    let again = v1::Hello { inventory, epoch_seen: before.epoch, cluster_seen, ..hello("box-1") };
    let mut agent = HandAgent::join(&fleet, again).await.expect("a session");
    let welcome = agent
        .until(|item| {
            let coordinator_item::Item::Welcome(welcome) = item else { return None };
            Some(welcome.clone())
        })
        .await
        .expect("welcome");
    assert_eq!(welcome.epoch, after.epoch);
    assert!(welcome.verdicts.iter().all(|verdict| verdict.verdict() == v1::Verdict::Cancel), "{welcome:?}");
    // The lease of the copy is lost, and what comes next is an attempt that nobody can have seen.
    let third = granted(&mut agent).await;
    assert_eq!((third.run_id, third.attempt), (first.run_id, 1_003));
    agent.say(report(&second, v1::Outcome::Ok)).await;
    agent.say(report(&unknown, v1::Outcome::Ok)).await;
    for _ in 0..2 {
        let answer = agent
            .until(|item| {
                let coordinator_item::Item::ReportVerdict(verdict) = item else { return None };
                Some(*verdict)
            })
            .await
            .expect("an answer");
        assert_eq!(answer.result(), v1::ReportResult::Fenced, "{answer:?}");
    }
    agent.say(report(&third, v1::Outcome::Ok)).await;
    assert_eq!(client.finished("adhoc/1").await.state(), v1::RunState::Succeeded);
    // Numbers and ids go on far above; the key of the run that is gone is free again.
    let fresh = client.submit_with_id(run(vec![noop("c")]), "key").await;
    assert_eq!(fresh.r#ref, "adhoc/1000003");
    assert!(granted(&mut agent).await.run_id > unknown.run_id + 900_000);
    let watch = v1::WatchRunsRequest { from_seq: 5, ..Default::default() };
    let mut watch = client.runs.watch_runs(watch).await.expect("a watch").into_inner();
    let refused = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the watch ended in order"),
            Err(status) => break status,
        }
    };
    assert_eq!(code(&refused), Some(ErrorCode::EventsExpired));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_damaged_or_of_another_cluster_changes_nothing() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut admin = admin(&fleet).await;
    let mut client = fleet.client().await;
    client.submit(run(vec![noop("a")])).await;
    let whole = copy(&mut admin, BackupForm::Archive).await;
    let epoch = storage(&mut admin).await.expect("storage").epoch;
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() - 1], &[]] {
        let refused = give_back(&mut admin, damaged, archive()).await.expect_err("damaged");
        assert_eq!(code(&refused), Some(ErrorCode::CopyDamaged), "{refused:?}");
    }
    let other = v1::RestoreHeader { cluster_id: vec![9; 16], ..archive() };
    let refused = give_back(&mut admin, &whole, other).await.expect_err("of another cluster");
    assert_eq!(code(&refused), Some(ErrorCode::OtherCluster), "{refused:?}");
    let only = v1::RestoreHeader { validate_only: true, ..archive() };
    let checked = give_back(&mut admin, &whole, only).await.expect("it is whole");
    assert_eq!((checked.aside.as_str(), checked.epoch), ("", epoch));
    let refused =
        give_back(&mut admin, &whole, v1::RestoreHeader::default()).await.expect_err("without a form");
    assert_eq!(code(&refused), Some(ErrorCode::InvalidField));
    let export = copy(&mut admin, BackupForm::Records).await;
    assert!(export.starts_with(br#"{"format":"orch-store-export""#));
    assert_eq!(storage(&mut admin).await.expect("storage").epoch, epoch);
    assert_eq!(client.run("adhoc/1").await.r#ref, "adhoc/1");
    assert!(!fleet.data_dir().join("staged.json").exists());
    fleet.kill_coordinator();
    fleet.start_coordinator();
    assert_eq!(storage(&mut admin).await.expect("storage").epoch, epoch + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_starts_the_same_process_anew_and_an_agent_comes_back_to_it() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let mut admin = admin(&fleet).await;
    let mut client = fleet.client().await;
    let pid = fleet.coordinator().id();
    client.submit(run(vec![noop("a")])).await;
    let before = admin.admin.compact_store(v1::CompactStoreRequest {}).await.expect("asked").into_inner();
    let before = before.storage.expect("storage");
    let after = anew(&mut admin, before.epoch).await;
    assert_eq!(after.epoch, before.epoch + 1);
    assert!(after.mended.iter().any(|line| line.contains("compacted")), "{:?}", after.mended);
    assert_eq!(after.aside, [""; 0]);
    assert_eq!(fleet.coordinator().id(), pid);
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("a name");
    assert!(name.starts_with("test-orchd"), "{name}");
    assert!(fleet.coordinator_is_ready());
    let mut client = fleet.client().await;
    client.submit(run(vec![noop("b")])).await;
    for run in ["adhoc/1", "adhoc/2"] {
        assert_eq!(client.finished(run).await.state(), v1::RunState::Succeeded);
    }
    fleet.coordinator().signal(rustix::process::Signal::TERM);
    until("the coordinator to end", || (!fleet.coordinator().is_running()).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_copied_directory_agents_that_have_seen_more_are_refused_and_people_are_told() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let mut admin = admin(&fleet).await;
    let here = storage(&mut admin).await.expect("storage");
    let cluster_seen = unhex(&here.cluster_id);
    let ahead = v1::Hello { epoch_seen: here.epoch + 2, cluster_seen, ..hello("box-1") };
    let refused = HandAgent::join(&fleet, ahead).await.expect_err("it has seen more");
    assert_eq!(code(&refused), Some(ErrorCode::CoordinatorOutdated), "{refused:?}");
    let status = admin.admin.get_status(v1::GetStatusRequest {}).await.expect("status").into_inner();
    let attention = status.status.expect("status").attention;
    assert!(attention.iter().any(|line| line.contains("box-1") && line.contains("E0314")), "{attention:?}");
    let other = v1::Hello { epoch_seen: here.epoch + 2, cluster_seen: vec![1; 16], ..hello("box-1") };
    HandAgent::join(&fleet, other).await.expect("the epoch of another cluster counts for nothing");
}

/// The swap is killed at every step; what the next start finds is one of two states, never something between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_killed_at_any_step_of_a_restore_finds_the_old_state_or_the_new_one() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut admin = admin(&fleet).await;
    fleet.client().await.submit(run(vec![noop("a")])).await;
    let copy = copy(&mut admin, BackupForm::Archive).await;
    fleet.client().await.submit(run(vec![noop("b")])).await;
    let mut fired = 0;
    for (point, carried_out) in [
        ("swap::before_marker", false),
        ("swap::after_marker", true),
        ("swap::after_aside", true),
        ("swap::after_room", true),
        ("swap::after_removal", true),
    ] {
        let epoch = anew(&mut admin, 0).await.epoch;
        fleet.kill_coordinator();
        let kill = format!("{point}=return(kill)");
        assert!(fleet.launch_coordinator(&[("FAILPOINTS", &kill)]).is_none());
        let mut admin = self::admin(&fleet).await;
        // The answer may have come before the process was gone.
        let _ = give_back(&mut admin, &copy, archive()).await;
        until("the coordinator to be killed", || (!fleet.coordinator().is_running()).then_some(()));
        fired += 1;
        fleet.start_coordinator();
        let after = anew(&mut admin, epoch).await.epoch;
        assert_eq!(after > epoch + 1_000_000, carried_out, "{point}: {epoch} to {after}");
        let request = v1::GetRunRequest { r#ref: "adhoc/2".into() };
        let second = fleet.client().await.runs.get_run(request).await;
        // The first restore that is carried out takes the second run away for good.
        assert_eq!(second.is_ok(), !carried_out, "{point}");
        assert_eq!(fleet.client().await.run("adhoc/1").await.r#ref, "adhoc/1");
        assert!(
            !fleet.data_dir().join("staged.json").exists() && !fleet.data_dir().join("incoming").exists()
        );
    }
    assert_eq!(fired, 5);
}
