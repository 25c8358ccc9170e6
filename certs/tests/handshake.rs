//! Both ends of real connections over loopback: who gets in, who does not, and what the dialler is told.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use orch_certs::dial::{Connector, DialError, Rejection};
use orch_certs::{Ca, ClientTls, Identity, LeafRequest, Role, ServerTls, TlsFiles};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DAY: Duration = Duration::from_secs(24 * 3600);
const GREETING: &[u8] = b"settings";

/// An installation of its own: an authority and a directory.
struct Site {
    dir: tempfile::TempDir,
    ca: Ca,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path(), "example.org", SystemTime::now() - 400 * DAY).unwrap();
        Self { dir, ca }
    }

    fn issue(&self, role: Role, name: &str, hosts: &[&str], now: SystemTime) -> TlsFiles {
        let identity = Identity::new("example.org", role, "default", name).unwrap();
        let request = LeafRequest::new(identity).hosts(hosts.iter().copied());
        self.ca.issue(&request, now).unwrap().write(&self.dir.path().join(name)).unwrap()
    }

    /// A server certificate for loopback, as of `now`.
    fn server(&self, now: SystemTime) -> ServerTls {
        ServerTls::load(self.issue(Role::Coordinator, "orchd", &["localhost", "127.0.0.1"], now), now)
            .unwrap()
    }

    fn client(&self, now: SystemTime) -> ClientTls {
        ClientTls::load(self.issue(Role::Agent, "box-1", &[], now), now).unwrap()
    }
}

/// A server that greets whom it accepts and reports each identity or refusal. Dropping it ends it.
struct Server {
    address: SocketAddr,
    seen: mpsc::Receiver<Result<Identity, String>>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(config: impl Fn() -> Arc<ServerConfig> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (report, seen) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let outcome = match TlsAcceptor::from(config()).accept(tcp).await {
                    Ok(mut stream) => {
                        let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
                        stream.write_all(GREETING).await.unwrap();
                        stream.shutdown().await.unwrap();
                        Ok(Identity::from_certificate_der(&chain[0]).unwrap())
                    }
                    Err(error) => Err(error.to_string()),
                };
                report.send(outcome).await.unwrap();
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    async fn of(tls: ServerTls) -> Self {
        Self::start(move || tls.current()).await
    }

    async fn dial(&self, client: ClientTls) -> Result<Vec<u8>, DialError> {
        let mut stream = Connector::new(Arc::new(client)).dial(&self.uri("127.0.0.1")).await?;
        assert_eq!(stream.alpn().as_deref(), Some(&b"h2"[..]));
        let mut greeting = vec![0; GREETING.len()];
        stream.read_exact(&mut greeting).await.unwrap();
        Ok(greeting)
    }

    fn uri(&self, host: &str) -> http::Uri {
        format!("https://{host}:{}", self.address.port()).parse().unwrap()
    }
}

fn roots(site: &Site) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.ca.cert_pem().as_bytes()).unwrap()).unwrap();
    roots
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn pair(files: &TlsFiles) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (
        vec![CertificateDer::from_pem_file(&files.cert).unwrap()],
        PrivateKeyDer::from_pem_file(&files.key).unwrap(),
    )
}

/// A client that obeys none of the rules of `ClientTls`; returns what the server's first bytes or the failure are.
async fn raw_client(server: &Server, config: Arc<ClientConfig>) -> Result<(Vec<u8>, HandshakeKind), String> {
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream =
        TlsConnector::from(config).connect(name, tcp).await.map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
    Ok((bytes, stream.get_ref().1.handshake_kind().unwrap()))
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let (site, now) = (Site::new(), SystemTime::now());
    let mut server = Server::of(site.server(now)).await;
    assert_eq!(server.dial(site.client(now)).await.unwrap(), GREETING);
    let identity = server.seen.recv().await.unwrap().unwrap();
    assert_eq!(identity.uri(), "spiffe://example.org/agent/default/box-1");
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted_and_both_are_named() {
    let (ours, theirs, now) = (Site::new(), Site::new(), SystemTime::now());
    let server = Server::of(theirs.server(now)).await;
    let error = server.dial(ours.client(now)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&ours.ca.fingerprint().short()) && text.contains(&theirs.ca.fingerprint().short()),
        "{text}"
    );
    assert!(
        matches!(error, DialError::UntrustedAuthority { presented: Some(print), .. } if print == theirs.ca.fingerprint())
    );
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused_and_told_so() {
    let (ours, theirs, now) = (Site::new(), Site::new(), SystemTime::now());
    let mut server = Server::of(theirs.server(now)).await;
    let files = ours.issue(Role::Agent, "box-1", &[], now);
    std::fs::write(&files.ca, theirs.ca.cert_pem()).unwrap();
    let error = server.dial(ClientTls::load(files, now).unwrap()).await.unwrap_err();
    assert!(matches!(error, DialError::Rejected { reason: Rejection::UnknownAuthority, .. }), "{error}");
    assert!(server.seen.recv().await.unwrap().is_err());
}

#[tokio::test]
async fn certificates_out_of_date_are_refused_by_the_other_end() {
    let (site, now) = (Site::new(), SystemTime::now());
    // What either end loaded in time and holds on to.
    let past = now - 200 * DAY;
    let error = Server::of(site.server(past)).await.dial(site.client(now)).await.unwrap_err();
    assert!(matches!(error, DialError::ServerExpired { not_after: Some(_), .. }), "{error}");

    let mut server = Server::of(site.server(now)).await;
    let error = server.dial(site.client(past)).await.unwrap_err();
    assert!(matches!(error, DialError::Rejected { reason: Rejection::NotNow, .. }), "{error}");
    assert!(server.seen.recv().await.unwrap().is_err());

    let future = now + 10 * DAY;
    let error = Server::of(site.server(future)).await.dial(site.client(now)).await.unwrap_err();
    assert!(matches!(error, DialError::ServerNotYetValid { not_before: Some(_), .. }), "{error}");
    let error = server.dial(site.client(future)).await.unwrap_err();
    assert!(matches!(error, DialError::Rejected { reason: Rejection::NotNow, .. }), "{error}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let (site, now) = (Site::new(), SystemTime::now());
    let mut server = Server::of(site.server(now)).await;
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let config = ClientConfig::builder_with_provider(ring())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots(&site))
            .with_no_client_auth();
        raw_client(&server, Arc::new(config)).await.unwrap_err();
        let refusal = server.seen.recv().await.unwrap().unwrap_err();
        assert!(refusal.contains("no certificates"), "{refusal}");
    }
}

#[tokio::test]
async fn a_coordinator_certificate_authenticates_no_client() {
    let (site, now) = (Site::new(), SystemTime::now());
    let mut server = Server::of(site.server(now)).await;
    let (chain, key) = pair(&site.issue(Role::Coordinator, "other", &["localhost"], now));
    let config = ClientConfig::builder_with_provider(ring())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&site))
        .with_client_auth_cert(chain, key)
        .unwrap();
    raw_client(&server, Arc::new(config)).await.unwrap_err();
    assert!(server.seen.recv().await.unwrap().is_err());
}

#[tokio::test]
async fn an_agent_certificate_authenticates_no_server() {
    let (site, now) = (Site::new(), SystemTime::now());
    // Even one that bears the host's name, which `Ca::issue` would not make.
    let ca_key =
        KeyPair::from_pem(&std::fs::read_to_string(site.dir.path().join("ca.key")).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(site.ca.cert_pem(), ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(SanType::URI("spiffe://example.org/agent/default/box-1".try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(ring())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let config = Arc::new(config);
    let server = Server::start(move || Arc::clone(&config)).await;
    let error = server.dial(site.client(now)).await.unwrap_err();
    assert!(matches!(error, DialError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn the_dialled_name_must_be_in_the_certificate() {
    let (site, now) = (Site::new(), SystemTime::now());
    let files = site.issue(Role::Coordinator, "orchd", &["box-1.example.org"], now);
    let server = Server::of(ServerTls::load(files, now).unwrap()).await;
    let error = server.dial(site.client(now)).await.unwrap_err();
    assert!(matches!(error, DialError::WrongName { .. }), "{error}");
    assert!(error.to_string().contains("box-1.example.org"), "{error}");
}

#[tokio::test]
async fn network_failures_are_told_apart() {
    let (site, now) = (Site::new(), SystemTime::now());
    let connector = Connector::new(Arc::new(site.client(now)));
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let error = connector.dial(&format!("https://127.0.0.1:{port}").parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri: http::Uri =
        format!("https://127.0.0.1:{}", silent.local_addr().unwrap().port()).parse().unwrap();
    let hasty = connector.clone().connect_timeout(Duration::from_millis(50));
    let error = hasty.dial(&uri).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout { step: "the TLS handshake", .. }), "{error}");

    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut tcp, _) = silent.accept().await.unwrap();
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = connector.dial(&uri).await.unwrap_err();
    assert!(matches!(error, DialError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_waits_for_the_client_to_speak_is_handed_over() {
    let (site, now) = (Site::new(), SystemTime::now());
    let tls = site.server(now);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri: http::Uri =
        format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(tls.current()).accept(tcp).await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let mut stream = Connector::new(Arc::new(site.client(now))).dial(&uri).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let (site, now) = (Site::new(), SystemTime::now());
    let mut server = Server::of(site.server(now)).await;
    let (chain, key) = pair(&site.issue(Role::Agent, "box-1", &[], now));
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        // This client would resume if it could.
        let config = ClientConfig::builder_with_provider(ring())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots(&site))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .unwrap();
        let config = Arc::new(config);
        for _ in 0..2 {
            let (bytes, kind) = raw_client(&server, Arc::clone(&config)).await.unwrap();
            assert_eq!((bytes.as_slice(), kind), (GREETING, HandshakeKind::Full));
            server.seen.recv().await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_reload_changes_what_later_connections_get() {
    let (old, new, now) = (Site::new(), Site::new(), SystemTime::now());
    let files = old.issue(Role::Coordinator, "orchd", &["127.0.0.1"], now);
    let tls = Arc::new(ServerTls::load(files.clone(), now).unwrap());
    let shared = Arc::clone(&tls);
    let server = Server::start(move || shared.current()).await;
    server.dial(old.client(now)).await.unwrap();

    let fresh = new.issue(Role::Coordinator, "orchd", &["127.0.0.1"], now);
    for (from, to) in [(&fresh.ca, &files.ca), (&fresh.cert, &files.cert), (&fresh.key, &files.key)] {
        std::fs::copy(from, to).unwrap();
    }
    server.dial(old.client(now)).await.unwrap();
    tls.reload(now).unwrap();
    server.dial(new.client(now)).await.unwrap();
    assert!(matches!(server.dial(old.client(now)).await, Err(DialError::UntrustedAuthority { .. })));
}
