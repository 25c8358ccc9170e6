//! The coordinator's disk: a store in memory behind a committer that takes simulated time, so that a kill meets batches
//! that are not durable, and a look at every record at the moment it becomes durable.

use crate::trace::{Event, Past, Seen, Trace};
use crate::world::Draw;
use orch_coordinator::engine::commit::{CommitDone, CommitJob, Committer, InlineCommitter};
use orch_coordinator::store::memory::FailAt;
use orch_coordinator::store::{
    Batch, CommitError, CommitStats, Entity, EpochStep, ExportError, Health, ImportError, Key, LoadError,
    LoadReport, MemoryStore, Meta, Op, Prefix, ReadError, Record, Store, TransferReport,
};
use orch_proto::store::v1 as record;
use orch_proto::v1;
use prost::Message as _;
use std::io::{BufRead, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// Longest wait for the disk.
const SLOWEST: Duration = Duration::from_millis(120);

/// The disk. It outlives coordinators; clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    store: Arc<Mutex<Arc<Watched>>>,
    draw: Draw,
    trace: Trace,
    /// A batch is under way.
    busy: Arc<AtomicBool>,
    /// What became of the batch that was under way at each kill: lost, kept.
    pub(crate) torn: Arc<Mutex<(u32, u32)>>,
}

impl Disk {
    pub(crate) fn new(draw: Draw, trace: Trace) -> Self {
        let store = Watched { inner: MemoryStore::new(), trace: trace.clone(), open: Mutex::default() };
        let store = Arc::new(Mutex::new(Arc::new(store)));
        Self { store, draw, trace, busy: Arc::default(), torn: Arc::default() }
    }

    /// The store that the running coordinator uses.
    pub(crate) fn store(&self) -> Arc<Watched> {
        Arc::clone(&self.store.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a coordinator finds that starts now. The one before can write nothing more.
    pub(crate) fn reopen(&self) -> Arc<Watched> {
        let before = self.store();
        let inner = before.inner.crash(self.draw.next());
        let open = std::mem::take(&mut *before.open.lock().unwrap_or_else(PoisonError::into_inner));
        let next = Arc::new(Watched { inner, trace: self.trace.clone(), open: Mutex::default() });
        // A commit whose outcome was open: what of it is there is durable.
        for op in open {
            if let Op::Put { key, value } = &op
                && next.inner.get(key).is_ok_and(|found| found.as_ref() == Some(value))
            {
                next.see(key, value);
            }
        }
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        next
    }

    /// Whether a batch is under way, which a kill now would meet.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Makes the next commit fail.
    pub(crate) fn fail_next(&self, at: FailAt) {
        self.store().inner.fail_nth(1, at);
    }

    pub(crate) fn committer(&self, store: Arc<Watched>) -> SlowCommitter {
        SlowCommitter { inner: InlineCommitter::new(store), waiting: None, disk: self.clone() }
    }
}

/// A store whose records are seen when they become durable.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: MemoryStore,
    trace: Trace,
    open: Mutex<Vec<Op>>,
}

impl Watched {
    fn see(&self, key: &Key, value: &[u8]) {
        match key.entity() {
            Ok(Entity::Run { run, .. }) => {
                let Ok(found) = record::RunRecord::decode(value) else { return };
                self.trace.note(Event::Run {
                    number: run,
                    named: format!("{}/{}", found.name, found.number),
                    request: found.request_id.clone(),
                    state: found.state(),
                });
                if let Some(task) = &found.task {
                    self.see_task((run, 0), task);
                }
            }
            Ok(Entity::Task { run, task, .. }) => {
                if let Ok(found) = record::TaskRecord::decode(value) {
                    self.see_task((run, task), &found);
                }
            }
            _ => {}
        }
    }

    fn see_task(&self, task: (u64, u32), found: &record::TaskRecord) {
        let past = |past: &record::AttemptRecord| Past {
            number: past.number,
            agent: past.agent.clone(),
            outcome: past.outcome(),
            digest: past.digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect(),
            awaits_bill: past.awaits_bill,
        };
        let answer = found.result.as_ref().and_then(|result| result.answer.as_ref());
        let answer = match answer.and_then(|answer| answer.body.as_ref()) {
            Some(v1::text::Body::Inline(text)) => text.clone(),
            Some(v1::text::Body::Blob(blob)) => {
                blob.digest.iter().map(|byte| format!("{byte:02x}")).collect()
            }
            None => String::new(),
        };
        let seen = Seen {
            state: found.state(),
            attempt: found.attempt,
            agent: found.agent.clone(),
            outcome: found.outcome(),
            attempts: found.attempts.iter().map(past).collect(),
            answer,
        };
        self.trace.note(Event::Task { task, seen });
    }
}

impl Store for Watched {
    fn meta(&self) -> Meta {
        self.inner.meta()
    }

    fn load_with(&self, visit: &mut dyn FnMut(Key, &[u8])) -> Result<LoadReport, LoadError> {
        self.inner.load_with(visit)
    }

    fn begin_epoch(&self, step: EpochStep, tick: u64) -> Result<Meta, CommitError> {
        self.inner.begin_epoch(step, tick)
    }

    fn commit(&self, batch: Batch) -> Result<CommitStats, CommitError> {
        let ops = batch.ops.clone();
        let done = self.inner.commit(batch);
        match &done {
            Ok(_) => {
                for op in &ops {
                    if let Op::Put { key, value } = op {
                        self.see(key, value);
                    }
                }
            }
            Err(_) => *self.open.lock().unwrap_or_else(PoisonError::into_inner) = ops,
        }
        done
    }

    fn mark_clean(&self, expect_epoch: u64, tick: u64) -> Result<(), CommitError> {
        self.inner.mark_clean(expect_epoch, tick)
    }

    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, ReadError> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<Record>, ReadError> {
        self.inner.scan(prefix, after, limit)
    }

    fn export(&self, to: &mut dyn Write) -> Result<TransferReport, ExportError> {
        self.inner.export(to)
    }

    fn import(&self, from: &mut dyn BufRead) -> Result<TransferReport, ImportError> {
        self.inner.import(from)
    }

    fn health(&self) -> Result<Health, ReadError> {
        self.inner.health()
    }
}

/// Commits after a simulated wait. A coordinator that dies before has lost the batch, or the disk had it already.
#[derive(Debug)]
pub(crate) struct SlowCommitter {
    inner: InlineCommitter,
    waiting: Option<(CommitJob, Pin<Box<Sleep>>)>,
    disk: Disk,
}

impl Committer for SlowCommitter {
    fn start(&mut self, job: CommitJob) {
        let wait = SLOWEST.mul_f64(self.disk.draw.unit().powi(3));
        self.waiting = Some((job, Box::pin(tokio::time::sleep(wait))));
        self.disk.busy.store(true, Ordering::Relaxed);
    }

    fn poll_done(&mut self, context: &mut Context<'_>) -> Poll<CommitDone> {
        if let Some((job, sleep)) = &mut self.waiting {
            ready!(sleep.as_mut().poll(context));
            let job = std::mem::take(job);
            self.waiting = None;
            self.disk.busy.store(false, Ordering::Relaxed);
            self.inner.start(job);
        }
        self.inner.poll_done(context)
    }
}

impl Drop for SlowCommitter {
    fn drop(&mut self) {
        self.disk.busy.store(false, Ordering::Relaxed);
        let Some((job, _)) = self.waiting.take() else { return };
        let kept = self.disk.draw.chance(0.5);
        let mut torn = self.disk.torn.lock().unwrap_or_else(PoisonError::into_inner);
        if kept {
            torn.1 += 1;
            self.inner.start(job);
        } else {
            torn.0 += 1;
        }
        self.disk.trace.fault(format!("the batch under way is {}", if kept { "kept" } else { "lost" }));
    }
}
