//! The transcripts that are open for writing, at most so many.
//!
//! A transcript that is in use is never closed, because a second opening of the same file would not know what the
//! first one writes. So while more threads write than there is room, there are more open files than the bound says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{OpenTranscript, TranscriptError, TranscriptId};

#[derive(Debug)]
pub(super) struct Cache {
    max_open: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    open: BTreeMap<TranscriptId, Entry>,
    /// Counts uses; a larger number is a later one.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    transcript: Arc<OpenTranscript>,
    last_use: u64,
}

impl Cache {
    pub(super) fn new(max_open: usize) -> Self {
        Self { max_open: max_open.max(1), inner: Mutex::default() }
    }

    pub(super) fn get(&self, id: &TranscriptId) -> Option<Arc<OpenTranscript>> {
        self.lock().touch(id)
    }

    /// Opens under the lock, so that no file is opened twice.
    pub(super) fn get_or_open(
        &self,
        id: &TranscriptId,
        open: impl FnOnce() -> Result<OpenTranscript, TranscriptError>,
    ) -> Result<Arc<OpenTranscript>, TranscriptError> {
        let mut inner = self.lock();
        if let Some(transcript) = inner.touch(id) {
            return Ok(transcript);
        }
        while inner.open.len() >= self.max_open && inner.close_oldest()? {}
        let transcript = Arc::new(open()?);
        inner.uses += 1;
        let entry = Entry { transcript: transcript.clone(), last_use: inner.uses };
        inner.open.insert(*id, entry);
        Ok(transcript)
    }

    pub(super) fn all(&self) -> Vec<(TranscriptId, Arc<OpenTranscript>)> {
        self.lock().open.iter().map(|(id, entry)| (*id, entry.transcript.clone())).collect()
    }

    pub(super) fn remove(&self, unwanted: impl Fn(&TranscriptId) -> bool) {
        self.lock().open.retain(|id, _| !unwanted(id));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().open.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn touch(&mut self, id: &TranscriptId) -> Option<Arc<OpenTranscript>> {
        let entry = self.open.get_mut(id)?;
        self.uses += 1;
        entry.last_use = self.uses;
        Some(entry.transcript.clone())
    }

    /// Closes the transcript that was not used for longest, one that needs no sync if there is any; `false` when all
    /// are in use.
    fn close_oldest(&mut self) -> Result<bool, TranscriptError> {
        // Nobody can take another reference meanwhile: that needs the lock.
        let idle = self.open.iter().filter(|(_, entry)| Arc::strong_count(&entry.transcript) == 1);
        let oldest =
            idle.min_by_key(|(_, entry)| (entry.transcript.is_dirty(), entry.last_use)).map(|(id, _)| *id);
        let Some(entry) = oldest.and_then(|id| self.open.remove(&id)) else { return Ok(false) };
        entry.transcript.sync()?;
        Ok(true)
    }
}
