//! What every request passes before its method: a request id, a log line, a metric, and a row of the code table for
//! refusals that gRPC itself made up.
//! Knows method names and status codes; refuses to know messages, which are never logged.

use crate::rpc::status::from_decoder;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument as _;

/// Header of the request id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header of typed details; there on every refusal of ours.
const DETAILS: &str = "grpc-status-details-bin";
/// Longest request id taken from a caller.
const MAX_REQUEST_ID: usize = 64;

/// Hears of every request that ended: method, code and seconds to the answer's head.
pub type Observer = Arc<dyn Fn(&str, Code, f64) + Send + Sync>;

/// Gives every request an id, and tells the observer how it ended.
#[derive(Clone)]
pub struct TraceLayer {
    observer: Observer,
    next_id: Arc<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for TraceLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TraceLayer").finish_non_exhaustive()
    }
}

impl TraceLayer {
    /// `next_id` makes ids for requests that bring none.
    pub fn new(observer: Observer, next_id: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { observer, next_id: Arc::new(next_id) }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Trace { inner, layer: self.clone() }
    }
}

/// The service made by [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
    layer: TraceLayer,
}

impl<S, B> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let started = Instant::now();
        let method = request.uri().path().to_owned();
        let id = usable_id(request.headers()).unwrap_or_else(|| (self.layer.next_id)());
        let span = tracing::info_span!("rpc", method, request_id = id);
        let observer = Arc::clone(&self.layer.observer);
        // Layers below may speak before their future is first polled.
        let answer = span.in_scope(|| self.inner.call(request));
        Box::pin(
            async move {
                let mut response = with_a_row(answer.await?);
                if let Ok(mut value) = HeaderValue::from_str(&id) {
                    // No answer has it again: HTTP/2 is not to put it into the tables of both ends, out of which it would
                    // push what every answer has.
                    value.set_sensitive(true);
                    response.headers_mut().insert(REQUEST_ID, value);
                }
                let code = head_code(response.headers());
                observer(&method, code, started.elapsed().as_secs_f64());
                tracing::debug!(?code, "answered");
                Ok(response)
            }
            .instrument(span),
        )
    }
}

/// The code in the head: refusals put it there, and so do all unary errors. Streams that fail later count as ok.
fn head_code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

/// Gives a refusal that gRPC itself made up, for a message that is too long or none at all, its row of the code table.
fn with_a_row(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    if headers.contains_key(DETAILS) || !headers.contains_key("grpc-status") {
        return response;
    }
    match Status::from_header_map(headers).map(|status| (status.code(), from_decoder(status))) {
        Some((before, status)) if status.code() != before => status.into_http(),
        Some(_) | None => response,
    }
}

fn usable_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (plain && (1..=MAX_REQUEST_ID).contains(&id.len())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    async fn call(id: Option<&str>) -> (String, Vec<(String, Code)>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let observer: Observer =
            Arc::new(move |method: &str, code, _| log.lock().unwrap().push((method.to_owned(), code)));
        let refused = |_: Request<()>| async {
            Ok::<_, std::convert::Infallible>(Status::not_found("no").into_http::<Body>())
        };
        let service = ServiceBuilder::new()
            .layer(TraceLayer::new(observer, || "made".into()))
            .service(service_fn(refused));
        let mut request = Request::get("/a.B/C").body(()).unwrap();
        if let Some(id) = id {
            request.headers_mut().insert(REQUEST_ID, HeaderValue::from_str(id).unwrap());
        }
        let response = service.oneshot(request).await.unwrap();
        let id = &response.headers()[REQUEST_ID];
        assert!(id.is_sensitive(), "it is kept in no table of headers");
        let id = id.to_str().unwrap().to_owned();
        let seen = seen.lock().unwrap().clone();
        (id, seen)
    }

    #[test]
    fn a_refusal_of_the_decoder_gets_a_row_and_an_answer_stays() {
        let long = Status::out_of_range("decoded message length too large: found 9 bytes");
        let response = with_a_row(long.into_http::<Body>());
        assert_eq!(head_code(response.headers()), Code::InvalidArgument);
        assert!(response.headers().contains_key(DETAILS));
        let response = with_a_row(Response::new(Body::empty()));
        assert_eq!(head_code(response.headers()), Code::Ok);
    }

    #[tokio::test]
    async fn every_answer_carries_an_id_and_is_counted() {
        let (id, seen) = call(None).await;
        assert_eq!(id, "made");
        assert_eq!(seen, [("/a.B/C".to_owned(), Code::NotFound)]);
        assert_eq!(call(Some("mine-1")).await.0, "mine-1");
        assert_eq!(call(Some("a b; c")).await.0, "made", "an id that could disturb a log is replaced");
    }
}
