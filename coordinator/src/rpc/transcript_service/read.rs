//! A transcript on its way out: from an offset to its end, which for one that is followed comes with the attempt's.
//! Knows files and when an attempt is over; refuses to know what the lines say.

use super::{CHUNK_BYTES, transcript_status};
use crate::engine::Handle;
use crate::rpc::lookup::Lookup;
use crate::rpc::{blocking, stopping};
use crate::transcripts::{TranscriptError, TranscriptId, Transcripts};
use orch_core::event::Target;
use orch_proto::v1::ReadTranscriptResponse;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Status;

/// Pause of a follower that has read everything. The file is the only link between writer and readers.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
/// How often such a follower asks whether the attempt is over, which costs more than a look at the file.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long an attempt that has ended may owe the rest of its transcript before it is taken for lost with its agent.
const OWED_FOR: Duration = Duration::from_secs(60);

type Chunks = mpsc::Sender<Result<ReadTranscriptResponse, Status>>;

/// One reader.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) transcripts: Arc<Transcripts>,
    pub(super) lookup: Lookup,
    pub(super) engine: Handle,
    pub(super) id: TranscriptId,
    pub(super) target: Target,
    pub(super) follow: bool,
}

impl Reader {
    /// Reads from `offset` until everything was sent or nobody listens.
    pub(super) async fn run(self, offset: u64, chunks: Chunks) {
        if let Err(status) = self.read_all(offset, &chunks).await {
            // The reader may have gone.
            drop(chunks.send(Err(status)).await);
        }
    }

    async fn read_all(&self, mut offset: u64, chunks: &Chunks) -> Result<(), Status> {
        let (mut ask_at, mut heard_at) = (Instant::now(), Instant::now());
        let mut over = !self.follow;
        loop {
            let data = self.read(offset, over).await?;
            if !data.is_empty() {
                let length = data.len() as u64;
                let chunk = ReadTranscriptResponse { offset, data, attempt: self.id.attempt };
                if chunks.send(Ok(chunk)).await.is_err() {
                    return Ok(());
                }
                offset += length;
                heard_at = Instant::now();
            } else if over {
                return Ok(());
            } else if self.engine.is_draining() {
                return Err(stopping());
            } else if Instant::now() >= ask_at {
                ask_at = Instant::now() + ASK_EVERY;
                // What was written until it was over is read once more.
                over = self.is_over(offset, heard_at.elapsed()).await?;
            } else {
                tokio::select! {
                    () = sleep(FOLLOW_PAUSE) => {}
                    () = chunks.closed() => return Ok(()),
                }
            }
        }
    }

    /// What follows `offset`; nothing for a transcript that may still begin.
    async fn read(&self, offset: u64, over: bool) -> Result<Vec<u8>, Status> {
        let (transcripts, id) = (Arc::clone(&self.transcripts), self.id);
        match blocking(move || transcripts.read(&id, offset, CHUNK_BYTES)).await? {
            Err(TranscriptError::NotFound) if !over => Ok(Vec::new()),
            read => read.map_err(|error| transcript_status(&error)),
        }
    }

    /// Whether nothing will follow: the attempt is over, and what its agent reported as written is here. An agent
    /// that is lost never sends the rest, so an attempt that is not the latest any more is over as well.
    async fn is_over(&self, have: u64, silent_for: Duration) -> Result<bool, Status> {
        let progress = self.lookup.progress(&self.target).await?;
        let replaced = progress.attempt > self.id.attempt;
        let complete = have >= progress.transcript_bytes || silent_for >= OWED_FOR;
        Ok(replaced || (progress.terminal && complete))
    }
}
