//! Knows the life of one request that the API has taken: what it has been billed so far, and, however it ends, that it is
//! written down. Refuses to know what is answered.

use std::sync::Arc;

use super::Shared;
use super::book::Ending;
use super::cache::{Owner, Split};
use super::setup::{CacheRules, Limit};
use crate::models::Usage;

/// A request that is being answered. Dropped before its end, its client has hung up.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    /// Its number in the book.
    pub(super) number: u64,
    /// Whose buckets it takes from, if a limit holds for it.
    pub(super) limit: Option<(Limit, (u64, &'static str))>,
    /// What it writes to the cache.
    pub(super) writes: Option<(Owner, Split, CacheRules)>,
    /// What it is billed in the end.
    pub(super) usage: Usage,
    /// Output so far.
    pub(super) output: u64,
    pub(super) ending: Ending,
}

impl Call {
    /// Its answer begins: the input is billed, and what it writes to the cache can be read.
    pub(super) fn begin(&mut self) {
        let now = self.shared.now();
        let mut state = self.shared.state();
        if let Some((owner, split, rules)) = self.writes.take() {
            state.cache.begun(&owner, &split, rules, now);
        }
        self.output = self.usage.output.min(1);
        let usage = Usage { output: self.output, ..self.usage };
        state.book.change(self.number, |entry| {
            (entry.begun, entry.status, entry.usage) = (Some(now), 200, usage);
        });
    }

    /// So many of its pieces were taken.
    pub(super) fn sent(&mut self, pieces: usize, of: usize) {
        let part = self.usage.output * pieces as u64 / of.max(1) as u64;
        self.output = self.output.max(part);
        if pieces == of {
            self.complete();
        }
    }

    /// It was answered to the end.
    pub(super) fn complete(&mut self) {
        self.output = self.usage.output;
        self.ending = Ending::Completed;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = self.shared.now();
        let ending = if self.ending == Ending::Open { Ending::HungUp } else { self.ending };
        let (output, usage) = (self.output, self.usage);
        let mut state = self.shared.state();
        if let Some((limit, owner)) = &self.limit {
            state.buckets.gave(limit, *owner, output, now);
        }
        state.book.change(self.number, |entry| {
            entry.ended = Some(now);
            entry.ending = ending;
            // A client that hangs up before the answer has begun pays for what it asked.
            entry.usage = Usage { output, ..usage };
        });
    }
}
