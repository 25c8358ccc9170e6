//! The way to the API: its address, and connections that are kept. Knows where requests go; refuses to know how connections
//! are made and what is said.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thiserror::Error;

use super::connect::Connector;
use super::trust::TrustError;

/// How long an unused connection is kept. The API closes them after a few minutes.
const KEPT: Duration = Duration::from_secs(60);

/// Why there is no way to the API.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// The address is none.
    #[error("the address of the API {0:?} is not of the form https://HOST or http://HOST:PORT")]
    Address(String),
    /// The proxy's address has a scheme that is not known here.
    #[error(
        "the proxy {0:?} is not of the form http://HOST:PORT: set HTTPS_PROXY so, or set NO_PROXY for the API"
    )]
    Proxy(String),
    /// A file of authorities cannot be read.
    #[error(transparent)]
    Authorities(#[from] TrustError),
    /// The list of authorities or the cryptography is unusable.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Sends requests to the API.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: Client<Connector, Full<Bytes>>,
    scheme: Scheme,
    authority: Authority,
    prefix: String,
}

impl Upstream {
    /// The way to `address`, by an environment: `HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` and `NODE_EXTRA_CA_CERTS` count.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub fn new(address: &str, env: &BTreeMap<String, String>) -> Result<Self, UpstreamError> {
        let bad = || UpstreamError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| bad())?;
        let scheme = uri.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
        let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else { return Err(bad()) };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(KEPT)
            .pool_timer(TokioTimer::new())
            .build(Connector::new(&uri, env)?);
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { client, scheme: scheme.clone(), authority: authority.clone(), prefix })
    }

    /// Where a path and query of a request lead.
    ///
    /// # Errors
    /// When they are no part of an address.
    pub fn address(&self, asked: &Uri) -> Result<Uri, http::Error> {
        let rest = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{rest}", self.prefix))
            .build()
    }

    /// Sends a request whose address is that of [`Self::address`]; the answer's body comes as it comes.
    ///
    /// # Errors
    /// When there is no connection, or it is lost before the head of an answer.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        self.client.request(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_path_of_the_address_comes_before_that_of_requests() {
        let upstream = Upstream::new("https://api.example/base/", &env(&[])).unwrap();
        let address = upstream.address(&"/v1/messages?beta=true".parse().unwrap()).unwrap();
        assert_eq!(address, "https://api.example/base/v1/messages?beta=true");
        for bad in ["", "api.example", "ftp://x", "https:/x"] {
            assert!(matches!(Upstream::new(bad, &env(&[])), Err(UpstreamError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn authorities_of_the_host_are_read_and_a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, "no certificate\n").unwrap();
        let path = file.to_str().unwrap();
        assert!(Upstream::new("https://api.example", &env(&[("SSL_CERT_FILE", path)])).is_ok());
        let error = Upstream::new("https://api.example", &env(&[("NODE_EXTRA_CA_CERTS", "/nonexistent")]))
            .unwrap_err();
        assert_eq!(error.to_string(), "cannot read the certificates in /nonexistent");
        assert!(Upstream::new("http://127.0.0.1:7", &env(&[("SSL_CERT_FILE", "/nonexistent")])).is_ok());
    }
}
