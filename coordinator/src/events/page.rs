//! Pages of events: what one key of the event log holds.
//! Knows how many events fit a page and how a page is written; refuses to know who reads it.

use std::ops::{Range, RangeInclusive};
use std::sync::OnceLock;

use bytes::Bytes;
use orch_core::effect::Notice;
use orch_core::time::Tick;
use orch_proto::store::v1 as record;
use orch_proto::v1;
use prost::Message as _;

use crate::persist::{Draft, fit};
use crate::rpc::convert;
use crate::store::{Key, MAX_VALUE_BYTES};

/// Most events of one page. A page that holds sequence `n` therefore starts above `n` minus this, which is how the page
/// of any sequence is found by key without an index.
pub const MAX_PAGE_EVENTS: usize = 64;

/// Number of `WatchRunsResponse.events`.
const EVENTS: u32 = 1;

/// Longest detail of an event; the task itself keeps no more either.
const MAX_DETAIL_BYTES: usize = 400;

/// What an event costs in a page beside its own bytes: tag and length, and its tenant.
const EVENT_OVERHEAD_BYTES: usize = 1 + 3 + 5;

/// What a page costs beside its events: the tick, and the tag and length of the tenants.
const PAGE_OVERHEAD_BYTES: usize = 11 + 1 + 3;

/// Some events that follow each other, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    record: record::EventPage,
    /// Sequence numbers of the first and the last event.
    range: (u64, u64),
    bytes: usize,
    wire: Wire,
}

/// The events as a frame to watchers holds them, made when the first one asks.
#[derive(Debug, Clone, Default)]
struct Wire(OnceLock<Encoded>);

/// It says nothing that the events do not.
impl PartialEq for Wire {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[derive(Debug, Clone)]
struct Encoded {
    bytes: Bytes,
    /// Where each event ends.
    ends: Vec<usize>,
}

impl Encoded {
    fn of(events: &[v1::WatchEvent]) -> Self {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(events.len());
        for event in events {
            prost::encoding::message::encode(EVENTS, event, &mut bytes);
            ends.push(bytes.len());
        }
        Self { bytes: bytes.into(), ends }
    }
}

/// Why a stored page cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Not a page.
    #[error("event page {first} is malformed")]
    Malformed {
        /// Sequence in its key.
        first: u64,
    },
}

impl Page {
    /// Reads the page stored under sequence `first`.
    ///
    /// # Errors
    /// [`PageError::Malformed`].
    pub fn decode(first: u64, payload: &[u8]) -> Result<Self, PageError> {
        let malformed = || PageError::Malformed { first };
        let record = record::EventPage::decode(payload).map_err(|_| malformed())?;
        Self::of(record, payload.len()).filter(|page| page.first() == first).ok_or_else(malformed)
    }

    fn of(record: record::EventPage, bytes: usize) -> Option<Self> {
        let range = (record.events.first()?.seq, record.events.last()?.seq);
        let rising =
            record.events.windows(2).all(|pair| matches!(pair, [left, right] if left.seq < right.seq));
        (rising && record.events.len() == record.tenants.len()).then(|| Self {
            record,
            range,
            bytes,
            wire: Wire::default(),
        })
    }

    /// The record to be stored.
    pub(crate) fn to_draft(&self) -> Draft {
        Draft::Whole { key: Key::event_page(self.first()), value: self.record.encode_to_vec() }
    }

    /// Sequence of the first event.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.range.0
    }

    /// Sequence of the last event.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.range.1
    }

    /// Sequences it covers.
    #[must_use]
    pub const fn range(&self) -> RangeInclusive<u64> {
        self.range.0..=self.range.1
    }

    /// When it was written.
    #[must_use]
    pub const fn tick(&self) -> Tick {
        Tick(self.record.tick)
    }

    /// Length of the stored payload.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its events from sequence `from` on, each with the number of its tenant.
    pub fn events_from(&self, from: u64) -> impl Iterator<Item = (&v1::WatchEvent, u32)> {
        let events = self.record.events.iter().zip(self.record.tenants.iter().copied());
        events.skip_while(move |(event, _)| event.seq < from)
    }

    /// The same for those that are `wanted`, as a frame to watchers holds them; what follows each other is in one piece.
    pub(super) fn encoded_from(
        &self,
        from: u64,
        mut wanted: impl FnMut(&v1::WatchEvent, u32) -> bool,
        pieces: &mut Vec<Bytes>,
    ) {
        let Encoded { bytes, ends } = self.wire.0.get_or_init(|| Encoded::of(&self.record.events));
        let mut open: Option<Range<usize>> = None;
        let mut begin = 0;
        for ((event, tenant), end) in self.record.events.iter().zip(&self.record.tenants).zip(ends) {
            if event.seq >= from && wanted(event, *tenant) {
                open = Some(open.map_or(begin, |open| open.start)..*end);
            } else {
                pieces.extend(open.take().map(|open| bytes.slice(open)));
            }
            begin = *end;
        }
        pieces.extend(open.map(|open| bytes.slice(open)));
    }
}

/// Packs notices into as few pages as they fit, in order.
#[must_use]
pub fn pack(notices: &[Notice], tick: Tick) -> Vec<Page> {
    let mut pages = Vec::new();
    let mut open = record::EventPage { tick: tick.0, ..record::EventPage::default() };
    let mut bytes = PAGE_OVERHEAD_BYTES;
    for notice in notices {
        let event = event(notice);
        let more = event.encoded_len() + EVENT_OVERHEAD_BYTES;
        let full = open.events.len() == MAX_PAGE_EVENTS || bytes + more > MAX_VALUE_BYTES;
        if full && !open.events.is_empty() {
            close(&mut open, &mut pages);
            bytes = PAGE_OVERHEAD_BYTES;
        }
        bytes += more;
        open.events.push(event);
        open.tenants.push(notice.tenant.0);
    }
    close(&mut open, &mut pages);
    pages
}

fn close(open: &mut record::EventPage, pages: &mut Vec<Page>) {
    let next = record::EventPage { tick: open.tick, ..record::EventPage::default() };
    let record = std::mem::replace(open, next);
    let bytes = record.encoded_len();
    pages.extend(Page::of(record, bytes));
}

fn event(notice: &Notice) -> v1::WatchEvent {
    let mut event = convert::watch_event(notice);
    if let Some(v1::watch_event::Change::Task(task)) = &mut event.change {
        fit::cut_text(&mut task.detail, MAX_DETAIL_BYTES);
    }
    event
}
