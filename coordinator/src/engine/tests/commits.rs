//! What is said when: nothing before it is durable, and as much as possible with one flush.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use std::sync::Arc;

use orch_core::event::Event;
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query};
use orch_core::state::TaskState;
use orch_core::time::Span;
use tokio::task::JoinSet;

use super::support::{Bench, TENANT, noops, soon, submitted, target};
use crate::engine::commit::CommitFailure;
use crate::engine::{EngineError, Outbound, SubmitError};
use crate::store::Store as _;
use crate::store::memory::FailAt;

#[tokio::test]
async fn nothing_leaves_before_its_batch_is_durable() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    let seen = bench.handle.durable_seq();
    bench.store.close();
    let mut answer = bench.submit_later(noops(1), "").await;
    bench.store.commit_waits().await;

    assert!(futures_util::poll!(&mut answer).is_pending(), "no answer");
    assert!(agent.words.try_recv().is_err(), "no grant");
    assert_eq!(bench.handle.durable_seq(), seen, "no event");

    let mut watch = bench.handle.watch().subscribe(0).unwrap();
    bench.store.open();
    let (run, existing) = submitted(soon("the answer", answer).await.unwrap());
    assert_eq!((&*run.run_ref, existing), ("adhoc/1", false));
    assert_eq!(agent.grant().await.task.run, run.id);
    assert!(soon("the events", watch.next()).await.unwrap().events().count() >= 1);
}

#[tokio::test]
async fn what_comes_during_a_flush_shares_the_next_one() {
    let bench = Bench::start().await;
    bench.store.close();
    let first = bench.submit_later(noops(1), "").await;
    bench.store.commit_waits().await;
    let before = bench.store.commits().len();
    let mut rest = Vec::new();
    for _ in 0..100 {
        rest.push(bench.submit_later(noops(1), "").await);
    }
    bench.store.let_one_pass();
    soon("the first answer", first).await.unwrap();
    bench.store.commit_waits().await;
    for answer in &mut rest {
        assert!(futures_util::poll!(answer).is_pending());
    }
    bench.store.open();
    for answer in rest {
        submitted(soon("an answer", answer).await.unwrap());
    }
    assert_eq!(bench.store.commits().len() - before, 2);
}

#[tokio::test]
async fn who_is_ready_to_say_something_shares_the_batch_that_is_about_to_be_closed() {
    let bench = Bench::start().await;
    let before = bench.store.commits().len();
    let (first, its_payload) = bench.prepare(noops(1), "").await;
    let (second, other_payload) = bench.prepare(noops(1), "").await;
    let mut first = Box::pin(bench.handle.submit(first, its_payload));
    assert!(futures_util::poll!(&mut first).is_pending());
    // The engine is to run now, and this behind it.
    let handle = bench.handle.clone();
    let mut behind = JoinSet::new();
    behind.spawn(async move { handle.submit(second, other_payload).await });
    submitted(soon("an answer", first).await.unwrap());
    submitted(soon("the other", behind.join_next()).await.unwrap().unwrap().unwrap());
    assert_eq!(bench.store.commits().len() - before, 1);
}

#[tokio::test]
async fn a_read_waits_for_what_it_shows_and_costs_no_commit() {
    let bench = Bench::start().await;
    bench.store.close();
    let submit = bench.submit_later(noops(1), "").await;
    bench.store.commit_waits().await;
    let handle = bench.handle.clone();
    let asked = |token| Event::Asked { token, tenant: TENANT, query: Query::Status };
    let mut read = Box::pin(handle.request(asked));
    let mut resolved = Box::pin(handle.resolve(target("adhoc/1", None)));
    assert!(futures_util::poll!(&mut read).is_pending());
    assert!(futures_util::poll!(&mut resolved).is_pending());
    // The engine has taken both: a session that is opened behind them is answered at once.
    let (outbound, _words) = tokio::sync::mpsc::channel(1);
    soon("a session", handle.open_session(outbound)).await.unwrap();
    assert!(futures_util::poll!(&mut read).is_pending(), "it shows a run that is not durable");
    assert!(futures_util::poll!(&mut resolved).is_pending());
    let commits = bench.store.commits().len();
    bench.store.open();
    soon("the submit", submit).await.unwrap();
    soon("the read", read).await.unwrap();
    assert_eq!(soon("the name", resolved).await.unwrap().map(|(_, live)| live), Some(true));
    assert_eq!(bench.store.commits().len() - commits, 1);
    bench.status().await;
    assert_eq!(bench.store.commits().len() - commits, 1, "a read alone is answered without a commit");
}

#[tokio::test]
async fn a_failing_commit_ends_the_engine_and_nobody_is_told_anything() {
    for at in [FailAt::BeforeWrite, FailAt::BeforeSync, FailAt::AfterSync] {
        let mut bench = Bench::start().await;
        let mut agent = bench.agent("box-1", 1, 64).await;
        agent.welcome().await;
        assert!(bench.handle.is_live());
        let mut watch = bench.handle.watch().subscribe(0).unwrap();
        bench.store.inner.fail_nth(1, at);
        let (submit, payload) = bench.prepare(noops(1), "").await;
        let answer = soon("an answer", bench.handle.submit(submit, payload)).await;
        assert!(matches!(answer, Err(SubmitError::Gone(_))), "{answer:?}");
        let ended = bench.ended().await;
        assert!(matches!(ended, Err(EngineError::Commit(CommitFailure::Store(_)))), "{ended:?}");
        assert_eq!(soon("the end of the session", agent.words.recv()).await, None);
        assert!(watch.next().await.is_err());
        assert!(!bench.handle.is_live());
    }
}

#[tokio::test]
async fn a_lone_task_costs_at_most_four_keys_and_two_syncs() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    bench.status().await;
    let before = bench.store.totals();
    let (run, _) = bench.submit(noops(1), "").await;
    let attempt = agent.grant().await;
    agent.finish(attempt, Outcome::OK, "done").await;
    let verdict = agent.word().await;
    assert!(matches!(verdict, Outbound::ReportVerdict { .. }), "{verdict:?}");
    let after = bench.store.totals();
    let (keys, syncs) = (after.keys - before.keys, after.syncs - before.syncs);
    assert!(keys <= 4 && syncs <= 2, "{keys} keys, {syncs} syncs");
    assert_eq!(bench.run(&run.run_ref).await.state, orch_core::state::RunState::Succeeded);
}

#[tokio::test]
async fn that_an_assignment_was_taken_over_waits_for_company_but_not_long() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    bench.submit(noops(1), "").await;
    let attempt = agent.grant().await;
    let mut watch = bench.handle.watch().subscribe(0).unwrap();
    let before = bench.store.commits().len();
    let accepted = Event::AttemptAccepted { session: agent.session, attempt };
    bench.handle.apply(accepted).await.unwrap();
    let (outbound, _words) = tokio::sync::mpsc::channel(1);
    soon("a session", bench.handle.open_session(outbound)).await.unwrap();
    assert_eq!(bench.store.commits().len(), before, "nobody waits for it");
    bench.clock.advance(Span(50));
    let slice = soon("the event", watch.next()).await.unwrap();
    assert_eq!(slice.events().count(), 1);
    assert_eq!(bench.store.commits().len(), before + 1);
}

#[tokio::test]
async fn tasks_of_a_large_run_cost_at_most_four_keys_each() {
    const TASKS: u32 = 1_000;
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 50, 4_096).await;
    agent.welcome().await;
    bench.status().await;
    let before = bench.store.totals();
    let (run, _) = bench.submit(noops(TASKS), "").await;
    let mut done = 0;
    while done < TASKS {
        match agent.word().await {
            Outbound::Grant { attempt, .. } => agent.finish(attempt, Outcome::OK, "").await,
            Outbound::ReportVerdict { .. } => done += 1,
            other => panic!("{other:?}"),
        }
    }
    let keys = bench.store.totals().keys - before.keys;
    assert!(keys <= u64::from(4 * TASKS), "{keys} keys");
    assert_eq!(bench.run(&run.run_ref).await.state, orch_core::state::RunState::Succeeded);
}

#[tokio::test]
async fn heartbeats_are_answered_and_never_written() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    bench.status().await;
    let before = bench.store.commits().len();
    for seq in 1..=50 {
        agent.heartbeat(seq).await;
        let word = agent.word().await;
        assert!(matches!(word, Outbound::HeartbeatAck { seq: acked, .. } if acked == seq), "{word:?}");
    }
    assert_eq!(bench.store.commits().len(), before);
}

#[tokio::test]
async fn the_tick_becomes_durable_now_and_then_and_goes_on_after_a_crash() {
    let bench = Bench::start().await;
    let start = bench.store.meta().tick;
    bench.submit(noops(1), "").await;
    bench.clock.advance(Span(9_999));
    bench.submit(noops(1), "").await;
    assert_eq!(bench.store.meta().tick, start, "too early to pay a key for it");
    bench.clock.advance(Span(1));
    bench.submit(noops(1), "").await;
    assert_eq!(bench.store.meta().tick, start + 10_000);
    bench.clock.advance(Span(3_000));
    let (run, _) = bench.submit(noops(1), "").await;
    let after = bench.crash_and_restart(0).await;
    let again = after.run(&run.run_ref).await;
    assert_eq!(again.created, run.created);
    let tick = after.status().await.tick.0;
    assert_eq!(tick, start + 13_000, "that of the youngest record");
}

#[tokio::test]
async fn an_orderly_end_answers_what_waits_and_is_noted() {
    let bench = Bench::start().await;
    bench.store.close();
    let first = bench.submit_later(noops(1), "").await;
    bench.store.commit_waits().await;
    let second = bench.submit_later(noops(1), "").await;
    let (handle, store) = (bench.handle.clone(), Arc::clone(&bench.store));
    let mut end = Box::pin(bench.stop());
    assert!(futures_util::poll!(&mut end).is_pending());
    store.open();
    soon("the end", end).await.unwrap();
    assert!(first.await.is_some() && second.await.is_some());
    assert!(store.meta().clean);
    assert!(!handle.is_live());
    let asked = |token| Event::Asked { token, tenant: TENANT, query: Query::Status };
    assert!(handle.request(asked).await.is_err());
}

#[tokio::test]
async fn an_orderly_end_leaves_nothing_unwritten() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    let (run, _) = bench.submit(noops(1), "").await;
    let attempt = agent.grant().await;
    let accepted = Event::AttemptAccepted { session: agent.session, attempt };
    bench.handle.apply(accepted).await.unwrap();
    let (store, blobs) = (Arc::clone(&bench.store), Arc::clone(&bench.blobs));
    bench.stop().await.unwrap();
    let bench = Bench::on(store, blobs).await;
    let Answer::Task { task, .. } = bench.ask(Query::Task(target(&run.run_ref, Some("t0")))).await else {
        panic!()
    };
    assert_eq!(task.state, TaskState::Running);
}
