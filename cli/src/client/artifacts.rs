//! Files that tasks handed over: listed, and fetched by digest from where a cut connection left off. Knows the wire;
//! refuses to know where bytes are put.

use std::io::Write;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::blob_service_client::BlobServiceClient;
use orch_proto::v1::{self, BlobRef, GetBlobRequest};
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{Client, PAGE, policy};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::retry::{self, GaveUp};

impl Client {
    /// The files of a run or task, by task and path.
    pub(crate) async fn artifacts(&self, reference: &str) -> Outcome<Vec<v1::TaskArtifact>> {
        let mut request = v1::ListArtifactsRequest {
            r#ref: reference.to_owned(),
            page_size: PAGE,
            ..v1::ListArtifactsRequest::default()
        };
        let mut artifacts = Vec::new();
        loop {
            let page = self.call(async || self.runs().list_artifacts(request.clone()).await).await?;
            artifacts.extend(page.artifacts);
            if page.next_page_token.is_empty() {
                return Ok(artifacts);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Writes the bytes of a blob to `sink` as they come, and checks their digest at the end: until then they are
    /// anybody's. A cut connection goes on where it was.
    pub(crate) async fn download(&self, blob: &BlobRef, sink: &mut (dyn Write + Send)) -> Outcome<()> {
        let mut got = Got { bytes: 0, digest: Sha256::new(), sink };
        let mut policy = policy(retry::CALL);
        let (start, mut tries, mut last) = (tokio::time::Instant::now(), 1, 0);
        while let Err(stopped) = self.read_on(blob, &mut got).await {
            let status = match stopped {
                Stopped::Sink(error) => {
                    return Err(Failure::new(exit::FAILED, "cannot write what was fetched").cause(error));
                }
                Stopped::Status(status) => status,
            };
            if got.bytes > last {
                // Whatever came on is worth going on for.
                (last, policy) = (got.bytes, self::policy(retry::CALL));
            }
            let Some(wait) = retry::delay(&mut policy, &status) else {
                return Err(self.gave_up(&GaveUp { status, tries, elapsed: start.elapsed() }));
            };
            tokio::time::sleep(wait).await;
            tries += 1;
        }
        if got.digest.finalize().as_slice() != blob.digest {
            let message = format!("the {} bytes that came are not those that were promised", got.bytes);
            return Err(Failure::coded(ErrorCode::DigestMismatch, message));
        }
        Ok(())
    }

    async fn read_on(&self, blob: &BlobRef, got: &mut Got<'_>) -> Result<(), Stopped> {
        let request = GetBlobRequest { blob: Some(blob.clone()), offset: got.bytes };
        let mut stream = BlobServiceClient::new(self.channel.clone()).get_blob(request).await?.into_inner();
        while let Some(part) = stream.message().await? {
            if part.offset != got.bytes || part.data.len() as u64 > blob.size.saturating_sub(got.bytes) {
                return Err(Status::data_loss("the coordinator sent other bytes than were asked for").into());
            }
            got.sink.write_all(&part.data).map_err(Stopped::Sink)?;
            got.digest.update(&part.data);
            got.bytes += part.data.len() as u64;
        }
        if got.bytes < blob.size { Err(Status::unavailable("the file ended early").into()) } else { Ok(()) }
    }
}

/// What has come of a blob.
struct Got<'a> {
    bytes: u64,
    digest: Sha256,
    sink: &'a mut (dyn Write + Send),
}

/// Why reading stopped.
enum Stopped {
    Status(Status),
    Sink(std::io::Error),
}

impl From<Status> for Stopped {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}
