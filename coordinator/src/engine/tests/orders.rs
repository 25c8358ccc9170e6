//! What people say of agents and of finished runs is durable with its answer, and a repetition finds it again.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use super::support::*;
use crate::engine::Outbound;
use crate::store::{Key, Store as _, Tenant};
use orch_core::event::{Event, Labelling, Report};
use orch_core::ids::{AttemptKey, Token};
use orch_core::outcome::Outcome;
use orch_core::query::{AgentStateView, AgentView, Answer, Query, Refusal};
use orch_core::state::{RunState, TaskState};
use orch_core::time::Span;
use orch_core::usage::Usage;
use orch_proto::v1;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

async fn order(bench: &Bench, event: impl FnOnce(Token) -> Event + Send + 'static) -> AgentView {
    match soon("the answer to an order", bench.handle.request(event)).await.unwrap() {
        Answer::Agent(agent) => agent,
        other => panic!("{other:?}"),
    }
}

async fn shown(bench: &Bench) -> AgentView {
    match bench.ask(Query::Agent("box-1".into())).await {
        Answer::Agent(agent) => agent,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn drains_and_labels_outlive_a_crash_once_they_are_answered() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    let drain = |token| Event::DrainRequested {
        token,
        tenant: TENANT,
        agent: "box-1".into(),
        reason: "drained by admin/default/ana: new disk".into(),
    };
    order(&bench, drain).await;
    let change = Labelling { set: vec!["gpu=yes".into()], remove: vec!["runner".into()], restore: false };
    let label = |token| Event::LabelRequested { token, tenant: TENANT, agent: "box-1".into(), change };
    order(&bench, label).await;

    let bench = bench.crash_and_restart(3).await;
    let away = shown(&bench).await;
    assert_eq!(away.state, AgentStateView::Offline);
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    let known = shown(&bench).await;
    assert_eq!(known.state, AgentStateView::Draining);
    assert_eq!(known.drain.as_deref(), Some("drained by admin/default/ana: new disk"));
    assert_eq!((known.labels.clone(), known.hidden.clone()), (vec!["gpu=yes".into()], vec!["runner".into()]));
    assert_eq!(known.capabilities, ["gpu=yes".into()]);

    bench.submit(noops(1), "").await;
    let restore = Labelling { restore: true, ..Labelling::default() };
    let label =
        |token| Event::LabelRequested { token, tenant: TENANT, agent: "box-1".into(), change: restore };
    order(&bench, label).await;
    order(&bench, |token| Event::ResumeRequested { token, tenant: TENANT, agent: "box-1".into() }).await;
    agent.grant().await;
    let text = bench.handle.metrics().encode().unwrap();
    assert!(text.contains("orch_task_wait_seconds_count 1"), "the wait of the granted task is counted");
}

/// Crashes of five tasks on `box-1`, beside a busy `box-2`.
async fn quarantined(bench: &Bench) -> Agent {
    let mut busy = bench.agent("box-2", 1, 64).await;
    busy.welcome().await;
    bench.submit(noops(1), "").await;
    busy.grant().await;
    let mut agent = bench.agent("box-1", 8, 64).await;
    agent.welcome().await;
    bench.submit(noops(5), "").await;
    let mut granted = Vec::new();
    for _ in 0..5 {
        granted.push(agent.grant().await);
    }
    for attempt in granted {
        agent.finish(attempt, Outcome::CRASH, "").await;
        verdict(&mut agent).await;
    }
    // Its stream goes on while the other one is kept by whoever asked.
    std::mem::forget(busy);
    agent
}

#[tokio::test]
async fn a_quarantine_and_that_an_agent_was_forgotten_outlive_a_crash() {
    let bench = Bench::start().await;
    let agent = quarantined(&bench).await;
    let known = shown(&bench).await;
    assert_eq!(known.state, AgentStateView::Quarantined);
    let reason = known.quarantine.clone().unwrap();
    assert!(reason.starts_with("5 of its last 5 attempts crashed, of 5 tasks, "), "{reason}");
    drop(agent);
    let bench = bench.crash_and_restart(7).await;
    assert_eq!(shown(&bench).await.quarantine, Some(reason));

    let key = Key::agent(Tenant::DEFAULT, "box-1").unwrap();
    assert!(bench.store.get(&key).unwrap().is_some());
    let forget = |token| Event::ForgetRequested { token, tenant: TENANT, agent: "box-1".into() };
    let answer = soon("the answer to an order", bench.handle.request(forget)).await.unwrap();
    assert!(matches!(answer, Answer::Forgotten), "{answer:?}");
    assert_eq!(bench.store.get(&key).unwrap(), None);
    let bench = bench.crash_and_restart(8).await;
    let answer = bench.ask(Query::Agent("box-1".into())).await;
    assert!(matches!(answer, Answer::Refused(Refusal::NoSuchAgent { .. })), "{answer:?}");
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    assert_eq!(shown(&bench).await.quarantine, None);
    assert!(bench.store.get(&key).unwrap().is_some(), "it is known again");
}

fn retry(run_ref: &str, request_id: &str, digest: u8) -> impl FnOnce(Token) -> Event + Send + use<> {
    let (target, request_id) = (target(run_ref, None), Arc::from(request_id));
    let from = Some("t0".into());
    move |token| Event::RetryRequested {
        token,
        target,
        force: false,
        from,
        dead: false,
        request_id,
        digest: [digest; 32],
    }
}

#[tokio::test]
async fn a_repeated_retry_is_known_after_a_crash_and_after_its_run_left_the_state() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 4, 64).await;
    agent.welcome().await;
    let (run, _) = bench.submit(noops(2), "").await;
    for attempt in [agent.grant().await, agent.grant().await] {
        agent.finish(attempt, Outcome::OK, "first").await;
        verdict(&mut agent).await;
    }
    let ask = async |bench: &Bench, id: &str, digest| {
        soon("the answer to a retry", bench.handle.request(retry(&run.run_ref, id, digest))).await.unwrap()
    };
    let answer = ask(&bench, "key", 1).await;
    assert!(matches!(answer, Answer::Retried { count: 1, existing: false, .. }), "{answer:?}");
    let again = agent.grant().await;
    assert_eq!(again.attempt.0, 2);
    let key = Key::request(Tenant::DEFAULT, &Sha256::digest("key").into());
    assert!(bench.store.get(&key).unwrap().is_some());

    let bench = bench.crash_and_restart(5).await;
    let answer = ask(&bench, "key", 1).await;
    assert!(matches!(answer, Answer::Retried { count: 1, existing: true, .. }), "{answer:?}");
    let answer = ask(&bench, "key", 2).await;
    assert!(matches!(answer, Answer::Refused(Refusal::RequestIdConflict { .. })), "{answer:?}");
    let record = bench.handle.archive().task_record(TENANT, again.task).await.unwrap().unwrap();
    let text = record.result.unwrap().answer.unwrap().body.unwrap();
    assert_eq!(text, v1::text::Body::Inline("first".into()), "the old answer stays until there is another");

    let mut agent = bench.agent("box-1", 4, 64).await;
    agent.welcome().await;
    agent.repeat_report(again, Outcome::OK, "second").await;
    eventually_succeeded(&bench, &run.run_ref).await;
    let record = bench.handle.archive().task_record(TENANT, again.task).await.unwrap().unwrap();
    assert_eq!(record.attempts.len(), 2);
    let text = record.result.unwrap().answer.unwrap().body.unwrap();
    assert_eq!(text, v1::text::Body::Inline("second".into()));

    bench.clock.advance(Span::minutes(11));
    bench.status().await;
    let answer = ask(&bench, "key", 1).await;
    assert!(
        matches!(answer, Answer::Retried { existing: true, .. }),
        "its run is in the store only: {answer:?}"
    );
    bench.clock.advance(Span::days(7));
    bench.status().await;
    bench.status().await;
    assert!(bench.store.get(&key).unwrap().is_none(), "its record goes with it");
}

async fn verdict(agent: &mut Agent) {
    loop {
        if matches!(agent.word().await, Outbound::ReportVerdict { .. }) {
            return;
        }
    }
}

async fn eventually_succeeded(bench: &Bench, run_ref: &str) {
    while bench.run(run_ref).await.state != RunState::Succeeded {
        tokio::task::yield_now().await;
    }
}

fn rate_limited(agent: &Agent, attempt: AttemptKey, retry_after: Span) -> Event {
    let outcome = Outcome(u8::try_from(i32::from(v1::Outcome::RateLimited)).unwrap());
    let report = Report {
        attempt,
        outcome,
        detail: "the five-hour limit is reached".into(),
        usage: Usage::default(),
        digest: [3; 32],
        duration: Span(5),
        retry_after: Some(retry_after),
        payload: Arc::from([].as_slice()),
        pool: "".into(),
        limit: None,
    };
    Event::AttemptReported { session: agent.session, report: Box::new(report) }
}

#[tokio::test]
async fn a_rate_limited_attempt_is_not_repeated_before_its_reset_whatever_happens_meanwhile() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    let (run, _) = bench.submit(noops(1), "").await;
    let attempt = agent.grant().await;
    bench.handle.apply(Event::AttemptAccepted { session: agent.session, attempt }).await.unwrap();
    bench.handle.apply(rate_limited(&agent, attempt, Span::hours(3))).await.unwrap();
    let view = async |bench: &Bench| match bench.ask(Query::Task(target(&run.run_ref, Some("t0")))).await {
        Answer::Task { task, .. } => task,
        other => panic!("{other:?}"),
    };
    let waits = view(&bench).await;
    assert_eq!(waits.state, TaskState::WaitingRetry);
    assert!((Span::hours(3)..Span::hours(4)).contains(&waits.retry_in.unwrap()), "{waits:?}");
    let wire = crate::rpc::convert::task(&run.run_ref, run.created, &waits, orch_core::time::Wall(0));
    assert!(wire.retry_at.unwrap().seconds >= 3 * 3_600);

    let bench = bench.crash_and_restart(1).await;
    let mut agent = bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    bench.clock.advance(Span::minutes(170));
    agent.heartbeat(1).await;
    assert_eq!(view(&bench).await.state, TaskState::WaitingRetry);
    bench.clock.advance(Span::minutes(40));
    agent.heartbeat(2).await;
    loop {
        if let Outbound::Grant { attempt, .. } = agent.word().await {
            assert_eq!(attempt.attempt.0, 2);
            return;
        }
    }
}
