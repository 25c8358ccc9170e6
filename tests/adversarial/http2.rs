//! Peers that speak HTTP/2 badly or hardly at all: cut in the middle, windows of a byte, many tiny frames. Rows 18 and 19.

use crate::raw::{ACK, DATA, END_STREAM, Fate, GOAWAY, Wire, frame, message};
use crate::raw::{HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE};
use crate::siege::Siege;
use orch_certs::Role;
use orch_proto::v1::{self, agent_item::Item, coordinator_item};
use orch_tests::client::channel;
use orch_tests::fleet::Fleet;
use orch_tests::wire::{HandAgent, hello};
use prost::Message as _;
use rustix::process::Signal;
use std::time::Duration;
use tonic::Code;

const SESSION: &str = "/orch.v1.AgentService/Session";
const LIST: &str = "/orch.v1.RunService/ListRuns";
/// Setting of the window that each stream begins with.
const INITIAL_WINDOW: u16 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_half_closed_or_cut_in_a_message_just_ends() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let channel = channel(&fleet.ports().grpc, &fleet.certificate(Role::Agent, "box-1"));
    let first = v1::AgentMessage { items: vec![v1::AgentItem { item: Some(Item::Hello(hello("box-1"))) }] };
    let attack = async {
        // Hello, and then nothing more will come.
        let mut agents = v1::agent_service_client::AgentServiceClient::new(channel);
        let mut answers =
            agents.session(tokio_stream::once(first.clone())).await.expect("a session").into_inner();
        let ended = loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break Code::Ok,
                Err(status) => break status.code(),
            }
        };
        assert_eq!(ended, Code::Ok, "the agent ended it in order");
        // Half a message, and then a reset of the stream, of the connection, or its end.
        let whole = first.encode_to_vec();
        let half = &message(0, whole.len(), &whole)[..whole.len() / 2];
        for round in 0..30 {
            let mut wire = Wire::open(&fleet, Role::Agent, "box-2", &[]).await;
            wire.call(1, SESSION).await.expect("a call");
            wire.send(DATA, 0, 1, half).await.expect("half a message");
            match round % 3 {
                0 => {
                    wire.send(RST_STREAM, 0, 1, &8_u32.to_be_bytes()).await.expect("a reset");
                    assert_eq!(wire.fate().await, Fate::Goes, "the connection has done nothing wrong");
                }
                1 => {
                    wire.send(DATA, END_STREAM, 1, &[]).await.expect("the end");
                    assert_eq!(wire.fate().await, Fate::Goes, "the connection has done nothing wrong");
                }
                _ => drop(wire),
            }
        }
    };
    siege.borne("sessions cut in a message", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_of_nothing_and_of_a_byte_hold_up_only_whoever_has_them() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let attack = async {
        let mut stuck = Wire::open(&fleet, Role::Client, "mallory", &[(INITIAL_WINDOW, 0)]).await;
        for stream in (1..60).step_by(2) {
            stuck.call(stream, LIST).await.expect("a call");
            stuck.send(DATA, END_STREAM, stream, &message(0, 0, &[])).await.expect("a request");
        }
        let mut slow = Wire::open(&fleet, Role::Client, "mallory", &[(INITIAL_WINDOW, 1)]).await;
        slow.call(1, LIST).await.expect("a call");
        slow.send(DATA, END_STREAM, 1, &message(0, 0, &[])).await.expect("a request");
        let mut bytes = 0;
        while bytes < 300 {
            let frame = slow.next().await.expect("the answer comes, byte by byte");
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                slow.send(SETTINGS, ACK, 0, &[]).await.expect("settings");
            }
            if frame.kind == HEADERS && frame.flags & END_STREAM != 0 {
                break;
            }
            if frame.kind == DATA {
                assert!(frame.payload.len() <= 1, "{frame:?}");
                bytes += frame.payload.len();
                slow.send(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()).await.expect("a byte more");
            }
        }
        assert!(bytes > 20, "an answer of {bytes} bytes");
        assert_eq!(stuck.fate().await, Fate::Goes, "who waits does no harm and is let wait");
    };
    siege.borne("windows of nothing and of a byte", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tiny_messages_to_a_paused_coordinator_cost_a_reconnect_at_most() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut agent = HandAgent::join(&fleet, hello("box-1")).await.expect("a session");
    agent
        .until(|item| matches!(item, coordinator_item::Item::Welcome(_)).then_some(()))
        .await
        .expect("a Welcome");
    let orchd = rustix::process::Pid::from_raw(i32::try_from(fleet.coordinator().id()).expect("a pid"));
    let signal = |signal| rustix::process::kill_process(orchd.expect("a pid"), signal).expect("signalled");
    let attack = async {
        signal(Signal::STOP);
        for seq in 1..=1_000 {
            agent.say(Item::Heartbeat(v1::Heartbeat { seq, ..Default::default() })).await;
        }
        // They are on their way, each in a frame of its own, while nobody reads.
        tokio::time::sleep(Duration::from_millis(200)).await;
        signal(Signal::CONT);
        let seen = agent
            .until(|item| {
                matches!(item, coordinator_item::Item::HeartbeatAck(ack) if ack.seq == 1_000).then_some(())
            })
            .await;
        if let Err(status) = seen {
            assert!(
                matches!(status.code(), Code::ResourceExhausted | Code::Unavailable | Code::Internal),
                "{status:?}"
            );
        }
        let mut again = HandAgent::join(&fleet, hello("box-1")).await.expect("a session");
        again
            .until(|item| matches!(item, coordinator_item::Item::Welcome(_)).then_some(()))
            .await
            .expect("a Welcome");
    };
    siege.borne("a thousand tiny messages to a paused coordinator", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_nothing_is_held_off_and_not_waited_for() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let attack = async {
        let mut wire = Wire::open(&fleet, Role::Client, "mallory", &[]).await;
        // Requests whose answers pile up where nobody takes them: the connection's window and the socket fill.
        let mut sent = 0;
        for at in 0..5_000_u32 {
            let stream = at * 2 + 1;
            let call = [
                frame(HEADERS, crate::raw::END_HEADERS, stream, &crate::raw::head(LIST)),
                frame(DATA, END_STREAM, stream, &message(0, 0, &[])),
            ]
            .concat();
            if wire.send_bytes(&call).await.is_err() {
                break;
            }
            sent += 1;
        }
        assert!(sent > 60, "only {sent} calls were taken");
    };
    siege.borne("a peer that reads nothing", attack).await;
}
