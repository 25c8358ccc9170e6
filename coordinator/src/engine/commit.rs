//! The one writer of the store: a batch at a time, and nothing else in flight.
//! Knows how a batch is put together and handed over; refuses to know what it says.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc as thread_channel;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::persist::Draft;
use crate::persist::draft::DraftError;
use crate::store::{Batch, CommitError, CommitStats, Op, Store};

/// Name of the committer's thread.
const THREAD_NAME: &str = "orch-committer";

/// What is to become durable together.
#[derive(Debug, Default)]
pub struct CommitJob {
    pub(crate) epoch: u64,
    pub(crate) drafts: Vec<Draft>,
    /// Tick to make durable along with it.
    pub(crate) tick: Option<u64>,
    /// This is the last one: note that everything ended in order.
    pub(crate) last: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct CommitDone {
    pub(crate) result: Result<CommitStats, CommitFailure>,
    pub(crate) took: Duration,
}

/// Why a batch did not become durable, as far as is known. Fatal.
#[derive(Debug, thiserror::Error)]
pub enum CommitFailure {
    /// A record could not be put together.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] CommitError),
    /// The committer's thread ended without an answer.
    #[error("the committer's thread ended without an answer")]
    Lost,
}

/// Makes batches durable, one at a time. Whoever starts one waits for its end before the next.
pub trait Committer: fmt::Debug + Send {
    /// Starts a batch. Nothing else is in flight.
    fn start(&mut self, job: CommitJob);

    /// The end of the batch that is in flight; pending while there is none.
    fn poll_done(&mut self, context: &mut Context<'_>) -> Poll<CommitDone>;
}

/// Commits right away, on the caller's thread: for simulation, where nothing may depend on another thread.
#[derive(Debug)]
pub struct InlineCommitter {
    store: Arc<dyn Store>,
    done: Option<CommitDone>,
}

impl InlineCommitter {
    /// A committer of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, done: None }
    }
}

impl Committer for InlineCommitter {
    fn start(&mut self, job: CommitJob) {
        self.done = Some(commit(&*self.store, job));
    }

    fn poll_done(&mut self, _context: &mut Context<'_>) -> Poll<CommitDone> {
        self.done.take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Commits on a thread of its own: a flush blocks for milliseconds, and the engine applies the next batch meanwhile.
/// The thread ends when this is dropped and its last batch is done.
#[derive(Debug)]
pub struct ThreadCommitter {
    jobs: Option<thread_channel::SyncSender<CommitJob>>,
    done: mpsc::Receiver<CommitDone>,
}

/// Batches between engine and committer: one in flight, so neither channel ever holds more.
const IN_FLIGHT: usize = 1;

impl ThreadCommitter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn spawn(store: Arc<dyn Store>) -> std::io::Result<Self> {
        let (jobs, inbox) = thread_channel::sync_channel::<CommitJob>(IN_FLIGHT);
        let (outbox, done) = mpsc::channel(IN_FLIGHT);
        std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
            while let Ok(job) = inbox.recv() {
                let last = job.last;
                let done = commit(&*store, job);
                if outbox.blocking_send(done).is_err() || last {
                    break;
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), done })
    }
}

impl Committer for ThreadCommitter {
    fn start(&mut self, job: CommitJob) {
        // With one batch in flight there is always room; a thread that is gone shows as a closed answer channel.
        if self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_err()) {
            self.jobs = None;
        }
    }

    fn poll_done(&mut self, context: &mut Context<'_>) -> Poll<CommitDone> {
        let lost = CommitDone { result: Err(CommitFailure::Lost), took: Duration::ZERO };
        self.done.poll_recv(context).map(|done| done.unwrap_or(lost))
    }
}

fn commit(store: &dyn Store, job: CommitJob) -> CommitDone {
    let started = Instant::now();
    let result = try_commit(store, job);
    CommitDone { result, took: started.elapsed() }
}

fn try_commit(store: &dyn Store, job: CommitJob) -> Result<CommitStats, CommitFailure> {
    let CommitJob { epoch, drafts, tick, last } = job;
    let mut ops = Vec::with_capacity(drafts.len() + 1);
    for draft in drafts {
        draft.fill(store, &mut ops)?;
    }
    if !last {
        ops.extend(tick.map(Op::SetTick));
    }
    crate::failpoint::failpoint!("commit::before_write");
    let stats = store.commit(Batch { expect_epoch: epoch, ops })?;
    crate::failpoint::failpoint!("commit::after_sync");
    if last {
        crate::failpoint::failpoint!("store::before_mark_clean");
        store.mark_clean(epoch, tick.unwrap_or(0))?;
        crate::failpoint::failpoint!("store::after_mark_clean");
    }
    Ok(stats)
}
