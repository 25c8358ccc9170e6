//! Knows HTTP: accepts connections and routes the few paths the CLI uses. hyper is used directly because a request must also
//! be able to fail by having its connection dropped, which a router hides. Refuses to decide what is answered.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::Shared;
use super::messages::messages;
use super::respond::{Body, Dropped, error_response, json_response, plain};
use crate::models::Usage;

/// Largest request body read. The CLI sends whole conversations; 9.4 MB prompts were observed.
const MAX_BODY: usize = 64 << 20;
/// Pause after a failed accept (too many open files), so that it is not retried in a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
        (&Method::HEAD, _) | (&Method::GET, "/") => Ok(plain(200)),
        (&Method::GET, "/standin/ledger") => {
            let ledger = shared.state().ledger.clone();
            Ok(json_response(200, &[], &json!(ledger)))
        }
        (&Method::GET, "/standin/requests") => {
            let requests = shared.state().requests.clone();
            Ok(json_response(200, &[], &json!(requests)))
        }
        (&Method::GET, "/_standin/ledger") => {
            let entries = shared.state().book.entries().to_vec();
            Ok(json_response(200, &[], &json!({"entries": entries})))
        }
        (&Method::POST, "/v1/messages" | "/v1/messages/count_tokens") => {
            let Ok(bytes) = Limited::new(body, MAX_BODY).collect().await else {
                let why = "the request body is too large or was cut short";
                return Ok(error_response(413, &[], why, "req_none"));
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
