//! The way to the API: connections that are kept, TLS by the list of public authorities and the host's own, and a proxy
//! where the environment names one. Knows addresses; refuses to know what is said.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use tokio::net::TcpStream;
use tower_service::Service;

/// Longest time for a connection, one try after the other where a name has several addresses.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// How long an unused connection is kept. The API closes them after a few minutes.
const KEPT: Duration = Duration::from_secs(60);

/// A connection on which nothing comes is asked whether it is still there: a network that drops it says nothing.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Variables that name files of further authorities.
const AUTHORITIES: [&str; 2] = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"];

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
    #[error("cannot read the certificates in {}", path.display())]
    Authorities {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The list of authorities or the cryptography is unusable.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Sends requests to the API.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
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
        let tls = tls(env, *scheme == Scheme::HTTPS)?;
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(KEPT)
            .pool_timer(TokioTimer::new())
            .build(https.wrap_connector(connector(&uri, env)?));
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

fn tls(env: &BTreeMap<String, String>, is_used: bool) -> Result<ClientConfig, UpstreamError> {
    let mut roots = RootCertStore::empty();
    if is_used {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for path in AUTHORITIES.iter().filter_map(|name| env.get(*name)).map(PathBuf::from) {
            let bad = |source| UpstreamError::Authorities { path: path.clone(), source };
            let found = CertificateDer::pem_file_iter(&path).map_err(bad)?;
            let found: Vec<_> = found.collect::<Result<_, _>>().map_err(bad)?;
            // Some of a host's list may be of a kind that is not supported here.
            roots.add_parsable_certificates(found);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn connector(to: &Uri, env: &BTreeMap<String, String>) -> Result<Connector, UpstreamError> {
    let mut direct = HttpConnector::new();
    direct.enforce_http(false);
    direct.set_nodelay(true);
    direct.set_connect_timeout(Some(CONNECT_LIMIT));
    direct.set_keepalive(Some(KEEPALIVE));
    let either = |name: &str| {
        let lower = env.get(&name.to_ascii_lowercase());
        lower.or_else(|| env.get(name)).cloned().unwrap_or_default()
    };
    let proxies = Matcher::builder()
        .https(either("HTTPS_PROXY"))
        .http(either("HTTP_PROXY"))
        .no(either("NO_PROXY"))
        .build();
    let Some(proxy) = proxies.intercept(to).filter(|_| !is_loopback(to)) else {
        return Ok(Connector::Direct(direct));
    };
    if proxy.uri().scheme() != Some(&Scheme::HTTP) {
        // It may hold a password.
        return Err(UpstreamError::Proxy(proxy.uri().host().unwrap_or_default().to_owned()));
    }
    let tunnel = Tunnel::new(proxy.uri().clone(), direct);
    Ok(Connector::Proxied(match proxy.basic_auth() {
        Some(auth) => tunnel.with_auth(auth.clone()),
        None => tunnel,
    }))
}

fn is_loopback(to: &Uri) -> bool {
    let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Connects directly or through a proxy.
#[derive(Debug, Clone)]
enum Connector {
    Direct(HttpConnector),
    Proxied(Tunnel<HttpConnector>),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(direct) => direct.poll_ready(cx).map_err(Into::into),
            Self::Proxied(tunnel) => tunnel.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        match self {
            Self::Direct(direct) => {
                let connecting = direct.call(to);
                Box::pin(async move { Ok(connecting.await?) })
            }
            Self::Proxied(tunnel) => {
                let connecting = tunnel.call(to);
                Box::pin(async move { Ok(connecting.await?) })
            }
        }
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
    fn a_proxy_is_used_where_the_environment_says_so_and_never_on_this_host() {
        let named = env(&[("HTTPS_PROXY", "http://u:p@proxy:3128"), ("no_proxy", "inner.example")]);
        let way = |to: &str, env: &BTreeMap<String, String>| connector(&to.parse().unwrap(), env);
        assert!(matches!(way("https://api.example", &named), Ok(Connector::Proxied(_))));
        for direct in ["https://inner.example", "http://127.0.0.1:7", "https://[::1]", "http://api.example"] {
            assert!(matches!(way(direct, &named), Ok(Connector::Direct(_))), "{direct}");
        }
        let other = env(&[("https_proxy", "https://u:secret@proxy:3128")]);
        let refusal = way("https://api.example", &other).unwrap_err().to_string();
        assert!(refusal.contains("\"proxy\"") && !refusal.contains("secret"), "{refusal}");
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
