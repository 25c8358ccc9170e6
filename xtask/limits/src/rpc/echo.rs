//! The service that gives back what it gets, by hand: a service of one message needs no generated code. Knows tonic's codec and
//! its four kinds of calls. Refuses to know connections.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::server::{NamedService, StreamingService, UnaryService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

const UNARY: &str = "/limits.Echo/Unary";
const BIDI: &str = "/limits.Echo/Bidi";
/// About what an assignment or a result takes.
const PAYLOAD: usize = 200;

/// The one message.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Echo {
    /// Anything.
    #[prost(bytes = "vec", tag = "1")]
    payload: Vec<u8>,
}

impl Echo {
    /// One of the usual length.
    pub(super) fn new() -> Self {
        Self { payload: vec![9; PAYLOAD] }
    }
}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Codec = ProstCodec<Echo, Echo>;

/// The server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Echoing;

impl UnaryService<Echo> for Echoing {
    type Response = Echo;
    type Future = std::future::Ready<Result<Response<Echo>, Status>>;

    fn call(&mut self, request: Request<Echo>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

impl StreamingService<Echo> for Echoing {
    type Response = Echo;
    type ResponseStream = Streaming<Echo>;
    type Future = std::future::Ready<Result<Response<Streaming<Echo>>, Status>>;

    fn call(&mut self, request: Request<Streaming<Echo>>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echoing {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Later<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(Codec::default());
        let service = *self;
        match request.uri().path() {
            UNARY => Box::pin(async move { Ok(grpc.unary(service, request).await) }),
            BIDI => Box::pin(async move { Ok(grpc.streaming(service, request).await) }),
            _ => Box::pin(async { Ok(Status::unimplemented("there is no such call").into_http()) }),
        }
    }
}

impl NamedService for Echoing {
    const NAME: &'static str = "limits.Echo";
}

/// The client.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
}

impl Client {
    /// Calls over `channel`.
    pub(super) const fn new(channel: Channel) -> Self {
        Self { channel }
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut channel = self.channel.clone();
        let ready = std::future::poll_fn(|context| Service::poll_ready(&mut channel, context)).await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(tonic::client::Grpc::new(channel))
    }

    /// One message there and back.
    pub(super) async fn unary(&mut self, message: Echo) -> Result<Response<Echo>, Status> {
        let mut grpc = self.grpc().await?;
        grpc.unary(Request::new(message), PathAndQuery::from_static(UNARY), Codec::default()).await
    }

    /// A stream there and back.
    pub(super) async fn bidi<S>(&mut self, messages: S) -> Result<Response<Streaming<Echo>>, Status>
    where
        S: Stream<Item = Echo> + Send + 'static,
    {
        let mut grpc = self.grpc().await?;
        grpc.streaming(Request::new(messages), PathAndQuery::from_static(BIDI), Codec::default()).await
    }
}
