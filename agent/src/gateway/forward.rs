//! One request for a message: read, asked for, sent, and its answer passed on. A short throttle is waited out and the
//! request asked for anew, unseen by the CLI, whose retries are few; everything else the CLI sees as the API said it.
//! Knows the order of things; refuses to know who decides on an admission.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::causes::one_line;

use super::body::{AnswerBody, Metered, full};
use super::connect::ConnectError;
use super::desk::{Desk, Flight, Refusal};
use super::intake::Intake;
use super::patience::{Failure, Patience};
use super::question::{self, Question};
use super::recorder::{Recorder, Recording};
use super::signs::{self, Sign};
use super::upstream::Upstream;
use super::wire::{ASK_AGAIN, Event, SignalKind, Tokens};

/// Longest name of a model, in bytes: it is kept, sent to agents and written for every request.
const LONGEST_MODEL: usize = 128;

/// Throttles of one request that are waited out.
const MOST_THROTTLES: u32 = 6;

/// Wait after a throttle that names none.
const PLAIN_WAIT: Duration = Duration::from_secs(2);

/// Longest detail of a signal, in characters.
const LONGEST_DETAIL: usize = 200;

/// Header of the CLI's requests for its sub-agents.
const SUB_AGENT: &str = "x-claude-code-agent-id";

/// Headers between two neighbours only (RFC 9110, 7.6.1), and `expect`, which this end has answered.
const NEIGHBOURS: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// What every request of an attempt needs.
#[derive(Debug)]
pub struct Forwarder {
    /// The books.
    pub desk: Arc<Desk>,
    /// The way to the API.
    pub upstream: Upstream,
    /// The credential, which an agent may replace.
    pub key: std::sync::Mutex<HeaderValue>,
    /// Where bodies of requests are read.
    pub intake: Intake,
    /// Where exchanges are recorded.
    pub recorder: Option<Recorder>,
    /// Longest wait of a request.
    pub longest_hold: Duration,
    /// How long an API that fails is asked.
    pub patience: Patience,
}

impl Forwarder {
    /// Answers a request for a message.
    pub async fn message(&self, parts: Parts, body: Incoming) -> Response<AnswerBody> {
        let taken = match self.intake.read(&parts.headers, body).await {
            Ok(taken) => taken,
            Err(refusal) => return refused(&refusal, true),
        };
        let body = &taken.bytes;
        let question = match self.question(body) {
            Ok(question) => Arc::new(question),
            Err(refusal) => return refused(&refusal, true),
        };
        let sub_agent = parts.headers.contains_key(SUB_AGENT);
        let hold_until = Instant::now() + self.longest_hold;
        let mut throttles = 0;
        loop {
            let flight = match self.admitted(&question, sub_agent, hold_until).await {
                Ok(flight) => flight,
                Err(answer) => return answer,
            };
            let recording = self.recorder.as_ref().and_then(|recorder| recorder.request(&parts, body));
            let began = Instant::now();
            let sent = self.send(&parts, body.clone()).await;
            let (mut flight, response) = match sent {
                Ok(response) => (flight, response),
                Err(lost) => return self.unreachable(flight, &question, lost, began),
            };
            let sign = signs::sign(response.status(), response.headers(), since_epoch());
            flight.answered(response.status().as_u16(), signs::limits(response.headers()));
            if let Some(sign) = &sign {
                self.tell(&question, sign, format!("the API answered {}", response.status().as_u16()));
            }
            let again = sign.as_ref().filter(|sign| sign.kind == SignalKind::Throttled);
            let again = again.map(|sign| Instant::now() + wait(sign, flight.request()));
            match again.filter(|at| throttles < MOST_THROTTLES && *at < hold_until) {
                Some(at) => {
                    throttles += 1;
                    flight.end(Tokens::default());
                    if let Some(mut recording) = recording {
                        recording.answer(response.status(), response.headers());
                        recording.end("waited_out");
                    }
                    drop(response);
                    let _waits = self.desk.life().wait();
                    sleep_until(at).await;
                }
                None => {
                    let is_final = self.is_final(sign.as_ref(), began);
                    if is_final && sign.is_some_and(|sign| sign.kind == SignalKind::Failing) {
                        return given_up(&response, flight, recording);
                    }
                    return self.pass_on(response, flight, is_final, recording);
                }
            }
        }
    }

    /// Whether an answer with this sign, to a request that was sent then, is to be the last of its kind.
    fn is_final(&self, sign: Option<&Sign>, began: Instant) -> bool {
        let failure = match sign.map(|sign| sign.kind) {
            Some(SignalKind::Failing) => Failure::Api,
            Some(SignalKind::Refused) => Failure::Credential,
            other @ (Some(SignalKind::Throttled | SignalKind::Exhausted) | None) => {
                self.patience.answered();
                // With a key the CLI would not look at what says so, and use up its retries.
                return other == Some(SignalKind::Exhausted);
            }
        };
        self.patience.failed(failure, began, Instant::now())
    }

    /// Answers a request that costs nothing.
    pub async fn free(&self, parts: Parts, body: Incoming) -> Response<AnswerBody> {
        let taken = match self.intake.read(&parts.headers, body).await {
            Ok(taken) => taken,
            Err(refusal) => return refused(&refusal, true),
        };
        match self.send(&parts, taken.bytes.clone()).await {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                self.clean(&mut parts.headers);
                Response::from_parts(parts, body.boxed_unsync())
            }
            Err(lost) => refused(&bad_gateway(&lost.why), lost.is_lasting),
        }
    }

    fn question(&self, body: &[u8]) -> Result<Question, Refusal> {
        let question =
            question::read(body).map_err(|error| invalid(format!("the body cannot be read: {error}")))?;
        if question.model.is_empty() {
            return Err(invalid("model: field required".to_owned()));
        }
        if question.model.len() > LONGEST_MODEL {
            return Err(invalid(format!("model: has more than {LONGEST_MODEL} bytes")));
        }
        if !self.desk.has_room_for(&question.model) {
            return Err(invalid("model: this attempt asked for too many different ones".to_owned()));
        }
        Ok(question)
    }

    /// Asks, and waits as long as the CLI does.
    async fn admitted(
        &self,
        question: &Arc<Question>,
        sub_agent: bool,
        until: Instant,
    ) -> Result<Flight, Response<AnswerBody>> {
        let _waits = self.desk.life().wait();
        let later = || {
            let message = "the request waited for its admission; ask again".to_owned();
            let kind = "rate_limit_error".to_owned();
            refused(&Refusal { status: 429, kind, message, retry_after_s: Some(1) }, false)
        };
        let Some(mut asked) = self.desk.ask(question, sub_agent) else { return Err(later()) };
        match timeout_at(until, asked.decided()).await {
            Ok(Ok(flight)) => Ok(flight),
            Ok(Err(refusal)) => {
                // What it waited for before that was no failure.
                let now = Instant::now();
                let is_final = refusal.status != ASK_AGAIN || self.patience.failed(Failure::Api, now, now);
                Err(refused(&refusal, is_final))
            }
            Err(_) => Err(later()),
        }
    }

    async fn send(&self, parts: &Parts, body: Bytes) -> Result<Response<Incoming>, Lost> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = self.upstream.address(&parts.uri).map_err(|error| Lost {
            why: error.to_string(),
            may_have_asked: false,
            is_lasting: true,
        })?;
        let mut headers = parts.headers.clone();
        strip(&mut headers);
        for name in [HOST, CONTENT_LENGTH, ACCEPT_ENCODING, http::header::AUTHORIZATION] {
            headers.remove(name);
        }
        let key = self.key.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        headers.insert(HeaderName::from_static("x-api-key"), key);
        *request.headers_mut() = headers;
        let sent = self.upstream.send(request).await;
        sent.map_err(|error| {
            let known = ConnectError::of(&error);
            Lost {
                why: known.map_or_else(|| one_line(&error), |known| one_line(known)),
                may_have_asked: !error.is_connect(),
                is_lasting: known.is_some_and(ConnectError::is_lasting),
            }
        })
    }

    /// No head of an answer came.
    fn unreachable(
        &self,
        flight: Flight,
        question: &Question,
        lost: Lost,
        began: Instant,
    ) -> Response<AnswerBody> {
        let Lost { why, may_have_asked, is_lasting } = lost;
        if may_have_asked && !question.stream {
            // The head of a whole answer comes when everything is done: it may have cost what such requests do.
            flight.end_unseen_but(0);
        } else {
            flight.end(Tokens::default());
        }
        let is_final = self.patience.failed(Failure::Api, began, Instant::now()) || is_lasting;
        let answer = refused(&bad_gateway(&why), is_final);
        // What is wrong with this host's own settings says nothing to others who use the credential.
        if !is_lasting {
            let sign = Sign { kind: SignalKind::Failing, retry_after: None, window: String::new() };
            self.tell(question, &sign, why);
        }
        answer
    }

    fn pass_on(
        &self,
        response: Response<Incoming>,
        flight: Flight,
        is_final: bool,
        mut recording: Option<Recording>,
    ) -> Response<AnswerBody> {
        let (mut parts, body) = response.into_parts();
        self.clean(&mut parts.headers);
        if let Some(recording) = &mut recording {
            recording.answer(parts.status, &parts.headers);
        }
        if is_final {
            parts
                .headers
                .insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        let body = Metered::new(body, parts.status, &parts.headers, Some(flight), recording);
        Response::from_parts(parts, body.boxed_unsync())
    }

    /// Takes from the head of an answer what is between neighbours only, and whatever says the credential again: the API does
    /// not, but what stands in its place may.
    fn clean(&self, headers: &mut HeaderMap) {
        strip(headers);
        let key = self.key.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let key = key.as_bytes();
        let says = |value: &HeaderValue| value.as_bytes().windows(key.len().max(1)).any(|part| part == key);
        let names: Vec<HeaderName> =
            headers.iter().filter(|(_, value)| says(value)).map(|(name, _)| name.clone()).collect();
        for name in names {
            headers.remove(name);
        }
    }

    fn tell(&self, question: &Question, sign: &Sign, detail: String) {
        let retry_after = sign.retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self.desk.signal(&Event::Signal {
            kind: sign.kind,
            model: question.model.clone(),
            retry_after_ms: retry_after,
            window: sign.window.clone(),
            detail: detail.chars().take(LONGEST_DETAIL).collect(),
        });
    }
}

/// Why no head of an answer came.
struct Lost {
    why: String,
    /// There was a connection: the API may have read the request.
    may_have_asked: bool,
    /// Asking again is of no use until somebody has changed something on this host.
    is_lasting: bool,
}

/// How long a throttle is waited out: as it says, and spread, so that those who were throttled together do not come
/// together.
fn wait(sign: &Sign, request: u64) -> Duration {
    let spread = Duration::from_millis(request.wrapping_mul(0x9e37_79b9) % 500);
    sign.retry_after.unwrap_or(PLAIN_WAIT) + spread
}

/// Says that the API fails, in other words than its own: the CLI asks again whatever the head says when the body tells of
/// an `overloaded_error` (observed: 2.1.197).
fn given_up(
    response: &Response<Incoming>,
    flight: Flight,
    recording: Option<Recording>,
) -> Response<AnswerBody> {
    flight.end(Tokens::default());
    if let Some(mut recording) = recording {
        recording.answer(response.status(), response.headers());
        recording.end("given_up");
    }
    let status = response.status().as_u16();
    let message = format!("the API goes on failing, at last with status {status}");
    refused(&Refusal { status, kind: "api_error".to_owned(), message, retry_after_s: None }, true)
}

fn invalid(message: String) -> Refusal {
    Refusal { status: 400, kind: "invalid_request_error".to_owned(), message, retry_after_s: None }
}

fn bad_gateway(why: &str) -> Refusal {
    let message = format!("the API cannot be reached: {why}");
    Refusal { status: 502, kind: "api_error".to_owned(), message, retry_after_s: None }
}

/// An answer in place of the API's. `is_final`: asking again is of no use.
pub fn refused(refusal: &Refusal, is_final: bool) -> Response<AnswerBody> {
    let error = serde_json::json!({
        "type": "error",
        "error": { "type": refusal.kind, "message": refusal.message },
    });
    let mut response = Response::new(full(error.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(after) = refusal.retry_after_s {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(after));
    }
    if is_final {
        headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
    }
    response
}

/// Takes away what is between neighbours only.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain(NEIGHBOURS.map(HeaderName::from_static)) {
        headers.remove(name);
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
