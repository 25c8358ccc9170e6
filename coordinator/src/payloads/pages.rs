//! Spec pages out of the store: found under the run's key or their own, unpacked where they rest in a file.
//! Knows where a page may be; refuses to know who asks.

use orch_core::ids::{RunId, TenantId};
use orch_proto::store::v1 as record;
use prost::Message as _;

use super::bulk::{self, BulkError};
use crate::blobs::Blobs;
use crate::persist::StoredPage;
use crate::persist::page::PageRowError;
use crate::store::{Key, ReadError, Store, Tenant};

/// Longest page in a file: 30 specs with the longest dependencies and texts that a page may hold.
const MAX_PAGE_BYTES: u64 = 8 << 20;

/// Why a page cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// It is not there.
    #[error("page {page} of the specs of run {run} does not exist")]
    Missing {
        /// The run.
        run: RunId,
        /// The page.
        page: u32,
    },
    /// The store refused.
    #[error("cannot read the specs of a run")]
    Store(#[from] ReadError),
    /// The file it rests in cannot be read.
    #[error("cannot read the specs of a run")]
    Bulk(#[from] BulkError),
    /// It is not a page.
    #[error("a page of specs cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    /// It contradicts itself.
    #[error("a page of specs is damaged")]
    Row(#[from] PageRowError),
}

/// A page whole, wherever it rests.
///
/// # Errors
/// [`PageError`].
pub(crate) fn open_page(
    blobs: &dyn Blobs,
    tenant: Tenant,
    page: record::SpecPage,
) -> Result<StoredPage, PageError> {
    let page = match &page.packed {
        Some(blob) => record::SpecPage::decode(bulk::read(blobs, tenant, blob, MAX_PAGE_BYTES)?.as_slice())?,
        None => page,
    };
    Ok(StoredPage::from_record(page)?)
}

/// Page `number` of a run. That of a run of one task lies in the run's record.
///
/// # Errors
/// [`PageError`].
pub(super) fn read_page(
    store: &dyn Store,
    blobs: &dyn Blobs,
    tenant: TenantId,
    run: RunId,
    number: u32,
) -> Result<StoredPage, PageError> {
    let tenant = Tenant::new(tenant.0);
    let page = match store.get(&Key::spec_page(tenant, run.0, number))? {
        Some(payload) => Some(record::SpecPage::decode(payload.as_slice())?),
        None if number == 0 => match store.get(&Key::run(tenant, run.0))? {
            Some(payload) => record::RunRecord::decode(payload.as_slice())?.page,
            None => None,
        },
        None => None,
    };
    open_page(blobs, tenant, page.ok_or(PageError::Missing { run, page: number })?)
}
