//! Knows HTTP as far as one request: connects, sends, reads the answer as it comes. Refuses everything but loopback, and
//! to try twice.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::answer::{Reader, whole};
use crate::script::steps::{Answer, Failure};

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    at: SocketAddr,
    /// What stands before `/v1/messages`.
    path: String,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// An error status.
    Status(Failure),
    /// No connection, or none long enough for a status.
    Unreachable,
    /// The answer broke off.
    Lost,
}

impl Target {
    /// Reads `http://127.0.0.1:PORT`.
    pub(super) fn parse(base: &str) -> Result<Self, &'static str> {
        let rest = base.strip_prefix("http://").ok_or("only http is spoken here")?;
        let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host = host.replace("localhost", "127.0.0.1");
        let at: SocketAddr = host.parse().map_err(|_| "it names no address and port")?;
        if !at.ip().is_loopback() {
            return Err("a rehearsal does not leave the machine");
        }
        Ok(Self { at, path: path.trim_end_matches('/').to_owned() })
    }
}

/// Asks whether somebody is there.
pub(super) async fn head(target: Target) {
    let request = Request::head(format!("{}/", target.path)).header("host", target.at.to_string());
    let Ok(request) = request.body(Full::new(Bytes::new())) else { return };
    // Any answer will do, and none.
    let _ = exchange(&target, request).await;
}

/// Sends a request and reads its answer; `limit` is for its beginning.
pub(super) async fn post(
    target: Target,
    headers: Vec<(&'static str, String)>,
    body: String,
    limit: Duration,
) -> Result<Answer, Trouble> {
    let mut request = Request::post(format!("{}/v1/messages?beta=true", target.path))
        .header("host", target.at.to_string())
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|_| Trouble::Unreachable)?;
    let asked = tokio::time::timeout(limit, exchange(&target, request)).await;
    let (response, _connection) = asked.ok().flatten().ok_or(Trouble::Unreachable)?;
    let (parts, mut body) = response.into_parts();
    let status = parts.status.as_u16();
    let streams = parts
        .headers
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if status == 200 && streams {
        let mut reader = Reader::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Trouble::Lost)?;
            if let Ok(data) = frame.into_data() {
                reader.take(&data);
            }
        }
        return reader.finish().ok_or(Trouble::Lost);
    }
    let bytes = body.collect().await.map_err(|_| Trouble::Lost)?.to_bytes();
    let json = serde_json::from_slice(&bytes).unwrap_or_default();
    if status == 200 {
        return whole(&json).ok_or(Trouble::Lost);
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let message = json["error"]["message"].as_str().unwrap_or_default().to_owned();
    Err(Trouble::Status(Failure::Status { status, message, headers }))
}

/// One request on a connection of its own, which lives as long as what is returned with the response.
async fn exchange(
    target: &Target,
    request: Request<Full<Bytes>>,
) -> Option<(http::Response<Incoming>, JoinSet<()>)> {
    let stream = TcpStream::connect(target.at).await.ok()?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Its end is seen in the response.
        let _ = connection.await;
    });
    let response = sender.send_request(request).await.ok()?;
    Some((response, driver))
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn an_endpoint_is_on_this_machine() {
        let target = Target::parse("http://127.0.0.1:8080/x/").unwrap();
        assert_eq!((target.at.port(), target.path.as_str()), (8080, "/x"));
        assert!(Target::parse("https://127.0.0.1:1").is_err());
        assert!(Target::parse("http://10.0.0.1:80").is_err());
        assert!(Target::parse("http://api.example").is_err());
    }
}
