//! More than the coordinator takes in hand is refused at once, with a word for when to come back.

use orch_certs::Role;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, agent_item::Item};
use orch_tests::client::{channel, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::process::Process;
use orch_tests::wait::{until, until_async};
use orch_tests::wire::{HandAgent, call, code, hello};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::task::JoinSet;
use tonic_types::StatusExt as _;

/// A little more than the coordinator has in hand at a time, over connections that bear 256 streams each.
const CONNECTIONS: usize = 6;
const REQUESTS_EACH: usize = 180;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_come_to_an_end_take_the_place_of_others_only_so_far() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    let mut stream =
        client.runs.watch_runs(v1::WatchRunsRequest::default()).await.expect("a watch").into_inner();

    // Requests whose message never comes, from somebody with a good certificate.
    let files = fleet.certificate(Role::Client, "mallory");
    let mut pending = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let channel = channel(&fleet.ports().grpc, &files);
        for _ in 0..REQUESTS_EACH {
            let silent = tokio_stream::pending::<Vec<u8>>();
            pending.spawn(call(channel.clone(), "/orch.v1.RunService/GetRun", silent));
        }
    }
    let refused = tokio::time::timeout(Duration::from_secs(30), pending.join_next()).await.expect("in time");
    let status = refused.expect("one is refused").expect("joined").expect_err("one too many");
    assert_eq!(code(&status), Some(ErrorCode::Overloaded), "{status:?}");
    assert!(status.get_error_details().retry_info().is_some(), "{status:?}");

    // Streams have places of their own, and when the flood is over everything goes on.
    pending.shutdown().await;
    let submitted = until_async("room for a submit", || {
        let mut client = client.clone();
        async move {
            let request = v1::SubmitRunRequest { spec: Some(run(vec![noop("a")])), ..Default::default() };
            client.runs.submit_run(request).await.ok()?.into_inner().run
        }
    })
    .await;
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        while let Some(frame) = stream.message().await.expect("the watch goes on") {
            if frame.events.iter().any(|event| event.run_ref == submitted.r#ref) {
                return true;
            }
        }
        false
    });
    assert!(told.await.expect("in time"));
}

/// A coordinator on the ports of `fleet` whose data lie on a file system of 64 MiB that nobody else sees; `None` where
/// that takes rights this process does not have.
fn on_a_small_disk(fleet: &mut Fleet) -> Option<(Process, PathBuf)> {
    fleet.kill_coordinator();
    let disk = fleet.dir().join("small");
    std::fs::create_dir_all(&disk).expect("directory");
    let tls = fleet.certificate(Role::Coordinator, "coordinator");
    let ready = fleet.dir().join("small.json");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount -t tmpfs -o size=64m small \"$0\" && exec \"$@\""])
        .arg(&disk);
    command.arg(&fleet.binaries().orchd).args([
        "--heartbeat-interval",
        "5s",
        "--listen",
        &fleet.ports().grpc,
    ]);
    command.args(["--probe", &fleet.ports().probe]).arg("--data-dir").arg(disk.join("data"));
    command.arg("--ready-file").arg(&ready);
    command.arg("--tls-ca").arg(&tls.ca).arg("--tls-cert").arg(&tls.cert).arg("--tls-key").arg(&tls.key);
    let mut orchd = Process::start(&mut command, &fleet.dir().join("small.log"));
    let is_up = until("the coordinator on a small disk", || match (ready.exists(), orchd.is_running()) {
        (true, _) => Some(true),
        (false, true) => None,
        (false, false) => Some(false),
    });
    let seen = PathBuf::from(format!("/proc/{}/root{}", orchd.id(), disk.display()));
    is_up.then_some((orchd, seen))
}

fn fill(disk: &Path) {
    let mut filler = std::fs::File::create(disk.join("filler")).expect("filler");
    loop {
        let space = rustix::fs::statvfs(disk).expect("free space");
        if space.f_bavail * 100 < space.f_blocks * 4 {
            return;
        }
        std::io::Write::write_all(&mut filler, &[0; 64 << 10]).expect("filled");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_runs_are_refused_and_results_are_still_recorded() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let Some((orchd, disk)) = on_a_small_disk(&mut fleet) else {
        let test = "on_a_full_disk_runs_are_refused_and_results_are_still_recorded";
        orch_tests::skipped(test, "a disk of its own takes root and mount namespaces");
        return;
    };
    let mut client = fleet.client().await;
    let mut agent = HandAgent::join(&fleet, hello("box-1")).await.expect("a session");
    let submitted = client.submit(run(vec![noop("t")])).await;
    let attempt = agent.assignment().await.expect("the task").attempt;
    agent.say(Item::Accepted(v1::Accepted { attempt })).await;
    fill(&disk);
    let submitter = client.clone();
    let submit = || {
        let mut client = submitter.clone();
        async move {
            let request = v1::SubmitRunRequest { spec: Some(run(vec![noop("a")])), ..Default::default() };
            client.runs.submit_run(request).await
        }
    };
    let status = until_async("submits to be refused", || async { submit().await.err() }).await;
    assert_eq!(code(&status), Some(ErrorCode::DiskLow), "{status:?}");

    let report =
        v1::Report { attempt, outcome: v1::Outcome::Ok.into(), digest: vec![1; 32], ..Default::default() };
    agent.say(Item::Report(report)).await;
    assert_eq!(client.finished(&submitted.r#ref).await.state(), v1::RunState::Succeeded);
    std::fs::remove_file(disk.join("filler")).expect("room again");
    until_async("submits to be taken again", || async { submit().await.ok() }).await;
    drop(orchd);
}
