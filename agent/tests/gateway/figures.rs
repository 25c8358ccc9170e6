//! What the gateway costs: time to the first byte, and memory over a long stream. The time is printed and judged by
//! nobody, because machines differ; memory has a generous bound.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use orch_agent::procfs;

use super::scene::{Cli, STREAM, Scene, live, piece, rest, start, stop, text, whole};

/// Requests whose first byte is timed.
const TIMED: usize = 200;

/// Megabytes of the long stream unless `ORCH_TORTURE_GATEWAY_MB` says otherwise.
const MEGABYTES: usize = 30;

/// Growth of a supervisor's memory that no stream may reach. Freed memory stays with the process for a while.
const MOST_GROWTH: u64 = 24 << 20;

#[tokio::test]
async fn time_to_the_first_byte_with_and_without_a_gateway() {
    let scene = Scene::new().await;
    let (agent, _) = scene.agent().await;
    let mut agents = tokio::task::JoinSet::new();
    agents.spawn(agent.wave_through());
    let mut direct = Cli::new(scene.api.url.trim_start_matches("http://"), "key").await;
    let mut through = scene.cli().await;
    let prompt = "word ".repeat(8_000);
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..TIMED {
        for (cli, figures) in [&mut direct, &mut through].into_iter().zip(&mut figures) {
            scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
            let before = Instant::now();
            let mut answer = cli.ask(true, &prompt).await;
            piece(&mut answer).await.unwrap().unwrap();
            figures.push(before.elapsed());
            rest(answer).await.unwrap();
        }
    }
    for figures in &mut figures {
        figures.sort_unstable();
    }
    let at = |figures: &[Duration], percent: usize| figures[figures.len() * percent / 100];
    for percent in [50, 90, 99] {
        let (direct, through) = (at(&figures[0], percent), at(&figures[1], percent));
        println!(
            "gateway, first byte, p{percent}: direct {direct:?}, through {through:?}, more {:?}",
            through.saturating_sub(direct)
        );
    }
}

#[tokio::test]
async fn memory_does_not_grow_with_the_length_of_a_stream() {
    let wanted = std::env::var("ORCH_TORTURE_GATEWAY_MB").ok().and_then(|text| text.parse().ok());
    let megabytes = wanted.unwrap_or(MEGABYTES);
    let scene = Scene::new().await;
    let (agent, _) = scene.agent().await;
    let mut agents = tokio::task::JoinSet::new();
    agents.spawn(agent.wave_through());
    let mut cli = scene.cli().await;
    let (pieces, reply) = live(200, &[STREAM]);
    scene.api.will(reply);
    let mut answer = cli.ask(true, "x").await;
    let part = Bytes::from(text(&"x".repeat(900)).repeat((1 << 20) / 1_000));
    let memory = || procfs::read_stat(scene.supervised.supervisor_pid()).unwrap().rss_bytes;
    let mut agents_of_api = tokio::task::JoinSet::new();
    agents_of_api.spawn(async move {
        pieces.send(Ok(start(1, 0).into())).await.unwrap();
        for _ in 0..megabytes {
            pieces.send(Ok(part.clone())).await.unwrap();
        }
        pieces.send(Ok(stop(9).into())).await.unwrap();
    });
    piece(&mut answer).await.unwrap().unwrap();
    let before = memory();
    let (read, most) = read_along(&mut answer, memory).await;
    println!(
        "gateway, memory over {} MB: {} kB more than {} kB",
        read >> 20,
        (most - before) >> 10,
        before >> 10
    );
    assert!(read >= megabytes << 19);
    assert!(most - before < MOST_GROWTH, "{before} bytes grew to {most}");
}

/// Reads an answer to its end; returns its length and the most that `memory` said meanwhile.
async fn read_along(answer: &mut http::Response<Incoming>, memory: impl Fn() -> u64) -> (usize, u64) {
    let (mut read, mut most, mut next) = (0, memory(), 0);
    while let Some(piece) = piece(answer).await {
        read += piece.unwrap().len();
        if read >= next {
            most = most.max(memory());
            next = read + (1 << 20);
        }
    }
    (read, most)
}
