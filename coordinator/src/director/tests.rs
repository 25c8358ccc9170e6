//! A director beside a whole engine, on a store in memory.

use super::*;
use crate::engine::Outbound;
use crate::engine::tests::support::{Bench, TENANT, noops, soon, target};
use crate::prompts::Catalogue;
use crate::submission::{CheckedPlanning, CheckedRun, CheckedTask};
use orch_core::event::{AgentHello, Event, Report};
use orch_core::ids::{AttemptKey, SessionId, TaskIndex};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query, RunView, TaskView};
use orch_core::state::{RunState, TaskState};
use orch_core::usage::Usage;
use orch_proto::store::v1::{self as record, ResultRecord};
use orch_proto::v1;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A coordinator with a director, and an agent that runs what it is told to.
struct Stage {
    bench: Bench,
    directors: JoinSet<()>,
    stop: CancellationToken,
}

impl Stage {
    async fn start() -> Self {
        Self::on(Bench::start().await)
    }

    fn on(bench: Bench) -> Self {
        let stop = CancellationToken::new();
        let director = Director::new(DirectorParts {
            engine: bench.handle.clone(),
            workers: Arc::new(WorkersInForce::new(Catalogue::load(&[]).unwrap())),
            blobs: bench.blobs.blobs.clone(),
            clock: Arc::new(bench.clock.clone()),
            stop: stop.clone(),
        });
        let mut directors = JoinSet::new();
        directors.spawn(director.run());
        Self { bench, directors, stop }
    }

    async fn agent(&self) -> Hand {
        let (outbound, words) = mpsc::channel(256);
        let session = self.bench.handle.open_session(outbound).await.unwrap();
        let words_of = ["os=linux", "runner=claude", "runner=noop", "runner=publish", "workspace=dance"];
        let hello = AgentHello {
            session,
            tenant: TENANT,
            name: Arc::from("north"),
            incarnation: [1; 16],
            keeps_allowances: true,
            slots: 64,
            capabilities: words_of.into_iter().map(Arc::from).collect(),
            inventory: Vec::new(),
            conversations: Vec::new(),
            pools: Vec::new(),
        };
        self.bench.handle.apply(Event::AgentJoined(Box::new(hello))).await.unwrap();
        let mut hand = Hand { session, words, engine: self.bench.handle.clone() };
        assert!(matches!(hand.word().await, Outbound::Welcome { .. }));
        hand
    }

    async fn tasks(&self, run_ref: &str) -> (RunView, Vec<TaskView>) {
        let query = Query::Tasks {
            target: target(run_ref, None),
            from: TaskIndex(0),
            limit: 1_000,
            states: Vec::new(),
        };
        let Answer::Tasks { run, tasks } = self.bench.ask(query).await else { panic!("no tasks") };
        (run, tasks)
    }

    async fn task(&self, run_ref: &str, id: &str) -> TaskView {
        let (_, tasks) = self.tasks(run_ref).await;
        tasks.into_iter().find(|task| &*task.id == id).unwrap()
    }

    /// What reviews of the task `write` found, as people are shown it.
    async fn reviews(&self, run: orch_core::ids::RunId) -> Vec<(bool, String)> {
        let task = self.bench.handle.archive().task(TENANT, run, Some("write".to_owned())).await;
        let gates = task.unwrap().unwrap().gates;
        assert!(gates.iter().all(|gate| gate.kind == "review" && !gate.name.is_empty()), "{gates:?}");
        gates.into_iter().map(|gate| (gate.passed, gate.log)).collect()
    }

    /// Returns once a task is in a state.
    async fn becomes(&self, run_ref: &str, id: &str, state: TaskState) -> TaskView {
        soon(&format!("{id} becomes {state:?}"), async {
            loop {
                let task = self.task(run_ref, id).await;
                if task.state == state {
                    return task;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    async fn run_becomes(&self, run_ref: &str, state: RunState) -> RunView {
        soon(&format!("the run becomes {state:?}"), async {
            loop {
                let run = self.bench.run(run_ref).await;
                if run.state == state {
                    return run;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

struct Hand {
    session: SessionId,
    words: mpsc::Receiver<Outbound>,
    engine: Handle,
}

impl Hand {
    async fn word(&mut self) -> Outbound {
        soon("a word to the agent", self.words.recv()).await.expect("the session goes on")
    }

    /// The next attempt, by the name of its task.
    async fn granted(&mut self) -> (String, AttemptKey) {
        loop {
            if let Outbound::Grant { attempt, view } = self.word().await {
                return (view.task_id.to_string(), attempt);
            }
        }
    }

    async fn end(&self, attempt: AttemptKey, outcome: Outcome, result: ResultRecord) {
        let report = Report {
            attempt,
            outcome,
            detail: Arc::from(""),
            usage: Usage::default(),
            digest: [7; 32],
            duration: Span(5),
            retry_after: None,
            payload: Arc::from(result.encode_to_vec()),
            pool: "".into(),
            limit: None,
        };
        let accepted = Event::AttemptAccepted { session: self.session, attempt };
        let reported = Event::AttemptReported { session: self.session, report: Box::new(report) };
        self.engine.apply_all(vec![accepted, reported]).await.unwrap();
    }

    /// Ends the next attempt, which must be that of `task`, with `ok` and a structured answer.
    async fn answer(&mut self, task: &str, structured: &str) -> AttemptKey {
        let (id, attempt) = self.granted().await;
        assert_eq!(id, task);
        let structured = crate::payloads::bulk::text(structured.to_owned());
        self.end(attempt, Outcome::OK, ResultRecord { structured, ..Default::default() }).await;
        attempt
    }
}

fn named(ids: &[&str]) -> CheckedRun {
    let mut run = noops(u32::try_from(ids.len()).unwrap());
    for (task, id) in run.tasks.iter_mut().zip(ids) {
        task.id = (*id).to_owned();
        task.retries = 0;
    }
    run
}

fn condition(task: &str, pointer: &str, test: v1::ConditionTest, value: &str) -> v1::Condition {
    v1::Condition { task_id: task.into(), pointer: pointer.into(), test: test.into(), value: value.into() }
}

fn conditional(task: &mut CheckedTask, conditions: Vec<v1::Condition>) {
    task.dependencies = vec![0];
    task.after = v1::After::End;
    task.conditions = conditions;
}

#[tokio::test]
async fn a_task_runs_when_its_conditions_hold_and_is_skipped_with_the_reason_when_not() {
    let stage = Stage::start().await;
    let mut agent = stage.agent().await;
    let mut run = named(&["first", "good", "bad", "blind", "late"]);
    let score = |test, value| condition("first", "/score", test, value);
    conditional(&mut run.tasks[1], vec![score(v1::ConditionTest::AtLeast, "7")]);
    conditional(&mut run.tasks[2], vec![score(v1::ConditionTest::Below, "7")]);
    conditional(&mut run.tasks[3], vec![condition("first", "/none", v1::ConditionTest::Equals, "1")]);
    conditional(
        &mut run.tasks[4],
        vec![condition("first", "state", v1::ConditionTest::Equals, "\"failed\"")],
    );
    let (run, _) = stage.bench.submit(run, "").await;
    agent.answer("first", "{\"score\": 8}").await;
    agent.answer("good", "{}").await;
    let bad = stage.becomes(&run.run_ref, "bad", TaskState::Skipped).await;
    assert_eq!(
        &*bad.detail,
        "its condition does not hold: `/score` in the answer of `first` is 8, not below 7"
    );
    let blind = stage.becomes(&run.run_ref, "blind", TaskState::Skipped).await;
    assert!(blind.detail.contains("`/none` in the answer of `first` is not there"), "{}", blind.detail);
    let late = stage.becomes(&run.run_ref, "late", TaskState::Skipped).await;
    assert!(late.detail.contains("\"succeeded\", not \"failed\""), "{}", late.detail);
    stage.run_becomes(&run.run_ref, RunState::Succeeded).await;
}

fn reviewed(repairs: u32) -> CheckedRun {
    let mut run = named(&["write", "write.review", "after"]);
    (run.tasks[0].reviewed, run.tasks[0].repairs) = (true, repairs);
    let review = &mut run.tasks[1];
    (review.role, review.of, review.dependencies) = (v1::TaskRole::Review, Some(0), vec![0]);
    run.tasks[2].dependencies = vec![0];
    run
}

const PASS: &str = r#"{"verdict": "pass", "reasons": []}"#;
const FAIL: &str = r#"{"verdict": "fail", "reasons": ["the sum is wrong", "no date"]}"#;

#[tokio::test]
async fn a_review_that_passes_lets_the_task_succeed() {
    let stage = Stage::start().await;
    let mut agent = stage.agent().await;
    let (run, _) = stage.bench.submit(reviewed(1), "").await;
    agent.answer("write", "{}").await;
    agent.answer("write.review", PASS).await;
    stage.becomes(&run.run_ref, "write", TaskState::Succeeded).await;
    assert_eq!(stage.reviews(run.id).await, [(true, "".to_owned())]);
    let target = target(&run.run_ref, Some("write"));
    let kept = stage.bench.handle.archive().task(TENANT, run.id, target.task.map(|id| id.to_string())).await;
    assert_eq!(kept.unwrap().unwrap().structured, "{}", "the result itself is kept");
    agent.answer("after", "{}").await;
    stage.run_becomes(&run.run_ref, RunState::Succeeded).await;
}

#[tokio::test]
async fn a_review_that_fails_sends_the_task_back_with_its_reasons_and_then_fails_it() {
    let stage = Stage::start().await;
    let mut agent = stage.agent().await;
    let (run, _) = stage.bench.submit(reviewed(1), "").await;
    let attempt = agent.answer("write", "{\"draft\": 1}").await;
    agent.answer("write.review", FAIL).await;
    let (id, again) = agent.granted().await;
    assert_eq!((id.as_str(), again.attempt.0), ("write", 2));
    let stored = stage.bench.handle.archive().task_record(TENANT, attempt.task).await.unwrap().unwrap();
    let result = stored.result.unwrap();
    let Some(v1::text::Body::Inline(told)) = result.feedback.unwrap().body else { panic!() };
    assert!(told.contains("- the sum is wrong\n- no date\n"), "{told}");
    assert!(result.structured.is_some(), "the result it is about is kept");
    assert_eq!(stage.reviews(run.id).await, [(false, "the sum is wrong\nno date".to_owned())]);
    agent.end(again, Outcome::OK, ResultRecord::default()).await;
    agent.answer("write.review", FAIL).await;
    let write = stage.becomes(&run.run_ref, "write", TaskState::Failed).await;
    assert_eq!(write.outcome, Some(Outcome::GATE_FAILED));
    assert!(write.detail.contains("the sum is wrong (1 more)"), "{}", write.detail);
    assert_eq!(
        stage.reviews(run.id).await,
        [(false, "the sum is wrong\nno date".to_owned())],
        "of the last attempt"
    );
    stage.run_becomes(&run.run_ref, RunState::Failed).await;
}

#[tokio::test]
async fn a_verdict_that_is_none_fails_the_task() {
    let stage = Stage::start().await;
    let mut agent = stage.agent().await;
    let (run, _) = stage.bench.submit(reviewed(1), "").await;
    agent.answer("write", "{}").await;
    agent.answer("write.review", "{\"verdict\": \"maybe\"}").await;
    let write = stage.becomes(&run.run_ref, "write", TaskState::Failed).await;
    assert!(write.detail.contains("the verdict of write.review cannot be read"), "{}", write.detail);
}

#[tokio::test]
async fn what_cannot_be_read_is_tried_again_later_and_holds_nothing_else_up() {
    let stage = Stage::start().await;
    let mut agent = stage.agent().await;
    let (stuck, _) = stage.bench.submit(reviewed(0), "").await;
    agent.answer("write", "{}").await;
    let (_, review) = agent.granted().await;
    let bytes = PASS.as_bytes();
    let digest = crate::blobs::Digest::of(bytes);
    let missing = v1::BlobRef {
        digest: digest.0.to_vec(),
        size: bytes.len() as u64,
        location: crate::blobs::BlobLocation::Blob(digest).to_string(),
    };
    let structured = crate::payloads::bulk::by_reference(missing);
    agent.end(review, Outcome::OK, ResultRecord { structured, ..Default::default() }).await;
    stage.becomes(&stuck.run_ref, "write.review", TaskState::Succeeded).await;
    let (other, _) = stage.bench.submit(reviewed(0), "").await;
    agent.answer("write", "{}").await;
    agent.answer("write.review", PASS).await;
    stage.becomes(&other.run_ref, "write", TaskState::Succeeded).await;
    assert_eq!(stage.task(&stuck.run_ref, "write").await.state, TaskState::Verifying);
    let blobs: &dyn Blobs = &*stage.bench.blobs.blobs;
    blobs.put(crate::store::Tenant::new(TENANT.0), bytes).unwrap();
    let (clock, run_ref) = (stage.bench.clock.clone(), stuck.run_ref.clone());
    soon("another look", async {
        while stage.task(&run_ref, "write").await.state != TaskState::Succeeded {
            clock.advance(Span(50));
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn planned(planning: CheckedPlanning) -> CheckedRun {
    let mut run = named(&["plan", "synthesis"]);
    (run.tasks[0].role, run.tasks[0].repairs) = (v1::TaskRole::Plan, 1);
    let synthesis = &mut run.tasks[1];
    (synthesis.role, synthesis.after, synthesis.dependencies) =
        (v1::TaskRole::Synthesis, v1::After::End, vec![0]);
    CheckedRun { planning: Some(planning), ..run }
}

fn wanted(change: impl FnOnce(&mut CheckedPlanning)) -> CheckedRun {
    let mut planning = CheckedPlanning {
        approve: false,
        plan_only: false,
        max_tasks: 20,
        workers: Vec::new(),
        workspace: "dance".into(),
    };
    change(&mut planning);
    planned(planning)
}

const PLAN: &str = r#"{"summary": "one look", "tasks": [
    {"id": "look", "worker": "anga", "description": "Look at it.", "dependencies": [],
     "publish": [{"artifact": "report.md", "to": "reports/{run}-{date}.md"}]}
]}"#;

#[tokio::test]
async fn the_tasks_of_a_plan_join_the_run_and_are_there_after_a_crash() {
    let stage = Stage::start().await;
    let mut agent = stage.agent().await;
    let (run, _) = stage.bench.submit(wanted(|_| {}), "").await;
    assert_eq!(run.state, RunState::Planning);
    agent.answer("plan", PLAN).await;
    let (id, look) = agent.granted().await;
    assert_eq!((id.as_str(), look.task.index), ("look", TaskIndex(2)));
    let Stage { bench, directors: _, stop } = stage;
    stop.cancel();
    let stage = Stage::on(bench.crash_and_restart(1).await);
    let (view, tasks) = stage.tasks(&run.run_ref).await;
    assert_eq!((view.state, tasks.len()), (RunState::Running, 4));
    let names = |task: &TaskView| task.dependencies.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&tasks[1]), ["plan", "look", "look.publish"], "the synthesis waits for all of them");
    assert_eq!((names(&tasks[3]), tasks[3].of.as_deref()), (vec!["look".to_owned()], Some("look")));
    let specs = stage.bench.handle.spec_reader();
    let publish = specs.resting_specs(TENANT, look.task.run, 4).await.unwrap().remove(3);
    let Some(record::stored_spec::Runner::Publish(publish)) = publish.runner else { panic!() };
    assert_eq!(publish.files[0].to, "reports/{run}-2023-11-14.md", "the day of the submit");
}

#[tokio::test]
async fn a_bad_plan_is_sent_back_once_with_what_is_wrong_and_then_fails_the_run() {
    let stage = Stage::start().await;
    let mut agent = stage.agent().await;
    let (run, _) = stage.bench.submit(wanted(|_| {}), "").await;
    let attempt = agent.answer("plan", &PLAN.replace("anga", "nobody")).await;
    let (id, again) = agent.granted().await;
    assert_eq!((id.as_str(), again.attempt.0), ("plan", 2));
    let stored = stage.bench.handle.archive().task_record(TENANT, attempt.task).await.unwrap().unwrap();
    let told = format!("{:?}", stored.result.unwrap().feedback);
    assert!(told.contains("nobody"), "{told}");
    let structured = crate::payloads::bulk::text("no plan".into());
    agent.end(again, Outcome::OK, ResultRecord { structured, ..Default::default() }).await;
    let plan = stage.becomes(&run.run_ref, "plan", TaskState::Failed).await;
    assert!(plan.detail.contains("not JSON"), "{}", plan.detail);
    stage.run_becomes(&run.run_ref, RunState::Failed).await;
}

#[tokio::test]
async fn a_plan_waits_for_a_person_or_is_all_that_was_wanted() {
    let stage = Stage::start().await;
    let mut agent = stage.agent().await;
    let (held, _) = stage.bench.submit(wanted(|planning| planning.approve = true), "").await;
    agent.answer("plan", PLAN).await;
    stage.run_becomes(&held.run_ref, RunState::WaitingApproval).await;
    let (only, _) = stage.bench.submit(wanted(|planning| planning.plan_only = true), "").await;
    agent.answer("plan", PLAN).await;
    stage.run_becomes(&only.run_ref, RunState::Succeeded).await;
    assert_eq!(stage.tasks(&only.run_ref).await.1.len(), 2);
}

#[tokio::test]
async fn questions_that_were_open_at_a_crash_are_answered_after_the_restart() {
    let bench = Bench::start().await;
    let mut stage = Stage { bench, directors: JoinSet::new(), stop: CancellationToken::new() };
    let mut agent = stage.agent().await;
    let (run, _) = stage.bench.submit(wanted(|_| {}), "").await;
    agent.answer("plan", PLAN).await;
    stage.becomes(&run.run_ref, "plan", TaskState::Verifying).await;
    stage = Stage::on(stage.bench.crash_and_restart(2).await);
    // Whether the plan can be run depends on the agents; this one was known before.
    let run = stage.run_becomes(&run.run_ref, RunState::Running).await;
    assert_eq!(run.task_count, 4);
}

#[tokio::test]
async fn a_director_ends_when_it_is_told_to() {
    let mut stage = Stage::start().await;
    stage.stop.cancel();
    soon("the end of the director", stage.directors.join_next()).await.unwrap().unwrap();
}
