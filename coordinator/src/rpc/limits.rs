//! How much the coordinator takes in hand at a time. Beyond it a request is refused at once, typed and with a delay,
//! rather than queued where nobody sees it.
//! Knows three kinds of methods by name; refuses to know who calls and what is asked.

use crate::rpc::status::refuse;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use orch_proto::codes::ErrorCode;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

/// Plain requests in hand: far more than the engine needs to be busy, and each may hold a message of 1 MiB.
const MAX_REQUESTS: usize = 1_024;
/// Streams of bulk at a time: each holds some chunks for as long as its peer cares to take.
const MAX_BULK: usize = 512;
/// Sessions, watches and transcripts under way: 10,000 agents with eight slots each, and room.
const MAX_STREAMS: usize = 100_000;
/// A plain request that takes longer is given up: a peer that never sends its message must not keep a place.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// Bulk waits for its turn this long: a result that an agent cannot deliver now is delivered much later.
const BULK_WAIT: Duration = Duration::from_secs(10);

/// Methods that move bulk, by streams that end.
const BULK: &[&str] = &[
    "/orch.v1.BlobService/PutBlob",
    "/orch.v1.BlobService/GetBlob",
    "/orch.v1.TranscriptService/ReadTranscript",
    "/orch.v1.AdminService/Backup",
    "/orch.v1.AdminService/Restore",
];
/// Methods whose streams last as long as somebody wants them.
const STREAMS: &[&str] = &[
    "/orch.v1.RunService/WatchRuns",
    "/orch.v1.TranscriptService/AppendTranscript",
    "/orch.v1.AgentService/Session",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Plain requests in hand.
    pub requests: usize,
    /// Streams of bulk.
    pub bulk: usize,
    /// Other streams.
    pub streams: usize,
    /// Longest plain request.
    pub request_limit: Duration,
    /// Longest wait of bulk for its turn.
    pub bulk_wait: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            requests: MAX_REQUESTS,
            bulk: MAX_BULK,
            streams: MAX_STREAMS,
            request_limit: REQUEST_LIMIT,
            bulk_wait: BULK_WAIT,
        }
    }
}

/// How long a method stays in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Until it is answered.
    Request,
    /// Until its bulk has gone through.
    Bulk,
    /// Until somebody ends it.
    Stream,
}

impl Kind {
    fn of(method: &str) -> Self {
        if BULK.contains(&method) {
            Self::Bulk
        } else if STREAMS.contains(&method) {
            Self::Stream
        } else {
            Self::Request
        }
    }
}

#[derive(Debug)]
struct Gates {
    bounds: Bounds,
    requests: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Gates {
    async fn enter(&self, kind: Kind) -> Result<OwnedSemaphorePermit, Status> {
        let now = |gate: &Arc<Semaphore>, what: &str| {
            let full = |_| overloaded(format!("{} {what} are in hand already", self.bound(kind)));
            Arc::clone(gate).try_acquire_owned().map_err(full)
        };
        match kind {
            Kind::Request => now(&self.requests, "requests"),
            Kind::Stream => now(&self.streams, "streams"),
            Kind::Bulk => {
                let turn = Arc::clone(&self.bulk).acquire_owned();
                let permit = tokio::time::timeout(self.bounds.bulk_wait, turn).await;
                let full = || overloaded(format!("{} transfers are under way already", self.bound(kind)));
                permit.ok().and_then(Result::ok).ok_or_else(full)
            }
        }
    }

    const fn bound(&self, kind: Kind) -> usize {
        match kind {
            Kind::Request => self.bounds.requests,
            Kind::Bulk => self.bounds.bulk,
            Kind::Stream => self.bounds.streams,
        }
    }
}

fn overloaded(message: String) -> Status {
    refuse(ErrorCode::Overloaded, message)
}

/// Bounds what all connections of a server have in hand together.
#[derive(Debug, Clone)]
pub struct LimitLayer {
    gates: Arc<Gates>,
}

impl LimitLayer {
    /// With these bounds.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let gate = |permits: usize| Arc::new(Semaphore::new(permits));
        let (requests, bulk, streams) = (gate(bounds.requests), gate(bounds.bulk), gate(bounds.streams));
        Self { gates: Arc::new(Gates { bounds, requests, bulk, streams }) }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit { inner, gates: Arc::clone(&self.gates) }
    }
}

/// The service made by [`LimitLayer`].
#[derive(Debug, Clone)]
pub struct Limit<S> {
    inner: S,
    gates: Arc<Gates>,
}

impl<S, B> Service<Request<B>> for Limit<S>
where
    S: Service<Request<B>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kind = Kind::of(request.uri().path());
        let gates = Arc::clone(&self.gates);
        // The one that said it was ready is the one to be called.
        let fresh = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            let permit = match gates.enter(kind).await {
                Ok(permit) => permit,
                Err(status) => return Ok(status.into_http()),
            };
            if kind != Kind::Request {
                return Ok(ready.call(request).await?.map(|body| Body::new(Held { body, _permit: permit })));
            }
            let limit = gates.bounds.request_limit;
            match tokio::time::timeout(limit, ready.call(request)).await {
                Ok(answer) => answer,
                Err(_) => {
                    let message = format!("not done within {} s and given up", limit.as_secs());
                    Ok(overloaded(message).into_http())
                }
            }
        })
    }
}

/// A body that keeps a place until it is over or nobody wants it any more.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::auth::METHOD_ROLES;
    use http_body_util::BodyExt as _;
    use orch_proto::FILE_DESCRIPTOR_SET;
    use prost::Message as _;
    use std::convert::Infallible;
    use tokio::sync::Notify;
    use tonic_types::StatusExt as _;
    use tower::{ServiceExt as _, service_fn};

    const GET: &str = "/orch.v1.RunService/GetRun";
    const WATCH: &str = "/orch.v1.RunService/WatchRuns";
    const BLOB: &str = "/orch.v1.BlobService/GetBlob";

    fn bounds() -> Bounds {
        Bounds { requests: 2, bulk: 1, streams: 1, request_limit: REQUEST_LIMIT, bulk_wait: BULK_WAIT }
    }

    fn request(path: &str) -> Request<()> {
        Request::get(path).body(()).unwrap()
    }

    fn refusal(response: &Response<Body>) -> Option<Status> {
        Status::from_header_map(response.headers()).filter(|status| status.code() != tonic::Code::Ok)
    }

    /// A server whose plain requests wait for a word and whose streams never end.
    fn server(
        bounds: Bounds,
        word: Arc<Notify>,
    ) -> Limit<
        impl Service<
            Request<()>,
            Response = Response<Body>,
            Error = Infallible,
            Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
        > + Clone
        + Send
        + 'static,
    > {
        let inner = service_fn(move |request: Request<()>| {
            let word = Arc::clone(&word);
            async move {
                if request.uri().path() == GET {
                    word.notified().await;
                    return Ok(Response::new(Body::empty()));
                }
                let endless =
                    http_body_util::StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Status>>());
                Ok::<_, Infallible>(Response::new(Body::new(endless.boxed_unsync())))
            }
        });
        LimitLayer::new(bounds).layer(inner)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_refused_at_once_with_a_delay_and_streams_count_apart() {
        let word = Arc::new(Notify::new());
        let server = server(bounds(), Arc::clone(&word));
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..2 {
            waiting.spawn(server.clone().oneshot(request(GET)));
        }
        tokio::task::yield_now().await;
        let watch = server.clone().oneshot(request(WATCH)).await.unwrap();
        assert!(refusal(&watch).is_none(), "streams have places of their own");
        let status = refusal(&server.clone().oneshot(request(GET)).await.unwrap()).unwrap();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let details = status.get_error_details();
        assert!(details.retry_info().is_some(), "{details:?}");
        assert_eq!(details.error_info().unwrap().reason, "OVERLOADED");

        assert!(refusal(&server.clone().oneshot(request(WATCH)).await.unwrap()).is_some());
        drop(watch);
        let again = server.clone().oneshot(request(WATCH)).await.unwrap();
        assert!(refusal(&again).is_none(), "a stream that is over gives its place back");

        word.notify_waiters();
        while let Some(answered) = waiting.join_next().await {
            assert!(refusal(&answered.unwrap().unwrap()).is_none());
        }
        word.notify_one();
        assert!(refusal(&server.oneshot(request(GET)).await.unwrap()).is_none(), "places come back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_loses_its_place() {
        let server = server(bounds(), Arc::default());
        let status = refusal(&server.oneshot(request(GET)).await.unwrap()).unwrap();
        assert!(status.message().contains("60 s"), "{status:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_waits_for_its_turn_and_not_for_ever() {
        let server = server(bounds(), Arc::default());
        let first = server.clone().oneshot(request(BLOB)).await.unwrap();
        let mut second = tokio::task::JoinSet::new();
        second.spawn(server.clone().oneshot(request(BLOB)));
        tokio::task::yield_now().await;
        drop(first);
        let second = second.join_next().await.unwrap().unwrap().unwrap();
        assert!(refusal(&second).is_none());
        let third = server.oneshot(request(BLOB)).await.unwrap();
        assert_eq!(refusal(&third).unwrap().code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn every_streaming_method_is_known_as_one_and_no_other() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let streaming = method.client_streaming() || method.server_streaming();
                    assert_eq!(Kind::of(&path) != Kind::Request, streaming, "{path}");
                }
            }
        }
        for path in BULK.iter().chain(STREAMS) {
            assert!(METHOD_ROLES.iter().any(|(name, _)| name == path), "{path} is no method");
        }
    }
}
