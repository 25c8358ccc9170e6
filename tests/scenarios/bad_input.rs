//! Everything a stranger might send: each gets a typed, clear answer, nothing panics, nothing half-done remains.

use orch_certs::{Ca, ClientTls, Identity, LeafRequest, Role, TlsFiles, dial::Connector};
use orch_proto::codes::{CODE_KEY, ErrorCode};
use orch_proto::v1::agent_service_client::AgentServiceClient;
use orch_proto::v1::run_service_client::RunServiceClient;
use orch_proto::v1::{self, agent_item::Item};
use orch_tests::client::{after, channel, noop, run, worker};
use orch_tests::fleet::{DOMAIN, Fleet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tonic::Status;
use tonic::transport::Endpoint;
use tonic_types::StatusExt as _;

fn code(status: &Status) -> Option<ErrorCode> {
    ErrorCode::from_code(status.get_error_details().error_info()?.metadata.get(CODE_KEY)?)
}

async fn refused(fleet: &Fleet, spec: v1::RunSpec, expected: ErrorCode) {
    let mut client = fleet.client().await;
    let request = v1::SubmitRunRequest { spec: Some(spec), ..Default::default() };
    let status = client.runs.submit_run(request).await.expect_err("the submit must be refused");
    assert_eq!(code(&status), Some(expected), "{status:?}");
    assert!(!status.message().contains('\u{1b}'), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn specs_that_break_a_rule_are_refused_whole() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let circle = run(vec![after(noop("a"), &["b"]), after(noop("b"), &["a"])]);
    refused(&fleet, circle, ErrorCode::DependencyCycle).await;
    refused(&fleet, run(vec![worker("a", "nobody", "x")]), ErrorCode::UnknownWorker).await;
    refused(&fleet, run(vec![noop("a"), noop("a")]), ErrorCode::DuplicateTaskId).await;
    refused(&fleet, run(vec![after(noop("a"), &["b"])]), ErrorCode::UnknownDependency).await;
    refused(&fleet, run(vec![worker("a", "anga", "")]), ErrorCode::EmptyPrompt).await;
    refused(&fleet, run(vec![]), ErrorCode::TooManyTasks).await;
    for name in ["../up", "a\0b", "\u{1b}[31m", "-rf"] {
        refused(&fleet, run(vec![noop(name), noop("b")]), ErrorCode::InvalidName).await;
        let named = v1::RunSpec { name: name.into(), tasks: vec![noop("a")], ..Default::default() };
        refused(&fleet, named, ErrorCode::InvalidName).await;
    }
    let mut unknown = noop("a");
    unknown.on_loss = 99;
    refused(&fleet, run(vec![unknown]), ErrorCode::InvalidField).await;
    let mut client = fleet.client().await;
    let request = v1::SubmitRunRequest {
        spec: Some(run(vec![noop("a")])),
        request_id: "a\nb".into(),
        validate_only: false,
    };
    let status = client.runs.submit_run(request).await.expect_err("a request id with a line feed");
    assert_eq!(code(&status), Some(ErrorCode::InvalidRequestId));
    let list = v1::ListRunsRequest::default();
    assert!(
        client.runs.list_runs(list).await.expect("a list").into_inner().runs.is_empty(),
        "nothing remains"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    let get = |run_ref: &str| v1::GetRunRequest { r#ref: run_ref.into() };
    let status = client.runs.get_run(get("adhoc")).await.expect_err("no number");
    assert_eq!(code(&status), Some(ErrorCode::InvalidRef));
    let status = client.runs.get_run(get("adhoc/7")).await.expect_err("no such run");
    assert_eq!(code(&status), Some(ErrorCode::NotFound));
    let status = client.runs.get_run(get("@last")).await.expect_err("nothing submitted yet");
    assert_eq!(code(&status), Some(ErrorCode::NotFound));
    let list = v1::ListRunsRequest { page_size: -1, ..Default::default() };
    let status = client.runs.list_runs(list).await.expect_err("a negative page");
    assert_eq!(code(&status), Some(ErrorCode::InvalidField));
    let list = v1::ListRunsRequest { page_token: "nonsense".into(), ..Default::default() };
    let status = client.runs.list_runs(list).await.expect_err("a made-up token");
    assert_eq!(code(&status), Some(ErrorCode::InvalidPageToken));
    let list = v1::ListRunsRequest { states: vec![99], ..Default::default() };
    let status = client.runs.list_runs(list).await.expect_err("an unknown state");
    assert_eq!(code(&status), Some(ErrorCode::InvalidField));
    let big = run(vec![worker("a", "anga", &"x".repeat(3 << 20))]);
    let request = v1::SubmitRunRequest { spec: Some(big), ..Default::default() };
    let status = client.runs.submit_run(request).await.expect_err("over the message limit");
    assert_eq!(code(&status), Some(ErrorCode::TooLarge), "{status:?}");
    client.submit(run(vec![noop("still-alive")])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_of_nine_megabytes_is_refused_and_one_of_seven_is_taken() {
    use sha2::Digest as _;
    let fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    for (megabytes, taken) in [(9, false), (7, true)] {
        let spec = run(vec![worker("a", "anga", &"x".repeat(megabytes << 20))]);
        let bytes = prost::Message::encode_to_vec(&spec);
        let begin = v1::BeginSubmissionRequest {
            request_id: format!("big-{megabytes}"),
            size: bytes.len() as u64,
            digest: sha2::Sha256::digest(&bytes).to_vec(),
            validate_only: false,
        };
        let upload_id = client.runs.begin_submission(begin).await.expect("begun").into_inner().upload_id;
        for (at, chunk) in bytes.chunks(512 << 10).enumerate() {
            let offset = (at * (512 << 10)) as u64;
            let append =
                v1::AppendSubmissionRequest { upload_id: upload_id.clone(), offset, data: chunk.to_vec() };
            client.runs.append_submission(append).await.expect("appended");
        }
        let sealed = client.runs.seal_submission(v1::SealSubmissionRequest { upload_id }).await;
        match sealed {
            Ok(answer) => {
                assert!(taken && answer.into_inner().submitted.expect("an answer").run.is_some());
            }
            Err(status) => {
                assert!(!taken, "{status:?}");
                assert_eq!(code(&status), Some(ErrorCode::TooLarge));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_that_look_like_commands_reach_the_model_as_they_are() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let tricks = ["/help me", "@/etc/passwd", "-p --version", "\u{1b}[2J"];
    for trick in tricks {
        let submitted = client.submit(run(vec![worker("a", "anga", trick)])).await;
        let finished = client.finished(&submitted.r#ref).await;
        assert_eq!(finished.state(), v1::RunState::Succeeded, "{trick:?}");
        let answer = orch_tests::client::answer(&client.tasks(&submitted.r#ref).await[0]).to_owned();
        assert!(!answer.contains("root:"), "{answer}");
    }
}

fn leaf(dir: &std::path::Path, ca: &Ca, role: Role, name: &str, issued: SystemTime) -> TlsFiles {
    let identity = Identity::new(ca.domain(), role, "default", name).expect("identity");
    let mut request = LeafRequest::new(identity);
    request.valid = Duration::from_secs(3_600);
    ca.issue(&request, issued).expect("issued").write(&dir.join(name)).expect("written")
}

async fn submit_status(address: &str, files: &TlsFiles, now: SystemTime) -> Status {
    let tls = ClientTls::load(files.clone(), now).expect("the client itself does not mind");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("address");
    let mut runs = RunServiceClient::new(endpoint.connect_with_connector_lazy(Connector::new(Arc::new(tls))));
    runs.list_runs(v1::ListRunsRequest::default()).await.expect_err("a stranger must be refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_before_any_handler_runs() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let address = fleet.ports().grpc.clone();
    let now = SystemTime::now();
    let ours = Ca::open(&fleet.dir().join("ca")).expect("authority");
    let (theirs, _) = Ca::ensure(&fleet.dir().join("other-ca"), DOMAIN, now).expect("authority");
    let dir = fleet.dir().join("strangers");

    let mut wrong_ca = leaf(&dir, &theirs, Role::Admin, "mallory", now);
    wrong_ca.ca = fleet.certificate(Role::Client, "ana").ca;
    submit_status(&address, &wrong_ca, now).await;

    let long_ago = now - Duration::from_secs(7_200);
    let expired = leaf(&dir, &ours, Role::Client, "old", long_ago);
    submit_status(&address, &expired, long_ago).await;

    let agent = fleet.certificate(Role::Agent, "box-9");
    let status = submit_status(&address, &agent, now).await;
    assert_eq!(code(&status), Some(ErrorCode::RoleNotAllowed), "{status:?}");

    let plain = Endpoint::from_shared(format!("http://{address}")).expect("address").connect_lazy();
    RunServiceClient::new(plain).list_runs(v1::ListRunsRequest::default()).await.expect_err("no TLS at all");
    fleet.client().await.submit(run(vec![noop("still-alive")])).await;
}

async fn session_ends_with(fleet: &Fleet, items: Vec<v1::AgentItem>) -> Status {
    let mut agents =
        AgentServiceClient::new(channel(&fleet.ports().grpc, &fleet.certificate(Role::Agent, "box-9")));
    let frames = tokio_stream::iter(items.into_iter().map(|item| v1::AgentMessage { items: vec![item] }));
    let never = tokio_stream::pending::<v1::AgentMessage>();
    let stream = tokio_stream::StreamExt::chain(frames, never);
    match agents.session(stream).await {
        Err(status) => status,
        Ok(answer) => {
            let mut answers = answer.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("ended"),
                    Err(status) => return status,
                }
            }
        }
    }
}

fn item(item: Item) -> v1::AgentItem {
    v1::AgentItem { item: Some(item) }
}

fn hello(agent: &str) -> v1::Hello {
    v1::Hello {
        protocol_min: 1,
        protocol_max: 1,
        agent: agent.into(),
        incarnation: vec![9; 16],
        slots: 1,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_break_the_protocol_end_with_the_reason() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let first = item(Item::Heartbeat(v1::Heartbeat::default()));
    let status = session_ends_with(&fleet, vec![first]).await;
    assert_eq!(code(&status), Some(ErrorCode::ProtocolViolation), "{status:?}");

    let status = session_ends_with(&fleet, vec![item(Item::Hello(hello("box-8")))]).await;
    assert_eq!(code(&status), Some(ErrorCode::AgentNameMismatch), "{status:?}");

    let future = v1::Hello { protocol_min: 1_000, protocol_max: 1_001, ..hello("box-9") };
    let status = session_ends_with(&fleet, vec![item(Item::Hello(future))]).await;
    assert_eq!(code(&status), Some(ErrorCode::ProtocolMismatch), "{status:?}");

    let twice = vec![item(Item::Hello(hello("box-9"))), item(Item::Hello(hello("box-9")))];
    let status = session_ends_with(&fleet, twice).await;
    assert_eq!(code(&status), Some(ErrorCode::ProtocolViolation), "a second Hello: {status:?}");

    let nothing = v1::Report::default();
    let damaged = vec![item(Item::Hello(hello("box-9"))), item(Item::Report(nothing))];
    let status = session_ends_with(&fleet, damaged).await;
    assert_eq!(code(&status), Some(ErrorCode::ProtocolViolation), "a report of nothing: {status:?}");
    fleet.client().await.submit(run(vec![noop("still-alive")])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_cannot_report_what_is_not_its_own() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let submitted = client
        .submit(run(vec![worker("t", "anga", "[[sleep {\"ms\":2000}]] [[text {\"text\":\"mine\"}]]")]))
        .await;
    let task = client.task_in(&format!("{}/t", submitted.r#ref), v1::TaskState::Running).await;
    let lie = v1::Report {
        attempt: Some(v1::AttemptId {
            run_id: submitted.run_id,
            task_index: task.index,
            attempt: task.attempt,
        }),
        outcome: v1::Outcome::Ok.into(),
        digest: vec![1; 32],
        answer: Some(v1::Text { body: Some(v1::text::Body::Inline("a lie".into())) }),
        ..Default::default()
    };
    let files = fleet.certificate(Role::Agent, "box-9");
    let mut agents = AgentServiceClient::new(channel(&fleet.ports().grpc, &files));
    let items = vec![item(Item::Hello(hello("box-9"))), item(Item::Report(lie))];
    let frames = tokio_stream::iter(items.into_iter().map(|item| v1::AgentMessage { items: vec![item] }));
    let stream = tokio_stream::StreamExt::chain(frames, tokio_stream::pending());
    let mut answers = agents.session(stream).await.expect("a session").into_inner();
    let verdict = loop {
        let frame = answers.message().await.expect("a frame").expect("the session goes on");
        let verdict = frame.items.into_iter().find_map(|item| match item.item {
            Some(v1::coordinator_item::Item::ReportVerdict(verdict)) => Some(verdict),
            _ => None,
        });
        if let Some(verdict) = verdict {
            break verdict;
        }
    };
    assert_eq!(verdict.result(), v1::ReportResult::Fenced);
    drop(answers);
    client.finished(&submitted.r#ref).await;
    assert_ne!(orch_tests::client::answer(&client.tasks(&submitted.r#ref).await[0]), "a lie");
}
