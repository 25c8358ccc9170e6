//! Bulk bytes to and from the coordinator, by digest, in chunks. Knows the blob service alone.

use orch_proto::v1::blob_service_client::BlobServiceClient;
use orch_proto::v1::{BlobRef, GetBlobRequest, PutBlobRequest};
use sha2::{Digest as _, Sha256};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Largest blob an agent takes: a prompt, with room.
const MAX_BLOB_BYTES: u64 = 64 << 20;

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
        data: Vec::new(),
    };
    let chunks: Vec<PutBlobRequest> = bytes
        .chunks(CHUNK_BYTES)
        .map(|chunk| PutBlobRequest { data: chunk.to_vec(), ..PutBlobRequest::default() })
        .collect();
    drop(bytes);
    let answer = blobs.put_blob(tokio_stream::iter(std::iter::once(header).chain(chunks))).await?;
    answer.into_inner().blob.ok_or(BulkError::WrongDigest)
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
