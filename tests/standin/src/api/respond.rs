//! Knows what responses look like: status, headers, JSON, the API's error bodies, a stream of pieces. Refuses to decide what
//! is answered.

use std::convert::Infallible;

use bytes::Bytes;
use http::Response;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame as BodyFrame;
use serde_json::{Value, json};

use super::call::Call;
use super::sse::Piece;

/// A connection dropped on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the script drops this connection")]
pub(super) struct Dropped;

pub(super) type Body = UnsyncBoxBody<Bytes, Dropped>;

/// Names and values.
pub(super) type Headers = Vec<(String, String)>;

fn builder(status: u16, headers: &[(String, String)]) -> http::response::Builder {
    let mut builder = Response::builder().status(status).header("x-orch-standin", "not Anthropic's API");
    for (name, value) in headers {
        builder = builder.header(name.as_str(), value.as_str());
    }
    builder
}

/// A response; a header or status that the script got wrong makes it a plain 500.
fn finish(builder: http::response::Builder, body: Body) -> Response<Body> {
    builder.body(body).unwrap_or_else(|_| {
        let mut plain = Response::new(full("the script asks for an impossible header or status".to_owned()));
        *plain.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        plain
    })
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub(super) fn plain(status: u16) -> Response<Body> {
    finish(builder(status, &[]), full(String::new()))
}

pub(super) fn json_response(status: u16, headers: &[(String, String)], body: &Value) -> Response<Body> {
    finish(builder(status, headers).header("content-type", "application/json"), full(body.to_string()))
}

pub(super) fn error_response(
    status: u16,
    headers: &[(String, String)],
    message: &str,
    request_id: &str,
) -> Response<Body> {
    let kind = match status {
        400 | 413 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let mut all = headers.to_vec();
    all.push(("request-id".to_owned(), request_id.to_owned()));
    let body =
        json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id});
    json_response(status, &all, &body)
}

/// A stream of pieces. `call` learns how much of it was taken, and ends with it.
pub(super) fn stream_response(
    headers: &[(String, String)],
    pieces: Vec<Piece>,
    call: Option<Call>,
) -> Response<Body> {
    let pieces = (pieces.len(), pieces.into_iter().enumerate(), call);
    let frames = futures_util::stream::unfold(pieces, |(all, mut pieces, mut call)| async move {
        loop {
            let (at, piece) = pieces.next()?;
            let frame = match piece {
                Piece::Data(text) => Ok(BodyFrame::data(Bytes::from(text))),
                Piece::Wait(pause) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Piece::Silence => std::future::pending().await,
                Piece::Cut => Err(Dropped),
            };
            if let Some(call) = call.as_mut().filter(|_| frame.is_ok()) {
                call.sent(at + 1, all);
            }
            return Some((frame, (all, pieces, call)));
        }
    });
    let body = StreamBody::new(frames).boxed_unsync();
    finish(builder(200, headers).header("content-type", "text/event-stream; charset=utf-8"), body)
}
