//! Dialling a coordinator: a connector for a gRPC channel, and errors that tell a person what to mend.
//!
//! Knows TCP and TLS. Refuses to know gRPC, to retry (the caller's policy) and to choose between endpoints.
//!
//! A channel is given the endpoint as `https://host:port` and this connector in place of its own; with tonic:
//!
//! ```text
//! Endpoint::from_shared("https://box-1:7443")?.connect_with_connector(Connector::new(tls)).await
//! ```
//!
//! The scheme decides nothing: TLS is always used, so `http://host:port` is taken too and never means plain text. (tonic
//! refuses `https` only if it is built with TLS features of its own, which this workspace does not enable.) The name
//! that the server's certificate must bear is the host of the URI, a DNS name or an IP address.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::tls::ClientTls;

mod error;
mod stream;
mod verifier;

pub use error::{DialError, Rejection};
pub use stream::Confirmed;

/// The port of an endpoint that names none.
pub const DEFAULT_PORT: u16 = 7443;
/// How long a dial may take, from name resolution to the end of the handshake, unless set otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for the server's first bytes. In TLS 1.3 a client has finished before the server has judged its
/// certificate, so a refusal comes as an alert afterwards. An HTTP/2 server speaks first (its settings), within one
/// round trip; one that does not is handed over unconfirmed.
const CONFIRM_WAIT: Duration = Duration::from_secs(1);

/// Makes TLS connections to the host of a URI. Clones share the certificates, which may be reloaded meanwhile.
#[derive(Clone, Debug)]
pub struct Connector {
    tls: Arc<ClientTls>,
    connect_timeout: Duration,
}

impl Connector {
    /// A connector with [`DEFAULT_CONNECT_TIMEOUT`].
    #[must_use]
    pub fn new(tls: Arc<ClientTls>) -> Self {
        Self { tls, connect_timeout: DEFAULT_CONNECT_TIMEOUT }
    }

    /// Bounds a whole dial. After it, [`DialError::Timeout`] says which step was under way.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Dials the host of `uri` once.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, uri: &Uri) -> Result<Confirmed<TlsStream<TcpStream>>, DialError> {
        let target = Target::of(uri)?;
        let deadline = Instant::now() + self.connect_timeout;
        let late =
            |step| DialError::Timeout { target: target.to_string(), after: self.connect_timeout, step };
        let tcp = timeout_at(deadline, connect_tcp(&target)).await.map_err(|_| late("connecting"))??;
        let tls = timeout_at(deadline, self.handshake(&target, tcp))
            .await
            .map_err(|_| late("the TLS handshake"))??;
        let mut stream = Confirmed::new(tls);
        match timeout(CONFIRM_WAIT, stream.confirm()).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(error)) => Err(DialError::after_handshake(&target.to_string(), error)),
            Err(_unconfirmed) => Ok(stream),
        }
    }

    async fn handshake(&self, target: &Target, tcp: TcpStream) -> Result<TlsStream<TcpStream>, DialError> {
        let state = self.tls.current();
        let recorder = Arc::new(verifier::Recording::new(Arc::clone(&state.verifier)));
        let mut config = state.config.clone();
        config.dangerous().set_certificate_verifier(Arc::<verifier::Recording>::clone(&recorder));
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(target.server_name.clone(), tcp).await.map_err(|error| {
            DialError::in_handshake(&target.to_string(), error, &state.authorities, recorder.presented())
        })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Confirmed<TlsStream<TcpStream>>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.dial(&uri).await.map(TokioIo::new) })
    }
}

/// The [`DialError`] among an error and its causes, for instance those of a gRPC transport error.
#[must_use]
pub fn find_dial_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a DialError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error hides the error inside it: its `source` is that error's source.
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            return find_dial_error(inner);
        }
        next = error.source();
    }
    None
}

/// Where a URI points.
struct Target {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, DialError> {
        let bad = |why| DialError::BadEndpoint { endpoint: uri.to_string(), why };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it names no host"))?;
        // A URI puts brackets around an IPv6 address; neither the resolver nor a certificate does.
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).to_owned();
        let server_name = ServerName::try_from(host.clone())
            .map_err(|_| bad("its host is neither a DNS name nor an IP address"))?;
        Ok(Self { host, port: uri.port_u16().unwrap_or(DEFAULT_PORT), server_name })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Tries every address of the host; the last failure is the one reported.
async fn connect_tcp(target: &Target) -> Result<TcpStream, DialError> {
    let resolve_error = |source| DialError::Resolve { host: target.host.clone(), source };
    let addresses =
        tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(resolve_error)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|source| DialError::connect(&target.to_string(), source))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(DialError::connect(&target.to_string(), last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Result<String, DialError> {
        Target::of(&uri.parse().unwrap()).map(|target| target.to_string())
    }

    #[test]
    fn endpoints_name_host_and_port() {
        assert_eq!(target("https://box-1:9").unwrap(), "box-1:9");
        assert_eq!(target("http://192.0.2.7").unwrap(), "192.0.2.7:7443");
        assert_eq!(target("https://[::1]:9").unwrap(), "[::1]:9");
    }

    #[test]
    fn endpoints_without_a_usable_host_are_refused() {
        for uri in ["/path", "https://box_1!:9"] {
            assert!(matches!(target(uri), Err(DialError::BadEndpoint { .. })), "{uri}");
        }
    }

    #[test]
    fn a_dial_error_is_found_below_other_errors() {
        let dial = DialError::BadEndpoint { endpoint: "x".to_owned(), why: "it names no host" };
        let outer = io::Error::other(io::Error::other(dial));
        assert!(matches!(find_dial_error(&outer), Some(DialError::BadEndpoint { .. })));
        assert!(find_dial_error(&io::Error::other("something else")).is_none());
    }
}
