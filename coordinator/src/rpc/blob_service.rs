//! Bulk bytes in and out, in chunks. Knows the wire and the blob store; refuses to know what the bytes are.

use crate::blobs::{Blob, BlobError, BlobLocation, Blobs, Digest, Upload, UploadError};
use crate::payloads::bulk::reference;
use crate::rpc::auth::Caller;
use crate::rpc::blocking;
use crate::rpc::status::{from_decoder, internal, refuse};
use crate::store::Tenant;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::blob_service_server::BlobService;
use orch_proto::v1::{BlobRef, GetBlobRequest, GetBlobResponse, PutBlobRequest, PutBlobResponse};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

/// Largest blob anybody may store: an artifact, with room.
const MAX_BLOB_BYTES: u64 = 1 << 30;
/// Bytes of a chunk on its way out.
const CHUNK_BYTES: usize = 256 << 10;
/// An upload of which nothing comes for this long is given up; its sender begins again.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Chunks between reader and HTTP/2: enough that the disk works while the wire does.
const CHUNKS: usize = 2;

type Chunks = mpsc::Sender<Result<GetBlobResponse, Status>>;

/// The service.
#[derive(Debug, Clone)]
pub struct Blobber {
    blobs: Arc<dyn Blobs>,
    tasks: TaskTracker,
}

impl Blobber {
    /// Serves `blobs`; readers run on `tasks`.
    #[must_use]
    pub fn new(blobs: Arc<dyn Blobs>, tasks: TaskTracker) -> Self {
        Self { blobs, tasks }
    }

    async fn receive(
        &self,
        tenant: Tenant,
        mut chunks: Streaming<PutBlobRequest>,
    ) -> Result<BlobRef, Status> {
        let none = || refuse(ErrorCode::DigestMismatch, "the upload says no digest");
        let first = next_chunk(&mut chunks).await?.ok_or_else(none)?;
        let expected = Digest(<[u8; 32]>::try_from(first.digest.as_slice()).map_err(|_| none())?);
        if first.size > MAX_BLOB_BYTES {
            let message = format!("{} bytes; at most {MAX_BLOB_BYTES}", first.size);
            return Err(refuse(ErrorCode::TooLarge, message));
        }
        let (blobs, size) = (Arc::clone(&self.blobs), first.size);
        let begun = blocking(move || blobs.begin(tenant, size)).await?;
        let mut upload = begun.map_err(|error| blob_status(&error))?;
        let mut next = Some(first);
        while let Some(chunk) = next {
            upload = append(upload, chunk.data).await?;
            next = next_chunk(&mut chunks).await?;
        }
        let stored = blocking(move || upload.finish(&expected)).await?;
        Ok(reference(&stored.map_err(|error| upload_status(&error))?))
    }

    async fn open(&self, tenant: Tenant, blob: Option<BlobRef>) -> Result<Arc<dyn Blob>, Status> {
        let location: BlobLocation = blob
            .and_then(|blob| blob.location.parse().ok())
            .ok_or_else(|| refuse(ErrorCode::BlobNotFound, "the request names no blob"))?;
        let blobs = Arc::clone(&self.blobs);
        let opened = blocking(move || blobs.open(tenant, &location)).await?;
        Ok(Arc::from(opened.map_err(|error| blob_status(&error))?))
    }
}

/// Hands out a blob as fast as its reader takes it, without keeping a thread meanwhile.
async fn send(blob: Arc<dyn Blob>, mut offset: u64, chunks: Chunks) {
    loop {
        let source = Arc::clone(&blob);
        let read = blocking(move || source.read_at(offset, CHUNK_BYTES)).await;
        let read = read.and_then(|read| read.map_err(|error| blob_status(&error)));
        let chunk = read.map(|data| GetBlobResponse { offset, data });
        let length = chunk.as_ref().map_or(0, |chunk| chunk.data.len() as u64);
        let over = length == 0;
        if over && chunk.is_ok() {
            return;
        }
        // The reader went away, or has just been told why it ends.
        if chunks.send(chunk).await.is_err() || over {
            return;
        }
        offset += length;
    }
}

async fn next_chunk(chunks: &mut Streaming<PutBlobRequest>) -> Result<Option<PutBlobRequest>, Status> {
    let next = tokio::time::timeout(IDLE_LIMIT, chunks.message()).await;
    let late = || refuse(ErrorCode::UploadGap, format!("nothing came for {} s", IDLE_LIMIT.as_secs()));
    next.map_err(|_| late())?.map_err(from_decoder)
}

async fn append(mut upload: Box<dyn Upload>, data: Vec<u8>) -> Result<Box<dyn Upload>, Status> {
    if data.is_empty() {
        return Ok(upload);
    }
    let taken = blocking(move || {
        let offset = upload.received();
        upload.append(offset, &data).map(|_| upload)
    });
    taken.await?.map_err(|error| upload_status(&error))
}

#[tonic::async_trait]
impl BlobService for Blobber {
    async fn put_blob(
        &self,
        request: Request<Streaming<PutBlobRequest>>,
    ) -> Result<Response<PutBlobResponse>, Status> {
        let tenant = Tenant::new(Caller::of(&request)?.tenant.0);
        let blob = self.receive(tenant, request.into_inner()).await?;
        Ok(Response::new(PutBlobResponse { blob: Some(blob) }))
    }

    type GetBlobStream = ReceiverStream<Result<GetBlobResponse, Status>>;

    async fn get_blob(
        &self,
        request: Request<GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let tenant = Tenant::new(Caller::of(&request)?.tenant.0);
        let GetBlobRequest { blob, offset } = request.into_inner();
        let blob = self.open(tenant, blob).await?;
        let (chunks, stream) = mpsc::channel(CHUNKS);
        self.tasks.spawn(send(blob, offset, chunks).in_current_span());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn blob_status(error: &BlobError) -> Status {
    match error {
        BlobError::NotFound { .. } => {
            refuse(ErrorCode::BlobNotFound, "there are no such bytes, or they have expired")
        }
        BlobError::TooLarge { .. } => refuse(ErrorCode::TooLarge, error.to_string()),
        BlobError::Damaged { .. } | BlobError::Io { .. } => internal("the blob store failed", error),
    }
}

fn upload_status(error: &UploadError) -> Status {
    match error {
        UploadError::Gap { .. } => refuse(ErrorCode::UploadGap, error.to_string()),
        UploadError::TooLarge { .. } => refuse(ErrorCode::TooLarge, error.to_string()),
        UploadError::Digest { .. } => refuse(ErrorCode::DigestMismatch, error.to_string()),
        UploadError::Blob(error) => blob_status(error),
    }
}
