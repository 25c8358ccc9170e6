//! The gRPC server put together: layers, services, limits, and an end that comes in bounded time.
//! Knows every service by name; what they do is theirs.

use crate::engine::Handle;
use crate::rpc::accept::{Peer, PeerStream, accept_loop, ready_channel};
use crate::rpc::admin_service::Admin;
use crate::rpc::auth::{AuthLayer, METHOD_ROLES};
use crate::rpc::blob_service::Blobber;
use crate::rpc::connections::serve_each;
use crate::rpc::cost_service::Costs;
use crate::rpc::layers::{Observer, TraceLayer};
use crate::rpc::limits::{Bounds, LimitLayer};
use crate::rpc::run_service::Runs;
use crate::rpc::session::{FrameStream, SessionParts, open};
use crate::rpc::transcript_service::Scribe;
use crate::rpc::watch::WatchDoor;
use crate::rpc::workflow_service::Flows;
use futures_core::Stream;
use orch_certs::ServerTls;
use orch_proto::FILE_DESCRIPTOR_SET;
use orch_proto::v1::AgentMessage;
use orch_proto::v1::admin_service_server::AdminServiceServer;
use orch_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use orch_proto::v1::blob_service_server::BlobServiceServer;
use orch_proto::v1::cost_service_server::CostServiceServer;
use orch_proto::v1::run_service_server::RunServiceServer;
use orch_proto::v1::transcript_service_server::TranscriptServiceServer;
use orch_proto::v1::workflow_service_server::WorkflowServiceServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::ServiceBuilder;

/// Largest message either way.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Both message limits on a generated server: tonic bounds only what it receives.
macro_rules! limit {
    ($server:expr) => {
        $server.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
    };
}
/// The agents' service: a session a stream.
#[derive(Debug, Clone)]
pub struct Agents {
    parts: Arc<SessionParts>,
}

impl Agents {
    /// Serves sessions.
    #[must_use]
    pub fn new(parts: SessionParts) -> Self {
        Self { parts: Arc::new(parts) }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = FrameStream;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<FrameStream>, Status> {
        Ok(Response::new(open(&self.parts, request).await?))
    }
}

/// All services.
#[derive(Debug)]
pub struct Services<H: Health> {
    /// Runs.
    pub runs: Runs,
    /// Workflows.
    pub flows: Flows,
    /// Bulk bytes.
    pub blobs: Blobber,
    /// Transcripts.
    pub transcripts: Scribe,
    /// Sessions.
    pub agents: Agents,
    /// The fleet.
    pub admin: Admin,
    /// Money and limits.
    pub costs: Costs,
    /// Health, the same as on the probe port.
    pub health: HealthServer<H>,
}

/// Serves until `stop`. Returns when every connection has ended; the caller bounds how long that may take.
///
/// # Errors
/// When the server cannot run at all.
pub async fn serve<H: Health>(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    services: Services<H>,
    engine: &Handle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let domain = tls.identity().domain().to_owned();
    let (ready, connections) = ready_channel();
    let accepting = accept_loop(listener, tls, ready, stop.clone());
    let incoming = ReceiverStream::<std::io::Result<PeerStream>>::new(connections);
    let serving = serve_connections(incoming, &domain, services, engine, stop);
    let ((), served) = tokio::join!(accepting, serving);
    served
}

/// Serves the connections of `incoming`, each of which says who is at its other end, to callers of the trust domain
/// `domain`, until `stop`. The seam between gRPC and the network: a coordinator gives what its TLS acceptor took in, a
/// simulation what it likes.
///
/// # Errors
/// When the server cannot run at all.
pub async fn serve_connections<IO, H: Health>(
    incoming: impl Stream<Item = std::io::Result<IO>> + Send,
    domain: &str,
    services: Services<H>,
    engine: &Handle,
    stop: CancellationToken,
) -> anyhow::Result<()>
where
    IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = Arc<Peer>> + Unpin + Send + 'static,
{
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection_alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let mut routes = Routes::builder();
    routes
        .add_service(WatchDoor::new(limit!(RunServiceServer::new(services.runs.clone())), services.runs))
        .add_service(limit!(WorkflowServiceServer::new(services.flows)))
        .add_service(limit!(BlobServiceServer::new(services.blobs)))
        .add_service(limit!(TranscriptServiceServer::new(services.transcripts)))
        .add_service(limit!(AgentServiceServer::new(services.agents)))
        .add_service(limit!(AdminServiceServer::new(services.admin)))
        .add_service(limit!(CostServiceServer::new(services.costs)))
        .add_service(services.health)
        .add_service(reflection.build_v1()?)
        .add_service(reflection_alpha.build_v1alpha()?);
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new(observer(engine), fresh_id))
        .layer(AuthLayer::new(domain))
        .layer(LimitLayer::new(Bounds::default()))
        .service(routes.routes().prepare());
    serve_each(incoming, service, stop).await;
    Ok(())
}

fn fresh_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// Counts every request; methods that nobody serves count as one.
fn observer(engine: &Handle) -> Observer {
    let metrics = engine.metrics();
    for (method, _) in METHOD_ROLES {
        metrics.rpc_known(method);
    }
    Arc::new(move |method, code, seconds| {
        let known = METHOD_ROLES.iter().find(|(name, _)| *name == method).map_or("unknown", |(name, _)| name);
        metrics.rpc_answered(known, code_word(code), Duration::from_secs_f64(seconds));
    })
}

/// The name that gRPC gives a code.
const fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
