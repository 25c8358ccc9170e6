//! The wire by hand: calls by the name of a method, an agent that says what a test wants said, a look at the
//! certificate of a server. Knows tonic and TLS; refuses to know what a test is after.

use crate::client::channel;
use crate::fleet::Fleet;
use crate::wait::PATIENCE;
use orch_certs::{Role, TlsFiles, client_config};
use orch_proto::codes::{CODE_KEY, ErrorCode};
use orch_proto::v1::agent_service_client::AgentServiceClient;
use orch_proto::v1::{self, agent_item, coordinator_item};
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt as _;

/// Items on their way to the coordinator: more than any test says at once.
const ITEMS: usize = 64;

/// The row of the code table that a status names.
#[must_use]
pub fn code(status: &Status) -> Option<ErrorCode> {
    ErrorCode::from_code(status.get_error_details().error_info()?.metadata.get(CODE_KEY)?)
}

/// Messages as bytes; what comes back is not looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        let length = prost::bytes::Buf::remaining(buffer);
        prost::bytes::Buf::advance(buffer, length);
        Ok(Some(()))
    }
}

/// Calls `method` (`/package.Service/Method`) with these messages, and returns the head of the answer.
///
/// # Errors
/// The refusal in the head.
///
/// # Panics
/// When `method` is no path.
pub async fn call(
    channel: Channel,
    method: &str,
    messages: impl Stream<Item = Vec<u8>> + Send + 'static,
) -> Result<Streaming<()>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let path = method.parse().expect("a path");
    Ok(grpc.streaming(Request::new(messages), path, Raw).await?.into_inner())
}

/// A Hello of an agent that runs no-ops and programs.
#[must_use]
pub fn hello(agent: &str) -> v1::Hello {
    v1::Hello {
        protocol_min: 1,
        protocol_max: 1,
        agent: agent.into(),
        incarnation: vec![9; 16],
        slots: 4,
        runners: vec!["noop".into(), "command".into()],
        ..Default::default()
    }
}

/// An agent that is played by hand.
#[derive(Debug)]
pub struct HandAgent {
    frames: mpsc::Sender<v1::AgentMessage>,
    answers: Streaming<v1::CoordinatorMessage>,
    heard: VecDeque<coordinator_item::Item>,
}

impl HandAgent {
    /// Opens a session with the certificate of `hello`'s agent, and waits for the answer's head.
    ///
    /// # Errors
    /// Why the coordinator refuses.
    pub async fn join(fleet: &Fleet, hello: v1::Hello) -> Result<Self, Status> {
        let files = fleet.certificate(Role::Agent, &hello.agent);
        Self::join_at(&fleet.ports().grpc, &files, hello).await
    }

    /// The same with the coordinator at `address` (`host:port`) and a certificate that is there already.
    ///
    /// # Errors
    /// Why the coordinator refuses.
    pub async fn join_at(address: &str, files: &TlsFiles, hello: v1::Hello) -> Result<Self, Status> {
        let mut agents = AgentServiceClient::new(channel(address, files));
        let (frames, stream) = mpsc::channel(ITEMS);
        let first = frame(agent_item::Item::Hello(hello));
        let stream = tokio_stream::once(first).chain(ReceiverStream::new(stream));
        let answers = agents.session(stream).await?.into_inner();
        Ok(Self { frames, answers, heard: VecDeque::new() })
    }

    /// Says something. A session that is over hears nothing more.
    pub async fn say(&self, item: agent_item::Item) {
        let _ = self.frames.send(frame(item)).await;
    }

    /// Waits for what `pick` wants, passing over everything else.
    ///
    /// # Errors
    /// Why the session ended; `OK` when it did in order.
    ///
    /// # Panics
    /// When nothing comes for [`PATIENCE`].
    pub async fn until<T>(
        &mut self,
        mut pick: impl FnMut(&coordinator_item::Item) -> Option<T>,
    ) -> Result<T, Status> {
        loop {
            while let Some(item) = self.heard.pop_front() {
                if let Some(found) = pick(&item) {
                    return Ok(found);
                }
            }
            let next = tokio::time::timeout(PATIENCE, self.answers.message()).await;
            let frame = next.expect("a word from the coordinator, or the end of the session")?;
            let frame = frame.ok_or_else(|| Status::ok("the session ended"))?;
            self.heard.extend(frame.items.into_iter().filter_map(|item| item.item));
        }
    }

    /// Waits for an assignment.
    ///
    /// # Errors
    /// Why the session ended instead.
    pub async fn assignment(&mut self) -> Result<v1::Assignment, Status> {
        self.until(|item| {
            let coordinator_item::Item::Assign(assignment) = item else { return None };
            Some(assignment.clone())
        })
        .await
    }

    /// Waits for the end of the session, and returns why it ended.
    pub async fn end(&mut self) -> Status {
        match self.until(|_| None::<()>).await {
            Ok(()) => Status::ok("the session ended"),
            Err(status) => status,
        }
    }
}

fn frame(item: agent_item::Item) -> v1::AgentMessage {
    v1::AgentMessage { items: vec![v1::AgentItem { item: Some(item) }] }
}

/// The certificate that the server at `address` (`host:port`) shows now.
///
/// # Panics
/// When it cannot be reached.
pub async fn server_certificate(address: &str, files: &TlsFiles) -> CertificateDer<'static> {
    let config = client_config(files, SystemTime::now()).expect("client certificate");
    let tcp = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("handshake");
    let shown = tls.get_ref().1.peer_certificates().expect("certificates");
    shown.first().expect("a certificate").clone().into_owned()
}
