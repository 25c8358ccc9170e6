//! Plans on a real engine with a director, as a client's requests reach them; the planner's answers are ours.

use super::*;
use crate::clock::Clock;
use crate::director::{Director, DirectorParts};
use crate::engine::Outbound;
use crate::engine::tests::support::{Agent, Bench, TENANT, soon};
use crate::prompts::Catalogue;
use crate::rpc::auth::DEFAULT_TENANT;
use crate::submission::{CheckedRun, ORCHESTRATOR};
use orch_certs::{Identity, Role};
use orch_core::event::{AgentHello, Event, Report};
use orch_core::ids::AttemptKey;
use orch_core::outcome::Outcome;
use orch_core::time::Span;
use orch_core::usage::Usage;
use orch_proto::store::v1::ResultRecord;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic_types::StatusExt as _;

struct Served {
    plans: Plans,
    lookup: Lookup,
    workers: Arc<WorkersInForce>,
    agent: Agent,
    bench: Bench,
    _director: JoinSet<()>,
}

async fn served() -> Served {
    let bench = Bench::start().await;
    let clock: Arc<dyn Clock> = Arc::new(bench.clock.clone());
    let workers = Arc::new(WorkersInForce::new(Catalogue::load(&[]).unwrap()));
    let director = Director::new(DirectorParts {
        engine: bench.handle.clone(),
        workers: Arc::clone(&workers),
        blobs: bench.blobs.blobs.clone(),
        clock: Arc::clone(&clock),
        stop: CancellationToken::new(),
    });
    let mut running = JoinSet::new();
    running.spawn(director.run());
    let lookup = Lookup::new(bench.handle.clone(), clock);
    let plans = Plans::new(bench.handle.clone(), lookup.clone(), Arc::clone(&workers));
    let agent = claude(&bench).await;
    Served { plans, lookup, workers, agent, bench, _director: running }
}

/// An agent that runs workers in a workspace.
async fn claude(bench: &Bench) -> Agent {
    let (outbound, words) = mpsc::channel(256);
    let session = bench.handle.open_session(outbound).await.unwrap();
    let offers = ["runner=claude", "runner=publish", "workspace=dance"];
    let hello = AgentHello {
        session,
        tenant: TENANT,
        name: Arc::from("box-1"),
        incarnation: [1; 16],
        keeps_allowances: true,
        slots: 1,
        capabilities: offers.map(Arc::from).into(),
        inventory: Vec::new(),
        conversations: Vec::new(),
        pools: Vec::new(),
    };
    bench.handle.apply(Event::AgentJoined(Box::new(hello))).await.unwrap();
    let mut agent = Agent::new(session, words, bench.handle.clone());
    agent.welcome().await;
    agent
}

fn ana() -> Caller {
    let identity = Identity::new("orch.test", Role::Client, "default", "ana").unwrap();
    Caller { identity, tenant: DEFAULT_TENANT }
}

fn code(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().metadata["code"].clone()
}

fn task(id: &str, worker: &str) -> Value {
    json!({"id": id, "worker": worker, "description": format!("Do {id}."), "dependencies": []})
}

fn plan(tasks: &[Value]) -> String {
    json!({"summary": "As asked.", "tasks": tasks}).to_string()
}

impl Served {
    async fn submit(&self, spec: v1::RunSpec) -> String {
        let catalogue = catalogue(&self.bench.handle, &self.workers, TENANT).await.unwrap();
        let conversations = BTreeMap::new();
        let given = Given {
            workers: &*self.workers,
            catalogue: &catalogue,
            submitted: self.bench.clock.wall(),
            conversations: &conversations,
        };
        let run = CheckedRun::check(spec, &given).unwrap();
        self.bench.submit(run, "").await.0.run_ref.to_string()
    }

    async fn request(&self, approve: bool) -> String {
        let request = v1::PlannedRequest { text: "Evaluate all.".into(), approve, ..Default::default() };
        let spec = v1::RunSpec { request: Some(request), workspace: "dance".into(), ..Default::default() };
        self.submit(spec).await
    }

    /// The planner answers.
    async fn planned(&mut self, plan: &str) {
        let attempt = loop {
            // What was said of the attempt before comes first.
            if let Outbound::Grant { attempt, .. } = self.agent.word().await {
                break attempt;
            }
        };
        self.answer(attempt, plan).await;
    }

    async fn answer(&self, attempt: AttemptKey, structured: &str) {
        let text = v1::Text { body: Some(v1::text::Body::Inline(structured.to_owned())) };
        let result = ResultRecord { structured: Some(text), num_turns: 1, ..Default::default() };
        let report = Report {
            attempt,
            outcome: Outcome::OK,
            detail: Arc::from(""),
            usage: Usage::default(),
            digest: [u8::try_from(attempt.attempt.0).unwrap(); 32],
            duration: Span(5),
            retry_after: None,
            payload: Arc::from(result.encode_to_vec()),
            pool: "".into(),
            limit: None,
        };
        let session = self.agent.session;
        let accepted = Event::AttemptAccepted { session, attempt };
        let reported = Event::AttemptReported { session, report: Box::new(report) };
        self.bench.handle.apply_all(vec![accepted, reported]).await.unwrap();
    }

    async fn reaches(&self, run: &str, state: v1::RunState) -> v1::Run {
        let target = parse_ref(run, &ana()).unwrap();
        soon("a state of the run", async {
            loop {
                let run = self.lookup.run(&target).await.unwrap();
                if run.state() == state {
                    return run;
                }
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await
    }

    async fn shown(&self, run: &str) -> v1::GetPlanResponse {
        self.plans.show(&ana(), v1::GetPlanRequest { r#ref: run.to_owned() }).await.unwrap()
    }

    async fn decide(
        &self,
        run: &str,
        decision: v1::PlanDecision,
        plan: &str,
    ) -> Result<v1::DecidePlanResponse, Status> {
        self.decide_once(run, decision, plan, "").await
    }

    async fn decide_once(
        &self,
        run: &str,
        decision: v1::PlanDecision,
        plan: &str,
        request_id: &str,
    ) -> Result<v1::DecidePlanResponse, Status> {
        let request = v1::DecidePlanRequest {
            r#ref: run.to_owned(),
            decision: decision.into(),
            plan: plan.to_owned(),
            reason: "too\u{1b} many".to_owned(),
            request_id: request_id.to_owned(),
        };
        self.plans.decide(&ana(), request).await
    }

    async fn ids(&self, run: &str) -> Vec<String> {
        let target = parse_ref(run, &ana()).unwrap();
        let page = self.lookup.tasks(&target, TaskIndex(0), 100, &[], false).await.unwrap();
        page.tasks.into_iter().map(|task| task.task_id).collect()
    }
}

#[tokio::test]
async fn a_plan_waits_is_shown_and_runs_when_it_is_approved() {
    let mut served = served().await;
    let run = served.request(true).await;
    let before = served.shown(&run).await;
    assert_eq!((before.plan.as_str(), before.problems.len(), before.tasks.len()), ("", 0, 0));
    let text = plan(&[task("emma", "marie"), task("lucas", "marie")]);
    served.planned(&text).await;
    served.reaches(&run, v1::RunState::WaitingApproval).await;
    let shown = served.shown(&run).await;
    assert_eq!(shown.plan, text);
    assert_eq!(shown.problems, Vec::<String>::new());
    let ids: Vec<&str> = shown.tasks.iter().map(|task| task.task_id.as_str()).collect();
    assert_eq!(ids, ["emma", "lucas"]);
    assert_eq!(served.ids(&run).await, ["plan", "synthesis"], "nothing is added before");

    let decided = served.decide(&run, v1::PlanDecision::Approve, "").await.unwrap();
    assert_eq!(decided.problems, Vec::<String>::new());
    assert_eq!(decided.run.unwrap().state(), v1::RunState::Running);
    assert_eq!(served.ids(&run).await, ["plan", "synthesis", "emma", "lucas"]);
    let target = parse_ref(&format!("{run}/synthesis"), &ana()).unwrap();
    let synthesis = served.lookup.task(&target).await.unwrap();
    assert_eq!(synthesis.dependencies, ["plan", "emma", "lucas"]);
    assert_eq!(synthesis.worker, ORCHESTRATOR);
    let shown = served.shown(&run).await;
    assert_eq!((shown.plan, shown.tasks.len()), (text, 2), "also once its tasks run");
    let again = served.decide(&run, v1::PlanDecision::Approve, "").await.unwrap_err();
    assert_eq!(code(&again), ErrorCode::WrongState.code());
    assert!(again.message().contains("is running: it does not wait for a plan"), "{}", again.message());
}

#[tokio::test]
async fn an_edited_plan_takes_the_place_of_the_proposed_one_unless_something_is_wrong_with_it() {
    let mut served = served().await;
    let run = served.request(true).await;
    served.planned(&plan(&[task("emma", "marie")])).await;
    served.reaches(&run, v1::RunState::WaitingApproval).await;
    for (edited, wanted) in [
        ("no json", "line 1, column 2: not JSON: expected ident"),
        (
            "{\"summary\": \"x\",\n  \"tasks\": [], \"budget\": 3}",
            "line 2, column 23: unknown field `budget`, expected one of `summary`, `tasks`, `missing`",
        ),
        (
            "{\"summary\": \"x\",\n  \"tasks\": \"none\"}",
            "line 2, column 17: invalid type: string \"none\", expected a sequence",
        ),
        (
            &plan(&[task("emma", "maria")]),
            "task emma names worker `maria`, which is none of the workers of this request; did you mean `marie`?; they are: \
             anga, fabien, marie",
        ),
    ] {
        let decided = served.decide(&run, v1::PlanDecision::Approve, edited).await.unwrap();
        assert_eq!(decided.problems, [wanted]);
        assert_eq!(decided.run.unwrap().state(), v1::RunState::WaitingApproval, "nothing was changed");
    }
    let better = plan(&[task("sophia", "marie"), task("check", "anga")]);
    let decided = served.decide(&run, v1::PlanDecision::Approve, &better).await.unwrap();
    assert_eq!(decided.problems, Vec::<String>::new());
    assert_eq!(served.ids(&run).await, ["plan", "synthesis", "sophia", "check"]);
}

#[tokio::test]
async fn a_repeated_decision_is_answered_as_the_first_was_and_decides_nothing() {
    let mut served = served().await;
    let run = served.request(true).await;
    served.planned(&plan(&[task("emma", "marie")])).await;
    served.reaches(&run, v1::RunState::WaitingApproval).await;
    let approve = v1::PlanDecision::Approve;
    let bad = plan(&[task("emma", "maria")]);
    let problems = served.decide_once(&run, approve, &bad, "d-1").await.unwrap().problems;
    assert_eq!(problems.len(), 1, "what changed nothing is not remembered");
    let both = tokio::join!(
        served.decide_once(&run, approve, "", "d-1"),
        served.decide_once(&run, approve, "", "d-1")
    );
    for decided in [both.0, both.1, served.decide_once(&run, approve, "", "d-1").await] {
        let decided = decided.unwrap();
        assert_eq!((decided.problems.len(), decided.run.unwrap().task_count), (0, 3));
    }
    assert_eq!(served.ids(&run).await, ["plan", "synthesis", "emma"]);
    let other = served.decide_once(&run, v1::PlanDecision::Reject, "", "d-1").await.unwrap_err();
    assert_eq!(code(&other), ErrorCode::RequestIdConflict.code());
    let fresh = served.decide_once(&run, approve, "", "d-2").await.unwrap_err();
    assert_eq!(code(&fresh), ErrorCode::WrongState.code());
}

#[tokio::test]
async fn a_rejected_plan_cancels_the_run_and_says_why() {
    let mut served = served().await;
    let run = served.request(true).await;
    served.planned(&plan(&[task("emma", "marie")])).await;
    served.reaches(&run, v1::RunState::WaitingApproval).await;
    let both = served.decide(&run, v1::PlanDecision::Reject, "{}").await.unwrap_err();
    assert_eq!(code(&both), ErrorCode::InvalidField.code());
    let decided = served.decide(&run, v1::PlanDecision::Reject, "").await.unwrap().run.unwrap();
    assert_eq!(decided.state(), v1::RunState::Cancelled);
    assert_eq!(decided.detail, "the plan was rejected: too  many");
    let again = served.decide(&run, v1::PlanDecision::Reject, "").await.unwrap_err();
    assert_eq!(code(&again), ErrorCode::WrongState.code());
}

#[tokio::test]
async fn a_plan_that_stays_bad_fails_the_run_and_is_shown_with_its_errors_also_from_the_store() {
    let mut served = served().await;
    let run = served.request(false).await;
    served.planned(&plan(&[task("emma", "maria")])).await;
    let text = plan(&[task("emma", "marie"), task("emma", "anga")]);
    served.planned(&text).await;
    served.reaches(&run, v1::RunState::Failed).await;
    let target = parse_ref(&format!("{run}/plan"), &ana()).unwrap();
    let failed = served.lookup.task(&target).await.unwrap();
    assert_eq!((failed.outcome(), failed.attempt), (v1::Outcome::SchemaInvalid, 2));
    assert!(failed.detail.contains("2 tasks have the id `emma`"), "{}", failed.detail);
    let shown = served.shown(&run).await;
    assert_eq!(shown.plan, text);
    assert_eq!(shown.problems, ["2 tasks have the id `emma`: give each its own"]);
    assert!(shown.tasks.is_empty());
    // Long enough for the run to leave the state.
    served.bench.clock.advance(Span::minutes(11));
    soon("the run to leave the state", async {
        while served.lookup.resolve(&parse_ref(&run, &ana()).unwrap()).await.unwrap().1 {
            served.agent.heartbeat(1).await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    let stored = served.shown(&run).await;
    assert_eq!((stored.plan, stored.problems), (shown.plan, shown.problems));
    let late = served.decide(&run, v1::PlanDecision::Approve, "").await.unwrap_err();
    assert_eq!(code(&late), ErrorCode::WrongState.code());
}

#[tokio::test]
async fn runs_that_are_not_there_or_not_planned_and_requests_that_say_nothing_are_refused_by_type() {
    let served = served().await;
    let missing = served.plans.show(&ana(), v1::GetPlanRequest { r#ref: "adhoc/7".into() }).await;
    assert_eq!(code(&missing.unwrap_err()), ErrorCode::NotFound.code());
    let missing = served.decide("adhoc/7", v1::PlanDecision::Approve, "").await;
    assert_eq!(code(&missing.unwrap_err()), ErrorCode::NotFound.code());
    let noop = v1::TaskSpec {
        task_id: "a".into(),
        runner: Some(v1::task_spec::Runner::Noop(v1::NoopTask {})),
        ..v1::TaskSpec::default()
    };
    let plain = served.submit(v1::RunSpec { tasks: vec![noop], ..Default::default() }).await;
    let refused = served.plans.show(&ana(), v1::GetPlanRequest { r#ref: plain.clone() }).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::WrongState.code());
    assert!(refused.message().ends_with("was not submitted as a request: it has no plan"));
    let task = served.plans.show(&ana(), v1::GetPlanRequest { r#ref: format!("{plain}/a") }).await;
    assert_eq!(code(&task.unwrap_err()), ErrorCode::InvalidRef.code());
    let nothing = served.decide(&plain, v1::PlanDecision::Unspecified, "").await.unwrap_err();
    assert_eq!(code(&nothing), ErrorCode::InvalidField.code());
    let long = served.decide(&plain, v1::PlanDecision::Approve, &"x".repeat(MAX_PLAN_BYTES + 1)).await;
    assert_eq!(code(&long.unwrap_err()), ErrorCode::TooLarge.code());
}

#[test]
fn an_answer_that_would_not_fit_a_message_leaves_out_what_is_said_twice() {
    let worker = |words: usize| v1::WorkerTask { description: "x".repeat(words), ..Default::default() };
    let spec = |words| v1::TaskSpec {
        runner: Some(v1::task_spec::Runner::Worker(worker(words))),
        ..Default::default()
    };
    let answer = |bytes: usize, words: usize| v1::GetPlanResponse {
        plan: "x".repeat(bytes),
        tasks: vec![spec(words)],
        ..Default::default()
    };
    assert_eq!(fitting(answer(10, 10)), answer(10, 10));
    assert_eq!(fitting(answer(600 << 10, 600 << 10)), answer(600 << 10, 0));
    let cut = fitting(answer(1 << 20, 10));
    assert_eq!((cut.plan.as_str(), cut.problems.len()), ("", 1));
}
