//! Knows what becomes of a request to `/v1/messages`: who asks, what the script, its key's window and its limits say, what
//! it is billed, and how the answer is sent. Refuses to know connections.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Response};
use serde_json::Value;

use super::book::{Ending, Entry};
use super::call::Call;
use super::conversation::{Conversation, Reply};
use super::record::{Recorded, public_headers};
use super::respond::{Body, Dropped, Headers, error_response, json_response, stream_response};
use super::setup::{Latency, class_of};
use super::sse::{self, Frame, Piece};
use super::tokens::prefixes;
use super::windows::whole_seconds;
use super::{MAX_RECORDED, Shared, State};
use crate::models::Usage;
use crate::script::steps::{Answer, Failure};

/// Pieces of an answer that takes its time: fine enough to be billed by, few enough to cost nothing.
const PIECES: u64 = 20;

/// Answers a request.
///
/// # Errors
/// The connection is dropped on purpose.
pub(super) async fn messages(
    shared: &Arc<Shared>,
    parts: &http::request::Parts,
    text: &str,
    body: &Value,
) -> Result<Response<Body>, Dropped> {
    let (mut seen, request_id, reply) = decide(shared, parts, text, body);
    let (mut answer, mut headers) = match reply {
        Reply::Answer(answer) => (answer, Headers::new()),
        Reply::Fail(failure) => return failed(shared, seen, failure, Headers::new(), &request_id).await,
    };
    let admitted = admit(shared, &parts.headers, &seen, body, answer.usage);
    let (mut call, told, latency) = match admitted {
        Ok(admitted) => admitted,
        Err((failure, told)) => return failed(shared, seen, failure, told, &request_id).await,
    };
    headers.extend(told);
    headers.append(&mut answer.headers);
    seen.status = 200;
    seen.answer = answer.stop_reason().to_owned();
    seen.usage = call.usage;
    let frame = frame(shared, &seen);
    record(shared, seen.clone());
    let whole = latency.tokens_per_second.filter(|_| !seen.stream).unwrap_or(u32::MAX);
    let generated = Duration::from_secs(call.usage.output) / whole.max(1);
    tokio::time::sleep(answer.delay + latency.first_byte + generated).await;
    call.begin();
    headers.push(("request-id".to_owned(), request_id));
    Ok(answered(&seen, &frame, &answer, &headers, latency, call))
}

/// What is known of the request, its id, and what its script does with it.
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
    let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some((name, rule)) = state.keys.of(&parts.headers) {
        seen.key = Some(name.to_owned());
        if let Some(failure) = rule.failure(unix_now.as_secs()) {
            return (seen, request_id, Reply::Fail(failure));
        }
    }
    if let Some(failure) = state.windows.failure(seen.key.as_deref(), shared.now(), unix_now) {
        return (seen, request_id, Reply::Fail(failure));
    }
    let model = seen.model.clone().unwrap_or_default();
    let reply = conversation.reply(&model, unix_now.as_secs(), |step, times| {
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

/// A request that was taken, with what is told of limits; or how it is refused.
type Admitted = Result<(Call, Headers, Latency), (Failure, Headers)>;

/// Bills a request and takes it from its limits.
fn admit(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    seen: &Recorded,
    body: &Value,
    scripted: Usage,
) -> Admitted {
    let model = seen.model.clone().unwrap_or_default();
    let class = class_of(&model);
    let now = shared.now();
    let mut state = shared.state();
    let key = state.keys.hash_of(headers);
    let (mut usage, mut writes) = (scripted, None);
    if let Some(rules) = state.setup.cache {
        let owner = (key, model);
        let split = state.cache.split(&owner, &prefixes(body), rules, now);
        (usage.input, usage.cache_read, usage.cache_write) = (split.fresh, split.read, split.written);
        writes = Some((owner, split, rules));
    }
    let limit = state.setup.limits.iter().find(|limit| limit.fits(seen.key.as_deref(), class)).cloned();
    let (mut told, mut left) = (Headers::new(), None);
    if let Some(limit) = &limit {
        let taken = state.buckets.admit(limit, (key, class), usage.input + usage.cache_write, now);
        told = state.buckets.headers(limit, (key, class), now, jiff::Timestamp::now());
        left = state.buckets.input_left(limit, (key, class), now);
        if let Err(wait) = taken {
            let headers = vec![("retry-after".to_owned(), whole_seconds(wait).max(1).to_string())];
            let message = "stand-in: this request would exceed your rate limit".to_owned();
            return Err((Failure::Status { status: 429, message, headers }, told));
        }
    }
    let number = open(&mut state, seen, now);
    state.book.change(number, |entry| entry.input_left = left);
    let latency = state.setup.latency;
    drop(state);
    let limit = limit.map(|limit| (limit, (key, class)));
    let shared = Arc::clone(shared);
    Ok((Call { shared, number, limit, writes, usage, output: 0, ending: Ending::Open }, told, latency))
}

/// Writes a request down.
fn open(state: &mut State, seen: &Recorded, now: Duration) -> u64 {
    state.book.open(Entry {
        number: 0,
        key: seen.key.clone().unwrap_or_default(),
        model: seen.model.clone().unwrap_or_default(),
        session_id: seen.session_id.clone().unwrap_or_default(),
        agent_id: seen.agent_id.clone().unwrap_or_default(),
        came: now,
        begun: None,
        ended: None,
        status: 0,
        input_left: None,
        usage: Usage::default(),
        ending: Ending::Open,
    })
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
    seen: &Recorded,
    frame: &Frame,
    answer: &Answer,
    headers: &Headers,
    latency: Latency,
    mut call: Call,
) -> Response<Body> {
    let blocks = sse::blocks(answer, || call.shared.state().ids.tagged("toolu_", 22));
    if !seen.stream {
        call.complete();
        return json_response(200, headers, &sse::message(frame, answer, &blocks));
    }
    let mut answer = answer.clone();
    if let Some(rate) = latency.tokens_per_second
        && answer.pace.is_none()
    {
        let all = Duration::from_secs(call.usage.output) / rate.max(1);
        let waits = (PIECES * blocks.len().max(1) as u64).max(1);
        answer.pace = Some((PIECES as usize, all / u32::try_from(waits).unwrap_or(u32::MAX)));
    }
    stream_response(headers, sse::stream(frame, &answer, &blocks), Some(call))
}

async fn failed(
    shared: &Shared,
    mut seen: Recorded,
    failure: Failure,
    mut told: Headers,
    request_id: &str,
) -> Result<Response<Body>, Dropped> {
    let broken = |seen: &Recorded, end: Piece| {
        let headers = [("request-id".to_owned(), request_id.to_owned())];
        stream_response(&headers, sse::broken(&frame(shared, seen), end), None)
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
    write_failed(shared, &seen);
    record(shared, seen.clone());
    match failure {
        Failure::Status { status, message, headers } => {
            told.extend(headers);
            Ok(error_response(status, &told, &message, request_id))
        }
        Failure::HangMid if seen.stream => Ok(broken(&seen, Piece::Silence)),
        Failure::Cut if seen.stream => Ok(broken(&seen, Piece::Cut)),
        Failure::Cut | Failure::Reset => Err(Dropped),
        // Until the client gives up or the server stops: both drop this future.
        Failure::Hang | Failure::HangMid => std::future::pending().await,
    }
}

/// Writes a request down that gets nothing and costs nothing.
fn write_failed(shared: &Shared, seen: &Recorded) {
    let now = shared.now();
    let mut state = shared.state();
    let number = open(&mut state, seen, now);
    state.book.change(number, |entry| {
        (entry.status, entry.ending, entry.ended) = (seen.status, Ending::Failed, Some(now));
    });
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
}
