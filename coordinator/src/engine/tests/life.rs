//! Kills, restarts, and runs that have left the state.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use std::collections::BTreeMap;

use orch_core::event::Event;
use orch_core::ids::{RunId, TaskIndex, TaskKey};
use orch_core::outcome::Outcome;
use orch_core::query::Answer;
use orch_core::state::RunState;
use orch_core::time::Span;
use orch_proto::v1;

use super::support::{Bench, TENANT, commands, noops, soon, target};
use crate::engine::Outbound;
use crate::payloads::RunFilter;
use crate::submission::CheckedRunner;

async fn finish_all(agent: &mut super::support::Agent, tasks: u32, answer: &str) {
    let mut done = 0;
    while done < tasks {
        match agent.word().await {
            Outbound::Grant { attempt, .. } => agent.finish(attempt, Outcome::OK, answer).await,
            Outbound::ReportVerdict { .. } => done += 1,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill_and_its_request_id_finds_it() {
    for seed in 0..2 {
        let mut bench = Bench::start().await;
        let mut known = BTreeMap::new();
        for round in 0..5 {
            for n in 0..4 {
                let request_id = format!("r{round}-{n}");
                let (run, existing) = bench.submit(noops(1 + n), &request_id).await;
                assert!(!existing);
                known.insert(request_id, run.run_ref);
            }
            bench.store.close();
            let unanswered = bench.submit_later(noops(1), &format!("unanswered-{round}")).await;
            bench.store.commit_waits().await;
            bench = bench.crash_and_restart(seed).await;
            assert!(soon("the end of the wait", unanswered).await.is_none());
            for (request_id, run_ref) in &known {
                let tasks = run_ref_tasks(&bench, run_ref).await;
                let (run, existing) = bench.submit(noops(tasks), request_id).await;
                assert_eq!((&run.run_ref, existing), (run_ref, true));
            }
            let (_, existing) = bench.submit(noops(1), &format!("unanswered-{round}")).await;
            assert!(!existing, "it never reached the disk");
        }
    }
}

async fn run_ref_tasks(bench: &Bench, run_ref: &str) -> u32 {
    bench.run(run_ref).await.task_count
}

#[tokio::test]
async fn running_tasks_finish_after_a_kill_and_are_recorded_once() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 3, 256).await;
    agent.welcome().await;
    let (run, _) = bench.submit(noops(40), "").await;
    let held = [agent.grant().await, agent.grant().await, agent.grant().await];
    agent.finish(held[0], Outcome::OK, "before").await;
    while !matches!(agent.word().await, Outbound::ReportVerdict { .. }) {}

    let bench = bench.crash_and_restart(0).await;
    assert!(bench.handle.epoch().0 >= 2);
    let mut agent = bench.agent("box-1", 50, 4_096).await;
    agent.welcome().await;
    // The same report again is recorded, which is to say it is known.
    agent.repeat_report(held[0], Outcome::OK, "before").await;
    let mut recorded = BTreeMap::new();
    while recorded.len() < 40 {
        match agent.word().await {
            Outbound::Grant { attempt, .. } => agent.finish(attempt, Outcome::OK, "after").await,
            Outbound::ReportVerdict { attempt, .. } => {
                assert_eq!(recorded.insert(attempt.task, attempt), None, "recorded twice");
            }
            other => panic!("{other:?}"),
        }
        bench.clock.advance(Span(500));
    }
    assert_eq!(recorded[&held[0].task], held[0]);
    assert_eq!(bench.run(&run.run_ref).await.state, RunState::Succeeded);
}

#[tokio::test]
async fn events_keep_their_numbers_over_a_restart() {
    let bench = Bench::start().await;
    for _ in 0..10 {
        bench.submit(noops(1), "").await;
    }
    let newest = bench.handle.durable_seq();
    let bench = bench.crash_and_restart(0).await;
    assert_eq!(bench.handle.durable_seq(), newest);
    let mut watch = bench.handle.watch().subscribe(1).unwrap();
    bench.submit(noops(1), "").await;
    let all = bench.handle.durable_seq();
    assert!(all > newest);
    let mut seqs = Vec::new();
    while seqs.last().is_none_or(|last| *last < all) {
        let slice = soon("events", watch.next()).await.unwrap();
        seqs.extend(slice.events().map(|(event, _)| event.seq));
    }
    assert_eq!(seqs, (1..=all).collect::<Vec<_>>());
}

#[tokio::test]
async fn specs_of_any_length_are_dispatched_alike_before_and_after_a_restart() {
    for (count, bytes) in [(1, 10), (1, 2_000), (1, 90_000), (3, 10), (70, 300), (40, 5_000)] {
        let bench = Bench::start().await;
        let run = commands(count, bytes);
        let expected: Vec<_> = run.tasks.iter().map(|task| task.runner.clone()).collect();
        let (view, _) = bench.submit(run, "").await;
        let check = async |bench: &Bench| {
            for (index, expected) in (0_u32..).zip(&expected) {
                let task = TaskKey { run: view.id, index: TaskIndex(index) };
                let spec = bench.handle.spec_reader().dispatch_spec(TENANT, task).await.unwrap();
                let CheckedRunner::Command(expected) = expected else { panic!() };
                let Some(orch_proto::store::v1::stored_spec::Runner::Command(command)) = &spec.runner else {
                    panic!("{spec:?}")
                };
                assert_eq!(command, expected);
                assert_eq!(spec.dependencies, Vec::from_iter(index.checked_sub(1)));
            }
        };
        check(&bench).await;
        let bench = bench.crash_and_restart(0).await;
        check(&bench).await;
        assert_eq!(bench.run(&view.run_ref).await.task_count, count);
    }
}

#[tokio::test]
async fn a_finished_run_leaves_the_state_and_is_shown_out_of_the_store() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 10, 1_024).await;
    agent.welcome().await;
    let mut runs = Vec::new();
    for count in [1, 45] {
        let (run, _) = bench.submit(noops(count), "").await;
        finish_all(&mut agent, count, "the answer").await;
        runs.push(run);
    }
    bench.clock.advance(Span::minutes(11));
    bench.status().await;
    let archive = bench.handle.archive();
    for run in &runs {
        let found = bench.handle.resolve(target(&run.run_ref, None)).await.unwrap();
        assert_eq!(found, Some((run.id, false)), "known, not live");
        let shown = archive.run(TENANT, run.id).await.unwrap().unwrap();
        assert_eq!((shown.r#ref.as_str(), shown.state()), (&*run.run_ref, v1::RunState::Succeeded));
        assert_eq!(shown.counts.iter().map(|count| count.count).sum::<u32>(), run.task_count);
        let page = archive.tasks(TENANT, run.id, TaskIndex(0), 1_000, vec![], true).await;
        let page = page.unwrap().unwrap();
        assert_eq!((page.tasks.len(), page.next), (run.task_count as usize, None));
        for task in &page.tasks {
            assert_eq!((task.state(), task.attempt, task.attempts.len()), (v1::TaskState::Succeeded, 1, 1));
            let text = v1::Text { body: Some(v1::text::Body::Inline("the answer".into())) };
            assert_eq!(task.answer, Some(text));
        }
        let last = format!("t{}", run.task_count - 1);
        let named = archive.task(TENANT, run.id, Some(last)).await.unwrap().unwrap();
        assert_eq!(named, *page.tasks.last().unwrap());
        assert_eq!(archive.task(TENANT, run.id, Some("nobody".into())).await.unwrap(), None);
    }
    for below in [runs[1].id.0 + 1, 100, u64::MAX] {
        let page = archive.runs_below(TENANT, RunId(below), 10, RunFilter::default()).await.unwrap();
        let ids: Vec<_> = page.runs.iter().map(|run| run.run_id).collect();
        assert_eq!((ids, page.below), (vec![runs[1].id.0, runs[0].id.0], None));
    }
    let first = archive.runs_below(TENANT, RunId(u64::MAX), 1, RunFilter::default()).await.unwrap();
    assert_eq!((first.runs.len(), first.below), (1, Some(runs[1].id)));
    let named = RunFilter { name: "nobody".into(), ..RunFilter::default() };
    let none = archive.runs_below(TENANT, RunId(u64::MAX), 10, named).await.unwrap();
    assert_eq!((none.runs.len(), none.below), (0, None));
}

#[tokio::test]
async fn a_run_that_left_the_state_can_be_tried_again() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 10, 1_024).await;
    agent.welcome().await;
    let (run, _) = bench.submit(noops(3), "").await;
    let cancel = {
        let target = target(&run.run_ref, None);
        move |token| Event::CancelRequested { token, target, reason: "no".into() }
    };
    let answer = bench.handle.request(cancel).await.unwrap();
    assert!(matches!(answer, Answer::Cancelled { .. }), "{answer:?}");
    while let Ok(word) = agent.words.try_recv() {
        if let Outbound::Stop { attempt, .. } = word {
            agent.finish(attempt, Outcome::CANCELLED, "").await;
        }
    }
    bench.status().await;
    bench.clock.advance(Span::minutes(11));
    bench.status().await;
    let bench = bench.crash_and_restart(0).await;
    assert_eq!(bench.handle.resolve(target(&run.run_ref, None)).await.unwrap(), Some((run.id, false)));
    let restored = bench.handle.archive().recall(TENANT, run.id).await.unwrap().unwrap();
    bench.handle.apply(Event::RunRecalled(Box::new(restored))).await.unwrap();
    let retry = {
        let target = target(&run.run_ref, None);
        move |token| Event::RetryRequested {
            token,
            target,
            force: false,
            from: None,
            dead: false,
            request_id: "".into(),
            digest: [0; 32],
        }
    };
    let answer = bench.handle.request(retry).await.unwrap();
    assert!(matches!(answer, Answer::Retried { count: 3, .. }), "{answer:?}");
    let mut agent = bench.agent("box-2", 10, 1_024).await;
    agent.welcome().await;
    finish_all(&mut agent, 3, "").await;
    assert_eq!(bench.run(&run.run_ref).await.state, RunState::Succeeded);
}

#[tokio::test]
async fn a_deleted_run_leaves_nothing_but_its_number() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 10, 1_024).await;
    agent.welcome().await;
    for count in [1, 300] {
        bench.submit(noops(count), "").await;
        finish_all(&mut agent, count, "").await;
    }
    bench.clock.advance(Span::days(31));
    bench.status().await;
    super::support::eventually("the runs to be deleted", || {
        bench.clock.advance(Span(100));
        let mut left = 0;
        let count = &mut |key: crate::store::Key, _: &[u8]| {
            use crate::store::Entity;
            let entity = key.entity().unwrap();
            left += u32::from(matches!(
                entity,
                Entity::Run { .. } | Entity::Task { .. } | Entity::SpecPage { .. }
            ));
        };
        crate::store::Store::load_with(&*bench.store, count).unwrap();
        left == 0
    })
    .await;
    assert!(bench.store.commits().iter().all(|keys| *keys <= 512), "in small steps");
    let bench = bench.crash_and_restart(0).await;
    let (run, _) = bench.submit(noops(1), "").await;
    assert_eq!((&*run.run_ref, run.id), ("adhoc/3", RunId(3)), "neither numbers nor ids are used again");
}

#[tokio::test]
async fn an_engine_of_an_older_epoch_can_write_nothing_more() {
    let mut bench = Bench::start().await;
    crate::store::Store::begin_epoch(&*bench.store, crate::store::EpochStep::Start, 0).unwrap();
    let (submit, payload) = bench.prepare(noops(1), "").await;
    assert!(bench.handle.submit(submit, payload).await.is_err());
    assert!(bench.ended().await.is_err());
}
