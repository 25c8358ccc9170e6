//! What tests of results share: a store with runs in it, without an engine.

use std::sync::Arc;

use orch_core::ids::{AttemptKey, RunId, TaskIndex, TaskKey, TenantId};
use orch_proto::store::v1 as record;
use orch_proto::store::v1::stored_spec::Runner;
use orch_proto::v1;
use prost::Message as _;

use super::{Dispatch, ResultReader};
use crate::blobs::{Blobs as _, FileBlobs};
use crate::engine::pool::BlockingPool;
use crate::payloads::{SpecCache, SpecReader, bulk};
use crate::persist::StoredPage;
use crate::persist::page::PAGE_SPECS;
use crate::store::{Batch, Key, MemoryStore, Op, Store as _, Tenant};

pub(crate) const TENANT: TenantId = TenantId(1);
const T: Tenant = Tenant::DEFAULT;

pub(crate) struct ResultBench {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) blobs: Arc<FileBlobs>,
    pub(crate) reader: ResultReader,
    _dir: tempfile::TempDir,
}

pub(crate) fn key(run: u64, index: u32) -> TaskKey {
    TaskKey { run: RunId(run), index: TaskIndex(index) }
}

/// A worker's task.
pub(crate) fn spec(task_id: &str, dependencies: &[u32]) -> record::StoredSpec {
    let worker = record::StoredWorkerTask { worker: "marie".into(), ..Default::default() };
    record::StoredSpec {
        task_id: task_id.into(),
        dependencies: dependencies.to_vec(),
        role: v1::TaskRole::Work.into(),
        runner: Some(Runner::Worker(worker)),
        ..Default::default()
    }
}

/// The record of a task that succeeded at its first attempt.
pub(crate) fn succeeded(result: record::ResultRecord) -> record::TaskRecord {
    let attempt = record::AttemptRecord { number: 1, outcome: v1::Outcome::Ok.into(), ..Default::default() };
    record::TaskRecord {
        state: v1::TaskState::Succeeded.into(),
        outcome: v1::Outcome::Ok.into(),
        attempt: 1,
        attempts: vec![attempt],
        result: Some(result),
        ..Default::default()
    }
}

impl ResultBench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(FileBlobs::open(dir.path()).unwrap());
        let store = Arc::new(MemoryStore::new());
        let pool = BlockingPool::default();
        let specs = SpecReader::new(store.clone(), blobs.clone(), SpecCache::default(), pool.clone());
        let reader = ResultReader::new(store.clone(), blobs.clone(), specs, pool);
        Self { store, blobs, reader, _dir: dir }
    }

    pub(crate) fn put(&self, key: Key, value: Vec<u8>) {
        self.store.commit(Batch { expect_epoch: 0, ops: vec![Op::Put { key, value }] }).unwrap();
    }

    /// A run `adhoc/RUN` with these tasks.
    pub(crate) fn run(&self, run: u64, specs: Vec<record::StoredSpec>) {
        let task_count = u32::try_from(specs.len()).unwrap();
        let stored =
            record::RunRecord { name: "adhoc".into(), number: run, task_count, ..Default::default() };
        self.put(Key::run(T, run), stored.encode_to_vec());
        for (number, specs) in (0_u32..).zip(specs.chunks(PAGE_SPECS as usize)) {
            let page = StoredPage { specs: specs.to_vec() }.into_record().encode_to_vec();
            let packed = |page: Vec<u8>| record::SpecPage {
                packed: Some(bulk::reference(&self.blobs.put(T, &page).unwrap())),
                ..Default::default()
            };
            let value = if page.len() > 4_096 { packed(page).encode_to_vec() } else { page };
            self.put(Key::spec_page(T, run, number), value);
        }
    }

    pub(crate) fn task(&self, task: TaskKey, stored: &record::TaskRecord) {
        self.put(Key::task(T, task.run.0, task.index.0), stored.encode_to_vec());
    }

    /// A long text, as it rests.
    pub(crate) fn long(&self, text: &str) -> Option<v1::Text> {
        bulk::by_reference(bulk::reference(&self.blobs.put(T, text.as_bytes()).unwrap()))
    }

    /// Files as a task hands them over.
    pub(crate) fn files(&self, files: &[(&str, &str)]) -> v1::Artifacts {
        let artifacts = files.iter().map(|(path, text)| v1::Artifact {
            path: (*path).to_owned(),
            blob: Some(bulk::reference(&self.blobs.put(T, text.as_bytes()).unwrap())),
            executable: false,
        });
        let manifest = v1::Manifest { artifacts: artifacts.collect() }.encode_to_vec();
        v1::Artifacts {
            manifest: Some(bulk::reference(&self.blobs.put(T, &manifest).unwrap())),
            count: u32::try_from(files.len()).unwrap(),
            bytes: files.iter().map(|(_, text)| text.len() as u64).sum(),
        }
    }

    pub(crate) async fn dispatch(&self, task: TaskKey, attempt: u32, sent_back: bool) -> Dispatch {
        let run_ref = Arc::from(format!("adhoc/{}", task.run.0));
        self.reader.dispatch(TENANT, AttemptKey::new(task, attempt), run_ref, sent_back).await.unwrap()
    }

    /// The inputs of a task, wherever they travel.
    pub(crate) async fn inputs(&self, task: TaskKey) -> Vec<v1::Input> {
        match self.dispatch(task, 1, false).await.inputs {
            super::Inputs::Inline(inputs) => inputs,
            super::Inputs::Blob(blob) => {
                let bytes = bulk::read(&*self.blobs, T, &blob, 64 << 20).unwrap();
                v1::InputSet::decode(bytes.as_slice()).unwrap().inputs
            }
        }
    }
}
