//! Knows how to answer with exchanges that a gateway recorded (`record_exchanges` of an agent; the format is described in
//! `agent/src/gateway/recorder.rs`): the same bytes in the same pieces at the same pace. Refuses to check credentials and
//! to compare bodies: a request gets the first exchange that was not used yet and has its path, model and way of
//! answering.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::respond::{Body, Dropped, error_response, plain};

/// Largest request body read.
const MAX_BODY: usize = 64 << 20;

/// Longest pause between two pieces: one that took long is not waited for again in full.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A line of a recorded exchange.
#[derive(Debug, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Line {
    Request {
        path: String,
        body: String,
    },
    Answer {
        at_ms: u64,
        status: u16,
        headers: Vec<(String, String)>,
    },
    Data {
        at_ms: u64,
        text: Option<String>,
        hex: Option<String>,
    },
    End {
        how: String,
    },
    #[serde(other)]
    Unknown,
}

/// What tells one request from another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct Asked {
    #[serde(skip)]
    path: String,
    model: String,
    stream: bool,
}

#[derive(Debug, Default)]
struct Exchange {
    asked: Asked,
    status: u16,
    headers: Vec<(String, String)>,
    pieces: Vec<(Duration, Bytes)>,
    is_cut: bool,
}

/// Recorded exchanges, in the order of their files.
#[derive(Debug)]
pub struct Replay(Vec<Exchange>);

impl Replay {
    /// Reads a directory of exchanges. Those without an answer are left out.
    ///
    /// # Errors
    /// When a file cannot be read or is not of the format.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let mut files: Vec<_> =
            std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
        let mut exchanges = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            let exchange = parse(&text)
                .map_err(|why| io::Error::other(format!("{} is no exchange: {why}", file.display())))?;
            exchanges.extend(Some(exchange).filter(|exchange| exchange.status != 0));
        }
        Ok(Self(exchanges))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Answers on `listener` until dropped.
    pub async fn serve(self, listener: TcpListener) {
        let left = Arc::new(Mutex::new(self.0));
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let left = Arc::clone(&left);
            connections.spawn(async move {
                let service = service_fn(|request| answer(Arc::clone(&left), request));
                let server = hyper::server::conn::http1::Builder::new();
                // An error is the peer's disconnect, or a cut that was recorded.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

fn parse(text: &str) -> Result<Exchange, String> {
    let mut exchange = Exchange { is_cut: true, ..Exchange::default() };
    let mut last = 0;
    for line in text.lines() {
        match serde_json::from_str(line).map_err(|error| error.to_string())? {
            Line::Request { path, body } => {
                exchange.asked = serde_json::from_str(&body).unwrap_or_default();
                exchange.asked.path = path;
            }
            Line::Answer { at_ms, status, headers } => {
                (exchange.status, exchange.headers, last) = (status, headers, at_ms);
            }
            Line::Data { at_ms, text, hex } => {
                let pause = Duration::from_millis(at_ms.saturating_sub(last));
                last = at_ms;
                let bytes = match (text, hex) {
                    (Some(text), _) => Bytes::from(text),
                    (None, hex) => unhex(&hex.unwrap_or_default()).ok_or("bad hexadecimal digits")?,
                };
                exchange.pieces.push((pause.min(LONGEST_PAUSE), bytes));
            }
            Line::End { how } => exchange.is_cut = !matches!(how.as_str(), "whole" | "waited_out"),
            Line::Unknown => {}
        }
    }
    Ok(exchange)
}

fn unhex(text: &str) -> Option<Bytes> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

async fn answer(
    left: Arc<Mutex<Vec<Exchange>>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    if parts.method == Method::HEAD {
        return Ok(plain(200));
    }
    let body = Limited::new(body, MAX_BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut asked: Asked = serde_json::from_slice(&body).unwrap_or_default();
    asked.path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    let found = left.iter().position(|exchange| exchange.asked == asked).map(|at| left.remove(at));
    drop(left);
    let Some(exchange) = found else {
        return Ok(error_response(404, &[], "no such exchange is left", "req_none"));
    };
    Ok(replayed(exchange))
}

fn replayed(exchange: Exchange) -> Response<Body> {
    let cut = exchange.is_cut.then_some(None);
    let pieces = exchange.pieces.into_iter().map(Some).chain(cut);
    let frames = futures_util::stream::unfold(pieces, |mut pieces| async move {
        let frame = match pieces.next()? {
            Some((pause, bytes)) => {
                tokio::time::sleep(pause).await;
                Ok(Frame::data(bytes))
            }
            None => Err(Dropped),
        };
        Some((frame, pieces))
    });
    let mut response = Response::builder().status(exchange.status);
    for (name, value) in &exchange.headers {
        response = response.header(name.as_str(), value.as_str());
    }
    let body = StreamBody::new(frames).boxed_unsync();
    response.body(body).unwrap_or_else(|_| error_response(500, &[], "a recorded header is none", "req_none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_read_whatever_its_pieces_are() {
        let text = "{\"record\":\"request\",\"version\":1,\"path\":\"/v1/messages\",\"body\":\"{\\\"model\\\":\\\"m\\\",\\\"stream\\\":true}\"}\n\
            {\"record\":\"answer\",\"at_ms\":5,\"status\":200,\"headers\":[[\"a\",\"b\"]]}\n\
            {\"record\":\"data\",\"at_ms\":9,\"text\":\"x\"}\n{\"record\":\"data\",\"at_ms\":9,\"hex\":\"c3\"}\n\
            {\"record\":\"later\"}\n{\"record\":\"end\",\"at_ms\":9,\"how\":\"whole\"}\n";
        let exchange = parse(text).unwrap();
        assert_eq!(
            exchange.asked,
            Asked { path: "/v1/messages".to_owned(), model: "m".to_owned(), stream: true }
        );
        assert_eq!((exchange.status, exchange.is_cut), (200, false));
        assert_eq!(exchange.pieces[0], (Duration::from_millis(4), Bytes::from("x")));
        assert_eq!(exchange.pieces[1].1, Bytes::from_static(&[0xc3]));
        assert!(parse("{").is_err() && parse("{\"record\":\"data\",\"at_ms\":1,\"hex\":\"c\"}").is_err());
        assert!(parse("").unwrap().is_cut);
    }
}
