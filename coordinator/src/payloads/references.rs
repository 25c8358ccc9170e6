//! Which blobs and packs records name, and the removal of those that none does.
//! Knows every field of a record that may name one, and that a manifest names more; refuses to know ages, which are the
//! blob store's.
//!
//! What is unreferenced is removed only when it is also older than [`SWEEP_MIN_AGE`]: records are scanned over a while,
//! and a blob is stored before the record that names it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use orch_proto::store::v1::{self as record, stored_spec::Runner};
use orch_proto::v1;
use prost::Message as _;

use super::bulk::{BulkError, manifest};
use super::pages::{PageError, open_page};
use crate::blobs::{BlobError, BlobLocation, Blobs, Digest, Kept, Listed, PackId, SWEEP_MIN_AGE, Swept};
use crate::engine::pool::{BlockingPool, BrokenOff};
use crate::store::{Key, Kind, MAX_SCAN, Prefix, ReadError, Store, Tenant};

/// Why unreferenced blobs could not be removed. Nothing referenced was.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store refused.
    #[error("cannot read what records name")]
    Store(#[from] ReadError),
    /// A record is not what its key says.
    #[error("a record cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    /// A page of specs cannot be read.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A record names a blob in a way that is none.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// The blob store refused.
    #[error("cannot remove unreferenced blobs")]
    Blob(#[from] BlobError),
    /// The work was broken off.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
}

/// Removes blobs that no record names and that are old at `now`.
///
/// # Errors
/// [`SweepError`]; without every reference known, nothing is removed.
pub async fn sweep(
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    pool: &BlockingPool,
    now: SystemTime,
) -> Result<Swept, SweepError> {
    pool.run(move || {
        let known = References::collect(&*store, &*blobs)?;
        let mut is_referenced = |tenant: Tenant, kept: &Kept| known.contains(tenant, kept);
        Ok(blobs.sweep(SWEEP_MIN_AGE, now, &mut is_referenced)?)
    })
    .await?
}

/// What records name and is not among `there`, by name.
///
/// # Errors
/// [`SweepError`] when not every reference can be known.
pub fn missing(store: &dyn Store, blobs: &dyn Blobs, there: &[Listed]) -> Result<Vec<String>, SweepError> {
    let mut known = References::collect(store, blobs)?.known;
    for listed in there {
        known.remove(&(listed.tenant, Named::of(&listed.kept)));
    }
    let mut missing: Vec<String> = known
        .into_iter()
        .map(|(tenant, named)| match named {
            Named::Blob(digest) => format!("blob {} of tenant {tenant}", Digest(digest)),
            Named::Pack(pack) => format!("pack {} of tenant {tenant}", PackId(pack)),
        })
        .collect();
    missing.sort();
    Ok(missing)
}

/// Everything that records name.
#[derive(Debug, Default)]
struct References {
    known: HashSet<(Tenant, Named)>,
}

/// A blob or a pack, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Named {
    Blob([u8; 32]),
    Pack([u8; 16]),
}

impl Named {
    const fn of(kept: &Kept) -> Self {
        match kept {
            Kept::Blob(digest) => Self::Blob(digest.0),
            Kept::Pack(pack) => Self::Pack(pack.0),
        }
    }
}

impl References {
    fn contains(&self, tenant: Tenant, kept: &Kept) -> bool {
        self.known.contains(&(tenant, Named::of(kept)))
    }

    fn collect(store: &dyn Store, blobs: &dyn Blobs) -> Result<Self, SweepError> {
        let mut found = Self::default();
        let mut after: Option<Key> = None;
        loop {
            let records = store.scan(&Prefix::everything(), after.as_ref(), MAX_SCAN)?;
            let full = records.len() == MAX_SCAN;
            for (key, payload) in &records {
                found.add_record(blobs, key, payload)?;
            }
            after = records.into_iter().next_back().map(|(key, _)| key);
            if !full {
                return Ok(found);
            }
        }
    }

    fn add_record(&mut self, blobs: &dyn Blobs, key: &Key, payload: &[u8]) -> Result<(), SweepError> {
        let tenant = key.tenant();
        match key.kind() {
            Some(Kind::Run) => {
                let run = record::RunRecord::decode(payload)?;
                run.page.map_or(Ok(()), |page| self.add_page(blobs, tenant, page))?;
                run.task.map_or(Ok(()), |task| self.add_task(blobs, tenant, &task))
            }
            Some(Kind::SpecPage) => self.add_page(blobs, tenant, record::SpecPage::decode(payload)?),
            Some(Kind::Task) => self.add_task(blobs, tenant, &record::TaskRecord::decode(payload)?),
            Some(
                Kind::Meta
                | Kind::Commit
                | Kind::Staged
                | Kind::Name
                | Kind::Agent
                | Kind::Worker
                | Kind::Request
                | Kind::Budget
                // An entry of the index says whose result it is; the bytes are kept by that task's record.
                | Kind::Cache
                | Kind::Counters
                | Kind::EventPage
                | Kind::Audit
                | Kind::Ledger,
            )
            | None => Ok(()),
        }
    }

    fn add_page(
        &mut self,
        blobs: &dyn Blobs,
        tenant: Tenant,
        page: record::SpecPage,
    ) -> Result<(), SweepError> {
        if let Some(packed) = &page.packed {
            self.add(tenant, packed)?;
        }
        for spec in open_page(blobs, tenant, page)?.specs {
            match &spec.runner {
                Some(Runner::Worker(task)) => {
                    task.definition.as_ref().map_or(Ok(()), |blob| self.add(tenant, blob))?;
                    self.add_text(tenant, task.prompt.as_ref())?;
                    self.add_text(tenant, task.output_schema.as_ref())?;
                    self.add_text(tenant, task.context_files.as_ref())?;
                }
                Some(Runner::PackedCommand(blob)) => self.add(tenant, blob)?,
                Some(Runner::Command(_) | Runner::Noop(_) | Runner::Publish(_)) | None => {}
            }
        }
        Ok(())
    }

    fn add_task(
        &mut self,
        blobs: &dyn Blobs,
        tenant: Tenant,
        task: &record::TaskRecord,
    ) -> Result<(), SweepError> {
        let Some(result) = &task.result else { return Ok(()) };
        self.add_text(tenant, result.answer.as_ref())?;
        self.add_text(tenant, result.structured.as_ref())?;
        self.add_text(tenant, result.feedback.as_ref())?;
        result.gates.as_ref().map_or(Ok(()), |blob| self.add(tenant, blob))?;
        let Some(blob) = result.artifacts.as_ref().and_then(|artifacts| artifacts.manifest.as_ref()) else {
            return Ok(());
        };
        self.add(tenant, blob)?;
        for artifact in manifest::open(blobs, tenant, blob)?.artifacts {
            artifact.blob.as_ref().map_or(Ok(()), |blob| self.add(tenant, blob))?;
        }
        Ok(())
    }

    fn add_text(&mut self, tenant: Tenant, text: Option<&v1::Text>) -> Result<(), SweepError> {
        match text.and_then(|text| text.body.as_ref()) {
            Some(v1::text::Body::Blob(blob)) => self.add(tenant, blob),
            Some(v1::text::Body::Inline(_)) | None => Ok(()),
        }
    }

    fn add(&mut self, tenant: Tenant, blob: &v1::BlobRef) -> Result<(), SweepError> {
        let location: BlobLocation = blob.location.parse().map_err(BulkError::from)?;
        let named = match location {
            BlobLocation::Blob(digest) => Named::Blob(digest.0),
            BlobLocation::Pack { pack, .. } => Named::Pack(pack.0),
        };
        self.known.insert((tenant, named));
        Ok(())
    }
}
