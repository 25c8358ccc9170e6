//! Messages that are none: broken protobuf, lying lengths, forged compression. Rows 15 to 17 of the list.

use crate::raw::{grpc, message};
use crate::siege::Siege;
use orch_certs::Role;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, agent_item::Item, coordinator_item};
use orch_tests::client::{channel, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::wire::{call, code, hello};
use prost::Message as _;
use sha2::Digest as _;
use tonic::{Code, Status};

const SESSION: &str = "/orch.v1.AgentService/Session";
const SUBMIT: &str = "/orch.v1.RunService/SubmitRun";
/// Longest message, from the design.
const LIMIT: usize = 1 << 20;

/// A field that holds bytes, by its number.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut encoded);
    encoded.extend_from_slice(bytes);
    encoded
}

/// A message within a message within a message…
fn nested(number: u8, depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| field(number, &inner))
}

/// Bodies that are no message, or far too much of one, and what they are.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a tag of field 0", vec![0x00, 0x01]),
        ("a wire type that does not exist", vec![0x0f]),
        ("a number that has no end", vec![0xff; 11]),
        ("a length past the end", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("a length past every end", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("a name that is no UTF-8, in the specification", field(1, &field(1, &[0xff, 0xfe]))),
        ("groups a thousand deep", vec![0x7b; 1_000]),
        ("a group that another one closes", vec![0x7b, 0x74]),
        ("a thousand levels", nested(1, 1_000)),
    ]
}

async fn submitted(fleet: &Fleet, body: Vec<u8>) -> Status {
    grpc(fleet, Role::Client, "mallory", SUBMIT, "", body).await
}

/// A refusal that says which row of the table it is, and no crash.
fn is_typed(what: &str, status: &Status) {
    assert!(code(status).is_some(), "{what}: {status:?}");
    assert!(!matches!(status.code(), Code::Ok | Code::Unknown | Code::Internal), "{what}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_none_are_refused_by_name() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let agents = channel(&fleet.ports().grpc, &fleet.certificate(Role::Agent, "box-1"));
    let attack = async {
        for (what, bytes) in broken() {
            is_typed(what, &submitted(&fleet, message(0, bytes.len(), &bytes)).await);
            let session = call(agents.clone(), SESSION, tokio_stream::iter([bytes])).await;
            is_typed(what, &session.expect_err("no session"));
        }
    };
    siege.borne("messages that are none", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_of_a_later_version_are_passed_over_and_numbers_without_a_meaning_refused() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let agents = channel(&fleet.ports().grpc, &fleet.certificate(Role::Agent, "box-1"));
    let hello = v1::AgentMessage { items: vec![item(Item::Hello(hello("box-1")))] }.encode_to_vec();
    let later = [
        // A field of the frame, an item of another kind, and a heartbeat with a field of its own.
        field(15, b"from a later version"),
        field(1, &field(14, b"another kind of item")),
        field(1, &field(2, &[&[0x08, 42][..], &field(13, b"something new")].concat())),
    ]
    .concat();
    let attack = async {
        let frames = tokio_stream::StreamExt::chain(
            tokio_stream::iter([[hello.clone(), later].concat()]),
            tokio_stream::pending(),
        );
        let mut answers = typed(agents.clone(), frames).await;
        let mut acknowledged = false;
        while !acknowledged {
            let frame = answers.message().await.expect("the session goes on").expect("a frame");
            acknowledged = frame.items.iter().any(
                |item| matches!(&item.item, Some(coordinator_item::Item::HeartbeatAck(ack)) if ack.seq == 42),
            );
        }
        // An outcome that no version has: nothing is made of it, least of all a success.
        for outcome in [-1, 0, 99, i32::MAX] {
            let report = v1::Report {
                attempt: Some(v1::AttemptId { run_id: 1, task_index: 0, attempt: 1 }),
                outcome,
                digest: vec![1; 32],
                ..Default::default()
            };
            let report = v1::AgentMessage { items: vec![item(Item::Report(report))] }.encode_to_vec();
            let frames = tokio_stream::StreamExt::chain(
                tokio_stream::iter([hello.clone(), report]),
                tokio_stream::pending(),
            );
            let mut answers = typed(agents.clone(), frames).await;
            let ended = loop {
                match answers.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("ended without a reason"),
                    Err(status) => break status,
                }
            };
            assert_eq!(code(&ended), Some(ErrorCode::ProtocolViolation), "{outcome}: {ended:?}");
        }
        let spec = run(vec![noop("a")]);
        let unknown =
            v1::SubmitRunRequest { spec: Some(v1::RunSpec { on_failure: 99, ..spec }), ..Default::default() };
        let bytes = unknown.encode_to_vec();
        let status = submitted(&fleet, message(0, bytes.len(), &bytes)).await;
        assert_eq!(code(&status), Some(ErrorCode::InvalidField), "{status:?}");
    };
    siege.borne("words of a later version", attack).await;
}

fn item(item: Item) -> v1::AgentItem {
    v1::AgentItem { item: Some(item) }
}

/// A session whose frames are bytes and whose answers are read.
async fn typed(
    channel: tonic::transport::Channel,
    frames: impl tokio_stream::Stream<Item = Vec<u8>> + Send + 'static,
) -> tonic::Streaming<v1::CoordinatorMessage> {
    let decoded = tokio_stream::StreamExt::map(frames, |bytes| {
        v1::AgentMessage::decode(bytes.as_slice())
            .expect("this side knows no other fields, and passes them over")
    });
    let mut agents = v1::agent_service_client::AgentServiceClient::new(channel);
    agents.session(decoded).await.expect("a session").into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_very_many_empty_parts_is_no_lever() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let agents = channel(&fleet.ports().grpc, &fleet.certificate(Role::Agent, "box-1"));
    // Two bytes a part: as many as a message can hold.
    let parts = [0x0a, 0].repeat(LIMIT / 2 - 8);
    let tasks = [0x12, 0].repeat(LIMIT / 2 - 8);
    let numbers = field(2, &vec![1; LIMIT - 64]);
    let attack = async {
        is_typed(
            "items",
            &call(agents.clone(), SESSION, tokio_stream::iter([parts.clone()])).await.expect_err("no"),
        );
        for number in 1..=12 {
            let parts = [number << 3 | 2, 0].repeat(LIMIT / 2 - 8);
            let body = field(1, &parts);
            let status = submitted(&fleet, message(0, body.len(), &body)).await;
            is_typed(&format!("field {number} of a specification"), &status);
        }
        // The same in parts: 8 MiB would be four million tasks.
        let body = [0x12, 0].repeat(4 << 20);
        assert_eq!(code(&uploaded(&fleet, &body).await), Some(ErrorCode::TooManyTasks));
        let body = field(1, &tasks);
        is_typed("tasks", &submitted(&fleet, message(0, body.len(), &body)).await);
        is_typed("numbers", &submitted(&fleet, message(0, numbers.len(), &numbers)).await);
    };
    siege.borne("messages of very many empty parts", attack).await;
}

/// What becomes of a specification that is sent in pieces.
async fn uploaded(fleet: &Fleet, body: &[u8]) -> Status {
    let mut client = fleet.client().await;
    let begin = v1::BeginSubmissionRequest {
        request_id: "in-pieces".into(),
        size: body.len() as u64,
        digest: sha2::Sha256::digest(body).to_vec(),
        validate_only: false,
    };
    let upload_id = client.runs.begin_submission(begin).await.expect("begun").into_inner().upload_id;
    for (at, piece) in body.chunks(LIMIT / 2).enumerate() {
        let offset = (at * (LIMIT / 2)) as u64;
        let append =
            v1::AppendSubmissionRequest { upload_id: upload_id.clone(), offset, data: piece.to_vec() };
        client.runs.append_submission(append).await.expect("appended");
    }
    let sealed = client.runs.seal_submission(v1::SealSubmissionRequest { upload_id }).await;
    sealed.err().unwrap_or_else(|| Status::ok("taken"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_at_the_limit_is_read_and_one_byte_more_is_not() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let at_the_limit = |bytes: usize| {
        let spec = |padding: usize| v1::SubmitRunRequest {
            spec: Some(run(vec![orch_tests::client::worker("a", "anga", &"x".repeat(padding))])),
            ..Default::default()
        };
        let around = spec(bytes).encoded_len() - bytes;
        let request = spec(bytes - around);
        assert_eq!(request.encoded_len(), bytes);
        request.encode_to_vec()
    };
    let attack = async {
        let exact = at_the_limit(LIMIT);
        let status = submitted(&fleet, message(0, exact.len(), &exact)).await;
        assert_eq!(status.code(), Code::Ok, "{status:?}");
        let more = at_the_limit(LIMIT + 1);
        let status = submitted(&fleet, message(0, more.len(), &more)).await;
        assert_eq!(code(&status), Some(ErrorCode::TooLarge), "{status:?}");
        // Lengths that lie: only the head is needed to refuse the long one, and the end of the stream for the others.
        for (what, length) in [("four gigabytes", u32::MAX as usize), ("a byte over the limit", LIMIT + 1)] {
            let status = submitted(&fleet, message(0, length, &exact[..64])).await;
            assert_eq!(code(&status), Some(ErrorCode::TooLarge), "{what}: {status:?}");
        }
        is_typed("more than comes", &submitted(&fleet, message(0, 1_000, &exact[..10])).await);
        is_typed("half a head", &submitted(&fleet, vec![0, 0, 0]).await);
        is_typed("less than comes", &submitted(&fleet, message(0, 3, &exact[..100])).await);
        is_typed("no message at all", &submitted(&fleet, Vec::new()).await);
        let twice = message(0, 0, &[]).repeat(2);
        is_typed("two messages", &submitted(&fleet, twice).await);
    };
    siege.borne("messages at the limit and lying lengths", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_is_refused_whether_it_is_announced_or_not() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let plain =
        v1::SubmitRunRequest { spec: Some(run(vec![noop("a")])), ..Default::default() }.encode_to_vec();
    // A megabyte that would be a gigabyte: never unpacked, so it may as well be anything.
    let bomb = vec![0; 1 << 19];
    let attack = async {
        for flag in [1, 2, 255] {
            let status = submitted(&fleet, message(flag, plain.len(), &plain)).await;
            is_typed(&format!("flag {flag}"), &status);
        }
        for encoding in ["gzip", "deflate", "zstd", "br", "x"] {
            let body = message(1, bomb.len(), &bomb);
            let status = grpc(&fleet, Role::Client, "mallory", SUBMIT, encoding, body).await;
            assert_eq!(status.code(), Code::Unimplemented, "{encoding}: {status:?}");
        }
    };
    siege.borne("compressed messages", attack).await;
}
