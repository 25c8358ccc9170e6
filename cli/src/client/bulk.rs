//! Answers that are too long for a message: fetched by digest, from where a cut connection left off, and checked.
//! Knows blobs; refuses to know what the text says.

use orch_proto::codes::ErrorCode;
use orch_proto::v1::blob_service_client::BlobServiceClient;
use orch_proto::v1::text::Body;
use orch_proto::v1::{BlobRef, GetBlobRequest, Text};
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{Client, policy};
use crate::failure::{Failure, Outcome};
use crate::retry::{self, GaveUp};

/// Longest text fetched: the wire's limit for an answer.
const MAX_TEXT: u64 = 16 << 20;

impl Client {
    /// The text, fetched if it is kept apart. Bytes that are not UTF-8 are replaced.
    pub(crate) async fn text(&self, text: Option<&Text>) -> Outcome<String> {
        match text.and_then(|text| text.body.as_ref()) {
            None => Ok(String::new()),
            Some(Body::Inline(text)) => Ok(text.clone()),
            Some(Body::Blob(blob)) => {
                let bytes = self.blob(blob).await?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    async fn blob(&self, blob: &BlobRef) -> Outcome<Vec<u8>> {
        if blob.size > MAX_TEXT {
            let message = format!("an answer of {} bytes is longer than any may be", blob.size);
            return Err(Failure::coded(ErrorCode::TooLarge, message));
        }
        let mut bytes = Vec::new();
        let mut policy = policy(retry::CALL);
        let (start, mut tries) = (tokio::time::Instant::now(), 1);
        while let Err(status) = self.read_blob(blob, &mut bytes).await {
            let Some(wait) = retry::delay(&mut policy, &status) else {
                return Err(self.gave_up(&GaveUp { status, tries, elapsed: start.elapsed() }));
            };
            tokio::time::sleep(wait).await;
            tries += 1;
        }
        if Sha256::digest(&bytes).as_slice() != blob.digest {
            let message = format!("the {} bytes that came are not those that were promised", bytes.len());
            return Err(Failure::coded(ErrorCode::DigestMismatch, message));
        }
        Ok(bytes)
    }

    /// Reads on from the end of `bytes`.
    async fn read_blob(&self, blob: &BlobRef, bytes: &mut Vec<u8>) -> Result<(), Status> {
        let request = GetBlobRequest { blob: Some(blob.clone()), offset: bytes.len() as u64 };
        let mut stream = BlobServiceClient::new(self.channel.clone()).get_blob(request).await?.into_inner();
        while let Some(part) = stream.message().await? {
            let room = usize::try_from(blob.size).unwrap_or(usize::MAX).saturating_sub(bytes.len());
            if part.offset != bytes.len() as u64 || part.data.len() > room {
                return Err(Status::data_loss("the coordinator sent other bytes than were asked for"));
            }
            bytes.extend_from_slice(&part.data);
        }
        if (bytes.len() as u64) < blob.size {
            Err(Status::unavailable("the answer ended early"))
        } else {
            Ok(())
        }
    }
}
