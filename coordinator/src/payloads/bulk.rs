//! References to blobs, as records and messages carry them, and the reading of small ones.
//! Knows the two spellings of a reference; refuses to know what the bytes are.

pub mod contract;
pub mod manifest;

use orch_proto::v1;

use crate::blobs::{BlobError, BlobLocation, Blobs, LocationError, Stored};
use crate::store::Tenant;

/// Text up to this length travels inside messages; longer text by reference.
pub const INLINE_MESSAGE_BYTES: u64 = 64 << 10;

/// Why a blob that a record names cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The reference is none.
    #[error("a record names a blob in a way that cannot be read")]
    Location(#[from] LocationError),
    /// The blob store refused.
    #[error("cannot read what a record names")]
    Blob(#[from] BlobError),
    /// A message that was stored is not one.
    #[error("a message that a record names cannot be decoded")]
    Message(#[from] prost::DecodeError),
    /// The text is not UTF-8.
    #[error("a text that a record names is not UTF-8")]
    NotText,
}

/// The reference to what was stored.
#[must_use]
pub fn reference(stored: &Stored) -> v1::BlobRef {
    v1::BlobRef { digest: stored.digest.0.to_vec(), size: stored.len, location: stored.location.to_string() }
}

/// Reads what a reference names.
///
/// # Errors
/// [`BulkError`]; [`BlobError::TooLarge`] above `limit` bytes.
pub fn read(blobs: &dyn Blobs, tenant: Tenant, blob: &v1::BlobRef, limit: u64) -> Result<Vec<u8>, BulkError> {
    let location: BlobLocation = blob.location.parse()?;
    Ok(blobs.read(tenant, &location, limit)?)
}

/// Replaces a reference by the text itself where that may travel inside a message.
///
/// # Errors
/// [`BulkError`].
pub fn make_inline(blobs: &dyn Blobs, tenant: Tenant, text: &mut Option<v1::Text>) -> Result<(), BulkError> {
    let Some(v1::Text { body: Some(v1::text::Body::Blob(blob)) }) = text else { return Ok(()) };
    if blob.size > INLINE_MESSAGE_BYTES {
        return Ok(());
    }
    let bytes = read(blobs, tenant, blob, INLINE_MESSAGE_BYTES)?;
    *text = Some(inline(String::from_utf8(bytes).map_err(|_| BulkError::NotText)?));
    Ok(())
}

/// A text that is carried inside; `None` says the same of an empty one, for less.
#[must_use]
pub fn text(text: String) -> Option<v1::Text> {
    (!text.is_empty()).then(|| inline(text))
}

fn inline(text: String) -> v1::Text {
    v1::Text { body: Some(v1::text::Body::Inline(text)) }
}

/// A text that is carried by reference.
#[must_use]
pub fn by_reference(blob: v1::BlobRef) -> Option<v1::Text> {
    Some(v1::Text { body: Some(v1::text::Body::Blob(blob)) })
}
