//! Spec pages that were read or submitted lately, encoded: a spec in memory takes many times its bytes, and each is looked
//! at once or twice.
//! Knows bytes and which page was used last; refuses to know where pages come from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use orch_core::ids::RunId;
use orch_proto::store::v1 as record;
use prost::Message as _;

/// Bytes of all pages in the cache: enough for the tasks that a fleet of a thousand slots runs next.
const MAX_BYTES: usize = 8 << 20;

/// What a page takes beside its specs: itself, its allocations, its entries in the cache.
const PAGE_BYTES: usize = 384;

/// What stands for a page: its run and its number.
pub(super) type PageKey = (RunId, u32);

/// A page in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedPage {
    /// The specs, one after the other.
    bytes: Box<[u8]>,
    /// Where each of them ends.
    ends: Box<[usize]>,
}

impl CachedPage {
    /// A page of these specs.
    #[must_use]
    pub fn new<'a>(specs: impl IntoIterator<Item = &'a record::StoredSpec>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for spec in specs {
            // A vector has room for everything.
            let _ = spec.encode(&mut bytes);
            ends.push(bytes.len());
        }
        Self { bytes: bytes.into(), ends: ends.into() }
    }

    /// The spec in this place of the page.
    #[must_use]
    pub fn spec(&self, place: usize) -> Option<Arc<record::StoredSpec>> {
        let end = *self.ends.get(place)?;
        let start = place.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        // What was encoded above can be decoded.
        record::StoredSpec::decode(self.bytes.get(start..end)?).ok().map(Arc::new)
    }

    /// What it takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ends) + PAGE_BYTES
    }
}

/// The cache. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SpecCache {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    pages: BTreeMap<PageKey, (u64, Arc<CachedPage>)>,
    /// When each page was used last; the numbers only rise.
    uses: BTreeMap<u64, PageKey>,
    clock: u64,
    bytes: usize,
    /// How often pages of a run were replaced. What was read before the last time may be old.
    replaced: u64,
}

impl SpecCache {
    /// The page, if it is here.
    #[must_use]
    pub fn get(&self, key: PageKey) -> Option<Arc<CachedPage>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let page = inner.remove(key)?;
        inner.add(key, Arc::clone(&page));
        Some(page)
    }

    /// What a reader asks for before it reads the store, for [`SpecCache::insert_read`].
    #[must_use]
    pub(super) fn replaced(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).replaced
    }

    /// Adds a page that was read from the store, unless pages were replaced since `replaced` was asked for.
    pub(super) fn insert_read(&self, key: PageKey, page: Arc<CachedPage>, replaced: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.replaced == replaced {
            inner.insert(key, page);
        }
    }

    /// Drops the pages of a run: others take their place in the store. Called when the new ones are made, so that whoever is
    /// reading does not put the old ones back, and again when they are durable: until then the store holds the old ones.
    pub fn forget(&self, run: RunId) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.replaced += 1;
        let pages: Vec<PageKey> =
            inner.pages.range((run, 0)..=(run, u32::MAX)).map(|(key, _)| *key).collect();
        for page in pages {
            inner.remove(page);
        }
    }

    /// Adds a page and drops those that were not used for the longest time.
    pub fn insert(&self, key: PageKey, page: Arc<CachedPage>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).insert(key, page);
    }
}

impl Inner {
    fn insert(&mut self, key: PageKey, page: Arc<CachedPage>) {
        self.remove(key);
        self.add(key, page);
        while self.bytes > MAX_BYTES {
            let Some((_, oldest)) = self.uses.first_key_value() else { break };
            let oldest = *oldest;
            self.remove(oldest);
        }
    }

    fn add(&mut self, key: PageKey, page: Arc<CachedPage>) {
        self.clock += 1;
        self.bytes += page.bytes();
        self.uses.insert(self.clock, key);
        self.pages.insert(key, (self.clock, page));
    }

    fn remove(&mut self, key: PageKey) -> Option<Arc<CachedPage>> {
        let (used, page) = self.pages.remove(&key)?;
        self.uses.remove(&used);
        self.bytes -= page.bytes();
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(bytes: usize) -> Arc<CachedPage> {
        let spec = record::StoredSpec { task_id: "x".repeat(bytes), ..Default::default() };
        Arc::new(CachedPage::new(&[spec]))
    }

    #[test]
    fn the_specs_of_a_page_come_back_each_in_its_place() {
        let spec = |task_id: &str| record::StoredSpec { task_id: task_id.into(), ..Default::default() };
        let specs = [spec("first"), spec(""), spec("third")];
        let page = CachedPage::new(&specs);
        for (place, spec) in specs.iter().enumerate() {
            assert_eq!(page.spec(place).as_deref(), Some(spec));
        }
        assert_eq!(page.spec(3), None);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let cache = SpecCache::default();
        let key = |run| (RunId(run), 0);
        for run in 0..4 {
            cache.insert(key(run), page(MAX_BYTES / 5));
        }
        assert!(cache.get(key(0)).is_some());
        cache.insert(key(4), page(MAX_BYTES / 5));
        assert!(cache.get(key(1)).is_none(), "the least recently used");
        assert!(cache.get(key(0)).is_some() && cache.get(key(4)).is_some());
    }

    #[test]
    fn what_was_read_before_a_run_grew_is_not_put_back() {
        let (cache, key, other) = (SpecCache::default(), (RunId(1), 0), (RunId(2), 0));
        cache.insert(other, page(1));
        let before = cache.replaced();
        cache.forget(RunId(1));
        cache.insert(key, page(2));
        cache.insert_read(key, page(1), before);
        assert_eq!(cache.get(key), Some(page(2)), "the old page comes too late");
        // The new one went for others before it was durable, and the store was read meanwhile.
        cache.insert_read(key, page(1), cache.replaced());
        cache.forget(RunId(1));
        assert_eq!((cache.get(key), cache.get(other)), (None, Some(page(1))));
        cache.insert_read(key, page(2), cache.replaced());
        assert_eq!(cache.get(key), Some(page(2)));
    }

    #[test]
    fn replacing_a_page_does_not_count_it_twice() {
        let cache = SpecCache::default();
        for _ in 0..10 {
            cache.insert((RunId(1), 0), page(MAX_BYTES / 2));
        }
        cache.insert((RunId(2), 0), page(MAX_BYTES / 3));
        assert!(cache.get((RunId(1), 0)).is_some() && cache.get((RunId(2), 0)).is_some());
    }
}
