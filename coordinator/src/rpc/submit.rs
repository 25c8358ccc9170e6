//! From a submitted spec to an acknowledged run: checked, its bulk made durable, handed to the engine.
//! Knows the order of the steps and what may block; the rules of a spec are [`crate::submission`]'s.

use crate::engine::{Handle, SubmitError};
use crate::payloads::{PrepareError, Preparer, Request as Prepare};
use crate::rpc::auth::Caller;
use crate::rpc::status::{from_spec_error, internal, refuse, refuse_field};
use crate::rpc::{answered, blocking, convert, gone, unexpected};
use crate::submission::{CheckedRun, SpecError};
use crate::workers::WorkersInForce;
use orch_core::query::Answer;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, SubmitRunRequest, SubmitRunResponse};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tonic::Status;

/// Longest idempotency key.
const MAX_REQUEST_ID: usize = 128;
/// A spec up to this length is digested and checked where it arrived: some 50 µs, less than a trip to another thread.
const SMALL_SPEC_BYTES: usize = 16 << 10;

/// Submits runs.
#[derive(Debug, Clone)]
pub struct Submitter {
    engine: Handle,
    preparer: Preparer,
    workers: Arc<WorkersInForce>,
}

/// A spec that may be queued.
struct Checked {
    run: CheckedRun,
    digest: [u8; 32],
}

impl Submitter {
    /// Submits to `engine`, for `workers`.
    #[must_use]
    pub fn new(engine: Handle, workers: Arc<WorkersInForce>) -> Self {
        let preparer = engine.preparer();
        Self { engine, preparer, workers }
    }

    /// Submits a run. When this returns it is durable.
    ///
    /// # Errors
    /// What the spec breaks, or why nothing is taken now.
    pub async fn submit(
        &self,
        caller: &Caller,
        request: SubmitRunRequest,
    ) -> Result<SubmitRunResponse, Status> {
        let SubmitRunRequest { spec, request_id, validate_only } = request;
        check_request_id(&request_id)?;
        let spec = spec.ok_or_else(|| refuse_field(ErrorCode::InvalidField, "spec", "is missing"))?;
        let Checked { run, digest } = self.check(spec).await?;
        if !validate_only {
            // Also asked by the engine; here before anything is written to that disk.
            self.engine.can_store().map_err(|why| refuse(ErrorCode::DiskLow, why))?;
        }
        let prepare = Prepare {
            tenant: caller.tenant,
            submitted_by: Arc::from(caller.label()),
            request_id: Arc::from(request_id),
            spec_digest: digest,
            validate_only,
        };
        let prepared = self.preparer.prepare(prepare, run).await;
        let (submit, payload) = prepared.map_err(|error| prepare_status(&error))?;
        let answer = self.engine.submit(submit, payload).await.map_err(|error| submit_status(&error))?;
        submitted(answered(Ok(answer))?)
    }

    async fn check(&self, spec: v1::RunSpec) -> Result<Checked, Status> {
        let workers = Arc::clone(&self.workers);
        let small = spec.encoded_len() <= SMALL_SPEC_BYTES;
        let checked =
            if small { check(spec, &workers) } else { blocking(move || check(spec, &workers)).await? };
        checked.map_err(|error| from_spec_error(&error))
    }
}

/// The digest is over the spec as this version writes it, so that it does not depend on how a client encodes.
fn check(spec: v1::RunSpec, workers: &WorkersInForce) -> Result<Checked, SpecError> {
    let digest = Sha256::digest(spec.encode_to_vec()).into();
    Ok(Checked { run: CheckedRun::check(spec, workers)?, digest })
}

fn submitted(answer: Answer) -> Result<SubmitRunResponse, Status> {
    let Answer::Submitted { run, existing, impossible } = answer else { return Err(unexpected()) };
    Ok(SubmitRunResponse {
        run: run.as_ref().map(convert::run),
        existing,
        impossible: convert::impossible(&impossible),
    })
}

/// Checks an idempotency key; an empty one means none.
///
/// # Errors
/// `INVALID_REQUEST_ID`.
pub fn check_request_id(id: &str) -> Result<(), Status> {
    if id.len() <= MAX_REQUEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let message = format!("1 to {MAX_REQUEST_ID} printable ASCII characters without blanks");
    Err(refuse_field(ErrorCode::InvalidRequestId, "request_id", message))
}

fn prepare_status(error: &PrepareError) -> Status {
    match error {
        PrepareError::LabelsTooLong { .. } => refuse_field(ErrorCode::TooLarge, "labels", error.to_string()),
        PrepareError::Blob(_) | PrepareError::BrokenOff(_) | PrepareError::Spec(_) => {
            internal("the run cannot be stored", error)
        }
    }
}

fn submit_status(error: &SubmitError) -> Status {
    match error {
        SubmitError::Gone(_) => gone(),
        SubmitError::DiskLow => refuse(ErrorCode::DiskLow, error.to_string()),
    }
}
