//! The ledger: what every attempt has cost, written once, in the batch that ended the attempt, and found again.
//!
//! ```text
//! core: Bill ──▶ writer ──▶ pages, in the same commit as the task's record
//!                  │ durable
//!                  ▼
//!                book (in memory, bounded): history for estimates, hit rates, price checks, spending by the hour
//! store: pages ──▶ split (a reader thread) ──▶ rows by worker, model, day …
//! ```
//!
//! An entry is never changed. What turns out to be wrong, which only an estimate can, is put right by a later entry that
//! takes it back. So sums over the ledger are sums over the records of tasks, whatever crashed in between.
//!
//! Knows money and tokens; refuses to decide anything by them: budgets are the core's.

pub mod book;
mod drift;
mod history;
mod hits;
pub mod pace;
pub mod page;
pub mod question;
pub mod retention;
pub mod seed;
pub mod split;
mod writer;

pub use self::book::{Book, EstimateTask};
pub use self::page::{Money, PageError, money_of};
pub use self::question::{Dimension, Question};
pub use self::split::{Answer, MAX_ROWS, QueryError, Row, Sums};
pub(crate) use self::writer::LedgerWriter;

use crate::engine::pool::BlockingPool;
use crate::store::Store;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Questions that are answered at a time: each reads as much as it likes, and the committer needs the disk too.
const QUESTIONS: usize = 1;

/// Reads the ledger. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Arc<dyn Store>,
    readers: BlockingPool,
    book: Arc<Book>,
    turn: Arc<Semaphore>,
}

impl Ledger {
    /// A reader of what is in `store`, on the threads of `readers`.
    pub(crate) fn new(store: Arc<dyn Store>, readers: BlockingPool, book: Arc<Book>) -> Self {
        Self { store, readers, book, turn: Arc::new(Semaphore::new(QUESTIONS)) }
    }

    /// What is known without reading.
    #[must_use]
    pub fn book(&self) -> &Arc<Book> {
        &self.book
    }

    /// Splits what was spent as `question` wants it.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn split(&self, question: Question) -> Result<Answer, QueryError> {
        let _turn = self.turn.acquire().await.map_err(|_| QueryError::BrokenOff)?;
        let store = Arc::clone(&self.store);
        let answered = self.readers.run(move || split::split(&*store, &question)).await;
        answered.map_err(|_| QueryError::BrokenOff)?
    }
}

#[cfg(test)]
mod tests;
