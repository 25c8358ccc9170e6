//! Ways to the API as companies have them: an authority of their own, a proxy that wants a password, exceptions from it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use orch_agent::gateway::spec::GatewaySpec;
use orch_agent::gateway::wire::Event;
use orch_certs::ca::{Ca, LeafRequest};
use orch_certs::identity::{Identity, Role};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::scene::{Api, KEY, STREAM, Scene, rest, start, stop, whole};

/// A name that only the proxy knows.
const NAME: &str = "api.example";

/// An address of this host that is not taken for loopback, so that a proxy counts for it.
const ANY: &str = "0.0.0.0";

/// An authority, and an API with a certificate of it.
async fn api(dir: &std::path::Path) -> (Api, String) {
    let now = SystemTime::now();
    let ca = Ca::create(&dir.join("ca"), "test.example", now).unwrap();
    let identity = Identity::new("test.example", Role::Coordinator, "default", "api").unwrap();
    let leaf = ca.issue(&LeafRequest::new(identity).hosts([NAME, ANY, "127.0.0.1"]), now).unwrap();
    let certificate = CertificateDer::from_pem_slice(leaf.cert_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let file = dir.join("ca.pem");
    std::fs::write(&file, ca.cert_pem()).unwrap();
    let api = Api::behind(Some(TlsAcceptor::from(Arc::new(config)))).await;
    (api, file.to_str().unwrap().to_owned())
}

/// Where a scene's API is said to be, and variables.
async fn scene(api: Api, host: &str, env: &[(&str, &str)]) -> Scene {
    let address = api.url.replace("127.0.0.1", host);
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Scene::before(api, move |place| {
        place.spec.gateway = Some(GatewaySpec::to(address));
        place.spec.env.extend(env);
    })
    .await
}

async fn passes(scene: &Scene) {
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    scene.api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
    let (answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    assert!(rest(answer).await.unwrap().ends_with(&stop(1)));
    assert_eq!(scene.api.seen()[0].headers.get("x-api-key").unwrap(), KEY);
}

/// Asks in vain. What the CLI is told, and whether it may ask again.
async fn fails(scene: &Scene) -> (String, bool) {
    let (mut agent, _) = scene.agent().await;
    let mut cli = scene.cli().await;
    let (answer, _) = tokio::join!(cli.ask(true, "x"), agent.let_go());
    assert_eq!(answer.status(), 502);
    let may_ask = !answer.headers().contains_key("x-should-retry");
    let ended = agent.hear().await;
    let is_free =
        matches!(ended, Event::Ended { status: 0, estimated: false, tokens, .. } if tokens.input == 0);
    assert!(is_free, "nothing was sent: {ended:?}");
    let signal = tokio::time::timeout(Duration::from_millis(300), agent.hear()).await.ok();
    assert_eq!(
        signal.is_some(),
        may_ask,
        "what is wrong with this host alone is not told to others: {signal:?}"
    );
    let said: serde_json::Value = serde_json::from_str(&rest(answer).await.unwrap()).unwrap();
    (said["error"]["message"].as_str().unwrap().to_owned(), may_ask)
}

/// A proxy that leads every name to `to`.
struct Proxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// `secret`: what it wants to hear.
    async fn start(to: &str, secret: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heads, to) = (Arc::<Mutex<Vec<String>>>::default(), to.to_owned());
        let (mut tasks, seen) = (JoinSet::new(), Arc::clone(&heads));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (to, seen) = (to.clone(), Arc::clone(&seen));
                connections.spawn(async move { lead(stream, &to, secret, &seen).await });
            }
        });
        Self { address, heads, _tasks: tasks }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn lead(mut stream: TcpStream, to: &str, secret: Option<&str>, seen: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let is_welcome =
        secret.is_none_or(|secret| head.contains(&format!("Proxy-Authorization: Basic {secret}\r\n")));
    seen.lock().unwrap().push(head);
    if !is_welcome {
        let refusal = b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(refusal).await.unwrap();
        return;
    }
    stream.write_all(b"HTTP/1.1 200 Go on\r\n\r\n").await.unwrap();
    let mut far = TcpStream::connect(to).await.unwrap();
    let _ = copy_bidirectional(&mut stream, &mut far).await;
}

/// `user:pass word` in base64.
const SECRET: &str = "dXNlcjpwYXNzIHdvcmQ=";

fn host_of(api: &Api) -> String {
    api.url.trim_start_matches("https://").to_owned()
}

#[tokio::test]
async fn an_authority_of_ones_own_is_taken_from_the_environment() {
    for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
        let dir = tempfile::tempdir().unwrap();
        let (api, ca) = api(dir.path()).await;
        passes(&scene(api, "127.0.0.1", &[(variable, &ca)]).await).await;
    }
}

#[tokio::test]
async fn an_api_of_an_unknown_authority_or_another_name_is_not_spoken_to_and_the_cli_hears_why() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (api_of_one, _) = api(dirs[0].path()).await;
    let (_, other) = api(dirs[1].path()).await;
    let unknown = scene(api_of_one, "127.0.0.1", &[("SSL_CERT_FILE", &other)]).await;
    let (why, may_ask) = fails(&unknown).await;
    assert!(why.contains("UnknownIssuer") && why.contains("SSL_CERT_FILE") && !may_ask, "{why}");
    assert!(unknown.api.seen().is_empty());

    let dir = tempfile::tempdir().unwrap();
    let (api, ca) = api(dir.path()).await;
    let named = scene(api, "localhost", &[("SSL_CERT_FILE", &ca)]).await;
    let (why, may_ask) = fails(&named).await;
    assert!(why.contains("not valid for name") && !may_ask, "{why}");
}

#[tokio::test]
async fn a_proxy_leads_to_the_api_with_the_credentials_of_its_address_and_exceptions_hold() {
    let dir = tempfile::tempdir().unwrap();
    let (api, ca) = api(dir.path()).await;
    let (to, port) = (host_of(&api), host_of(&api).split_once(':').unwrap().1.to_owned());
    let proxy = Proxy::start(&to, Some(SECRET)).await;
    let address = format!("http://user:pass%20word@{}", proxy.address);
    let proxied = scene(api, NAME, &[("SSL_CERT_FILE", &ca), ("HTTPS_PROXY", &address)]).await;
    passes(&proxied).await;
    let heads = proxy.heads();
    assert!(heads[0].starts_with(&format!("CONNECT {NAME}:{port} HTTP/1.1\r\n")), "{heads:?}");
    assert!(!heads[0].contains(KEY), "the key is for the API alone");

    let dir = tempfile::tempdir().unwrap();
    let (api, ca) = self::api(dir.path()).await;
    let env = [("NODE_EXTRA_CA_CERTS", ca.as_str()), ("https_proxy", &address), ("no_proxy", ANY)];
    passes(&scene(api, ANY, &env).await).await;
    assert_eq!(proxy.heads().len(), 1, "an exception");
}

#[tokio::test]
async fn a_proxy_that_wants_other_credentials_or_is_not_there_is_named_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let (api, ca) = api(dir.path()).await;
    let proxy = Proxy::start(&host_of(&api), Some(SECRET)).await;
    let address = format!("http://user:hunter2@{}", proxy.address);
    let refused = scene(api, ANY, &[("SSL_CERT_FILE", &ca), ("HTTPS_PROXY", &address)]).await;
    let (why, may_ask) = fails(&refused).await;
    assert!(why.contains("proxy 127.0.0.1 answered 407") && !why.contains("hunter2") && !may_ask, "{why}");
    assert_eq!(proxy.heads().len(), 1);

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (api, address) = (self::api(&dir.path().join("other")).await.0, format!("http://{free}"));
    let gone = scene(api, NAME, &[("HTTPS_PROXY", &address)]).await;
    let (why, may_ask) = fails(&gone).await;
    assert!(why.contains("proxy 127.0.0.1 opens no way") && why.contains("refused") && may_ask, "{why}");
}
