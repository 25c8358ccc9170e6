//! Pages of task specs: how they rest, and the same specs whole again.
//! Knows the table of workers that a page keeps once; refuses to know where bulk lies.

use orch_proto::store::v1::{SpecPage, StoredSpec, StoredWorker, stored_spec};

/// Specs of a page. Fixed, so that the page of a task follows from its index.
pub const PAGE_SPECS: u32 = 30;

/// The specs of a page, whole: every worker task names its worker and definition itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoredPage {
    /// In order of index.
    pub specs: Vec<StoredSpec>,
}

/// A worker task of a page points to a row that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task of the page names worker {row} of {rows}")]
pub struct PageRowError {
    row: u32,
    rows: usize,
}

/// The page and the place in it of task `index`.
#[must_use]
pub const fn place_of(index: u32) -> (u32, usize) {
    (index / PAGE_SPECS, (index % PAGE_SPECS) as usize)
}

/// Number of pages of a run.
#[must_use]
pub const fn pages_of(task_count: u32) -> u32 {
    task_count.div_ceil(PAGE_SPECS)
}

impl StoredPage {
    /// The page as it rests: each worker once.
    #[must_use]
    pub fn into_record(self) -> SpecPage {
        let Self { mut specs } = self;
        let mut workers: Vec<StoredWorker> = Vec::new();
        for spec in &mut specs {
            if let Some(stored_spec::Runner::Worker(task)) = &mut spec.runner {
                let worker = StoredWorker {
                    name: std::mem::take(&mut task.worker),
                    definition: task.definition.take(),
                    context_files: task.context_files.take(),
                };
                let at = workers.iter().position(|known| *known == worker).unwrap_or_else(|| {
                    workers.push(worker);
                    workers.len() - 1
                });
                task.row = u32::try_from(at + 1).unwrap_or(u32::MAX);
            }
        }
        SpecPage { specs, workers, packed: None }
    }

    /// The specs of a page that rests.
    ///
    /// # Errors
    /// [`PageRowError`] when the page is damaged.
    pub fn from_record(page: SpecPage) -> Result<Self, PageRowError> {
        let SpecPage { mut specs, workers, packed: _ } = page;
        for spec in &mut specs {
            if let Some(stored_spec::Runner::Worker(task)) = &mut spec.runner {
                let at = usize::try_from(task.row).unwrap_or(usize::MAX).checked_sub(1);
                let error = PageRowError { row: task.row, rows: workers.len() };
                let worker = at.and_then(|at| workers.get(at)).ok_or(error)?;
                task.worker.clone_from(&worker.name);
                task.definition.clone_from(&worker.definition);
                task.context_files.clone_from(&worker.context_files);
                task.row = 0;
            }
        }
        Ok(Self { specs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_proto::store::v1::StoredWorkerTask;
    use orch_proto::v1;

    fn worker(name: &str) -> StoredSpec {
        let definition = Some(v1::BlobRef { digest: vec![7; 32], size: 9, location: name.to_owned() });
        let task = StoredWorkerTask { worker: name.into(), definition, ..Default::default() };
        StoredSpec { runner: Some(stored_spec::Runner::Worker(task)), ..Default::default() }
    }

    #[test]
    fn a_page_names_each_worker_once_and_comes_back_whole() {
        let noop =
            StoredSpec { runner: Some(stored_spec::Runner::Noop(v1::NoopTask {})), ..Default::default() };
        let page = StoredPage { specs: vec![worker("anga"), noop, worker("marie"), worker("anga")] };
        let record = page.clone().into_record();
        assert_eq!(record.workers.len(), 2);
        assert_eq!(StoredPage::from_record(record), Ok(page));
    }

    #[test]
    fn a_row_that_is_not_there_is_refused() {
        let mut record = StoredPage { specs: vec![worker("anga")] }.into_record();
        record.workers.clear();
        assert_eq!(StoredPage::from_record(record), Err(PageRowError { row: 1, rows: 0 }));
    }

    #[test]
    fn indexes_map_to_pages() {
        assert_eq!([place_of(0), place_of(29), place_of(30)], [(0, 0), (0, 29), (1, 0)]);
        assert_eq!([pages_of(1), pages_of(30), pages_of(31)], [1, 1, 2]);
    }
}
