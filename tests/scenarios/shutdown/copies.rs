//! A coordinator that is told to stop while a backup goes out or a restore comes in.

use super::{LIMIT, stopped};
use orch_certs::{ClientTls, Role, dial::Connector};
use orch_proto::v1::admin_service_client::AdminServiceClient;
use orch_proto::v1::restore_request::Part;
use orch_proto::v1::{self, BackupForm, RestoreHeader, RestoreRequest};
use orch_tests::budget::figures;
use orch_tests::client::{noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::wait::PATIENCE;
use rustix::process::Signal;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// A client that may operate the fleet, with this window for each stream.
fn admin(fleet: &Fleet, window: Option<u32>) -> AdminServiceClient<tonic::transport::Channel> {
    let files = fleet.certificate(Role::Admin, "admin");
    let tls = ClientTls::load(files, SystemTime::now()).expect("admin certificate");
    let endpoint = Endpoint::from_shared(format!("http://{}", fleet.ports().grpc)).expect("address");
    let endpoint = endpoint.initial_stream_window_size(window);
    AdminServiceClient::new(endpoint.connect_with_connector_lazy(Connector::new(Arc::new(tls))))
}

async fn with_work(fleet: &Fleet) -> Vec<String> {
    let mut client = fleet.client().await;
    let mut refs = Vec::new();
    for _ in 0..5 {
        refs.push(client.submit(run((0..20).map(|n| noop(&format!("t{n}"))).collect())).await.r#ref);
    }
    refs
}

async fn holds(fleet: &Fleet, refs: &[String]) {
    let mut client = fleet.client().await;
    for run_ref in refs {
        assert_eq!(client.tasks(run_ref).await.len(), 20, "{run_ref}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_nobody_reads_does_not_hold_it() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let refs = with_work(&fleet).await;
    let request = v1::BackupRequest { form: BackupForm::Archive.into() };
    let backup = admin(&fleet, Some(0)).backup(request).await.expect("a backup begins").into_inner();
    let (status, took) = stopped(&mut fleet, Signal::TERM);
    figures("shutdown", &format!("SIGTERM under a backup that nobody reads: exit in {took:.2?}"));
    assert!(took <= LIMIT && status.code() == Some(0), "{took:?}, {status}");
    drop(backup);
    fleet.start_coordinator();
    holds(&fleet, &refs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_came_half_changes_nothing() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let refs = with_work(&fleet).await;
    let mut copy = Vec::new();
    let request = v1::BackupRequest { form: BackupForm::Archive.into() };
    let mut stream = admin(&fleet, None).backup(request).await.expect("a backup begins").into_inner();
    while let Some(part) = stream.message().await.expect("the backup goes on") {
        copy.extend(part.data);
    }
    let later = with_work(&fleet).await;

    let (parts, received) = mpsc::channel(4);
    let header = RestoreHeader { form: BackupForm::Archive.into(), ..Default::default() };
    let send = async |part| parts.send(RestoreRequest { part: Some(part) }).await.expect("sent");
    let mut admin = admin(&fleet, None);
    let mut restoring = JoinSet::new();
    restoring.spawn(async move { admin.restore(ReceiverStream::new(received)).await });
    send(Part::Header(header)).await;
    send(Part::Data(copy[..copy.len() / 2].to_vec())).await;
    let (status, took) = stopped(&mut fleet, Signal::TERM);
    figures("shutdown", &format!("SIGTERM under half a restore: exit in {took:.2?}"));
    assert!(took <= LIMIT && status.code() == Some(0), "{took:?}, {status}");
    let answer = tokio::time::timeout(PATIENCE, restoring.join_next()).await.expect("the call ends");
    let answer = answer.expect("one call").expect("it ends in order");
    assert!(answer.is_err(), "half a copy is no copy: {answer:?}");
    fleet.start_coordinator();
    holds(&fleet, &refs).await;
    holds(&fleet, &later).await;
}
