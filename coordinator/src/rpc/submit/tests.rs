//! Submits on a whole engine: conversations that go on, workflows, repetitions.

use super::*;
use crate::blobs::Blobs;
use crate::engine::Outbound;
use crate::engine::tests::support::{Bench, TENANT, soon};
use crate::prompts::Catalogue as Prompts;
use orch_certs::{Identity, Role};
use orch_core::event::{AgentHello, Event, Report};
use orch_core::ids::{AttemptKey, SessionId, TaskKey};
use orch_core::outcome::Outcome;
use orch_core::usage::Usage;
use orch_proto::store::v1::{ResultRecord, StoredWorkerTask, stored_spec};
use tokio::sync::mpsc;

struct Desk {
    bench: Bench,
    submitter: Submitter,
    workers: Arc<WorkersInForce>,
    session: SessionId,
    words: mpsc::Receiver<Outbound>,
}

fn caller() -> Caller {
    let identity = Identity::new("orch.local", Role::Client, "default", "ana").unwrap();
    Caller { identity, tenant: TENANT }
}

impl Desk {
    async fn open() -> Self {
        let bench = Bench::start().await;
        let workers = Arc::new(WorkersInForce::new(Prompts::load(&[]).unwrap()));
        let clock: Arc<dyn Clock> = Arc::new(bench.clock.clone());
        let blobs: Arc<dyn Blobs> = bench.blobs.blobs.clone();
        let submitter = Submitter::new(SubmitParts {
            engine: bench.handle.clone(),
            workers: Arc::clone(&workers),
            lookup: Lookup::new(bench.handle.clone(), Arc::clone(&clock)),
            blobs,
            clock,
        });
        let (outbound, words) = mpsc::channel(256);
        let session = bench.handle.open_session(outbound).await.unwrap();
        let hello = AgentHello {
            session,
            tenant: TENANT,
            name: Arc::from("north"),
            incarnation: [1; 16],
            keeps_allowances: true,
            slots: 64,
            capabilities: ["os=linux", "runner=claude", "runner=noop"].map(Arc::from).into(),
            inventory: Vec::new(),
            conversations: Vec::new(),
            pools: Vec::new(),
        };
        bench.handle.apply(Event::AgentJoined(Box::new(hello))).await.unwrap();
        Self { bench, submitter, workers, session, words }
    }

    async fn submit(&self, spec: v1::RunSpec, request_id: &str) -> Result<SubmitRunResponse, Status> {
        let request =
            SubmitRunRequest { spec: Some(spec), request_id: request_id.into(), validate_only: false };
        soon("the answer to a submit", self.submitter.submit(&caller(), request)).await
    }

    async fn submitted(&self, spec: v1::RunSpec) -> v1::Run {
        self.submit(spec, "").await.unwrap().run.unwrap()
    }

    async fn refused(&self, spec: v1::RunSpec) -> (String, String) {
        let status = self.submit(spec, "").await.unwrap_err();
        let details = tonic_types::StatusExt::get_error_details(&status);
        (details.error_info().unwrap().reason.clone(), status.message().to_owned())
    }

    async fn granted(&mut self) -> AttemptKey {
        loop {
            let word = soon("a word to the agent", self.words.recv()).await.unwrap();
            if let Outbound::Grant { attempt, .. } = word {
                return attempt;
            }
        }
    }

    /// Ends the next attempt, in the CLI's session `session`.
    async fn finish(&mut self, session: &str) -> TaskKey {
        let attempt = self.granted().await;
        let result = ResultRecord { session_id: session.into(), ..Default::default() };
        let report = Report {
            attempt,
            outcome: Outcome::OK,
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
        self.bench.handle.apply_all(vec![accepted, reported]).await.unwrap();
        self.bench.status().await;
        attempt.task
    }

    async fn stored(&self, task: TaskKey) -> StoredWorkerTask {
        let spec = self.bench.handle.spec_reader().dispatch_spec(TENANT, task).await.unwrap();
        match spec.runner.clone() {
            Some(stored_spec::Runner::Worker(task)) => task,
            other => panic!("{other:?}"),
        }
    }
}

fn spec(worker: v1::WorkerTask) -> v1::RunSpec {
    let runner = Some(v1::task_spec::Runner::Worker(worker));
    v1::RunSpec { tasks: vec![v1::TaskSpec { runner, ..Default::default() }], ..Default::default() }
}

fn asking(description: &str) -> v1::RunSpec {
    let worker =
        v1::WorkerTask { worker: "anga".into(), description: description.into(), ..Default::default() };
    v1::RunSpec {
        context_files: vec![v1::ContextFile { name: "terms.md".into(), text: "be brief".into() }],
        ..spec(worker)
    }
}

fn after(reference: &str) -> v1::RunSpec {
    spec(v1::WorkerTask {
        description: "now also the rest".into(),
        after_ref: reference.into(),
        ..Default::default()
    })
}

#[tokio::test]
async fn a_conversation_goes_on_as_it_was_begun_whatever_changed_since() {
    let mut desk = Desk::open().await;
    let first = desk.submitted(asking("review it")).await;
    let root = desk.finish("session-1").await;
    let begun = desk.stored(root).await;
    let changed = Prompts::load(&[]).unwrap().with_layer([(
        "workers/ANGA.md",
        "---\nname: anga\ndescription: another\nmodel: haiku\ntools: [Read]\n---\nYou are another.\n",
    )]);
    desk.workers.replace(changed.unwrap());
    let second = desk.submitted(after(&first.r#ref)).await;
    let more = desk.finish("session-1").await;
    let continued = desk.stored(more).await;
    assert_eq!((&continued.worker, &continued.model), (&begun.worker, &begun.model));
    assert_eq!((&continued.definition, &continued.context_files), (&begun.definition, &begun.context_files));
    assert!(continued.context_files.is_some());
    assert_eq!(continued.prompt, crate::payloads::bulk::text("now also the rest".into()));
    let id = |task: TaskKey| v1::TaskId { run_id: task.run.0, task_index: task.index.0 };
    assert_eq!((continued.conversation, continued.session_id.as_str()), (Some(id(root)), "session-1"));
    let third = desk.submitted(after(&format!("{}/task", second.r#ref))).await;
    assert_ne!(third.r#ref, second.r#ref);
    let last = desk.finish("session-1").await;
    assert_eq!(desk.stored(last).await.conversation, Some(id(root)), "the root of the conversation stays");
    let spec = desk.bench.handle.spec_reader().dispatch_spec(TENANT, last).await.unwrap();
    assert_eq!(spec.agent, "north");
}

#[tokio::test]
async fn what_is_no_conversation_is_not_continued_and_the_refusal_says_why() {
    let mut desk = Desk::open().await;
    let code = |refused: (String, String)| (refused.0, refused.1.replace("tasks[0].worker.after_ref: ", ""));
    let refused = code(desk.refused(after("adhoc/9")).await);
    assert_eq!(refused, ("NOT_FOUND".into(), "there is no run adhoc/9".into()));
    assert_eq!(code(desk.refused(after("../x")).await).0, "INVALID_REF");
    let run = desk.submitted(asking("review it")).await;
    let refused = code(desk.refused(after(&run.r#ref)).await);
    assert_eq!(refused.0, "NOT_CONTINUABLE");
    assert!(refused.1.contains("has not ended yet"), "{refused:?}");
    desk.finish("").await;
    let refused = code(desk.refused(after(&run.r#ref)).await);
    assert!(refused.1.contains("before the CLI had begun a session"), "{refused:?}");
    let noop =
        v1::TaskSpec { runner: Some(v1::task_spec::Runner::Noop(v1::NoopTask {})), ..Default::default() };
    let run = desk.submitted(v1::RunSpec { tasks: vec![noop], ..Default::default() }).await;
    desk.finish("").await;
    let refused = code(desk.refused(after(&run.r#ref)).await);
    assert!(refused.1.contains("was no conversation: its runner is noop"), "{refused:?}");
}

#[tokio::test]
async fn a_repeated_submit_is_answered_as_before_also_when_it_would_be_refused_now() {
    let mut desk = Desk::open().await;
    desk.submitted(asking("review it")).await;
    desk.finish("session-1").await;
    let first = desk.submit(after("@last"), "key-1").await.unwrap();
    assert!(!first.existing);
    // By now `@last` is the follow-up itself, which has not ended.
    let again = desk.submit(after("@last"), "key-1").await.unwrap();
    assert!(again.existing);
    assert_eq!(again.run.unwrap().r#ref, first.run.unwrap().r#ref);
    let other = desk.submit(after("@last"), "key-2").await.unwrap_err();
    assert_eq!(other.code(), tonic::Code::FailedPrecondition, "nobody made that one before");
    let runs = desk.bench.status().await.last_run;
    assert_eq!(runs.0, 2, "asking whether a request is known makes no run");
}

#[tokio::test]
async fn a_workflow_is_compiled_and_its_caller_adds_what_it_leaves_open() {
    let desk = Desk::open().await;
    let call = |definition: &str| v1::RunSpec {
        workflow: Some(v1::WorkflowCall {
            definition: definition.into(),
            source: "mine.json".into(),
            ..Default::default()
        }),
        labels: BTreeMap::from([("team".to_owned(), "dance".to_owned())]),
        max_parallel: 2,
        ..Default::default()
    };
    let definition = r#"{"name": "mine", "tasks": [{"id": "a", "worker": "anga", "description": "Look."}]}"#;
    let run = desk.submitted(call(definition)).await;
    assert_eq!((run.r#ref.as_str(), run.workflow.as_str(), run.max_parallel), ("mine/1", "mine", 2));
    assert_eq!(run.labels["team"], "dance");
    let (reason, message) = desk.refused(call("{\n  \"name\": 3\n")).await;
    assert!(message.contains("mine.json:"), "{reason}: {message}");
    let named = v1::WorkflowCall { name: "nothing-of-the-kind".into(), ..Default::default() };
    let (reason, _) = desk.refused(v1::RunSpec { workflow: Some(named), ..Default::default() }).await;
    assert_eq!(reason, "NOT_FOUND");
    let both = v1::RunSpec { tasks: asking("x").tasks, ..call(definition) };
    assert_eq!(desk.refused(both).await.0, "INVALID_FIELD");
    assert_eq!(desk.bench.status().await.last_run.0, 1, "nothing half-submitted remains");
}

#[tokio::test]
async fn a_request_is_planned_with_what_agents_offer() {
    let mut desk = Desk::open().await;
    let request = v1::PlannedRequest { text: "Evaluate all students.".into(), ..Default::default() };
    let run = desk.submitted(v1::RunSpec { request: Some(request), ..Default::default() }).await;
    assert_eq!((run.task_count, run.planned, run.state()), (2, true, v1::RunState::Planning));
    let plan = desk.granted().await.task;
    let plan = desk.stored(plan).await;
    assert_eq!(plan.worker, "orchestrator");
    let text = format!("{:?}", plan.prompt);
    assert!(text.contains("Evaluate all students.") && text.contains("- os: linux"), "{text}");
}
