//! The files that the tasks of a run handed over, by task, with where they were published.
//! Knows how much fits an answer; refuses to know who asks. A live run is listed as far as it is recorded.

use std::collections::BTreeMap;

use orch_core::ids::{RunId, TaskKey, TenantId};
use orch_proto::store::v1::stored_spec::Runner;
use orch_proto::v1;
use prost::Message as _;

use super::records::{Records, Specs};
use super::{DispatchError, ResultReader, index};
use crate::persist::page::PAGE_SPECS;
use crate::submission::publish::final_path;

/// Files of one page together: half of the message limit.
const MAX_PAGE_BYTES: usize = 512 << 10;
/// Tasks looked at for one page of a list.
const MAX_TASKS_READ: u32 = 200 * PAGE_SPECS;

/// Where a list goes on: a task, and the first of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Index of the task.
    pub task: u32,
    /// Number of files of it that were listed before.
    pub file: u32,
}

/// A page of files, by task and then in the order of its manifest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ArtifactsPage {
    /// The files.
    pub artifacts: Vec<v1::TaskArtifact>,
    /// Where to go on; `None` at the end.
    pub next: Option<Place>,
}

/// Where files of a task were published, by their paths beneath `out/`.
type Published = BTreeMap<u32, Vec<(String, String)>>;

impl ResultReader {
    /// Files of at most `limit` tasks of a run from `from` on; of one task where `task_id` names it. A page may be short, or
    /// empty, before the end; `None` when there is no such run or task.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn artifacts(
        &self,
        tenant: TenantId,
        run: RunId,
        task_id: Option<String>,
        from: Place,
        limit: usize,
    ) -> Result<Option<ArtifactsPage>, DispatchError> {
        let this = self.clone();
        self.pool
            .run(move || {
                let records = this.records(tenant);
                let Some(stored) = records.run(run)? else { return Ok(None) };
                let specs = Specs::new(&records, run);
                let listing = Listing {
                    records: &records,
                    specs: &specs,
                    run,
                    number: stored.number,
                    task_count: stored.task_count,
                };
                match task_id {
                    None => listing.page(from, stored.task_count, limit).map(Some),
                    Some(name) => {
                        let Some(only) = listing.find(&name)? else { return Ok(None) };
                        let from = if from.task == only { from } else { Place { task: only, file: 0 } };
                        listing.page(from, only + 1, 1).map(Some)
                    }
                }
            })
            .await?
    }
}

struct Listing<'a> {
    records: &'a Records<'a>,
    specs: &'a Specs<'a>,
    run: RunId,
    /// The number in the ref of the run.
    number: u64,
    task_count: u32,
}

impl Listing<'_> {
    fn find(&self, task_id: &str) -> Result<Option<u32>, DispatchError> {
        for at in 0..self.task_count {
            if self.specs.get(at)?.task_id == task_id {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Files of tasks from `from` up to below `end`.
    fn page(&self, from: Place, end: u32, limit: usize) -> Result<ArtifactsPage, DispatchError> {
        let mut page = ArtifactsPage::default();
        let (mut bytes, mut tasks, mut published) = (0, 0, None);
        let until = end.min(from.task.saturating_add(MAX_TASKS_READ));
        for at in from.task..until {
            let files = self.files(at)?;
            if files.is_empty() {
                continue;
            }
            if tasks == limit {
                page.next = Some(Place { task: at, file: 0 });
                return Ok(page);
            }
            tasks += 1;
            let spec = self.specs.get(at)?;
            let places = match (&mut published, spec.workspace.is_empty()) {
                (_, true) => None,
                (Some(known), false) => Some(known),
                (none, false) => Some(none.insert(self.published()?)),
            };
            let skipped = if at == from.task { from.file } else { 0 };
            for (number, artifact) in (0_u32..).zip(files).skip(skipped as usize) {
                let places = places.as_ref().and_then(|known| known.get(&at));
                let to = places.and_then(|to| to.iter().find(|(path, _)| *path == artifact.path));
                let row = v1::TaskArtifact {
                    task_id: spec.task_id.clone(),
                    published: to.map(|(_, to)| to.clone()).unwrap_or_default(),
                    artifact: Some(artifact),
                };
                bytes += row.encoded_len() + 8;
                if bytes > MAX_PAGE_BYTES && !page.artifacts.is_empty() {
                    page.next = Some(Place { task: at, file: number });
                    return Ok(page);
                }
                page.artifacts.push(row);
            }
        }
        page.next = (until < end).then_some(Place { task: until, file: 0 });
        Ok(page)
    }

    fn files(&self, at: u32) -> Result<Vec<v1::Artifact>, DispatchError> {
        let stored = self.records.task(TaskKey { run: self.run, index: index(at) })?;
        stored
            .and_then(|stored| stored.result)
            .map_or(Ok(Vec::new()), |result| self.records.manifest(&result))
    }

    /// What the publications of the run have published.
    fn published(&self) -> Result<Published, DispatchError> {
        let mut published = Published::new();
        for at in 0..self.task_count {
            let spec = self.specs.get(at)?;
            let Some(Runner::Publish(publish)) = &spec.runner else { continue };
            let stored = self.records.task(TaskKey { run: self.run, index: index(at) })?;
            if stored.is_some_and(|stored| stored.state() == v1::TaskState::Succeeded) {
                let files = publish
                    .files
                    .iter()
                    .map(|file| (file.artifact.clone(), final_path(&file.to, self.number)));
                published.entry(spec.of).or_default().extend(files);
            }
        }
        Ok(published)
    }
}
