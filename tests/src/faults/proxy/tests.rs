//! Each fault does what it says to an echo behind the proxy, and counts it.

use super::schedule::Schedule;
use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longer than any fault of these tests; what takes it never comes.
const LONG: Duration = Duration::from_secs(20);
/// Long enough for bytes on loopback to have come if they were coming.
const MOMENT: Duration = Duration::from_millis(150);

async fn echo() -> (Proxy, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = Proxy::start(&listener.local_addr().expect("an address").to_string()).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut peers = JoinSet::new();
        while let Ok((mut peer, _)) = listener.accept().await {
            peers.spawn(async move {
                let (mut read, mut write) = peer.split();
                // Ends with the connection, however that ends.
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (proxy, tasks)
}

async fn said_and_heard(stream: &mut TcpStream, word: &[u8]) -> Option<Vec<u8>> {
    stream.write_all(word).await.ok()?;
    let mut heard = vec![0; word.len()];
    tokio::time::timeout(LONG, stream.read_exact(&mut heard)).await.expect("an answer or an end").ok()?;
    Some(heard)
}

fn fired(proxy: &Proxy, kind: &str) -> u64 {
    proxy.counts().fired().into_iter().find(|(name, _)| *name == kind).expect("a kind").1
}

#[tokio::test]
async fn bytes_pass_unchanged_and_nothing_fires() {
    let (proxy, _echo) = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    let word: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let (mut read, mut write) = stream.split();
    let mut heard = vec![0; word.len()];
    let (said, got) = tokio::join!(write.write_all(&word), read.read_exact(&mut heard));
    assert!(said.is_ok() && got.is_ok() && heard == word);
    assert!(proxy.counts().fired().iter().all(|(_, count)| *count == 0));
    assert_eq!(proxy.counts().connections(), 1);
}

#[tokio::test]
async fn a_delay_delays_and_a_drip_drips() {
    let (proxy, _echo) = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    proxy.set(Way::Down, Fault::Delay(MOMENT));
    let began = std::time::Instant::now();
    assert_eq!(said_and_heard(&mut stream, b"late").await.expect("an answer"), b"late");
    assert!(began.elapsed() >= MOMENT);
    proxy.set_both(Fault::Pass);
    proxy.set(Way::Up, Fault::Drip { bytes: 1, every: Duration::from_millis(10) });
    let began = std::time::Instant::now();
    assert_eq!(said_and_heard(&mut stream, b"0123456789").await.expect("an answer"), b"0123456789");
    assert!(began.elapsed() >= Duration::from_millis(90));
    assert!(fired(&proxy, "delay") >= 1 && fired(&proxy, "drip") >= 10);
}

#[tokio::test]
async fn what_was_stalled_arrives_and_what_was_swallowed_never_does() {
    let (proxy, _echo) = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    proxy.set(Way::Up, Fault::Stall);
    stream.write_all(b"wait").await.expect("sent");
    let mut heard = [0; 4];
    assert!(tokio::time::timeout(MOMENT, stream.read_exact(&mut heard)).await.is_err());
    proxy.heal();
    tokio::time::timeout(LONG, stream.read_exact(&mut heard)).await.expect("in time").expect("an answer");
    assert_eq!((&heard, fired(&proxy, "stall")), (b"wait", 1));

    // One way: what is sent arrives, the answer does not.
    proxy.set(Way::Down, Fault::BlackHole);
    stream.write_all(b"gone").await.expect("sent");
    assert!(tokio::time::timeout(MOMENT, stream.read_exact(&mut heard)).await.is_err());
    proxy.heal();
    let end = tokio::time::timeout(LONG, stream.read_exact(&mut heard)).await.expect("in time");
    assert!(end.is_err(), "a connection that lost bytes is reset");
    assert_eq!(fired(&proxy, "black hole"), 1);
    let mut again = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(said_and_heard(&mut again, b"new").await.expect("an answer"), b"new");
}

#[tokio::test]
async fn a_reset_ends_everything_and_a_half_close_one_direction() {
    let (proxy, _echo) = echo().await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    assert!(said_and_heard(&mut stream, b"hello").await.is_some());
    proxy.reset();
    let end = tokio::time::timeout(LONG, stream.read(&mut [0])).await.expect("in time");
    assert!(end.is_err(), "a reset is no orderly end: {end:?}");
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
    assert!(said_and_heard(&mut stream, b"hello").await.is_some());
    proxy.half_close(Way::Down);
    let end = tokio::time::timeout(LONG, stream.read(&mut [0])).await.expect("in time");
    assert!(matches!(end, Ok(0)), "{end:?}");
    stream.write_all(b"still taken").await.expect("the other direction is open");
    assert_eq!((fired(&proxy, "reset"), fired(&proxy, "half-close")), (1, 1));
}

#[test]
fn a_schedule_repeats_with_its_seed_and_has_every_kind_in_a_round() {
    let acts = |seed| {
        let mut schedule = Schedule::new(seed);
        (0..24).map(|_| schedule.next_act()).collect::<Vec<_>>()
    };
    assert_eq!(acts(7), acts(7));
    assert_ne!(acts(7), acts(8));
    let round = &acts(7)[..8];
    let has = |kind: fn(&schedule::Act) -> bool| round.iter().any(|(act, _)| kind(act));
    use schedule::Act::{Bytes, HalfClose, Reset};
    assert!(has(|act| matches!(act, Reset)) && has(|act| matches!(act, HalfClose(_))));
    assert!(has(|act| matches!(act, Bytes(_, Fault::Delay(_), _))));
    assert!(has(|act| matches!(act, Bytes(Some(_), Fault::BlackHole, _))));
    assert!(has(|act| matches!(act, Bytes(None, Fault::Stall, _))));
    assert!(has(|act| matches!(act, Bytes(_, Fault::Drip { .. }, _))));
}
