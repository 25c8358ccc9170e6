//! A transcript on its way up: from segment files to the coordinator, by offset, over any number of cuts.
//! Knows bytes and offsets; refuses to know lines and when what was sent is no longer needed here.

use crate::runner::{AttemptKey, Live};
use crate::supervisor::segments::{Channel as Output, SEGMENT_BYTES, length, read_at, release};
use orch_proto::v1::transcript_service_client::TranscriptServiceClient;
use orch_proto::v1::{AppendTranscriptRequest, AppendTranscriptResponse, AttemptId};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Bytes of a chunk: the limit of the protocol.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes sent and not yet acknowledged: bounds what a slow coordinator makes the agent hold in buffers.
const WINDOW_BYTES: u64 = 1 << 20;
/// Requests between this task and HTTP/2.
const REQUESTS: usize = 2;

/// Name of the file that says that all of a transcript is with the coordinator.
const SENT_FILE: &str = "transcript.sent";

/// How far the transcript itself is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    /// Bytes in the segment files.
    bytes: u64,
    /// Whether nothing will follow.
    complete: bool,
}

/// One transcript to send.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Whose.
    pub attempt: AttemptKey,
    /// Where it lies and how far it is. Complete when the sender is gone.
    pub live: watch::Receiver<Live>,
}

/// Why an upload stopped before its end. It goes on from the coordinator's offset after the next connect.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The coordinator or the connection failed.
    #[error("the transcript connection failed: {}", .0.message())]
    Call(#[source] Box<Status>),
    /// The segments cannot be read.
    #[error("cannot read the transcript")]
    Read(#[source] std::io::Error),
    /// The stream ended early.
    #[error("the coordinator ended the transcript stream")]
    Ended,
}

impl From<Status> for UploadError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl Upload {
    /// Sends what is not yet there, follows the transcript, and returns once all of it is durable.
    ///
    /// # Errors
    /// See [`UploadError`].
    pub async fn run(mut self, mut client: TranscriptServiceClient<Channel>) -> Result<(), UploadError> {
        let Some(dir) = self.dir().await else { return Ok(()) };
        // Of one that never says a word the coordinator has nothing to keep, and reads it so.
        if self.live.wait_for(|live| live.transcript_bytes > 0).await.is_err() {
            return Ok(());
        }
        let (requests, stream) = mpsc::channel(REQUESTS);
        requests.send(self.request(0, Vec::new(), false)).await.map_err(|_| UploadError::Ended)?;
        let mut answers = client.append_transcript(ReceiverStream::new(stream)).await?.into_inner();
        let first = next(&mut answers).await?;
        let (mut sent, mut received, mut durable) = (first.received, first.received, first.durable);
        let mut said_last = false;
        loop {
            let written = self.written();
            if written.complete && durable >= written.bytes && said_last {
                return Ok(());
            }
            if sent < written.bytes && sent - received < WINDOW_BYTES {
                let data = read(dir.clone(), sent).await?;
                let offset = sent;
                sent += data.len() as u64;
                self.send(&requests, offset, data, false).await?;
                continue;
            }
            if written.complete && sent >= written.bytes && !said_last {
                said_last = true;
                self.send(&requests, sent, Vec::new(), true).await?;
                continue;
            }
            tokio::select! {
                answer = next(&mut answers) => {
                    let answer = answer?;
                    received = received.max(answer.received);
                    durable = durable.max(answer.durable);
                }
                // An error says that the writer is gone: the next look finds the transcript complete.
                _ = self.live.changed(), if !written.complete => {}
            }
        }
    }

    async fn send(
        &self,
        requests: &mpsc::Sender<AppendTranscriptRequest>,
        offset: u64,
        data: Vec<u8>,
        last: bool,
    ) -> Result<(), UploadError> {
        requests.send(self.request(offset, data, last)).await.map_err(|_| UploadError::Ended)
    }

    const fn request(&self, offset: u64, data: Vec<u8>, last: bool) -> AppendTranscriptRequest {
        let AttemptKey { run, task, attempt } = self.attempt;
        AppendTranscriptRequest {
            attempt: Some(AttemptId { run_id: run, task_index: task, attempt }),
            offset,
            data,
            last,
        }
    }

    /// The directory of the segments, once there is one; `None` for an attempt that never had any.
    async fn dir(&mut self) -> Option<PathBuf> {
        // An error says that the writer is gone: what it said last holds.
        let _ = self.live.wait_for(|live| live.attempt_dir.is_some()).await;
        self.live.borrow().attempt_dir.clone()
    }

    fn written(&mut self) -> Written {
        // In this order: a sender that goes in between has said its last word before.
        let complete = self.live.has_changed().is_err();
        Written { bytes: self.live.borrow_and_update().transcript_bytes, complete }
    }
}

/// Lets go of a transcript that is with the coordinator, all of it. The attempt has ended and its report is kept: until
/// then a later process of the agent may have to read the transcript once more. Blocks.
pub fn let_go(dir: &Path) {
    let released = length(dir, Output::Stdout, SEGMENT_BYTES)
        .and_then(|bytes| release(dir, Output::Stdout, SEGMENT_BYTES, bytes).map(|_| bytes));
    match released {
        // There is nothing that could be offered again.
        Ok(0) => {}
        Ok(_) => mark_sent(dir),
        Err(error) => {
            tracing::warn!(%error, "cannot release acknowledged segments");
            mark_sent(dir);
        }
    }
}

/// Whether all of the transcript in an attempt's directory was sent.
#[must_use]
pub fn is_sent(dir: &Path) -> bool {
    dir.join(SENT_FILE).exists()
}

fn mark_sent(dir: &Path) {
    let made =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(SENT_FILE));
    if let Err(error) = made {
        // It will be offered again after a restart, and the coordinator will say that it has it.
        tracing::debug!(%error, "cannot note that a transcript was sent");
    }
}

async fn read(dir: PathBuf, offset: u64) -> Result<Vec<u8>, UploadError> {
    let read = crate::blocking::run(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        let filled = read_at(&dir, Output::Stdout, SEGMENT_BYTES, offset, &mut buffer)?;
        buffer.truncate(filled);
        Ok(buffer)
    });
    let bytes = read.await.map_err(|error| UploadError::Read(std::io::Error::other(error)))?;
    match bytes.map_err(UploadError::Read)? {
        empty if empty.is_empty() => Err(UploadError::Read(std::io::ErrorKind::UnexpectedEof.into())),
        bytes => Ok(bytes),
    }
}

async fn next(
    answers: &mut Streaming<AppendTranscriptResponse>,
) -> Result<AppendTranscriptResponse, UploadError> {
    answers.message().await?.ok_or(UploadError::Ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::transport::Endpoint;

    #[tokio::test]
    async fn of_an_attempt_that_says_nothing_nothing_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let client = || {
            let nobody = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
            TranscriptServiceClient::new(nobody)
        };
        let run = |transcript_bytes| {
            let live = Live { attempt_dir: Some(dir.path().to_owned()), transcript_bytes, ..Live::default() };
            let (_, live) = watch::channel(live);
            let attempt = AttemptKey { run: 1, task: 2, attempt: 3 };
            Upload { attempt, live }.run(client())
        };
        run(0).await.unwrap();
        assert!(matches!(run(1).await, Err(UploadError::Call(_))), "a byte is worth a call");
        let_go(dir.path());
        assert!(!is_sent(dir.path()), "there is nothing to be noted");
        std::fs::write(dir.path().join("stdout.000000"), "x").unwrap();
        let_go(dir.path());
        assert!(is_sent(dir.path()));
    }
}
