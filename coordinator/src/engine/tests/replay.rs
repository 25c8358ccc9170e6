//! With the committer inline and time by hand, the same history leaves the same records.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use std::sync::Arc;

use orch_core::config::Config;
use orch_core::event::{AgentHello, Event};
use orch_core::outcome::Outcome;
use orch_core::time::{Span, Wall};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::support::{Agent, BlobDir, TENANT, commands, noops, rules, soon};
use crate::clock::ManualClock;
use crate::engine::commit::InlineCommitter;
use crate::engine::{Engine, Outbound, Parts};
use crate::metrics::Metrics;
use crate::payloads::Request;
use crate::store::{EpochStep, MemoryStore, Store as _};

async fn history() -> Vec<u8> {
    let store = Arc::new(MemoryStore::new());
    let blobs = BlobDir::new();
    let clock = ManualClock::new(Wall(1_700_000_000_000));
    let parts = Parts {
        store: store.clone(),
        blobs: blobs.blobs.clone(),
        committer: Box::new(InlineCommitter::new(store.clone())),
        clock: Arc::new(clock.clone()),
        config: Config::new(rules()),
        metrics: Arc::new(Metrics::new("test")),
        step: EpochStep::Start,
    };
    let recovered = Engine::open(parts).unwrap();
    let (handle, engine) = (recovered.handle, recovered.engine);
    let stop = CancellationToken::new();
    let script = async {
        let (outbound, words) = mpsc::channel(4_096);
        let session = handle.open_session(outbound).await.unwrap();
        let hello = AgentHello {
            session,
            tenant: TENANT,
            name: Arc::from("box-1"),
            incarnation: [1; 16],
            keeps_allowances: true,
            slots: 2,
            capabilities: vec![Arc::from("runner=command"), Arc::from("runner=noop")],
            inventory: Vec::new(),
            conversations: Vec::new(),
            pools: Vec::new(),
        };
        handle.apply(Event::AgentJoined(Box::new(hello))).await.unwrap();
        let mut agent = Agent::new(session, words, handle.clone());
        for run in [noops(1), noops(33), commands(5, 700)] {
            let tasks = run.tasks.len();
            let request = Request {
                tenant: TENANT,
                submitted_by: Arc::from("client/default/ana"),
                request_id: Arc::from(""),
                spec_digest: [1; 32],
                validate_only: false,
            };
            let (submit, payload) = handle.preparer().prepare(request, run).await.unwrap();
            handle.submit(submit, payload).await.unwrap();
            let mut done = 0;
            while done < tasks {
                clock.advance(Span(7));
                match agent.word().await {
                    Outbound::Grant { attempt, .. } => agent.finish(attempt, Outcome::OK, "x").await,
                    Outbound::ReportVerdict { .. } => done += 1,
                    Outbound::Welcome { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        stop.cancel();
    };
    let both = Box::pin(async { tokio::join!(engine.run(stop.cancelled()), script) });
    let (ended, ()) = soon("the end", both).await;
    ended.unwrap();
    let mut export = Vec::new();
    store.export(&mut export).unwrap();
    export
}

#[tokio::test]
async fn the_same_history_leaves_the_same_records() {
    let first = Box::pin(history()).await;
    assert!(first.len() > 10_000);
    assert!(first == Box::pin(history()).await, "two equal histories left different records");
}
