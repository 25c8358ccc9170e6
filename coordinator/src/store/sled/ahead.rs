//! What the journal has and sled has not: the newest values, in memory, until sled has them durably.
//!
//! There are two rounds at most. The fresh one grows with every commit; the one that leaves is being brought to sled and
//! does not change. Reading asks the fresh one, the leaving one, then sled.
//!
//! Knows keys and framed values; refuses to know files, threads and sled.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::store::Record;
use crate::store::changes::Change;
use crate::store::key::Key;
use crate::store::read::RawRange;

/// The last value of every key that a round changed; `None` where it was removed.
pub(super) type Round = BTreeMap<Key, Option<Vec<u8>>>;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    fresh: Round,
    leaving: Option<Arc<Round>>,
    /// Rounds that have left.
    left: u64,
}

impl Ahead {
    /// Adds a commit.
    pub(super) fn note(&mut self, changes: Vec<Change>) {
        self.fresh.extend(changes);
    }

    /// What is known of a key: its framed value, or that it was removed. `None` if sled is to be asked.
    pub(super) fn get(&self, key: &Key) -> Option<Option<&[u8]>> {
        let leaving = || self.leaving.as_ref().and_then(|round| round.get(key));
        self.fresh.get(key).or_else(leaving).map(Option::as_deref)
    }

    /// What sled has of a range, brought up to date.
    pub(super) fn over(&self, page: Vec<Record>, range: &RawRange) -> Vec<Record> {
        let mut changes: BTreeMap<&Key, Option<&[u8]>> = BTreeMap::new();
        let rounds = self.leaving.as_deref().into_iter().chain([&self.fresh]);
        for round in rounds {
            let within = round
                .range::<[u8], _>((range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice)));
            changes.extend(within.map(|(key, value)| (key, value.as_deref())));
        }
        if changes.is_empty() {
            return page;
        }
        let mut records: BTreeMap<Key, Vec<u8>> = page.into_iter().collect();
        for (key, value) in changes {
            match (value, records.entry(key.clone())) {
                (Some(value), entry) => drop(entry.insert_entry(value.to_vec())),
                (None, Entry::Occupied(entry)) => drop(entry.remove()),
                (None, Entry::Vacant(_)) => {}
            }
        }
        records.into_iter().collect()
    }

    /// Lets the fresh round leave, unless one is leaving already or there is nothing to leave.
    pub(super) fn leave(&mut self) -> bool {
        if self.leaving.is_some() || self.fresh.is_empty() {
            return false;
        }
        self.leaving = Some(Arc::new(std::mem::take(&mut self.fresh)));
        true
    }

    /// The round that is to be brought to sled.
    pub(super) fn leaving(&self) -> Option<&Arc<Round>> {
        self.leaving.as_ref()
    }

    /// Sled has the round that was leaving.
    pub(super) fn has_left(&mut self) {
        self.leaving = None;
        self.left += 1;
    }

    /// How many rounds have left. Who read sled and then this must look again if it rose between.
    pub(super) fn left(&self) -> u64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tenant;
    use std::ops::Bound;

    fn key(run: u64) -> Key {
        Key::run(Tenant::DEFAULT, run)
    }

    fn put(run: u64, value: &str) -> Change {
        (key(run), Some(value.into()))
    }

    fn record(run: u64, value: &str) -> Record {
        (key(run), value.into())
    }

    #[test]
    fn the_newest_value_counts_wherever_it_is() {
        let mut ahead = Ahead::default();
        assert!(!ahead.leave(), "there is nothing");
        ahead.note(vec![put(1, "a"), put(2, "b"), (key(3), None)]);
        assert!(ahead.leave() && !ahead.leave(), "one at a time");
        ahead.note(vec![put(2, "c"), put(3, "d"), (key(1), None), put(9, "beyond")]);
        assert_eq!(ahead.get(&key(1)), Some(None));
        assert_eq!(ahead.get(&key(2)), Some(Some(&b"c"[..])));
        assert_eq!(ahead.get(&key(4)), None);
        let range = (Bound::Unbounded, Bound::Excluded(key(9).as_bytes().to_vec()));
        let page = vec![record(1, "old"), record(2, "old"), record(4, "sled's")];
        assert_eq!(ahead.over(page.clone(), &range), [record(2, "c"), record(3, "d"), record(4, "sled's")]);
        ahead.has_left();
        assert_eq!((ahead.left(), ahead.get(&key(2))), (1, Some(Some(&b"c"[..]))));
        assert!(ahead.leave());
        ahead.has_left();
        assert_eq!((ahead.get(&key(2)), ahead.over(page.clone(), &range)), (None, page));
    }
}
