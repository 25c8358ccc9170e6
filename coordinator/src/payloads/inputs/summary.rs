//! What a task's result says in short: by the result contract, else how its answer begins.
//! Knows what a cut text says of itself; refuses to know who reads it.

use orch_proto::store::v1::ResultRecord;
use orch_proto::v1;

use super::DispatchError;
use super::records::Records;
use crate::blobs::{BlobError, BlobLocation};
use crate::payloads::bulk::{BulkError, contract};

/// Longest structured answer that is looked into for its summary.
const MAX_STRUCTURED_BYTES: u64 = 1 << 20;
/// What a summary that is not the whole of an answer ends with.
const CUT: &str = "… (cut here; the whole is in the files of this input)";

/// The summary of a result, at most `share` bytes.
pub(super) fn of(
    records: &Records<'_>,
    result: &ResultRecord,
    share: usize,
) -> Result<String, DispatchError> {
    match whole(records, result, share) {
        Ok(text) => Ok(cut(text, share)),
        // Bytes that are lost are the agent's to report, when it fetches the whole; the record still knows how they began.
        Err(BulkError::Blob(BlobError::NotFound { .. } | BlobError::Damaged { .. }) | BulkError::NotText) => {
            Ok(cut(result.summary.clone(), share))
        }
        Err(error) => Err(error.into()),
    }
}

/// The summary, or at least `share` bytes of it and one more when it is longer.
fn whole(records: &Records<'_>, result: &ResultRecord, share: usize) -> Result<String, BulkError> {
    if !result.result_status.is_empty() && !contract::is_cut(&result.summary) {
        return Ok(result.summary.clone());
    }
    if let Some(structured) = &result.structured {
        let json = begin(records, structured, MAX_STRUCTURED_BYTES)?;
        if let Some(summary) = contract::read(&json).summary {
            return Ok(summary);
        }
    }
    match &result.answer {
        Some(answer) => begin(records, answer, share as u64 + 4),
        None => Ok(result.summary.clone()),
    }
}

/// The beginning of a text, up to `limit` bytes and to the last whole character.
fn begin(records: &Records<'_>, text: &v1::Text, limit: u64) -> Result<String, BulkError> {
    let blob = match &text.body {
        None => return Ok(String::new()),
        Some(v1::text::Body::Inline(text)) => return Ok(text.clone()),
        Some(v1::text::Body::Blob(blob)) => blob,
    };
    let location: BlobLocation = blob.location.parse()?;
    let opened = records.blobs.open(records.store_tenant(), &location)?;
    let bytes = opened.read_at(0, usize::try_from(limit).unwrap_or(usize::MAX))?;
    let whole = match std::str::from_utf8(&bytes) {
        Ok(text) => text.len(),
        // A character that the limit cut in two.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => return Err(BulkError::NotText),
    };
    String::from_utf8(bytes.into_iter().take(whole).collect()).map_err(|_| BulkError::NotText)
}

/// `text` in at most `share` bytes; where it is cut it says so.
fn cut(mut text: String, share: usize) -> String {
    if text.len() > share {
        text.truncate(text.floor_char_boundary(share.saturating_sub(CUT.len())));
        text.push_str(CUT);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_summary_says_so_and_ends_at_a_character() {
        assert_eq!(cut("short".into(), 5), "short");
        let long = cut("é".repeat(300), 200);
        assert!(long.len() <= 200 && long.ends_with(CUT), "{long}");
        assert!(long.starts_with("éé"));
    }
}
