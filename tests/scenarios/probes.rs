//! Load balancers see the truth: ready, draining, alive.

use orch_tests::fleet::Fleet;
use orch_tests::wait::{until, until_async};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text.split("\r\n\r\n").nth(1)?.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_plain_grpc_health_answer_without_certificates() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let probe = fleet.ports().probe.clone();
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(get(&probe, path).map(|(status, _)| status), Some(200), "{path}");
    }
    let (_, metrics) = get(&probe, "/metrics").expect("metrics");
    for name in ["orch_tasks", "orch_agents", "orch_build_info", "# EOF"] {
        assert!(metrics.contains(name), "{name} is missing from\n{metrics}");
    }
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{probe}")).expect("address");
    let mut health = HealthClient::new(endpoint.connect().await.expect("plain gRPC"));
    for service in ["", "orch.v1.RunService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.expect("health").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let unknown = HealthCheckRequest { service: "nobody".to_owned() };
    assert_eq!(health.check(unknown).await.expect_err("unknown service").code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_told_to_stop_stops_within_ten_seconds_whatever_its_peers_do() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let grpc = fleet.ports().grpc.clone();
    // Peers that say nothing, one of them in the middle of a handshake.
    let silent: Vec<_> = (0..3).map(|_| TcpStream::connect(&grpc).expect("connected")).collect();
    let mut half_open = TcpStream::connect(&grpc).expect("connected");
    half_open.write_all(&[0x16, 0x03, 0x01]).expect("written");
    let mut client = fleet.client().await;
    let watch = orch_proto::v1::WatchRunsRequest::default();
    let stuck = client.runs.watch_runs(watch).await.expect("a watch").into_inner();
    let started = std::time::Instant::now();
    fleet.coordinator().signal(rustix::process::Signal::TERM);
    let status = tokio::task::block_in_place(|| fleet.coordinator().wait());
    assert!(started.elapsed() < std::time::Duration::from_secs(11), "{:?}", started.elapsed());
    assert!(status.success(), "{status}");
    drop((silent, half_open, stuck));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_turns_to_no_while_draining() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let probe = fleet.ports().probe.clone();
    let mut client = fleet.client().await;
    // A stuck watcher holds the drain open long enough to be seen.
    let watch = orch_proto::v1::WatchRunsRequest::default();
    let stuck = client.runs.watch_runs(watch).await.expect("a watch").into_inner();
    fleet.coordinator().signal(rustix::process::Signal::TERM);
    until("readyz to say no", || match get(&probe, "/readyz") {
        Some((503, why)) => {
            assert_eq!(why.trim(), "draining");
            Some(())
        }
        None => Some(()),
        Some(_) => None,
    });
    until_async("submits to be refused", || {
        let mut client = client.clone();
        async move {
            let request = orch_proto::v1::SubmitRunRequest {
                spec: Some(orch_tests::client::run(vec![orch_tests::client::noop("a")])),
                ..Default::default()
            };
            let status = client.runs.submit_run(request).await.err()?;
            // A connection that ends under a request is this side's word, and tonic's code for it varies.
            let by_transport = std::error::Error::source(&status).is_some();
            if !by_transport {
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
            }
            (status.code() == tonic::Code::Unavailable).then_some(())
        }
    })
    .await;
    drop(stuck);
}
