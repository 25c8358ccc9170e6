//! Both ends of the connection: a fresh authority, a certificate each, a listener and a dialler. Knows orch's TLS. Refuses to
//! know what is called.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use anyhow::Context as _;
use orch_certs::dial::Connector;
use orch_certs::{Ca, ClientTls, Identity, LeafRequest, Role, ServerTls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Endpoint, Server};

use super::echo::{Client, Echoing};

const DOMAIN: &str = "limits.local";
/// Connections that shook hands and are not served yet; one at a time is dialled.
const READY: usize = 4;

/// Certificates of a server and of a client that trust each other.
pub(super) struct Ends {
    server: Arc<ServerTls>,
    client: Arc<ClientTls>,
}

impl Ends {
    /// Issues them below `dir`.
    pub(super) fn new(dir: &Path, now: SystemTime) -> anyhow::Result<Self> {
        let ca = Ca::create(&dir.join("ca"), DOMAIN, now)?;
        let issued = |role, name: &str, hosts: &[&str]| {
            let request = LeafRequest::new(Identity::new(DOMAIN, role, "default", name)?);
            let leaf = ca.issue(&request.hosts(hosts.iter().copied()), now)?;
            Ok::<_, anyhow::Error>(leaf.write(&dir.join(name))?)
        };
        let server = issued(Role::Coordinator, "server", &["localhost"])?;
        let client = issued(Role::Client, "client", &[])?;
        Ok(Self {
            server: Arc::new(ServerTls::load(server, now)?),
            client: Arc::new(ClientTls::load(client, now)?),
        })
    }

    /// A listener on loopback and its port.
    pub(super) async fn listen(&self) -> anyhow::Result<(TcpListener, u16)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    }

    /// Serves until dropped.
    pub(super) fn serve(&self, listener: TcpListener) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let tls = Arc::clone(&self.server);
        async move {
            let (ready, connections) = mpsc::channel(READY);
            let mut accepting = JoinSet::new();
            accepting.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let accepted =
                        stream.set_nodelay(true).map(|()| TlsAcceptor::from(tls.current()).accept(stream));
                    let Ok(handshake) = accepted else { continue };
                    if ready.send(handshake.await.map(Wire)).await.is_err() {
                        return;
                    }
                }
            });
            let incoming = ReceiverStream::<io::Result<Wire>>::new(connections);
            Ok(Server::builder().add_service(Echoing).serve_with_incoming(incoming).await?)
        }
    }

    /// A client over a new connection.
    pub(super) async fn connect(&self, port: u16) -> anyhow::Result<Client> {
        let endpoint = Endpoint::from_shared(format!("https://localhost:{port}"))?;
        let connector = Connector::new(Arc::clone(&self.client));
        Ok(Client::new(endpoint.connect_with_connector(connector).await?))
    }
}

/// An accepted connection; tonic wants to be told what is known of it, which is nothing.
struct Wire(TlsStream<TcpStream>);

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
