//! What a watch sends, as it is written: events stand in their page as they stand on the wire, so that they are encoded once
//! for all who watch.
//! Knows the fields of a frame; refuses to know who is sent what.

use bytes::Bytes;
use http::Request;
use orch_proto::codec::{BoundedCodec, BoundedDecoder, buffers};
use orch_proto::v1::{WatchRunsRequest, WatchRunsResponse};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService};
use tower::service_fn;
use tower_service::Service;

use crate::rpc::run_service::Runs;
use crate::rpc::server::MAX_MESSAGE_BYTES;

/// The method that answers in frames.
const WATCH: &str = "/orch.v1.RunService/WatchRuns";
/// Tag of `WatchRunsResponse.next_seq`, a varint.
const NEXT_SEQ: u8 = 2 << 3;

/// What a watcher is sent: a [`WatchRunsResponse`] in both cases.
#[derive(Debug)]
pub enum Frame {
    /// Whatever there is little of.
    Message(Box<WatchRunsResponse>),
    /// Events that are encoded already.
    Events {
        /// Whole events, each with its tag, in order.
        events: Vec<Bytes>,
        /// What to ask for to go on behind them.
        next_seq: u64,
    },
}

impl From<WatchRunsResponse> for Frame {
    fn from(message: WatchRunsResponse) -> Self {
        Self::Message(Box::new(message))
    }
}

impl Frame {
    /// How many bytes are written.
    fn length(&self) -> usize {
        match self {
            Self::Message(message) => message.encoded_len(),
            Self::Events { events, next_seq } => {
                events.iter().map(Bytes::len).sum::<usize>() + 1 + encoded_len_varint(*next_seq)
            }
        }
    }

    fn write(self, buffer: &mut impl bytes::BufMut) -> Result<(), prost::EncodeError> {
        match self {
            Self::Message(message) => message.encode(buffer),
            Self::Events { events, next_seq } => {
                events.into_iter().for_each(|event| buffer.put(event));
                buffer.put_u8(NEXT_SEQ);
                encode_varint(next_seq, buffer);
                Ok(())
            }
        }
    }

    /// The message.
    ///
    /// # Errors
    /// A frame that is none, which is a mistake of ours.
    pub fn into_message(self) -> Result<WatchRunsResponse, Status> {
        if let Self::Message(message) = self {
            return Ok(*message);
        }
        let mut bytes = Vec::new();
        let written = self.write(&mut bytes).map_err(|error| Status::internal(error.to_string()));
        written.and_then(|()| {
            WatchRunsResponse::decode(bytes.as_slice()).map_err(|error| Status::internal(error.to_string()))
        })
    }
}

/// Reads requests as everywhere, and writes frames.
#[derive(Debug, Clone, Copy, Default)]
struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = WatchRunsRequest;
    type Encoder = Self;
    type Decoder = BoundedDecoder<WatchRunsRequest>;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedCodec::<WatchRunsResponse, WatchRunsRequest>::default().decoder()
    }
}

impl Encoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(frame.length());
        frame.write(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Stands before the generated service of runs, and takes the one method that it cannot answer in frames.
#[derive(Debug, Clone)]
pub struct WatchDoor<S> {
    inner: S,
    runs: Runs,
}

impl<S> WatchDoor<S> {
    /// Watches are served by `runs`, everything else by `inner`.
    pub const fn new(inner: S, runs: Runs) -> Self {
        Self { inner, runs }
    }
}

impl<S: NamedService> NamedService for WatchDoor<S> {
    const NAME: &'static str = S::NAME;
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S> Service<Request<Body>> for WatchDoor<S>
where
    S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        if request.uri().path() != WATCH {
            return Box::pin(self.inner.call(request));
        }
        let runs = self.runs.clone();
        Box::pin(async move {
            let watch = service_fn(move |request| {
                let runs = runs.clone();
                async move { runs.watch(request) }
            });
            let limit = Some(MAX_MESSAGE_BYTES);
            let mut grpc = Grpc::new(FrameCodec).apply_max_message_size_config(limit, limit);
            Ok(grpc.server_streaming(watch, request).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_proto::v1::WatchEvent;

    #[test]
    fn events_that_were_encoded_before_are_the_message_they_would_be() {
        let event = |seq| WatchEvent { seq, run_ref: "adhoc/1".into(), ..WatchEvent::default() };
        let encoded = |events: Vec<WatchEvent>| {
            let message = WatchRunsResponse { events, ..WatchRunsResponse::default() };
            Bytes::from(message.encode_to_vec())
        };
        let parts = vec![encoded(vec![event(1), event(2)]), encoded(vec![event(300)])];
        let message = Frame::Events { events: parts, next_seq: 301 }.into_message().unwrap();
        let expected = WatchRunsResponse {
            events: vec![event(1), event(2), event(300)],
            next_seq: 301,
            ..WatchRunsResponse::default()
        };
        assert_eq!(message, expected);
        assert_eq!(Frame::from(expected.clone()).into_message().unwrap(), expected);
    }
}
