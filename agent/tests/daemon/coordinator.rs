//! A coordinator that says what a test tells it, over real HTTP/2 on loopback, without TLS. A fake: it keeps no state
//! but the transcripts it was sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::blobs::Blobs;
use orch_agent::session::dial::{Dial, Dialling, Wire};
use orch_proto::v1;
use orch_proto::v1::agent_item::Item as Said;
use orch_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use orch_proto::v1::blob_service_server::BlobServiceServer;
use orch_proto::v1::coordinator_item::Item;
use orch_proto::v1::transcript_service_server::{TranscriptService, TranscriptServiceServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Long enough for a loaded machine, short enough to notice.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Sessions that may wait for the test; frames on their way to the agent.
const ROOM: usize = 16;

/// Dials plain TCP.
#[derive(Debug)]
pub(crate) struct Plain;

impl Dial for Plain {
    fn dial(&self, uri: http::Uri) -> Dialling {
        Box::pin(async move {
            let address = uri.authority().map(ToString::to_string).unwrap_or_default();
            Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Wire>)
        })
    }
}

/// The fake. Ends with every connection when it is dropped.
pub(crate) struct Coordinator {
    pub(crate) url: String,
    sessions: mpsc::Receiver<Session>,
    transcripts: Transcripts,
    pub(crate) blobs: Blobs,
    _server: JoinSet<()>,
}

type Transcripts = Arc<Mutex<BTreeMap<(u64, u32, u32), (Vec<u8>, bool)>>>;

/// One stream of an agent. Cut when it is dropped.
pub(crate) struct Session {
    /// What the agent said first.
    pub(crate) hello: v1::Hello,
    said: Streaming<v1::AgentMessage>,
    unread: std::vec::IntoIter<v1::AgentItem>,
    answers: mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (opened, sessions) = mpsc::channel(ROOM);
        let transcripts = Transcripts::default();
        let scribe = Scribe(Arc::clone(&transcripts));
        let blobs = Blobs::default();
        let store = BlobServiceServer::new(blobs.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(AgentServiceServer::new(Front(opened)))
                .add_service(TranscriptServiceServer::new(scribe))
                .add_service(store)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { url, sessions, transcripts, blobs, _server: server }
    }

    /// The next session of the agent, without Welcome.
    pub(crate) async fn session(&mut self) -> Session {
        let session = tokio::time::timeout(PATIENCE, self.sessions.recv()).await;
        session.expect("the agent comes").expect("the server runs")
    }

    /// The next session, welcomed.
    pub(crate) async fn welcomed(&mut self, epoch: u64) -> Session {
        let session = self.session().await;
        session.say([Item::Welcome(welcome(epoch))]).await;
        session
    }

    /// What was received of a transcript, and whether its end was.
    pub(crate) fn transcript(&self, run: u64, task: u32, attempt: u32) -> Option<(Vec<u8>, bool)> {
        self.transcripts.lock().unwrap().get(&(run, task, attempt)).cloned()
    }
}

/// Welcome with quick heartbeats.
pub(crate) fn welcome(epoch: u64) -> v1::Welcome {
    v1::Welcome {
        epoch,
        cluster_id: b"cluster".to_vec(),
        heartbeat_interval: prost_types::Duration::try_from(Duration::from_millis(20)).ok(),
        ..v1::Welcome::default()
    }
}

impl Session {
    pub(crate) async fn say(&self, items: impl IntoIterator<Item = Item>) {
        let items = items.into_iter().map(|item| v1::CoordinatorItem { item: Some(item) }).collect();
        self.answers.send(Ok(v1::CoordinatorMessage { items })).await.expect("the agent listens");
    }

    /// The next thing the agent says that is no heartbeat. Heartbeats are answered.
    pub(crate) async fn next(&mut self) -> Said {
        loop {
            match self.anything().await {
                Said::Heartbeat(heartbeat) => self.answer(&heartbeat).await,
                said => return said,
            }
        }
    }

    /// The next heartbeat, answered; everything else on the way is passed over.
    pub(crate) async fn heartbeat(&mut self) -> v1::Heartbeat {
        loop {
            if let Said::Heartbeat(heartbeat) = self.anything().await {
                self.answer(&heartbeat).await;
                return heartbeat;
            }
        }
    }

    async fn answer(&self, heartbeat: &v1::Heartbeat) {
        let ack = v1::HeartbeatAck { seq: heartbeat.seq, unknown: Vec::new() };
        self.say([Item::HeartbeatAck(ack)]).await;
    }

    async fn anything(&mut self) -> Said {
        loop {
            if let Some(item) = self.unread.next() {
                return item.item.expect("an item says something");
            }
            let frame = tokio::time::timeout(PATIENCE, self.said.message()).await;
            let frame = frame.expect("the agent speaks").expect("the stream is whole");
            self.unread = frame.expect("the agent goes on").items.into_iter();
        }
    }

    /// Waits until the agent has left.
    pub(crate) async fn left(mut self) {
        let leave = async { while let Ok(Some(_)) = self.said.message().await {} };
        tokio::time::timeout(PATIENCE, leave).await.expect("the agent leaves");
    }
}

struct Front(mpsc::Sender<Session>);

#[tonic::async_trait]
impl AgentService for Front {
    type SessionStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut said = request.into_inner();
        let mut unread = said.message().await?.ok_or_else(|| Status::aborted("no frame"))?.items.into_iter();
        let Some(Some(Said::Hello(hello))) = unread.next().map(|item| item.item) else {
            return Err(Status::aborted("no Hello"));
        };
        let (answers, stream) = mpsc::channel(ROOM);
        let session = Session { hello, said, unread, answers };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct Scribe(Transcripts);

#[tonic::async_trait]
impl TranscriptService for Scribe {
    type AppendTranscriptStream = ReceiverStream<Result<v1::AppendTranscriptResponse, Status>>;
    type ReadTranscriptStream = ReceiverStream<Result<v1::ReadTranscriptResponse, Status>>;

    async fn append_transcript(
        &self,
        request: Request<Streaming<v1::AppendTranscriptRequest>>,
    ) -> Result<Response<Self::AppendTranscriptStream>, Status> {
        let (answers, stream) = mpsc::channel(ROOM);
        let (transcripts, mut chunks) = (Arc::clone(&self.0), request.into_inner());
        let take = async move {
            while let Ok(Some(chunk)) = chunks.message().await {
                let id = chunk.attempt.unwrap();
                let received = {
                    let mut transcripts = transcripts.lock().unwrap();
                    let (bytes, ended) =
                        transcripts.entry((id.run_id, id.task_index, id.attempt)).or_default();
                    if !chunk.data.is_empty() {
                        assert_eq!(chunk.offset, bytes.len() as u64, "a gap, or something sent twice");
                        bytes.extend(chunk.data);
                    }
                    *ended |= chunk.last;
                    bytes.len() as u64
                };
                let answer = v1::AppendTranscriptResponse { attempt: Some(id), received, durable: received };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        };
        // It ends with the stream of the agent, which ends with the test.
        let mut tasks = JoinSet::new();
        tasks.spawn(take);
        tasks.detach_all();
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn read_transcript(
        &self,
        _request: Request<v1::ReadTranscriptRequest>,
    ) -> Result<Response<Self::ReadTranscriptStream>, Status> {
        Err(Status::unimplemented("agents do not read"))
    }
}
