//! How a run gets to the coordinator: in one message while it is small, else as an upload that can be resumed.
//! Both ways carry a request id, so that trying again never queues twice.

use std::time::Duration;

use orch_proto::v1::{self, RunSpec, SubmitRunResponse};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tonic::Status;

use super::{Client, incomplete, policy};
use crate::failure::Outcome;
use crate::failure::status::is_temporary;
use crate::retry::{self, GaveUp};

/// Longest encoded specification sent in one message; the wire allows 1 MiB with everything around it.
pub(super) const ONE_MESSAGE: usize = 900 << 10;
/// Bytes of one part of an upload, from the wire's documentation.
const PART: usize = 512 << 10;

/// What to submit, and how.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    /// The run.
    pub(crate) spec: RunSpec,
    /// Idempotency key.
    pub(crate) request_id: String,
    /// Only check.
    pub(crate) validate_only: bool,
}

impl Client {
    /// Submits a run. When this returns, the run is durable.
    pub(crate) async fn submit(&self, submission: Submission) -> Outcome<SubmitRunResponse> {
        if submission.spec.encoded_len() > ONE_MESSAGE {
            return self.upload(&submission).await;
        }
        let Submission { spec, request_id, validate_only } = submission;
        let request = v1::SubmitRunRequest { spec: Some(spec), request_id, validate_only };
        self.call(async || self.runs().submit_run(request.clone()).await).await
    }

    /// A restart of the coordinator forgets uploads, so a lost connection starts over; parts it still holds are skipped.
    async fn upload(&self, submission: &Submission) -> Outcome<SubmitRunResponse> {
        let bytes = submission.spec.encode_to_vec();
        let begin = v1::BeginSubmissionRequest {
            request_id: submission.request_id.clone(),
            size: bytes.len() as u64,
            digest: Sha256::digest(&bytes).to_vec(),
            validate_only: submission.validate_only,
        };
        let mut policy = policy(retry::CALL);
        let (start, mut tries) = (Instant::now(), 1);
        let answer = loop {
            let status = match self.upload_once(&begin, &bytes).await {
                Ok(answer) => break answer,
                Err(status) => status,
            };
            let Some(wait) = again(&mut policy, &status) else {
                return Err(self.gave_up(&GaveUp { status, tries, elapsed: start.elapsed() }));
            };
            tokio::time::sleep(wait).await;
            tries += 1;
        };
        answer.submitted.ok_or_else(|| incomplete("SealSubmission"))
    }

    async fn upload_once(
        &self,
        begin: &v1::BeginSubmissionRequest,
        bytes: &[u8],
    ) -> Result<v1::SealSubmissionResponse, Status> {
        let mut runs = self.runs();
        let v1::BeginSubmissionResponse { upload_id, offset } =
            runs.begin_submission(begin.clone()).await?.into_inner();
        let mut sent = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        while sent < bytes.len() {
            let end = (sent + PART).min(bytes.len());
            let data = bytes[sent..end].to_vec();
            let part =
                v1::AppendSubmissionRequest { upload_id: upload_id.clone(), offset: sent as u64, data };
            runs.append_submission(part).await?;
            sent = end;
        }
        Ok(runs.seal_submission(v1::SealSubmissionRequest { upload_id }).await?.into_inner())
    }
}

/// An upload that the coordinator no longer knows was lost in a restart: as temporary as the restart itself.
fn again(policy: &mut retry::FullJitter<rand::rngs::StdRng>, status: &Status) -> Option<Duration> {
    use orch_proto::codes::{CODE_KEY, ErrorCode};
    use tonic_types::StatusExt;
    let details = status.get_error_details();
    let code = details.error_info().and_then(|info| info.metadata.get(CODE_KEY)).map(String::as_str);
    if code == Some(ErrorCode::UploadNotFound.code()) && !is_temporary(status) {
        return retry::delay(policy, &Status::unavailable("the upload was lost"));
    }
    retry::delay(policy, status)
}
