//! The promise that nothing is deleted for a while: a copy that is being made must not lose what it has yet to read.
//! Knows how many ask for it; refuses to know what is deleted, and by whom.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts who asks that nothing be deleted.
#[derive(Debug, Default)]
pub struct Holds {
    count: Mutex<usize>,
}

/// As long as one of these lives, nothing is deleted.
#[derive(Debug)]
pub struct Hold {
    holds: Arc<Holds>,
}

impl Holds {
    /// From when this returns nothing is deleted until the hold is dropped.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Hold {
        *self.lock() += 1;
        Hold { holds: Arc::clone(self) }
    }

    /// Deletes one thing, unless that is not to be; `None` then. Whoever asks for a hold meanwhile waits for it.
    pub(crate) fn delete<T>(&self, delete: impl FnOnce() -> T) -> Option<T> {
        let count = self.lock();
        (*count == 0).then(delete)
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *self.holds.lock() -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_deleted_before_the_last_hold_is_dropped() {
        let holds = Arc::new(Holds::default());
        let (first, second) = (holds.hold(), holds.hold());
        drop(first);
        assert_eq!(holds.delete(|| 1), None);
        drop(second);
        assert_eq!(holds.delete(|| 1), Some(1));
    }
}
