//! How bytes get to a coordinator: the seam between the session and the network. An agent dials TLS with its
//! certificate; a test dials what it likes. Knows no message.

use http::Uri;
use hyper_util::rt::TokioIo;
use orch_certs::dial::Connector;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

/// Why there is no connection.
pub type DialError = Box<dyn Error + Send + Sync>;
/// A connection in the making.
pub type Dialling = Pin<Box<dyn Future<Output = Result<Box<dyn Wire>, DialError>> + Send>>;

/// A connection.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Makes connections.
pub trait Dial: Send + Sync + fmt::Debug {
    /// Dials the host and port of `uri` once; its scheme says nothing.
    fn dial(&self, uri: Uri) -> Dialling;
}

impl Dial for Connector {
    fn dial(&self, uri: Uri) -> Dialling {
        let connector = self.clone();
        Box::pin(async move { Ok(Box::new(connector.dial(&uri).await?) as Box<dyn Wire>) })
    }
}

/// A dialler as gRPC channels take it.
#[derive(Debug, Clone)]
pub(super) struct Dialler(pub(super) Arc<dyn Dial>);

impl Service<Uri> for Dialler {
    type Response = TokioIo<Box<dyn Wire>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialling = self.0.dial(uri);
        Box::pin(async move { dialling.await.map(TokioIo::new) })
    }
}
