//! Knows HTTP: accepts connections, routes the few paths the CLI uses, records each request and sends
//! the planned pieces. hyper is used directly because a request must also be able to fail by having
//! its connection dropped, which a router hides. Refuses to decide what is answered.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::conversation::{Conversation, Reply};
use super::record::{Recorded, public_headers};
use super::sse::{self, Frame, Piece};
use super::{MAX_RECORDED, Shared, usage};
use crate::models::Usage;
use crate::script::steps::{Answer, Failure};

/// Largest request body read. The CLI sends whole conversations; 9.4 MB prompts were observed.
const MAX_BODY: usize = 64 << 20;
/// Pause after a failed accept (too many open files), so that it is not retried in a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection dropped on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the script drops this connection")]
struct Dropped;

type Body = UnsyncBoxBody<Bytes, Dropped>;

pub(super) async fn accept_loop(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(connection(stream, Arc::clone(&shared)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Small pieces of a stream must not wait for each other's acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| handle(Arc::clone(&shared), request));
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = shared.stop.cancelled() => {}
        // An error here is the peer's disconnect or a drop the script asked for.
        _ = served => {}
    }
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let (parts, body) = request.into_parts();
    match (&parts.method, parts.uri.path()) {
        (&Method::HEAD, _) | (&Method::GET, "/") => Ok(respond(200, &[], String::new())),
        (&Method::GET, "/standin/ledger") => {
            let ledger = shared.state().ledger.clone();
            Ok(json_response(200, &[], &json!(ledger)))
        }
        (&Method::GET, "/standin/requests") => {
            let requests = shared.state().requests.clone();
            Ok(json_response(200, &[], &json!(requests)))
        }
        (&Method::POST, "/v1/messages" | "/v1/messages/count_tokens") => {
            let Ok(bytes) = Limited::new(body, MAX_BODY).collect().await else {
                return Ok(error_response(
                    413,
                    &[],
                    "the request body is too large or was cut short",
                    "req_none",
                ));
            };
            let bytes = bytes.to_bytes();
            let Ok(body) = serde_json::from_slice::<Value>(&bytes) else {
                return Ok(error_response(400, &[], "the request body is not JSON", "req_none"));
            };
            if parts.uri.path().ends_with("count_tokens") {
                let tokens = Usage::estimated(body.to_string().len(), 0).input;
                return Ok(json_response(200, &[], &json!({"input_tokens": tokens})));
            }
            messages(&shared, &parts, &String::from_utf8_lossy(&bytes), &body).await
        }
        (_, path) => {
            Ok(error_response(404, &[], &format!("no such path in the stand-in: {path}"), "req_none"))
        }
    }
}

async fn messages(
    shared: &Shared,
    parts: &http::request::Parts,
    text: &str,
    body: &Value,
) -> Result<Response<Body>, Dropped> {
    let (mut seen, request_id, reply) = decide(shared, parts, text, body);
    match reply {
        Reply::Answer(answer) => {
            seen.status = 200;
            seen.answer = answer.stop_reason().to_owned();
            seen.usage = usage::account(body, answer.usage);
            let frame = frame(shared, &seen);
            record(shared, seen.clone());
            tokio::time::sleep(answer.delay).await;
            Ok(answered(shared, &seen, &frame, &answer, &request_id))
        }
        Reply::Fail(failure) => failed(shared, seen, failure, &request_id).await,
    }
}

/// What is known of the request, its id, and what to do with it.
fn decide(
    shared: &Shared,
    parts: &http::request::Parts,
    text: &str,
    body: &Value,
) -> (Recorded, String, Reply) {
    let mut seen = describe(parts, body);
    let conversation = Conversation::read(body);
    let mut state = shared.state();
    let request_id = state.ids.tagged("req_", 20);
    seen.found = state.wanted.iter().filter(|wanted| text.contains(wanted.as_str())).cloned().collect();
    if header(&parts.headers, "x-api-key").is_none() && header(&parts.headers, "authorization").is_none() {
        let message = "no credential was sent".to_owned();
        let failure = Failure::Status { status: 401, message, headers: Vec::new() };
        return (seen, request_id, Reply::Fail(failure));
    }
    let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    if let Some((name, rule)) = state.keys.of(&parts.headers) {
        seen.key = Some(name.to_owned());
        if let Some(failure) = rule.failure(unix_now) {
            return (seen, request_id, Reply::Fail(failure));
        }
    }
    let model = seen.model.clone().unwrap_or_default();
    let reply = conversation.reply(&model, unix_now, |step, times| {
        // A prompt that another text follows in its message ends with one more line break (observed).
        let prompt = conversation.prompt.trim();
        let key = format!("{:?} {:?} {step} {prompt}", seen.session_id, seen.agent_id);
        let strikes = state.strikes.entry(key).or_default();
        *strikes += 1;
        times.is_none_or(|times| *strikes <= times)
    });
    let reply = reply.unwrap_or_else(|error| {
        Reply::Fail(Failure::Status { status: 400, message: error.to_string(), headers: Vec::new() })
    });
    drop(state);
    (seen, request_id, reply)
}

/// What a request says of itself.
fn describe(parts: &http::request::Parts, body: &Value) -> Recorded {
    let header = |name: &str| header(&parts.headers, name);
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    Recorded {
        number: 0,
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        model: body.get("model").and_then(Value::as_str).map(ToOwned::to_owned),
        stream: body.get("stream").and_then(Value::as_bool).unwrap_or(false),
        session_id: header("x-claude-code-session-id"),
        agent_id: header("x-claude-code-agent-id"),
        headers: public_headers(&parts.headers),
        tools: tools.filter_map(|tool| tool["name"].as_str()).map(ToOwned::to_owned).collect(),
        messages: body.get("messages").and_then(Value::as_array).map_or(0, Vec::len),
        found: Vec::new(),
        key: None,
        status: 0,
        answer: String::new(),
        usage: Usage::default(),
    }
}

fn frame(shared: &Shared, seen: &Recorded) -> Frame {
    let id = shared.state().ids.tagged("msg_", 24);
    Frame { id, model: seen.model.clone().unwrap_or_default(), usage: seen.usage }
}

fn record(shared: &Shared, mut seen: Recorded) {
    let mut state = shared.state();
    state.ledger.count(&seen);
    seen.number = state.ledger.requests;
    if state.requests.len() < MAX_RECORDED {
        state.requests.push(seen);
    }
}

fn answered(
    shared: &Shared,
    seen: &Recorded,
    frame: &Frame,
    answer: &Answer,
    request_id: &str,
) -> Response<Body> {
    let blocks = sse::blocks(answer, || shared.state().ids.tagged("toolu_", 22));
    let mut headers = answer.headers.clone();
    headers.push(("request-id".to_owned(), request_id.to_owned()));
    if seen.stream {
        stream_response(&headers, sse::stream(frame, answer, &blocks))
    } else {
        json_response(200, &headers, &sse::message(frame, answer, &blocks))
    }
}

async fn failed(
    shared: &Shared,
    mut seen: Recorded,
    failure: Failure,
    request_id: &str,
) -> Result<Response<Body>, Dropped> {
    let broken = |seen: &Recorded, end: Piece| {
        let headers = [("request-id".to_owned(), request_id.to_owned())];
        stream_response(&headers, sse::broken(&frame(shared, seen), end))
    };
    seen.answer = match &failure {
        Failure::Status { .. } => "error",
        Failure::Hang => "hang",
        Failure::HangMid => "hangmid",
        Failure::Cut => "cut",
        Failure::Reset => "reset",
    }
    .to_owned();
    seen.status = match &failure {
        Failure::Status { status, .. } => *status,
        Failure::HangMid | Failure::Cut if seen.stream => 200,
        Failure::Hang | Failure::HangMid | Failure::Cut | Failure::Reset => 0,
    };
    record(shared, seen.clone());
    match failure {
        Failure::Status { status, message, headers } => {
            Ok(error_response(status, &headers, &message, request_id))
        }
        Failure::HangMid if seen.stream => Ok(broken(&seen, Piece::Silence)),
        Failure::Cut if seen.stream => Ok(broken(&seen, Piece::Cut)),
        Failure::Cut | Failure::Reset => Err(Dropped),
        // Until the client gives up or the server stops: both drop this future.
        Failure::Hang | Failure::HangMid => std::future::pending().await,
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
}

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

fn respond(status: u16, headers: &[(String, String)], text: String) -> Response<Body> {
    finish(builder(status, headers), full(text))
}

fn json_response(status: u16, headers: &[(String, String)], body: &Value) -> Response<Body> {
    finish(builder(status, headers).header("content-type", "application/json"), full(body.to_string()))
}

fn error_response(
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

fn stream_response(headers: &[(String, String)], pieces: Vec<Piece>) -> Response<Body> {
    let frames = futures_util::stream::iter(pieces).filter_map(|piece| async move {
        match piece {
            Piece::Data(text) => Some(Ok(BodyFrame::data(Bytes::from(text)))),
            Piece::Wait(pause) => {
                tokio::time::sleep(pause).await;
                None
            }
            Piece::Silence => std::future::pending().await,
            Piece::Cut => Some(Err(Dropped)),
        }
    });
    let body = StreamBody::new(frames).boxed_unsync();
    finish(builder(200, headers).header("content-type", "text/event-stream; charset=utf-8"), body)
}
