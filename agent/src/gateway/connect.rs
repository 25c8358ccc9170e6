//! Connections to the API: directly or through a proxy, by TLS, within one limit for all of it, and with words for what
//! keeps them from being made. Knows addresses and certificates; refuses to know what is said.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use super::trust;
use super::upstream::UpstreamError;

/// Longest time until a request can be sent: the name, the connection, what a proxy has to say, and TLS. A proxy or a host
/// that takes a connection and says nothing costs this much.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// And of it for the connection alone, one try after the other where a name has several addresses.
const REACH_LIMIT: Duration = Duration::from_secs(15);

/// A connection on which nothing comes is asked whether it is still there: a network that drops it says nothing.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Why there is no connection, where there is more to say than what the network said.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// It takes too long.
    #[error("no connection within {} s", CONNECT_LIMIT.as_secs())]
    Late,
    /// The proxy wants to know who asks.
    #[error(
        "the proxy {proxy} answered 407: name user and password, as in HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
    )]
    Stranger {
        /// Its host.
        proxy: String,
    },
    /// The proxy does not lead there.
    #[error("the proxy {proxy} opens no way to the API")]
    Proxy {
        /// Its host.
        proxy: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// Whoever answered is not the API, by all that is known here.
    #[error(
        "the certificate of the API is not trusted ({why}): if its authority is your own, add it to the host's list, or \
         name its file in SSL_CERT_FILE of the agent's environment"
    )]
    Certificate {
        /// Why.
        why: rustls::CertificateError,
    },
}

impl ConnectError {
    /// What keeps a request from the API, if it is one of these.
    pub fn of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        chain(error).find_map(<dyn Error>::downcast_ref)
    }

    /// Whether asking again is of no use until somebody has changed something on this host.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::Stranger { .. } | Self::Certificate { .. } => true,
            Self::Late | Self::Proxy { .. } => false,
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes connections.
#[derive(Debug, Clone)]
pub struct Connector {
    https: HttpsConnector<Way>,
}

impl Connector {
    /// Connections to `to` by an environment.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub fn new(to: &Uri, env: &BTreeMap<String, String>) -> Result<Self, UpstreamError> {
        let is_used = to.scheme() == Some(&Scheme::HTTPS);
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls(env, is_used)?);
        Ok(Self { https: tls.https_or_http().enable_http1().wrap_connector(Way::new(to, env)?) })
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.https.call(to);
        Box::pin(async move {
            let connected = timeout(CONNECT_LIMIT, connecting).await.map_err(|_| ConnectError::Late)?;
            connected.map_err(|error| match distrust(error.as_ref()) {
                Some(why) => ConnectError::Certificate { why }.into(),
                None => error,
            })
        })
    }
}

fn tls(env: &BTreeMap<String, String>, is_used: bool) -> Result<ClientConfig, UpstreamError> {
    let roots = if is_used { trust::roots(env, &trust::OF_HOST)? } else { RootCertStore::empty() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn distrust(error: &(dyn Error + 'static)) -> Option<rustls::CertificateError> {
    chain(error).find_map(|error| match error.downcast_ref() {
        Some(rustls::Error::InvalidCertificate(why)) => Some(why.clone()),
        _ => None,
    })
}

/// An error and its causes, those included that [`io::Error`] keeps to itself.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inside.map(|inside| inside as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// To the API or to a proxy.
#[derive(Debug, Clone)]
enum Way {
    Direct(HttpConnector),
    Proxied { tunnel: Tunnel<HttpConnector>, proxy: Arc<str> },
}

impl Way {
    fn new(to: &Uri, env: &BTreeMap<String, String>) -> Result<Self, UpstreamError> {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_connect_timeout(Some(REACH_LIMIT));
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
            return Ok(Self::Direct(direct));
        };
        // Its address may hold a password.
        let host = proxy.uri().host().unwrap_or_default();
        if proxy.uri().scheme() != Some(&Scheme::HTTP) {
            return Err(UpstreamError::Proxy(host.to_owned()));
        }
        let tunnel = Tunnel::new(proxy.uri().clone(), direct);
        let tunnel = match proxy.basic_auth() {
            Some(auth) => tunnel.with_auth(auth.clone()),
            None => tunnel,
        };
        Ok(Self::Proxied { tunnel, proxy: host.into() })
    }
}

fn is_loopback(to: &Uri) -> bool {
    let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Service<Uri> for Way {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(direct) => direct.poll_ready(cx).map_err(Into::into),
            Self::Proxied { tunnel, .. } => tunnel.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        match self {
            Self::Direct(direct) => {
                let connecting = direct.call(to);
                Box::pin(async move { Ok(connecting.await?) })
            }
            Self::Proxied { tunnel, proxy } => {
                let (connecting, proxy) = (tunnel.call(to), proxy.to_string());
                Box::pin(async move {
                    connecting.await.map_err(|error| {
                        // The library keeps the kinds of its errors to itself; a test asks a proxy that says 407.
                        let is_stranger = error.to_string().contains("authorization required");
                        let error = if is_stranger {
                            ConnectError::Stranger { proxy }
                        } else {
                            ConnectError::Proxy { proxy, source: error.into() }
                        };
                        error.into()
                    })
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    fn env(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_proxy_is_used_where_the_environment_says_so_and_never_on_this_host() {
        let named = env(&[("HTTPS_PROXY", "http://u:p@proxy:3128"), ("no_proxy", "inner.example")]);
        let way = |to: &str, env: &BTreeMap<String, String>| Way::new(&to.parse().unwrap(), env);
        assert!(matches!(way("https://api.example", &named), Ok(Way::Proxied { .. })));
        for direct in ["https://inner.example", "http://127.0.0.1:7", "https://[::1]", "http://api.example"] {
            assert!(matches!(way(direct, &named), Ok(Way::Direct(_))), "{direct}");
        }
        for scheme in ["https", "socks5"] {
            let other = env(&[("https_proxy", &format!("{scheme}://u:secret@proxy:3128"))]);
            let refusal = way("https://api.example", &other).unwrap_err().to_string();
            assert!(refusal.contains("\"proxy\"") && !refusal.contains("secret"), "{refusal}");
        }
    }

    /// Takes connections and says nothing.
    async fn silent() -> (String, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut taken = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read_u8().await;
                taken.push(stream);
            }
        });
        (address, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_and_an_api_that_take_a_connection_and_say_nothing_cost_one_limit() {
        let (address, _tasks) = silent().await;
        let proxied = env(&[("HTTPS_PROXY", &format!("http://{address}"))]);
        for (to, env) in
            [("https://api.example".to_owned(), proxied), (format!("https://{address}"), env(&[]))]
        {
            let to: Uri = to.parse().unwrap();
            let before = Instant::now();
            let refusal = Connector::new(&to, &env).unwrap().call(to).await.unwrap_err();
            assert!(before.elapsed() < CONNECT_LIMIT + Duration::from_secs(1), "{:?}", before.elapsed());
            let refusal = ConnectError::of(refusal.as_ref()).unwrap();
            assert!(matches!(refusal, ConnectError::Late) && !refusal.is_lasting(), "{refusal}");
        }
    }
}
