//! Between a thread that reads or writes a copy and a stream of messages. Knows chunks and deadlines, no copies.
//!
//! A peer that does not take or send anything for a while is given up: as long as a copy is made nothing is deleted.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{BackupForm, BackupResponse, RestoreHeader, RestoreRequest, restore_request::Part};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

use super::{Copy, copy_status};
use crate::rpc::blocking;
use crate::rpc::status::{from_decoder, refuse};
use crate::storage::CopyError;
use crate::storage::archive::Parts;
use crate::storage::backup::{Source, backup, records};

/// Bytes of a message.
const CHUNK_BYTES: usize = 256 << 10;
/// Messages between the disk and the wire, each way.
const CHUNKS: usize = 4;
/// A peer that is silent for this long is gone.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// A copy that takes longer is broken off, however little is read at a time: as long as it is made nothing is deleted.
const COPY_LIMIT: Duration = Duration::from_secs(24 * 3_600);

type Chunk = Result<BackupResponse, Status>;

/// Runs `work` on a thread of its own; what it writes is the stream that is returned.
pub(super) fn send(
    tasks: &TaskTracker,
    draining: CancellationToken,
    work: impl FnOnce(&mut dyn Write) -> Result<(), CopyError> + Send + 'static,
) -> Copy {
    let (chunks, stream) = mpsc::channel::<Chunk>(CHUNKS + 1);
    // Kept free for the last word: without it, a copy that is broken off because it is not read looks like a whole one.
    let last_word = chunks.clone().try_reserve_owned();
    let runtime = Handle::current();
    tasks.spawn_blocking(move || {
        let (buffer, begun) = (Vec::with_capacity(CHUNK_BYTES), Instant::now());
        let mut out = Chunks { chunks, runtime, draining, buffer, begun };
        let written = work(&mut out).and_then(|()| out.flush().map_err(CopyError::stream("write the copy")));
        if let Err(error) = written {
            tracing::warn!(error = &error as &dyn std::error::Error, "a copy was not finished");
            let draining = out.draining.is_cancelled();
            let status = if draining { crate::rpc::stopping() } else { copy_status(&error) };
            if let Ok(last_word) = last_word {
                last_word.send(Err(status));
            }
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

/// Writes a copy of one form.
pub(super) fn write(
    root: &Path,
    source: &Source,
    form: BackupForm,
    to: &mut dyn Write,
) -> Result<(), CopyError> {
    if form == BackupForm::Records {
        let (mut file, _) = records(root, &*source.store)?;
        io::copy(&mut file, to).map_err(CopyError::stream("write the copy"))?;
        return Ok(());
    }
    let totals = backup(root, source, SystemTime::now(), to)?;
    tracing::info!(records = totals.records, blobs = totals.blobs, bytes = totals.bytes, "backup made");
    Ok(())
}

/// Cuts what is written into messages.
struct Chunks {
    chunks: mpsc::Sender<Chunk>,
    runtime: Handle,
    draining: CancellationToken,
    buffer: Vec<u8>,
    begun: Instant,
}

impl Chunks {
    fn send(&mut self) -> io::Result<()> {
        if self.begun.elapsed() > COPY_LIMIT {
            return Err(io::Error::other("the reader takes it too slowly"));
        }
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        let (chunks, draining) = (&self.chunks, &self.draining);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = draining.cancelled() => Err(io::Error::other("the coordinator is shutting down")),
                sent = tokio::time::timeout(IDLE_LIMIT, chunks.send(Ok(BackupResponse { data }))) => match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(io::Error::other("the reader is gone")),
                    Err(_) => Err(io::Error::other("the reader takes nothing")),
                },
            }
        })
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(bytes.get(..take).unwrap_or_default());
        if self.buffer.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

/// The first message.
pub(super) async fn header(
    messages: &mut Streaming<RestoreRequest>,
    draining: &CancellationToken,
) -> Result<RestoreHeader, Status> {
    match next(messages, draining).await? {
        Some(Part::Header(header)) => Ok(header),
        Some(Part::Data(_)) | None => {
            Err(refuse(ErrorCode::ProtocolViolation, "the first message of a restore must be its header"))
        }
    }
}

async fn next(
    messages: &mut Streaming<RestoreRequest>,
    draining: &CancellationToken,
) -> Result<Option<Part>, Status> {
    let late = |_| refuse(ErrorCode::UploadGap, format!("nothing came for {} s", IDLE_LIMIT.as_secs()));
    let message = tokio::select! {
        biased;
        () = draining.cancelled() => return Err(crate::rpc::stopping()),
        message = tokio::time::timeout(IDLE_LIMIT, messages.next()) => message.map_err(late)?,
    };
    let message = message.transpose().map_err(from_decoder)?;
    message
        .map(|message| {
            let empty = || refuse(ErrorCode::ProtocolViolation, "a message of a restore holds nothing");
            message.part.ok_or_else(empty)
        })
        .transpose()
}

/// Runs `work` on a thread of its own over what the messages hold. What `work` says stands; a stream that broke off reads
/// as one that ended with an error. A coordinator that drains waits for `work` only once that has set `again`.
pub(super) async fn receive<T: Send + 'static>(
    mut messages: Streaming<RestoreRequest>,
    (draining, again): (&CancellationToken, &CancellationToken),
    work: impl FnOnce(&mut dyn BufRead) -> Result<T, CopyError> + Send + 'static,
) -> Result<Result<T, CopyError>, Status> {
    let (chunks, mut arrived) = mpsc::channel::<io::Result<Vec<u8>>>(CHUNKS);
    let feed = async move {
        loop {
            let part = match next(&mut messages, draining).await {
                Ok(None) => return Ok(()),
                Ok(Some(Part::Data(data))) => Ok(data),
                Ok(Some(Part::Header(_))) => {
                    Err(refuse(ErrorCode::ProtocolViolation, "the header of a restore comes once"))
                }
                Err(status) => Err(status),
            };
            let broken = part.as_ref().err().cloned();
            let part = part.map_err(|status| io::Error::other(status.message().to_owned()));
            // A worker that has seen enough has its own answer.
            if chunks.send(part).await.is_err() {
                return Ok(());
            }
            if let Some(status) = broken {
                return Err(status);
            }
        }
    };
    let worked = blocking(move || work(&mut Parts::new(|| arrived.blocking_recv().transpose())));
    let both = async {
        let (fed, worked) = tokio::join!(feed, worked);
        fed?;
        worked
    };
    let stopped = async {
        draining.cancelled().await;
        if again.is_cancelled() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        worked = both => worked,
        () = stopped => Err(crate::rpc::stopping()),
    }
}
