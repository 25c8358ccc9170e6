//! What comes to the TLS port and is no TLS, or a handshake that never ends. Row 21 of the list, less the ticket that was
//! revoked: sessions are never resumed.

use crate::raw::PATIENCE;
use crate::siege::Siege;
use orch_certs::{Role, client_config};
use orch_tests::fleet::Fleet;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// A handshake must be over by then: the limit and some room.
const HANDSHAKE: Duration = Duration::from_secs(9);

fn config(fleet: &Fleet) -> ClientConfig {
    client_config(&fleet.certificate(Role::Client, "mallory"), SystemTime::now()).expect("a certificate")
}

async fn shake(address: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let host = ServerName::try_from("127.0.0.1").expect("a name");
    let tcp = TcpStream::connect(address).await?;
    tokio_rustls::TlsConnector::from(config).connect(host, tcp).await
}

/// Sends bytes, then reads to the end. What came; the server must have closed by `limit`.
async fn told(address: &str, bytes: &[u8], pause: Duration, limit: Duration) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.expect("connected");
    let talking = async {
        for byte in bytes.chunks(if pause.is_zero() { bytes.len().max(1) } else { 1 }) {
            if tcp.write_all(byte).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(limit, talking).await.expect("the server closes the connection")
}

/// The first flight of a client with an extension of `padding` bytes, cut into records as TLS wants it.
fn client_hello(padding: usize) -> Vec<u8> {
    let two = |number: usize| u16::try_from(number).expect("a length").to_be_bytes();
    let extensions = [
        &[0, 43, 0, 3, 2, 3, 4][..],          // TLS 1.3
        &[0, 10, 0, 4, 0, 2, 0, 29],          // x25519
        &[0, 13, 0, 4, 0, 2, 4, 3],           // ecdsa_secp256r1_sha256
        &[0, 51, 0, 38, 0, 36, 0, 29, 0, 32], // a key share
        &[9; 32],
        &[0, 42, 0, 0], // early data, of which nothing can come
        &[0, 21],
        &two(padding),
        &vec![0; padding],
    ]
    .concat();
    let body = [&[3, 3][..], &[5; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &two(extensions.len()), &extensions]
        .concat();
    let [_, a, b, c] = u32::try_from(body.len()).expect("a length").to_be_bytes();
    let hello = [&[1, a, b, c][..], &body].concat();
    hello.chunks(16_384).flat_map(|part| [&[22, 3, 1][..], &two(part.len()), part].concat()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_are_ended_and_keep_nobody_waiting() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let address = fleet.ports().grpc.clone();
    let attack = async {
        let began = Instant::now();
        let mut slow = JoinSet::new();
        for at in 0..100 {
            let address = address.clone();
            slow.spawn(async move {
                match at % 3 {
                    0 => told(&address, &[], Duration::ZERO, HANDSHAKE).await,
                    1 => told(&address, &client_hello(16)[..60], Duration::ZERO, HANDSHAKE).await,
                    _ => told(&address, &client_hello(100), Duration::from_millis(100), HANDSHAKE).await,
                }
            });
        }
        slow.join_all().await;
        assert!(began.elapsed() < HANDSHAKE);
    };
    siege.borne("handshakes that never end", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_handshake_or_an_odd_one_is_refused_at_once() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let address = fleet.ports().grpc.clone();
    let attack = async {
        let plain: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            b"SSH-2.0-OpenSSH_9.9\r\n",
            &[0; 4_096],
            &[0xff; 65_536],
        ];
        for bytes in plain {
            let answer = told(&address, bytes, Duration::ZERO, PATIENCE).await;
            // At most an alert: nothing that speaks HTTP listens here.
            assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
        }
        // Extensions as long as they can be; early data that is announced; both are taken or refused, and that is all.
        for padding in [0, 16 << 10, 60 << 10] {
            let answer = told(&address, &client_hello(padding), Duration::ZERO, HANDSHAKE).await;
            assert!(matches!(answer.first(), None | Some(21 | 22)), "{padding}: {:?}", answer.first());
        }
        for alpn in [vec![b"http/1.1".to_vec()], vec![b"spdy/3".to_vec(), b"h3".to_vec()]] {
            let mut wrong = config(&fleet);
            wrong.alpn_protocols = alpn;
            let refused = shake(&address, Arc::new(wrong)).await.expect_err("another protocol");
            assert!(!refused.to_string().is_empty());
        }
        // Who names no protocol must still speak the right one.
        let mut silent = config(&fleet);
        silent.alpn_protocols = Vec::new();
        if let Ok(mut tls) = shake(&address, Arc::new(silent)).await {
            tls.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
            let mut answer = Vec::new();
            let read = tokio::time::timeout(PATIENCE, tls.read_to_end(&mut answer)).await;
            let _ = read.expect("the server closes the connection");
            assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
        }
    };
    siege.borne("what is no handshake", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_goes_on_from_an_earlier_handshake_or_speaks_before_it() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut eager = config(&fleet);
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    eager.enable_early_data = true;
    let eager = Arc::new(eager);
    let attack = async {
        for _ in 0..5 {
            let mut tls = shake(&fleet.ports().grpc, Arc::clone(&eager)).await.expect("a handshake");
            assert_eq!(tls.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            assert!(!tls.get_ref().1.is_early_data_accepted());
            // Whatever tickets there are come now.
            let _ = tokio::time::timeout(Duration::from_millis(50), tls.read(&mut [0; 64])).await;
        }
    };
    siege.borne("earlier handshakes and early data", attack).await;
}
