//! Networks that lose, delay and change. Rows 45 to 52 of the list.

use orch_certs::{Ca, Identity, LeafRequest, Role};
use orch_proto::v1::{self, OnLoss, Outcome, RunState, TaskState, coordinator_item};
use orch_tests::budget::{budget, figures, percentile};
use orch_tests::client::{Client, run, worker};
use orch_tests::faults::proxy::{Fault, Proxy, Way};
use orch_tests::fleet::{DOMAIN, Fleet};
use orch_tests::process::Process;
use orch_tests::wait::until;
use orch_tests::wire::{HandAgent, hello};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;

fn sleeps(id: &str, milliseconds: u32) -> v1::TaskSpec {
    let text = format!("[[sleep {{\"ms\":{milliseconds}}}]] [[text {{\"text\":\"done\"}}]]");
    v1::TaskSpec { on_loss: OnLoss::Fast.into(), ..worker(id, "anga", &text) }
}

/// A fleet of one agent that reaches the coordinator through a proxy.
async fn behind_a_proxy(heartbeat: &'static str) -> (Fleet, Proxy, Client) {
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), heartbeat);
    let proxy = Proxy::start(&fleet.ports().grpc).await;
    fleet.route("box-1", &proxy.address());
    fleet.agent("box-1", &["--slots", "4"]);
    let client = fleet.client().await;
    (fleet, proxy, client)
}

async fn once(client: &mut Client, submitted: &v1::Run) {
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    for task in client.tasks(&submitted.r#ref).await {
        assert_eq!((task.attempt, task.outcome()), (1, Outcome::Ok), "{task:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_one_way_or_both_is_noticed_and_nothing_is_recorded_twice() {
    let (mut fleet, proxy, mut client) = behind_a_proxy("200ms").await;
    for (what, ways) in
        [("both", &[Way::Up, Way::Down][..]), ("up", &[Way::Up][..]), ("down", &[Way::Down][..])]
    {
        let submitted = client.submit(run(vec![sleeps("t", 1_000)])).await;
        let task = format!("{}/t", submitted.r#ref);
        client.task_in(&task, TaskState::Running).await;
        let before = proxy.counts().connections();
        ways.iter().for_each(|way| proxy.set(*way, Fault::BlackHole));
        // Five heartbeats without a word: it goes back to the queue, and there is nobody else. Where only answers are lost
        // every word is heard, the report too, until the agent gives the connection up.
        if ways.contains(&Way::Up) {
            client.task_in(&task, TaskState::Queued).await;
        }
        until("the agent to dial again", || (proxy.counts().connections() > before).then_some(()));
        proxy.heal();
        assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded, "{what}");
        let task = client.tasks(&submitted.r#ref).await.remove(0);
        let lost = task.attempts.iter().filter(|attempt| attempt.outcome() == Outcome::LostAgent).count();
        let good = task.attempts.iter().filter(|attempt| attempt.outcome() == Outcome::Ok).count();
        assert_eq!((lost, good), (task.attempts.len() - 1, 1), "{what}: {task:?}");
        fleet.wait_connected("box-1");
    }
    let swallowed = proxy.counts().fired().iter().any(|(kind, times)| *kind == "black hole" && *times > 0);
    assert!(swallowed, "the fault fired: {:?}", proxy.counts().fired());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_or_flapping_network_and_a_balancer_that_cuts_cost_no_attempt() {
    let (_fleet, proxy, mut client) = behind_a_proxy("1s").await;
    // 200 ms there and back, and now and then nothing for a while.
    proxy.set_both(Fault::Delay(Duration::from_millis(100)));
    let submitted = client.submit(run((0..3).map(|at| sleeps(&format!("t{at}"), 2_000)).collect())).await;
    client.task_in(&format!("{}/t2", submitted.r#ref), TaskState::Running).await;
    proxy.set_both(Fault::Stall);
    // How long it lasts is what is tested: half of what would lose an attempt.
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    proxy.set_both(Fault::Delay(Duration::from_millis(100)));
    once(&mut client, &submitted).await;
    proxy.heal();
    // A balancer's idle cut, an address translation that forgets, a link that goes and comes: connections are reset.
    let submitted = client.submit(run((0..3).map(|at| sleeps(&format!("t{at}"), 3_000)).collect())).await;
    client.task_in(&format!("{}/t2", submitted.r#ref), TaskState::Running).await;
    let half_closed = || {
        let fired = proxy.counts().fired();
        fired.into_iter().find(|(kind, _)| *kind == "half-close").map_or(0, |(_, times)| times)
    };
    for way in [Way::Up, Way::Down] {
        let (connections, before) = (proxy.counts().connections(), half_closed());
        proxy.reset();
        until("the agent to dial again", || (proxy.counts().connections() > connections).then_some(()));
        until("a connection to be half closed", || {
            proxy.half_close(way);
            (half_closed() > before).then_some(())
        });
    }
    once(&mut client, &submitted).await;
    for (kind, times) in proxy.counts().fired() {
        let used = matches!(kind, "delay" | "stall" | "reset" | "half-close");
        assert_eq!(times > 0, used, "{kind}: {:?}", proxy.counts().fired());
    }
}

/// A coordinator of its own, at this address, with a certificate for these hosts.
fn coordinator(fleet: &Fleet, ca: &Ca, listen: &str, hosts: &[&str]) -> (Process, String) {
    let identity = Identity::new(DOMAIN, Role::Coordinator, "default", "elsewhere").expect("an identity");
    let request = LeafRequest::new(identity).hosts(hosts.iter().copied());
    let files = ca.issue(&request, SystemTime::now()).expect("issued").write(&fleet.dir().join("elsewhere"));
    let files = files.expect("written");
    let ready = fleet.dir().join("elsewhere.json");
    let _ = std::fs::remove_file(&ready);
    let mut command = Command::new(&fleet.binaries().orchd);
    command
        .args(["--listen", listen, "--probe", "127.0.0.1:0", "--heartbeat-interval", "200ms", "--data-dir"])
        .arg(fleet.dir().join("elsewhere-data"))
        .arg("--ready-file")
        .arg(&ready);
    for (flag, file) in [("--tls-ca", &files.ca), ("--tls-cert", &files.cert), ("--tls-key", &files.key)] {
        command.arg(flag).arg(file);
    }
    let mut process = Process::start(&mut command, &fleet.dir().join("elsewhere.log"));
    let address = until("the coordinator to be ready", || {
        assert!(process.is_running(), "the coordinator ended:\n{}", process.log());
        announced(&ready, process.id())
    });
    (process, address)
}

fn announced(ready: &Path, pid: u32) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(ready).ok()?).ok()?;
    (json["pid"] == pid).then(|| json["grpc"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_at_an_address_of_the_new_kind_serves_agents_and_clients() {
    if tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
        orch_tests::skipped(
            "a_coordinator_at_an_address_of_the_new_kind_serves_agents_and_clients",
            "no IPv6 here",
        );
        return;
    }
    let mut fleet = Fleet::idle_in(&std::env::temp_dir(), orch_tests::binaries!(), "200ms", "info", &[]);
    let ca = Ca::open(&fleet.dir().join("ca")).expect("the authority");
    let (_orchd, address) = coordinator(&fleet, &ca, "[::1]:0", &["::1"]);
    assert!(address.starts_with("[::1]:"), "{address}");
    fleet.route("box-1", &address);
    fleet.agent("box-1", &[]);
    let mut client = Client::connect(&address, &fleet.certificate(Role::Client, "ana")).await;
    let submitted = client.submit(run(vec![sleeps("t", 10)])).await;
    once(&mut client, &submitted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dials_by_name_finds_a_coordinator_that_moved() {
    let mut fleet = Fleet::idle_in(&std::env::temp_dir(), orch_tests::binaries!(), "200ms", "info", &[]);
    let ca = Ca::open(&fleet.dir().join("ca")).expect("the authority");
    // Two addresses that one name has stand for a name whose address changed: an agent that keeps the first one it found
    // never comes back.
    let (mut orchd, address) = coordinator(&fleet, &ca, "127.0.0.1:0", &["localhost"]);
    let port = address.rsplit(':').next().expect("a port").to_owned();
    fleet.route("box-1", &format!("localhost:{port}"));
    fleet.agent("box-1", &[]);
    orchd.kill();
    let elsewhere = ["[::1]", "127.0.0.2"].map(|host| format!("{host}:{port}"));
    let name_has = |host: &str| {
        use std::net::ToSocketAddrs as _;
        format!("localhost:{port}")
            .to_socket_addrs()
            .is_ok_and(|mut found| found.any(|one| one.to_string() == host))
    };
    let target = elsewhere.iter().find(|address| name_has(address)).cloned();
    // Where the name has but one address the coordinator comes back there: then only the reconnect is seen.
    let target = target.unwrap_or_else(|| format!("127.0.0.1:{port}"));
    let (_orchd, address) = coordinator(&fleet, &ca, &target, &["localhost", "::1", "127.0.0.1"]);
    let mut client = Client::connect(&address, &fleet.certificate(Role::Client, "ana")).await;
    let submitted = client.submit(run(vec![sleeps("t", 10)])).await;
    once(&mut client, &submitted).await;
}

/// Every agent says Hello and is welcomed. How long each took from the first of all.
async fn all_join(fleet: &Fleet, agents: u64) -> (Vec<HandAgent>, Vec<Duration>) {
    let began = Instant::now();
    let mut joining = JoinSet::new();
    for at in 0..agents {
        let hello = v1::Hello { runners: vec!["publish".into()], ..hello(&format!("box-{at}")) };
        let files = fleet.certificate(Role::Agent, &hello.agent);
        let address = fleet.ports().grpc.clone();
        joining.spawn(async move {
            let mut agent = HandAgent::join_at(&address, &files, hello).await.expect("a session");
            let welcomed = |item: &coordinator_item::Item| {
                matches!(item, coordinator_item::Item::Welcome(_)).then_some(())
            };
            agent.until(welcomed).await.expect("a Welcome");
            (agent, began.elapsed())
        });
    }
    joining.join_all().await.into_iter().unzip()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_agents_come_back_at_once_and_then_again() {
    let agents = budget("ORCH_TORTURE_RECONNECTS", 150);
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "5s");
    let (mut joined, _) = all_join(&fleet, agents).await;
    for round in 1..=2 {
        fleet.kill_coordinator();
        drop(joined);
        fleet.start_coordinator();
        let (again, times) = all_join(&fleet, agents).await;
        figures(
            "adversarial: all agents reconnect at once",
            &format!("{agents} agents, round {round}: p99 {:.1?}", percentile(&times, 99)),
        );
        assert!(percentile(&times, 99) < Duration::from_secs(60));
        joined = again;
    }
    let status =
        fleet.client().await.admin.get_status(v1::GetStatusRequest::default()).await.expect("a status");
    assert!(format!("{status:?}").contains(&agents.to_string()), "all are there: {status:?}");
}
