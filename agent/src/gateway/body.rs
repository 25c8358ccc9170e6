//! The body of an answer on its way to the CLI: each piece is passed on as it comes and read along; the end, whichever,
//! closes the books of its request. Holds a piece of bounded size at most, whatever the length of the stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::desk::Flight;
use super::recorder::Recording;
use super::sse::{BYTES_OF_TOKEN, SseScanner};
use super::usage;
use super::wire::Tokens;

/// Longest whole answer that is kept to read its usage, which comes last. The longest answers of a model have about a
/// megabyte.
const LONGEST_WHOLE: usize = 8 * 1024 * 1024;

/// What the gateway answers with.
pub type AnswerBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// A body that is there.
pub fn full(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// How the tokens of an answer are found.
#[derive(Debug)]
enum Meter {
    /// An error: it costs nothing.
    Free,
    Stream(Box<SseScanner>),
    Whole {
        kept: Vec<u8>,
        len: u64,
    },
}

/// A body that is read along.
#[derive(Debug)]
pub struct Metered {
    inner: Incoming,
    meter: Meter,
    flight: Option<Flight>,
    recording: Option<Recording>,
    has_begun: bool,
}

impl Metered {
    /// Reads along with the body of an answer with this head.
    #[must_use]
    pub fn new(
        inner: Incoming,
        status: StatusCode,
        headers: &HeaderMap,
        flight: Option<Flight>,
        recording: Option<Recording>,
    ) -> Self {
        let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let meter = if !status.is_success() {
            Meter::Free
        } else if kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            Meter::Stream(Box::default())
        } else {
            Meter::Whole { kept: Vec::new(), len: 0 }
        };
        Self { inner, meter, flight, recording, has_begun: false }
    }

    fn read(&mut self, bytes: &[u8]) {
        if let Some(recording) = &mut self.recording {
            recording.data(bytes);
        }
        match &mut self.meter {
            Meter::Free => {}
            Meter::Stream(scanner) => {
                scanner.push(bytes);
                if scanner.seen().begun && !self.has_begun {
                    self.has_begun = true;
                    if let Some(flight) = &mut self.flight {
                        flight.begun(scanner.tokens());
                    }
                }
            }
            Meter::Whole { kept, len } => {
                *len += bytes.len() as u64;
                if kept.len() + bytes.len() <= LONGEST_WHOLE {
                    kept.extend_from_slice(bytes);
                }
            }
        }
    }

    /// Closes the books. `is_whole`: the API said everything.
    fn finish(&mut self, is_whole: bool, how: &str) {
        if let Some(recording) = self.recording.take() {
            recording.end(how);
        }
        let Some(mut flight) = self.flight.take() else { return };
        match &self.meter {
            Meter::Free => flight.end(Tokens::default()),
            Meter::Stream(scanner) => {
                let seen = scanner.seen();
                // One that failed before its first event did nothing.
                if seen.ended || (is_whole && !seen.begun) {
                    flight.end(scanner.tokens());
                } else {
                    flight.end_estimated(scanner.tokens());
                }
            }
            Meter::Whole { kept, len } => match usage::of_answer(kept).filter(|_| is_whole) {
                Some(tokens) => {
                    flight.begun(tokens);
                    flight.end(tokens);
                }
                None if is_whole && *len <= LONGEST_WHOLE as u64 => flight.end(Tokens::default()),
                None => flight.end_unseen_but(len / BYTES_OF_TOKEN),
            },
        }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    self.read(bytes);
                }
            }
            Poll::Ready(Some(Err(_))) => self.finish(false, "cut"),
            Poll::Ready(None) => self.finish(true, "whole"),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        // Nobody asks further after the last byte of a body whose length is known.
        let is_whole = self.inner.is_end_stream();
        self.finish(is_whole, if is_whole { "whole" } else { "hung_up" });
    }
}
