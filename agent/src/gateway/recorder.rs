//! Exchanges with the API as files, for tests and bug reports: what was asked without credentials, and the answer piece
//! by piece with its timing. Bounded in size and number. Knows the format; refuses to know what is said.
//!
//! One file an exchange, `000001.jsonl` and so on, a JSON object a line:
//!
//! ```json
//! {"record":"request","version":1,"method":"POST","path":"/v1/messages?beta=true","headers":[["x-app","cli"]],"body":"{…}"}
//! {"record":"answer","at_ms":12,"status":200,"headers":[["content-type","text/event-stream"]]}
//! {"record":"data","at_ms":15,"text":"event: message_start\n…"}
//! {"record":"data","at_ms":16,"hex":"c3"}
//! {"record":"end","at_ms":90,"how":"whole"}
//! ```
//!
//! A piece that is no UTF-8 by itself comes as `hex`. `how` is `whole`, `cut` by the API, `hung_up` by the CLI,
//! `waited_out`: a throttle that the CLI never saw, or `too_long`: the rest was not kept. Secrets in texts are overwritten with as many asterisks.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::{HeaderMap, StatusCode};
use serde::Serialize;

use crate::supervisor::redact::{Patterns, Redactor};

/// Most bytes of one exchange.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// Most bytes of an attempt's exchanges.
const MOST_BYTES_OF_ALL: u64 = 256 * 1024 * 1024;

/// Headers that are not recorded.
const SECRET: [&str; 6] =
    ["x-api-key", "authorization", "cookie", "set-cookie", "proxy-authorization", "x-goog-api-key"];

/// Records the exchanges of one attempt.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    patterns: Arc<Patterns>,
    last: AtomicU64,
    left: Arc<AtomicU64>,
}

/// One exchange that is being recorded.
pub struct Recording {
    file: BufWriter<File>,
    redactor: Redactor,
    patterns: Arc<Patterns>,
    since: Instant,
    bytes: u64,
    left: Arc<AtomicU64>,
    is_open: bool,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recording({} bytes)", self.bytes)
    }
}

#[derive(Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Line<'a> {
    Request {
        version: u32,
        method: &'a str,
        path: &'a str,
        headers: Vec<(&'a str, String)>,
        body: String,
    },
    Answer {
        at_ms: u64,
        status: u16,
        headers: Vec<(&'a str, String)>,
    },
    Data {
        at_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        hex: Option<String>,
    },
    End {
        at_ms: u64,
        how: &'a str,
    },
}

impl Recorder {
    /// Records into `dir`, which is made; `secrets` are overwritten.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new<'a>(dir: &Path, secrets: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let patterns = Arc::new(Patterns::new(secrets));
        let left = Arc::new(AtomicU64::new(MOST_BYTES_OF_ALL));
        Ok(Self { dir: dir.to_owned(), patterns, last: AtomicU64::new(0), left })
    }

    /// Begins an exchange; `None` where it cannot be recorded, or there are enough.
    pub fn request(&self, parts: &http::request::Parts, body: &[u8]) -> Option<Recording> {
        if self.left.load(Ordering::Relaxed) == 0 || body.len() as u64 > MOST_BYTES {
            return None;
        }
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.dir.join(format!("{number:06}.jsonl"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).ok()?;
        let mut recording = Recording {
            file: BufWriter::new(file),
            redactor: Redactor::of(Arc::clone(&self.patterns)),
            patterns: Arc::clone(&self.patterns),
            since: Instant::now(),
            bytes: 0,
            left: Arc::clone(&self.left),
            is_open: true,
        };
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        recording.write(&Line::Request {
            version: 1,
            method: parts.method.as_str(),
            path: &clean(&self.patterns, path.as_bytes()),
            headers: public(&parts.headers, &self.patterns),
            body: clean(&self.patterns, body),
        });
        Some(recording)
    }
}

impl Recording {
    /// The head of the answer.
    pub fn answer(&mut self, status: StatusCode, headers: &HeaderMap) {
        let at_ms = self.at_ms();
        let headers = public(headers, &self.patterns);
        self.write(&Line::Answer { at_ms, status: status.as_u16(), headers });
    }

    /// A piece of the answer.
    pub fn data(&mut self, bytes: &[u8]) {
        let mut clean = Vec::new();
        self.redactor.push(bytes, &mut clean);
        self.piece(&clean);
    }

    /// The end, and how.
    pub fn end(mut self, how: &str) {
        let mut clean = Vec::new();
        self.redactor.finish(&mut clean);
        self.piece(&clean);
        self.close(how);
    }

    fn piece(&mut self, clean: &[u8]) {
        if clean.is_empty() {
            return;
        }
        let at_ms = self.at_ms();
        let text = std::str::from_utf8(clean).ok();
        let hex = text.is_none().then(|| hex::encode(clean));
        self.write(&Line::Data { at_ms, text, hex });
    }

    fn close(&mut self, how: &str) {
        let at_ms = self.at_ms();
        self.write(&Line::End { at_ms, how });
        self.is_open = false;
        // A recording is a help for people; the exchange goes on without it.
        let _ = self.file.flush();
    }

    fn write(&mut self, line: &Line<'_>) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        if !self.is_open {
            return;
        }
        let len = text.len() as u64;
        let is_end = matches!(line, Line::End { .. });
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(len)));
        let is_too_long = self.bytes + len > MOST_BYTES || taken.is_ok_and(|left| left < len);
        if is_too_long && !is_end {
            self.close("too_long");
            return;
        }
        self.bytes += len;
        self.is_open = self.file.write_all(&text).is_ok();
    }

    fn at_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.is_open {
            self.close("hung_up");
        }
    }
}

/// A text by itself, with secrets overwritten.
fn clean(patterns: &Arc<Patterns>, text: &[u8]) -> String {
    let mut redactor = Redactor::of(Arc::clone(patterns));
    let mut clean = Vec::new();
    redactor.push(text, &mut clean);
    redactor.finish(&mut clean);
    String::from_utf8_lossy(&clean).into_owned()
}

fn public<'a>(headers: &'a HeaderMap, patterns: &Arc<Patterns>) -> Vec<(&'a str, String)> {
    let shown =
        headers.iter().filter(|(name, value)| !SECRET.contains(&name.as_str()) && !value.is_sensitive());
    shown.map(|(name, value)| (name.as_str(), clean(patterns, value.as_bytes()))).collect()
}
