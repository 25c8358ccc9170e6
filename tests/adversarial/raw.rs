//! HTTP/2 by hand over real TLS, and gRPC messages whose bytes nobody checked: what no library would send.
//! Knows frames and the five bytes before a message; refuses to know what they are meant to provoke.

use http_body_util::BodyExt as _;
use orch_certs::{Role, client_config};
use orch_tests::client::channel;
use orch_tests::fleet::Fleet;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tower::{Service as _, ServiceExt as _};

/// What a server must have done by then: answered, or cut the connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What a peer that floods waits for a server that no longer reads: the server holds it off, and nothing is gained by
/// waiting longer.
const HELD_OFF: Duration = Duration::from_millis(500);

/// Kinds of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// Flags of frames.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// How a connection ended, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server said why, by number: 11 is `ENHANCE_YOUR_CALM`, 1 `PROTOCOL_ERROR`.
    SentAway(u32),
    /// The server closed it without a word.
    Cut,
    /// It is still there.
    Goes,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TlsStream<TcpStream>,
}

impl Wire {
    /// Connects with the certificate of `name`, and says that it speaks HTTP/2 with these settings.
    pub(crate) async fn open(fleet: &Fleet, role: Role, name: &str, settings: &[(u16, u32)]) -> Self {
        let config = client_config(&fleet.certificate(role, name), SystemTime::now()).expect("a certificate");
        let tcp = TcpStream::connect(&fleet.ports().grpc).await.expect("connected");
        tcp.set_nodelay(true).expect("a socket");
        let host = ServerName::try_from("127.0.0.1").expect("a name");
        let stream =
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect(host, tcp).await.expect("TLS");
        let mut wire = Self { stream };
        wire.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("the preface");
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        wire.send(SETTINGS, 0, 0, &settings).await.expect("settings");
        wire
    }

    /// Sends a frame. An error when the server has closed, or takes nothing for [`HELD_OFF`].
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.send_bytes(&frame(kind, flags, stream, payload)).await
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(HELD_OFF, sending).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next frame; `None` when the server closed the connection.
    ///
    /// # Panics
    /// When nothing comes for [`PATIENCE`].
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("a frame, or the end of the connection").ok()
    }

    async fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(0)];
        self.stream.read_exact(&mut payload).await?;
        Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1), payload })
    }

    /// Reads on until the server ends the connection, or answers a ping that comes after all that was sent.
    pub(crate) async fn fate(&mut self) -> Fate {
        let mark = *b"the-mark";
        let pinged = self.send(PING, 0, 0, &mark).await;
        let waiting = async {
            loop {
                match self.read().await {
                    Ok(frame) if frame.kind == GOAWAY => {
                        let code = frame
                            .payload
                            .get(4..8)
                            .and_then(|code| code.try_into().ok())
                            .map(u32::from_be_bytes);
                        return Fate::SentAway(code.unwrap_or(u32::MAX));
                    }
                    Ok(frame) if frame.kind == PING && frame.payload == mark && pinged.is_ok() => {
                        return Fate::Goes;
                    }
                    Ok(_) => {}
                    Err(_) => return Fate::Cut,
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the server answers or ends the connection")
    }

    /// Opens a stream with a call of `path`.
    pub(crate) async fn call(&mut self, stream: u32, path: &str) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS, stream, &head(path)).await
    }
}

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// The head of a call, in the plainest form of HPACK.
pub(crate) fn head(path: &str) -> Vec<u8> {
    let short = |text: &str| u8::try_from(text.len()).expect("a short text");
    let mut block = vec![0x83, 0x87, 0x04, short(path)];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x09127.0.0.1");
    block.extend_from_slice(b"\x0f\x10\x10application/grpc");
    block.extend_from_slice(b"\x00\x02te\x08trailers");
    block
}

/// A gRPC message: flag, length, bytes.
pub(crate) fn message(flag: u8, length: usize, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).expect("a length");
    [&[flag][..], &length.to_be_bytes(), bytes].concat()
}

/// Calls a method with this body, to its end. What the server says of it.
///
/// # Panics
/// When it says nothing for [`PATIENCE`].
pub(crate) async fn grpc(
    fleet: &Fleet,
    role: Role,
    name: &str,
    path: &str,
    encoding: &str,
    body: Vec<u8>,
) -> Status {
    let mut channel = channel(&fleet.ports().grpc, &fleet.certificate(role, name));
    let mut request = http::Request::post(format!("http://127.0.0.1{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if !encoding.is_empty() {
        request = request.header("grpc-encoding", encoding);
    }
    let request = request.body(Body::new(http_body_util::Full::new(body.into()))).expect("a request");
    let calling = async {
        let response = channel.ready().await.map(|ready| ready.call(request));
        let response = match response {
            Ok(calling) => calling.await.map_err(|error| Status::from_error(Box::new(error)))?,
            Err(error) => return Err(Status::from_error(Box::new(error))),
        };
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(status);
        }
        let collected = response.into_body().collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Err(Status::from_header_map(&trailers).unwrap_or_else(|| Status::unknown("no status at all")))
    };
    let answered = tokio::time::timeout(PATIENCE, calling).await.expect("an answer");
    answered.map_or_else(|status| status, |never: std::convert::Infallible| match never {})
}
