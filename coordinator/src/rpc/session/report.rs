//! A report from an agent, made ready for the engine: checked, and its bulk moved out of the way.
//! Bulk goes to the blobs, synced, before the engine hears of it: the record then holds only its digest. What a report
//! names must be there, and of its tenant: a result must never say where nothing is.
//!
//! A report that says `reused` brings no result of its own: the record is filled from the earlier one of the same work.

mod bulk;

use crate::blobs::Blobs;
use crate::payloads::ResultReader;
use crate::payloads::bulk::contract;
use crate::payloads::inputs::{DispatchError, may_reuse};
use crate::persist::MAX_RESULT_BYTES;
use crate::rpc::convert::{attempt_key, outcome_from_wire, span, usage_from_wire};
use crate::rpc::session::intake::{MAX_RETRY_AFTER, of_report};
use crate::rpc::session::report::bulk::{Room, TenantBlobs};
use crate::rpc::status::{internal, refuse};
use crate::store::Tenant;
use orch_core::event::Report;
use orch_core::ids::{AttemptKey, TenantId};
use orch_core::outcome::Outcome;
use orch_core::time::Span;
use orch_proto::codes::ErrorCode;
use orch_proto::store::v1::ResultRecord;
use orch_proto::v1;
use prost::Message as _;
use std::sync::Arc;
use tonic::Status;

/// Bytes of answer, structured answer and feedback together that rest in the record at most; what does not fit is a blob.
/// Less where names and figures take so much that the record would outgrow [`MAX_RESULT_BYTES`].
const INLINE_BYTES: usize = 1_536;
/// Longest detail kept.
const MAX_DETAIL: usize = 400;
/// Most names of denied tools kept.
const MAX_DENIED: usize = 8;
/// Longest name kept of a denied tool, session and the like.
const MAX_NAME: usize = 64;
/// Most rows of models kept; more are added up under `other`.
const MAX_MODELS: usize = 8;
/// Bytes of the state of a workspace.
const TREE_BYTES: usize = 32;
/// What is said of an attempt whose earlier result went away while it looked at its workspace.
const REUSE_GONE: &str =
    "the recorded result that it was to use again is no longer kept; the task runs instead";

/// Takes reports in.
#[derive(Debug, Clone)]
pub struct ReportIntake {
    blobs: Arc<dyn Blobs>,
    results: ResultReader,
}

impl ReportIntake {
    /// Keeps bulk in `blobs`, and finds earlier results with `results`.
    #[must_use]
    pub fn new(blobs: Arc<dyn Blobs>, results: ResultReader) -> Self {
        Self { blobs, results }
    }

    /// The report as the core takes it.
    ///
    /// # Errors
    /// What is wrong with it, or that its bulk could not be stored; the session then ends and the agent repeats it.
    pub(super) async fn take(&self, tenant: TenantId, report: v1::Report) -> Result<Report, Status> {
        let attempt = attempt_key(report.attempt.as_ref()).ok_or_else(|| bad("a report names no attempt"))?;
        let outcome = outcome_from_wire(report.outcome).ok_or_else(|| bad("a report has no outcome"))?;
        let digest =
            <[u8; 32]>::try_from(report.digest.as_slice()).map_err(|_| bad("a report has no digest"))?;
        if !matches!(report.tree.len(), 0 | TREE_BYTES) {
            return Err(bad("the state of a workspace has 32 bytes"));
        }
        let (pool, limit) = of_report(&report);
        let mut told = Report {
            attempt,
            outcome,
            detail: Arc::from(cut(&report.detail, MAX_DETAIL)),
            usage: usage_from_wire(&bounded(report.usage.clone().unwrap_or_default())),
            digest,
            duration: report.duration.as_ref().map_or(Span(0), span),
            retry_after: report.retry_after.as_ref().map(|wait| span(wait).min(MAX_RETRY_AFTER)),
            payload: Arc::default(),
            pool,
            limit,
        };
        let record = match self.with_result(tenant, attempt, outcome, report).await? {
            Some((report, record)) => self.record(tenant, outcome, report, record, attempt).await?,
            None => {
                // Not the task's fault and not its agent's: it goes back to the queue, and is not offered a result again.
                told.outcome = Outcome::LOST_AGENT;
                told.detail = Arc::from(REUSE_GONE);
                ResultRecord::default()
            }
        };
        told.payload = Arc::from(record.encode_to_vec());
        Ok(told)
    }

    /// The report with its result, and the beginning of its record. A reused result is put in its place; nothing when it is
    /// gone.
    async fn with_result(
        &self,
        tenant: TenantId,
        attempt: AttemptKey,
        outcome: Outcome,
        mut report: v1::Report,
    ) -> Result<Option<(v1::Report, ResultRecord)>, Status> {
        let mut record = ResultRecord {
            num_turns: report.num_turns,
            session_id: cut(&report.session_id, MAX_NAME),
            duration_ms: report.duration.as_ref().map_or(0, |duration| span(duration).0),
            transcript_bytes: report.transcript_bytes,
            denied_tools: report
                .denied_tools
                .iter()
                .take(MAX_DENIED)
                .map(|name| cut(name, MAX_NAME))
                .collect(),
            tree: std::mem::take(&mut report.tree),
            ..ResultRecord::default()
        };
        if !report.reused {
            return Ok(Some((report, record)));
        }
        if outcome != Outcome::OK || !may_reuse(attempt) {
            return Err(bad("a report says `reused`, and no result was offered for its attempt"));
        }
        let found = self.results.reused(tenant, attempt.task, record.tree.clone()).await;
        let Some(found) = found.map_err(|error| unread(&error))? else { return Ok(None) };
        record.reused_from = found.task_ref;
        report.answer = found.result.answer;
        report.structured = found.result.structured;
        report.artifacts = found.result.artifacts;
        report.feedback = None;
        Ok(Some((report, record)))
    }

    /// The record of a report, its bulk in blobs.
    async fn record(
        &self,
        tenant: TenantId,
        outcome: Outcome,
        report: v1::Report,
        mut record: ResultRecord,
        attempt: AttemptKey,
    ) -> Result<ResultRecord, Status> {
        let blobs = TenantBlobs { blobs: Arc::clone(&self.blobs), tenant: Tenant::new(tenant.0) };
        // What brings nothing is not worth an entry, and is not looked up.
        let has_result = report.answer.is_some() || report.structured.is_some() || report.artifacts.is_some();
        if outcome == Outcome::OK && has_result {
            let key = self.results.cache_key(tenant, attempt.task).await.map_err(|error| unread(&error))?;
            record.cache_key = key.map(Vec::from).unwrap_or_default();
        }
        let said = blobs.contract(report.structured.as_ref()).await?;
        record.result_status = said.status.unwrap_or_default().to_owned();
        record.summary = match said.summary {
            Some(summary) => contract::short(&summary),
            None => contract::short(&blobs.beginning(report.answer.as_ref()).await?),
        };
        record.artifacts = blobs.artifacts(report.artifacts).await?;
        record.gates = blobs.gate_log(report.gates).await?;
        let mut room = Room::beside(&record, MAX_RESULT_BYTES, INLINE_BYTES);
        record.structured = blobs.rest(report.structured, &mut room).await?;
        record.answer = blobs.rest(report.answer, &mut room).await?;
        record.feedback = blobs.rest(report.feedback, &mut room).await?;
        Ok(record)
    }
}

fn bad(what: &str) -> Status {
    refuse(ErrorCode::ProtocolViolation, what)
}

fn unread(error: &DispatchError) -> Status {
    internal("the results that a report rests on cannot be read", error)
}

fn cut(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// Keeps the number of rows bounded without losing a token.
fn bounded(mut usage: v1::Usage) -> v1::Usage {
    for row in &mut usage.models {
        row.model = cut(&row.model, MAX_NAME);
    }
    for row in usage.models.iter_mut().skip(MAX_MODELS) {
        "other".clone_into(&mut row.model);
    }
    usage
}

#[cfg(test)]
mod tests;
