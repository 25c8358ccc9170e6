//! Floods of small frames that cost the sender nothing. Row 20 of the list. The server answers each by sending the peer
//! away, or by no longer reading it; whoever floods gets no more than that.

use crate::raw::{
    CONTINUATION, DATA, END_HEADERS, Fate, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::raw::{END_STREAM, PATIENCE, Wire, frame, head};
use crate::siege::Siege;
use orch_certs::Role;
use orch_tests::fleet::Fleet;
use std::time::Instant;

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const SESSION: &str = "/orch.v1.AgentService/Session";
/// The server's word for a peer that overdoes it.
const ENHANCE_YOUR_CALM: u32 = 11;
/// Frames in one write: a flood is not held up by system calls.
const BURST: usize = 100;

/// Sends what `frames` makes of each number, in bursts, until all is sent or the server takes no more; then its fate.
async fn flood(fleet: &Fleet, count: u32, frames: impl Fn(u32) -> Vec<u8>) -> Fate {
    let mut wire = Wire::open(fleet, Role::Agent, "flooder", &[]).await;
    let began = Instant::now();
    let mut burst = Vec::new();
    for at in 0..count {
        burst.extend_from_slice(&frames(at));
        if at as usize % BURST == BURST - 1 {
            if wire.send_bytes(&burst).await.is_err() || began.elapsed() > PATIENCE {
                break;
            }
            burst.clear();
        }
    }
    wire.fate().await
}

/// The number of the stream that is opened as the `at`-th.
fn stream(at: u32) -> u32 {
    at * 2 + 1
}

fn opened(at: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(at), &head(path))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_number_and_rapid_resets_are_sent_away() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let fate = siege.borne("10,000 streams", flood(&fleet, 10_000, |at| opened(at, SESSION))).await;
    assert!(matches!(fate, Fate::SentAway(ENHANCE_YOUR_CALM) | Fate::Goes), "streams: {fate:?}");
    let reset = |at| [opened(at, WATCH), frame(RST_STREAM, 0, stream(at), &8_u32.to_be_bytes())].concat();
    let fate = siege.borne("rapid reset", flood(&fleet, 10_000, reset)).await;
    assert_eq!(fate, Fate::SentAway(ENHANCE_YOUR_CALM), "rapid reset");
    // The server is made to reset: an update of nothing, or more data after the end, on each stream.
    let update = |at| [opened(at, WATCH), frame(WINDOW_UPDATE, 0, stream(at), &[0; 4])].concat();
    let fate = siege.borne("streams reset for an update of nothing", flood(&fleet, 10_000, update)).await;
    assert!(matches!(fate, Fate::SentAway(_)), "an update of nothing: {fate:?}");
    let ended = |at| {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream(at), &head(WATCH));
        [head, frame(DATA, 0, stream(at), b"more")].concat()
    };
    let fate = siege.borne("streams reset for data after their end", flood(&fleet, 10_000, ended)).await;
    assert!(matches!(fate, Fate::SentAway(_)), "data after the end: {fate:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_without_end_and_heads_too_long_are_refused() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let endless = |at| match at {
        0 => frame(HEADERS, 0, 1, &head(SESSION)),
        _ => frame(CONTINUATION, 0, 1, &[0x00, 0x01, b'x', 0x01, b'y'].repeat(200)),
    };
    let fate = siege.borne("a head without end", flood(&fleet, 10_000, endless)).await;
    assert!(matches!(fate, Fate::SentAway(_) | Fate::Cut), "{fate:?}");
    // A whole head of some 60 KiB, four times what is taken.
    let long = |at| {
        let block = [head(WATCH), [0x00, 0x01, b'x', 0x01, b'y'].repeat(3_000)].concat();
        [
            frame(HEADERS, 0, stream(at), &head(WATCH)[..0]),
            frame(CONTINUATION, END_HEADERS, stream(at), &block),
        ]
        .concat()
    };
    let fate = siege.borne("heads that are too long", flood(&fleet, 300, long)).await;
    assert!(matches!(fate, Fate::SentAway(_) | Fate::Goes), "{fate:?}");
    // A list within a list: one long entry in the table of heads, named again and again.
    let bomb = |at| {
        let name = [&[0x40, 0x01, b'x', 0x7f, 0x81, 0x0f][..], &[b'y'; 2_048]].concat();
        let block = [head(WATCH), if at == 0 { name } else { Vec::new() }, vec![0xbe; 4_000]].concat();
        frame(HEADERS, END_HEADERS, stream(at), &block)
    };
    let fate = siege.borne("heads that unfold", flood(&fleet, 300, bomb)).await;
    assert!(matches!(fate, Fate::SentAway(_) | Fate::Goes), "{fate:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_ask_for_nothing_are_answered_at_the_senders_cost() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    for (what, count, frames) in [
        ("pings", 100_000, (|_| frame(PING, 0, 0, &[7; 8])) as fn(u32) -> Vec<u8>),
        ("settings", 50_000, |at| frame(SETTINGS, 0, 0, &[&[0, 4][..], &(at + 1).to_be_bytes()].concat())),
        ("priorities", 100_000, |at| frame(PRIORITY, 0, stream(at % 1_000), &[0, 0, 0, 0, 7])),
        ("empty data", 100_000, |at| match at {
            0 => opened(0, SESSION),
            _ => frame(DATA, 0, 1, &[]),
        }),
        ("frames of kinds that do not exist", 100_000, |_| frame(0xbb, 0xff, 0, &[1; 8])),
        ("updates of the window", 50_000, |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
    ] {
        let fate = siege.borne(&format!("a flood of {what}"), flood(&fleet, count, frames)).await;
        // Whatever became of it, it was decided.
        assert!(matches!(fate, Fate::SentAway(_) | Fate::Cut | Fate::Goes), "{what}: {fate:?}");
    }
    // What breaks the protocol outright ends the connection at once.
    for (what, bytes) in [
        ("data of a stream that is not there", frame(DATA, 0, 1, b"x")),
        ("a frame longer than agreed", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("settings of half a setting", frame(SETTINGS, 0, 0, &[0, 1, 2])),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("a stream of an even number", frame(HEADERS, END_HEADERS, 2, &head(WATCH))),
        ("a head that cannot be unpacked", frame(HEADERS, END_HEADERS, 1, &[0xff; 40])),
        ("an update beyond the window", frame(WINDOW_UPDATE, 0, 0, &(u32::MAX >> 1).to_be_bytes())),
    ] {
        let fate = siege.borne(what, flood(&fleet, 1, |_| Vec::new())).await;
        assert_eq!(fate, Fate::Goes);
        let mut wire = Wire::open(&fleet, Role::Agent, "flooder", &[]).await;
        wire.send_bytes(&bytes).await.expect("sent");
        let fate = wire.fate().await;
        assert!(matches!(fate, Fate::SentAway(_) | Fate::Cut), "{what}: {fate:?}");
    }
}
