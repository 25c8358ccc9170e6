//! Plans and verdicts on their way through the engine: asked, answered with new specs, durable, and asked again after a
//! crash.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use crate::engine::Repeatable;
use std::sync::Arc;

use orch_core::event::{Consultation, Expansion, PlanDecision};
use orch_core::ids::{RunId, TaskIndex, TaskKey};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, QuestionKind, Refusal};
use orch_core::state::{RunState, TaskState};
use orch_proto::store::v1 as record;
use orch_proto::v1;
use prost::Message as _;

use super::support::{Agent, Bench, TENANT, noops, soon, target};
use crate::engine::ApplyError;
use crate::payloads::{CachedPage, SpecRecords, SubmitPayload};
use crate::persist::decode::{self, Interner};
use crate::persist::{MAX_RESULT_BYTES, StoredPage};
use crate::submission::{CheckedPlanning, CheckedRun};

const PLANNER: TaskKey = TaskKey { run: RunId(1), index: TaskIndex(0) };

/// A planner and a synthesis that do nothing.
fn planned(approve: bool) -> CheckedRun {
    let mut run = noops(2);
    run.tasks[0].id = "plan".into();
    run.tasks[0].role = v1::TaskRole::Plan;
    run.tasks[1].id = "synthesis".into();
    run.tasks[1].role = v1::TaskRole::Synthesis;
    run.tasks[1].after = v1::After::End;
    run.tasks[1].dependencies = vec![0];
    run.planning = Some(CheckedPlanning {
        approve,
        plan_only: false,
        max_tasks: 7,
        workers: vec!["anga".into()],
        workspace: "dance".into(),
    });
    run
}

/// `count` tasks that join run 1, with all its specs anew.
async fn joining(bench: &Bench, count: u32) -> (Expansion, SubmitPayload) {
    let mut specs = bench.handle.archive().specs(TENANT, RunId(1)).await.unwrap().unwrap();
    let (before, model) = (specs.len() as u32, specs[0].clone());
    for index in before..before + count {
        let task_id = format!("t{index}");
        let role = v1::TaskRole::Work.into();
        specs.push(record::StoredSpec { task_id, role, dependencies: Vec::new(), ..model.clone() });
    }
    let all: Vec<u32> = (0..before + count).filter(|index| *index != 1).collect();
    specs[1].dependencies.clone_from(&all);
    let mut shared = Interner::default();
    let tasks = specs[before as usize..].iter().map(|spec| decode::new_task(spec, &mut shared).unwrap());
    let rewired = vec![(TaskIndex(1), all.into_iter().map(TaskIndex).collect())];
    let expansion = Expansion { tasks: tasks.collect(), rewired };
    let page =
        |specs: &[record::StoredSpec]| StoredPage { specs: specs.to_vec() }.into_record().encode_to_vec();
    let records = specs.chunks(30).map(page).collect();
    let pages = specs.chunks(30).map(|specs| Arc::new(CachedPage::new(specs))).collect();
    (expansion, SubmitPayload { records: SpecRecords::Pages(records), pages })
}

async fn plan_made(bench: &Bench, agent: &mut Agent) {
    soon("a wake", bench.handle.consulted()).await;
    let questions = bench.handle.questions(10).await.unwrap();
    assert_eq!((questions.len(), questions[0].task, questions[0].kind), (1, PLANNER, QuestionKind::Plan));
    while agent.words.try_recv().is_ok() {}
}

async fn begin(bench: &Bench, approve: bool) -> Agent {
    let mut agent = bench.agent("box-1", 4, 256).await;
    agent.welcome().await;
    bench.submit(planned(approve), "").await;
    let attempt = agent.grant().await;
    agent.finish(attempt, Outcome::OK, "a plan").await;
    plan_made(bench, &mut agent).await;
    agent
}

async fn answer(bench: &Bench, answer: Consultation, payload: Option<SubmitPayload>) {
    let question = bench.handle.questions(1).await.unwrap().remove(0);
    bench.handle.answer(question.task, question.attempt, answer, payload).await.unwrap();
}

#[tokio::test]
async fn the_tasks_of_a_plan_join_the_run_and_survive_a_crash() {
    let bench = Bench::start().await;
    let mut agent = begin(&bench, false).await;
    let (expansion, payload) = joining(&bench, 40).await;
    answer(&bench, Consultation::Expand(Box::new(expansion)), Some(payload)).await;
    let first = agent.grant().await;
    assert_eq!(first.task.index, TaskIndex(2));
    let reader = bench.handle.spec_reader();
    let spec = reader.dispatch_spec(TENANT, TaskKey { index: TaskIndex(41), ..PLANNER }).await.unwrap();
    assert_eq!(spec.task_id, "t41", "the new specs are there");
    assert!(bench.handle.questions(10).await.unwrap().is_empty());
    let planning = bench.handle.archive().planning(TENANT, RunId(1)).await.unwrap().unwrap();
    assert_eq!((planning.max_tasks, planning.workspace.as_str(), planning.expanded), (7, "dance", true));

    let bench = bench.crash_and_restart(7).await;
    let run = bench.run("adhoc/1").await;
    assert_eq!((run.state, run.task_count), (RunState::Running, 42));
    let reader = bench.handle.spec_reader();
    let spec = reader.dispatch_spec(TENANT, TaskKey { index: TaskIndex(41), ..PLANNER }).await;
    assert_eq!(spec.unwrap().task_id, "t41");
    let synthesis = bench.handle.archive().task(TENANT, RunId(1), Some("synthesis".into())).await.unwrap();
    assert_eq!(synthesis.unwrap().dependencies.len(), 41);
    bench.stop().await.unwrap();
}

#[tokio::test]
async fn a_question_is_asked_again_after_a_crash() {
    let bench = Bench::start().await;
    begin(&bench, false).await;
    let bench = bench.crash_and_restart(3).await;
    soon("a wake by the start", bench.handle.consulted()).await;
    let question = bench.handle.questions(10).await.unwrap().remove(0);
    assert_eq!((question.task, question.attempt.0), (PLANNER, 1));
    let stored = bench.handle.archive().task_record(TENANT, PLANNER).await.unwrap().unwrap();
    assert_eq!(stored.state(), v1::TaskState::Verifying);
    assert!(stored.result.is_some(), "what is to be judged is durable");
    bench.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_sent_back_is_recorded_with_what_is_wrong() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 4, 256).await;
    agent.welcome().await;
    let mut run = planned(false);
    run.tasks[0].repairs = 1;
    bench.submit(run, "").await;
    let attempt = agent.grant().await;
    agent.finish(attempt, Outcome::OK, "a plan").await;
    plan_made(&bench, &mut agent).await;
    let text = v1::Text { body: Some(v1::text::Body::Inline("two tasks are called a".into())) };
    let result = record::ResultRecord { feedback: Some(text.clone()), ..Default::default() };
    let back = |payload: Vec<u8>| Consultation::SendBack { payload: payload.into(), detail: "no".into() };
    let long = bench.handle.answer(PLANNER, attempt.attempt, back(vec![0; MAX_RESULT_BYTES + 1]), None).await;
    assert!(matches!(long, Err(ApplyError::PayloadTooLong { .. })), "{long:?}");
    answer(&bench, back(result.encode_to_vec()), None).await;
    match agent.word().await {
        crate::engine::Outbound::Grant { attempt, view } => {
            assert_eq!((attempt.attempt.0, view.sent_back), (2, true));
        }
        other => panic!("{other:?}"),
    }
    let stored = bench.handle.archive().task_record(TENANT, PLANNER).await.unwrap().unwrap();
    assert_eq!((stored.repairs, stored.result.unwrap().feedback), (1, Some(text)));
    bench.stop().await.unwrap();
}

#[tokio::test]
async fn a_person_answers_a_plan_once() {
    let bench = Bench::start().await;
    let mut agent = begin(&bench, true).await;
    answer(&bench, Consultation::Hold, None).await;
    assert_eq!(bench.run("adhoc/1").await.state, RunState::WaitingApproval);
    let run = || target("adhoc/1", None);
    let (expansion, payload) = joining(&bench, 1).await;
    let approve = PlanDecision::Approve(Box::new(expansion));
    let decided = bench
        .handle
        .decide_plan(run(), approve, "fine".into(), Repeatable::default(), Some(payload))
        .await
        .unwrap();
    let Answer::Decided { run: view } = decided else { panic!("{decided:?}") };
    assert_eq!((view.state, view.task_count), (RunState::Running, 3));
    assert_eq!(agent.grant().await.task.index, TaskIndex(2));
    let reject = PlanDecision::Reject;
    let again =
        bench.handle.decide_plan(run(), reject, "no".into(), Repeatable::default(), None).await.unwrap();
    assert!(matches!(again, Answer::Refused(Refusal::NotWaiting { .. })), "{again:?}");
    assert_eq!(
        bench.handle.archive().recall(TENANT, RunId(1)).await.unwrap().unwrap().tasks[0]
            .progress
            .as_ref()
            .map(|progress| progress.state),
        Some(TaskState::Succeeded)
    );
    bench.stop().await.unwrap();
}
