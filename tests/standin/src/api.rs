//! Knows how to stand in for the Messages API on loopback, well enough for the real CLI to run whole
//! tasks against it: answers scripted by directives in the prompt (see [`crate::script`]), failures of
//! every kind, and a record of what was asked. Refuses to be a model and to keep anybody's key: headers
//! that carry credentials are noted as present, never stored.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod conversation;
mod keys;
mod record;
mod server;
mod sse;
mod usage;

pub use keys::KeyRule;
pub use record::{Ledger, Recorded};

use crate::ids::Ids;
use keys::Keys;

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
}

impl Shared {
    /// The state; a panic elsewhere while it was held loses nothing worth refusing over.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let addr = listener.local_addr()?;
        if !addr.ip().is_loopback() {
            return Err(io::Error::other(format!("the stand-in serves loopback only, not {addr}")));
        }
        let state = State {
            requests: Vec::new(),
            ledger: Ledger::default(),
            strikes: HashMap::new(),
            ids: Ids::new(uuid::Uuid::nil(), 0),
            keys: Keys::default(),
            wanted: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), stop: CancellationToken::new() });
        let tasks = TaskTracker::new();
        tasks.spawn(server::accept_loop(listener, Arc::clone(&shared), tasks.clone()));
        Ok(ApiHandle { addr, shared, tasks })
    }
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

/// Runs the stand-in as a program: `standin-api [--listen 127.0.0.1:PORT]` (default: a free port).
/// Prints one line with its address and serves until INT or TERM. The first of `args` is the
/// program's name.
pub fn main_with_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse_listen(args.into_iter().skip(1)).and_then(serve) {
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

fn parse_listen(mut args: impl Iterator<Item = OsString>) -> Result<SocketAddr, String> {
    let mut listen = "127.0.0.1:0".to_owned();
    while let Some(arg) = args.next() {
        if arg != "--listen" {
            return Err(format!(
                "unknown argument {}; usage: standin-api [--listen 127.0.0.1:PORT]",
                arg.display()
            ));
        }
        let value = args.next().ok_or("--listen wants an address")?;
        listen = value.to_string_lossy().into_owned();
    }
    listen.parse().map_err(|error| format!("--listen {listen}: {error}"))
}

#[expect(clippy::print_stdout, reason = "the address on stdout is how callers find the stand-in")]
fn serve(listen: SocketAddr) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
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
