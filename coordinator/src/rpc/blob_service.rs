//! Bulk bytes in and out, in chunks. Knows the wire and the blob store; refuses to know what the bytes are.
//!
//! An upload is acknowledged once it is durable. What is stored already is not sent twice, and one whose connection was cut
//! goes on where it was for as long as `parked` keeps it.

mod parked;

use self::parked::{Parked, UploadKey};
use crate::blobs::{Blob, BlobError, BlobLocation, Blobs, Digest, Stored, Upload, UploadError};
use crate::engine::Handle;
use crate::payloads::bulk::reference;
use crate::rpc::auth::Caller;
use crate::rpc::blocking;
use crate::rpc::status::{from_decoder, internal, refuse};
use crate::store::Tenant;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::blob_service_server::BlobService;
use orch_proto::v1::{
    BlobRef, FindBlobRequest, FindBlobResponse, GetBlobRequest, GetBlobResponse, PutBlobRequest,
    PutBlobResponse,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

/// Largest blob anybody may store, a file of a task: what crosses a slow line of 10 Mbit/s within a quarter of an hour. It is
/// announced before the first byte, so a larger one costs nothing.
pub const MAX_BLOB_BYTES: u64 = 1 << 30;
/// Largest upload that is taken while the disk is nearly full: the longest answer. Results are still recorded then.
const MAX_WHEN_LOW: u64 = 16 << 20;
/// Bytes of a chunk on its way out.
const CHUNK_BYTES: usize = 256 << 10;
/// An upload of which nothing comes for this long is given up; its sender goes on later.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Chunks between reader and HTTP/2: enough that the disk works while the wire does.
const CHUNKS: usize = 2;

type Chunks = mpsc::Sender<Result<GetBlobResponse, Status>>;

/// The service.
#[derive(Debug, Clone)]
pub struct Blobber {
    blobs: Arc<dyn Blobs>,
    engine: Handle,
    tasks: TaskTracker,
    parked: Arc<Parked>,
}

impl Blobber {
    /// Serves `blobs`; readers run on `tasks`. `engine` says when the disk is nearly full.
    #[must_use]
    pub fn new(blobs: Arc<dyn Blobs>, engine: Handle, tasks: TaskTracker) -> Self {
        Self { blobs, engine, tasks, parked: Arc::default() }
    }

    async fn receive(
        &self,
        tenant: Tenant,
        mut chunks: impl Stream<Item = Result<PutBlobRequest, Status>> + Unpin + Send,
    ) -> Result<BlobRef, Status> {
        let none = || refuse(ErrorCode::DigestMismatch, "the upload says no digest");
        let first = next_chunk(&mut chunks).await?.ok_or_else(none)?;
        let key = self.checked(tenant, &first)?;
        if let Some(stored) = self.find(key).await? {
            return Ok(reference(&stored));
        }
        let mut under_way = self.begin(key, first.offset).await?;
        let mut next = Ok(Some(first.data));
        while let Ok(Some(data)) = next {
            under_way = under_way.append(data).await?;
            next = next_chunk(&mut chunks).await.map(|chunk| chunk.map(|chunk| chunk.data));
        }
        if let Err(cut) = next {
            let (parked, now) = (Arc::clone(&self.parked), Instant::now());
            blocking(move || drop(parked.park(key, under_way.upload, now))).await?;
            return Err(cut);
        }
        let stored = blocking(move || under_way.upload.finish(&key.1)).await?;
        Ok(reference(&stored.map_err(|error| upload_status(&error))?))
    }

    /// Names an upload by its first message, if it may begin.
    fn checked(&self, tenant: Tenant, first: &PutBlobRequest) -> Result<UploadKey, Status> {
        let key = upload_key(tenant, &first.digest, first.size)?;
        if (first.artifact || first.size > MAX_WHEN_LOW)
            && let Err(low) = self.engine.can_store()
        {
            return Err(refuse(ErrorCode::DiskLow, low));
        }
        Ok(key)
    }

    async fn find(&self, (tenant, digest, size): UploadKey) -> Result<Option<Stored>, Status> {
        let blobs = Arc::clone(&self.blobs);
        let found = blocking(move || blobs.find(tenant, &digest, size)).await?;
        found.map_err(|error| blob_status(&error))
    }

    async fn begin(&self, key: UploadKey, offset: u64) -> Result<UnderWay, Status> {
        let kept = self.parked.take(&key, Instant::now());
        if offset > 0 {
            let upload = kept.filter(|upload| upload.received() >= offset).ok_or_else(|| {
                refuse(ErrorCode::UploadGap, "nothing is kept of the upload; begin again at offset 0")
            })?;
            return Ok(UnderWay { upload, offset });
        }
        let (blobs, (tenant, _, size)) = (Arc::clone(&self.blobs), key);
        let begun = blocking(move || {
            drop(kept);
            blobs.begin(tenant, size)
        });
        Ok(UnderWay { upload: begun.await?.map_err(|error| blob_status(&error))?, offset: 0 })
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

/// An upload and where its next bytes begin.
#[derive(Debug)]
struct UnderWay {
    upload: Box<dyn Upload>,
    offset: u64,
}

impl UnderWay {
    async fn append(self, data: Vec<u8>) -> Result<Self, Status> {
        if data.is_empty() {
            return Ok(self);
        }
        let Self { mut upload, offset } = self;
        let taken = blocking(move || {
            upload.append(offset, &data)?;
            Ok(Self { upload, offset: offset + data.len() as u64 })
        });
        taken.await?.map_err(|error: UploadError| upload_status(&error))
    }
}

/// What names an upload.
fn upload_key(tenant: Tenant, digest: &[u8], size: u64) -> Result<UploadKey, Status> {
    let none = |_| refuse(ErrorCode::DigestMismatch, "the digest is not a SHA-256");
    let digest = Digest(<[u8; 32]>::try_from(digest).map_err(none)?);
    if size > MAX_BLOB_BYTES {
        let message = format!("{size} bytes; a file has at most {MAX_BLOB_BYTES}");
        return Err(refuse(ErrorCode::TooLarge, message));
    }
    Ok((tenant, digest, size))
}

async fn next_chunk(
    chunks: &mut (impl Stream<Item = Result<PutBlobRequest, Status>> + Unpin + Send),
) -> Result<Option<PutBlobRequest>, Status> {
    let next = tokio::time::timeout(IDLE_LIMIT, chunks.next()).await;
    let late = || refuse(ErrorCode::UploadGap, format!("nothing came for {} s", IDLE_LIMIT.as_secs()));
    next.map_err(|_| late())?.transpose().map_err(from_decoder)
}

#[tonic::async_trait]
impl BlobService for Blobber {
    async fn find_blob(
        &self,
        request: Request<FindBlobRequest>,
    ) -> Result<Response<FindBlobResponse>, Status> {
        let tenant = Tenant::new(Caller::of(&request)?.tenant.0);
        let key = upload_key(tenant, &request.get_ref().digest, request.get_ref().size)?;
        let blob = self.find(key).await?.as_ref().map(reference);
        let received = if blob.is_some() { 0 } else { self.parked.received(&key, Instant::now()) };
        Ok(Response::new(FindBlobResponse { blob, received }))
    }

    async fn put_blob(
        &self,
        request: Request<tonic::Streaming<PutBlobRequest>>,
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

#[cfg(test)]
#[path = "blob_service/tests.rs"]
mod tests;
