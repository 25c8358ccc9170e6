//! The bulk of a report: texts, gates and files, checked and put where it rests.
//! Knows what fits a record and what must be stored already; refuses to know what becomes of the report.

use crate::blobs::{BlobError, BlobLocation, Blobs};
use crate::payloads::bulk::contract::{self, Contract, MAX_SUMMARY_BYTES};
use crate::payloads::bulk::manifest::{self, ManifestError};
use crate::payloads::bulk::{BulkError, by_reference, read, reference};
use crate::rpc::blocking;
use crate::rpc::status::{internal, refuse};
use crate::store::Tenant;
use orch_proto::codes::ErrorCode;
use orch_proto::store::v1::{GateLog, ResultRecord};
use orch_proto::v1;
use prost::Message as _;
use std::sync::Arc;
use tonic::Status;

/// Most gates kept: a task has at most 64 files to show, 16 programs, its activity and a review.
const MAX_GATES: usize = 96;
/// Longest log of a gate; its end says more than its beginning.
const MAX_GATE_LOG: usize = 4 << 10;
/// Longest name of a gate.
const MAX_GATE_NAME: usize = 256;
/// Longest structured answer that is looked into.
const MAX_STRUCTURED_BYTES: u64 = 1 << 20;
/// What a text by reference takes in a record: digest, length, location and their framing.
const REFERENCE_BYTES: usize = 128;
/// Texts of a record that may be references.
const TEXTS: usize = 3;

/// What is left of a record for texts.
#[derive(Debug)]
pub(super) struct Room(usize);

impl Room {
    /// The room beside everything else of `record`: at most `inline`, and so that it stays within `most` bytes should all of
    /// its texts be references.
    pub(super) fn beside(record: &ResultRecord, most: usize, inline: usize) -> Self {
        Self(most.saturating_sub(record.encoded_len() + TEXTS * REFERENCE_BYTES).min(inline))
    }
}

/// The blobs of a tenant.
#[derive(Debug)]
pub(super) struct TenantBlobs {
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) tenant: Tenant,
}

impl TenantBlobs {
    /// Does something that blocks.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Blobs, Tenant) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (blobs, tenant) = (Arc::clone(&self.blobs), self.tenant);
        blocking(move || work(&*blobs, tenant)).await
    }

    /// A text as it rests.
    pub(super) async fn rest(
        &self,
        text: Option<v1::Text>,
        room: &mut Room,
    ) -> Result<Option<v1::Text>, Status> {
        let blob = match text.and_then(|text| text.body) {
            None => return Ok(None),
            Some(v1::text::Body::Inline(text)) if text.len() <= room.0 => {
                room.0 -= text.len();
                return Ok(Some(v1::Text { body: Some(v1::text::Body::Inline(text)) }));
            }
            Some(v1::text::Body::Inline(text)) => {
                let stored = self.with(move |blobs, tenant| blobs.put(tenant, text.as_bytes())).await?;
                reference(&stored.map_err(|error| internal("a long answer cannot be stored", &error))?)
            }
            Some(v1::text::Body::Blob(blob)) => {
                self.with(move |blobs, tenant| confirm(blobs, tenant, &blob)).await??
            }
        };
        Ok(by_reference(blob))
    }

    /// What a structured answer says of itself.
    pub(super) async fn contract(&self, structured: Option<&v1::Text>) -> Result<Contract, Status> {
        match structured.and_then(|text| text.body.as_ref()) {
            None => Ok(Contract::default()),
            Some(v1::text::Body::Inline(text)) => Ok(contract::read(text)),
            Some(v1::text::Body::Blob(blob)) if blob.size > MAX_STRUCTURED_BYTES => Ok(Contract::default()),
            Some(v1::text::Body::Blob(blob)) => {
                let blob = blob.clone();
                self.with(move |blobs, tenant| {
                    let confirmed = confirm(blobs, tenant, &blob)?;
                    let bytes = match read(blobs, tenant, &confirmed, MAX_STRUCTURED_BYTES) {
                        // It says less than it is.
                        Err(BulkError::Blob(BlobError::TooLarge { .. })) => return Ok(Contract::default()),
                        read => {
                            read.map_err(|error| internal("a structured answer cannot be read", &error))?
                        }
                    };
                    Ok(std::str::from_utf8(&bytes).map(contract::read).unwrap_or_default())
                })
                .await?
            }
        }
    }

    /// How a text begins: enough for a summary.
    pub(super) async fn beginning(&self, text: Option<&v1::Text>) -> Result<String, Status> {
        const ENOUGH: usize = 4 * MAX_SUMMARY_BYTES;
        match text.and_then(|text| text.body.as_ref()) {
            None => Ok(String::new()),
            Some(v1::text::Body::Inline(text)) => Ok(text[..text.floor_char_boundary(ENOUGH)].to_owned()),
            Some(v1::text::Body::Blob(blob)) => {
                let blob = blob.clone();
                self.with(move |blobs, tenant| {
                    let location = confirm(blobs, tenant, &blob)?.location.parse().map_err(|_| missing())?;
                    let opened = blobs.open(tenant, &location);
                    let bytes = opened.and_then(|opened| opened.read_at(0, ENOUGH));
                    let bytes = bytes.map_err(|error| internal("an answer cannot be read", &error))?;
                    Ok(String::from_utf8_lossy(&bytes).into_owned())
                })
                .await?
            }
        }
    }

    /// What a report says of its files, as it is: the manifest is read, and every file of it must be stored.
    pub(super) async fn artifacts(
        &self,
        artifacts: Option<v1::Artifacts>,
    ) -> Result<Option<v1::Artifacts>, Status> {
        let Some(blob) = artifacts.and_then(|artifacts| artifacts.manifest) else { return Ok(None) };
        self.with(move |blobs, tenant| {
            let blob = confirm(blobs, tenant, &blob)?;
            let manifest = manifest::open_checked(blobs, tenant, &blob).map_err(|error| refused(&error))?;
            let bytes = manifest.artifacts.iter().filter_map(|file| file.blob.as_ref()).map(|blob| blob.size);
            let count = u32::try_from(manifest.artifacts.len()).unwrap_or(u32::MAX);
            Ok(Some(v1::Artifacts { bytes: bytes.sum(), count, manifest: Some(blob) }))
        })
        .await?
    }

    /// What was found when gates were checked, in a blob of its own; nothing when none was.
    pub(super) async fn gate_log(
        &self,
        mut gates: Vec<v1::GateResult>,
    ) -> Result<Option<v1::BlobRef>, Status> {
        if gates.is_empty() {
            return Ok(None);
        }
        gates.truncate(MAX_GATES);
        for gate in &mut gates {
            gate.kind = super::cut(&gate.kind, super::MAX_NAME);
            gate.name = super::cut(&gate.name, MAX_GATE_NAME);
            let from = gate.log.ceil_char_boundary(gate.log.len().saturating_sub(MAX_GATE_LOG));
            gate.log = super::cut(&gate.log[from..], MAX_GATE_LOG);
        }
        let log = GateLog { gates }.encode_to_vec();
        let stored = self.with(move |blobs, tenant| blobs.put(tenant, &log)).await?;
        Ok(Some(reference(&stored.map_err(|error| internal("the gates' log cannot be stored", &error))?)))
    }
}

fn missing() -> Status {
    refuse(ErrorCode::BlobNotFound, "a report names bytes that are not stored here")
}

fn refused(error: &ManifestError) -> Status {
    match error {
        ManifestError::NotStored(_) => refuse(ErrorCode::BlobNotFound, error.to_string()),
        ManifestError::TooMany(_) | ManifestError::Bulk(BulkError::Blob(BlobError::TooLarge { .. })) => {
            refuse(ErrorCode::TooLarge, format!("the files of a report: {error}"))
        }
        ManifestError::Path { .. }
        | ManifestError::Twice(_)
        | ManifestError::Bulk(BulkError::Message(_) | BulkError::Location(_) | BulkError::NotText) => {
            refuse(ErrorCode::ProtocolViolation, format!("the files of a report: {error}"))
        }
        ManifestError::Bulk(error @ BulkError::Blob(_)) => {
            internal("the manifest of a report cannot be read", error)
        }
    }
}

/// The blob that an agent names, as it is stored under its tenant; kept from sweeps until a record names it.
fn confirm(blobs: &dyn Blobs, tenant: Tenant, blob: &v1::BlobRef) -> Result<v1::BlobRef, Status> {
    let location: BlobLocation = blob.location.parse().map_err(|_| missing())?;
    let kept = blobs.keep(tenant, &location);
    let size = kept.map_err(|error| internal("bytes that a report names cannot be looked up", &error))?;
    Ok(v1::BlobRef {
        digest: location.digest().0.to_vec(),
        size: size.ok_or_else(missing)?,
        location: location.to_string(),
    })
}
