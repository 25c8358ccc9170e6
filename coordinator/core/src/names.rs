//! Words that come again and again (workers, run names, submitters), kept once.
//! Never forgets: every run name is remembered for its numbering anyway.

use std::collections::BTreeMap;
use std::sync::Arc;

/// An interned word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NameId(u32);

/// All interned words.
#[derive(Debug, Default, Hash)]
pub(crate) struct Names {
    ids: BTreeMap<Arc<str>, NameId>,
    words: Vec<Arc<str>>,
}

impl Names {
    pub(crate) fn intern(&mut self, word: &Arc<str>) -> NameId {
        if let Some(id) = self.ids.get(word) {
            return *id;
        }
        let id = NameId(u32::try_from(self.words.len()).unwrap_or(u32::MAX));
        self.words.push(Arc::clone(word));
        self.ids.insert(Arc::clone(word), id);
        id
    }

    pub(crate) fn find(&self, word: &str) -> Option<NameId> {
        self.ids.get(word).copied()
    }

    pub(crate) fn word(&self, id: NameId) -> &Arc<str> {
        &self.words[id.0 as usize]
    }
}
