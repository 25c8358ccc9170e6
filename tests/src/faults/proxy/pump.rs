//! One connection through the proxy: two pumps, and the orders that concern the whole of it.

use super::{Fault, Orders, Shared, Way, one};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

/// Bytes taken at a time: small enough that a fault meets a transfer in the middle.
const CHUNK: usize = 16 << 10;

/// The connection must be reset.
struct Broken;

/// Pumps both ways until both have ended, an order resets it, or a side is gone.
pub(super) async fn connection(mut client: TcpStream, mut server: TcpStream, shared: &Shared) {
    one(&shared.counts.connections);
    // What passes must not be kept back for more of it.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let broken = {
        let mut orders = shared.orders.subscribe();
        let asked = *orders.borrow_and_update();
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let up = Pump::new(Way::Up, asked, shared).run(client_read, server_write);
        let down = Pump::new(Way::Down, asked, shared).run(server_read, client_write);
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.is_err(),
            _ = orders.wait_for(|orders| orders.resets > asked.resets) => {
                one(&shared.counts.reset);
                true
            }
        }
    };
    if broken {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// What a pump waits for.
enum Next {
    /// Its direction is to be closed.
    Closed,
    /// Another fault, or none, while bytes were lost to the former.
    Changed,
    /// Bytes; none at the end.
    Read(usize),
}

/// One direction of a connection.
struct Pump<'a> {
    way: Way,
    fault: watch::Receiver<Fault>,
    orders: watch::Receiver<Orders>,
    half_closes: u64,
    lost_some: bool,
    shared: &'a Shared,
}

impl<'a> Pump<'a> {
    fn new(way: Way, asked: Orders, shared: &'a Shared) -> Self {
        Self {
            way,
            fault: shared.ways[way as usize].subscribe(),
            orders: shared.orders.subscribe(),
            half_closes: asked.half_closes[way as usize],
            lost_some: false,
            shared,
        }
    }

    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Broken> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let (way, asked) = (self.way as usize, self.half_closes);
            let next = tokio::select! {
                biased;
                _ = self.orders.wait_for(|orders| orders.half_closes[way] > asked) => Next::Closed,
                _ = self.fault.changed(), if self.lost_some => Next::Changed,
                read = from.read(&mut buffer) => Next::Read(read.map_err(|_| Broken)?),
            };
            match next {
                Next::Closed => {
                    one(&self.shared.counts.half_closed);
                    to.shutdown().await.map_err(|_| Broken)?;
                    return swallow(from, &mut buffer).await;
                }
                Next::Changed => self.check_healed()?,
                Next::Read(0) => return to.shutdown().await.map_err(|_| Broken),
                Next::Read(read) => self.pass(&buffer[..read], &mut to).await?,
            }
        }
    }

    /// A connection that lost bytes has no way on once bytes pass again.
    fn check_healed(&mut self) -> Result<(), Broken> {
        let swallows = matches!(*self.fault.borrow_and_update(), Fault::BlackHole);
        if self.lost_some && !swallows { Err(Broken) } else { Ok(()) }
    }

    async fn pass(&mut self, mut rest: &[u8], to: &mut WriteHalf<'_>) -> Result<(), Broken> {
        let counts = &self.shared.counts;
        while !rest.is_empty() {
            let fault = *self.fault.borrow_and_update();
            if !matches!(fault, Fault::BlackHole) && self.lost_some {
                return Err(Broken);
            }
            let now = match fault {
                Fault::Pass => rest.len(),
                Fault::Delay(time) => {
                    one(&counts.delayed);
                    tokio::time::sleep(time).await;
                    rest.len()
                }
                Fault::Stall => {
                    one(&counts.stalled);
                    self.fault.changed().await.map_err(|_| Broken)?;
                    continue;
                }
                Fault::BlackHole => {
                    one(&counts.swallowed);
                    self.lost_some = true;
                    return Ok(());
                }
                Fault::Drip { bytes, every } => {
                    one(&counts.dripped);
                    self.pause(every).await;
                    bytes.clamp(1, rest.len())
                }
            };
            to.write_all(&rest[..now]).await.map_err(|_| Broken)?;
            rest = &rest[now..];
        }
        Ok(())
    }

    /// Waits, or less if the fault is over before.
    async fn pause(&mut self, time: Duration) {
        let _ = tokio::time::timeout(time, self.fault.changed()).await;
    }
}

/// Reads what is sent into a direction that was closed.
async fn swallow(mut from: ReadHalf<'_>, buffer: &mut [u8]) -> Result<(), Broken> {
    loop {
        match from.read(buffer).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(Broken),
        }
    }
}
