//! Results in a running coordinator: what is granted finds what it waited for, and the index follows the records.

use super::bench::TENANT;
use super::{Inputs, may_reuse};
use crate::engine::Outbound;
use crate::engine::tests::support::{Agent, Bench, commands, eventually, noops, soon};
use crate::payloads::bulk::text;
use crate::store::{Key, Kind, Prefix, Store as _, Tenant};
use orch_core::event::{Event, Report};
use orch_core::ids::AttemptKey;
use orch_core::outcome::Outcome;
use orch_core::time::Span;
use orch_core::usage::Usage;
use orch_proto::store::v1::{CacheRecord, ResultRecord};
use prost::Message as _;
use std::sync::Arc;

#[tokio::test]
async fn a_task_is_granted_only_when_the_results_it_waited_for_can_be_read() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    bench.submit(commands(20, 10), "").await;
    for index in 0..20 {
        let Outbound::Grant { attempt, view } = agent.word().await else { panic!("no grant") };
        assert_eq!(attempt.task.index.0, index);
        let read = bench.handle.results().dispatch(TENANT, attempt, view.run_ref, view.sent_back).await;
        let Inputs::Inline(inputs) = read.unwrap().inputs else { panic!("not inside") };
        let answers: Vec<_> = inputs.into_iter().map(|input| input.answer).collect();
        let before = index.checked_sub(1).map(|before| text(format!("answer {before}")));
        assert_eq!(answers, Vec::from_iter(before));
        agent.finish(attempt, Outcome::OK, &format!("answer {index}")).await;
        let word = agent.word().await;
        assert!(matches!(word, Outbound::ReportVerdict { .. }), "{word:?}");
    }
}

async fn report(bench: &Bench, agent: &Agent, attempt: AttemptKey, outcome: Outcome, key: u8) {
    let result = ResultRecord {
        answer: text("x".into()),
        cache_key: vec![key; 32],
        tree: vec![9; 32],
        ..ResultRecord::default()
    };
    let report = Report {
        attempt,
        outcome,
        detail: Arc::from(""),
        usage: Usage::default(),
        digest: [2; 32],
        duration: Span(5),
        retry_after: None,
        payload: Arc::from(result.encode_to_vec()),
        pool: "".into(),
        limit: None,
    };
    let accepted = Event::AttemptAccepted { session: agent.session, attempt };
    let reported = Event::AttemptReported { session: agent.session, report: Box::new(report) };
    bench.handle.apply_all(vec![accepted, reported]).await.unwrap();
}

fn indexed(bench: &Bench) -> Vec<(u8, u64, u32)> {
    let found = bench.store.scan(&Prefix::kind(Tenant::DEFAULT, Kind::Cache), None, 100).unwrap();
    let entry = |(key, payload): &(Key, Vec<u8>)| {
        let known = CacheRecord::decode(payload.as_slice()).unwrap();
        let [entry] = known.entries.as_slice() else { panic!("{known:?}") };
        assert_eq!((entry.attempt, entry.tree.as_slice()), (1, &[9; 32][..]));
        let task = entry.task.unwrap();
        (*key.as_bytes().last().unwrap(), task.run_id, task.task_index)
    };
    found.iter().map(entry).collect()
}

#[tokio::test]
async fn a_result_that_counts_is_in_the_index_with_its_record_and_after_a_crash() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 8, 64).await;
    agent.welcome().await;
    let (lone, _) = bench.submit(noops(1), "").await;
    let first = agent.grant().await;
    report(&bench, &agent, first, Outcome::OK, 1).await;
    let word = soon("a verdict", agent.words.recv()).await;
    assert!(matches!(word, Some(Outbound::ReportVerdict { .. })), "{word:?}");
    assert_eq!(indexed(&bench), [(1, lone.id.0, 0)], "durable before the verdict leaves");

    let (several, _) = bench.submit(noops(3), "").await;
    let attempts = [agent.grant().await, agent.grant().await, agent.grant().await];
    let endings = [(2, Outcome::OK), (3, Outcome::GATE_FAILED), (0, Outcome::OK)];
    for (attempt, (key, outcome)) in attempts.into_iter().zip(endings) {
        assert!(may_reuse(attempt));
        report(&bench, &agent, attempt, outcome, key).await;
        let word = agent.word().await;
        assert!(matches!(word, Outbound::ReportVerdict { .. }), "{word:?}");
    }
    let expected = [(0, several.id.0, 2), (1, lone.id.0, 0), (2, several.id.0, 0)];
    assert_eq!(indexed(&bench), expected);
    let bench = bench.crash_and_restart(0).await;
    eventually("the index", || indexed(&bench) == expected).await;
}
