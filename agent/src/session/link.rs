//! The wire to the coordinator: two connections, one for control and one for bulk, so that a transcript never
//! holds up a heartbeat. Knows endpoints and streams; refuses to know what is said on them.

use crate::causes::one_line;
use crate::session::dial::{Dial, Dialler};
use orch_proto::v1::agent_service_client::AgentServiceClient;
use orch_proto::v1::blob_service_client::BlobServiceClient;
use orch_proto::v1::transcript_service_client::TranscriptServiceClient;
use orch_proto::v1::{AgentMessage, CoordinatorMessage};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Largest message either side sends.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Frames between the daemon and HTTP/2: few, so that items gather into one frame while the last is on its way.
const FRAMES: usize = 4;
/// The first frame must come within this after the connection is there.
const WELCOME_LIMIT: Duration = Duration::from_secs(20);
/// Dead sockets are noticed by HTTP/2 pings; the heartbeats above them are what counts.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A ping that is not answered within this ends the connection.
const PING_LIMIT: Duration = Duration::from_secs(10);

/// Where the coordinator is, and who we are.
#[derive(Debug, Clone)]
pub struct Coordinators {
    endpoints: Vec<Endpoint>,
    next: usize,
    dialler: Dialler,
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is not an address of a coordinator such as https://host:7443")]
pub struct BadEndpoint {
    url: String,
}

/// An open session.
#[derive(Debug)]
pub struct Link {
    /// Frames to the coordinator.
    pub outbound: mpsc::Sender<AgentMessage>,
    /// The first frame from the coordinator; begins with Welcome when all is well.
    pub first: CoordinatorMessage,
    /// Further frames from the coordinator.
    pub inbound: Streaming<CoordinatorMessage>,
    /// The other connection.
    pub bulk: Bulk,
}

/// The connection for bulk bytes. Connects when first used.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// Blobs.
    pub blobs: BlobServiceClient<Channel>,
    /// Transcripts.
    pub transcripts: TranscriptServiceClient<Channel>,
}

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection.
    #[error("cannot reach the coordinator: {0}")]
    Connect(String),
    /// The coordinator said no.
    #[error("the coordinator refused the session: {}", .0.message())]
    Refused(Status),
    /// The coordinator ended the session without a word.
    #[error("the coordinator ended the session without a word")]
    Ended,
    /// The coordinator said nothing.
    #[error("the coordinator did not answer the Hello within {} s", WELCOME_LIMIT.as_secs())]
    Silent,
}

impl Coordinators {
    /// Coordinators at `urls`, tried in turn, reached through `dial`.
    ///
    /// # Errors
    /// When an address is none.
    pub fn new(urls: &[String], dial: Arc<dyn Dial>) -> Result<Self, BadEndpoint> {
        let endpoint = |url: &String| {
            let bare = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or(url);
            let endpoint = Endpoint::from_shared(format!("http://{bare}"));
            let endpoint = endpoint.map_err(|_| BadEndpoint { url: url.clone() })?;
            Ok(endpoint
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_LIMIT)
                .keep_alive_while_idle(true)
                .tcp_nodelay(true))
        };
        let endpoints = urls.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { endpoints, next: 0, dialler: Dialler(dial) })
    }

    /// The endpoint to try now; the following call gives the next one.
    fn turn(&mut self) -> Option<Endpoint> {
        let endpoint = self.endpoints.get(self.next % self.endpoints.len().max(1)).cloned();
        self.next = self.next.wrapping_add(1);
        endpoint
    }

    /// Starts to open a session whose first frame is `hello`. The future owns all it needs.
    pub fn open(
        &mut self,
        hello: AgentMessage,
    ) -> impl Future<Output = Result<Link, OpenError>> + Send + use<> {
        let endpoint = self.turn();
        let dialler = self.dialler.clone();
        async move {
            let endpoint =
                endpoint.ok_or_else(|| OpenError::Connect("no coordinator is configured".to_owned()))?;
            let control = endpoint.connect_with_connector(dialler.clone()).await;
            let control = control.map_err(|error| OpenError::Connect(one_line(&error)))?;
            let (outbound, frames) = mpsc::channel(FRAMES);
            // The channel was just made and is empty: there is room for one frame.
            drop(outbound.try_send(hello));
            let (first, inbound) = tokio::time::timeout(WELCOME_LIMIT, session(control, frames))
                .await
                .map_err(|_| OpenError::Silent)??;
            let bulk = endpoint.connect_with_connector_lazy(dialler);
            let bulk = Bulk {
                blobs: BlobServiceClient::new(bulk.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
                transcripts: TranscriptServiceClient::new(bulk).max_decoding_message_size(MAX_MESSAGE_BYTES),
            };
            Ok(Link { outbound, first, inbound, bulk })
        }
    }
}

/// Opens the stream and waits for its first frame.
async fn session(
    control: Channel,
    frames: mpsc::Receiver<AgentMessage>,
) -> Result<(CoordinatorMessage, Streaming<CoordinatorMessage>), OpenError> {
    let mut client = AgentServiceClient::new(control)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let answer = client.session(ReceiverStream::new(frames)).await;
    let mut inbound = answer.map_err(OpenError::Refused)?.into_inner();
    let first = inbound.message().await.map_err(OpenError::Refused)?;
    Ok((first.ok_or(OpenError::Ended)?, inbound))
}
