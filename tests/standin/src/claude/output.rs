//! Knows how bytes get to stdout: through one writer with a bounded queue, which goes on silently when
//! the reader is gone (the observed CLI ignores a closed stdout). Refuses to know what an event is.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// Chunks waiting for the reader of stdout. Few: with more a flood would only grow memory; when full
/// the producer waits, as a process writing to a full pipe does.
const QUEUE: usize = 16;

enum Chunk {
    Bytes(Vec<u8>),
    /// Everything before it has been written, or thrown away.
    Barrier(oneshot::Sender<()>),
    Close,
}

/// The way to stdout.
#[derive(Debug, Clone)]
pub(super) struct Out {
    queue: mpsc::Sender<Chunk>,
}

impl Out {
    /// Starts the writer.
    pub(super) fn start(tasks: &TaskTracker) -> Self {
        let (queue, chunks) = mpsc::channel(QUEUE);
        tasks.spawn(write(chunks));
        Self { queue }
    }

    /// Queues bytes. Returns when there is room, not when they are written.
    pub(super) async fn bytes(&self, bytes: Vec<u8>) {
        // The writer ends only with the last sender, so this cannot fail.
        let _ = self.queue.send(Chunk::Bytes(bytes)).await;
    }

    /// Queues one line.
    pub(super) async fn line(&self, text: String) {
        let mut bytes = text.into_bytes();
        bytes.push(b'\n');
        self.bytes(bytes).await;
    }

    /// Waits until everything queued so far is written.
    pub(super) async fn drain(&self) {
        let (done, written) = oneshot::channel();
        let _ = self.queue.send(Chunk::Barrier(done)).await;
        let _ = written.await;
    }

    /// Gives up stdout: the reader sees its end while the process lives on.
    pub(super) async fn close(&self) {
        let _ = self.queue.send(Chunk::Close).await;
        self.drain().await;
    }
}

async fn write(mut chunks: mpsc::Receiver<Chunk>) {
    let mut stdout = tokio::io::stdout();
    let mut gone = false;
    while let Some(chunk) = chunks.recv().await {
        match chunk {
            Chunk::Bytes(bytes) if !gone => {
                let written = stdout.write_all(&bytes).await;
                gone = written.and(stdout.flush().await).is_err();
            }
            Chunk::Bytes(_) => {}
            Chunk::Barrier(done) => {
                let _ = done.send(());
            }
            Chunk::Close => gone = redirect().is_ok() || gone,
        }
    }
}

/// Puts /dev/null in the place of stdout, which closes our end of the pipe.
fn redirect() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}
