//! Transcripts in and out, by offset. Knows the wire; reading one never passes the engine, except to learn which
//! attempt a reference means and whether it has ended.

mod append;
mod read;

use crate::engine::Handle;
use crate::rpc::auth::Caller;
use crate::rpc::lookup::Lookup;
use crate::rpc::refs::parse_ref;
use crate::rpc::status::{internal, refuse};
use crate::rpc::transcript_service::append::Appender;
use crate::rpc::transcript_service::read::Reader;
use crate::store::Tenant;
use crate::transcripts::{TranscriptError, TranscriptId, Transcripts};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::transcript_service_server::TranscriptService;
use orch_proto::v1::{
    AppendTranscriptRequest, AppendTranscriptResponse, ReadTranscriptRequest, ReadTranscriptResponse,
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

/// Largest chunk, either way.
const CHUNK_BYTES: usize = 256 << 10;
/// Answers between the appender and HTTP/2: more than an agent's window of unacknowledged chunks.
const ANSWERS: usize = 16;
/// Chunks between a reader and HTTP/2.
const CHUNKS: usize = 2;

/// The service.
#[derive(Debug, Clone)]
pub struct Scribe {
    transcripts: Arc<Transcripts>,
    lookup: Lookup,
    engine: Handle,
    tasks: TaskTracker,
}

impl Scribe {
    /// Serves `transcripts`.
    #[must_use]
    pub const fn new(
        transcripts: Arc<Transcripts>,
        lookup: Lookup,
        engine: Handle,
        tasks: TaskTracker,
    ) -> Self {
        Self { transcripts, lookup, engine, tasks }
    }
}

#[tonic::async_trait]
impl TranscriptService for Scribe {
    type AppendTranscriptStream = ReceiverStream<Result<AppendTranscriptResponse, Status>>;

    async fn append_transcript(
        &self,
        request: Request<Streaming<AppendTranscriptRequest>>,
    ) -> Result<Response<Self::AppendTranscriptStream>, Status> {
        let caller = Caller::of(&request)?;
        let (answers, stream) = mpsc::channel(ANSWERS);
        let appender = Appender::new(Arc::clone(&self.transcripts), self.engine.archive(), &caller);
        self.tasks.spawn(appender.run(request.into_inner(), answers).in_current_span());
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type ReadTranscriptStream = ReceiverStream<Result<ReadTranscriptResponse, Status>>;

    async fn read_transcript(
        &self,
        request: Request<ReadTranscriptRequest>,
    ) -> Result<Response<Self::ReadTranscriptStream>, Status> {
        let caller = Caller::of(&request)?;
        let ReadTranscriptRequest { r#ref, attempt, offset, follow } = request.into_inner();
        let target = self.lookup.pin(&parse_ref(&r#ref, &caller)?).await?;
        let progress = self.lookup.progress(&target).await?;
        let id = TranscriptId {
            tenant: Tenant::new(caller.tenant.0),
            run: progress.task.run.0,
            task: progress.task.index.0,
            attempt: if attempt == 0 { progress.attempt.max(1) } else { attempt },
        };
        let (transcripts, lookup, engine) =
            (Arc::clone(&self.transcripts), self.lookup.clone(), self.engine.clone());
        let reader = Reader { transcripts, lookup, engine, id, target, follow };
        let (chunks, stream) = mpsc::channel(CHUNKS);
        self.tasks.spawn(reader.run(offset, chunks).in_current_span());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn transcript_status(error: &TranscriptError) -> Status {
    match error {
        TranscriptError::Gap { .. } => refuse(ErrorCode::UploadGap, error.to_string()),
        TranscriptError::NotFound => refuse(ErrorCode::TranscriptNotFound, error.to_string()),
        TranscriptError::Stopped | TranscriptError::Io { .. } => internal("the transcripts failed", error),
    }
}
