//! Agents that do not read, go silent or go away.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use orch_core::event::Event;
use orch_core::outcome::Outcome;
use orch_core::query::{AgentStateView, Answer, Query};
use orch_core::time::Span;

use super::support::{Agent, Bench, noops, soon};
use crate::engine::{ApplyError, AttemptActivity, Outbound};
use crate::persist::MAX_RESULT_BYTES;

async fn agent_state(bench: &Bench, name: &str) -> AgentStateView {
    let Answer::Agents(agents) = bench.ask(Query::Agents { after: None, limit: 10 }).await else { panic!() };
    agents.iter().find(|agent| &*agent.name == name).unwrap().state
}

/// Lets the engine's clock go on, with `agent` alive.
async fn pass(bench: &Bench, span: Span, agent: &mut Agent) {
    for step in 0..span.0.div_ceil(1_000) {
        bench.clock.advance(Span(1_000));
        agent.heartbeat(step).await;
        bench.status().await;
    }
}

#[tokio::test]
async fn a_session_that_does_not_read_is_ended_and_others_are_not() {
    let bench = Bench::start().await;
    let mut deaf = bench.agent("deaf", 1, 2).await;
    let mut other = bench.agent("other", 1, 64).await;
    other.welcome().await;
    for seq in 0..5 {
        deaf.heartbeat(seq).await;
        other.heartbeat(seq).await;
    }
    assert_eq!(agent_state(&bench, "other").await, AgentStateView::Ready);
    assert_ne!(agent_state(&bench, "deaf").await, AgentStateView::Ready);
    let mut heard = 0;
    while soon("the end of the session", deaf.words.recv()).await.is_some() {
        heard += 1;
    }
    assert_eq!(heard, 2, "what had room, then the end");
    for _ in 0..5 {
        assert!(matches!(other.word().await, Outbound::HeartbeatAck { .. }));
    }
}

#[tokio::test]
async fn an_agent_that_is_answered_by_its_session_is_not_silent() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    for _ in 0..20 {
        bench.clock.advance(Span(2_000));
        assert!(bench.handle.heard_idle(agent.session, 0));
        // The engine goes round, and looks for silence.
        bench.status().await;
    }
    assert_eq!(agent_state(&bench, "box-1").await, AgentStateView::Ready);
    for _ in 0..8 {
        bench.clock.advance(Span(2_000));
        bench.status().await;
    }
    assert_ne!(agent_state(&bench, "box-1").await, AgentStateView::Ready);
    assert!(agent.words.try_recv().is_err(), "the engine had nothing to say");
}

#[tokio::test]
async fn a_session_answers_nobody_while_a_commit_hangs() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    bench.store.close();
    let answer = bench.submit_later(noops(1), "").await;
    bench.store.commit_waits().await;
    assert!(bench.handle.heard_idle(agent.session, 0), "a commit may take its time");
    for _ in 0..3 {
        bench.clock.advance(Span(4_000));
        let (outbound, _words) = tokio::sync::mpsc::channel(1);
        bench.handle.open_session(outbound).await.unwrap();
    }
    assert!(!bench.handle.heard_idle(agent.session, 0), "the engine would answer nobody");
    bench.store.open();
    soon("the answer to the submit", answer).await.unwrap();
    assert!(bench.handle.heard_idle(agent.session, 0));
}

#[tokio::test]
async fn a_task_of_a_silent_agent_goes_to_another_one() {
    let bench = Bench::start().await;
    let mut first = bench.agent("first", 1, 64).await;
    first.welcome().await;
    bench.submit(noops(1), "").await;
    let lost = first.grant().await;
    bench.handle.apply(Event::AttemptAccepted { session: first.session, attempt: lost }).await.unwrap();
    let mut second = bench.agent("second", 1, 256).await;
    second.welcome().await;
    pass(&bench, Span::seconds(40), &mut second).await;
    let again = loop {
        match second.word().await {
            Outbound::Grant { attempt, .. } => break attempt,
            Outbound::HeartbeatAck { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((again.task, again.attempt.0), (lost.task, 2));
    first.finish(lost, Outcome::OK, "too late").await;
    second.finish(again, Outcome::OK, "in time").await;
    let verdict = loop {
        match second.word().await {
            Outbound::ReportVerdict { result, .. } => break result,
            Outbound::HeartbeatAck { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(verdict, orch_core::effect::ReportResult::Recorded);
}

#[tokio::test]
async fn a_stall_of_the_engine_itself_costs_nobody_an_attempt() {
    let bench = Bench::start().await;
    let mut first = bench.agent("first", 1, 256).await;
    first.welcome().await;
    bench.submit(noops(1), "").await;
    let held = first.grant().await;
    bench.handle.apply(Event::AttemptAccepted { session: first.session, attempt: held }).await.unwrap();
    let mut second = bench.agent("second", 1, 256).await;
    second.welcome().await;
    bench.clock.advance(Span::minutes(5));
    bench.status().await;
    assert_eq!(agent_state(&bench, "first").await, AgentStateView::Ready);
    pass(&bench, Span::seconds(30), &mut second).await;
    first.finish(held, Outcome::OK, "it was there all the time").await;
    assert!(matches!(
        first.word().await,
        Outbound::ReportVerdict { result: orch_core::effect::ReportResult::Recorded, .. }
    ));
}

#[tokio::test]
async fn a_session_whose_reader_vanished_is_noticed() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("gone", 1, 64).await;
    agent.welcome().await;
    assert_eq!(agent_state(&bench, "gone").await, AgentStateView::Ready);
    drop(agent);
    bench.submit(noops(1), "").await;
    bench.clock.advance(Span::seconds(20));
    assert_ne!(agent_state(&bench, "gone").await, AgentStateView::Ready);
}

#[tokio::test]
async fn a_report_that_does_not_fit_its_record_is_not_taken() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    bench.submit(noops(1), "").await;
    let attempt = agent.grant().await;
    let report = orch_core::event::Report {
        attempt,
        outcome: Outcome::OK,
        detail: "".into(),
        usage: orch_core::usage::Usage::default(),
        digest: [0; 32],
        duration: Span(1),
        retry_after: None,
        pool: "".into(),
        limit: None,
        payload: vec![0; MAX_RESULT_BYTES + 1].into(),
    };
    let event = Event::AttemptReported { session: agent.session, report: Box::new(report) };
    let refused = bench.handle.apply(event).await;
    assert_eq!(refused, Err(ApplyError::PayloadTooLong { bytes: MAX_RESULT_BYTES + 1 }));
    agent.finish(attempt, Outcome::OK, "short").await;
    assert!(matches!(agent.word().await, Outbound::ReportVerdict { .. }), "the session goes on");
}

#[tokio::test]
async fn activities_reach_watchers_with_their_task_and_cost_nothing() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    let (run, _) = bench.submit(noops(1), "").await;
    let attempt = agent.grant().await;
    let commits = bench.store.commits().len();
    let mut shown = bench.handle.watch().activities();
    let activity = AttemptActivity {
        attempt,
        now: "Bash cargo test".into(),
        num_turns: 3,
        cost_micro_usd: 4,
        agent: "box-1".into(),
    };
    bench.handle.publish_activity(activity);
    let seen = soon("the activity", shown.next()).await.unwrap();
    assert_eq!((seen.tenant, seen.event.run_ref.as_str(), seen.event.seq), (1, &*run.run_ref, 0));
    assert_eq!(bench.store.commits().len(), commits);
}

#[tokio::test]
async fn a_session_is_closed_with_its_reason_when_a_newer_one_takes_over() {
    let bench = Bench::start().await;
    let mut old = bench.agent("box-1", 1, 64).await;
    old.welcome().await;
    let mut new = bench.agent("box-1", 1, 64).await;
    new.welcome().await;
    let word = old.word().await;
    assert!(matches!(word, Outbound::Close(_)), "{word:?}");
    assert_eq!(soon("the end", old.words.recv()).await, None);
}
