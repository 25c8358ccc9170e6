//! The gateway's side towards the CLI: HTTP on loopback, for whoever knows the word of the attempt, and for the few things
//! the CLI asks. Knows paths; refuses to know what answers hold.
//!
//! | Request | |
//! |---|---|
//! | without the word of the attempt | 401, and the API hears nothing of it |
//! | `POST /v1/messages` | asked for, counted |
//! | `POST /v1/messages/count_tokens`; `GET` and `HEAD` of `/` and `/v1/models…` | passed on: it costs nothing |
//! | with a `content-encoding` | 415: what is sent is what was read |
//! | anything else | 404: batches and files would be spending that nobody counts |

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::body::AnswerBody;
use super::desk::Refusal;
use super::forward::{Forwarder, refused};

/// Longest head of a request, and most that is read of a body at a time. The CLI's heads have about 2 kB.
const LONGEST_HEAD: usize = 64 * 1024;

/// Serves one connection to its end. `is_known` is set when whoever is there has said the word.
pub async fn serve(stream: TcpStream, forwarder: Arc<Forwarder>, token: Arc<str>, is_known: Arc<AtomicBool>) {
    // Small pieces of a stream must not wait for each other's acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (forwarder, token, is_known) =
            (Arc::clone(&forwarder), Arc::clone(&token), Arc::clone(&is_known));
        async move {
            if !knows(request.headers(), &token) {
                return Ok::<_, Infallible>(turned_away());
            }
            is_known.store(true, Ordering::Relaxed);
            Ok(answer(&forwarder, request).await)
        }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    // An error here is the CLI's hanging up, or an answer that the API cut short, which is passed on by that.
    let _ = server
        .timer(TokioTimer::new())
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn turned_away() -> Response<AnswerBody> {
    refused(&not("authentication_error", 401, "this door opens to the attempt it belongs to"), true)
}

async fn answer(forwarder: &Forwarder, request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    if parts.headers.contains_key(http::header::CONTENT_ENCODING) {
        let message = "the gateway reads what it passes on: send it without content-encoding";
        return refused(&not("invalid_request_error", 415, message), true);
    }
    match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/v1/messages") => forwarder.message(parts, body).await,
        (&Method::POST, "/v1/messages/count_tokens") | (&Method::GET | &Method::HEAD, "/" | "/v1/models") => {
            forwarder.free(parts, body).await
        }
        (&Method::GET | &Method::HEAD, path) if is_model(path) => forwarder.free(parts, body).await,
        _ => refused(&not("not_found_error", 404, "the gateway passes on messages only"), true),
    }
}

/// Whether a path is that of one model, and of nothing else by whatever reading: `..` and escapes could lead to files and
/// batches of the account.
fn is_model(path: &str) -> bool {
    let name = path.strip_prefix("/v1/models/").unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte);
    !name.is_empty() && !name.contains("..") && name.bytes().all(is_plain)
}

fn not(kind: &str, status: u16, message: &str) -> Refusal {
    Refusal { status, kind: kind.to_owned(), message: message.to_owned(), retry_after_s: None }
}

/// Whether a request carries the word, as an API key or as a bearer's token.
fn knows(headers: &HeaderMap, token: &str) -> bool {
    let bearer = headers.get(http::header::AUTHORIZATION).and_then(|value| {
        let value = value.as_bytes();
        value.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))?;
        value.get(7..)
    });
    let key = headers.get("x-api-key").map(http::HeaderValue::as_bytes);
    !token.is_empty() && [key, bearer].into_iter().flatten().any(|said| is_same(said, token.as_bytes()))
}

/// Compares in a time that tells nothing about where they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_path_of_a_model_leads_nowhere_else() {
        assert!(is_model("/v1/models/claude-sonnet-5") && is_model("/v1/models/a.b:c@1"));
        for path in
            ["/v1/models/", "/v1/models/../files", "/v1/models/%2e%2e/files", "/v1/models/a/b", "/v1/files"]
        {
            assert!(!is_model(path), "{path}");
        }
    }

    #[test]
    fn the_word_opens_as_a_key_and_as_a_bearers_token_and_nothing_else_does() {
        let said = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            knows(&headers, "word")
        };
        assert!(said("x-api-key", "word") && said("authorization", "Bearer word"));
        for (name, value) in [
            ("x-api-key", "wor"),
            ("x-api-key", "words"),
            ("x-api-key", "Word"),
            ("x-api-key", ""),
            ("authorization", "word"),
            ("authorization", "Basic word"),
            ("authorization", "Bearer "),
            ("cookie", "word"),
        ] {
            assert!(!said(name, value), "{name}: {value}");
        }
        assert!(!knows(&HeaderMap::new(), "word"));
        let mut empty = HeaderMap::new();
        empty.insert("x-api-key", HeaderValue::from_static(""));
        assert!(!knows(&empty, ""));
    }
}
