//! A TCP proxy between two processes that hurts what passes through it, each direction by itself: delay, stall, one-way black
//! hole, slow drip; and whole connections: reset, half-close. Bytes pass as they are, so TLS passes through.
//! Knows sockets and bytes; refuses to know what they mean.

mod pump;
pub mod schedule;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A direction through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who dialled to the target.
    Up,
    /// From the target to who dialled.
    Down,
}

/// What is done to bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They pass.
    Pass,
    /// Each chunk passes so much later.
    Delay(Duration),
    /// They wait until this is over, and their sender with them once buffers are full.
    Stall,
    /// They vanish, as behind a dead link. A connection that lost some is reset when this is over.
    BlackHole,
    /// So many bytes pass at a time, with such a pause between.
    Drip {
        /// At a time.
        bytes: usize,
        /// Between two times.
        every: Duration,
    },
}

/// What happens to whole connections, as it is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Orders {
    resets: u64,
    half_closes: [u64; 2],
}

/// How often each kind of fault met bytes or a connection. Asking for one that met nothing counts as nothing.
#[derive(Debug, Default)]
pub struct Counts {
    connections: AtomicU64,
    refused: AtomicU64,
    delayed: AtomicU64,
    stalled: AtomicU64,
    swallowed: AtomicU64,
    dripped: AtomicU64,
    reset: AtomicU64,
    half_closed: AtomicU64,
}

fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    /// Connections that reached the target.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that were dialled while the target was away.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Every kind of fault by name, with how often it fired.
    #[must_use]
    pub fn fired(&self) -> [(&'static str, u64); 6] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("delay", read(&self.delayed)),
            ("stall", read(&self.stalled)),
            ("black hole", read(&self.swallowed)),
            ("drip", read(&self.dripped)),
            ("reset", read(&self.reset)),
            ("half-close", read(&self.half_closed)),
        ]
    }
}

/// What connections and their proxy share.
#[derive(Debug)]
struct Shared {
    target: String,
    ways: [watch::Sender<Fault>; 2],
    orders: watch::Sender<Orders>,
    counts: Counts,
}

/// A proxy on loopback. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Starts one in front of `target` (`host:port`), which passes everything for now.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let way = || watch::Sender::new(Fault::Pass);
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            ways: [way(), way()],
            orders: watch::Sender::new(Orders::default()),
            counts: Counts::default(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, _accepting: accepting }
    }

    /// Where to dial instead of the target (`host:port`).
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Does this to what goes `way` from now on.
    pub fn set(&self, way: Way, fault: Fault) {
        self.shared.ways[way as usize].send_replace(fault);
    }

    /// The same both ways.
    pub fn set_both(&self, fault: Fault) {
        self.set(Way::Up, fault);
        self.set(Way::Down, fault);
    }

    /// Cuts both sides off from each other without a word to either.
    pub fn partition(&self) {
        self.set_both(Fault::BlackHole);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.set_both(Fault::Pass);
    }

    /// Resets every connection; new ones are taken.
    pub fn reset(&self) {
        self.shared.orders.send_modify(|orders| orders.resets += 1);
    }

    /// Ends one direction of every connection in order; what is sent that way afterwards vanishes.
    pub fn half_close(&self, way: Way) {
        self.shared.orders.send_modify(|orders| orders.half_closes[way as usize] += 1);
    }

    /// What fired so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Nothing but a lack of descriptors fails here, and a test that is short of them fails soon enough.
        let Ok((client, _)) = listener.accept().await else { return };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            match TcpStream::connect(&shared.target).await {
                Ok(server) => pump::connection(client, server, &shared).await,
                Err(_) => {
                    one(&shared.counts.refused);
                    // The target is away: who dialled must see it at once.
                    let _ = client.set_zero_linger();
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
