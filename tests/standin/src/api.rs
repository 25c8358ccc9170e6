//! Knows how to stand in for the Messages API on loopback, well enough for the real CLI to run whole
//! tasks against it: answers scripted by directives in the prompt (see [`crate::script`]), failures of
//! every kind, and a record of what was asked. Refuses to be a model and to keep anybody's key: headers
//! that carry credentials are noted as present, never stored.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod book;
mod cache;
mod call;
mod conversation;
mod keys;
mod limits;
mod messages;
mod record;
mod replay;
mod respond;
mod server;
mod setup;
mod sse;
mod tokens;
mod windows;

pub use book::{Ending, Entry};
pub use keys::KeyRule;
pub use record::{Ledger, Recorded};
pub use replay::Replay;
pub use setup::{CacheRules, Latency, Limit, Rates, Setup};

use crate::ids::Ids;
use book::Book;
use cache::Cache;
use keys::Keys;
use limits::Buckets;
use windows::Windows;

/// Most requests kept for [`ApiHandle::requests`]; the ledger counts on. A test asks hundreds of
/// times, a soak run must not grow without end.
const MAX_RECORDED: usize = 20_000;

/// The Messages API stand-in, before it is started.
#[derive(Debug)]
pub struct ApiStandin;

/// What the connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stop: CancellationToken,
    /// What every time it tells is counted from.
    started: Instant,
}

#[derive(Debug)]
struct State {
    requests: Vec<Recorded>,
    ledger: Ledger,
    /// How often a failing step has struck, by conversation, prompt and step.
    strikes: HashMap<String, u64>,
    ids: Ids,
    keys: Keys,
    /// Texts that are looked for in every request's body.
    wanted: Vec<String>,
    setup: Setup,
    buckets: Buckets,
    cache: Cache,
    windows: Windows,
    book: Book,
}

impl Shared {
    /// The state; a panic elsewhere while it was held loses nothing worth refusing over.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since it started.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A running stand-in. Dropping it stops the server without waiting.
#[derive(Debug)]
pub struct ApiHandle {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl ApiStandin {
    /// Serves on `listener` until the handle is shut down or dropped. Must be called within a Tokio
    /// runtime.
    ///
    /// # Errors
    /// The listener has no address, or one that is not loopback: what is sent here is not for a network.
    pub fn start(listener: TcpListener) -> io::Result<ApiHandle> {
        let addr = loopback(&listener)?;
        let state = State {
            requests: Vec::new(),
            ledger: Ledger::default(),
            strikes: HashMap::new(),
            ids: Ids::new(uuid::Uuid::nil(), 0),
            keys: Keys::default(),
            wanted: Vec::new(),
            setup: Setup::default(),
            buckets: Buckets::default(),
            cache: Cache::default(),
            windows: Windows::default(),
            book: Book::default(),
        };
        let (stop, started) = (CancellationToken::new(), Instant::now());
        let shared = Arc::new(Shared { state: Mutex::new(state), stop, started });
        let tasks = TaskTracker::new();
        tasks.spawn(server::accept_loop(listener, Arc::clone(&shared), tasks.clone()));
        Ok(ApiHandle { addr, shared, tasks })
    }
}

fn loopback(listener: &TcpListener) -> io::Result<SocketAddr> {
    let addr = listener.local_addr()?;
    if !addr.ip().is_loopback() {
        return Err(io::Error::other(format!("the stand-in serves loopback only, not {addr}")));
    }
    Ok(addr)
}

impl ApiHandle {
    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The value for `ANTHROPIC_BASE_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The requests so far, oldest first, at most the first 20,000.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// The totals so far.
    pub fn ledger(&self) -> Ledger {
        self.shared.state().ledger.clone()
    }

    /// From now on says of every request whether its body holds `text`, in [`Recorded::found`]: bodies themselves
    /// are not kept. The text is compared with JSON as sent, so it should need no escapes.
    pub fn look_for(&self, text: &str) {
        self.shared.state().wanted.push(text.to_owned());
    }

    /// Gives a credential a name, by which [`Recorded::key`] calls it, and says what it gets from now on.
    pub fn set_key(&self, name: &str, credential: &str, rule: KeyRule) {
        self.shared.state().keys.set(name, credential, rule);
    }

    /// Serves on a further listener, too: the same keys, limits and ledger at another address. Must be called within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// As [`ApiStandin::start`].
    pub fn also_on(&self, listener: TcpListener) -> io::Result<SocketAddr> {
        let addr = loopback(&listener)?;
        self.tasks.spawn(server::accept_loop(listener, Arc::clone(&self.shared), self.tasks.clone()));
        Ok(addr)
    }

    /// Sets limits, cache and latency, from the next request on. Buckets and cached prefixes that there are stay.
    pub fn set_up(&self, setup: Setup) {
        let now = self.shared.now();
        let mut state = self.shared.state();
        (state.setup, state.buckets.since) = (setup, now);
    }

    /// Uses up a window of the key of this name after so many more requests, for so long: meanwhile requests get 429 with
    /// `anthropic-ratelimit-unified-status: rejected`, the claim (`five_hour`), the reset and `retry-after`.
    pub fn exhaust(&self, key: &str, claim: &str, after: u64, lasts: Duration) {
        self.shared.state().windows.add(key, claim, after, lasts);
    }

    /// Every request to `/v1/messages` and what it was billed, oldest first, at most the first 500,000. The same at
    /// `GET /_standin/ledger`.
    pub fn entries(&self) -> Vec<Entry> {
        self.shared.state().book.entries().to_vec()
    }

    /// The time that [`Entry::came`] is of.
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Stops accepting, drops open connections and waits for their tasks.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for ApiHandle {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// Runs the stand-in as a program: `standin-api [--listen 127.0.0.1:PORT] [--replay DIR]` (default: a free port; with a
/// directory of recorded exchanges it answers with those).
/// Prints one line with its address and serves until INT or TERM. The first of `args` is the
/// program's name.
pub fn main_with_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse_args(args.into_iter().skip(1)).and_then(|(listen, replay)| serve(listen, replay)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            complain(&problem);
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program's own error message")]
fn complain(problem: &str) {
    eprintln!("standin-api: {problem}");
}

fn parse_args(mut args: impl Iterator<Item = OsString>) -> Result<(SocketAddr, Option<PathBuf>), String> {
    let (mut listen, mut replay) = ("127.0.0.1:0".to_owned(), None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{} wants a value", arg.display()));
        if arg == "--listen" {
            listen = value()?.to_string_lossy().into_owned();
        } else if arg == "--replay" {
            replay = Some(PathBuf::from(value()?));
        } else {
            return Err(format!(
                "unknown argument {}; usage: standin-api [--listen 127.0.0.1:PORT] [--replay DIR]",
                arg.display()
            ));
        }
    }
    listen.parse().map(|listen| (listen, replay)).map_err(|error| format!("--listen {listen}: {error}"))
}

#[expect(clippy::print_stdout, reason = "the address on stdout is how callers find the stand-in")]
fn serve(listen: SocketAddr, replay: Option<PathBuf>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        let addr = listener.local_addr().map_err(|error| error.to_string())?;
        if let Some(dir) = replay {
            let replay =
                Replay::read(&dir).map_err(|error| format!("--replay {}: {error}", dir.display()))?;
            println!("{} recorded exchanges on http://{} (not Anthropic's)", replay.len(), addr);
            replay.serve(listener).await;
            return Ok(());
        }
        let handle = ApiStandin::start(listener).map_err(|error| error.to_string())?;
        println!("stand-in Messages API on {} (not Anthropic's)", handle.url());
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| format!("cannot wait for signals: {error}"))?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = term.recv() => {}
        }
        handle.shutdown().await;
        Ok(())
    })
}
