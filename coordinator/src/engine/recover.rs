//! From the store to a running state: everything is read and checked once, then a new epoch begins.
//! Knows how records belong together; refuses records that contradict each other, and says which.

mod loader;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use orch_core::config::Config;
use orch_core::event::Event;
use orch_core::ids::Epoch;
use orch_core::state::RestoreError;
use orch_core::time::{Tick, Wall};
use tokio::sync::mpsc;

pub use self::loader::LoadedCounts;
use self::loader::Loader;
use super::Engine;
use super::batcher::Batcher;
use super::commit::Committer;
use super::handle::{Handle, INBOX, Shared};
use super::heard::Notes;
use super::pool::BlockingPool;
use super::pulse::Pulse;
use super::release::Desk;
use super::rounds::Rounds;
use crate::blobs::Blobs;
use crate::clock::{Clock, Ticker};
use crate::events::{Activities, EventWriter, PageError as EventPageError};
use crate::ledger::{Book, Ledger, LedgerWriter, PageError as LedgerPageError};
use crate::metrics::Metrics;
use crate::payloads::{Archive, PageError, Preparer, SpecCache, SpecReader};
use crate::persist::decode::FieldError;
use crate::store::{CommitError, EpochStep, KeyError, LoadError, LoadReport, Store};

/// What an engine is built from.
#[derive(Debug)]
pub struct Parts {
    /// The durable record.
    pub store: Arc<dyn Store>,
    /// Bulk bytes.
    pub blobs: Arc<dyn Blobs>,
    /// Makes batches of `store` durable.
    pub committer: Box<dyn Committer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Intervals and limits of the core.
    pub config: Config,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// Why the new epoch begins.
    pub step: EpochStep,
}

/// An engine that is ready to run, the way to it, and what was found.
#[derive(Debug)]
pub struct Recovered {
    /// To be run.
    pub engine: Engine,
    /// The way to it.
    pub handle: Handle,
    /// What the store found.
    pub report: LoadReport,
    /// What the records were.
    pub counts: LoadedCounts,
}

/// Why a coordinator cannot start on what is in its store.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The store cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A record cannot be decoded.
    #[error("the {what} of run {run} cannot be decoded")]
    Malformed {
        /// Which kind.
        what: &'static str,
        /// Of which run; 0 for what belongs to none.
        run: u64,
        /// What the decoder says.
        #[source]
        source: prost::DecodeError,
    },
    /// A record holds what this version does not know.
    #[error("run {run} cannot be restored")]
    Field {
        /// The run.
        run: u64,
        /// What and why.
        #[source]
        source: FieldError,
    },
    /// The specs of a run cannot be read.
    #[error("the specs of run {run} cannot be restored")]
    Specs {
        /// The run.
        run: u64,
        /// Why.
        #[source]
        source: PageError,
    },
    /// Records that belong to nothing.
    #[error(
        "a {what} of run {run} is stored, but not the run: the store is damaged, restore the last export"
    )]
    Orphan {
        /// Which kind.
        what: &'static str,
        /// The run that is missing.
        run: u64,
    },
    /// A run has records that contradict its own.
    #[error(
        "run {run} has {found} {what}, its record says {expected}: the store is damaged, restore the last export"
    )]
    Count {
        /// The run.
        run: u64,
        /// Of what.
        what: &'static str,
        /// Records.
        found: usize,
        /// By its record.
        expected: u32,
    },
    /// A key says nothing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A page of the event log cannot be read.
    #[error(transparent)]
    Events(#[from] EventPageError),
    /// A page of the ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerPageError),
    /// The records are whole, but contradict each other.
    #[error("the records contradict each other: the store is damaged, restore the last export")]
    State(#[from] RestoreError),
    /// The new epoch could not be made durable.
    #[error("cannot begin a new epoch")]
    Epoch(#[from] CommitError),
}

impl Engine {
    /// Reads everything, begins a new epoch durably and builds the engine; it does nothing before [`Engine::run`].
    /// Blocks for as long as the store is read.
    ///
    /// # Errors
    /// [`RecoverError`]; nothing was changed but, at most, the epoch.
    pub fn open(parts: Parts) -> Result<Recovered, RecoverError> {
        let Parts { store, blobs, committer, clock, config, metrics, step } = parts;
        let mut loader = Loader::new(config, Arc::clone(&blobs), clock.wall());
        let report = store.load_with(&mut |key, payload| loader.visit(&key, payload))?;
        let loaded = loader.finish()?;
        let tick = loaded.tick.max(Tick(report.meta.tick));
        let meta = store.begin_epoch(step, tick.0)?;
        let ticker = Ticker::continue_from(tick, Arc::clone(&clock));
        metrics.spent_today(loaded.spent_today, clock.wall());
        metrics.set_events_seq(loaded.extent.newest);

        let (readers, writers) = (BlockingPool::default(), BlockingPool::default());
        let cache = SpecCache::default();
        let events = EventWriter::open(Arc::clone(&store), readers.clone(), loaded.extent);
        let epoch = Epoch(meta.epoch);
        let next_page = loaded.ledger.next();
        let book = Arc::new(Book::new(loaded.ledger, Arc::clone(&metrics)));
        let newest_run = Arc::new(AtomicU64::new(loaded.state.last_run().0));
        let shared = Arc::new(Shared {
            epoch,
            cluster: meta.cluster,
            specs: SpecReader::new(Arc::clone(&store), Arc::clone(&blobs), cache.clone(), readers.clone()),
            archive: Archive::new(
                Arc::clone(&store),
                Arc::clone(&blobs),
                readers.clone(),
                Arc::clone(&newest_run),
            ),
            ledger: Ledger::new(Arc::clone(&store), readers.clone(), Arc::clone(&book)),
            preparer: Preparer::new(Arc::clone(&blobs), Arc::clone(&clock), writers.clone()),
            store,
            blobs,
            readers,
            writers,
            log: events.log(),
            activities: Activities::default(),
            pulse: Pulse::new(clock),
            round: Rounds::at_most(loaded.state.config().heartbeat),
            heard: Notes::default(),
            ticker: ticker.clone(),
            metrics: Arc::clone(&metrics),
            draining: AtomicBool::new(false),
            disk_low: AtomicBool::new(false),
            newest_run,
            consult: Arc::default(),
        });
        let (commands, inbox) = mpsc::channel(INBOX);
        let ledger = LedgerWriter::new(book, next_page);
        let mut batcher = Batcher::new(loaded.state, epoch, tick, cache, ledger, Arc::clone(&metrics));
        batcher.apply(ticker.now(), Event::Started { epoch });
        let handle = Handle::new(commands, Arc::clone(&shared));
        let rounds = Rounds::begin(tick, batcher.state().config().heartbeat);
        let desk = Desk::new(metrics, Arc::clone(&shared.consult));
        let engine = Self { batcher, desk, inbox, committer, ticker, events, shared, rounds };
        Ok(Recovered { engine, handle, report, counts: loaded.counts })
    }
}

/// Whether an engine would open on this: everything is read and checked as a start does it, and nothing is changed.
///
/// # Errors
/// [`RecoverError`], as the start would.
pub fn rehearse(
    store: &dyn Store,
    blobs: Arc<dyn Blobs>,
    config: Config,
    now: Wall,
) -> Result<LoadReport, RecoverError> {
    let mut loader = Loader::new(config, blobs, now);
    let report = store.load_with(&mut |key, payload| loader.visit(&key, payload))?;
    loader.finish().map(|_| report)
}

#[cfg(test)]
mod tests;
