//! A connection of a measuring client, moved by the one who asks on it: no task of its own and no queue lies between a call
//! and its frames. What clients take beside the coordinator on the same cores is not what is measured.
//!
//! Knows HTTP/2 as far as calls need it that say one message; refuses to know methods. It is not mended when it breaks, and
//! while nobody asks it answers nothing.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::SystemTime;

use h2::RecvStream;
use h2::client::SendRequest;
use http::Uri;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use orch_certs::dial::Connector;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Bytes, StdError};
use tower_service::Service;

use super::Bench;
use crate::client;
use crate::exit;
use crate::failure::{Failure, Outcome};

/// What a server may send ahead on a stream and on the connection, as much as through a channel.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// Whatever calls can be made on: a [`Line`], or a channel that many share.
pub(super) trait Way:
    GrpcService<Body, ResponseBody = Body, Error: Into<StdError>, Future: Send> + Send + 'static
{
}

impl<T> Way for T where
    T: GrpcService<Body, ResponseBody = Body, Error: Into<StdError>, Future: Send> + Send + 'static
{
}

/// So many open lines.
pub(super) async fn lines(bench: &Bench<'_>, count: u32) -> Outcome<Vec<Line>> {
    let context = bench.session.context()?;
    let cannot = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(exit::UNREACHABLE, "a client cannot connect").chain(error)
    };
    let uri: Uri = context.endpoint.parse().map_err(|error| cannot(&error))?;
    let mut lines = Vec::new();
    for _ in 0..count {
        let tls = client::tls(&context, SystemTime::now())?;
        let stream = Connector::new(tls).dial(&uri).await.map_err(|error| cannot(&error))?;
        lines.push(Line::over(stream, uri.clone()).await.map_err(|error| cannot(&error))?);
    }
    Ok(lines)
}

/// A connection to the coordinator, for one who asks at a time.
#[derive(Clone)]
pub(super) struct Line {
    requests: SendRequest<Bytes>,
    wire: Wire,
    /// Who is asked.
    origin: Uri,
}

impl Line {
    /// A line over what is connected and confirmed.
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        origin: Uri,
    ) -> Result<Self, h2::Error> {
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await?;
        Ok(Self { requests, wire: Wire(Arc::new(Mutex::new(Some(Box::pin(connection))))), origin })
    }

    async fn call(self, request: http::Request<Body>) -> Result<http::Response<Body>, StdError> {
        let Self { mut requests, wire, origin } = self;
        let (mut head, body) = request.into_parts();
        let mut uri = origin.into_parts();
        uri.path_and_query = head.uri.into_parts().path_and_query;
        head.uri = Uri::from_parts(uri)?;
        let message = body.collect().await?.to_bytes();
        let (mut answer, mut rest) = requests.send_request(http::Request::from_parts(head, ()), false)?;
        rest.send_data(message, true)?;
        let answer = wire.until(|context| Pin::new(&mut answer).poll(context)).await?;
        Ok(answer.map(|frames| Body::new(Answer { frames, wire, told: false })))
    }
}

impl Service<http::Request<Body>> for Line {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, StdError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        let Self { requests, wire, .. } = self;
        wire.moved(context, |context| requests.poll_ready(context)).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().call(request))
    }
}

type Moving = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>;

/// What moves frames; nothing once it has ended, which its streams tell.
#[derive(Clone)]
struct Wire(Arc<Mutex<Option<Moving>>>);

impl Wire {
    /// Asks before and after frames were moved. It is the frames that wake, so that what waits for them need not.
    fn moved<T>(
        &self,
        context: &mut Context<'_>,
        mut ask: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut quiet = Context::from_waker(Waker::noop());
        let asked = ask(&mut quiet);
        if asked.is_ready() {
            return asked;
        }
        let mut wire = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if wire.as_mut().is_some_and(|wire| wire.as_mut().poll(context).is_ready()) {
            *wire = None;
        }
        drop(wire);
        ask(&mut quiet)
    }

    async fn until<T>(&self, mut ask: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        std::future::poll_fn(|context| self.moved(context, &mut ask)).await
    }
}

/// What is answered, frame by frame.
struct Answer {
    frames: RecvStream,
    wire: Wire,
    /// There is no more but trailers.
    told: bool,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Self { frames, wire, told } = self.get_mut();
        wire.moved(context, |context| next(frames, told, context))
    }
}

fn next(
    frames: &mut RecvStream,
    told: &mut bool,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
    if !*told {
        match ready!(frames.poll_data(context)) {
            Some(Ok(data)) => {
                let released = frames.flow_control().release_capacity(data.len());
                return Poll::Ready(Some(released.map(|()| Frame::data(data))));
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => *told = true,
        }
    }
    frames.poll_trailers(context).map(|trailers| trailers.transpose().map(|some| some.map(Frame::trailers)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_proto::v1::run_service_client::RunServiceClient;
    use orch_proto::v1::{GetRunRequest, GetRunResponse};
    use prost::Message as _;
    use tokio::task::JoinSet;

    /// Answers calls with what they say in turn: a run of that reference, then the end of the connection.
    async fn answers(stream: impl AsyncRead + AsyncWrite + Unpin, calls: usize) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        for _ in 0..calls {
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut body = request.into_body();
            let mut said = body.data().await.unwrap().unwrap();
            let asked = GetRunRequest::decode(said.split_off(5)).unwrap();
            let run = orch_proto::v1::Run { r#ref: asked.r#ref, ..Default::default() };
            let answer = GetRunResponse { run: Some(run) }.encode_to_vec();
            let mut message = vec![0];
            message.extend(u32::try_from(answer.len()).unwrap().to_be_bytes());
            message.extend(answer);
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(message.into(), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            stream.send_trailers(trailers).unwrap();
        }
        // What was said leaves when the connection is asked for more.
        let more = tokio::time::timeout(std::time::Duration::from_millis(50), connection.accept());
        assert!(more.await.is_err(), "nobody asks more");
    }

    #[tokio::test]
    async fn whoever_asks_moves_the_frames_and_hears_of_the_end() {
        let (here, there) = tokio::io::duplex(1 << 16);
        let mut serving = JoinSet::new();
        serving.spawn(answers(there, 2));
        let origin = Uri::from_static("https://box-1:7443");
        let mut runs = RunServiceClient::new(Line::over(here, origin).await.unwrap());
        for name in ["adhoc/1", "adhoc/2"] {
            let asked = GetRunRequest { r#ref: name.to_owned() };
            let answer = runs.get_run(asked).await.unwrap().into_inner();
            assert_eq!(answer.run.unwrap().r#ref, name);
        }
        serving.join_all().await;
        assert!(runs.get_run(GetRunRequest::default()).await.is_err(), "the server is gone");
    }
}
