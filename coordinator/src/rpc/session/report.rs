//! A report from an agent, made ready for the engine: checked, and its bulk moved out of the way.
//! Bulk goes to the blobs, synced, before the engine hears of it: the record then holds only its digest. What a report
//! names must be there, and of its tenant: a result must never say where nothing is.

use crate::blobs::{BlobError, BlobLocation, Blobs};
use crate::payloads::bulk::reference;
use crate::rpc::blocking;
use crate::rpc::convert::{attempt_key, outcome_from_wire, span, usage_from_wire};
use crate::rpc::status::{internal, refuse};
use crate::store::Tenant;
use orch_core::event::Report;
use orch_core::ids::TenantId;
use orch_core::time::Span;
use orch_proto::codes::ErrorCode;
use orch_proto::store::v1::ResultRecord;
use orch_proto::v1;
use prost::Message as _;
use std::sync::Arc;
use tonic::Status;

/// Bytes of answer and structured answer together that rest in the record; what does not fit is a blob. With names
/// and figures they stay within [`crate::persist::MAX_RESULT_BYTES`].
const INLINE_BYTES: usize = 1_536;
/// Longest detail kept.
const MAX_DETAIL: usize = 400;
/// Most names of denied tools kept.
const MAX_DENIED: usize = 8;
/// Longest name kept of a denied tool, session and the like.
const MAX_NAME: usize = 64;
/// Most rows of models kept; more are added up under `other`.
const MAX_MODELS: usize = 8;

/// Takes reports in.
#[derive(Debug, Clone)]
pub struct ReportIntake {
    blobs: Arc<dyn Blobs>,
}

impl ReportIntake {
    /// Keeps bulk in `blobs`.
    #[must_use]
    pub fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self { blobs }
    }

    /// The report as the core takes it.
    ///
    /// # Errors
    /// What is wrong with it, or that its bulk could not be stored; the session then ends and the agent repeats it.
    pub(super) async fn take(&self, tenant: TenantId, report: v1::Report) -> Result<Report, Status> {
        let bad = |what: &str| refuse(ErrorCode::ProtocolViolation, what);
        let attempt = attempt_key(report.attempt.as_ref()).ok_or_else(|| bad("a report names no attempt"))?;
        let outcome = outcome_from_wire(report.outcome).ok_or_else(|| bad("a report has no outcome"))?;
        let digest =
            <[u8; 32]>::try_from(report.digest.as_slice()).map_err(|_| bad("a report has no digest"))?;
        let duration = report.duration.as_ref().map_or(Span(0), span);
        let tenant = Tenant::new(tenant.0);
        let mut room = INLINE_BYTES;
        let structured = self.rest(tenant, report.structured, &mut room).await?;
        let answer = self.rest(tenant, report.answer, &mut room).await?;
        let record = ResultRecord {
            answer,
            structured,
            num_turns: report.num_turns,
            session_id: cut(&report.session_id, MAX_NAME),
            duration_ms: duration.0,
            transcript_bytes: report.transcript_bytes,
            denied_tools: report
                .denied_tools
                .iter()
                .take(MAX_DENIED)
                .map(|name| cut(name, MAX_NAME))
                .collect(),
            ..ResultRecord::default()
        };
        Ok(Report {
            attempt,
            outcome,
            detail: Arc::from(cut(&report.detail, MAX_DETAIL)),
            usage: usage_from_wire(&bounded(report.usage.unwrap_or_default())),
            digest,
            duration,
            retry_after: report.retry_after.as_ref().map(span),
            payload: Arc::from(record.encode_to_vec()),
        })
    }

    /// A text as it rests. `room` is what may still rest inside the record.
    async fn rest(
        &self,
        tenant: Tenant,
        text: Option<v1::Text>,
        room: &mut usize,
    ) -> Result<Option<v1::Text>, Status> {
        let blobs = Arc::clone(&self.blobs);
        let blob = match text.and_then(|text| text.body) {
            None => return Ok(None),
            Some(v1::text::Body::Inline(text)) if text.len() <= *room => {
                *room -= text.len();
                return Ok(Some(v1::Text { body: Some(v1::text::Body::Inline(text)) }));
            }
            Some(v1::text::Body::Inline(text)) => {
                let stored = blocking(move || blobs.put(tenant, text.as_bytes())).await?;
                reference(&stored.map_err(|error| internal("a long answer cannot be stored", &error))?)
            }
            Some(v1::text::Body::Blob(blob)) => blocking(move || confirm(&*blobs, tenant, &blob)).await??,
        };
        Ok(Some(v1::Text { body: Some(v1::text::Body::Blob(blob)) }))
    }
}

/// The blob that an agent names, as it is stored under its tenant.
fn confirm(blobs: &dyn Blobs, tenant: Tenant, blob: &v1::BlobRef) -> Result<v1::BlobRef, Status> {
    let missing = || refuse(ErrorCode::BlobNotFound, "a report names a text that is not stored here");
    let location: BlobLocation = blob.location.parse().map_err(|_| missing())?;
    let stored = blobs.open(tenant, &location).map_err(|error| match error {
        BlobError::NotFound { .. } | BlobError::Damaged { .. } => missing(),
        BlobError::TooLarge { .. } | BlobError::Io { .. } => {
            internal("a text that a report names cannot be looked up", &error)
        }
    })?;
    Ok(v1::BlobRef {
        digest: location.digest().0.to_vec(),
        size: stored.len(),
        location: location.to_string(),
    })
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
mod tests {
    use super::*;
    use crate::blobs::FileBlobs;
    use orch_core::ids::{RunId, TaskIndex, TaskKey};

    fn inline(text: &str) -> Option<v1::Text> {
        Some(v1::Text { body: Some(v1::text::Body::Inline(text.to_owned())) })
    }

    fn by_reference(blob: v1::BlobRef) -> Option<v1::Text> {
        Some(v1::Text { body: Some(v1::text::Body::Blob(blob)) })
    }

    fn report(answer: Option<v1::Text>, structured: Option<v1::Text>) -> v1::Report {
        v1::Report {
            attempt: Some(v1::AttemptId { run_id: 1, task_index: 0, attempt: 1 }),
            outcome: v1::Outcome::Ok.into(),
            digest: vec![7; 32],
            answer,
            structured,
            ..Default::default()
        }
    }

    struct Bench {
        intake: ReportIntake,
        blobs: Arc<FileBlobs>,
        _dir: tempfile::TempDir,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(FileBlobs::open(dir.path()).unwrap());
        Bench { intake: ReportIntake::new(blobs.clone()), blobs, _dir: dir }
    }

    async fn recorded(bench: &Bench, report: v1::Report) -> Result<ResultRecord, Status> {
        let taken = bench.intake.take(TenantId(1), report).await?;
        let task = TaskKey { run: RunId(1), index: TaskIndex(0) };
        assert_eq!((taken.attempt.task, taken.attempt.attempt.0), (task, 1));
        Ok(ResultRecord::decode(&*taken.payload).unwrap())
    }

    #[tokio::test]
    async fn short_answers_rest_in_the_record_and_long_ones_in_files_whatever_else_there_is() {
        let bench = bench();
        let record = recorded(&bench, report(inline("yes"), inline("{}"))).await.unwrap();
        assert_eq!((record.answer, record.structured), (inline("yes"), inline("{}")));
        let worst = v1::Report {
            session_id: "s".repeat(500),
            denied_tools: vec!["d".repeat(500); 500],
            num_turns: u32::MAX,
            transcript_bytes: u64::MAX,
            duration: Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }),
            ..report(inline(&"a".repeat(INLINE_BYTES)), inline(&"b".repeat(INLINE_BYTES)))
        };
        let taken = bench.intake.take(TenantId(1), worst).await.unwrap();
        assert!(taken.payload.len() <= crate::persist::MAX_RESULT_BYTES, "{}", taken.payload.len());
        let record = ResultRecord::decode(&*taken.payload).unwrap();
        let Some(v1::text::Body::Blob(blob)) = record.answer.unwrap().body else { panic!("not a blob") };
        let location = blob.location.parse().unwrap();
        assert_eq!(bench.blobs.read(Tenant::new(1), &location, 1 << 20).unwrap(), vec![b'a'; INLINE_BYTES]);
    }

    #[tokio::test]
    async fn denied_tools_are_kept_in_the_record_and_shown_with_the_task() {
        let denied_tools = vec!["Bash(rm -rf /)".to_owned(), "Edit\u{1b}".to_owned()];
        let record =
            recorded(&bench(), v1::Report { denied_tools, ..report(inline("yes"), None) }).await.unwrap();
        let stored = orch_proto::store::v1::TaskRecord { result: Some(record), ..Default::default() };
        let mut task = v1::Task::default();
        crate::persist::show::add_result(&mut task, &stored);
        assert_eq!(task.denied_tools, ["Bash(rm -rf /)", "Edit "]);
    }

    #[tokio::test]
    async fn a_report_that_names_bytes_which_its_tenant_does_not_have_is_refused() {
        let bench = bench();
        let ours = reference(&bench.blobs.put(Tenant::new(1), b"a long answer").unwrap());
        let theirs = reference(&bench.blobs.put(Tenant::new(2), b"somebody else's").unwrap());
        let lie = v1::BlobRef { size: 7, digest: vec![1], ..ours.clone() };
        let record = recorded(&bench, report(by_reference(lie), None)).await.unwrap();
        assert_eq!(record.answer, by_reference(ours.clone()), "length and digest are what is stored");
        let nowhere = v1::BlobRef { location: format!("b:{}", "0".repeat(64)), ..ours.clone() };
        let nonsense = v1::BlobRef { location: "../../etc/passwd".into(), ..ours };
        for blob in [theirs, nowhere, nonsense] {
            let status = recorded(&bench, report(None, by_reference(blob))).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
        }
    }

    #[tokio::test]
    async fn a_report_without_attempt_outcome_or_digest_is_refused() {
        let bench = bench();
        let good = report(None, None);
        let bad = [
            v1::Report { attempt: None, ..good.clone() },
            v1::Report { outcome: 0, ..good.clone() },
            v1::Report { outcome: 999, ..good.clone() },
            v1::Report { digest: vec![1; 31], ..good },
        ];
        for report in bad {
            let status = recorded(&bench, report).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
        }
    }

    #[test]
    fn text_is_cut_at_a_character_and_made_harmless() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("a\u{1b}b\nc", 9), "a b\nc");
    }

    #[test]
    fn rows_beyond_the_limit_are_added_up_and_none_is_lost() {
        let row =
            |at: usize| v1::ModelUsage { model: format!("m{at}"), input_tokens: 1, ..Default::default() };
        let usage = v1::Usage { models: (0..20).map(row).collect(), ..Default::default() };
        let sum = usage_from_wire(&bounded(usage));
        assert_eq!(sum.models.len(), MAX_MODELS + 1);
        assert_eq!(sum.models.iter().map(|row| row.input).sum::<u64>(), 20);
    }
}
