//! Connections of the simulation: plain HTTP/2 over simulated TCP. Whoever dials says in one line who it is, in place of
//! a certificate, and the coordinator takes its word for it.

use hyper_util::rt::TokioIo;
use orch_agent::session::dial::{Dial, Dialling, Wire};
use orch_certs::{Identity, Role};
use orch_coordinator::rpc::accept::Peer;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use turmoil::net::{TcpListener, TcpStream};

/// Trust domain of everybody.
pub(crate) const DOMAIN: &str = "orch.test";
/// Name of the coordinator's host.
pub(crate) const COORDINATOR: &str = "coordinator";
/// Where it listens.
pub(crate) const PORT: u16 = 7443;
/// Connections that wait for the server.
const READY: usize = 64;
/// Who has not said who it is by then is dropped.
const GREETING_LIMIT: Duration = Duration::from_secs(5);

/// Who dials.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) role: Role,
    pub(crate) name: String,
}

impl Name {
    pub(crate) fn new(role: Role, name: &str) -> Self {
        Self { role, name: name.to_owned() }
    }

    async fn dial(self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect((COORDINATOR, PORT)).await?;
        stream.write_all(format!("{} {}\n", self.role, self.name).as_bytes()).await?;
        Ok(stream)
    }

    /// A channel to the coordinator, made when it is first used.
    pub(crate) fn channel(&self) -> Channel {
        let this = self.clone();
        let dial = tower::service_fn(move |_: http::Uri| {
            let this = this.clone();
            async move { this.dial().await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://coordinator:7443")
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(dial)
    }
}

impl Dial for Name {
    fn dial(&self, _uri: http::Uri) -> Dialling {
        let this = self.clone();
        Box::pin(async move { Ok(Box::new(Self::dial(this).await?) as Box<dyn Wire>) })
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct SimStream {
    stream: TcpStream,
    peer: Arc<Peer>,
}

/// Accepts for ever.
pub(crate) async fn accept(ready: mpsc::Sender<io::Result<SimStream>>) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let mut greetings = JoinSet::new();
    loop {
        let (mut stream, address) = listener.accept().await?;
        let ready = ready.clone();
        greetings.spawn(async move {
            let greeted = tokio::time::timeout(GREETING_LIMIT, greeting(&mut stream)).await;
            let Ok(Ok((role, name))) = greeted else { return };
            let identity = Identity::new(DOMAIN, role, "default", &name);
            let peer = Arc::new(Peer { address, identity });
            // A server that is gone takes nobody.
            drop(ready.send(Ok(SimStream { stream, peer })).await);
        });
        while greetings.try_join_next().is_some() {}
    }
}

/// The channel between [`accept`] and the server.
pub(crate) fn ready_channel() -> (mpsc::Sender<io::Result<SimStream>>, mpsc::Receiver<io::Result<SimStream>>)
{
    mpsc::channel(READY)
}

async fn greeting(stream: &mut TcpStream) -> io::Result<(Role, String)> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    let (role, name) = line.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    let roles = [Role::Client, Role::Agent, Role::Admin];
    let role = roles.into_iter().find(|known| known.to_string() == role).ok_or(io::ErrorKind::InvalidData)?;
    Ok((role, name.to_owned()))
}

impl Connected for SimStream {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
