//! Every row of the code table is met on the real wire, or it is said here why it is not.

use orch_certs::{Ca, Identity, LeafRequest, Role};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::blob_service_client::BlobServiceClient;
use orch_proto::v1::transcript_service_client::TranscriptServiceClient;
use orch_proto::v1::{self, coordinator_item};
use orch_tests::client::{Client, after, channel, command, noop, run, worker};
use orch_tests::fleet::{DOMAIN, Fleet};
use orch_tests::wire::{HandAgent, code, hello};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::SystemTime;
use tonic::Status;

/// Where a row is met.
enum Met {
    /// In the test below.
    Here,
    /// Only `orchctl` says it, of files, connections and time: its own tests.
    InOrchctl,
    /// The coordinator says it where a test over the wire cannot bring it, and this one does instead.
    Elsewhere(&'static str),
    /// Nobody says it yet.
    Nowhere(&'static str),
}

/// A new row does not compile until somebody says where it is met.
fn met(code: ErrorCode) -> Met {
    use ErrorCode as E;
    match code {
        E::InvalidField
        | E::InvalidName
        | E::EmptyPrompt
        | E::UnknownDependency
        | E::DuplicateTaskId
        | E::RunnerMissing
        | E::DependencyCycle
        | E::UnknownWorker
        | E::TooLarge
        | E::InvalidPageToken
        | E::InvalidSchema
        | E::TooManyTasks
        | E::InvalidRequestId
        | E::InvalidRef
        | E::InvalidIdentity
        | E::RoleNotAllowed
        | E::AgentNameMismatch
        | E::NotFound
        | E::RequestIdConflict
        | E::WrongState
        | E::UploadNotFound
        | E::UploadGap
        | E::EventsExpired
        | E::BlobNotFound
        | E::TranscriptNotFound
        | E::Superseded
        | E::ProtocolMismatch
        | E::ProtocolViolation
        | E::DigestMismatch
        | E::InvalidGate
        | E::InvalidPublication
        | E::InvalidCondition
        | E::InvalidWorkflow
        | E::WorkspaceMissing
        | E::NotContinuable
        | E::TooManyClasses
        | E::Overloaded
        | E::Draining
        | E::StoreFailed
        | E::Internal => Met::Here,
        E::UnknownField
        | E::MalformedJson
        | E::BudgetNotEnforceable
        | E::UntrustedCertificate
        | E::KeyPermissions
        | E::Impossible
        | E::Unreachable
        | E::DeadlinePassed => Met::InOrchctl,
        E::NoCertificate => Met::Elsewhere(
            "TLS refuses first; rpc::auth::tests::every_role_gets_what_the_table_says_and_nothing_else",
        ),
        E::OverBudget => Met::Elsewhere("limits::budgets, by a budget on runs that is used up"),
        E::QueueFull => Met::Elsewhere("takes a million tasks; rpc::status::tests, of the core's refusal"),
        E::DiskLow => Met::Elsewhere("super::overload, on a disk of its own"),
        E::CoordinatorOutdated => Met::Elsewhere("super::restored, at a copied directory"),
        E::StoreNewer | E::StoreDamaged | E::DataInUse | E::DataUnusable => {
            Met::Elsewhere("a coordinator that does not start says it; coordinator/tests/data_dir.rs")
        }
        E::OtherCluster | E::CopyDamaged => Met::Elsewhere("super::restored, of copies given back"),
        E::ProgramNotAllowed => {
            Met::Nowhere("a program that no agent allows is an impossible requirement, E0405")
        }
    }
}

/// Refusals that were met.
#[derive(Default)]
struct Found(BTreeMap<&'static str, Status>);

impl Found {
    fn note<T: std::fmt::Debug>(&mut self, answer: Result<T, Status>) {
        let status = answer.expect_err("a refusal");
        let row = code(&status).unwrap_or_else(|| panic!("without a row: {status:?}"));
        assert_eq!(status.code(), row.status(), "{status:?}");
        assert!(!status.message().is_empty(), "{status:?}");
        self.0.insert(row.code(), status);
    }
}

async fn specs(client: &mut Client, found: &mut Found) {
    let mut no_runner = noop("a");
    no_runner.runner = None;
    let mut long = worker("a", "anga", "x");
    let mut schema = worker("a", "anga", "x");
    if let (Some(v1::task_spec::Runner::Worker(long)), Some(v1::task_spec::Runner::Worker(schema))) =
        (&mut long.runner, &mut schema.runner)
    {
        long.max_turns = Some(0);
        schema.output_schema = "[]".into();
    }
    let needs = |at: usize| {
        let mut task = noop(&format!("t{at}"));
        task.requires = BTreeMap::from([("k".to_owned(), format!("v{at}"))]);
        task
    };
    let bad = [
        run(vec![]),
        run(vec![noop("-rf"), noop("b")]),
        run(vec![noop("a"), noop("a")]),
        run(vec![no_runner]),
        run(vec![after(noop("a"), &["b"])]),
        run(vec![after(noop("a"), &["b"]), after(noop("b"), &["a"])]),
        run(vec![worker("a", "nobody", "x")]),
        run(vec![worker("a", "anga", " ")]),
        run(vec![long]),
        run(vec![schema]),
        run(vec![worker("a", "anga", &"x".repeat(2 << 20))]),
        run((0..4_097).map(needs).collect()),
    ];
    for spec in bad {
        let request = v1::SubmitRunRequest { spec: Some(spec), ..Default::default() };
        found.note(client.runs.submit_run(request).await);
    }
    let request = |task: &str, request_id: &str| v1::SubmitRunRequest {
        spec: Some(run(vec![noop(task)])),
        request_id: request_id.into(),
        validate_only: false,
    };
    found.note(client.runs.submit_run(request("a", "a b")).await);
    client.runs.submit_run(request("a", "key")).await.expect("taken");
    found.note(client.runs.submit_run(request("b", "key")).await);
    for spec in flows() {
        let request = v1::SubmitRunRequest { spec: Some(spec), ..Default::default() };
        found.note(client.runs.submit_run(request).await);
    }
}

/// Runs whose parts do not go together.
fn flows() -> Vec<v1::RunSpec> {
    let mut gate = noop("a");
    gate.gates = Some(v1::Gates { min_tool_calls: 1, ..Default::default() });
    let publishing = |workspace: &str| {
        let mut task = worker("a", "anga", "x");
        workspace.clone_into(&mut task.workspace);
        task.publish = vec![v1::Publication { artifact: "a".into(), to: "../a".into(), replace: false }];
        task
    };
    let mut condition = noop("b");
    condition.dependencies = vec!["a".into()];
    condition.conditions = vec![v1::Condition {
        task_id: "a".into(),
        pointer: "status".into(),
        test: v1::ConditionTest::Exists.into(),
        ..Default::default()
    }];
    let mut follows = worker("a", "anga", "x");
    if let Some(v1::task_spec::Runner::Worker(work)) = &mut follows.runner {
        // It has not ended, and it never had a conversation.
        work.after_ref = "adhoc/1/a".into();
    }
    let call = v1::WorkflowCall {
        definition: r#"{"name": "a", "tasks": [{"id": "b", "use": "a"}]}"#.into(),
        ..Default::default()
    };
    vec![
        run(vec![gate]),
        run(vec![publishing("dance")]),
        run(vec![publishing("")]),
        run(vec![noop("a"), condition]),
        run(vec![follows]),
        v1::RunSpec { workflow: Some(call), ..Default::default() },
    ]
}

async fn questions(client: &mut Client, found: &mut Found) {
    for run_ref in ["adhoc", "adhoc/999"] {
        found.note(client.runs.get_run(v1::GetRunRequest { r#ref: run_ref.into() }).await);
    }
    let list = v1::ListRunsRequest { page_token: "made-up".into(), ..Default::default() };
    found.note(client.runs.list_runs(list).await);
    found.note(
        client.runs.retry_run(v1::RetryRunRequest { r#ref: "adhoc/1".into(), ..Default::default() }).await,
    );
    let watch = v1::WatchRunsRequest { from_seq: 1 << 40, ..Default::default() };
    let mut frames = client.runs.watch_runs(watch).await.expect("a watch").into_inner();
    let refused = loop {
        match frames.message().await {
            Ok(frame) => assert!(frame.is_some(), "it ended without a refusal"),
            Err(status) => break Err::<(), _>(status),
        }
    };
    found.note(refused);
    let nowhere = v1::BlobRef { location: format!("b:{}", "0".repeat(64)), ..Default::default() };
    let get = v1::GetBlobRequest { blob: Some(nowhere), offset: 0 };
    found.note(BlobServiceClient::new(client.channel.clone()).get_blob(get).await);
    let read = v1::ReadTranscriptRequest { r#ref: "adhoc/1".into(), ..Default::default() };
    let read = TranscriptServiceClient::new(client.channel.clone()).read_transcript(read).await;
    found.note(read.expect("a stream").into_inner().message().await);
}

async fn uploads(client: &mut Client, found: &mut Found) {
    let begin = |request_id: &str, size: u64, digest: Vec<u8>| v1::BeginSubmissionRequest {
        request_id: request_id.into(),
        size,
        digest,
        validate_only: false,
    };
    found.note(client.runs.begin_submission(begin("short", 1, vec![0; 3])).await);
    let begun = client.runs.begin_submission(begin("first", 256 << 20, vec![0; 32])).await.expect("begun");
    let gap =
        v1::AppendSubmissionRequest { upload_id: begun.into_inner().upload_id, offset: 9, data: vec![1] };
    found.note(client.runs.append_submission(gap).await);
    found.note(client.runs.seal_submission(v1::SealSubmissionRequest { upload_id: "nobody's".into() }).await);
    client.runs.begin_submission(begin("second", 256 << 20, vec![0; 32])).await.expect("begun");
    found.note(client.runs.begin_submission(begin("third", 256 << 20, vec![0; 32])).await);
}

async fn identities(fleet: &Fleet, found: &mut Found) {
    let ca = Ca::open(&fleet.dir().join("ca")).expect("authority");
    let stranger = Identity::new(DOMAIN, Role::Client, "acme", "eve").expect("identity");
    let leaf = ca.issue(&LeafRequest::new(stranger), SystemTime::now()).expect("issued");
    let files = leaf.write(&fleet.dir().join("certs/eve")).expect("written");
    for files in [files, fleet.certificate(Role::Agent, "box-1")] {
        let mut client = Client::connect(&fleet.ports().grpc, &files).await;
        found.note(client.runs.list_runs(v1::ListRunsRequest::default()).await);
    }
}

async fn sessions(fleet: &Fleet, found: &mut Found) {
    let refused = |hello| async { HandAgent::join(fleet, hello).await };
    found.note(refused(v1::Hello { protocol_min: 900, protocol_max: 901, ..hello("box-1") }).await);
    found.note(refused(v1::Hello { slots: 0, ..hello("box-1") }).await);
    let files = fleet.certificate(Role::Agent, "box-1");
    let mut agents = v1::agent_service_client::AgentServiceClient::new(channel(&fleet.ports().grpc, &files));
    let posing = v1::agent_item::Item::Hello(hello("box-2"));
    let frame = v1::AgentMessage { items: vec![v1::AgentItem { item: Some(posing) }] };
    found.note(agents.session(tokio_stream::once(frame)).await);

    let mut first = HandAgent::join(fleet, hello("box-1")).await.expect("a session");
    let welcome =
        |item: &coordinator_item::Item| matches!(item, coordinator_item::Item::Welcome(_)).then_some(());
    first.until(welcome).await.expect("welcome");
    let newer = v1::Hello { incarnation: vec![7; 16], ..hello("box-1") };
    let second = HandAgent::join(fleet, newer).await.expect("a session");
    found.note(Err::<(), _>(first.end().await));
    drop(second);
}

/// Files that are not what they were: a transcript that is a directory, a command that is gone.
async fn damage(fleet: &mut Fleet, client: &mut Client, found: &mut Found) {
    std::fs::create_dir_all(fleet.data_dir().join("transcripts/1/1/0.1")).expect("a directory");
    let read = v1::ReadTranscriptRequest { r#ref: "adhoc/1".into(), ..Default::default() };
    let read = TranscriptServiceClient::new(client.channel.clone()).read_transcript(read).await;
    found.note(read.expect("a stream").into_inner().message().await);

    client.submit(run(vec![command("long", "true", &[&"x".repeat(8 << 10)])])).await;
    fleet.kill_coordinator();
    std::fs::remove_dir_all(fleet.data_dir().join("blobs/1/packs")).expect("packs");
    fleet.start_coordinator();
    let offers = v1::Hello { capabilities: vec!["program=true".into()], ..hello("box-3") };
    let mut agent = HandAgent::join(fleet, offers).await.expect("a session");
    found.note(Err::<(), _>(agent.end().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_code_the_coordinator_can_send_is_sent() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    let mut found = Found::default();
    specs(&mut client, &mut found).await;
    questions(&mut client, &mut found).await;
    uploads(&mut client, &mut found).await;
    identities(&fleet, &mut found).await;
    sessions(&fleet, &mut found).await;
    damage(&mut fleet, &mut client, &mut found).await;

    let mut agent = HandAgent::join(&fleet, hello("box-1")).await.expect("a session");
    fleet.coordinator().signal(Signal::TERM);
    found.note(Err::<(), _>(agent.end().await));

    for row in ErrorCode::ALL {
        match met(*row) {
            Met::Here => assert!(found.0.contains_key(row.code()), "{} was not met", row.code()),
            Met::InOrchctl => assert!(!found.0.contains_key(row.code()), "{}", row.code()),
            Met::Elsewhere(why) | Met::Nowhere(why) => {
                assert!(!why.is_empty() && !found.0.contains_key(row.code()), "{}: {why}", row.code());
            }
        }
    }
}
