//! Task specs for dispatch: out of memory when the run was submitted lately, else out of the store.
//! Knows the way to a spec; refuses to know what becomes of it.

use std::sync::Arc;

use orch_core::ids::{RunId, TaskKey, TenantId};
use orch_proto::store::v1::StoredSpec;

use super::pages::{PageError, read_page};
use super::spec::{for_dispatch, needs_reading};
use super::{CachedPage, SpecCache, bulk::BulkError};
use crate::blobs::Blobs;
use crate::engine::pool::{BlockingPool, BrokenOff};
use crate::persist::page::{pages_of, place_of};
use crate::store::{Store, Tenant};

/// Reads specs. Clones share cache and threads.
#[derive(Debug, Clone)]
pub struct SpecReader {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    cache: SpecCache,
    pool: BlockingPool,
}

/// Why a spec cannot be read: the store is damaged, or the process is ending.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Its page cannot be read.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The page has fewer specs.
    #[error("task {0} has no spec")]
    Missing(TaskKey),
    /// Its texts cannot be read.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// The read was broken off.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
}

impl SpecReader {
    /// Reads from `store` and `blobs` on threads of `pool`, past `cache`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, blobs: Arc<dyn Blobs>, cache: SpecCache, pool: BlockingPool) -> Self {
        Self { store, blobs, cache, pool }
    }

    /// The spec of a task as it is dispatched: never a packed command, and every text up to
    /// [`super::bulk::INLINE_MESSAGE_BYTES`] inside.
    ///
    /// # Errors
    /// [`SpecError`].
    pub async fn dispatch_spec(&self, tenant: TenantId, task: TaskKey) -> Result<Arc<StoredSpec>, SpecError> {
        let (page, place) = place_of(task.index.0);
        let cached = self.cache.get((task.run, page)).and_then(|page| page.spec(place));
        if let Some(spec) = cached.filter(|spec| !needs_reading(spec)) {
            return Ok(spec);
        }
        let this = self.clone();
        self.pool.run(move || this.read(tenant, task)).await?
    }

    /// A page for a look at some of its specs, which need not stay in memory. Blocks where it is not there already.
    pub(super) fn peek(
        &self,
        tenant: TenantId,
        run: RunId,
        number: u32,
    ) -> Result<Arc<CachedPage>, PageError> {
        match self.cache.get((run, number)) {
            Some(page) => Ok(page),
            None => {
                let page = read_page(&*self.store, &*self.blobs, tenant, run, number)?;
                Ok(Arc::new(CachedPage::new(&page.specs)))
            }
        }
    }

    /// All specs of a run of `count` tasks as they rest, texts in files by reference: for writing them again.
    ///
    /// # Errors
    /// [`SpecError`].
    pub async fn resting_specs(
        &self,
        tenant: TenantId,
        run: RunId,
        count: u32,
    ) -> Result<Vec<StoredSpec>, SpecError> {
        let this = self.clone();
        self.pool
            .run(move || {
                let mut specs = Vec::new();
                for number in 0..pages_of(count) {
                    specs.extend(read_page(&*this.store, &*this.blobs, tenant, run, number)?.specs);
                }
                Ok(specs)
            })
            .await?
    }

    fn read(&self, tenant: TenantId, task: TaskKey) -> Result<Arc<StoredSpec>, SpecError> {
        let (number, place) = place_of(task.index.0);
        let key = (task.run, number);
        let page = match self.cache.get(key) {
            Some(page) => page,
            None => {
                let replaced = self.cache.replaced();
                let page = read_page(&*self.store, &*self.blobs, tenant, task.run, number)?;
                let page = Arc::new(CachedPage::new(&page.specs));
                self.cache.insert_read(key, Arc::clone(&page), replaced);
                page
            }
        };
        let spec = page.spec(place).ok_or(SpecError::Missing(task))?;
        if !needs_reading(&spec) {
            return Ok(spec);
        }
        let spec = Arc::unwrap_or_clone(spec);
        Ok(Arc::new(for_dispatch(&*self.blobs, Tenant::new(tenant.0), spec)?))
    }
}
