//! The durable event log: what watchers see, numbered, in the order in which it became durable.
//!
//! The newest pages are in memory, all others in the store, and a reader passes from one to the other without noticing.
//! Readers are driven by the number of the newest durable event, never by being sent events: whoever is slow reads
//! later and misses nothing until retention has deleted it.
//!
//! Knows pages, sequences and where pages lie; refuses to know what the events mean.

mod activity;
pub mod page;
pub mod retention;
mod ring;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use orch_proto::v1;
use tokio::sync::watch;

pub use self::activity::{Activities, ActivityReader, TenantActivity};
pub use self::page::{MAX_PAGE_EVENTS, Page, PageError};
use self::retention::Trim;
use self::ring::Ring;
use crate::engine::pool::{BlockingPool, BrokenOff};
use crate::store::{Entity, Key, Kind, Prefix, ReadError, Store, Tenant};

/// Pages read from the store at a time.
const SCAN_PAGES: usize = 64;

/// What a start found of the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogExtent {
    /// Sequence of the oldest stored event; 0 when there is none.
    pub oldest: u64,
    /// Sequence of the newest durable event.
    pub newest: u64,
    /// Bytes of all stored pages.
    pub bytes: u64,
    /// Pages.
    pub pages: u64,
}

/// The log as readers see it.
#[derive(Debug)]
pub struct EventLog {
    store: Arc<dyn Store>,
    readers: BlockingPool,
    ring: Mutex<Ring>,
    newest: watch::Receiver<u64>,
    oldest: AtomicU64,
    bytes: AtomicU64,
    pages: AtomicU64,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Retention has deleted what was asked for.
    #[error("events before {oldest} are no longer kept")]
    Expired {
        /// Sequence of the oldest event that is.
        oldest: u64,
    },
    /// No event has that number yet: it was read from another coordinator, or from a state that is no more.
    #[error("the newest event is {newest}")]
    Ahead {
        /// Sequence of the newest event.
        newest: u64,
    },
    /// The coordinator stopped.
    #[error("the coordinator stopped")]
    Stopped,
    /// The store refused.
    #[error("cannot read the event log")]
    Read(#[from] ReadError),
    /// A read did not end in order.
    #[error("cannot read the event log")]
    Broken(#[from] BrokenOff),
    /// A page cannot be used.
    #[error("cannot read the event log")]
    Page(#[from] PageError),
}

/// The only writer of the log. Readers learn that the coordinator stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct EventWriter {
    log: Arc<EventLog>,
    newest: watch::Sender<u64>,
}

impl EventWriter {
    /// The log as a start found it.
    pub(crate) fn open(store: Arc<dyn Store>, readers: BlockingPool, extent: LogExtent) -> Self {
        let newest = watch::Sender::new(extent.newest);
        let log = EventLog {
            store,
            readers,
            ring: Mutex::default(),
            newest: newest.subscribe(),
            oldest: AtomicU64::new(extent.oldest),
            bytes: AtomicU64::new(extent.bytes),
            pages: AtomicU64::new(extent.pages),
        };
        Self { log: Arc::new(log), newest }
    }

    /// What is written to.
    pub(crate) fn log(&self) -> Arc<EventLog> {
        Arc::clone(&self.log)
    }

    /// Adds pages that have just become durable, and tells every reader.
    pub(crate) fn publish(&mut self, pages: Vec<Page>) {
        let (Some(oldest), Some(newest)) = (pages.first().map(Page::first), pages.last().map(Page::last))
        else {
            return;
        };
        let bytes = pages.iter().map(Page::bytes).sum::<usize>();
        let _ = self.log.oldest.compare_exchange(0, oldest, Ordering::AcqRel, Ordering::Relaxed);
        self.log.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.log.pages.fetch_add(pages.len() as u64, Ordering::Relaxed);
        let mut ring = self.log.ring();
        for page in pages {
            ring.push(Arc::new(page));
        }
        drop(ring);
        self.newest.send_replace(newest);
    }

    /// Notes that pages were durably deleted.
    pub(crate) fn forget(&mut self, trim: &Trim) {
        // This is the only writer, so nothing changes between a load and a store.
        let less = |counter: &AtomicU64, by: u64| {
            counter.store(counter.load(Ordering::Relaxed).saturating_sub(by), Ordering::Relaxed);
        };
        self.log.oldest.store(trim.oldest, Ordering::Release);
        less(&self.log.bytes, trim.bytes);
        less(&self.log.pages, trim.firsts.len() as u64);
    }
}

impl EventLog {
    /// What is stored now.
    #[must_use]
    pub fn extent(&self) -> LogExtent {
        LogExtent {
            oldest: self.oldest.load(Ordering::Acquire),
            newest: *self.newest.borrow(),
            bytes: self.bytes.load(Ordering::Relaxed),
            pages: self.pages.load(Ordering::Relaxed),
        }
    }

    /// The oldest stored pages, at most `limit`.
    pub(crate) async fn oldest_pages(&self, limit: usize) -> Result<Vec<Page>, WatchError> {
        self.scan(None, limit).await
    }

    /// The page that holds `seq`, or the first behind it, and possibly pages that follow. `seq` is not above the newest.
    async fn pages_from(&self, seq: u64) -> Result<VecDeque<Arc<Page>>, WatchError> {
        if let Some(page) = self.ring().find(seq) {
            return Ok(VecDeque::from([page]));
        }
        // A page that holds `seq` starts less than a page's length before it.
        let mut after = seq.checked_sub(MAX_PAGE_EVENTS as u64).map(Key::event_page);
        loop {
            let pages = self.scan(after, SCAN_PAGES).await?;
            let Some(last) = pages.last().map(Page::first) else {
                // What was not found in the ring a moment ago has been stored since before that; it can only have
                // been deleted meanwhile.
                return Err(WatchError::Expired { oldest: self.extent().oldest });
            };
            // A page may be in the store a moment before readers are told of it.
            let newest = *self.newest.borrow();
            let wanted = pages.into_iter().filter(|page| page.last() >= seq && page.last() <= newest);
            let wanted: VecDeque<_> = wanted.map(Arc::new).collect();
            if !wanted.is_empty() {
                return Ok(wanted);
            }
            after = Some(Key::event_page(last));
        }
    }

    async fn scan(&self, after: Option<Key>, limit: usize) -> Result<Vec<Page>, WatchError> {
        let store = Arc::clone(&self.store);
        self.readers
            .run(move || {
                let prefix = Prefix::kind(Tenant::CLUSTER, Kind::EventPage);
                let found = store.scan(&prefix, after.as_ref(), limit)?;
                found.iter().map(|(key, payload)| Ok(Page::decode(first_of(key), payload)?)).collect()
            })
            .await?
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sequence in the key of an event page; 0, which no event has, for any other key.
fn first_of(key: &Key) -> u64 {
    match key.entity() {
        Ok(Entity::EventPage { first }) => first,
        _ => 0,
    }
}

/// Where watches start. Clones are cheap.
#[derive(Debug, Clone)]
pub struct WatchSource {
    log: Arc<EventLog>,
    activities: Activities,
}

impl WatchSource {
    pub(crate) fn new(log: Arc<EventLog>, activities: Activities) -> Self {
        Self { log, activities }
    }

    /// Reads from sequence `from` on; 0 means what comes after the newest.
    ///
    /// # Errors
    /// [`WatchError::Expired`] and [`WatchError::Ahead`].
    pub fn subscribe(&self, from: u64) -> Result<Subscription, WatchError> {
        let newest = self.log.newest.clone();
        let extent = self.log.extent();
        let next = if from == 0 { extent.newest + 1 } else { from };
        if next > extent.newest + 1 {
            return Err(WatchError::Ahead { newest: extent.newest });
        }
        if next < extent.oldest {
            return Err(WatchError::Expired { oldest: extent.oldest });
        }
        Ok(Subscription { log: Arc::clone(&self.log), newest, next, ahead: VecDeque::new() })
    }

    /// Sequence of the newest durable event.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.log.newest.borrow()
    }

    /// What is stored.
    #[must_use]
    pub fn extent(&self) -> LogExtent {
        self.log.extent()
    }

    /// What running tasks are doing from now on.
    #[must_use]
    pub fn activities(&self) -> ActivityReader {
        self.activities.subscribe()
    }
}

/// A reader of the log.
#[derive(Debug)]
pub struct Subscription {
    log: Arc<EventLog>,
    newest: watch::Receiver<u64>,
    next: u64,
    /// Pages that were read together with the last one.
    ahead: VecDeque<Arc<Page>>,
}

/// Events that a reader has not seen yet: a page, or the rest of one.
#[derive(Debug, Clone)]
pub struct PageSlice {
    page: Arc<Page>,
    from: u64,
}

impl PageSlice {
    /// The events in order, each with the number of its tenant.
    pub fn events(&self) -> impl Iterator<Item = (&v1::WatchEvent, u32)> {
        self.page.events_from(self.from)
    }

    /// Those that are wanted, as a frame to watchers holds them: pieces of the encoding that all readers share.
    pub fn encoded(&self, wanted: impl FnMut(&v1::WatchEvent, u32) -> bool, pieces: &mut Vec<Bytes>) {
        self.page.encoded_from(self.from, wanted, pieces);
    }

    /// What to ask for to go on behind it.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.page.last() + 1
    }
}

impl Subscription {
    /// What to ask for to go on where this reader is.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next
    }

    /// The events that follow, as soon as there are any. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`WatchError`]; asking again after an error gives it again, or what could be read since.
    pub async fn next(&mut self) -> Result<PageSlice, WatchError> {
        let next = self.next;
        if self.ahead.is_empty() {
            self.newest.wait_for(|newest| *newest >= next).await.map_err(|_| WatchError::Stopped)?;
            let pages = self.log.pages_from(next).await;
            // Deleted while it was read: what came back may be a page behind the gap.
            let oldest = self.log.extent().oldest;
            if next < oldest {
                return Err(WatchError::Expired { oldest });
            }
            self.ahead = pages?;
        }
        let Some(page) = self.ahead.pop_front() else { return Err(WatchError::Stopped) };
        Ok(self.pass(page))
    }

    /// The events that follow, if they are durable already and in memory.
    pub fn more(&mut self) -> Option<PageSlice> {
        let page = match self.ahead.pop_front() {
            Some(page) => page,
            None if *self.newest.borrow() >= self.next => self.log.ring().find(self.next)?,
            None => return None,
        };
        Some(self.pass(page))
    }

    fn pass(&mut self, page: Arc<Page>) -> PageSlice {
        let from = std::mem::replace(&mut self.next, page.last() + 1);
        PageSlice { page, from }
    }
}

#[cfg(test)]
mod tests;
