//! A call: 200 bytes echoed by a tonic server over TLS with certificates on both sides, TLS as orch configures it. Server and
//! client have a runtime each in this process, so both share its cores as separate processes would.
//!
//! Knows how callers are counted. Refuses to know the service, which is [`echo`]'s.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Streaming};

use crate::{per_second, times};

mod echo;
mod server;

use echo::{Client, Echo};
use server::Ends;

/// Calls before the measured ones.
const WARM_UP: usize = 200;
/// Callers at once of the second figure; they share one connection.
const CALLERS: usize = 64;
/// Messages of a stream that wait to be sent; full means that its sender waits.
const AHEAD: usize = 1024;
/// New connections.
const DIALS: usize = 20;

/// Everything about calls, from about `count` of each kind.
pub(crate) fn measure(dir: &Path, count: usize) -> anyhow::Result<Value> {
    let ends = Ends::new(dir, SystemTime::now())?;
    let (serving, calling) = (runtime("server")?, runtime("client")?);
    let address = serving.block_on(ends.listen())?;
    let mut tasks = JoinSet::new();
    tasks.spawn_on(ends.serve(address.0), serving.handle());
    let found = calling.block_on(call(&ends, address.1, count));
    serving.shutdown_background();
    found
}

fn runtime(name: &str) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().thread_name(name).enable_all().build().context("cannot start a runtime")
}

async fn call(ends: &Ends, port: u16, count: usize) -> anyhow::Result<Value> {
    let mut connects = Vec::new();
    let mut client = ends.connect(port).await?;
    for _ in 0..DIALS {
        let start = Instant::now();
        client = ends.connect(port).await?;
        connects.push(start.elapsed());
    }
    for _ in 0..WARM_UP {
        client.unary(Echo::new()).await?;
    }
    let one = one_after_the_other(&mut client, count / 4).await?;
    let many = side_by_side(&client, count * 2 / CALLERS).await?;
    let (bidi, pipelined) = streamed(&mut client, count / 4, count * 10).await?;
    Ok(json!({
        "connect": times(connects),
        "unary_1": times(one),
        "unary_64": { "per_s": many },
        "bidi": times(bidi),
        "bidi_pipelined": { "per_s": pipelined },
    }))
}

async fn one_after_the_other(client: &mut Client, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        client.unary(Echo::new()).await?;
        took.push(start.elapsed());
    }
    Ok(took)
}

async fn side_by_side(client: &Client, each: usize) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut client = client.clone();
        callers.spawn(async move {
            for _ in 0..each {
                client.unary(Echo::new()).await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(per_second(CALLERS * each, start.elapsed()))
}

/// Messages of one stream: times there and back of `single` ones sent alone, and the rate of `many` sent as fast as they go.
async fn streamed(client: &mut Client, single: usize, many: usize) -> anyhow::Result<(Vec<Duration>, f64)> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let mut answers = client.bidi(ReceiverStream::new(receiver)).await.map(Response::into_inner)?;
    let mut took = Vec::with_capacity(single);
    for _ in 0..single {
        let start = Instant::now();
        sender.send(Echo::new()).await?;
        next(&mut answers).await?;
        took.push(start.elapsed());
    }
    let start = Instant::now();
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        for _ in 0..many {
            sender.send(Echo::new()).await?;
        }
        Ok::<_, anyhow::Error>(())
    });
    for _ in 0..many {
        next(&mut answers).await?;
    }
    let elapsed = start.elapsed();
    while let Some(ended) = sending.join_next().await {
        ended??;
    }
    Ok((took, per_second(many, elapsed)))
}

async fn next(answers: &mut Streaming<Echo>) -> anyhow::Result<Echo> {
    answers.message().await?.context("the server ended the stream")
}
