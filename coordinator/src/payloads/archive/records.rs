//! The records of a tenant, read on the caller's thread.
//! Knows keys and how the records of a run lie; refuses to know who asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_core::ids::{RunId, TenantId};
use orch_proto::store::v1 as record;
use orch_proto::v1;
use prost::Message as _;

use super::{ArchiveError, RunFilter, RunsPage};
use crate::blobs::Blobs;
use crate::payloads::bulk::{self, BulkError};
use crate::payloads::pages::{PageError, read_page};
use crate::persist::page::{PAGE_SPECS, pages_of, place_of};
use crate::persist::{StoredPage, show};
use crate::store::{Entity, Key, Kind, MAX_SCAN, Prefix, Store, Tenant};

/// Longest structured answer that is shown.
const MAX_STRUCTURED_BYTES: u64 = 1 << 20;

/// Longest log of gates that is shown: each gate has at most 4 KiB of what was seen.
const MAX_GATES_BYTES: u64 = 512 << 10;

/// Run ids looked at for one page of a list. Ids are dense, so this many are read at most, whatever the filter.
const MAX_RUNS_READ: u64 = 5_000;

/// Runs read at a time.
const WINDOW: u64 = MAX_SCAN as u64 / 4;

/// The records of a tenant.
pub(super) struct Records {
    pub(super) store: Arc<dyn Store>,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) tenant: TenantId,
}

impl Records {
    fn store_tenant(&self) -> Tenant {
        Tenant::new(self.tenant.0)
    }

    pub(super) fn run(&self, run: RunId) -> Result<Option<record::RunRecord>, ArchiveError> {
        let payload = self.store.get(&Key::run(self.store_tenant(), run.0))?;
        Ok(payload.map(|payload| record::RunRecord::decode(payload.as_slice())).transpose()?)
    }

    /// The record of a task, which may lie in that of its run.
    pub(super) fn task(
        &self,
        run: &record::RunRecord,
        id: RunId,
        index: u32,
    ) -> Result<Option<record::TaskRecord>, ArchiveError> {
        if let (Some(task), 0) = (&run.task, index) {
            return Ok(Some(task.clone()));
        }
        let payload = self.store.get(&Key::task(self.store_tenant(), id.0, index))?;
        Ok(payload.map(|payload| record::TaskRecord::decode(payload.as_slice())).transpose()?)
    }

    pub(super) fn runs_below(
        &self,
        below: RunId,
        limit: usize,
        filter: &RunFilter,
    ) -> Result<RunsPage, ArchiveError> {
        let mut page = RunsPage::default();
        let mut below = below.0;
        let floor = below.saturating_sub(MAX_RUNS_READ);
        while below > floor && page.runs.len() < limit {
            let window = (below - floor).min(WINDOW);
            let start = below - window;
            for (id, run) in self.runs_between(start, below)?.into_iter().rev() {
                if filter.takes(&run) {
                    let only = if run.task_count == 1 { self.task(&run, RunId(id), 0)? } else { None };
                    page.runs.push(show::run(id, &run, only.as_ref()));
                }
                if page.runs.len() == limit {
                    page.below = (id > 1).then_some(RunId(id));
                    return Ok(page);
                }
            }
            below = start;
        }
        page.below = (below > 1).then_some(RunId(below));
        Ok(page)
    }

    /// Runs with ids from `start` up to below `end`.
    fn runs_between(&self, start: u64, end: u64) -> Result<Vec<(u64, record::RunRecord)>, ArchiveError> {
        let tenant = self.store_tenant();
        let after = start.checked_sub(1).map(|before| Key::run(tenant, before));
        let limit = usize::try_from(end - start).unwrap_or(MAX_SCAN).min(MAX_SCAN);
        let found = self.store.scan(&Prefix::kind(tenant, Kind::Run), after.as_ref(), limit)?;
        let mut runs = Vec::with_capacity(found.len());
        for (key, payload) in found {
            if let Ok(Entity::Run { run, .. }) = key.entity()
                && run < end
            {
                runs.push((run, record::RunRecord::decode(payload.as_slice())?));
            }
        }
        Ok(runs)
    }

    pub(super) fn shown(
        &self,
        run: &record::RunRecord,
        specs: &mut Specs<'_>,
        index: u32,
        with_answers: bool,
    ) -> Result<Option<v1::Task>, ArchiveError> {
        if index >= run.task_count {
            return Ok(None);
        }
        let spec = specs.spec(index)?;
        let names = spec.dependencies.iter().map(|at| Ok(specs.spec(*at)?.task_id));
        let dependencies = names.collect::<Result<Vec<_>, ArchiveError>>()?;
        let stored = self.task(run, specs.run, index)?;
        let mut task = show::task(run, index, &spec, stored.as_ref(), dependencies);
        if show::belongs(&spec) {
            task.of = specs.spec(spec.of)?.task_id;
        }
        if let (Some(stored), true) = (&stored, with_answers) {
            self.add_bulk(&mut task, stored)?;
        } else {
            task.answer = None;
            task.structured.clear();
            task.attempts.clear();
            task.gates.clear();
        }
        Ok(Some(task))
    }

    /// Reads answers that rest in files.
    pub(super) fn add_bulk(
        &self,
        task: &mut v1::Task,
        stored: &record::TaskRecord,
    ) -> Result<(), ArchiveError> {
        let tenant = self.store_tenant();
        bulk::make_inline(&*self.blobs, tenant, &mut task.answer)?;
        let structured = stored.result.as_ref().and_then(|result| result.structured.as_ref());
        if let Some(log) = stored.result.as_ref().and_then(|result| result.gates.as_ref()) {
            let bytes = bulk::read(&*self.blobs, tenant, log, MAX_GATES_BYTES)?;
            task.gates = record::GateLog::decode(bytes.as_slice())?.gates;
        }
        if let Some(v1::Text { body: Some(v1::text::Body::Blob(blob)) }) = structured {
            let bytes = bulk::read(&*self.blobs, tenant, blob, MAX_STRUCTURED_BYTES)?;
            task.structured = String::from_utf8(bytes).map_err(|_| BulkError::NotText)?;
        }
        Ok(())
    }
}

/// The specs of a run, each page read once.
pub(super) struct Specs<'a> {
    records: &'a Records,
    run: RunId,
    pages: BTreeMap<u32, StoredPage>,
}

impl<'a> Specs<'a> {
    pub(super) const fn new(records: &'a Records, run: RunId) -> Self {
        Self { records, run, pages: BTreeMap::new() }
    }

    fn page(&mut self, number: u32) -> Result<&StoredPage, ArchiveError> {
        use std::collections::btree_map::Entry;
        match self.pages.entry(number) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => {
                let Records { store, blobs, tenant } = self.records;
                Ok(vacant.insert(read_page(&**store, &**blobs, *tenant, self.run, number)?))
            }
        }
    }

    pub(super) fn spec(&mut self, index: u32) -> Result<record::StoredSpec, ArchiveError> {
        let (number, place) = place_of(index);
        let run = self.run;
        let spec = self.page(number)?.specs.get(place).cloned();
        Ok(spec.ok_or(PageError::Missing { run, page: number })?)
    }

    pub(super) fn find(
        &mut self,
        run: &record::RunRecord,
        task_id: &str,
    ) -> Result<Option<u32>, ArchiveError> {
        for number in 0..pages_of(run.task_count) {
            let place = self.page(number)?.specs.iter().position(|spec| spec.task_id == task_id);
            if let Some(place) = place {
                return Ok(Some(number * PAGE_SPECS + u32::try_from(place).unwrap_or(0)));
            }
        }
        Ok(None)
    }
}
