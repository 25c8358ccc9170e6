//! The newest pages, in memory.
//! Knows its bounds in pages and bytes; refuses to know the store, which has the older ones.

use std::collections::VecDeque;
use std::sync::Arc;

use super::page::Page;

/// Most pages kept. Small pages cost their own overhead, so bytes alone would not bound the memory.
const MAX_PAGES: usize = 4_096;

/// Most encoded bytes kept; decoded they take some four times as much.
const MAX_BYTES: usize = 4 << 20;

/// Pages in order of sequence, the oldest dropped first.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pages: VecDeque<Arc<Page>>,
    bytes: usize,
}

impl Ring {
    /// Adds a page behind all others.
    pub(super) fn push(&mut self, page: Arc<Page>) {
        self.bytes += page.bytes();
        self.pages.push_back(page);
        while self.pages.len() > MAX_PAGES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.pages.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    /// The page that holds `seq`, or the first behind it; `None` when that one may have been dropped already.
    pub(super) fn find(&self, seq: u64) -> Option<Arc<Page>> {
        if self.pages.front()?.first() > seq {
            return None;
        }
        let at = self.pages.partition_point(|page| page.last() < seq);
        self.pages.get(at).cloned()
    }
}
