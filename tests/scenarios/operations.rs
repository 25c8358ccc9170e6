//! The coordinator as those who run it see it: settings, reloads, who may call what, what it writes into its log.

mod error_codes;
mod overload;
mod ownership;
mod restored;
mod watches;

use orch_certs::dial::{DialError, Rejection, find_dial_error};
use orch_certs::{Ca, ClientTls, Identity, LeafRequest, Role, TlsFiles, dial::Connector};
use orch_coordinator::rpc::auth::METHOD_ROLES;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::run_service_client::RunServiceClient;
use orch_proto::v1::{self, TaskState};
use orch_tests::client::{answer, channel, noop, run, worker};
use orch_tests::fleet::{DOMAIN, Fleet};
use orch_tests::wait::{until, until_async};
use orch_tests::wire::{call, code, server_certificate};
use rustix::process::Signal;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// `orchd` with these arguments and nothing of this process's environment.
fn orchd(fleet: &Fleet, args: &[&str], tls: &TlsFiles) -> Output {
    let mut command = Command::new(&fleet.binaries().orchd);
    command.args(args).env_clear();
    command.arg("--tls-ca").arg(&tls.ca).arg("--tls-cert").arg(&tls.cert).arg("--tls-key").arg(&tls.key);
    command.output().expect("orchd ran")
}

#[test]
fn config_check_says_what_is_in_force_and_what_is_wrong() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let tls = fleet.certificate(Role::Coordinator, "coordinator");
    let good = orchd(&fleet, &["config", "check", "--keep-runs", "7days"], &tls);
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(said.lines().any(|line| line.starts_with("keep_runs") && line.ends_with("7days")), "{said}");

    let prompts = fleet.dir().join("prompts/workers");
    std::fs::create_dir_all(&prompts).expect("directory");
    std::fs::write(prompts.join("BROKEN.md"), "---\nname: x\n").expect("written");
    let prompts = fleet.dir().join("prompts");
    let missing = TlsFiles { key: fleet.dir().join("nowhere.key"), ..tls };
    let args = ["config", "check", "--log", "not==a==filter", "--prompts", prompts.to_str().expect("text")];
    let bad = orchd(&fleet, &args, &missing);
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert_eq!(bad.status.code(), Some(1), "{said}");
    for word in ["nowhere.key", "BROKEN.md", "not==a==filter"] {
        assert!(said.contains(word), "{word} is missing from\n{said}");
    }
}

#[test]
fn healthcheck_says_whether_the_coordinator_is_ready() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let tls = fleet.certificate(Role::Coordinator, "coordinator");
    let probe = fleet.ports().probe.clone();
    let check = |fleet: &Fleet| orchd(fleet, &["healthcheck", "--probe", &probe], &tls);
    assert!(check(&fleet).status.success());
    fleet.kill_coordinator();
    let down = check(&fleet);
    assert_eq!(down.status.code(), Some(1));
    let said = String::from_utf8_lossy(&down.stderr).into_owned();
    assert!(said.contains(&format!("no answer from the probe port {probe}")), "{said}");
}

/// Puts another certificate in the place of the coordinator's.
fn issue_again(fleet: &Fleet) {
    let ca = Ca::open(&fleet.dir().join("ca")).expect("authority");
    let identity = Identity::new(DOMAIN, Role::Coordinator, "default", "coordinator").expect("identity");
    let request = LeafRequest::new(identity).hosts(["127.0.0.1", "localhost"]);
    let leaf = ca.issue(&request, SystemTime::now()).expect("issued");
    leaf.write(&fleet.dir().join("certs/coordinator")).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_swaps_the_certificate_under_a_running_stream_and_keeps_the_old_one_if_the_new_is_broken() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let (address, files) = (fleet.ports().grpc.clone(), fleet.certificate(Role::Client, "ana"));
    let before = server_certificate(&address, &files).await;
    let mut client = fleet.client().await;
    let mut stream =
        client.runs.watch_runs(v1::WatchRunsRequest::default()).await.expect("a watch").into_inner();

    issue_again(&fleet);
    assert_eq!(server_certificate(&address, &files).await, before, "nothing changes before the signal");
    fleet.coordinator().signal(Signal::HUP);
    let after = until_async("the new certificate", || async {
        Some(server_certificate(&address, &files).await).filter(|shown| *shown != before)
    })
    .await;

    let coordinator = fleet.certificate(Role::Coordinator, "coordinator");
    std::fs::write(&coordinator.cert, "no certificate").expect("written");
    fleet.coordinator().signal(Signal::HUP);
    until("the refusal in the log", || {
        let log = fleet.coordinator().log();
        log.contains("certificates not reloaded, the old ones stay in force").then_some(())
    });
    assert_eq!(server_certificate(&address, &files).await, after);

    let submitted = fleet.client().await.submit(run(vec![noop("a")])).await;
    let told = tokio::time::timeout(orch_tests::wait::PATIENCE, async {
        while let Some(frame) = stream.message().await.expect("the stream of before goes on") {
            if frame.events.iter().any(|event| event.run_ref == submitted.r#ref) {
                return true;
            }
        }
        false
    });
    assert!(told.await.expect("in time"), "the stream of before tells of what happens after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_for_the_roles_of_its_row_on_the_real_wire() {
    let fleet = Fleet::start(orch_tests::binaries!());
    for (role, name) in [(Role::Client, "ana"), (Role::Agent, "box-1"), (Role::Admin, "admin")] {
        let channel = channel(&fleet.ports().grpc, &fleet.certificate(role, name));
        let strange = [("/orch.v1.RunService/Nothing", &[][..]), ("/orch.v1.Nothing/GetRun", &[][..])];
        for (method, roles) in METHOD_ROLES.iter().copied().chain(strange) {
            // Its empty message is no mistake: whoever may call it makes the coordinator start anew.
            if method.ends_with("/CompactStore") && roles.contains(&role) {
                continue;
            }
            // An empty message, and the end: whoever is let in gets an answer or a complaint about what was asked.
            let answer = call(channel.clone(), method, tokio_stream::once(Vec::new())).await;
            let refused = answer.as_ref().err().and_then(code) == Some(ErrorCode::RoleNotAllowed);
            assert_eq!(refused, !roles.contains(&role), "{method} for {role}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_for_every_role_and_reflection_for_admins_alone() {
    let fleet = Fleet::start(orch_tests::binaries!());
    for (role, name) in [(Role::Client, "ana"), (Role::Agent, "box-1"), (Role::Admin, "admin")] {
        let channel = channel(&fleet.ports().grpc, &fleet.certificate(role, name));
        let request = HealthCheckRequest { service: "orch.v1.RunService".to_owned() };
        let health = HealthClient::new(channel.clone()).check(request).await.expect("health").into_inner();
        assert_eq!(health.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);

        let request = tonic_reflection::pb::v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let asked =
            ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(request)).await;
        if role != Role::Admin {
            assert_eq!(code(&asked.expect_err("refused")), Some(ErrorCode::RoleNotAllowed));
            continue;
        }
        let answer =
            asked.expect("reflection").into_inner().next().await.expect("an answer").expect("services");
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("{answer:?}")
        };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        for name in ["orch.v1.RunService", "orch.v1.AgentService", "grpc.health.v1.Health"] {
            assert!(names.contains(&name), "{names:?}");
        }
    }
}

async fn refused_dial(address: &str, files: &TlsFiles, now: SystemTime) -> Status {
    let tls = ClientTls::load(files.clone(), now).expect("the client itself does not mind");
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("address");
    let mut runs = RunServiceClient::new(endpoint.connect_with_connector_lazy(Connector::new(Arc::new(tls))));
    runs.list_runs(v1::ListRunsRequest::default()).await.expect_err("there must be no connection")
}

fn leaf(ca: &Ca, dir: &Path, issued: SystemTime) -> TlsFiles {
    let identity = Identity::new(DOMAIN, Role::Client, "default", "mallory").expect("identity");
    let request = LeafRequest { valid: Duration::from_secs(3_600), ..LeafRequest::new(identity) };
    ca.issue(&request, issued).expect("issued").write(dir).expect("written")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_fails_says_through_the_channel_which_side_is_to_be_mended() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let (address, now) = (fleet.ports().grpc.clone(), SystemTime::now());
    let good = fleet.certificate(Role::Client, "ana");
    let ours = Ca::open(&fleet.dir().join("ca")).expect("authority");
    let (theirs, _) = Ca::ensure(&fleet.dir().join("other-ca"), DOMAIN, now).expect("authority");
    let stranger = leaf(&theirs, &fleet.dir().join("stranger"), now);

    let status = refused_dial(&address, &stranger, now).await;
    let dial = find_dial_error(&status).expect("a dial error");
    assert!(matches!(dial, DialError::UntrustedAuthority { .. }), "{dial:?}");

    let trusting = TlsFiles { ca: good.ca.clone(), ..stranger };
    let status = refused_dial(&address, &trusting, now).await;
    let dial = find_dial_error(&status).expect("a dial error");
    let unknown = matches!(dial, DialError::Rejected { reason: Rejection::UnknownAuthority, .. });
    assert!(unknown, "{dial:?}");

    let long_ago = now - Duration::from_secs(7_200);
    let expired = leaf(&ours, &fleet.dir().join("expired"), long_ago);
    let status = refused_dial(&address, &expired, long_ago).await;
    let dial = find_dial_error(&status).expect("a dial error");
    assert!(matches!(dial, DialError::Rejected { reason: Rejection::NotNow, .. }), "{dial:?}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = nobody.local_addr().expect("its address").to_string();
    drop(nobody);
    let status = refused_dial(&closed, &good, now).await;
    let dial = find_dial_error(&status).expect("a dial error");
    assert!(matches!(dial, DialError::Refused { .. }), "{dial:?}");

    let by_another_name = address.replace("127.0.0.1", "127.0.0.2");
    let status = refused_dial(&by_another_name, &good, now).await;
    let dial = find_dial_error(&status).expect("a dial error");
    assert!(matches!(dial, DialError::WrongName { .. } | DialError::Refused { .. }), "{dial:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_prompts_nor_answers_reach_the_log_and_requests_are_named_in_it() {
    const CANARY: &str = "canary-7f3a91";
    let mut fleet = Fleet::start_logging(orch_tests::binaries!(), "200ms", "trace");
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let said = format!("[[text {{\"text\":\"{CANARY} said\"}}]]");
    let short = worker("short", "anga", &format!("{CANARY} {said}"));
    let mut long = worker("long", "anga", &format!("{said} {}", format!("{CANARY} ").repeat(10_000)));
    if let Some(v1::task_spec::Runner::Worker(task)) = &mut long.runner {
        task.context = CANARY.into();
    }
    let submitted = client.submit(run(vec![short, long])).await;
    assert_eq!(client.finished(&submitted.r#ref).await.state(), v1::RunState::Succeeded);
    let tasks = client.tasks(&submitted.r#ref).await;
    assert!(tasks.iter().all(|task| answer(task).contains(CANARY)), "the canary did sing: {tasks:?}");
    // A refusal, too, with the prompt in the request.
    let mut broken = worker("a", "anga", CANARY);
    broken.dependencies = vec!["nobody".into()];
    let mut request =
        tonic::Request::new(v1::SubmitRunRequest { spec: Some(run(vec![broken])), ..Default::default() });
    request.metadata_mut().insert("x-request-id", "named-by-me".parse().expect("text"));
    client.runs.submit_run(request).await.expect_err("refused");
    let mut request = tonic::Request::new(v1::GetStatusRequest {});
    request.metadata_mut().insert("x-request-id", "named-by-me-too".parse().expect("text"));
    let response = client.admin.get_status(request).await.expect("status");
    assert_eq!(response.metadata().get("x-request-id").expect("an id"), "named-by-me-too");

    let log = fleet.coordinator().log();
    let leak = log.lines().find(|line| line.contains(CANARY));
    assert!(leak.is_none(), "{}", leak.unwrap_or_default());
    let line = log.lines().find(|line| line.contains("\"answered\"") && line.contains("named-by-me-too"));
    let line: serde_json::Value = serde_json::from_str(line.expect("a line for the request")).expect("JSON");
    assert_eq!(line["span"]["request_id"], "named-by-me-too");
    assert_eq!(line["span"]["method"], "/orch.v1.AdminService/GetStatus");
    assert_eq!(tasks[0].state(), TaskState::Succeeded);
}
