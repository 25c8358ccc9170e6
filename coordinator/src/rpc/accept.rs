//! Connections before gRPC: TCP accept, TLS handshake, and who is at the other end.
//! Knows certificates and time limits; refuses to know methods, roles and requests.
//!
//! Our own acceptor, because tonic's holds one certificate for life. Connections are bounded in number, handshakes in
//! number and in time, and an accept error never ends the loop: it is logged, and the loop goes on after a pause.

use orch_certs::{Identity, IdentityError, ServerTls};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// Connections at a time: 10,000 agents have two each. One more is closed at once, and its owner comes back later.
const MAX_CONNECTIONS: usize = 20_000;
/// Handshakes under way at once. Each costs about 2 ms of CPU, so that all of them are done well within their limit
/// when a fleet comes back together; and so many silent peers it takes to keep others waiting.
const MAX_HANDSHAKES: usize = 512;
/// A peer that has not finished its handshake by then is dropped.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, for example when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Finished handshakes that wait for the server; when full, handshakes keep their places until there is room.
const READY_CONNECTIONS: usize = 64;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address, for logs.
    pub address: SocketAddr,
    /// Identity of the certificate, or why it holds none.
    pub identity: Result<Identity, IdentityError>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: Arc<Peer>,
    _place: OwnedSemaphorePermit,
}

/// How many connections and handshakes there may be.
#[derive(Debug)]
struct Places {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

/// Accepts until `stop`, and hands finished connections to the returned receiver.
pub async fn accept_loop(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    ready: mpsc::Sender<io::Result<PeerStream>>,
    stop: CancellationToken,
) {
    accept_bounded(listener, tls, ready, stop, MAX_CONNECTIONS).await;
}

async fn accept_bounded(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    ready: mpsc::Sender<io::Result<PeerStream>>,
    stop: CancellationToken,
    max_connections: usize,
) {
    let places = Places {
        connections: Arc::new(Semaphore::new(max_connections)),
        handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
    };
    let mut full = Announced::default();
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = handshakes.join_next(), if !handshakes.is_empty() => continue,
            accepted = accept_one(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, address, handshake)) => {
                let Ok(place) = Arc::clone(&places.connections).try_acquire_owned() else {
                    full.say(
                        || tracing::warn!(%address, max_connections, "too many connections: one is closed"),
                    );
                    continue;
                };
                full.is_over();
                let (tls, ready) = (tls.current(), ready.clone());
                handshakes.spawn(async move {
                    // Ends with the handshake, or when the server has taken the connection over.
                    let _handshake = handshake;
                    shake(stream, address, tls, place, ready).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    place: OwnedSemaphorePermit,
    ready: mpsc::Sender<io::Result<PeerStream>>,
) {
    match tokio::time::timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(tls).accept(stream)).await {
        // A closed receiver means that the server is going away; the peer reconnects.
        Ok(Ok(stream)) => drop(ready.send(Ok(PeerStream::new(stream, address, place))).await),
        Ok(Err(error)) => tracing::info!(%address, %error, "handshake refused"),
        Err(_) => tracing::info!(%address, "handshake took too long"),
    }
}

/// Says something once each time it begins.
#[derive(Debug, Default)]
struct Announced(bool);

impl Announced {
    fn say(&mut self, how: impl FnOnce()) {
        if !std::mem::replace(&mut self.0, true) {
            how();
        }
    }

    fn is_over(&mut self) {
        self.0 = false;
    }
}

/// The channel between [`accept_loop`] and the server.
#[must_use]
pub fn ready_channel() -> (mpsc::Sender<io::Result<PeerStream>>, mpsc::Receiver<io::Result<PeerStream>>) {
    mpsc::channel(READY_CONNECTIONS)
}

async fn accept_one(
    listener: &TcpListener,
    places: &Places,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(&places.handshakes).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, address, permit))
}

impl PeerStream {
    fn new(stream: TlsStream<TcpStream>, address: SocketAddr, place: OwnedSemaphorePermit) -> Self {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = Identity::from_certificate_der(certificates.first().map_or(&[], |der| der.as_ref()));
        Self { stream, peer: Arc::new(Peer { address, identity }), _place: place }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_certs::dial::Connector;
    use orch_certs::{Ca, ClientTls, LeafRequest, Role};
    use std::time::SystemTime;
    use tokio::io::AsyncReadExt as _;

    fn tls(dir: &std::path::Path) -> (Arc<ServerTls>, Connector) {
        let now = SystemTime::now();
        let (ca, _) = Ca::ensure(&dir.join("ca"), "orch.test", now).unwrap();
        let files = |role, name: &str, hosts: &[&str]| {
            let identity = Identity::new("orch.test", role, "default", name).unwrap();
            let request = LeafRequest::new(identity).hosts(hosts.iter().copied());
            ca.ensure_leaf(&dir.join(name), &request, now).unwrap().files().clone()
        };
        let server = ServerTls::load(files(Role::Coordinator, "coordinator", &["127.0.0.1"]), now).unwrap();
        let client = ClientTls::load(files(Role::Client, "ana", &[]), now).unwrap();
        (Arc::new(server), Connector::new(Arc::new(client)))
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_its_place_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (server, connector) = tls(dir.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (ready, mut connections) = ready_channel();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept_bounded(listener, server, ready, stop.clone(), 1));

        let uri: http::Uri = format!("https://{address}").parse().unwrap();
        let mut dialling = JoinSet::new();
        let dialled = connector.clone();
        dialling.spawn(async move { dialled.dial(&uri).await });
        let first = connections.recv().await.unwrap().unwrap();
        assert_eq!(first.peer.identity.as_ref().unwrap().name(), "ana");

        let mut second = TcpStream::connect(address).await.unwrap();
        let ended = second.read(&mut [0; 1]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "the second is closed without a word: {ended:?}");
        drop(first);
        let again: http::Uri = format!("https://{address}").parse().unwrap();
        dialling.spawn(async move { connector.dial(&again).await });
        connections.recv().await.unwrap().unwrap();
        stop.cancel();
        accepting.join_all().await;
    }
}
