//! A gate that tools of tasks wait at, so that tests know what runs at the same time instead of sleeping. It is reached
//! over loopback, which a sandbox of files and processes leaves open. Knows nothing of the fleet.

use crate::wait::PATIENCE;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// The gate. Tools wait at it with [`Gate::wait`].
#[derive(Debug)]
pub struct Gate {
    listener: TcpListener,
}

impl Gate {
    /// A gate that is closed and at which nobody waits yet.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn closed() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        Self { listener }
    }

    /// What bash says to wait. No quotes: it stands in JSON within a prompt.
    ///
    /// # Panics
    /// When the socket has no address.
    #[must_use]
    pub fn wait(&self) -> String {
        let port = self.listener.local_addr().expect("an address").port();
        format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -r -u 3 word; exec 3>&-")
    }

    /// Waits until `count` stand at the gate. They go on when what is returned is given to [`open`].
    ///
    /// # Panics
    /// When they do not come.
    pub async fn gather(&self, count: usize) -> Vec<TcpStream> {
        let started = Instant::now();
        let mut waiting = Vec::new();
        while waiting.len() < count {
            match self.listener.accept() {
                Ok((stream, _)) => waiting.push(stream),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
            assert!(started.elapsed() < PATIENCE, "only {} of {count} came to the gate", waiting.len());
        }
        waiting
    }
}

/// Lets those who wait go on.
pub fn open(waiting: Vec<TcpStream>) {
    for mut stream in waiting {
        // One that is gone by now needs no word.
        let _ = stream.write_all(b"go\n");
    }
}
