//! A gateway in a real supervisor, with everybody around it: an API that says what the test wants, a client that speaks
//! as the CLI does, an agent that decides.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use orch_agent::gateway::spec::{GatewaySecrets, GatewaySpec, new_token};
use orch_agent::gateway::talk::socket_path;
use orch_agent::gateway::wire::{Ask, Command, Event};
use orch_agent::supervisor::client::Supervised;
use orch_agent::supervisor::spec::Secrets;
use orch_agent::supervisor::wire::{parse, spell};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::support::{PATIENCE, Place, until};

/// The credential that nobody but the API may see.
pub(crate) const KEY: &str = "sk-ant-canary-0123456789abcdef";

/// Writes where its gateway is and waits for the end of the test.
pub(crate) const CHILD: &str =
    "echo up; printf '%s %s' \"$ANTHROPIC_BASE_URL\" \"$ANTHROPIC_API_KEY\" > door.tmp
    mv door.tmp door; while [ ! -e stop ]; do sleep 0.02; done";

/// A piece of an answer; an error cuts the connection.
pub(crate) type Piece = Result<Bytes, std::io::Error>;

/// An answer of the API. Its body is what comes through the channel.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: mpsc::Receiver<Piece>,
}

/// Pieces that the test sends when it likes.
pub(crate) fn live(status: u16, headers: &[(&'static str, &'static str)]) -> (mpsc::Sender<Piece>, Reply) {
    let (pieces, body) = mpsc::channel(8);
    (pieces, Reply { status, headers: headers.to_vec(), body })
}

/// An answer that is there as a whole.
pub(crate) fn whole(status: u16, headers: &[(&'static str, &'static str)], text: impl Into<Bytes>) -> Reply {
    let (pieces, reply) = live(status, headers);
    pieces.try_send(Ok(text.into())).unwrap();
    reply
}

/// What makes an answer a stream.
pub(crate) const STREAM: (&str, &str) = ("content-type", "text/event-stream; charset=utf-8");

/// The first event of a stream.
pub(crate) fn start(input: u64, cached: u64) -> String {
    format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"usage\":{{\"input_tokens\":{input},\
         \"cache_read_input_tokens\":{cached},\"cache_creation_input_tokens\":0,\"output_tokens\":1}}}}}}\n\n"
    )
}

/// A piece of text in a stream.
pub(crate) fn text(text: &str) -> String {
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":\
         {{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    )
}

/// The last events of a stream.
pub(crate) fn stop(output: u64) -> String {
    format!(
        "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\"}},\
         \"usage\":{{\"output_tokens\":{output}}}}}\n\nevent: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
    )
}

/// A request as the API saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An API on loopback that gives the test's answers in order; without one it waits.
pub(crate) struct Api {
    pub(crate) url: String,
    inside: Arc<Mutex<(Vec<Seen>, VecDeque<Reply>)>>,
    _tasks: JoinSet<()>,
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::behind(None).await
    }

    /// The same behind TLS, where there is some. Its address is that of the listener either way.
    pub(crate) async fn behind(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let inside: Arc<Mutex<(Vec<Seen>, VecDeque<Reply>)>> = Arc::default();
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&inside);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    let service = service_fn(|request| serve(Arc::clone(&shared), request));
                    let server = hyper::server::conn::http1::Builder::new();
                    let Some(tls) = tls else {
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                        return;
                    };
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        Self { url, inside, _tasks: tasks }
    }

    pub(crate) fn will(&self, reply: Reply) {
        self.inside.lock().unwrap().1.push_back(reply);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inside.lock().unwrap().0.clone()
    }
}

type ApiBody = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

async fn serve(
    inside: Arc<Mutex<(Vec<Seen>, VecDeque<Reply>)>>,
    request: Request<Incoming>,
) -> Result<Response<ApiBody>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let line = format!("{} {}", parts.method, parts.uri);
    inside.lock().unwrap().0.push(Seen { line, headers: parts.headers, body });
    if parts.method == Method::HEAD {
        return Ok(Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync()));
    }
    let reply = loop {
        if let Some(reply) = inside.lock().unwrap().1.pop_front() {
            break reply;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let pieces =
        futures_util::StreamExt::map(ReceiverStream::new(reply.body), |piece| piece.map(Frame::data));
    Ok(response.body(StreamBody::new(pieces).boxed_unsync()).unwrap())
}

/// A supervisor with a gateway.
pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) api: Api,
    pub(crate) supervised: Supervised,
    pub(crate) door: String,
    pub(crate) token: String,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// The same after a change to what the supervisor is told.
    pub(crate) async fn with(change: impl FnOnce(&mut Place)) -> Self {
        Self::before(Api::start().await, change).await
    }

    /// The same before another API.
    pub(crate) async fn before(api: Api, change: impl FnOnce(&mut Place)) -> Self {
        let mut place = Place::new(CHILD);
        place.spec.gateway = Some(GatewaySpec::to(&api.url));
        change(&mut place);
        let supervised = place.start_with(&secrets()).await;
        let file = place.dir.path().join("door");
        until("the child knows its gateway", || file.exists()).await;
        let said = std::fs::read_to_string(file).unwrap();
        let (door, token) = said.split_once(' ').unwrap();
        let (door, token) = (door.trim_start_matches("http://").to_owned(), token.to_owned());
        Self { place, api, supervised, door, token }
    }

    /// An agent that has just connected, and what it was told first.
    pub(crate) async fn agent(&self) -> (Agent, Event) {
        let path = socket_path(&self.place.spec.runtime_dir, &self.place.spec.id);
        let mut agent = Agent::on(UnixStream::connect(path).await.unwrap());
        let hello = agent.hear().await;
        (agent, hello)
    }

    /// A connection of the CLI.
    pub(crate) async fn cli(&self) -> Cli {
        Cli::new(&self.door, &self.token).await
    }

    /// Ends the child.
    pub(crate) fn stop(&self) {
        std::fs::write(self.place.dir.path().join("stop"), "").unwrap();
    }
}

pub(crate) fn secrets() -> Secrets {
    let gateway = GatewaySecrets { token: new_token([7; 32]), key: KEY.to_owned() };
    Secrets { redact: vec![KEY.to_owned()], gateway: Some(gateway), ..Secrets::default() }
}

/// Who decides.
pub(crate) struct Agent {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Agent {
    pub(crate) fn on(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { lines: BufReader::new(reader).lines(), writer }
    }

    pub(crate) async fn hear(&mut self) -> Event {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("the gateway says something");
        parse(line.unwrap().expect("the gateway is there").as_bytes()).unwrap()
    }

    /// The next request that waits.
    pub(crate) async fn asked(&mut self) -> Ask {
        match self.hear().await {
            Event::Ask(ask) => ask,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, command: Command) {
        self.writer.write_all(&spell(&command)).await.unwrap();
    }

    /// Lets the next request go; returns what was asked.
    pub(crate) async fn let_go(&mut self) -> Ask {
        let ask = self.asked().await;
        self.say(Command::Go { request: ask.request }).await;
        ask
    }

    /// Lets everything go that asks, for ever.
    pub(crate) async fn wave_through(mut self) {
        while let Ok(Some(line)) = self.lines.next_line().await {
            if let Ok(Event::Ask(ask)) = parse(line.as_bytes()) {
                self.say(Command::Go { request: ask.request }).await;
            }
        }
    }
}

/// A connection as the CLI makes it. Dropped, it has hung up.
pub(crate) struct Cli {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    token: String,
    _connection: JoinSet<()>,
}

/// A request of the CLI, about.
pub(crate) fn question(stream: bool, prompt: &str) -> String {
    format!(
        "{{\"model\":\"claude-sonnet-5\",\"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}],\
         \"max_tokens\":64000,\"stream\":{stream}}}"
    )
}

impl Cli {
    pub(crate) async fn new(door: &str, token: &str) -> Self {
        let stream = TcpStream::connect(door).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        Self { sender, token: token.to_owned(), _connection: tasks }
    }

    pub(crate) fn request(&self, line: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let (method, path) = line.split_once(' ').unwrap();
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", "gateway")
            .header("x-api-key", &self.token)
            .header("accept-encoding", "gzip, br")
            .header("connection", "keep-alive, x-hop")
            .header("x-hop", "1")
            .header("x-app", "cli")
            .body(Full::new(body.into()))
            .unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        timeout(PATIENCE, self.sender.send_request(request)).await.expect("an answer")
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.try_send(request).await.unwrap()
    }

    /// Asks a question and waits for the head of its answer.
    pub(crate) async fn ask(&mut self, stream: bool, prompt: &str) -> Response<Incoming> {
        let request = self.request("POST /v1/messages?beta=true", question(stream, prompt));
        self.send(request).await
    }
}

/// The next piece of an answer.
pub(crate) async fn piece(response: &mut Response<Incoming>) -> Option<Result<String, hyper::Error>> {
    let frame = timeout(PATIENCE, response.body_mut().frame()).await.expect("a piece")?;
    Some(frame.map(|frame| String::from_utf8_lossy(&frame.into_data().unwrap_or_default()).into_owned()))
}

/// All of an answer, or what kept it from its end.
pub(crate) async fn rest(response: Response<Incoming>) -> Result<String, hyper::Error> {
    let body = timeout(PATIENCE, response.into_body().collect()).await.expect("an end")?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
