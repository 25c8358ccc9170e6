//! A coordinator that is told to stop: what its peers see, what becomes of what is under way, and how long it takes,
//! with real sockets and peers that do their worst.

use orch_certs::{ClientTls, Role, dial::Connector};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::run_service_client::RunServiceClient;
use orch_proto::v1::{self, coordinator_item};
use orch_tests::budget::figures;
use orch_tests::client::{noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::wait::until;
use orch_tests::wire::{HandAgent, code, hello};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

mod copies;

/// What a coordinator may take from TERM to its end.
const LIMIT: Duration = Duration::from_secs(10);

/// What it may take once it was told a second time: peers are waited for 6 s otherwise.
const HURRIED: Duration = Duration::from_secs(4);

/// The status code of a probe; `None` when nobody answers.
fn probe(address: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

/// Sends `signal` and waits for the end: how it ended, and after how long.
fn stopped(fleet: &mut Fleet, signal: Signal) -> (ExitStatus, Duration) {
    let began = Instant::now();
    fleet.coordinator().signal(signal);
    let status = tokio::task::block_in_place(|| fleet.coordinator().wait());
    (status, began.elapsed())
}

/// A connection with a finished handshake on which nothing is ever said.
async fn idle(fleet: &Fleet) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let files = fleet.certificate(Role::Client, "ana");
    let config = orch_certs::client_config(&files, SystemTime::now()).expect("client certificate");
    let tcp = tokio::net::TcpStream::connect(&fleet.ports().grpc).await.expect("connected");
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").expect("a name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("handshake")
}

/// A client that gives every stream a window of no byte: what it watches can never be delivered.
fn without_window(fleet: &Fleet) -> RunServiceClient<tonic::transport::Channel> {
    let files = fleet.certificate(Role::Client, "ana");
    let tls = ClientTls::load(files, SystemTime::now()).expect("client certificate");
    let endpoint = Endpoint::from_shared(format!("http://{}", fleet.ports().grpc)).expect("address");
    let endpoint = endpoint.initial_stream_window_size(Some(0));
    RunServiceClient::new(endpoint.connect_with_connector_lazy(Connector::new(Arc::new(tls))))
}

/// What was seen of the probes, in order, each change once: (ready, alive).
type Seen = Vec<(Option<u16>, Option<u16>)>;

/// Looks at the probes until nobody answers.
fn watch_probes(address: String) -> std::thread::JoinHandle<Seen> {
    std::thread::spawn(move || {
        let mut seen: Seen = Vec::new();
        loop {
            let now = (probe(&address, "/readyz"), probe(&address, "/livez"));
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            if now == (None, None) {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_idle_peers_one_in_its_handshake_and_one_stuck_do_not_hold_it_for_ten_seconds() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let done = client.submit(run(vec![noop("a")])).await;
    client.finished(&done.r#ref).await;

    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(idle(&fleet).await);
    }
    let mut half_open = TcpStream::connect(&fleet.ports().grpc).expect("connected");
    half_open.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).expect("written");
    let mut closed = without_window(&fleet);
    let watch = v1::WatchRunsRequest { from_seq: 1, ..Default::default() };
    let stuck = closed.watch_runs(watch).await.expect("a head, which needs no window").into_inner();
    let seen = watch_probes(fleet.ports().probe.clone());
    until("the probes to be watched", || (probe(&fleet.ports().probe, "/readyz") == Some(200)).then_some(()));

    let (status, took) = stopped(&mut fleet, Signal::TERM);
    figures(
        "shutdown",
        &format!("SIGTERM with 3 idle, 1 half-open TLS and 1 zero-window stream: exit in {took:.2?}"),
    );
    assert!(took <= LIMIT, "{took:?}");
    assert_eq!(status.code(), Some(0), "{status}");
    drop((silent, half_open, stuck));

    let seen = seen.join().expect("watched");
    let draining = seen.iter().position(|seen| *seen == (Some(503), Some(200)));
    assert!(draining.is_some(), "not ready and alive for as long as it drains: {seen:?}");
    let dead_while_there = seen.iter().any(|(_, alive)| alive.is_some_and(|code| code != 200));
    assert!(!dead_while_there, "alive until it is gone: {seen:?}");
    let ready_again = seen.iter().skip(draining.unwrap_or_default()).any(|(ready, _)| *ready == Some(200));
    assert!(!ready_again, "never ready again: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_stuck_watchers_hold_nobody() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    let mut stuck = Vec::new();
    for _ in 0..50 {
        let watch = v1::WatchRunsRequest { from_seq: 1, ..Default::default() };
        let mut closed = without_window(&fleet);
        stuck.push((closed.watch_runs(watch).await.expect("a head").into_inner(), closed));
    }
    let began = Instant::now();
    for _ in 0..20 {
        client.submit(run(vec![noop("a")])).await;
    }
    let submits = began.elapsed();
    let (status, took) = stopped(&mut fleet, Signal::TERM);
    figures("shutdown", &format!("50 zero-window watchers: 20 submits in {submits:.2?}, exit in {took:.2?}"));
    assert!(took <= LIMIT && status.code() == Some(0), "{took:?}, {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submit_in_flight_is_acknowledged_or_refused_and_never_half() {
    const SUBMITTERS: usize = 8;
    const TASKS: usize = 40;
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut submitters = JoinSet::new();
    for submitter in 0..SUBMITTERS {
        let mut client = fleet.client().await;
        submitters.spawn(async move {
            let (mut acknowledged, mut last) = (BTreeMap::new(), String::new());
            for number in 0.. {
                let request_id = format!("s{submitter}-{number}");
                let tasks = (0..TASKS).map(|index| noop(&format!("t{index}"))).collect();
                let request = v1::SubmitRunRequest {
                    spec: Some(run(tasks)),
                    request_id: request_id.clone(),
                    validate_only: false,
                };
                match client.runs.submit_run(request).await {
                    Ok(answer) => {
                        let run = answer.into_inner().run.expect("a run");
                        acknowledged.insert(request_id, run.r#ref);
                    }
                    Err(status) => {
                        // Whoever ends the connection under a request says so in words of its own.
                        let by_transport = std::error::Error::source(&status).is_some();
                        assert!(
                            by_transport || code(&status) == Some(ErrorCode::Draining),
                            "a refusal says why: {status}"
                        );
                        last = request_id;
                        break;
                    }
                }
            }
            (acknowledged, last)
        });
    }
    let mut first = fleet.client().await;
    orch_tests::wait::until_async("work to be under way", || {
        let mut client = first.clone();
        async move {
            let request = v1::GetStatusRequest {};
            let status = client.admin.get_status(request).await.ok()?.into_inner().status?;
            (status.active_runs >= 24).then_some(())
        }
    })
    .await;
    let (status, took) = stopped(&mut fleet, Signal::TERM);
    assert!(took <= LIMIT && status.code() == Some(0), "{took:?}, {status}");
    let ended = submitters.join_all().await;
    fleet.start_coordinator();
    first = fleet.client().await;
    let (mut kept, mut again) = (0, 0);
    for (acknowledged, last) in ended {
        for run_ref in acknowledged.values() {
            assert_eq!(first.tasks(run_ref).await.len(), TASKS, "{run_ref} was acknowledged and is whole");
            kept += 1;
        }
        // The one that got no answer: its request id makes it one run, whether it had arrived or not.
        let tasks = (0..TASKS).map(|index| noop(&format!("t{index}"))).collect();
        let run = first.submit_with_id(run(tasks), &last).await;
        assert_eq!(first.tasks(&run.r#ref).await.len(), TASKS, "{} is whole", run.r#ref);
        assert!(!acknowledged.values().any(|known| *known == run.r#ref), "another run than those before");
        again += 1;
    }
    figures(
        "shutdown",
        &format!("{kept} submits acknowledged before TERM, 0 lost; {again} in flight, 0 half"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_told_to_go_and_come_back_before_their_work_is_given_away() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "1", "--allow-command", "/bin/sh"]);
    let mut by_hand = HandAgent::join(&fleet, hello("box-2")).await.expect("welcome");
    let mut client = fleet.client().await;
    let script = "until [ -e go ]; do sleep 0.05; done; echo done";
    let mut task = orch_tests::client::command("held", "/bin/sh", &["-c", script]);
    task.agent = "box-1".into();
    let held = client.submit(run(vec![task])).await;
    client.task_in(&held.r#ref, v1::TaskState::Running).await;
    let (status, _) = stopped(&mut fleet, Signal::TERM);
    assert_eq!(status.code(), Some(0), "{status}");
    let told = by_hand
        .until(|item| {
            let coordinator_item::Item::GoAway(go) = item else { return None };
            Some(go.clone())
        })
        .await;
    assert!(told.is_ok(), "an agent is told: {told:?}");
    fleet.start_coordinator();
    fleet.wait_connected("box-1");
    let go = fleet.agent_dir("box-1").join(format!("tasks/{}-0/work/go", held.run_id));
    std::fs::write(go, "").expect("the task's directory");
    let mut client = fleet.client().await;
    client.finished(&held.r#ref).await;
    let task = &client.tasks(&held.r#ref).await[0];
    assert_eq!((task.state(), task.attempt), (v1::TaskState::Succeeded, 1), "the child went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_twice_it_waits_for_nobody_and_ends_in_order() {
    for second in [Signal::TERM, Signal::INT] {
        let mut fleet = Fleet::start(orch_tests::binaries!());
        let mut client = fleet.client().await;
        let kept = client.submit(run(vec![noop("a")])).await;
        let mut closed = without_window(&fleet);
        let watch = v1::WatchRunsRequest { from_seq: 1, ..Default::default() };
        let stuck = closed.watch_runs(watch).await.expect("a head").into_inner();
        fleet.coordinator().signal(Signal::TERM);
        let address = fleet.ports().probe.clone();
        until("the drain to begin", || (probe(&address, "/readyz") != Some(200)).then_some(()));
        let (status, took) = stopped(&mut fleet, second);
        figures("shutdown", &format!("a second signal ({second:?}) while it drains: exit in {took:.2?}"));
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(took <= HURRIED, "{took:?}");
        drop((stuck, closed));
        fleet.start_coordinator();
        let mut client = fleet.client().await;
        assert_eq!(client.run(&kept.r#ref).await.r#ref, kept.r#ref);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_while_it_starts_it_ends_and_starts_again() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.push(client.submit(run((0..50).map(|n| noop(&format!("t{n}"))).collect())).await.r#ref);
    }
    let (status, _) = stopped(&mut fleet, Signal::TERM);
    assert_eq!(status.code(), Some(0), "{status}");
    let (mut in_order, mut by_signal, mut longest) = (0, 0, Duration::ZERO);
    for wait in [0, 2, 5, 10, 15, 20, 30, 40, 60, 90, 150] {
        fleet.spawn_coordinator(&[]);
        let until = Instant::now() + Duration::from_millis(wait);
        while Instant::now() < until && !fleet.coordinator_is_ready() {
            std::thread::yield_now();
        }
        let (status, took) = stopped(&mut fleet, Signal::TERM);
        longest = longest.max(took);
        match (status.code(), status.signal()) {
            (Some(0), None) => in_order += 1,
            // Before it listens for signals there is nothing to end.
            (None, Some(15)) => by_signal += 1,
            _ => panic!("{wait} ms after its start: {status}\n{}", fleet.coordinator_log()),
        }
    }
    assert!(longest <= LIMIT, "{longest:?}");
    assert!(in_order > 0, "none was caught while it started");
    figures(
        "shutdown",
        &format!(
            "TERM at 11 moments of a start: {in_order} in order, {by_signal} before any handler, longest {longest:.2?}"
        ),
    );
    fleet.start_coordinator();
    let mut client = fleet.client().await;
    for run_ref in kept {
        assert_eq!(client.tasks(&run_ref).await.len(), 50);
    }
}
