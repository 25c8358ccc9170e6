//! Records of tasks and their specs, read on the caller's thread.
//! Knows keys and pages; refuses to know who asks.

use std::cell::RefCell;
use std::sync::Arc;

use orch_core::ids::{RunId, TaskKey, TenantId};
use orch_proto::store::v1::{RunRecord, StoredSpec, TaskRecord};
use prost::Message as _;

use super::DispatchError;
use crate::blobs::Blobs;
use crate::payloads::{CachedPage, SpecError, SpecReader};
use crate::persist::page::place_of;
use crate::store::{Key, Store, Tenant};

/// The records of a tenant.
pub(super) struct Records<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) blobs: &'a dyn Blobs,
    pub(super) specs: &'a SpecReader,
    pub(super) tenant: TenantId,
}

impl Records<'_> {
    pub(super) fn store_tenant(&self) -> Tenant {
        Tenant::new(self.tenant.0)
    }

    pub(super) fn run(&self, run: RunId) -> Result<Option<RunRecord>, DispatchError> {
        let payload = self.store.get(&Key::run(self.store_tenant(), run.0))?;
        Ok(payload.map(|payload| RunRecord::decode(payload.as_slice())).transpose()?)
    }

    /// The record of a task, which lies in that of its run where that has only one.
    pub(super) fn task(&self, task: TaskKey) -> Result<Option<TaskRecord>, DispatchError> {
        let payload = self.store.get(&Key::task(self.store_tenant(), task.run.0, task.index.0))?;
        match payload {
            Some(payload) => Ok(Some(TaskRecord::decode(payload.as_slice())?)),
            None if task.index.0 == 0 => Ok(self.run(task.run)?.and_then(|run| run.task)),
            None => Ok(None),
        }
    }
}

/// The specs of a run, the page of the last one at hand: they are asked for in order.
pub(super) struct Specs<'a> {
    records: &'a Records<'a>,
    run: RunId,
    last: RefCell<Option<(u32, Arc<CachedPage>)>>,
}

impl<'a> Specs<'a> {
    pub(super) const fn new(records: &'a Records<'a>, run: RunId) -> Self {
        Self { records, run, last: RefCell::new(None) }
    }

    pub(super) fn get(&self, index: u32) -> Result<Arc<StoredSpec>, DispatchError> {
        let (number, place) = place_of(index);
        let known =
            self.last.borrow().as_ref().filter(|(at, _)| *at == number).map(|(_, page)| Arc::clone(page));
        let page = match known {
            Some(page) => page,
            None => self.records.specs.peek(self.records.tenant, self.run, number)?,
        };
        let spec = page.spec(place);
        *self.last.borrow_mut() = Some((number, page));
        let missing = TaskKey { run: self.run, index: super::index(index) };
        spec.ok_or_else(|| SpecError::Missing(missing).into())
    }
}
