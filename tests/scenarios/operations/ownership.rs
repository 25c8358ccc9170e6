//! An agent may write and report what was given to it, and nothing else.

use orch_certs::Role;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::transcript_service_client::TranscriptServiceClient;
use orch_proto::v1::{self, agent_item::Item, coordinator_item};
use orch_tests::client::{channel, noop, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wire::{HandAgent, code, hello};
use tonic::Status;

async fn append(
    fleet: &Fleet,
    agent: &str,
    attempt: v1::AttemptId,
) -> Result<v1::AppendTranscriptResponse, Status> {
    let channel = channel(&fleet.ports().grpc, &fleet.certificate(Role::Agent, agent));
    let chunk = v1::AppendTranscriptRequest { attempt: Some(attempt), ..Default::default() };
    let chunks = tokio_stream::StreamExt::chain(tokio_stream::once(chunk), tokio_stream::pending());
    let mut answers = TranscriptServiceClient::new(channel).append_transcript(chunks).await?.into_inner();
    answers.message().await?.ok_or_else(|| Status::ok("the stream ended"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transcript_is_written_by_the_agent_that_has_the_attempt() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![worker("t", "anga", "[[text {\"text\":\"done\"}]]")])).await;
    client.finished(&submitted.r#ref).await;
    let attempt = v1::AttemptId { run_id: submitted.run_id, task_index: 0, attempt: 1 };
    append(&fleet, "box-1", attempt).await.expect("its own transcript");
    let cases = [
        ("box-9", attempt, "a stranger's"),
        ("box-1", v1::AttemptId { attempt: 2, ..attempt }, "an attempt that was not made"),
        ("box-1", v1::AttemptId { task_index: 7, ..attempt }, "a task that is not there"),
        ("box-1", v1::AttemptId { run_id: 999, ..attempt }, "a run that is not there"),
    ];
    for (agent, attempt, what) in cases {
        let status = append(&fleet, agent, attempt).await.expect_err(what);
        assert_eq!(code(&status), Some(ErrorCode::NotFound), "{what}: {status:?}");
    }
    let status =
        append(&fleet, "box-1", v1::AttemptId { attempt: 0, ..attempt }).await.expect_err("no attempt");
    assert_eq!(code(&status), Some(ErrorCode::ProtocolViolation), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_never_names_bytes_that_are_not_there() {
    let fleet = Fleet::start_with(orch_tests::binaries!(), "5s");
    let mut client = fleet.client().await;
    let mut agent = HandAgent::join(&fleet, hello("box-1")).await.expect("a session");
    let submitted = client.submit(run(vec![noop("t")])).await;
    let attempt = agent.assignment().await.expect("the task").attempt;
    let missing = v1::BlobRef { digest: vec![0; 32], size: 9, location: format!("b:{}", "0".repeat(64)) };
    let report = v1::Report {
        attempt,
        outcome: v1::Outcome::Ok.into(),
        digest: vec![1; 32],
        answer: Some(v1::Text { body: Some(v1::text::Body::Blob(missing)) }),
        ..Default::default()
    };
    agent.say(Item::Accepted(v1::Accepted { attempt })).await;
    agent.say(Item::Report(report.clone())).await;
    let status = agent.end().await;
    assert_eq!(code(&status), Some(ErrorCode::BlobNotFound), "{status:?}");
    let task = v1::GetTaskRequest { r#ref: submitted.r#ref.clone() };
    let task = client.runs.get_task(task).await.expect("task").into_inner().task.expect("task");
    assert_ne!(task.state(), v1::TaskState::Succeeded, "nothing was recorded");

    let held = v1::InventoryItem { attempt, state: v1::HeldState::Finished.into() };
    let again = v1::Hello { inventory: vec![held], ..hello("box-1") };
    let mut agent = HandAgent::join(&fleet, again).await.expect("a session");
    let inline = v1::Text { body: Some(v1::text::Body::Inline("here it is".into())) };
    agent.say(Item::Report(v1::Report { answer: Some(inline), ..report })).await;
    let verdict = agent.until(|item| {
        let coordinator_item::Item::ReportVerdict(verdict) = item else { return None };
        Some(verdict.result())
    });
    assert_eq!(verdict.await.expect("a verdict"), v1::ReportResult::Recorded);
    assert_eq!(client.finished(&submitted.r#ref).await.state(), v1::RunState::Succeeded);
    assert_eq!(orch_tests::client::answer(&client.tasks(&submitted.r#ref).await[0]), "here it is");
}
