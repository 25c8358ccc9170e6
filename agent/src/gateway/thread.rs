//! The gateway's thread: bound before the child is there, started after it, so that the child is forked by a process of
//! one thread; ended with the attempt. A mistake in it ends the gateway, not the supervisor.
//! Knows its parts; refuses to know what they do.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, Life, MOST_REQUESTS};
use super::forward::Forwarder;
use super::intake::Intake;
use super::patience::Patience;
use super::recorder::Recorder;
use super::spec::{GatewaySecrets, GatewaySpec};
use super::upstream::Upstream;
use super::wire::Command;
use super::{door, talk};

/// Connections that have not said the word. Everybody on this host can connect, other attempts among them; whoever is
/// new takes the place of whoever has been silent longest, so that nobody can keep the CLI out.
const MOST_STRANGERS: usize = 32;

/// Connections at once. The CLI holds one for each request and closes idle ones.
const MOST_CONNECTIONS: usize = MOST_REQUESTS + MOST_STRANGERS;

/// Threads for looking up names, beside the one that does everything.
const BLOCKING_THREADS: usize = 2;

/// How long the last words may take to reach the agents.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How long the thread may take to end, its last words included.
const END_LIMIT: Duration = Duration::from_secs(3);

/// Pause after a connection could not be taken, for example because there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A gateway that listens and serves nobody yet.
#[derive(Debug)]
pub struct Bound {
    door: TcpListener,
    agents: UnixListener,
    socket: PathBuf,
    forwarder: Forwarder,
    token: Arc<str>,
    life: Arc<Life>,
    address: SocketAddr,
}

/// A gateway at work.
#[derive(Debug)]
pub struct Gateway {
    life: Arc<Life>,
    desk: Arc<Desk>,
    stop: CancellationToken,
    ended: mpsc::Receiver<()>,
    socket: PathBuf,
}

/// Where a gateway belongs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Directory of sockets.
    pub runtime_dir: &'a Path,
    /// Identity of the supervisor.
    pub id: &'a str,
    /// Directory of the attempt.
    pub attempt_dir: &'a Path,
    /// The child's environment: how the network is reached.
    pub env: &'a BTreeMap<String, String>,
}

impl Bound {
    /// Prepares everything that can fail.
    ///
    /// # Errors
    /// When the secrets are no words of a header, the way to the API is unclear, or the sockets cannot be made.
    pub fn new(spec: &GatewaySpec, secrets: &GatewaySecrets, place: Place<'_>) -> io::Result<Self> {
        if secrets.token.is_empty() || secrets.key.is_empty() {
            return Err(io::Error::other("the gateway was given no credential"));
        }
        let upstream = Upstream::new(&spec.upstream, place.env).map_err(io::Error::other)?;
        let recorder = spec.record_dir.as_deref();
        let recorder = recorder
            .map(|dir| Recorder::new(dir, [secrets.token.as_str(), secrets.key.as_str()]))
            .transpose()?;
        let life = Arc::new(Life::default());
        let desk = Desk::open(place.attempt_dir, place.id, Arc::clone(&life))?;
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        door.set_nonblocking(true)?;
        let agents = talk::listen(place.runtime_dir, place.id)?;
        let forwarder = Forwarder {
            desk,
            upstream,
            key: Mutex::new(key(&secrets.key).ok_or_else(|| io::Error::other("the API key is no word"))?),
            intake: Intake::default(),
            recorder,
            longest_hold: Duration::from_millis(spec.longest_hold_ms),
            patience: Patience::new(Duration::from_millis(spec.longest_failure_ms)),
        };
        Ok(Self {
            address: door.local_addr()?,
            door,
            agents,
            socket: talk::socket_path(place.runtime_dir, place.id),
            forwarder,
            token: secrets.token.as_str().into(),
            life,
        })
    }

    /// Variables that lead a child with `env` here.
    #[must_use]
    pub fn variables(&self, env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::from([
            ("ANTHROPIC_BASE_URL".to_owned(), format!("http://{}", self.address)),
            ("ANTHROPIC_API_KEY".to_owned(), self.token.to_string()),
        ]);
        // Or a proxy of plain HTTP would be asked for this host's loopback.
        for name in ["NO_PROXY", "no_proxy"] {
            let others = env.get(name).or_else(|| env.get("NO_PROXY")).or_else(|| env.get("no_proxy"));
            let others = others.map(|others| format!("{others},")).unwrap_or_default();
            variables.insert(name.to_owned(), format!("{others}127.0.0.1"));
        }
        variables
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self) -> io::Result<Gateway> {
        let Self { door, agents, socket, forwarder, token, life, .. } = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let desk = Arc::clone(&forwarder.desk);
        let stop = CancellationToken::new();
        // Nothing is sent: the end of the thread closes it.
        let (end, ended) = mpsc::sync_channel(0);
        let (stopped, thread_life) = (stop.clone(), Arc::clone(&life));
        let thread = move || {
            let _end: mpsc::SyncSender<()> = end;
            let serve = || runtime.block_on(serve(door, agents, Arc::new(forwarder), token, &stopped));
            let served = catch_unwind(AssertUnwindSafe(serve));
            if !matches!(served, Ok(Ok(()))) {
                thread_life.break_off();
            }
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("orch-gateway".to_owned()).spawn(thread)?;
        Ok(Gateway { life, desk, stop, ended, socket })
    }
}

impl Gateway {
    /// Whether a request waits for its admission.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.life.is_waiting()
    }

    /// What went wrong in it so far, for people.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let broken = || "the gateway to the API failed, which is a mistake in the agent".to_owned();
        self.desk.trouble().or_else(|| self.life.is_broken().then(broken))
    }

    /// Ends it: what is in flight is given up and entered, agents are told, the socket is taken away.
    pub fn end(&mut self) {
        self.stop.cancel();
        // A thread that does not end in time ends with the process.
        let _ = self.ended.recv_timeout(END_LIMIT);
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn key(text: &str) -> Option<HeaderValue> {
    let mut key = HeaderValue::from_str(text).ok()?;
    key.set_sensitive(true);
    Some(key)
}

async fn serve(
    door: TcpListener,
    agents: UnixListener,
    forwarder: Arc<Forwarder>,
    token: Arc<str>,
    stop: &CancellationToken,
) -> io::Result<()> {
    let door = tokio::net::TcpListener::from_std(door)?;
    let agents = tokio::net::UnixListener::from_std(agents)?;
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut strangers = Strangers::default();
    let mut talks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // A task that panics has lost one connection; what it had in flight was entered by its guard.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(_) = talks.join_next(), if !talks.is_empty() => {}
            (permit, accepted) = async { (Arc::clone(&room).acquire_owned().await, door.accept().await) } => {
                let (Ok(permit), Ok((stream, _))) = (permit, accepted) else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let (forwarder, token) = (Arc::clone(&forwarder), Arc::clone(&token));
                let is_known = Arc::new(AtomicBool::new(false));
                let known = Arc::clone(&is_known);
                let connection = connections.spawn(async move {
                    door::serve(stream, forwarder, token, known).await;
                    drop(permit);
                });
                strangers.welcome(is_known, connection);
            }
            accepted = agents.accept() => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                if !talk::is_welcome(&stream) {
                    continue;
                }
                let Some(lines) = forwarder.desk.admit_agent() else { continue };
                let forwarder = Arc::clone(&forwarder);
                talks.spawn(async move { talk::serve(stream, lines, |command| obey(&forwarder, command)).await });
            }
        }
    }
    connections.shutdown().await;
    // Their channels end when the desk lets go of them, after the last word.
    forwarder.desk.dismiss_agents();
    let last = async { while talks.join_next().await.is_some() {} };
    // Agents that do not read find the ledger.
    let _ = tokio::time::timeout(LAST_WORDS, last).await;
    Ok(())
}

/// Connections that have not said the word yet, the oldest first.
#[derive(Default)]
struct Strangers {
    line: VecDeque<(Arc<AtomicBool>, AbortHandle)>,
}

impl Strangers {
    fn welcome(&mut self, is_known: Arc<AtomicBool>, connection: AbortHandle) {
        self.line
            .retain(|(is_known, connection)| !is_known.load(Ordering::Relaxed) && !connection.is_finished());
        if self.line.len() >= MOST_STRANGERS
            && let Some((_, oldest)) = self.line.pop_front()
        {
            oldest.abort();
        }
        self.line.push_back((is_known, connection));
    }
}

fn obey(forwarder: &Forwarder, command: Command) {
    match command {
        Command::Credential { key: text } => {
            if let Some(key) = key(&text) {
                *forwarder.key.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = key;
            }
        }
        command
        @ (Command::Hello { .. } | Command::Go { .. } | Command::Refuse { .. } | Command::Unknown) => {
            forwarder.desk.obey(command);
        }
    }
}
