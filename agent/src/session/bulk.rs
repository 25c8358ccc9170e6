//! Bulk bytes to and from the coordinator, by digest, in chunks. Knows the blob service alone.

use orch_proto::v1::blob_service_client::BlobServiceClient;
use orch_proto::v1::{BlobRef, FindBlobRequest, GetBlobRequest, PutBlobRequest};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Largest blob an agent takes: a prompt, with room.
const MAX_BLOB_BYTES: u64 = 64 << 20;
/// Chunks between a file and HTTP/2: enough that the disk works while the wire does.
const CHUNKS: usize = 2;

/// Why bytes did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The coordinator or the connection failed.
    #[error("the coordinator did not hand over the bytes: {}", .0.message())]
    Call(#[source] Box<Status>),
    /// Larger than anything this agent expects.
    #[error("{0} bytes are more than an agent takes")]
    TooLarge(u64),
    /// Not the bytes that were asked for.
    #[error("the bytes do not have the digest that was promised")]
    WrongDigest,
    /// A gap in the stream.
    #[error("the bytes arrived out of order")]
    OutOfOrder,
    /// The agent's own disk.
    #[error("cannot use the file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file to be sent is gone or damaged.
    #[error("the file {} is not what it was", .0.display())]
    Lost(PathBuf),
}

impl BulkError {
    /// Whether the connection or the coordinator may be there again in a moment.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        let Self::Call(status) = self else { return false };
        // A broken connection comes as Unknown or Unavailable, a stream that was reset as Cancelled or Internal.
        matches!(
            status.code(),
            Code::Unavailable
                | Code::Unknown
                | Code::Cancelled
                | Code::Aborted
                | Code::Internal
                | Code::DeadlineExceeded
        )
    }
}

impl From<Status> for BulkError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// Fetches the bytes of `blob` and checks them.
///
/// # Errors
/// See [`BulkError`].
pub async fn get(blobs: &mut BlobServiceClient<Channel>, blob: &BlobRef) -> Result<Vec<u8>, BulkError> {
    if blob.size > MAX_BLOB_BYTES {
        return Err(BulkError::TooLarge(blob.size));
    }
    let request = GetBlobRequest { blob: Some(blob.clone()), offset: 0 };
    let mut chunks = blobs.get_blob(request).await?.into_inner();
    let mut bytes = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(0));
    while let Some(chunk) = chunks.message().await? {
        if chunk.offset != bytes.len() as u64 {
            return Err(BulkError::OutOfOrder);
        }
        if bytes.len() as u64 + chunk.data.len() as u64 > blob.size {
            return Err(BulkError::WrongDigest);
        }
        bytes.extend_from_slice(&chunk.data);
    }
    if Sha256::digest(&bytes).as_slice() != blob.digest {
        return Err(BulkError::WrongDigest);
    }
    Ok(bytes)
}

/// Stores `bytes` and says where they are.
///
/// # Errors
/// See [`BulkError`].
pub async fn put(blobs: &mut BlobServiceClient<Channel>, bytes: Vec<u8>) -> Result<BlobRef, BulkError> {
    let header = PutBlobRequest {
        digest: Sha256::digest(&bytes).to_vec(),
        size: bytes.len() as u64,
        ..PutBlobRequest::default()
    };
    let chunks: Vec<PutBlobRequest> = bytes
        .chunks(CHUNK_BYTES)
        .map(|chunk| PutBlobRequest { data: chunk.to_vec(), ..PutBlobRequest::default() })
        .collect();
    drop(bytes);
    let answer = blobs.put_blob(tokio_stream::iter(std::iter::once(header).chain(chunks))).await?;
    answer.into_inner().blob.ok_or(BulkError::WrongDigest)
}

/// Fetches the bytes of `blob`, however many, into a new file at `path` and checks them.
///
/// # Errors
/// See [`BulkError`]; no file is left then.
pub async fn get_file(
    blobs: &mut BlobServiceClient<Channel>,
    blob: &BlobRef,
    path: &Path,
) -> Result<(), BulkError> {
    let fetched = get_into(blobs, blob, path).await;
    if fetched.is_err() {
        // The reason it failed counts; what is left goes with its directory.
        let _ = tokio::fs::remove_file(path).await;
    }
    fetched
}

async fn get_into(
    blobs: &mut BlobServiceClient<Channel>,
    blob: &BlobRef,
    path: &Path,
) -> Result<(), BulkError> {
    let failed = |source| BulkError::File { path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let request = GetBlobRequest { blob: Some(blob.clone()), offset: 0 };
    let mut chunks = blobs.get_blob(request).await?.into_inner();
    let (mut hash, mut received) = (Sha256::new(), 0_u64);
    while let Some(chunk) = chunks.message().await? {
        if chunk.offset != received {
            return Err(BulkError::OutOfOrder);
        }
        received += chunk.data.len() as u64;
        if received > blob.size {
            return Err(BulkError::WrongDigest);
        }
        hash.update(&chunk.data);
        file.write_all(&chunk.data).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    if hash.finalize().as_slice() == blob.digest { Ok(()) } else { Err(BulkError::WrongDigest) }
}

/// Stores the file of a task at `path`, whose bytes `blob` speaks of, and says where they are. What the coordinator has
/// already is not sent.
///
/// # Errors
/// See [`BulkError`].
pub async fn put_file(
    blobs: &mut BlobServiceClient<Channel>,
    blob: &BlobRef,
    path: &Path,
) -> Result<BlobRef, BulkError> {
    let BlobRef { digest, size, .. } = blob.clone();
    let offset = match blobs.find_blob(FindBlobRequest { digest: digest.clone(), size }).await {
        Ok(found) => match found.into_inner() {
            found if found.blob.is_some() => return found.blob.ok_or(BulkError::WrongDigest),
            found => found.received.min(size),
        },
        // An older coordinator cannot say.
        Err(status) if status.code() == Code::Unimplemented => 0,
        Err(status) => return Err(status.into()),
    };
    let header = PutBlobRequest { digest, size, artifact: true, offset, data: Vec::new() };
    let (requests, stream) = mpsc::channel(CHUNKS);
    let (path, expected) = (path.to_owned(), blob.digest.clone());
    let mut reader = JoinSet::new();
    reader.spawn_blocking(move || send_file(&path, header, &expected, &requests));
    let answer = blobs.put_blob(ReceiverStream::new(stream)).await;
    if let Some(Ok(Err(lost))) = reader.join_next().await {
        return Err(lost);
    }
    answer?.into_inner().blob.ok_or(BulkError::WrongDigest)
}

/// Sends a file from the offset of `header` on; reads it whole, because it must still be what it was.
fn send_file(
    path: &Path,
    header: PutBlobRequest,
    expected: &[u8],
    requests: &mpsc::Sender<PutBlobRequest>,
) -> Result<(), BulkError> {
    let lost = |_| BulkError::Lost(path.to_owned());
    let (mut skip, size) = (header.offset, header.size);
    let mut file = File::open(path).map_err(lost)?.take(size.saturating_add(1));
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    let mut wanted = requests.blocking_send(header).is_ok();
    while wanted {
        let read = file.read(&mut chunk).map_err(lost)?;
        let Some(mut bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
            let is_whole = hash.finalize().as_slice() == expected;
            return if is_whole { Ok(()) } else { Err(BulkError::Lost(path.to_owned())) };
        };
        hash.update(bytes);
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
        skip -= skipped as u64;
        bytes = bytes.get(skipped..).unwrap_or_default();
        if !bytes.is_empty() {
            let request = PutBlobRequest { data: bytes.to_vec(), ..PutBlobRequest::default() };
            wanted = requests.blocking_send(request).is_ok();
        }
    }
    // The coordinator has answered, or the connection is gone.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_worth_another_try() {
        let call = |code| BulkError::from(Status::new(code, "x"));
        assert!(call(Code::Unavailable).is_passing() && call(Code::Unknown).is_passing());
        for error in [call(Code::NotFound), call(Code::PermissionDenied), BulkError::WrongDigest] {
            assert!(!error.is_passing(), "{error:?}");
        }
    }
}
