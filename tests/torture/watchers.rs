//! Watchers over links that are cut, and watchers that do not read: everything is told once and in order, and whoever does
//! not listen holds nobody up.

use crate::load::{Prober, events_until, memory};
use orch_certs::Role;
use orch_proto::v1::run_service_client::RunServiceClient;
use orch_proto::v1::{self, WatchEvent};
use orch_tests::budget::{budget, figures, percentile, seed};
use orch_tests::client::{Client, narrow_channel, noop, run};
use orch_tests::faults::proxy::Proxy;
use orch_tests::fleet::Fleet;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const ROW: &str = "watchers";
/// A watcher that does not read is cut by then.
const CUT_LIMIT: Duration = Duration::from_secs(30);
/// Bytes that may be under way to a watcher unread: the least that HTTP/2 begins with.
const WINDOW: u32 = 65_535;
/// Tasks whose events a stopped watcher cannot hold: windows, socket buffers of megabytes, and then some.
const MORE_THAN_BUFFERS: usize = 5_000;
/// Watchers that stop reading, beside those that read.
const STUCK: usize = 10;

fn noops(name: &str, count: usize) -> v1::RunSpec {
    v1::RunSpec { name: name.into(), ..run((0..count).map(|at| noop(&format!("t{at}"))).collect()) }
}

/// Submits many small runs one after the other, and returns the last, ended.
async fn busy(client: &mut Client, runs: u64) -> String {
    let mut last = String::new();
    for _ in 0..runs {
        last = client.submit(noops("busy", 3)).await.r#ref;
    }
    client.finished(&last).await;
    let end = client.submit(noops("end", 1)).await.r#ref;
    client.finished(&end).await;
    end
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_over_a_link_that_is_cut_tells_everything_once_and_in_order() {
    let runs = budget("ORCH_TORTURE_WATCHED_RUNS", 150);
    let mut rng = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "2s");
    fleet.agent("box-1", &["--slots", "8"]);
    let proxy = Proxy::start(&fleet.ports().grpc).await;
    let files = fleet.certificate(Role::Client, "ana");
    let mut watching = JoinSet::new();
    let mut cut_off = Client::connect(&proxy.address(), &files).await;
    let mut client = fleet.client().await;
    let end = {
        let mut client = client.clone();
        let mut submitting = JoinSet::new();
        submitting.spawn(async move { busy(&mut client, runs).await });
        let mut cuts = 0;
        // Watches the whole time, and once more from where the next cut left it.
        let (tell, told) = tokio::sync::oneshot::channel::<String>();
        watching.spawn(async move { watch_until(&mut cut_off, told).await });
        let end = loop {
            tokio::select! {
                end = submitting.join_next() => break end.expect("a submitter").expect("joined"),
                () = tokio::time::sleep(Duration::from_millis(rng.random_range(20..200))) => {
                    proxy.reset();
                    cuts += 1;
                }
            }
        };
        assert!(cuts > 0, "nothing was cut");
        tell.send(end.clone()).expect("the watcher waits");
        end
    };
    let (told, resumed) = watching.join_next().await.expect("a watcher").expect("joined");
    let all = events_until(&mut client, 1, &end).await;
    let told = &told
        [..told.iter().position(|event| event.seq > all.last().expect("events").seq).unwrap_or(told.len())];
    assert!(told.windows(2).all(|pair| pair[0].seq < pair[1].seq), "out of order or twice");
    assert_eq!(told.len(), all.len(), "a gap");
    assert!(told == all, "other events");
    let resets = proxy.counts().fired().into_iter().find(|(kind, _)| *kind == "reset").expect("a kind").1;
    figures(
        ROW,
        &format!("{} events over {resets} cuts, {resumed} times resumed: each once and in order", told.len()),
    );
    assert!(resets > 0 && resumed > 0);
}

/// Watches everything from the first event on, over cuts, until the run it is told of has ended.
async fn watch_until(
    client: &mut Client,
    mut last: tokio::sync::oneshot::Receiver<String>,
) -> (Vec<WatchEvent>, u64) {
    let (mut events, mut from, mut resumed) = (Vec::<WatchEvent>::new(), 1, 0);
    let mut end = None;
    loop {
        let request = v1::WatchRunsRequest { from_seq: from, ..Default::default() };
        if let Ok(stream) = client.runs.watch_runs(request).await {
            let mut stream = stream.into_inner();
            loop {
                end = end.or_else(|| last.try_recv().ok());
                let next = tokio::time::timeout(Duration::from_millis(200), stream.message()).await;
                match next {
                    Ok(Ok(Some(frame))) => {
                        from = frame.next_seq;
                        events.extend(frame.events);
                    }
                    // Nothing new: enough, if the last run has ended.
                    Err(_) if end.as_ref().is_some_and(|end| has_ended(&events, end)) => {
                        return (events, resumed);
                    }
                    Err(_) => {}
                    Ok(Ok(None) | Err(_)) => break,
                }
            }
        }
        resumed += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn has_ended(events: &[WatchEvent], run: &str) -> bool {
    events.iter().rev().filter(|event| event.run_ref == run).any(|event| {
        matches!(&event.change, Some(v1::watch_event::Change::Run(changed)) if orch_tests::client::is_terminal(changed.state()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_stop_reading_are_cut_resume_without_a_gap_and_slow_nobody() {
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "2s");
    fleet.agent("box-1", &["--slots", "8"]);
    let mut client = fleet.client().await;
    let prober = Prober::start(&fleet).await;
    client.finished(&client.clone().submit(noops("alone", MORE_THAN_BUFFERS)).await.r#ref).await;
    let alone = prober.stop().await;

    // Each on a connection of its own, from the next event on; nobody reads.
    let from = newest(&mut client).await;
    let files = fleet.certificate(Role::Client, "ana");
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        let mut runs = RunServiceClient::new(narrow_channel(&fleet.ports().grpc, &files, WINDOW));
        let request = v1::WatchRunsRequest { from_seq: from, ..Default::default() };
        stuck.push(runs.watch_runs(request).await.expect("a watch").into_inner());
    }
    assert!(open_watches(&fleet) >= STUCK);
    let before = memory(fleet.coordinator().id());
    let prober = Prober::start(&fleet).await;
    let began = Instant::now();
    let flood = client.submit(noops("flood", MORE_THAN_BUFFERS)).await.r#ref;
    client.finished(&flood).await;
    let beside = prober.stop().await;
    let mut cut = None;
    while began.elapsed() < CUT_LIMIT + Duration::from_secs(10) && cut.is_none() {
        cut = (open_watches(&fleet) == 0).then(|| began.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let cut = cut.unwrap_or_else(|| panic!("{} watches are still open", open_watches(&fleet)));
    let held = memory(fleet.coordinator().id()).saturating_sub(before);

    let end = client.submit(noops("end", 1)).await.r#ref;
    client.finished(&end).await;
    let all = events_until(&mut client, from, &end).await;
    for mut stream in stuck {
        let (mut told, mut next) = (Vec::new(), from);
        // What was under way comes first, then the word that it is over.
        let why = loop {
            match stream.message().await {
                Ok(Some(frame)) => {
                    next = frame.next_seq;
                    told.extend(frame.events);
                }
                Ok(None) => panic!("a watch that was cut must not look like one that ended"),
                Err(status) => break status,
            }
        };
        assert_eq!(why.code(), tonic::Code::ResourceExhausted, "{why:?}");
        assert!(told.len() < all.len(), "it was not cut short");
        told.extend(events_until(&mut client, next, &end).await);
        assert!(told == all, "a gap or a repetition: {} of {}", told.len(), all.len());
    }
    let p99 = [&alone, &beside].map(|took| percentile(took, 99));
    figures(
        ROW,
        &format!(
            "{STUCK} watchers that stopped reading cut {cut:?} after the flood began, resumed without a gap; others' submit p99 \
             {:?} beside them, {:?} without; the coordinator held {} MiB more",
            p99[1],
            p99[0],
            held >> 20
        ),
    );
    assert!(cut <= CUT_LIMIT, "{cut:?}");
    // A fifth more, and what two busy cores make of a 99th percentile.
    assert!(p99[1] <= p99[0].mul_f64(1.2) + Duration::from_millis(100), "{p99:?}");
}

/// The sequence of the next event.
async fn newest(client: &mut Client) -> u64 {
    let end = client.submit(noops("now", 1)).await.r#ref;
    client.finished(&end).await;
    let request = v1::WatchRunsRequest { r#ref: end, ..Default::default() };
    let mut stream = client.runs.watch_runs(request).await.expect("a watch").into_inner();
    stream.message().await.expect("a frame").expect("a snapshot").next_seq
}

/// Watches that the coordinator has open, by its own count.
fn open_watches(fleet: &Fleet) -> usize {
    let metrics = crate::load::metrics(fleet);
    let line =
        metrics.lines().find(|line| line.starts_with("orch_stream_clients ")).expect("a count of watches");
    line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number")
}
