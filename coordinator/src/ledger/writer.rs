//! Bills on their way to the store and, once they are durable, into the book.
//! Knows what waits for which batch; refuses to know what a bill says.

use orch_core::budgets::Bill;
use orch_core::time::{Tick, Wall};
use orch_proto::store::v1::LedgerEntry;
use std::sync::Arc;

use super::{Book, page};
use crate::persist::Draft;

/// The only writer of the ledger.
#[derive(Debug)]
pub(crate) struct LedgerWriter {
    book: Arc<Book>,
    /// Number of the next page.
    next: u64,
    /// Of the open batch.
    open: Vec<LedgerEntry>,
    /// Of the batch that is in flight.
    in_flight: Vec<LedgerEntry>,
}

impl LedgerWriter {
    /// Writes from page `next` on, and tells `book`.
    pub(crate) const fn new(book: Arc<Book>, next: u64) -> Self {
        Self { book, next, open: Vec::new(), in_flight: Vec::new() }
    }

    /// Takes note of bills of the open batch.
    pub(crate) fn note(&mut self, bills: &[Bill], at: Wall) {
        self.open.extend(bills.iter().filter_map(|bill| page::entry(bill, at)));
    }

    /// Whether the open batch has no bill.
    pub(crate) const fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The open batch is closed: its pages.
    pub(crate) fn close(&mut self, tick: Tick) -> Vec<Draft> {
        self.in_flight = std::mem::take(&mut self.open);
        page::pack(&self.in_flight, tick, &mut self.next)
    }

    /// The batch in flight is durable.
    pub(crate) fn durable(&mut self) {
        if !self.in_flight.is_empty() {
            self.book.record(&std::mem::take(&mut self.in_flight));
        }
    }
}
